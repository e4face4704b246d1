"""The simulated downloads: objects behind presigned URLs, served as S3 serves them.

Each listing signs its URLs anew, for GET, for two hours by the simulator's clock. Errors are S3's XML. Range
and conditional requests follow RFC 9110.
"""

import hashlib
import hmac
import re
import secrets
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote, urlencode

from msgspec.structs import replace

from faillog_otel.clock import SECOND_NS, hour_text, time_text
from faillog_otel.sandbox.bookkeeping import Served, SimulatorState
from faillog_otel.sandbox.http import Request, Response, html_page
from faillog_otel.sandbox.objects import StoredObject, parse_hour
from faillog_otel.sandbox.world import URL_SECONDS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AMZ_DATE = "%Y%m%dT%H%M%SZ"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_TYPES = {"gzip": "application/gzip", "zstd": "application/zstd", "array": "application/json"}


def presigned_url(state: SimulatorState, key: str, now_ns: int) -> str:
    """A URL to GET an object with. No two are the same."""
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": "SIMULATED/us-west-2/s3/aws4_request",
        "X-Amz-Date": _datetime(now_ns).strftime(_AMZ_DATE),
        "X-Amz-Expires": str(URL_SECONDS),
        "X-Amz-Security-Token": secrets.token_hex(16),
        "X-Amz-SignedHeaders": "host",
    }
    query["X-Amz-Signature"] = _signature(state, key, query)
    return f"http://{state.download_host}/{quote(key)}?{urlencode(query)}"


class Downloads:
    """Answers the requests to the download server."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state

    def answer(self, request: Request, now_ns: int) -> Served:
        """Answers one request."""
        key = request.path.removeprefix("/")
        refusal = _refusal(self._state, key, request, now_ns)
        stored = None if refusal else self._state.world.find(key, now_ns)
        collection, hour = _collection_and_hour(key)
        fault = None
        if refusal is not None:
            response = refusal
        elif stored is None:
            response = _NO_SUCH_KEY
        elif fault := self._fault(stored, collection, hour):
            response = self._faulty(fault, stored, request, now_ns)
        else:
            response = self._object(stored, request, now_ns)
        return Served(response, collection, hour, fault=fault and f"download:{fault}")

    def _fault(self, stored: StoredObject, collection: str | None, hour: str | None) -> str | None:
        fault = self._state.faults.pick("download", collection, hour, stored.key)
        return fault or self._state.world.death(stored)

    def _object(self, stored: StoredObject, request: Request, now_ns: int) -> Response:
        """The object, a range of it, or 304."""
        headers = {
            "ETag": stored.etag,
            "Last-Modified": format_datetime(_datetime(stored.modified_ns), usegmt=True),
            "Accept-Ranges": "bytes",
            "Server": "AmazonS3",
        }
        if _matches(request.headers.get("if-none-match"), stored.etag):
            return Response(304, headers=headers)
        self._state.manifest.note_served(stored, now_ns)
        headers["Content-Type"] = _TYPES.get(stored.format, "binary/octet-stream")
        size = len(stored.content)
        wanted = request.headers.get("range", "")
        if request.headers.get("if-range", stored.etag) not in (stored.etag, headers["Last-Modified"]):
            wanted = ""
        part = _byte_range(wanted, size)
        if part is None:
            return Response(200, stored.content, headers)
        if not part:
            error = _s3_error(416, "InvalidRange", "The requested range is not satisfiable")
            return Response(416, error.body, {**error.headers, "Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        return Response(206, stored.content[part.start : part.stop], headers)

    def _faulty(self, fault: str, stored: StoredObject, request: Request, now_ns: int) -> Response:
        if fault in _FAULTY_RESPONSES:
            return _FAULTY_RESPONSES[fault]
        if fault in ("301", "302", "307"):
            return Response(int(fault), headers={"Location": f"{self._state.api_url}/{quote(stored.key)}"})
        if fault == "expired":
            return _expired(now_ns)
        response = self._object(stored.rotated() if fault == "changed" else stored, request, now_ns)
        half = len(response.body) // 2
        changes: dict[str, dict[str, Any]] = {
            "changed": {},
            "no-etag": {"headers": response.headers | {"ETag": "", "Last-Modified": ""}},
            "slow": {"slow_seconds": self._state.config.slow_seconds},
            "reset": {"breaks_off": "reset", "sent_bytes": half},
            "truncated": {"breaks_off": "close", "sent_bytes": half},
            "wrong-length": {"breaks_off": "close", "sent_bytes": half, "content_length": half},
        }
        return replace(response, **changes[fault])


def _refusal(state: SimulatorState, key: str, request: Request, now_ns: int) -> Response | None:
    """The error for a request that may not have the object; None if it may."""
    query = dict(request.query)
    given = query.pop("X-Amz-Signature", None)
    if given is None:
        return _s3_error(403, "AccessDenied", "Access Denied")
    expected = _signature(state, key, query)
    if request.method != "GET" or not hmac.compare_digest(given.encode(), expected.encode()):
        message = "The request signature we calculated does not match the signature you provided."
        return _s3_error(403, "SignatureDoesNotMatch", message)
    signed = datetime.strptime(query["X-Amz-Date"], _AMZ_DATE).replace(tzinfo=UTC)
    if _datetime(now_ns) >= signed + timedelta(seconds=int(query["X-Amz-Expires"])):
        return _expired(now_ns)
    return None


def _signature(state: SimulatorState, key: str, query: dict[str, str]) -> str:
    text = "\n".join(("GET", key, urlencode(sorted(query.items()))))
    return hmac.new(state.signing_key, text.encode(), hashlib.sha256).hexdigest()


def _s3_error(status: int, code: str, message: str, more: str = "") -> Response:
    """An error as S3 writes it."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>{more}"
        "<RequestId>SIMULATED0000000</RequestId><HostId>simulated</HostId></Error>"
    )
    return Response(status, body.encode(), {"Content-Type": "application/xml", "Server": "AmazonS3"})


def _expired(now_ns: int) -> Response:
    """S3's response to a URL that has expired."""
    more = f"<X-Amz-Expires>{URL_SECONDS}</X-Amz-Expires><ServerTime>{time_text(now_ns)}</ServerTime>"
    return _s3_error(403, "AccessDenied", "Request has expired", more)


_NO_SUCH_KEY = _s3_error(404, "NoSuchKey", "The specified key does not exist.")

_FAULTY_RESPONSES: dict[str, Response] = {
    "404": _NO_SUCH_KEY,
    "500": _s3_error(500, "InternalError", "We encountered an internal error. Please try again."),
    "503": _s3_error(503, "SlowDown", "Please reduce your request rate."),
    "html": html_page(200),
}
"""Faults that replace the object by the same response each time."""


def _collection_and_hour(key: str) -> tuple[str | None, str | None]:
    """The collection and hour in an object's key."""
    collection, slash, rest = key.partition("/")
    hour = parse_hour(f"{rest.partition('/')[0]}:00:00Z") if slash else None
    return (None, None) if hour is None else (collection, hour_text(hour))


def _matches(if_none_match: str | None, etag: str) -> bool:
    """Weak comparison with any ETag of a list (RFC 9110, section 13.1.2)."""
    if if_none_match is None:
        return False
    given = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return given == ["*"] or etag in given


def _byte_range(wanted: str, size: int) -> range | None:
    """One range of bytes (RFC 9110, section 14.1.2). None: the whole object; empty: not satisfiable.

    Several ranges and invalid ones are ignored, as the RFC allows.
    """
    found = _RANGE.fullmatch(wanted.strip())
    if found is None:
        return None
    first, last = found.groups()
    if not first:
        return range(max(0, size - int(last)), size) if last else None
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


def _datetime(ns: int) -> datetime:
    return _EPOCH + timedelta(seconds=ns // SECOND_NS)
