"""The program in a scene: by the simulator's clock, with the journal of choice, its SQL heard by a tripwire.

`program.py CLOCK_URL STEP_SECONDS JOURNAL ARG...` runs it. `program.py serve` runs it again and again, each
time in a child that has its modules already (`launcher.py` asks for that): they are most of a short run.
"""

import ctypes
import gc
import importlib
import json
import os
import re
import resource
import sqlite3
import sys
from functools import partial
from typing import Any

from support.program_on_segments_clock import SegmentsClock

from faillog_otel.cli import main
from faillog_otel.ledger import database

MODULES = ("app.run_sidecar", "app.run_replay", "cli.inspect")
PHASES = (
    ("migration", r"CREATE TABLE|ALTER TABLE|user_version ="),
    ("replay", r"DELETE FROM kept|UPDATE kept"),
    ("T3 quarantine", r"INSERT INTO kept"),
    ("T3", r"position = position"),
    ("T2", r"SET state = 'spooled'"),
    ("indexes decided", r"SET indexes_to"),
    ("recovery", r"'unanswered'|damaged = 1"),
    ("done", r"SET state = 'done'"),
    ("T1", r"INSERT INTO objects|outcome = 'listed'"),
    ("answer noted", r"INSERT INTO said"),
    ("T0", r"INSERT INTO requests"),
    ("prune", r"INSERT INTO past"),
    ("hours wanted", r"wanted = 1"),
    ("T2 unchanged", r"DELETE FROM objects"),
    ("indexes dropped", r"DELETE\s+FROM exchange_indexes"),
    ("messages expired", r"UPDATE messages SET state"),
    ("failures counted", r"INSERT INTO message_notes"),  # by a build that does not do it in T3
    ("other change", r"\A\s*(?:INSERT|UPDATE|DELETE)"),
)
"""What a transaction of the ledger is for, by its statements: the first of these that any of them matches."""

_RANK = {name: rank for rank, (name, _) in enumerate(PHASES)}
_LIBRARY = ctypes.CDLL(None)
_WATCHED = hasattr(_LIBRARY, "tripwire_phase")


class Listener:
    """Tells the tripwire which phase the statements of a connection belong to."""

    def __init__(self) -> None:
        self._phase = ""

    def __call__(self, statement: str) -> None:
        if statement.startswith("BEGIN"):
            self._phase = ""
        elif statement.startswith(("COMMIT", "ROLLBACK")):
            return
        else:
            found = next((name for name, pattern in PHASES if re.search(pattern, statement)), "")
            if found and _RANK[found] <= _RANK.get(self._phase, len(PHASES)):
                self._phase = found
        _LIBRARY.tripwire_phase(self._phase.encode())


class UnwatchedClock(SegmentsClock):
    """The simulator's clock, which is no part of what is watched."""

    def now_ns(self) -> int:
        _LIBRARY.tripwire_ignore(1)
        try:
            return super().now_ns()
        finally:
            _LIBRARY.tripwire_ignore(0)

    def wait(self, seconds: float) -> bool:
        _LIBRARY.tripwire_ignore(1)
        try:
            return super().wait(seconds)
        finally:
            _LIBRARY.tripwire_ignore(0)


def run(url: str, step_seconds: str, journal: str, *args: str) -> None:
    """Runs the program with these arguments; it exits."""
    if journal:
        assert callable(database.has_sound_wal)
        vars(database)["has_sound_wal"] = lambda _version: journal == "wal"
    sys.argv = ["faillog-otel", *args]
    clock = (UnwatchedClock if _WATCHED else SegmentsClock)(url, float(step_seconds))
    main(clock)


class HeardConnection(sqlite3.Connection):
    """A connection whose statements are listened to."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.set_trace_callback(Listener())


def serve() -> list[str]:
    """Reads orders, and starts a child for each; returns in the child, with its arguments."""
    for name in MODULES:
        importlib.import_module(f"faillog_otel.{name}")
    gc.freeze()
    while line := sys.stdin.readline():
        order = json.loads(line)
        if child := os.fork():
            _say(str(child))
            while True:
                _, status = os.waitpid(child, os.WUNTRACED)
                if not os.WIFSTOPPED(status):
                    break
                _say("stopped")
            _say(f"ended {os.waitstatus_to_exitcode(status)}")
            continue
        _become(order)
        arguments: list[str] = order["arguments"]
        return arguments
    sys.exit(0)


def _say(words: str) -> None:
    print(words, flush=True)


def _become(order: dict[str, Any]) -> None:
    """Gives a child the environment, folder and streams that were ordered."""
    said = os.open(order["said"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (said, 1), (said, 2)):
        os.dup2(source, target)
    os.close(said)
    os.close(null)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    if order["cpu_seconds"]:
        resource.setrlimit(resource.RLIMIT_CPU, (order["cpu_seconds"],) * 2)
    if _WATCHED:
        _LIBRARY.tripwire_arm()


if __name__ == "__main__":
    arguments = serve() if sys.argv[1:] == ["serve"] else sys.argv[1:]
    if _WATCHED:
        vars(sqlite3)["connect"] = partial(sqlite3.connect, factory=HeardConnection)
    run(*arguments)
