"""Composition: settings → the parts of a run, wired together."""

import errno
import logging
import math
import os
import random
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import IO, Self

from msgspec import Struct

from faillog_otel import __version__
from faillog_otel.app.progress import NoProgressLine, progress_line
from faillog_otel.app.readiness import InstrumentedClient, Readiness, collector, loops
from faillog_otel.app.signals import GRACE_SECONDS, Shutdown
from faillog_otel.clock import Clock, SegmentClock
from faillog_otel.config import RunConfig, SegmentConfig
from faillog_otel.errors import ConfigError
from faillog_otel.ledger.ledger import Ledger
from faillog_otel.ledger.maintenance import recover
from faillog_otel.ledger.planner_state import SINCE, note_polled, schedule_of
from faillog_otel.ledger.queries import fact_ns
from faillog_otel.ledger.results import Counts
from faillog_otel.ledger.sinks import clean_digests
from faillog_otel.ledger.spool import Spool
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.otlp.backoff import Backoff, Say
from faillog_otel.otlp.delivery import Delivery, in_flight, network_client, writing_client
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.otlp.port_check import wrong_port
from faillog_otel.otlp.sender import Client
from faillog_otel.pipeline.fetcher import Fetcher
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.pipeline.segment_time import AGREED
from faillog_otel.pipeline.sidecar import RoomWait, Sidecar
from faillog_otel.pipeline.workers import Workers
from faillog_otel.reports.hours import HourlyReport, Judging
from faillog_otel.segment.api import TIMEOUT_SECONDS, SegmentApi, token_source
from faillog_otel.segment.download import Downloader, Limits
from faillog_otel.segment.http_client import network_of, timeout_within
from faillog_otel.segment.schedule import ScheduleConfig
from faillog_otel.setting_values import check_window
from faillog_otel.telemetry.api import NO_TELEMETRY, Gauge, Telemetry
from faillog_otel.telemetry.heartbeat import NO_HEARTBEAT, FileHeartbeat, Heartbeat
from faillog_otel.telemetry.output import announce, results_stream
from faillog_otel.tls import tls_context

_log = logging.getLogger(__name__)

USER_AGENT = f"faillog-otel/{__version__}"


class Runtime:
    """What the parts of one run share. A context manager: its end closes the parts, the last one first."""

    def __init__(
        self,
        config: RunConfig,
        signals: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        """`signals` end the run."""
        self.config = config
        self.stop = Shutdown(signals)
        """Whether a signal asked for the end. It is also the clock of everything that waits."""
        self.stack = ExitStack()
        self.telemetry = telemetry
        self.heartbeat: Heartbeat = NO_HEARTBEAT
        self.progress = NoProgressLine()
        self.collector: InstrumentedClient
        """The client of the running delivery."""
        self._network: Client | None = None

    def __enter__(self) -> Self:
        self.stack.enter_context(self.stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.__exit__(kind, error, trace)

    def prepare_client(self) -> None:
        """Makes the client for the network, which reads the certificates. Raises ConfigError."""
        if self.config.delivery.writes is None:
            self._network = network_client(self.config.delivery, self.config.mapping.resource, USER_AGENT)

    def drop_client(self) -> None:
        """Closes the client: workers deliver with their own."""
        if self._network is not None:
            self._network.close()

    def start_progress(self) -> None:
        """Shows the progress on the terminal, where there is one."""
        self.progress = progress_line(self.config, self.stop.monotonic, self.stack)

    def start_telemetry(self) -> None:
        """Sends our own metrics, where an endpoint is set. Raises ConfigError."""
        target = self.config.telemetry.target
        if target is None:
            return
        if target.url.startswith("https:"):
            tls_context(target)  # raises what is wrong with the files
        # OTEL_* is about the forwarded data, and has been read; the SDK would read it again for itself.
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            del os.environ[name]
        from faillog_otel.telemetry.metrics import OtelTelemetry

        names = self.config.mapping.destination_names
        telemetry = OtelTelemetry(self.config.telemetry, target, names, __version__, wrong_port)
        self.stack.callback(telemetry.close)
        self.telemetry = telemetry

    def start_heartbeat(self) -> None:
        """Notes the loops' heartbeats, where the health settings ask for them. Raises ConfigError."""
        health = self.config.health
        if health.address is not None or health.file is not None:
            self.heartbeat = FileHeartbeat(self.stop.monotonic, health.file)

    def deliver(self, say: Say | None = None) -> Delivery:
        """Starts the delivery to the collector, the file or the terminal. Raises ConfigError.

        `say` takes what requests wait for; by default it is logged.
        """
        delivery_config = self.config.delivery
        client = self._network if self._network is not None else self._writer()
        self.collector = InstrumentedClient(client, self.telemetry, self.stop)
        # What cannot be written stays so; a collector may come back.
        wait_seconds = 0.0 if delivery_config.writes else delivery_config.wait_seconds
        signals = delivery_config.signals
        if delivery_config.writes == "console":  # it takes a batch's spans before its logs
            signals = tuple(sorted(signals, reverse=True))
        delivery = Delivery(
            self.collector,
            Backoff(wait_seconds, self.stop, random.Random(), say),
            signals=signals,
            in_flight=in_flight(delivery_config),
            waiting=self._waiting,
        )
        self.stack.callback(delivery.close)
        self.watch_retries(delivery)
        return delivery

    def watch_retries(self, delivery: Delivery | Workers) -> None:
        """Adds the gauge of every run."""
        self.telemetry.watch(
            Gauge(
                "faillog.export.retries",
                "{request}",
                "Requests with forwarded data that were not the first one of their batch: retries, probes",
                lambda: {"": delivery.sent.retries},
                only_grows=True,
            )
        )

    def watch_pending(self, counts: Counts) -> None:
        """Adds the gauge of a run over PATHs."""
        self.telemetry.watch(
            Gauge(
                "faillog.pending",
                "{record}",
                "Records that this run did not deliver",
                lambda: {"": counts.pending},
            )
        )

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Waiting for the collector is no failure of the loop; a signal ends it."""
        with self.heartbeat.paused("forwarding"), self.stop.interruptible(GRACE_SECONDS):
            yield

    def _writer(self) -> Client:
        """The client that writes to a file or the terminal. Raises ConfigError.

        If the reader of standard output closes it, the run ends as by SIGPIPE.
        """
        output = self.config.delivery.output
        file: IO[bytes] = open(1, "wb", buffering=0, closefd=False)  # noqa: SIM115  # standard output
        if output is not None:
            try:
                opened = open(output, "wb", buffering=0, opener=_without_waiting)  # noqa: SIM115  # until the end
                file = self.stack.enter_context(opened)
            except OSError as error:
                is_unread = error.errno == errno.ENXIO
                why = "is a pipe that nobody reads; start its reader first" if is_unread else error.strerror
                raise ConfigError(f"--output {output}: {why}") from None
        return writing_client(
            self.config.delivery,
            self.config.mapping.resource,
            file,
            results_stream(),
            on_closed=lambda: self.stop.request(signal.SIGPIPE),
        )


def _without_waiting(name: str, flags: int) -> int:
    """Opens a pipe only if it has a reader: no signal could end the wait for one."""
    descriptor = os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def descriptors() -> int:
    """How many files and connections this process may have open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


class Polling(Struct, frozen=True):
    """The parts of a polling run."""

    ledger: Ledger
    clock: SegmentClock
    fetcher: Fetcher
    forwarder: Forwarder
    delivery: Delivery
    readiness: Readiness
    hourly: HourlyReport
    judging: Judging
    sidecar: Sidecar


def build_polling(
    runtime: Runtime, *, once: bool, clock: Clock | None = None, only_wanted: bool = False
) -> Polling:
    """Opens the state folder and builds the parts. Raises ConfigError, NoRoom, LedgerBroken.

    `clock` is the machine's, which Segment's Date corrects. `only_wanted`: only the hours that a replay
    asked for.
    """
    config, stop = runtime.config, runtime.stop
    shows_only = config.delivery.writes is not None
    folder = runtime.stack.enter_context(StateFolder(config.state_dir))
    wait_seconds = config.delivery.wait_seconds if once else math.inf
    room = RoomWait(wait_seconds, stop.monotonic)
    ledger = room.retry(lambda: Ledger(folder), stop.wait)
    runtime.stack.callback(ledger.close)
    spool = Spool(folder.spool)
    segment_clock = SegmentClock(clock or stop, fact_ns(ledger.database, AGREED) or 0)
    if not only_wanted:
        room.retry(lambda: _check_window(config, ledger, segment_clock), stop.wait)
    room.retry(lambda: recover(ledger), stop.wait)
    judging = room.retry(lambda: Judging(ledger.database, config.segment, segment_clock), stop.wait)
    spool.clean(ledger.in_spool())
    clean_digests(folder.digests, ledger.open_hours())
    runtime.start_telemetry()
    runtime.start_heartbeat()
    segment, downloader = _segment_clients(config)
    runtime.start_progress()
    fetcher = Fetcher(
        ledger=ledger,
        spool=spool,
        segment=segment,
        downloader=downloader,
        schedule=partial(_schedule_at, ledger, config.segment, once=once, only_wanted=only_wanted),
        clock=segment_clock,
        is_stopping=runtime.heartbeat.asking("fetching", stop.is_requested),
        max_content_bytes=config.max_content_bytes,
        requests_per_day=config.segment.requests_per_day,
        max_requests=config.segment.max_requests,
        to_download=runtime.progress.to_download,
        wait_seconds=wait_seconds,
    )
    readiness = Readiness(
        ledger.database, lambda: fetcher.schedule, segment_clock, config.segment.requests_per_day
    )
    delivery = runtime.deliver()
    for gauge in readiness.gauges():
        runtime.telemetry.watch(gauge)
    _serve_health(runtime, readiness)
    forwarder = Forwarder(
        encoder=WireEncoder(config.mapping),
        delivery=delivery,
        config=config.delivery,
        is_stopping=runtime.heartbeat.asking("forwarding", stop.is_requested),
        max_content_bytes=config.max_content_bytes,
        telemetry=NO_TELEMETRY if shows_only else runtime.telemetry,
    )
    hourly = HourlyReport(
        database=ledger.database,
        counts=forwarder.counts,
        sent=lambda: delivery.sent,
        schedule=lambda: fetcher.schedule,
        clock=segment_clock,
        requests_per_day=config.segment.requests_per_day,
        say=partial(announce, _log),
        shows_only=shows_only,
    )
    sidecar = Sidecar(
        ledger=ledger,
        spool=spool,
        fetcher=fetcher,
        forwarder=forwarder,
        clock=segment_clock,
        interruptible=stop.interruptible,
        is_stopping=stop.is_requested,
        is_over=lambda: bool(delivery.over),
        end_sending=delivery.end,
        once=once,
        progress=runtime.progress.forwarding,
        hourly=hourly,
        heartbeat=runtime.heartbeat,
        shows_only=shows_only,
        wait_seconds=wait_seconds,
        monotonic=stop.monotonic,
    )
    return Polling(ledger, segment_clock, fetcher, forwarder, delivery, readiness, hourly, judging, sidecar)


def segment_api(config: RunConfig) -> SegmentApi:
    """The client of Segment's API. One exchange lasts no longer than `--wait`. Raises ConfigError."""
    token = token_source(config.segment)
    token()
    return SegmentApi(
        config.segment.url,
        token,
        USER_AGENT,
        timeout_seconds=timeout_within(config.delivery.wait_seconds, TIMEOUT_SECONDS),
        network=network_of(config.segment, os.environ),
    )


def _segment_clients(config: RunConfig) -> tuple[SegmentApi, Downloader]:
    limits = Limits(stall_seconds=timeout_within(config.delivery.wait_seconds, Limits().stall_seconds))
    network = network_of(config.segment, os.environ)
    return segment_api(config), Downloader(config.segment.download_hosts, USER_AGENT, limits, network)


def _check_window(config: RunConfig, ledger: Ledger, clock: Clock) -> None:
    """Warns of an odd window, and remembers what is asked for, unless the run only shows.

    Raises ConfigError, NoRoom, LedgerBroken.
    """
    for warning in check_window(config.segment, clock.now_ns(), fact_ns(ledger.database, SINCE)):
        _log.warning("%s", warning)
    if config.delivery.writes is None:
        note_polled(ledger, config.segment)


def _schedule_at(
    ledger: Ledger, config: SegmentConfig, now_ns: int, *, once: bool, only_wanted: bool
) -> ScheduleConfig:
    """What is asked for. What an earlier run wanted stays wanted: a restart must not lose hours."""
    if only_wanted:
        return ScheduleConfig(config.collections, since_ns=now_ns, once=True)
    return schedule_of(ledger.database, config, now_ns, once=once)


def _serve_health(runtime: Runtime, readiness: Readiness) -> None:
    """Answers `/healthz` and `/readyz` until the run ends, if an address is set. Raises ConfigError."""
    if runtime.config.health.address is None:
        return
    from faillog_otel.telemetry.health import MAX_CONNECTIONS, HealthServer

    host, port = runtime.config.health.address
    server = runtime.stack.enter_context(
        HealthServer(
            host,
            port,
            alive=lambda: {"loops": loops(runtime.heartbeat)},
            ready=lambda: {
                "loops": loops(runtime.heartbeat),
                "ledger": readiness.ledger(),
                "collector": collector(runtime.collector),
                "hours": readiness.hours(),
            },
            max_connections=max(1, min(MAX_CONNECTIONS, descriptors() // 4)),
        )
    )
    shown = f"[{host}]" if ":" in host else host
    _log.info("health: http://%s:%d/healthz and /readyz", shown, server.port)
