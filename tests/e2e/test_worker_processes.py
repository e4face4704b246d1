"""The processes of a run: what they inherit, and what is left of them when one or all are killed."""

import itertools
import os
import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from support.events import error, lines
from support.program import Done, start_program
from support.worker_run import child_processes, worker_processes

from faillog_otel.config import Signal
from faillog_otel.sandbox.collector import Receiver

RECORDS = 20_000
"""Several parts for two workers."""


class Watched:
    """Processes, of which none may be left at the end; a file descriptor keeps each one's identity."""

    def __init__(self) -> None:
        self._descriptors: dict[int, int] = {}

    def add(self, *processes: int) -> None:
        for process in processes:
            if process not in self._descriptors:
                self._descriptors[process] = os.pidfd_open(process)

    def all_end(self) -> bool:
        """Waits for all of them; returns False if one goes on."""
        descriptors = list(self._descriptors.values())
        try:
            return all(select.select([each], [], [], 60)[0] for each in descriptors)
        finally:
            for each in descriptors:
                os.close(each)


def run_two_workers(folder: Path, on_request: Callable[[int, int], object]) -> Done:
    """Runs two workers; `on_request` has each request's number and the run's process id."""
    folder.joinpath("events").write_bytes(lines(*[error(messageId=f"m{n}") for n in range(RECORDS)]))
    requests = itertools.count()
    pid: list[int] = []

    def scripted(_signal: Signal, _body: bytes) -> None:
        on_request(next(requests), pid[0])

    with Receiver(scripted) as receiver:
        args = ("run", "events", "--endpoint", receiver.http_endpoint, "--summary", "json", "--workers", "2")
        with start_program(*args, cwd=folder) as process:
            pid.append(process.pid)
            stdout, stderr = process.communicate(timeout=100)
        return Done(process.returncode, stdout, stderr.decode())


def opened(process: int) -> dict[int, str]:
    """The open files of a process, by descriptor."""
    folder = Path(f"/proc/{process}/fd")
    return {int(each.name): str(each.readlink()) for each in folder.iterdir()}


def test_ten_crashes_of_workers_lose_nothing(tmp_path: Path) -> None:
    killed: set[int] = set()

    def crash(request: int, pid: int) -> None:
        if request % 10 == 5 and len(killed) < 10:
            worker = worker_processes(pid)[0]
            killed.add(worker)
            os.kill(worker, signal.SIGKILL)

    done = run_two_workers(tmp_path, crash)
    assert (done.code, done.summary["exported"]) == (0, RECORDS), done.stderr
    assert len(killed) == 10
    assert all("a worker crashed (signal 9) at events" in line for line in done.stderr.splitlines())


def test_worker_processes_have_no_file_of_the_run_but_what_they_are_given(tmp_path: Path) -> None:
    """The first workers, a replacement, and the process that forks them all.

    While a worker starts, the run still has the worker's end of their socket: then it is looked at again.
    """
    first: list[int] = []
    looks: list[tuple[dict[int, str], ...]] = []
    looking = threading.Lock()

    def look(request: int, pid: int) -> None:
        with looking:
            [server] = child_processes(pid)
            workers = worker_processes(pid)
            if request == 3:
                first.extend(workers)
                os.kill(workers[0], signal.SIGKILL)
            elif first and len(replaced := set(workers) - set(first)) == 1:
                [other] = set(workers) & set(first)
                looks.append((opened(pid), opened(server), opened(other), opened(*replaced)))

    done = run_two_workers(tmp_path, look)
    assert done.code == 0, done.stderr
    for run, server, *workers in looks:
        assert len(server) == 4
        for each in (server, *workers):
            assert (each[0], each[1], each[2]) == (os.devnull, os.devnull, run[2])
    assert set() in [inherited(run, *others, given=str(tmp_path / "events")) for run, *others in looks]


def inherited(run: dict[int, str], *others: dict[int, str], given: str) -> set[str]:
    """The files that others have in common with the run, beside standard streams and the input file."""
    own = set(run.values()) - {os.devnull, run[2], given}
    return {name for each in others for name in each.values() if name in own and "deleted" not in name}


def test_a_run_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    """Not even a worker that is stopped, and would not notice."""
    watched = Watched()

    def kill(request: int, pid: int) -> None:
        if request == 3:
            workers = worker_processes(pid)
            watched.add(*child_processes(pid), *workers)
            os.kill(workers[0], signal.SIGSTOP)
            os.kill(pid, signal.SIGKILL)

    done = run_two_workers(tmp_path, kill)
    assert done.code == -signal.SIGKILL
    assert "Traceback" not in done.stderr
    assert watched.all_end()


def test_workers_are_replaced_after_the_process_that_forks_them_was_killed(tmp_path: Path) -> None:
    watched, workers = Watched(), set[int]()

    def kill(request: int, pid: int) -> None:
        if request == 3:
            [server] = child_processes(pid)
            workers.update(worker_processes(pid))
            watched.add(server, *workers)
            os.kill(server, signal.SIGKILL)
        elif request == 10:
            os.kill(workers.pop(), signal.SIGKILL)
        elif request == 50:
            watched.add(*child_processes(pid), *worker_processes(pid))

    done = run_two_workers(tmp_path, kill)
    assert (done.code, done.summary["exported"]) == (0, RECORDS), done.stderr
    assert "a worker crashed (exit code unknown) at events" in done.stderr
    assert watched.all_end()


def test_a_signal_to_all_processes_of_a_run_ends_it_as_one_to_the_run(tmp_path: Path) -> None:
    """Ctrl-C on a terminal, or a supervisor that stops all processes of a service."""
    watched = Watched()

    def interrupt(request: int, pid: int) -> None:
        if request == 3:
            every = [pid, *child_processes(pid), *worker_processes(pid)]
            watched.add(*every)
            for each in reversed(every):
                os.kill(each, signal.SIGINT)

    done = run_two_workers(tmp_path, interrupt)
    assert done.code == 128 + signal.SIGINT
    assert 0 < done.summary["records"] == done.summary["exported"] + done.summary["pending"] < RECORDS
    assert "crashed" not in done.stderr
    assert watched.all_end()
