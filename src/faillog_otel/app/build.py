"""Settings → the workers of a run over PATHs: whether there are any, how many, and how they are started."""

import errno
import logging
import os
import random
import resource
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from msgspec.structs import replace

from faillog_otel import __version__
from faillog_otel.app.readiness import InstrumentedClient, Readiness, collector, loops
from faillog_otel.app.signals import GRACE_SECONDS, Shutdown
from faillog_otel.config import HealthConfig, RunConfig, Secret, SegmentConfig, TelemetryConfig, token_problem
from faillog_otel.errors import ConfigError
from faillog_otel.files import read_small_text
from faillog_otel.inputs.decompress import is_packed
from faillog_otel.inputs.files import STDIN, FoundPaths
from faillog_otel.ledger.results import Counts
from faillog_otel.otlp.backoff import Backoff, Say, WaitNotices
from faillog_otel.otlp.delivery import Delivery, in_flight, network_client, writing_client
from faillog_otel.otlp.port_check import wrong_port
from faillog_otel.otlp.sender import Client
from faillog_otel.pipeline.partition import MIN_BYTES, max_workers
from faillog_otel.pipeline.worker_protocol import Start
from faillog_otel.pipeline.workers import Workers
from faillog_otel.telemetry.api import NO_TELEMETRY, Gauge, Telemetry
from faillog_otel.telemetry.heartbeat import NO_HEARTBEAT, FileHeartbeat, Heartbeat
from faillog_otel.telemetry.output import results_stream
from faillog_otel.tls import tls_context

# -- delivering ----------------------------------------------------------------------------------------------
#
# Settings → the way to the collector, for every kind of run.


USER_AGENT = f"faillog-otel/{__version__}"


def token_source(config: SegmentConfig) -> Callable[[], Secret]:
    """Gives the token for each request; a file is read anew. Raises ConfigError where there is none."""

    def read() -> Secret:
        if config.token is not None:
            return config.token
        if config.token_file is None:
            raise ConfigError("no token: set SEGMENT_TOKEN or SEGMENT_TOKEN_FILE")
        try:
            text = read_small_text(config.token_file).strip()
        except ConfigError as error:
            raise ConfigError(f"SEGMENT_TOKEN_FILE: {error}") from None
        if not text:
            raise ConfigError(f"SEGMENT_TOKEN_FILE: {config.token_file}: is empty; write the token into it")
        if problem := token_problem(text):
            raise ConfigError(f"SEGMENT_TOKEN_FILE: {config.token_file}: the token {problem}")
        return Secret(text)

    return read


def sending_client(config: RunConfig) -> Client:
    """The client for targets on the network. Raises ConfigError."""
    return network_client(config.delivery, config.mapping.resource, USER_AGENT)


def writing(config: RunConfig, shutdown: Shutdown, stack: ExitStack) -> Client:
    """The client that writes to a file or the terminal. Raises ConfigError.

    If the reader of standard output closes it, the run ends as by SIGPIPE.
    """
    file: IO[bytes] = open(1, "wb", buffering=0, closefd=False)  # noqa: SIM115  # standard output
    if config.delivery.output is not None:
        try:
            opened = open(  # noqa: SIM115  # until the run ends
                config.delivery.output, "wb", buffering=0, opener=_without_waiting
            )
            file = stack.enter_context(opened)
        except OSError as error:
            is_unread = error.errno == errno.ENXIO
            why = "is a pipe that nobody reads; start its reader first" if is_unread else error.strerror
            raise ConfigError(f"--output {config.delivery.output}: {why}") from None
    return writing_client(
        config.delivery,
        config.mapping.resource,
        file,
        results_stream(),
        on_closed=lambda: shutdown.request(signal.SIGPIPE),
    )


def _without_waiting(name: str, flags: int) -> int:
    """Opens a pipe only if it has a reader: no signal could end the wait for one."""
    descriptor = os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    os.set_blocking(descriptor, True)
    return descriptor


def delivering(
    client: Client,
    config: RunConfig,
    shutdown: Shutdown,
    stack: ExitStack,
    *,
    heartbeat: Heartbeat = NO_HEARTBEAT,
    say: Say | None = None,
) -> Delivery:
    """Delivers through the client until the stack is left; who waits for it rests.

    `say` takes what requests wait for; by default it is logged.
    """

    @contextmanager
    def waiting() -> Iterator[None]:
        with heartbeat.paused("forwarding"), shutdown.interruptible(GRACE_SECONDS):
            yield

    # What cannot be written stays so; a collector may come back.
    wait_seconds = 0.0 if config.delivery.writes else config.delivery.wait_seconds
    signals = config.delivery.signals
    if config.delivery.writes == "console":  # it takes a batch's spans before its logs
        signals = tuple(sorted(signals, reverse=True))
    delivery = Delivery(
        client,
        Backoff(wait_seconds, shutdown, random.Random(), say),
        signals=signals,
        in_flight=in_flight(config.delivery),
        waiting=waiting,
    )
    stack.callback(delivery.close)
    return delivery


# -- working -------------------------------------------------------------------------------------------------


_log = logging.getLogger(__name__)

LARGE_BYTES = 8 * MIN_BYTES
"""Less is forwarded before a second process has started."""

_START_BYTES = 16


def number_of_workers(paths: Sequence[str], config: RunConfig) -> int:
    """How many processes share the work; 1: it is done in this one.

    No more than there are parts: a compressed file, an array, or a small file is one. A file or terminal
    that is written to takes records in the order of the files.
    """
    if config.delivery.writes or config.workers == 1:
        return 1
    asked = config.workers or _cores()
    parts, size = 0, 0
    replayed = {os.path.realpath(config.quarantine), os.path.realpath(config.pending)}
    for name in FoundPaths(paths, ()).files:
        more, length = (1, 0) if os.path.realpath(name) in replayed else _parts(name)
        parts, size = parts + (more or asked), size + length
    if config.workers is None and size < LARGE_BYTES:
        return 1
    possible = max_workers(descriptors())
    if possible < min(config.workers or 1, parts):
        _log.warning(
            "only %d files may be open at a time: starting %d of %d workers; raise the limit (ulimit -n)",
            descriptors(),
            possible,
            asked,
        )
    return min(asked, parts, possible)


def descriptors() -> int:
    """How many files and connections this process may have open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def only_forwarding(config: RunConfig) -> RunConfig:
    """The settings that workers need, without the secrets that they do not."""
    return replace(config, segment=SegmentConfig(), telemetry=TelemetryConfig())


def working(
    number: int, start: Start, shutdown: Shutdown, stack: ExitStack, stderr: int | None
) -> Workers | None:
    """Workers until the stack is left; none where one process does the work.

    `stderr`: the descriptor of their standard error, by default that of this process.
    """
    if number <= 1:
        return None
    return stack.enter_context(
        Workers(
            number,
            # -P: what lies in the working directory is none of our modules.
            [sys.executable, "-P", "-m", "faillog_otel.app.worker_process"],
            start,
            is_stopping=shutdown.is_requested,
            readable=shutdown.readable,
            monotonic=shutdown.monotonic,
            stderr=stderr,
            say=WaitNotices(shutdown).say,
        )
    )


def _parts(name: str) -> tuple[int, int]:
    """Of how many parts a file may be at the most, and its bytes; (0, 0) where nobody knows yet."""
    if name == STDIN:
        return 0, 0
    try:
        if not stat.S_ISREG(os.stat(name).st_mode):  # noqa: PTH116  # PATHs are texts as typed
            return 0, 0
        with Path(name).open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            return (1 if is_packed(file.read(_START_BYTES)) else max(1, length // MIN_BYTES)), length
    except OSError:
        return 1, 0  # that will be said when it is read


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


# -- observing -----------------------------------------------------------------------------------------------
#
# Settings → what a run tells of itself: our own metrics, and whether it is healthy.


def telemetry_of(config: RunConfig, stack: ExitStack) -> Telemetry:
    """Our own metrics until the stack is left; nobody, where no endpoint is set. Raises ConfigError."""
    target = config.telemetry.target
    if target is None:
        return NO_TELEMETRY
    if target.url.startswith("https:"):
        tls_context(target)  # says what is wrong with the files
    # OTEL_* is about the forwarded data, and has been read; the SDK would read it again for itself.
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]
    from faillog_otel.telemetry.metrics import OtelTelemetry

    telemetry = OtelTelemetry(
        config.telemetry, target, config.mapping.destination_names, __version__, wrong_port
    )
    stack.callback(telemetry.close)
    return telemetry


def watch_delivery(telemetry: Telemetry, delivery: Delivery | Workers) -> None:
    """The gauges of every run."""
    telemetry.watch(
        Gauge(
            "faillog.export.retries",
            "{request}",
            "Requests with forwarded data that were not the first one of their batch: tries again, probes",
            lambda: {"": delivery.sent.retries},
            only_grows=True,
        )
    )


def pending_of(counts: Counts) -> Gauge:
    """The gauge of a run over PATHs."""
    return Gauge(
        "faillog.pending",
        "{record}",
        "Records that this run did not deliver",
        lambda: {"": counts.pending},
    )


def heartbeat_of(config: HealthConfig, monotonic: Callable[[], float]) -> Heartbeat:
    """The pulse where somebody feels it. Raises ConfigError."""
    if config.address is None and config.file is None:
        return NO_HEARTBEAT
    return FileHeartbeat(monotonic, config.file)


def serve_health(
    config: HealthConfig,
    heartbeat: Heartbeat,
    answers: InstrumentedClient,
    standing: Readiness,
    stack: ExitStack,
) -> None:
    """Answers `/healthz` and `/readyz` until the stack is left, if an address is set. Raises ConfigError."""
    if config.address is None:
        return
    from faillog_otel.telemetry.health import MAX_CONNECTIONS, HealthServer

    host, port = config.address
    server = stack.enter_context(
        HealthServer(
            host,
            port,
            alive=lambda: {"loops": loops(heartbeat)},
            ready=lambda: {
                "loops": loops(heartbeat),
                "ledger": standing.ledger(),
                "collector": collector(answers),
                "hours": standing.hours(),
            },
            max_connections=max(1, min(MAX_CONNECTIONS, descriptors() // 4)),
        )
    )
    shown = f"[{host}]" if ":" in host else host
    _log.info("healthy? http://%s:%d/healthz and /readyz", shown, server.port)
