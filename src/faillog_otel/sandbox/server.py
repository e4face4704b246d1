"""The simulated Segment: two HTTP servers over one shared state, and the control API to steer them.

As a test fixture::

    with Simulator(SimulatorConfig(), SimulatedClock(standing=True)) as segment:
        ...  # segment.url, segment.token, segment.download_host
        segment.clock.forward(3600)
        segment.faults.script(Scripted(fault="listing:503"))
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from email.utils import formatdate
from typing import Self

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import SECOND_NS, parse_rfc3339, time_text
from faillog_otel.errors import ConfigError
from faillog_otel.sandbox.bookkeeping import JournalEntry, ManifestEntry, Served, SimulatorState
from faillog_otel.sandbox.config import Scripted, SimulatedClock, SimulatorConfig
from faillog_otel.sandbox.downloads import Downloads
from faillog_otel.sandbox.http import HttpServer, Request, Response, json_response
from faillog_otel.sandbox.listing_api import ListingApi
from faillog_otel.sandbox.tracking import PATHS, TrackedMessage, TrackingApi

CONTROL_PREFIX = "/_simulator/"

_MAX_MOVE_SECONDS = 10 * 365 * 86_400.0


class Simulator:
    """A simulated Segment, as a context manager.

    It listens from its creation and answers inside the `with` block. Raises ConfigError if a port is not
    available, or a fault's name or rate is not valid.
    """

    def __init__(self, config: SimulatorConfig | None = None, clock: SimulatedClock | None = None) -> None:
        """`clock` shows real time by default."""
        self.config = config or SimulatorConfig()
        self.clock = clock or SimulatedClock()
        self.date: Callable[[int], str] = http_date
        """Returns the API's Date header for a time in nanoseconds since 1970; "" leaves it out."""
        with ExitStack() as opened:
            self._api_server = HttpServer(self._answer_api, self.config.port)
            opened.callback(self._api_server.close)
            self._download_server = HttpServer(self._answer_download, self.config.download_port)
            opened.callback(self._download_server.close)
            self._state = SimulatorState(
                self.config, self.clock, api_url=self.url, download_host=self.download_host
            )
            opened.pop_all()
        self.token = self._state.token
        self.world = self._state.world
        self.quota = self._state.quota
        self.faults = self._state.faults
        self._listings = ListingApi(self._state)
        self._downloads = Downloads(self._state)
        self._tracking = TrackingApi(self._state.inbox)
        self._control = _Control(self._state)

    @property
    def url(self) -> str:
        """The API's base URL, and the `host` for an SDK."""
        return f"http://{self._api_server.host}"

    @property
    def download_host(self) -> str:
        """The host of presigned URLs: `127.0.0.1:PORT`."""
        return self._download_server.host

    @property
    def control_url(self) -> str:
        """The base URL of the control API; ends with a slash."""
        return self.url + CONTROL_PREFIX

    def manifest(self) -> Iterator[ManifestEntry]:
        """The records of all objects that were listed or sent so far."""
        return self._state.manifest.entries()

    def requests(self) -> list[JournalEntry]:
        """All requests so far, except those to the control API."""
        return self._state.journal.entries()

    def tracked(self) -> list[TrackedMessage]:
        """All messages that applications sent so far."""
        return self._state.inbox.messages()

    def __enter__(self) -> Self:
        self._api_server.__enter__()
        self._download_server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._api_server.__exit__()
        self._download_server.__exit__()

    def _answer_api(self, request: Request) -> Response:
        if request.path.startswith(CONTROL_PREFIX):
            return self._control.answer(request)
        now_ns = self.clock.now_ns()
        if request.path in PATHS:
            served = Served(self._tracking.answer(request, now_ns))
        else:
            served = self._listings.answer(request, now_ns)
        self._state.journal.add("api", request, served, now_ns)
        date = self.date(self.clock.now_ns())
        return replace(served.response, headers={"Date": date, **served.response.headers})

    def _answer_download(self, request: Request) -> Response:
        now_ns = self.clock.now_ns()
        served = self._downloads.answer(request, now_ns)
        self._state.journal.add("downloads", request, served, now_ns)
        return served.response


def http_date(now_ns: int) -> str:
    """A time as a Date header writes it. `now_ns`: nanoseconds since 1970."""
    return formatdate(now_ns // SECOND_NS, usegmt=True)


class _Move(Struct, forbid_unknown_fields=True):
    now: str | None = None
    forward_seconds: float | None = None


class _Control:
    """The control API, under `CONTROL_PREFIX` of the API server. It needs no token.

    `GET clock`; `POST clock` (`{"now": "2025-05-07T23:00:00Z"}` or `{"forward_seconds": 3600}`);
    `POST faults` (a list of `{"fault", "nth"?, "collection"?, "hour"?, "object"?, "times"?}`); `GET faults`
    (the number left); `GET quota` (the most requests in 24 hours, the requests that came too early, how long
    the server asked to wait); `GET manifest`, `GET requests` and `GET tracked` (JSON Lines).
    """

    def __init__(self, state: SimulatorState) -> None:
        self._state = state
        self._routes: dict[tuple[str, str], Callable[[bytes], Response]] = {
            ("GET", "clock"): lambda _: self._time(),
            ("POST", "clock"): self._move_clock,
            ("POST", "faults"): self._script_faults,
            ("GET", "faults"): lambda _: self._faults_left(),
            ("GET", "quota"): lambda _: self._quota(),
            ("GET", "manifest"): lambda _: _json_lines(state.manifest.entries()),
            ("GET", "requests"): lambda _: _json_lines(state.journal.entries()),
            ("GET", "tracked"): lambda _: _json_lines(message.event for message in state.inbox.messages()),
        }

    def answer(self, request: Request) -> Response:
        """Answers one request; a 400 or 404 names the error."""
        route = request.method, request.path.removeprefix(CONTROL_PREFIX)
        if route not in self._routes:
            known = ", ".join(" ".join(each) for each in self._routes)
            return json_response(404, {"error": f"unknown request {' '.join(route)}; use one of: {known}"})
        try:
            return self._routes[route](request.body)
        except (msgspec.DecodeError, ConfigError) as error:
            return json_response(400, {"error": str(error)})

    def _time(self) -> Response:
        now_ns = self._state.clock.now_ns()
        return json_response(200, {"now": time_text(now_ns), "now_ns": now_ns})

    def _move_clock(self, body: bytes) -> Response:
        move = msgspec.json.decode(body, type=_Move)
        if (move.now is None) == (move.forward_seconds is None):
            raise ConfigError("the clock was not moved; give either now or forward_seconds")
        if move.forward_seconds is not None:
            if not abs(move.forward_seconds) <= _MAX_MOVE_SECONDS:
                raise ConfigError("forward_seconds is too large; give at most ten years")
            self._state.clock.forward(move.forward_seconds)
        else:
            now_ns = parse_rfc3339(move.now or "")
            if now_ns is None:
                raise ConfigError(f"now {move.now!r} is not an RFC 3339 time; give 2025-05-07T23:00:00Z")
            self._state.clock.move_to(now_ns)
        return self._time()

    def _script_faults(self, body: bytes) -> Response:
        self._state.faults.script(*msgspec.json.decode(body, type=list[Scripted]))
        return self._faults_left()

    def _faults_left(self) -> Response:
        return json_response(200, {"left": self._state.faults.left()})

    def _quota(self) -> Response:
        quota = self._state.quota
        statistics = {
            "most_in_24_hours": quota.max_in_24_hours,
            "too_early": quota.too_early,
            "asked_to_wait_seconds": quota.asked_to_wait_seconds,
        }
        return json_response(200, statistics)


def _json_lines(items: Iterable[object]) -> Response:
    content = msgspec.json.Encoder().encode_lines(list(items))
    return Response(200, content, {"Content-Type": "application/x-ndjson"})
