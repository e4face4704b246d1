"""The words of Segment's API and of S3, and the answers that say nothing about what was asked."""

from datetime import UTC, datetime
from email.utils import format_datetime

from faillog_otel.clock import SECOND_NS
from faillog_otel.segment.simulator.config import Refusal
from faillog_otel.segment.simulator.quota import Standing
from faillog_otel.segment.simulator.web import Answer, json_answer

_KINDS = {400: "bad-request", 401: "unauthorized", 403: "forbidden", 404: "not-found", 405: "not-allowed"}
_CONSUMED = 121
_MS_BEFORE_NEXT, _ABSURD_MS = 57_647, 10**16


def segment_error(status: int, message: str, field: str | None = None) -> Answer:
    """Segment's shape of errors. [sdk: spec 1]"""
    kind = _KINDS.get(status, "unprocessable" if status < 500 else "internal")
    error = {"type": kind, "message": message, "field": field, "data": None, "status": status}
    return json_answer(status, {"errors": [error]})


def too_many(milliseconds: int, consumed: int = _CONSUMED, **headers: str) -> Answer:
    """Segment's 429. [limits: spec 1]"""
    data = {"remainingPoints": 0, "msBeforeNext": milliseconds, "consumedPoints": consumed}
    error = {"type": "RequestError", "message": "Too many requests", "data": data}
    return json_answer(429, {"errors": [error]}, **headers)


def refusal(shape: Refusal, standing: Standing, now_ns: int) -> Answer:
    """A 429 in one of its shapes."""
    milliseconds = max(1, -(-(standing.reset_ns - now_ns) // 1_000_000))
    seconds = -(-milliseconds // 1000)
    headers = {}
    if shape in ("retry-after", "both"):
        headers["Retry-After"] = str(seconds)
    elif shape == "retry-after-date":
        until = datetime.fromtimestamp(now_ns // SECOND_NS + seconds, UTC)
        headers["Retry-After"] = format_datetime(until, usegmt=True)
    if shape in ("body", "both"):
        return too_many(milliseconds, standing.consumed, **headers)
    return html_page(429) if shape == "html" else Answer(429, headers=headers)


def limit_headers(standing: Standing) -> dict[str, str]:
    """How the quota stands, as successful answers say it. [limits: spec 1]"""
    reset = datetime.fromtimestamp(-(-standing.reset_ns // SECOND_NS), UTC)
    return {
        "X-RateLimit-Consumed": str(standing.consumed),
        "X-RateLimit-Remaining": str(standing.remaining),
        "X-RateLimit-Reset": format_datetime(reset, usegmt=True),
    }


def s3_error(status: int, code: str, message: str, more: str = "") -> Answer:
    """An error as S3 writes it."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>{more}"
        "<RequestId>SIMULATED0000000</RequestId><HostId>simulated</HostId></Error>"
    )
    return Answer(status, body.encode(), {"Content-Type": "application/xml", "Server": "AmazonS3"})


def no_such_key() -> Answer:
    """S3 has no object of this name."""
    return s3_error(404, "NoSuchKey", "The specified key does not exist.")


def html_page(status: int) -> Answer:
    """A page for people, as a proxy in between sends it."""
    page = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Hello</h1></body></html>\n"
    return Answer(status, page, {"Content-Type": "text/html; charset=utf-8"})


UNCOUNTED_LISTINGS: dict[str, Answer] = {
    "reset": Answer(resets=True),
    "401": segment_error(401, "Unauthorized"),
    "403": segment_error(403, "Forbidden"),
    "429-body": too_many(_MS_BEFORE_NEXT),
    "429-retry-after": Answer(429, headers={"Retry-After": "30"}),
    "429-html": html_page(429),
    "429-absurd": too_many(_ABSURD_MS),
}
"""By fault: what is said before a listing is counted."""

COUNTED_LISTINGS: dict[str, Answer] = {
    "500": segment_error(500, "Something went wrong"),
    "502": html_page(502),
    "503": segment_error(503, "Service unavailable"),
    "504": html_page(504),
    "reset-after": Answer(resets=True),
    "html": html_page(200),
    "empty-object": json_answer(200, {}),
    "wrong-shape": json_answer(200, {"data": {"download": {"urls": {"first": 1}}}}),
    "404": segment_error(404, "Collection not found", "collectionId"),
    "422": segment_error(422, "hour is out of range", "hour"),
}
"""By fault: what is said after it was counted."""

DOWNLOADS: dict[str, Answer] = {
    "404": no_such_key(),
    "500": s3_error(500, "InternalError", "We encountered an internal error. Please try again."),
    "503": s3_error(503, "SlowDown", "Please reduce your request rate."),
    "html": html_page(200),
}
"""By fault: what is said in place of an object."""
