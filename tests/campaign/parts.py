"""What a part of the campaign is: named cases, each of which can be run again by its name."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct, field


class Case(Struct):
    """What one case showed. `wrong`: sentences; those about records begin with lost, invented or changed."""

    name: str
    wrong: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Figures that add up over cases."""
    peaks: dict[str, float] = field(default_factory=dict)
    """Figures of which the largest counts."""

    state: str = ""
    """A copy of the state folder as the last run found it; it is kept where something was wrong."""

    def count(self, name: str, by: int = 1) -> None:
        """Adds to a figure."""
        self.counts[name] = self.counts.get(name, 0) + by


class Part:
    """One part."""

    title: str
    unit: str
    """What `size` counts."""
    size: int
    short: int
    """The size of the short form; 0: it has none."""

    def plan(self, size: int, seed: int) -> list[list[str]]:
        """Batches of case names; a batch is run by one process."""
        raise NotImplementedError

    def plan_more(self, _size: int, _seed: int, _done: Sequence[Case]) -> list[list[str]]:
        """More batches, by what was found; nothing: the part is over."""
        return []

    def missing(self, _done: Sequence[Case]) -> list[str]:
        """What had to be met, and was not."""
        return []

    def run(self, names: Sequence[str], folder: Path) -> Iterator[Case]:
        """Runs a batch in an empty folder."""
        raise NotImplementedError


class Table(Struct, kw_only=True):
    """All that one part showed, as it is written to a file."""

    part: str
    title: str
    unit: str
    size: int
    seed: int
    command: str
    cases: int = 0
    lost: int = 0
    invented: int = 0
    changed: int = 0
    other: int = 0
    """Things that are wrong besides: exit codes, what `audit` says, phases that were never met."""
    failed: dict[str, list[str]] = field(default_factory=dict)
    """Cases in which something was wrong, and what."""
    counts: dict[str, int] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, case: Case) -> None:
        """Adds a case."""
        self.cases += 1
        kinds = Counter(_kind(each) for each in case.wrong)
        self.lost += kinds["lost"]
        self.invented += kinds["invented"]
        self.changed += kinds["changed"]
        self.other += kinds["other"]
        if case.wrong:
            self.failed[case.name] = case.wrong
        for name, count in case.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        for name, value in case.peaks.items():
            self.peaks[name] = max(self.peaks.get(name, 0.0), value)


def _kind(sentence: str) -> str:
    return next((kind for kind in ("lost", "invented", "changed") if f"{kind}: " in sentence), "other")


def copy_state(state: Path, folder: Path) -> str:
    """Copies a state folder, but for the ballast, into another folder; returns where the copy is."""
    copy = folder / "found"
    shutil.rmtree(copy, ignore_errors=True)
    if state.exists():
        shutil.copytree(state, copy, ignore=lambda _folder, names: {"ballast"} & set(names))
    return str(copy)


def memory_folder() -> str | None:
    """A folder in memory: a killed process leaves the same there as on a disk. None where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  # a folder of our own is made there


def chunks(names: Sequence[str], size: int) -> list[list[str]]:
    """Batches of at most so many names."""
    return [list(names[at : at + size]) for at in range(0, len(names), size)]
