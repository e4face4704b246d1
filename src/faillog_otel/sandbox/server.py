"""The simulated Segment as a real server on loopback: two origins, one truth, one clock.

As a test fixture::

    with Simulator(SimulatorConfig(), SimulatedClock(standing=True)) as segment:
        ...  # segment.url, segment.token, segment.download_host
        segment.clock.forward(3600)
        segment.faults.script(Scripted(fault="listing:503"))
"""

import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from email.utils import formatdate
from typing import Self

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import SECOND_NS, parse_rfc3339, time_text
from faillog_otel.errors import ConfigError
from faillog_otel.sandbox.bookkeeping import Asked, Inbox, Journal, ServerQuota, Tracked
from faillog_otel.sandbox.config import Faults, Scripted, SimulatedClock, SimulatorConfig
from faillog_otel.sandbox.downloads import Downloads, Manifest, Promise, Signer
from faillog_otel.sandbox.http import Origin, Request, Response, json_answer
from faillog_otel.sandbox.listing_api import Api
from faillog_otel.sandbox.tracking import PATHS, Tracking
from faillog_otel.sandbox.world import World

# -- control -------------------------------------------------------------------------------------------------
#
# What tests and people move and read, under `/_simulator/` of the API origin, without a token.
#
# `GET clock`, `POST clock` (`{"now": "2025-05-07T23:00:00Z"}` or `{"forward_seconds": 3600}`), `POST faults`
# (a list of `{"fault", "nth"?, "collection"?, "hour"?, "object"?, "times"?}`), `GET faults` (how many are
# left), `GET quota` (the most requests in 24 hours, those that came too early, how long it asked to wait),
# `GET manifest`, `GET requests` and `GET tracked` (JSON Lines). It listens on loopback, as all of the
# simulator does.


PREFIX = "/_simulator/"

_MAX_MOVE_SECONDS = 10 * 365 * 86_400.0


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
        self._routes: dict[tuple[str, str], Callable[[bytes], Response]] = {
            ("GET", "clock"): lambda _: self._time(),
            ("POST", "clock"): self._move,
            ("POST", "faults"): self._script,
            ("GET", "faults"): lambda _: self._faults_left(),
            ("GET", "quota"): lambda _: _counted(quota),
            ("GET", "manifest"): lambda _: _lines(manifest.promises()),
            ("GET", "requests"): lambda _: _lines(journal.requests()),
            ("GET", "tracked"): lambda _: _lines(message.event for message in inbox.messages()),
        }

    def answer(self, request: Request) -> Response:
        """One request; 400 says what is wrong with it."""
        what = request.method, request.path.removeprefix(PREFIX)
        if what not in self._routes:
            return json_answer(404, {"error": f"there is no {' '.join(what)}"})
        try:
            return self._routes[what](request.body)
        except (msgspec.DecodeError, ConfigError) as error:
            return json_answer(400, {"error": str(error)})

    def _time(self) -> Response:
        now_ns = self._clock.now_ns()
        return json_answer(200, {"now": time_text(now_ns), "now_ns": now_ns})

    def _script(self, body: bytes) -> Response:
        self._faults.script(*msgspec.json.decode(body, type=list[Scripted]))
        return self._faults_left()

    def _faults_left(self) -> Response:
        return json_answer(200, {"left": self._faults.left()})

    def _move(self, body: bytes) -> Response:
        move = msgspec.json.decode(body, type=_Move)
        if (move.now is None) == (move.forward_seconds is None):
            raise ConfigError("either now or forward_seconds")
        if move.forward_seconds is not None:
            if not abs(move.forward_seconds) <= _MAX_MOVE_SECONDS:
                raise ConfigError("forward_seconds: ten years at most")
            self._clock.forward(move.forward_seconds)
        else:
            now_ns = parse_rfc3339(move.now or "")
            if now_ns is None:
                raise ConfigError(f"now: {move.now!r} is no RFC 3339 time")
            self._clock.move_to(now_ns)
        return self._time()


def _counted(quota: ServerQuota) -> Response:
    return json_answer(
        200,
        {
            "most_in_24_hours": quota.max_in_24_hours,
            "too_early": quota.too_early,
            "asked_to_wait_seconds": quota.asked_to_wait_seconds,
        },
    )


def _lines(items: Iterable[object]) -> Response:
    content = msgspec.json.Encoder().encode_lines(list(items))
    return Response(200, content, {"Content-Type": "application/x-ndjson"})


# -- server --------------------------------------------------------------------------------------------------


class Simulator:
    """A context manager: listens from its making, answers from entering to leaving.

    Raises ConfigError when a port is taken or a fault's name or rate makes no sense.
    """

    def __init__(self, config: SimulatorConfig | None = None, clock: SimulatedClock | None = None) -> None:
        """`clock` is real time by default."""
        self.config = config or SimulatorConfig()
        self.clock = clock or SimulatedClock()
        self.token = self.config.token or secrets.token_urlsafe(24)
        self.date: Callable[[int], str] = http_date
        """What the API's Date header says at a time, nanoseconds since 1970; nothing leaves it out."""
        self._inbox = Inbox(self.config.world.seed)
        self.world = World(self.config.world, self._inbox)
        self.quota = ServerQuota(self.config.quota)
        self.faults = Faults(self.config.faults, self.config.world.seed)
        self._manifest = Manifest(self.world)
        self._journal = Journal()
        self._signer = Signer(self.clock)
        with ExitStack() as opened:
            self._api_origin = Origin(self._answer, self.config.port)
            opened.callback(self._api_origin.close)
            self._download_origin = Origin(self._download, self.config.download_port)
            opened.pop_all()
        self._downloads = Downloads(
            world=self.world,
            signer=self._signer,
            faults=self.faults,
            manifest=self._manifest,
            journal=self._journal,
            clock=self.clock,
            elsewhere=self.url,
            slow_seconds=self.config.slow_seconds,
        )
        self._api = Api(
            config=self.config,
            token=self.token,
            world=self.world,
            signer=self._signer,
            quota=self.quota,
            faults=self.faults,
            manifest=self._manifest,
            journal=self._journal,
            clock=self.clock,
            download_host=self.download_host,
        )
        self._tracking = Tracking(inbox=self._inbox, journal=self._journal, clock=self.clock)
        self._control = Control(
            clock=self.clock,
            faults=self.faults,
            quota=self.quota,
            manifest=self._manifest,
            journal=self._journal,
            inbox=self._inbox,
        )

    @property
    def url(self) -> str:
        """The API's base URL; an SDK's `host`, too."""
        return f"http://{self._api_origin.host}"

    @property
    def download_host(self) -> str:
        """Where presigned URLs point to: `127.0.0.1:PORT`."""
        return self._download_origin.host

    @property
    def control_url(self) -> str:
        """Where tests and people move it, see control.py; ends with a slash."""
        return self.url + PREFIX

    def manifest(self) -> Iterator[Promise]:
        """All that was promised so far."""
        return self._manifest.promises()

    def requests(self) -> list[Asked]:
        """All that was asked so far, but for the control."""
        return self._journal.requests()

    def tracked(self) -> list[Tracked]:
        """All messages that were taken so far."""
        return self._inbox.messages()

    def __enter__(self) -> Self:
        self._api_origin.__enter__()
        self._download_origin.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._api_origin.__exit__()
        self._download_origin.__exit__()

    def _answer(self, request: Request) -> Response:
        if request.path.startswith(PREFIX):
            return self._control.answer(request)
        answer = (self._tracking if request.path in PATHS else self._api).answer(request)
        return replace(answer, headers={"Date": self.date(self.clock.now_ns()), **answer.headers})

    def _download(self, request: Request) -> Response:
        return self._downloads.answer(request)


def http_date(now_ns: int) -> str:
    """A time as a Date header writes it."""
    return formatdate(now_ns // SECOND_NS, usegmt=True)
