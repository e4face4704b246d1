"""Kills at every call that changes something: of a first run, of replays, and of the pruning of old hours.

What is done before and after each kill is the same for the same seed; so one number names one case.
"""

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

from msgspec import Struct

from crashes.checker import problems
from crashes.launcher import Launcher
from crashes.rounds import HANGS_AFTER_CPU_SECONDS, HANGS_AFTER_SECONDS, KILLED, audited, journal_of
from crashes.scene import START_NS, Journal, Scene
from crashes.tripwire import Action, Call, Watch, read_log
from faillog_otel.clock import DAY_NS
from faillog_otel.sandbox.collector import Received

STEPS = ("first run", "replay of the quarantine", "replay of hours", "pruning")
NOW_NS = START_NS + 2 * DAY_NS
LATER_NS = START_NS + 30 * DAY_NS


class Point(Struct, frozen=True, order=True):
    """Before the `number`-th call of a step, or in the middle of it, where it writes (`half`).

    With a label, only calls with this label count.
    """

    journal: Journal
    step: int
    number: int
    action: Action
    label: str = ""

    def __str__(self) -> str:
        return f"{self.journal}/{self.step}/{self.number}/{self.action}"


def point_of(text: str) -> Point:
    """Reads what `str` of a point says."""
    journal, step, number, action = text.split("/")
    assert journal in ("wal", "delete")
    assert action in ("kill", "half")
    return Point(journal, int(step), int(number), action)  # type: ignore[arg-type]  # it was just checked


class Steps:
    """A context manager: one scene whose steps are done again and again, from a copy of what came before."""

    def __init__(self, folder: Path, launcher: Launcher, journal: Journal, *, hours: int = 3) -> None:
        self.scene = Scene(
            folder,
            hours=hours,
            messages=12.0,
            faults={},
            seed=7,
            journal=journal,
            launcher=launcher,
            per_day=10**9,
        )
        self._journal = journal
        self._before = folder / "before"
        self._received: list[Received] = []
        self._log = folder / "watched.log"
        self._failures: list[tuple[object, ...]] = []
        """What a step that nobody disturbs counts, as `counted_failures` reads it."""

    def __enter__(self) -> Self:
        self.scene.__enter__()
        self.scene.collector_is_moody = False
        return self

    def __exit__(self, *_: object) -> None:
        self.scene.__exit__(None, None, None)

    def prepare(self, step: int) -> None:
        """Does all steps before this one, and keeps what they left behind."""
        for each in range(step):
            assert self._run(each) in (0, 3), self.scene.said()
        if self.scene.state.exists():
            shutil.rmtree(self._before, ignore_errors=True)
            shutil.copytree(self.scene.state, self._before)
        self._received = list(self.scene.collector.received)
        self._restore()
        assert {self._run(step), self._run_again(step)} <= {0, 3}, self.scene.said()
        self._failures = counted_failures(self.scene.state)
        assert self._failures

    def calls(self, step: int) -> list[Call]:
        """All calls of a step that nobody disturbs."""
        self._restore()
        assert self._run(step, Watch(log=self._log)) in (0, 3), self.scene.said()
        assert journal_of(self.scene.state) == self._journal
        return read_log(self._log)

    def kill(self, point: Point) -> tuple[str | None, list[str]]:
        """Kills at a point, runs again; returns the phase and what is wrong.

        The phase is None where the step has no such call.
        """
        self._restore()
        watch = Watch(log=self._log, at=point.number, label=point.label, action=point.action)
        code = self._run(point.step, watch)
        if code != KILLED:
            return None, [] if code in (0, 3) else [f"{point}: exit code {code}: {self.scene.said()}"]
        label = next(each.label for each in read_log(self._log) if each.fired)
        again = self._run_again(point.step)
        self.scene.write_evidence()
        wrong = problems(self.scene.folder, per_day=10**9) + audited(self.scene)
        if again not in (0, 3):
            wrong.append(f"the next run ended with {again}: {self.scene.said()}")
        different = set(self._failures) ^ set(counted_failures(self.scene.state))
        wrong += [f"failures are counted differently: {each}" for each in sorted(map(str, different))]
        return label, [f"{point} ({label}): {each}" for each in wrong]

    def _run_again(self, step: int) -> int:
        self.scene.segment.clock.move_to(LATER_NS if step == 3 else NOW_NS)
        return self._launch(self.scene.once_options("--once"))

    def _restore(self) -> None:
        shutil.rmtree(self.scene.state, ignore_errors=True)
        if self._before.exists():
            shutil.copytree(self._before, self.scene.state)
        self.scene.collector.received[:] = self._received
        (self.scene.folder / "said.txt").unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)

    def _run(self, step: int, watch: Watch | None = None) -> int:
        self.scene.segment.clock.move_to(LATER_NS if step == 3 else NOW_NS)
        self.scene.collector_rejects = step == 0
        commands = (
            self.scene.once_options("--once"),
            self.scene.replaying("--rejected"),
            self.scene.reading_again(1),
            self.scene.once_options("--once"),
        )
        return self._launch(commands[step], watch)

    def _launch(self, arguments: Sequence[str], watch: Watch | None = None) -> int:
        process = self.scene.launch(arguments, watch=watch, cpu_seconds=HANGS_AFTER_CPU_SECONDS)
        return process.wait(HANGS_AFTER_SECONDS)


def counted_failures(state: Path) -> list[tuple[object, ...]]:
    """Which messages failed, and the sums of all counts by hour and by group.

    Not the counts by group: an attempt's own group depends on the exchanges that were read before it.
    """
    with closing(sqlite3.connect(state / "ledger.sqlite3")) as ledger:
        return [row for query in _FAILURES for row in ledger.execute(query)]


_FAILURES = (
    "SELECT message_id, state, grp, attempts, first_s, last_s, success_s, discarded FROM messages",
    "SELECT 'sums', hour, grp, code_grp, state, messages, attempts FROM message_sums",
    "SELECT 'counts', hour, sum(records), sum(attempts), sum(requests) FROM failure_counts GROUP BY hour",
    "SELECT 'messages', value FROM facts WHERE name = 'messages'",
    "SELECT 'notes that are not merged', count(*) FROM message_notes",
)


def all_points(steps: Steps, journal: Journal, step: int) -> list[Point]:
    """Every call of a step, and once more in the middle of it where it writes some bytes."""
    points = []
    for call in steps.calls(step):
        points.append(Point(journal, step, call.number, "kill"))
        if call.call in ("write", "pwrite") and call.length > 1:
            points.append(Point(journal, step, call.number, "half"))
    return points
