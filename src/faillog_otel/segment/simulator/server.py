"""The simulated Segment as a real server on loopback: two origins, one truth, one clock.

As a test fixture::

    with Simulator(SimulatorConfig(), SimulatedClock(standing=True)) as segment:
        ...  # segment.url, segment.token, segment.download_host
        segment.clock.forward(3600)
        segment.faults.script(Scripted(fault="listing:503"))
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.utils import formatdate
from typing import Self

from msgspec.structs import replace

from faillog_otel.clock import SECOND_NS
from faillog_otel.segment.simulator.api import Api
from faillog_otel.segment.simulator.clock import SimulatedClock
from faillog_otel.segment.simulator.config import SimulatorConfig
from faillog_otel.segment.simulator.control import PREFIX, Control
from faillog_otel.segment.simulator.downloads import Downloads, Signer
from faillog_otel.segment.simulator.faults import Faults
from faillog_otel.segment.simulator.inbox import Inbox, Tracked
from faillog_otel.segment.simulator.journal import Asked, Journal
from faillog_otel.segment.simulator.manifest import Manifest, Promise
from faillog_otel.segment.simulator.quota import ServerQuota
from faillog_otel.segment.simulator.tracking import PATHS, Tracking
from faillog_otel.segment.simulator.web import Answer, Origin, Request
from faillog_otel.segment.simulator.world import World


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

    def _answer(self, request: Request) -> Answer:
        if request.path.startswith(PREFIX):
            return self._control.answer(request)
        answer = (self._tracking if request.path in PATHS else self._api).answer(request)
        return replace(answer, headers={"Date": self.date(self.clock.now_ns()), **answer.headers})

    def _download(self, request: Request) -> Answer:
        return self._downloads.answer(request)


def http_date(now_ns: int) -> str:
    """A time as a Date header writes it."""
    return formatdate(now_ns // SECOND_NS, usegmt=True)
