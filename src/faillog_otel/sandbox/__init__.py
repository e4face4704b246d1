"""The simulated Segment: two HTTP servers over one shared state, its Tracking API, and the API to control it.

As a test fixture::

    with Simulator(SimulatorConfig(), SimulatedClock(standing=True)) as segment:
        ...  # segment.url, segment.token, segment.download_host
        segment.clock.forward(3600)
        segment.faults.script(Scripted(fault="listing:503"))
"""

import base64
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from email.utils import formatdate
from typing import Any, Self

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import SECOND_NS, parse_rfc3339, time_text
from faillog_otel.errors import ConfigError
from faillog_otel.sandbox.bookkeeping import Inbox, JournalEntry, ManifestEntry, Served, SimulatorState
from faillog_otel.sandbox.config import Scripted, SimulatedClock, SimulatorConfig
from faillog_otel.sandbox.downloads import Downloads
from faillog_otel.sandbox.failures import FailingMessage, Failures, FailureTruth, failure_truth
from faillog_otel.sandbox.http import HttpServer, Request, Response, json_response
from faillog_otel.sandbox.listing_api import ListingApi
from faillog_otel.sandbox.outcomes import Outcome
from faillog_otel.sandbox.overview import AuditEvent
from faillog_otel.sandbox.world import TrackedMessage

CONTROL_PREFIX = "/_simulator/"

_MAX_MOVE_SECONDS = 10 * 365 * 86_400.0

_KINDS = ("track", "identify", "page", "screen", "group", "alias")
_CALLS = {f"/v1/{name}": kind for kind in _KINDS for name in (kind, kind[0])}  # browsers call /v1/t
_BATCHES = ("/v1/batch", "/v1/b", "/v1/import")
_TRACKING_PATHS = frozenset((*_CALLS, *_BATCHES))

_MAX_CALL_BYTES, _MAX_BATCH_BYTES, _MAX_BATCH_MESSAGES = 32 * 1024, 500 * 1024, 2500
_MAX_ID_CHARACTERS = 100
_REQUIRED = {"track": "event", "group": "groupId", "alias": "previousId"}
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "*, Authorization",
}


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
        self._tracking = _TrackingApi(self._state.inbox)
        self._control = _Control(self._state, self._listings)

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

    def failures(self) -> FailureTruth:
        """The failing messages, attempts and exchanges: of the listed records, and of all incidents."""
        return _failures(self._state)

    def failing_messages(self) -> list[FailingMessage]:
        """The messages that failed, as far as their records were listed; each once for each destination."""
        return self._state.manifest.failures().messages()

    def requests(self) -> list[JournalEntry]:
        """All requests so far, except those to the control API."""
        return self._state.journal.entries()

    def tracked(self) -> list[TrackedMessage]:
        """All messages that applications sent so far."""
        return self._state.inbox.messages()

    def rename(self, id_: str, name: str) -> None:
        """Gives a destination, a source or a subscription another name. Raises ConfigError."""
        self._listings.names.rename(id_, name)

    def set_outcomes(self, *rules: Outcome) -> None:
        """Sets how messages end that applications send from now on."""
        self._state.inbox.add_rules(*rules)

    def add_change(self, event: AuditEvent) -> None:
        """Adds an audit event."""
        self._listings.overview.add_change(event)

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
        if request.path in _TRACKING_PATHS:
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
    (the number left); `POST names` (`{"65f0c2ab9d3e4b0012ab34cd": "Teapot"}`: renames);
    `POST outcomes` (a list of `Outcome`, for messages that arrive later); `POST changes` (a list of audit
    events); `GET quota` (the
    most requests in 24 hours, the requests that came too early, how long the server asked to wait); `GET
    failures` (a `FailureTruth`); `GET manifest`, `GET requests` and `GET tracked` (JSON Lines).
    """

    def __init__(self, state: SimulatorState, listings: ListingApi) -> None:
        self._state = state
        self._listings = listings
        self._routes: dict[tuple[str, str], Callable[[bytes], Response]] = {
            ("GET", "clock"): lambda _: self._time(),
            ("POST", "clock"): self._move_clock,
            ("POST", "faults"): self._script_faults,
            ("GET", "faults"): lambda _: self._faults_left(),
            ("POST", "names"): self._change_names,
            ("POST", "outcomes"): self._set_outcomes,
            ("POST", "changes"): self._add_changes,
            ("GET", "quota"): lambda _: self._quota(),
            ("GET", "failures"): lambda _: json_response(200, _failures(state)),
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

    def _change_names(self, body: bytes) -> Response:
        names = msgspec.json.decode(body, type=dict[str, str])
        for id_, name in names.items():
            self._listings.names.rename(id_, name)
        return json_response(200, names)

    def _set_outcomes(self, body: bytes) -> Response:
        rules = msgspec.json.decode(body, type=list[Outcome])
        self._state.inbox.add_rules(*rules)
        return json_response(200, rules)

    def _add_changes(self, body: bytes) -> Response:
        changes = msgspec.json.decode(body, type=list[AuditEvent])
        for each in changes:
            self._listings.overview.add_change(each)
        return json_response(200, changes)

    def _quota(self) -> Response:
        quota = self._state.quota
        statistics = {
            "most_in_24_hours": quota.max_in_24_hours,
            "too_early": quota.too_early,
            "asked_to_wait_seconds": quota.asked_to_wait_seconds,
        }
        return json_response(200, statistics)


def _failures(state: SimulatorState) -> FailureTruth:
    now_ns = state.clock.now_ns()
    of_incidents = Failures()
    of_incidents.add(state.world.incident_records(now_ns))
    return failure_truth(state.manifest.failures(), of_incidents, now_ns)


def _json_lines(items: Iterable[object]) -> Response:
    content = msgspec.json.Encoder().encode_lines(list(items))
    return Response(200, content, {"Content-Type": "application/x-ndjson"})


class _TrackingApi:
    """The Tracking API: answers requests to `_TRACKING_PATHS`, and adds their messages to the inbox.

    It accepts what Segment's SDKs and curl send: `POST /v1/batch`, and `/v1/track` and its like. Any write
    key is accepted, as the user of Basic authorization or as `writeKey` in the body, which may be gzip.
    Every message that it accepts fails later, in every collection (see world.py).

    Segment answers 200 to many messages that it then drops. This API answers 400 and names the error,
    because it is made for tests. Sources: Segment's page "HTTP API Source"; its SDKs for Python, Node and
    the browser.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def answer(self, request: Request, now_ns: int) -> Response:
        """Answers one request. A batch is accepted as a whole or not at all."""
        response = self._answer(request, now_ns)
        return Response(response.status, response.body, {**response.headers, **_CORS})

    def _answer(self, request: Request, now_ns: int) -> Response:
        if request.method == "OPTIONS":  # a browser's preflight request
            return Response(204)
        if request.method != "POST":
            return _refusal(405, "not_allowed", "use POST to send messages")
        body = _content(request)
        if isinstance(body, Response):
            return body
        if not (body.get("writeKey") or _basic_user(request)):
            message = "a write key is required: as the user of Basic authorization, or as writeKey"
            return _refusal(401, "unauthorized", message)
        events = _events(request.path, body)
        if isinstance(events, str):
            return _refusal(400, "bad_request", events)
        for event in events:
            self._inbox.add(event, now_ns)
        return json_response(200, {"success": True})


def _content(request: Request) -> dict[str, Any] | Response:
    """The JSON object in a request's body, or the refusal of a body without one."""
    content = request.body
    max_bytes = _MAX_BATCH_BYTES if request.path in _BATCHES else _MAX_CALL_BYTES
    if request.headers.get("content-encoding", "").strip().lower() == "gzip":
        try:
            content = zlib.decompressobj(wbits=31).decompress(content, max_bytes + 1)
        except zlib.error:
            return _refusal(400, "bad_request", "the body is not gzip")
    if len(content) > max_bytes:
        return _refusal(400, "bad_request", f"the body exceeds {max_bytes // 1024} KB")
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _refusal(400, "invalid_json", "the body is not JSON")
    return body if isinstance(body, dict) else _refusal(400, "invalid_json", "the body is not a JSON object")


def _basic_user(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials).partition(b":")[0].decode()
    except ValueError:
        return ""


def _events(path: str, body: dict[str, Any]) -> list[dict[str, Any]] | str:
    """The events of a request, or an error message."""
    if path in _CALLS:
        event = _event(body) | {"type": _CALLS[path]}
        return _error_in(event) or [event]
    batch = body.get("batch")
    if not isinstance(batch, list) or len(batch) > _MAX_BATCH_MESSAGES:
        return f"batch must be a list of at most {_MAX_BATCH_MESSAGES} messages"
    events = []
    for number, each in enumerate(batch):
        if not isinstance(each, dict):
            return f"batch[{number}] is not a JSON object"
        event = _event(each)
        for shared in ("context", "integrations"):  # a batch may give them once for all messages
            if isinstance(body.get(shared), dict) and isinstance(event.get(shared, {}), dict):
                event[shared] = body[shared] | event.get(shared, {})
        if len(msgspec.json.encode(event)) > _MAX_CALL_BYTES:
            return f"batch[{number}] exceeds {_MAX_CALL_BYTES // 1024} KB"
        if error := _error_in(event):
            return f"batch[{number}]: {error}"
        events.append(event)
    return events


def _event(given: dict[str, Any]) -> dict[str, Any]:
    """A message without its write key and without nulls, which some SDKs send for missing fields."""
    return {name: value for name, value in given.items() if name != "writeKey" and value is not None}


def _error_in(event: dict[str, Any]) -> str | None:
    """The first of Segment's requirements that an event does not meet, as an error message."""
    kind, message_id = event.get("type"), event.get("messageId", "-")
    if kind not in _KINDS:
        return f"type must be one of {', '.join(_KINDS)}"
    if not (_is_id(event.get("userId")) or _is_id(event.get("anonymousId"))):
        return "userId or anonymousId is required"
    if kind in _REQUIRED and not _is_id(event.get(_REQUIRED[kind])):
        return f"{kind} requires {_REQUIRED[kind]}"
    if not isinstance(message_id, str) or len(message_id) > _MAX_ID_CHARACTERS:
        return f"messageId must be a string of at most {_MAX_ID_CHARACTERS} characters"
    return None


def _is_id(value: Any) -> bool:
    return value != "" and isinstance(value, str | int | float) and not isinstance(value, bool)


def _refusal(status: int, code: str, message: str) -> Response:
    """An error with the keys that the Python SDK reads."""
    return json_response(status, {"success": False, "code": code, "message": message})
