"""What tests and people move and read, under `/_simulator/` of the API origin, without a token.

`GET clock`, `POST clock` (`{"now": "2025-05-07T23:00:00Z"}` or `{"forward_seconds": 3600}`), `POST faults`
(a list of `{"fault", "nth"?, "collection"?, "hour"?, "object"?, "times"?}`), `GET faults` (how many are
left), `GET quota` (the most requests in 24 hours, those that came too early, how long it asked to wait), `GET
manifest`, `GET requests` and `GET tracked` (JSON Lines).
It listens on loopback, as all of the simulator does.
"""

from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from faillog_otel.clock import time_text
from faillog_otel.errors import ConfigError
from faillog_otel.events.times import parse_rfc3339
from faillog_otel.segment.simulator.clock import SimulatedClock
from faillog_otel.segment.simulator.faults import Faults, Scripted
from faillog_otel.segment.simulator.inbox import Inbox
from faillog_otel.segment.simulator.journal import Journal
from faillog_otel.segment.simulator.manifest import Manifest
from faillog_otel.segment.simulator.quota import ServerQuota
from faillog_otel.segment.simulator.web import Answer, Request, json_answer

PREFIX = "/_simulator/"

_LONGEST_MOVE_SECONDS = 10 * 365 * 86_400.0


class _Move(Struct, forbid_unknown_fields=True):
    now: str | None = None
    forward_seconds: float | None = None


class Control:
    """Answers the requests below the prefix."""

    def __init__(
        self,
        *,
        clock: SimulatedClock,
        faults: Faults,
        quota: ServerQuota,
        manifest: Manifest,
        journal: Journal,
        inbox: Inbox,
    ) -> None:
        self._clock = clock
        self._faults = faults
        self._routes: dict[tuple[str, str], Callable[[bytes], Answer]] = {
            ("GET", "clock"): lambda _: self._time(),
            ("POST", "clock"): self._move,
            ("POST", "faults"): self._script,
            ("GET", "faults"): lambda _: self._faults_left(),
            ("GET", "quota"): lambda _: _counted(quota),
            ("GET", "manifest"): lambda _: _lines(manifest.promises()),
            ("GET", "requests"): lambda _: _lines(journal.requests()),
            ("GET", "tracked"): lambda _: _lines(message.event for message in inbox.messages()),
        }

    def answer(self, request: Request) -> Answer:
        """One request; 400 says what is wrong with it."""
        what = request.method, request.path.removeprefix(PREFIX)
        if what not in self._routes:
            return json_answer(404, {"error": f"there is no {' '.join(what)}"})
        try:
            return self._routes[what](request.body)
        except (msgspec.DecodeError, ConfigError) as error:
            return json_answer(400, {"error": str(error)})

    def _time(self) -> Answer:
        now_ns = self._clock.now_ns()
        return json_answer(200, {"now": time_text(now_ns), "now_ns": now_ns})

    def _script(self, body: bytes) -> Answer:
        self._faults.script(*msgspec.json.decode(body, type=list[Scripted]))
        return self._faults_left()

    def _faults_left(self) -> Answer:
        return json_answer(200, {"left": self._faults.left()})

    def _move(self, body: bytes) -> Answer:
        move = msgspec.json.decode(body, type=_Move)
        if (move.now is None) == (move.forward_seconds is None):
            raise ConfigError("either now or forward_seconds")
        if move.forward_seconds is not None:
            if not abs(move.forward_seconds) <= _LONGEST_MOVE_SECONDS:
                raise ConfigError("forward_seconds: ten years at most")
            self._clock.forward(move.forward_seconds)
        else:
            now_ns = parse_rfc3339(move.now or "")
            if now_ns is None:
                raise ConfigError(f"now: {move.now!r} is no RFC 3339 time")
            self._clock.move_to(now_ns)
        return self._time()


def _counted(quota: ServerQuota) -> Answer:
    return json_answer(
        200,
        {
            "most_in_24_hours": quota.most_in_24_hours,
            "too_early": quota.too_early,
            "asked_to_wait_seconds": quota.asked_to_wait_seconds,
        },
    )


def _lines(items: Iterable[object]) -> Answer:
    content = msgspec.json.Encoder().encode_lines(list(items))
    return Answer(200, content, {"Content-Type": "application/x-ndjson"})
