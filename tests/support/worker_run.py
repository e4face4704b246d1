"""A run by workers, put together as `run` does it, with parts as small as a test wants them."""

import io
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from faillog_otel.config import DeliveryConfig, MappingConfig, RunConfig
from faillog_otel.inputs.files import InputFile
from faillog_otel.ledger.kept_files import FileSink
from faillog_otel.pipeline.fork_server import ForkServer
from faillog_otel.pipeline.forwarder import Progress
from faillog_otel.pipeline.partition import MAX_OPEN_FILES, WorkQueue
from faillog_otel.pipeline.worker import Start
from faillog_otel.pipeline.workers import Workers
from support.delivery import targets

COMMAND = [sys.executable, "-P", "-m", "faillog_otel.app.worker_process"]
"""Starts a fork server as a new interpreter: the process of the tests has threads."""


def run_with_workers(
    files: Sequence[Path],
    endpoint: str,
    folder: Path,
    *,
    workers: int,
    size: int,
    batch_records: int = 20,
    is_stopping: Callable[[], bool] = lambda: False,
    progress: Progress = lambda _: None,
    max_open_files: int = MAX_OPEN_FILES,
    command: Sequence[str] = COMMAND,
    monotonic: Callable[[], float] = time.monotonic,
) -> Workers:
    """Forwards files in parts of `size` bytes; `folder` then has `quarantine` and `pending`, if need be.

    `command` starts a fork server. `monotonic` measures how long the workers may take to end after a signal.
    """
    delivery = DeliveryConfig(
        targets=targets(endpoint, "http/protobuf"), wait_seconds=0, batch_records=batch_records
    )
    quarantine, pending = str(folder / "quarantine"), str(folder / "pending")
    config = RunConfig(
        mapping=MappingConfig(), delivery=delivery, state_dir="", quarantine=quarantine, pending=pending
    )
    kept = FileSink(quarantine, pending, reference_ns=0)

    def opened(path: str) -> InputFile:
        return InputFile(path, io.BytesIO(), until_readable, Path(path).name)

    with (
        ForkServer(command) as server,
        Workers(
            workers,
            server,
            Start(config, 0),
            is_stopping=is_stopping,
            monotonic=monotonic,
            readable=lambda ours, seconds: select.select(ours, [], [], seconds)[0],
            say=lambda _what, _seconds: None,
        ) as running,
        closing(
            WorkQueue(
                list(map(str, files)), opened, workers=workers, size=size, max_open_files=max_open_files
            )
        ) as work,
    ):
        running.run(work, kept, progress)
        kept.close()
        return running


@contextmanager
def until_readable() -> Iterator[Callable[[int], object]]:
    """Waits for the first writer of a pipe: before, it reads as empty."""
    yield lambda descriptor: select.select([descriptor], [], [])


def child_processes(process: int) -> list[int]:
    """The processes that a process has started and that are not gone."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def worker_processes(process: int) -> list[int]:
    """The workers of a run, which its fork server has forked; the run may be in the process of the tests."""
    servers = child_processes(process)
    if process == os.getpid():
        servers = [
            each for each in servers if COMMAND[-1] in Path(f"/proc/{each}/cmdline").read_text().split("\0")
        ]
    return [worker for server in servers for worker in child_processes(server)]
