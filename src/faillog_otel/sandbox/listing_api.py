"""Segment's simulated Public API: listings under a daily quota, and the requests that cost nothing.

A listing is checked in this order: token, faults that come before counting, quota, form, arguments. The
quota's statistics have all of them but the 401s; from the quota on, each costs one request.
"""

import hmac
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, SECOND_NS, hour_text
from faillog_otel.sandbox.bookkeeping import QuotaState, Served, SimulatorState
from faillog_otel.sandbox.config import Refusal
from faillog_otel.sandbox.downloads import presigned_url
from faillog_otel.sandbox.http import Request, Response, html_page, json_response
from faillog_otel.sandbox.names import NamesApi
from faillog_otel.sandbox.objects import parse_hour
from faillog_otel.sandbox.overview import OverviewApi

LISTING_PATH = "/customer-insights/download"
VENDOR_JSON = "application/vnd.segment.v1alpha+json"
HUGE_LISTING_URLS = 100_000

_REDIRECTS = ("301", "302", "307")


class _Arguments(Struct, frozen=True):
    collection: str | None
    hour: str | None


class ListingApi:
    """Answers the requests to the API server that concern neither tracking nor control."""

    def __init__(self, state: SimulatorState) -> None:
        self.names = NamesApi(state, _segment_error)
        self.overview = OverviewApi(state, _segment_error)
        self._state = state
        self._refused = 0

    def answer(self, request: Request, now_ns: int) -> Served:
        """Answers one request."""
        named = _named_arguments(request)
        if not self._is_authorized(request):
            served = Served(_segment_error(401, "Unauthorized"))
        elif request.path == LISTING_PATH:
            served = self._list(request, named, now_ns)
        else:
            served = (
                self.names.answer(request, now_ns)
                or self.overview.answer(request, now_ns)
                or Served(_free_request(request))
            )
        return replace(served, collection=named.collection, hour=named.hour)

    def _is_authorized(self, request: Request) -> bool:
        expected = f"Bearer {self._state.token}".encode()
        return hmac.compare_digest(request.headers.get("authorization", "").encode(), expected)

    def _list(self, request: Request, named: _Arguments, now_ns: int) -> Served:
        if request.method != "POST":
            return Served(_segment_error(405, "Method not allowed"))
        fault = self._state.faults.pick("listing", named.collection, named.hour)
        label = fault and f"listing:{fault}"
        if fault != "reset":
            self._state.quota.note_request(now_ns)
        if (uncounted := self._uncounted(fault, now_ns)) is not None:
            return Served(uncounted, fault=label)
        quota = self._state.quota.take(now_ns)
        if not quota.granted:
            return Served(self._too_many(quota, now_ns), fault=label)
        arguments = self._arguments(request)
        if isinstance(arguments, Response):
            return Served(arguments, counted=True, fault=label)
        return Served(self._listing(*arguments, quota, fault, now_ns), counted=True, fault=label)

    def _arguments(self, request: Request) -> tuple[str, int] | Response:
        """The collection and hour of a listing, or the error."""
        form, refusal, query = self._state.config.form, self._state.config.refusal, request.query
        is_vendor_json = request.headers.get("content-type", "").partition(";")[0].strip() == VENDOR_JSON
        if form == "body-only" and query:
            return _segment_error(refusal, "Query parameters are not accepted")
        if form in ("query", "either") and {"collectionId", "hour"} <= query.keys():
            arguments: Any = query
        elif form == "query" or (form == "either" and not request.body):
            return _segment_error(refusal, "collectionId and hour are required")
        elif not is_vendor_json:
            return _segment_error(refusal, f"Content-Type must be {VENDOR_JSON}")
        else:
            try:
                arguments = msgspec.json.decode(request.body)
            except (msgspec.DecodeError, RecursionError):
                return _segment_error(400, "The body is not JSON")
        return self._checked(arguments)

    def _checked(self, arguments: Any) -> tuple[str, int] | Response:
        if not isinstance(arguments, dict):
            return _segment_error(400, "The body is not a JSON object")
        collection, hour = arguments.get("collectionId"), arguments.get("hour")
        if not isinstance(collection, str) or not collection:
            return _segment_error(422, "collectionId is required", field="collectionId")
        number = parse_hour(hour) if isinstance(hour, str) else None
        if number is None:
            return _segment_error(422, "hour must be a whole hour: 2025-05-07T23:00:00Z", field="hour")
        if collection not in self._state.config.world.collections:
            return _segment_error(404, "Collection not found", field="collectionId")
        return collection, number

    def _listing(
        self, collection: str, hour: int, quota: QuotaState, fault: str | None, now_ns: int
    ) -> Response:
        if fault in COUNTED_FAULTS:
            return COUNTED_FAULTS[fault]
        state = self._state
        objects = () if fault == "empty" else state.world.objects(collection, hour, now_ns)
        urls = [presigned_url(state, stored.key, now_ns) for stored in objects]
        if fault == "huge":
            urls += self._urls_of_nothing(collection, hour, HUGE_LISTING_URLS - len(urls), now_ns)
        headers = {}
        if state.config.quota.headers:
            headers = _limit_headers(quota)
            if not quota.remaining:
                state.quota.note_wait_until(now_ns, quota.reset_ns)
        response = json_response(200, {"data": {"download": {"urls": urls}}}, **headers)
        if fault == "truncated":
            return replace(response, breaks_off="close", sent_bytes=len(response.body) // 2)
        if fault == "slow":
            response = replace(response, slow_seconds=state.config.slow_seconds)
        if fault != "huge":  # a client may refuse so many URLs: none of these records must arrive
            for stored in objects:
                if state.world.death(stored) is None:
                    state.manifest.note_listed(stored, now_ns)
        return response

    def _urls_of_nothing(self, collection: str, hour: int, count: int, now_ns: int) -> Iterator[str]:
        """URLs of objects that do not exist. They share one signature: 100,000 would take too long."""
        key = f"{collection}/{hour_text(hour)[:13]}/nothing"
        url, _, query = presigned_url(self._state, key, now_ns).partition("?")
        return (f"{url}-{number}?{query}" for number in range(count))

    def _too_many(self, quota: QuotaState, now_ns: int) -> Response:
        config = self._state.config.quota
        shape = config.refusals[self._refused % len(config.refusals)]
        self._refused += 1
        if shape == "body" and config.retry_after:
            shape = "both"
        if shape not in ("none", "html"):
            self._state.quota.note_wait_until(now_ns, quota.reset_ns)
        return _refusal(shape, quota, now_ns)

    def _uncounted(self, fault: str | None, now_ns: int) -> Response | None:
        """The response of a fault that comes before the request is counted; None for all others."""
        if fault in _REDIRECTS:
            location = f"http://{self._state.download_host}{LISTING_PATH}"
            return Response(int(fault), headers={"Location": location})
        if fault == "429-headers":
            reset_ns = (now_ns // HOUR_NS + 1) * HOUR_NS
            consumed = self._state.config.quota.per_day + 1
            exhausted = QuotaState(granted=False, consumed=consumed, remaining=0, reset_ns=reset_ns)
            return Response(429, headers=_limit_headers(exhausted))
        return UNCOUNTED_FAULTS.get(fault or "")


def _named_arguments(request: Request) -> _Arguments:
    """The collection and hour that a request names, unchecked: for scripted faults and the journal."""
    given: Any = request.query
    if request.body and not given.keys() & {"collectionId", "hour"}:
        try:
            given = msgspec.json.decode(request.body)
        except (msgspec.DecodeError, RecursionError):
            given = None
    if not isinstance(given, dict):
        given = {}
    collection, hour = given.get("collectionId"), given.get("hour")
    return _Arguments(
        collection if isinstance(collection, str) else None, hour if isinstance(hour, str) else None
    )


def _free_request(request: Request) -> Response:
    """The request that costs nothing and names nothing: the workspace, which proves a token."""
    if request.method == "GET" and request.path == "/":
        workspace = {"id": "9aQ1Lj62S4bomZKLF4DPqW", "slug": "simulated", "name": "Simulated"}
        return json_response(200, {"data": {"workspace": workspace}})
    return _segment_error(404, "Not found")


_ERROR_TYPES = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "not-allowed",
}
_CONSUMED = 121
_MS_BEFORE_NEXT, _ABSURD_MS = 57_647, 10**16


def _segment_error(status: int, message: str, field: str | None = None) -> Response:
    """An error as Segment writes it. [Segment's SDK]"""
    kind = _ERROR_TYPES.get(status, "unprocessable" if status < 500 else "internal")
    error = {"type": kind, "message": message, "field": field, "data": None, "status": status}
    return json_response(status, {"errors": [error]})


def _segment_429(milliseconds: int, consumed: int = _CONSUMED, **headers: str) -> Response:
    """A 429 with Segment's body. [Segment's page on rate limits]"""
    data = {"remainingPoints": 0, "msBeforeNext": milliseconds, "consumedPoints": consumed}
    error = {"type": "RequestError", "message": "Too many requests", "data": data}
    return json_response(429, {"errors": [error]}, **headers)


def _refusal(shape: Refusal, quota: QuotaState, now_ns: int) -> Response:
    """A 429 in one of its shapes."""
    milliseconds = max(1, -(-(quota.reset_ns - now_ns) // 1_000_000))
    seconds = -(-milliseconds // 1000)
    headers = {}
    if shape in ("retry-after", "both"):
        headers["Retry-After"] = str(seconds)
    elif shape == "retry-after-date":
        until = datetime.fromtimestamp(now_ns // SECOND_NS + seconds, UTC)
        headers["Retry-After"] = format_datetime(until, usegmt=True)
    if shape in ("body", "both"):
        return _segment_429(milliseconds, quota.consumed, **headers)
    return html_page(429) if shape == "html" else Response(429, headers=headers)


def _limit_headers(quota: QuotaState) -> dict[str, str]:
    """The quota's headers, as successful responses have them. [Segment's page on rate limits]"""
    reset = datetime.fromtimestamp(-(-quota.reset_ns // SECOND_NS), UTC)
    return {
        "X-RateLimit-Consumed": str(quota.consumed),
        "X-RateLimit-Remaining": str(quota.remaining),
        "X-RateLimit-Reset": format_datetime(reset, usegmt=True),
    }


UNCOUNTED_FAULTS: dict[str, Response] = {
    "reset": Response(breaks_off="reset"),
    "401": _segment_error(401, "Unauthorized"),
    "403": _segment_error(403, "Forbidden"),
    "429-body": _segment_429(_MS_BEFORE_NEXT),
    "429-retry-after": Response(429, headers={"Retry-After": "30"}),
    "429-html": html_page(429),
    "429-absurd": _segment_429(_ABSURD_MS),
}
"""Responses by fault, before the request is counted."""

COUNTED_FAULTS: dict[str, Response] = {
    "500": _segment_error(500, "Something went wrong"),
    "502": html_page(502),
    "503": _segment_error(503, "Service unavailable"),
    "504": html_page(504),
    "reset-after": Response(breaks_off="reset"),
    "html": html_page(200),
    "empty-object": json_response(200, {}),
    "wrong-shape": json_response(200, {"data": {"download": {"urls": {"first": 1}}}}),
    "404": _segment_error(404, "Collection not found", "collectionId"),
    "422": _segment_error(422, "hour is out of range", "hour"),
}
"""Responses by fault, after the request was counted."""
