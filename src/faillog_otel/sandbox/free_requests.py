"""What the simulated requests for names, counts and changes share: rate limits, faults, pages.

They cost nothing of the listings' quota. The credentials (`CREDENTIALS`) are canaries: none of them may be
found anywhere else.
"""

import threading
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from faillog_otel.clock import SECOND_NS
from faillog_otel.sandbox.bookkeeping import Served, SimulatorState
from faillog_otel.sandbox.config import FreeKind
from faillog_otel.sandbox.http import Request, Response, html_page, json_response

STABLE_JSON, BETA_JSON, ALPHA_JSON = (
    f"application/vnd.segment.v1{stage}+json" for stage in ("", "beta", "alpha")
)
CREDENTIALS = tuple(
    f"c4n4ry-{where}-6tHq2Zs9"
    for where in (
        "api-key",
        "nested-secret",
        "list-token",
        "password",
        "write-key",
        "source-setting",
        "error",
    )
)
"""All credentials in the answers."""
API_KEY, NESTED, IN_LIST, PASSWORD, WRITE_KEY, OF_SOURCE, _IN_ERROR = CREDENTIALS

_WINDOW_NS = 60 * SECOND_NS
_MAX_COUNT = 1000

ErrorMaker = Callable[[int, str], Response]
"""Makes an error as Segment writes it, from a status and a message."""


class FreeRequests:
    """Answers requests of one kind, unless they are too many or meet a fault. Safe for several threads."""

    def __init__(self, kind: FreeKind, per_minute: int, state: SimulatorState, error: ErrorMaker) -> None:
        self.error = error
        self._kind = kind
        self._per_minute = per_minute
        self._state = state
        self._lock = threading.Lock()
        self._window_ends_ns = 0
        self._used = 0

    def answer(self, now_ns: int, make: Callable[[], Response]) -> Served:
        """Answers one request; `make` makes the answer without a fault."""
        fault = self._state.faults.pick(self._kind, None, None)
        label = fault and f"{self._kind}:{fault}"
        if (response := self._faulty(fault)) is not None:
            return Served(response, fault=label)
        if (seconds := self._seconds_to_wait(now_ns)) is not None:
            return Served(self._too_many(seconds), fault=label)
        response = make()
        if fault == "slow":
            response = replace(response, slow_seconds=self._state.config.slow_seconds)
        if fault == "truncated":
            response = replace(response, body=response.body[:-40])
        return Served(response, fault=label)

    def page(self, key: str, items: list[Any], request: Request, media_type: str, **more: Any) -> Response:
        """Returns the page that a request names. A cursor is the index of the first item, in hex."""
        if request.headers.get("accept") != media_type:
            return self.error(406, "Not acceptable")
        count, cursor = request.query.get("pagination.count", ""), request.query.get("pagination.cursor", "0")
        if not (count.isdigit() and 1 <= int(count) <= _MAX_COUNT):
            return self.error(422, "pagination.count must be from 1 to 1000")
        first, size = int(cursor, 16), min(int(count), self._state.config.names_per_page)
        pagination = {"current": cursor, "totalEntries": len(items)}
        if first + size < len(items):
            pagination["next"] = f"{first + size:x}"
        data = {**more, key: items[first : first + size], "pagination": pagination}
        return json_response(200, {"data": data})

    def _seconds_to_wait(self, now_ns: int) -> int | None:
        """Counts a request; returns how long to wait if the minute's requests are used up."""
        with self._lock:
            if not now_ns < self._window_ends_ns <= now_ns + _WINDOW_NS:
                self._window_ends_ns, self._used = now_ns + _WINDOW_NS, 0
            self._used += 1
            if self._used <= self._per_minute:
                return None
            return -(-(self._window_ends_ns - now_ns) // SECOND_NS)

    def _too_many(self, seconds: int) -> Response:
        response = self.error(429, "Too many requests")
        return replace(response, headers={**response.headers, "Retry-After": str(seconds)})

    def _faulty(self, fault: str | None) -> Response | None:
        """Returns the response of a fault; None for no fault, and for those that change a good response."""
        if fault in ("401", "403", "404", "500"):  # a careless server repeats what it holds
            return self.error(int(fault), f"cannot serve settings apiKey {_IN_ERROR}")
        if fault == "429":
            return self._too_many(30)
        if fault == "html":
            return html_page(200)
        if fault == "reset":
            return Response(breaks_off="reset")
        if fault == "wrong-shape":
            shape = {"data": {"destinations": {"settings": {"apiKey": API_KEY}}, "sources": [WRITE_KEY]}}
            return json_response(200, shape)
        return None
