"""Several processes on the same files: nobody can tell, but from the time it takes."""

import gzip
import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins
from support.events import attempt, error, exchange, lines
from support.program import PROGRAM, Done, environment, run_program, start_program
from support.tiers import slow_case, swept
from support.worker_run import run_with_workers, worker_processes

from faillog_otel.config import Signal
from faillog_otel.pipeline.workers import MAX_CRASHES
from faillog_otel.sandbox.collector import Receiver, Reply


def events(count: int, name: str = "") -> bytes:
    """Attempts before and after their exchanges, exchanges with one id, bad and blank lines."""
    found = []
    for n in range(count):
        found.append(attempt(messageId=f"{name}m{n}", destinationExchangeId=f"{name}x{(n * 7) % count}"))
        found.append(error(messageId=f"{name}e{n}"))
        if n % 5 == 0:
            status = {"status": 400 + n % 99, "body": "no"}
            name_of = f"{name}x{n % (count // 2)}"
            again = exchange(destinationExchangeId=name_of, responseFromDestination=status)
            found += [again] * (1 + n % 2)
        if n % 11 == 0:
            found += [b"{ broken", b"", attempt(messageId=f"{name}bad{n}", attempt="four")]
    return b"\xef\xbb\xbf" + lines(*found)


def records(receiver: Receiver) -> tuple[list[bytes], list[bytes]]:
    logs, spans = receiver.logs(), receiver.spans()
    return (
        sorted(log.SerializeToString() for log in logs),
        sorted(span.SerializeToString() for span in spans),
    )


def uids(receiver: Receiver) -> list[str]:
    return [
        pair.value.string_value
        for log in receiver.logs()
        for pair in log.attributes
        if pair.key == "log.record.uid"
    ]


def away() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def keeps_the_law(summary: dict[str, Any]) -> bool:
    outcomes = ("exported", "rejected", "quarantined", "pending", "duplicate")
    return summary["records"] == sum(summary[name] for name in outcomes) and (
        summary["lines"] in (0, summary["records"] + summary["blank"])
    )


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def test_any_number_of_workers_gives_the_same_result(tmp_path: Path) -> None:
    """Bytes, counts, and the quarantine in the order of the files; cut, packed, whole and small files."""
    one, two, three = tmp_path / "1.jsonl", tmp_path / "2.gz", tmp_path / "3.json"
    one.write_bytes(events(60))
    two.write_bytes(gzip.compress(events(20, "z")))
    three.write_bytes(b"[" + b",".join([error(messageId=f"a{n}") for n in range(30)]) + b", 5]")
    small = [tmp_path / f"s{n}" for n in range(5)]
    for n, each in enumerate(small):
        each.write_bytes(lines(error(messageId=f"s{n}"), b"x"))
    found = []
    for workers, size in ((1, 10**9), (1, 2000), (2, 2000), (3, 5000)):
        folder = tmp_path / f"{workers}-{size}"
        folder.mkdir()
        with Receiver() as receiver:
            done = run_with_workers(
                [one, *small, two, three], receiver.http_endpoint, folder, workers=workers, size=size
            )
            assert done.problems == []
            kept = folder.joinpath("quarantine").read_bytes()
            found.append((records(receiver), to_builtins(done.counts), done.reasons, kept))
    assert found[0][1]["exported"] > 200
    for other in found[1:]:
        assert other == found[0]


def test_the_output_is_the_same_with_workers(tmp_path: Path) -> None:
    """Parts are of a MiB at least: a file of 3 MiB has some."""
    data = events(4500)
    assert len(data) > 3 * 2**20
    tmp_path.joinpath("events").write_bytes(data)
    found = []
    for number in ("1", "2"):
        with Receiver() as receiver:
            done = run_program(
                *("run", "events", "--endpoint", receiver.http_endpoint, "--summary", "json"),
                *("--workers", number, "--fail-on", "discarded"),
                cwd=tmp_path,
            )
            summary = done.summary
            for name in ("requests", "seconds"):
                del summary[name]
            for group in summary["groups"]:
                del group["sample"]  # one of those that a process met first
            found.append((done.code, summary, records(receiver)))
        (tmp_path / "faillog-quarantine.jsonl").rename(tmp_path / f"kept-{number}")
    assert found[0] == found[1]
    assert found[0][0] == 1
    places = [
        [(each["line"], each["offset"], each["raw"]) for each in entries(tmp_path / f"kept-{n}")]
        for n in "12"
    ]
    assert places[0] == places[1]
    assert len(places[0]) > 700


def run_with(
    tmp_path: Path, script: Callable[[int, int], Reply | None], *args: str
) -> tuple[Done, list[str]]:
    """Runs two workers; each request is told to `script` with its number and the run's process id."""
    requests = itertools.count()
    pid: list[int] = []

    def scripted(_signal: Signal, _body: bytes) -> Reply | None:
        return script(next(requests), pid[0])

    with Receiver(scripted) as receiver:
        with start_program(
            *("run", *args, "--endpoint", receiver.http_endpoint, "--summary", "json", "--workers", "2"),
            cwd=tmp_path,
        ) as process:
            pid.append(process.pid)
            stdout, stderr = process.communicate(timeout=60)
        return Done(process.returncode, stdout, stderr.decode()), uids(receiver)


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """Some records may come twice, with the same ids."""
    tmp_path.joinpath("events").write_bytes(events(4000))
    with Receiver() as receiver:
        run_program("run", "events", "--endpoint", receiver.http_endpoint, cwd=tmp_path)
        expected = uids(receiver)
    tmp_path.joinpath("faillog-quarantine.jsonl").unlink()

    def killing(request: int, pid: int) -> Reply | None:
        if request in (4, 9):
            os.kill(worker_processes(pid)[0], signal.SIGKILL)
        return None

    done, found = run_with(tmp_path, killing, "events")
    assert done.code == 3
    assert set(found) == set(expected)
    assert done.summary["exported"] == len(expected)
    assert keeps_the_law(done.summary)
    assert "a worker crashed (signal 9) at events, bytes" in done.stderr
    assert len(entries(tmp_path / "faillog-quarantine.jsonl")) == done.summary["quarantined"]


def test_a_part_that_crashes_every_worker_is_given_up_and_the_rest_delivered(tmp_path: Path) -> None:
    """As a PATH that cannot be read on: the run ends with 2."""
    deadly, others = tmp_path / "deadly", tmp_path / "others"
    deadly.write_bytes(lines(*[error(messageId=f"deadly{n}") for n in range(30)]))
    others.write_bytes(lines(*[error(messageId=f"o{n}") for n in range(30)]))

    def killing(_signal: Signal, body: bytes) -> Reply | None:
        if b"deadly29)" in body:
            for child in worker_processes(os.getpid()):
                os.kill(child, signal.SIGKILL)
            return Reply(hangs_up=True)
        return None

    with Receiver(killing) as receiver:
        done = run_with_workers([deadly, others], receiver.http_endpoint, tmp_path, workers=1, size=5000)
        (problem,) = done.problems
        assert problem.startswith(f"deadly: {MAX_CRASHES} workers crashed at the same records (signal 9); ")
        assert 30 <= done.counts.records == done.counts.exported < 60
        said = {record.body.string_value for record in receiver.logs()}
        assert sum("message o" in each for each in said) == 30


def test_without_room_for_temporary_files_a_file_is_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(lines(*[attempt(messageId=f"m{n}") for n in range(300)], exchange()))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Receiver() as receiver:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            done = run_with_workers([path], receiver.http_endpoint, tmp_path, workers=2, size=2000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (done.problems, done.counts.exported) == ([], 301)
        assert {span.status.message for span in receiver.spans()} == {"HTTP 418"}


def test_a_record_that_the_collector_refuses_is_told_from_all_others(tmp_path: Path) -> None:
    """By the worker that sends it: another record of its part was taken."""
    tmp_path.joinpath("events").write_bytes(lines(*[error(messageId=f"m{n}.") for n in range(9000)]))

    def refusing(_signal: Signal, body: bytes) -> Reply | None:
        if b"m77.)" in body or b"m8888.)" in body:
            return Reply(400, b"no", {"content-type": "text/plain"})
        return None

    with Receiver(refusing) as receiver:
        done = run_program(
            *("run", "events", "--endpoint", receiver.http_endpoint, "--summary", "json", "--workers", "2"),
            cwd=tmp_path,
        )
        assert (done.code, done.summary["exported"], done.summary["quarantined"]) == (3, 8998, 2)
    kept = entries(tmp_path / "faillog-quarantine.jsonl")
    assert [(each["reason"], each["line"]) for each in kept] == [("refused", 78), ("refused", 8889)]


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    tmp_path.joinpath("events").write_bytes(events(4000))
    started: set[int] = set()

    def killing(_request: int, pid: int) -> Reply | None:
        if not started:
            started.update(worker_processes(pid))
            os.kill(pid, signal.SIGKILL)
        return Reply(delay_seconds=60)

    requests = itertools.count()
    pid: list[int] = []
    with (
        Receiver(lambda _signal, _body: killing(next(requests), pid[0])) as receiver,
        start_program(
            *("run", "events", "--endpoint", receiver.http_endpoint, "--workers", "2"), cwd=tmp_path
        ) as process,
    ):
        pid.append(process.pid)
        _, stderr = process.communicate(timeout=60)  # they hold standard error open as long as they live
    assert process.returncode == -signal.SIGKILL
    assert len(started) == 2
    assert stderr.count(b"Traceback") == 0


def test_sigterm_ends_all_workers_and_the_counts_add_up(tmp_path: Path) -> None:
    """What was under way is pending or exported; nothing more is taken in, and no process stays."""
    tmp_path.joinpath("events").write_bytes(events(6000))
    started: set[int] = set()

    def stopping(request: int, pid: int) -> Reply | None:
        started.update(worker_processes(pid))
        if request == 3:
            os.kill(pid, signal.SIGTERM)
        return Reply(delay_seconds=30) if request >= 3 else None

    done, _ = run_with(tmp_path, stopping, "events")
    assert done.code == 128 + signal.SIGTERM
    assert keeps_the_law(done.summary)
    assert 0 < done.summary["records"] < 12_000
    assert done.summary["pending"] == len(entries(tmp_path / "faillog-pending.jsonl")) > 0
    assert len(started) == 2
    assert not any(Path(f"/proc/{each}").exists() for each in started)


@pytest.mark.parametrize("size", [2000, 10**9])
def test_what_is_not_delivered_is_pending_in_the_order_of_the_files(tmp_path: Path, size: int) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for each in files:
        each.write_bytes(events(60, each.name))
    found = []
    for number in (1, 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = run_with_workers(files, away(), folder, workers=number, size=size)
        assert done.counts.pending == len(entries(folder / "pending")) > 250
        assert done.over
        found.append([each | {"detail": ""} for each in entries(folder / "pending")])
    assert found[0] == found[1]
    places = [(each["file"], each["offset"]) for each in found[0]]
    assert places == sorted(places)


def test_standard_input_and_files_that_are_not_there(tmp_path: Path) -> None:
    tmp_path.joinpath("a").write_bytes(events(1000, "a"))
    with Receiver() as receiver:
        done = run_program(
            *("run", "-", "a", "nowhere", "--endpoint", receiver.http_endpoint, "--summary", "json"),
            cwd=tmp_path,
            stdin=events(2000, "stdin"),
            FAILLOG_WORKERS="2",
        )
        assert done.code == 2
        assert "nowhere: no such file" in done.stderr
        assert keeps_the_law(done.summary)
        assert len(uids(receiver)) == done.summary["exported"]
    files = [each["file"] for each in entries(tmp_path / "faillog-quarantine.jsonl")]
    assert [name for name, _ in itertools.groupby(files)] == ["<stdin>", "a"]


def test_the_pending_file_is_replayed_by_workers_too(tmp_path: Path) -> None:
    """Beside other files; what was read of it leaves it."""
    tmp_path.joinpath("events").write_bytes(events(1000))
    assert run_program("run", "events", "--endpoint", away(), "--wait", "0s", cwd=tmp_path).code == 4
    pending = tmp_path / "faillog-pending.jsonl"
    before = len(entries(pending))
    tmp_path.joinpath("more").write_bytes(lines(*[error(messageId=f"o{n}") for n in range(10)]))
    started: set[int] = set()
    done, found = run_with(
        tmp_path, lambda _request, pid: started.update(worker_processes(pid)), pending.name, "more"
    )
    assert done.code == 0
    assert done.summary["exported"] == len(found) == before + 10
    assert len(started) == 2
    assert not pending.exists()


def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    tmp_path.joinpath("a").write_bytes(events(10, "a"))
    tmp_path.joinpath("b").write_bytes(events(10, "b"))
    tmp_path.joinpath("msgspec.py").write_text("raise SystemExit('not this one')")
    with Receiver() as receiver:
        done = run_program(
            *("run", "a", "b", "--endpoint", receiver.http_endpoint, "--workers", "2"), cwd=tmp_path
        )
        assert done.code == 3, done.stderr


def test_polling_says_that_it_uses_one_process(tmp_path: Path) -> None:
    done = run_program(
        *("run", "--once", "--collection", "c", "--workers", "2"),
        *("--segment-url", away(), "--state-dir", "state"),
        cwd=tmp_path,
        SEGMENT_TOKEN="token",  # noqa: S106  # nobody's
    )
    assert "--workers" in done.stderr


# -- descriptors ---------------------------------------------------------------------------------------------


def run_with_few_descriptors(limit: int, tmp_path: Path, protocol: str = "http/protobuf") -> Done:
    """Runs 8 workers over 600 files of one record each; each process may open only so many files."""
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(600):
        folder.joinpath(f"{n}.jsonl").write_bytes(error(messageId=f"m{n}"))
    with Receiver() as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        arguments = ["run", "many", "--endpoint", endpoint, "--protocol", protocol, "--workers", "8"]
        done = subprocess.run(
            [
                "/bin/sh",
                "-c",
                f'ulimit -n {limit}; exec "$@"',
                "sh",
                PROGRAM,
                *arguments,
                "--summary",
                "json",
            ],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            timeout=100,
            check=False,
        )
    return Done(done.returncode, done.stdout, done.stderr.decode())


@pytest.mark.parametrize("protocol", swept(["http/protobuf", "grpc"], ["http/protobuf"]))
def test_many_small_files_take_few_descriptors(tmp_path: Path, protocol: str) -> None:
    """One record fills no batch: hundreds of files are under way at once."""
    done = run_with_few_descriptors(128, tmp_path, protocol)
    assert (done.code, done.stderr) == (0, ""), done.stderr
    assert done.summary["exported"] == 600


@pytest.mark.parametrize(("limit", "workers"), [(46, 2), slow_case(40, 1), slow_case(20, 1)])
def test_where_few_descriptors_are_allowed_fewer_workers_are_started(
    tmp_path: Path, limit: int, workers: int
) -> None:
    done = run_with_few_descriptors(limit, tmp_path)
    assert done.code == 0, done.stderr
    assert done.summary["exported"] == 600
    assert done.stderr == (
        f"warning: only {limit} files may be open at a time: starting {workers} of 8 workers; "
        "raise the limit (ulimit -n)\n"
    )


def test_more_pipes_than_may_be_open_are_read_one_after_the_other(tmp_path: Path) -> None:
    """Each pipe is copied, and a copy cannot be closed before it is read."""
    pipes = [tmp_path / f"pipe{n}" for n in range(60)]
    for pipe in pipes:
        os.mkfifo(pipe)

    def write() -> None:
        for n, pipe in enumerate(pipes):
            pipe.write_bytes(error(messageId=f"m{n}"))

    writing = threading.Thread(target=write)
    writing.start()
    with Receiver() as receiver:
        done = run_with_workers(
            pipes, receiver.http_endpoint, tmp_path, workers=2, size=100, max_open_files=8
        )
        assert (done.problems, done.counts.exported) == ([], 60)
    writing.join()


def test_a_file_that_was_replaced_is_not_read_on_after_a_worker_died(tmp_path: Path) -> None:
    """What was read is not what is there now."""
    path = tmp_path / "events"
    path.write_bytes(lines(*[error(messageId=f"m{n}") for n in range(100)]))
    requests = itertools.count()

    def replacing(_signal: Signal, _body: bytes) -> Reply | None:
        if next(requests) == 1:
            path.rename(tmp_path / "rotated")
            path.write_bytes(lines(*[error(messageId=f"n{n}") for n in range(100)]))
            for child in worker_processes(os.getpid()):
                os.kill(child, signal.SIGKILL)
        return None

    with Receiver(replacing) as receiver:
        done = run_with_workers([path], receiver.http_endpoint, tmp_path, workers=1, size=10**6)
        [problem] = done.problems
        assert "events: was replaced while it was read; run it again" in problem
        assert not any(record.body.string_value.count("message n") for record in receiver.logs())
