"""Settings → the workers of a run over PATHs: whether there are any, how many, and how they are started."""

import logging
import os
import resource
import stat
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec.structs import replace

from faillog_otel.app.orders import Start
from faillog_otel.app.parts import SMALLEST_BYTES, max_workers
from faillog_otel.app.workers import Workers
from faillog_otel.cli.shutdown import Shutdown
from faillog_otel.config import RunConfig, SegmentConfig, TelemetryConfig
from faillog_otel.events.unpack import is_packed
from faillog_otel.otlp.patience import WaitNotices
from faillog_otel.segment.paths import STDIN, FoundPaths

_log = logging.getLogger(__name__)

LARGE_BYTES = 8 * SMALLEST_BYTES
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
            [sys.executable, "-P", "-m", "faillog_otel.cli.worker"],
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
            return (1 if is_packed(file.read(_START_BYTES)) else max(1, length // SMALLEST_BYTES)), length
    except OSError:
        return 1, 0  # that will be said when it is read


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
