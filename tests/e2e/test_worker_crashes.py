"""A worker, or its run, that fails in the middle of a message; and messages larger than a socket holds."""

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from support.delivery import targets
from support.events import error, lines
from support.worker_run import COMMAND, run_with_workers

from faillog_otel.config import DeliveryConfig, MappingConfig, RunConfig
from faillog_otel.ledger.results import Accounted
from faillog_otel.pipeline.fork_server import ForkServer
from faillog_otel.pipeline.partition import Piece
from faillog_otel.pipeline.worker import (
    Channel,
    Drain,
    Forward,
    PartitionResult,
    Report,
    Start,
    encode,
    read_report,
)
from faillog_otel.sandbox.collector import Receiver

BREAKS_OFF = [
    *(sys.executable, "-P", "-c"),
    """
import os, signal, socket, sys
from faillog_otel.app import run_files
from faillog_otel.pipeline.fork_server import serve
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.pipeline.worker import (
    BuildIndex, Channel, Forward, IndexBuilt, Ready, Waits, encode, read_order
)

signal_name, mark, descriptor = sys.argv[1:]

def work(channel):
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return run_files.work(channel)
    channel.send(encode(Ready()))
    while not isinstance(order := read_order(channel.receive()[0]), Forward):
        if isinstance(order, BuildIndex):
            channel.send(encode(IndexBuilt([0] * len(order.pieces), ExchangeIndex(is_part=True).part())))
            channel.send(encode(Ready()))
    ours, theirs = socket.socketpair()
    Channel(ours).send(encode(Waits("never said", 1.0)))
    end = socket.socket(fileno=channel.fileno())
    end.sendall(theirs.recv(1000)[:-5])
    os.kill(os.getpid(), getattr(signal, signal_name))

serve(Channel(socket.socket(fileno=int(descriptor))), work)
""",
]
"""The first worker receives a part, sends most of a message, and gets a signal; the others are real ones."""


DIES_OF_A_FILE = [
    *(sys.executable, "-P", "-c"),
    """
import os, signal, socket, sys
from faillog_otel.app import run_files
from faillog_otel.pipeline.fork_server import serve
from faillog_otel.pipeline.worker import Channel, Worker

build_index = Worker._build_index

def die_of_a_file(worker, pieces, descriptors):
    if pieces[0].name == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    build_index(worker, pieces, descriptors)

Worker._build_index = die_of_a_file
serve(Channel(socket.socket(fileno=int(sys.argv[1]))), run_files.work)
""",
]
"""A real worker, except that it dies when it begins to index one of the files."""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_no_worker_survives_is_left_out_and_the_others_are_sent(
    tmp_path: Path, workers: int
) -> None:
    paths = [tmp_path / name for name in ("first", "deadly", "last")]
    for path in paths:
        path.write_bytes(lines(*[error(messageId=f"{path.name}{n}") for n in range(90)]))
    size = paths[0].stat().st_size // 3
    with Receiver() as receiver:
        done = run_with_workers(
            paths, receiver.http_endpoint, tmp_path, workers=workers, size=size, command=DIES_OF_A_FILE
        )
        assert done.problems == [
            "deadly: 3 workers crashed at the same records (signal 9); nothing of it was read"
        ]
        assert len(receiver.logs()) == done.counts.exported == 180


def test_a_worker_that_dies_in_the_middle_of_a_message_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "events"
    path.write_bytes(lines(*[error(messageId=f"m{n}") for n in range(100)]))
    with Receiver() as receiver:
        command = [*BREAKS_OFF, "SIGKILL", str(tmp_path / "mark")]
        done = run_with_workers(
            [path], receiver.http_endpoint, tmp_path, workers=1, size=10**6, command=command
        )
        assert (done.problems, done.counts.records, done.counts.exported) == ([], 100, 100)
        assert len(receiver.logs()) == 100
    assert caplog.messages == ["a worker crashed (signal 9) at events; another one continues"]


def test_a_worker_that_is_stopped_in_the_middle_of_a_message_holds_up_no_other(tmp_path: Path) -> None:
    """The others go on, and a signal ends the run: a worker that does not answer is killed."""
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(lines(*[error(messageId=f"{path.name}{n}") for n in range(30)]))
    size = paths[0].stat().st_size
    bytes_done = 0

    def progress(accounted: Accounted) -> None:
        nonlocal bytes_done
        bytes_done += accounted.delivered

    with Receiver() as receiver:
        done = run_with_workers(
            paths,
            receiver.http_endpoint,
            tmp_path,
            workers=2,
            size=size,
            is_stopping=lambda: bytes_done == 2 * size,
            progress=progress,
            command=[*BREAKS_OFF, "SIGSTOP", str(tmp_path / "mark")],
            monotonic=lambda: 20 * time.monotonic(),
        )
        assert (done.counts.records, done.counts.exported) == (60, 60)
        assert len(receiver.logs()) == 60
        assert sorted(done.stopped_at.values(), key=str) == [0, None, None]


@contextmanager
def started_worker(endpoint: str, stderr: Path) -> Iterator[tuple[Callable[[], int | None], Channel]]:
    """What waits for a worker of this process that has its first order, and the channel to it."""
    delivery = DeliveryConfig(targets=targets(endpoint, "http/protobuf"), wait_seconds=0)
    config = RunConfig(mapping=MappingConfig(), delivery=delivery, state_dir="", quarantine="", pending="")
    with ForkServer(COMMAND) as server:
        with stderr.open("wb") as file:
            process, channel = server.start_worker(file.fileno())
        channel.send(encode(Start(config, 0)))
        yield partial(server.wait, process), channel
        channel.close()


def reports(channel: Channel) -> Iterator[Report]:
    """What a worker reports."""
    while True:
        select.select([channel], [], [])
        yield from map(read_report, channel.receive_available())


def test_large_messages_in_both_directions_do_not_deadlock(tmp_path: Path) -> None:
    """Each is many times what a socket holds, and none is received before all orders are sent."""
    path = tmp_path / "events"
    path.write_bytes(b"{ broken\n")
    name = "n" * 2**20
    with (
        Receiver() as receiver,
        path.open("rb") as file,
        started_worker(receiver.http_endpoint, tmp_path / "stderr") as (wait, channel),
    ):
        for part in range(5):
            piece = Piece(name, 0, path.stat().st_size)
            channel.send(encode(Forward(part, [piece])), [file.fileno()])
            channel.send(encode(Drain()))
        found: list[PartitionResult] = []
        for report in reports(channel):
            if isinstance(report, PartitionResult):
                found.append(report)
                if sum(each.is_last for each in found) == 5:
                    break
        entries = [kept.entry for each in found for kept in each.kept]
        assert len(entries) == 5
        assert all(len(entry) > 2**20 for entry in entries)
        channel.close()
        assert wait() == 0


def test_a_worker_ends_with_a_run_that_dies_in_the_middle_of_an_order(tmp_path: Path) -> None:
    """Also if the run had not read all reports: then the connection is reset."""
    with (
        Receiver() as receiver,
        started_worker(receiver.http_endpoint, tmp_path / "stderr") as (wait, channel),
    ):
        select.select([channel], [], [])
        here, there = socket.socketpair()
        with here, there:
            Channel(here).send(encode(Forward(0, [Piece("events", 0, 10)])))
            with socket.socket(fileno=os.dup(channel.fileno())) as end:
                end.sendall(there.recv(1000)[:-5])
        channel.close()
        assert wait() == 0
    assert tmp_path.joinpath("stderr").read_bytes() == b""
