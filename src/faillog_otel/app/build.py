"""Composition of every run: the client, the delivery, the forwarder, telemetry and the heartbeats."""

import errno
import logging
import os
import random
import resource
import signal
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from types import TracebackType
from typing import IO, Self

from faillog_otel import __version__
from faillog_otel.app.progress import NoProgressLine, progress_line
from faillog_otel.app.readiness import InstrumentedClient, Readiness, collector, loops
from faillog_otel.app.signals import GRACE_SECONDS, Shutdown
from faillog_otel.config import DeliveryConfig, RunConfig, Signal
from faillog_otel.errors import ConfigError
from faillog_otel.events.failure_counts import BatchFailures
from faillog_otel.ledger.results import Counts
from faillog_otel.otlp.delivery import Delivery, Flush, Writer, in_flight, network_client, writing_client
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.otlp.failure_notes import NO_NOTES, FailureNotes
from faillog_otel.otlp.http import wrong_port
from faillog_otel.otlp.outcome import Acknowledged, Outcome
from faillog_otel.otlp.sender import Backoff, Client, Say
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.pipeline.workers import Workers
from faillog_otel.telemetry import (
    NO_HEARTBEAT,
    NO_TELEMETRY,
    FileHeartbeat,
    Gauge,
    Heartbeat,
    NoTelemetry,
    Telemetry,
)
from faillog_otel.telemetry.output import results_stream, takes_escapes
from faillog_otel.tls import tls_context

_log = logging.getLogger(__name__)

USER_AGENT = f"faillog-otel/{__version__}"


class NoCollector:
    """Acknowledges all records, and drops them: `check` only counts."""

    def send(self, _signal: Signal, _records: Sequence[bytes]) -> Outcome:
        """Acknowledges records."""
        return Acknowledged()

    def close(self) -> None:
        """Does nothing."""


class Runtime:
    """The parts that every run has. A context manager: leaving it closes them in reverse order."""

    def __init__(
        self,
        config: RunConfig,
        signals: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        """`signals` end the run."""
        self.config = config
        self.stop = Shutdown(signals)
        """Whether a signal asked for the end. Also the clock of everything that waits."""
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
        """Creates the network client, which reads the certificates. Raises ConfigError."""
        if self.config.delivery.counts_only:
            self._network = NoCollector()
        elif self.config.delivery.writes is None:
            self._network = network_client(self.config.delivery, self.config.mapping.resource, USER_AGENT)

    def drop_client(self) -> None:
        """Closes the client: workers have their own."""
        if self._network is not None:
            self._network.close()

    def start_progress(self) -> None:
        """Shows the progress line if there is a terminal."""
        self.progress = progress_line(self.config, self.stop.monotonic, self.stack)

    def start_telemetry(self, *read_names: dict[str, str]) -> None:
        """Sends our own metrics if an endpoint is set. Raises ConfigError.

        `read_names`: destination id → the name that Segment says; the names of the settings come first.
        """
        target = self.config.telemetry.target
        names = ChainMap(self.config.mapping.destination_names, *read_names)
        if target is None:
            self.telemetry = NoTelemetry(names)
            return
        if target.url.startswith("https:"):
            tls_context(target)  # raises ConfigError if a file is not usable
        # OTEL_* configures the forwarded data, and has been read. The SDK would use it for our own metrics.
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            del os.environ[name]
        from faillog_otel.telemetry.metrics import OtelTelemetry

        telemetry = OtelTelemetry(self.config.telemetry, target, names, __version__, wrong_port)
        self.stack.callback(telemetry.close)
        self.telemetry = telemetry

    def start_heartbeat(self) -> None:
        """Records heartbeats if a health setting asks for them. Raises ConfigError."""
        health = self.config.health
        if health.address is not None or health.file is not None:
            self.heartbeat = FileHeartbeat(self.stop.monotonic, health.file)

    def deliver(self, say: Say | None = None) -> Delivery:
        """Starts the delivery to the collector, the file or the terminal. Raises ConfigError.

        `say` receives the reason of each wait; by default it is logged.
        """
        delivery_config = self.config.delivery
        client = self._network
        flush: Flush | None = None
        if client is None:
            client = writer = self._writer()
            flush = writer.flush
        self.collector = InstrumentedClient(client, self.telemetry, self.stop)
        # A write that failed will fail again; a collector may recover.
        wait_seconds = 0.0 if delivery_config.writes else delivery_config.wait_seconds
        delivery = Delivery(
            self.collector,
            Backoff(wait_seconds, self.stop, random.Random(), say),
            signals=delivery_config.signals,
            in_flight=in_flight(delivery_config),
            waiting=self._waiting,
            flush=flush,
        )
        self.stack.callback(delivery.close)
        self.watch_retries(delivery)
        return delivery

    def serve_health(self, readiness: Readiness, now_ns: Callable[[], int]) -> None:
        """Answers `/healthz`, `/readyz` and `/` until the run ends, if an address is set. Raises ConfigError.

        `now_ns`: the time of the page at `/`, which is made on a thread of its own.
        """
        if self.config.health.address is None:
            return
        from faillog_otel.app.page import live_page
        from faillog_otel.telemetry.health import MAX_CONNECTIONS, HealthServer

        host, port = self.config.health.address
        server = self.stack.enter_context(
            HealthServer(
                host,
                port,
                alive=lambda: {"loops": loops(self.heartbeat)},
                ready=lambda: {
                    "loops": loops(self.heartbeat),
                    "ledger": readiness.ledger(),
                    "collector": collector(self.collector),
                    "hours": readiness.hours(),
                },
                page=lambda: live_page(self.config, now_ns()),
                max_connections=max(1, min(MAX_CONNECTIONS, descriptors() // 4)),
            )
        )
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{server.port}"
        _log.info("health: %s/healthz and /readyz; the page of failures: %s/", url, url)

    def watch_retries(self, delivery: Delivery | Workers) -> None:
        """Adds the gauge of every run."""
        self.telemetry.observe(
            Gauge(
                "faillog.export.retries",
                "{request}",
                "Requests with forwarded data that were not the first one of their batch: retries, probes",
                lambda: {(): delivery.sent.retries},
                is_counter=True,
            )
        )

    def watch_pending(self, counts: Counts) -> None:
        """Adds the gauge of a run over PATHs."""
        self.telemetry.observe(
            Gauge(
                "faillog.pending",
                "{record}",
                "Records that this run did not deliver",
                lambda: {(): counts.pending},
            )
        )

    def forwarder(
        self,
        delivery: Delivery,
        telemetry: Telemetry = NO_TELEMETRY,
        *,
        config: DeliveryConfig | None = None,
        sends_rejected: bool = False,
        notes: FailureNotes = NO_NOTES,
        take_failures: Callable[[BatchFailures], object] = lambda _: None,
    ) -> Forwarder:
        """Returns a forwarder to `delivery`.

        `config` replaces the run's batch sizes. `sends_rejected`: also send records of partly rejected
        requests. `notes` and `take_failures`: as for `Forwarder`.
        """
        return Forwarder(
            encoder=self._encoder,
            delivery=delivery,
            config=config or self.config.delivery,
            is_stopping=self.heartbeat.beat_on_call("forwarding", self.stop.is_requested),
            sends_rejected=sends_rejected,
            max_content_bytes=self.config.max_content_bytes,
            telemetry=telemetry,
            notes=notes,
            take_failures=take_failures,
        )

    @cached_property
    def _encoder(self) -> WireEncoder:
        return WireEncoder(self.config.mapping)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Pauses the heartbeat while the loop waits for the collector; a signal ends the wait."""
        with self.heartbeat.paused("forwarding"), self.stop.interruptible(GRACE_SECONDS):
            yield

    def _writer(self) -> Writer:
        """Returns the client that writes to a file or the terminal. Raises ConfigError.

        If the reader of standard output closes it, the run ends as with SIGPIPE.
        """
        output = self.config.delivery.output
        file: IO[bytes] = open(1, "wb", buffering=0, closefd=False)  # noqa: SIM115  # standard output
        if output is not None:
            try:
                opened = open(output, "wb", buffering=0, opener=_without_waiting)  # noqa: SIM115  # until the end
                file = self.stack.enter_context(opened)
            except OSError as error:
                is_unread = error.errno == errno.ENXIO
                why = "no process reads this pipe; start its reader first" if is_unread else error.strerror
                raise ConfigError(f"--output {output}: {why}") from None
        return writing_client(
            self.config.delivery,
            self.config.mapping.resource,
            file,
            results_stream(),
            on_closed=lambda: self.stop.request(signal.SIGPIPE),
            has_colours=takes_escapes(sys.stdout),
        )


def _without_waiting(name: str, flags: int) -> int:
    """Opens a pipe only if it has a reader: a signal could not interrupt the wait for one."""
    descriptor = os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def descriptors() -> int:
    """Returns how many files and connections this process may have open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
