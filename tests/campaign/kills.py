"""Kills: at random, and at every call that changes something."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from crashes.launcher import Launcher
from crashes.points import STEPS, Steps, all_points, point_of
from crashes.rounds import PHASES, one_round
from crashes.scene import Journal

from campaign.parts import Case, Part, chunks, memory_folder

JOURNALS: tuple[Journal, ...] = ("delete", "wal")
KILLS_IN_A_ROUND = 60
MAX_EXTRA_ROUNDS = 40
SEEN_OFTEN = 1000
KILLS = "kills"
NOT_MET = "calls that did not come"
POINTS_IN_A_BATCH = 40


class RandomKills(Part):
    """A case is a round; its name is `SEED/JOURNAL/KILLS/PHASES`.

    More rounds follow until there were enough kills and every phase was met; they look for what is missing.
    """

    title = "random kills, in every phase"
    unit = "kills"
    size = 2000
    short = 60

    def plan(self, size: int, seed: int) -> list[list[str]]:
        """Rounds for all kills."""
        return self.plan_more(size, seed, [])

    def plan_more(self, size: int, seed: int, done: Sequence[Case]) -> list[list[str]]:
        """Rounds for the kills that are still missing; one of each journal where a phase is."""
        missing = self.missing(done)
        left = size - sum(case.counts[KILLS] for case in done)
        if left <= 0 and (not missing or len(done) > size // KILLS_IN_A_ROUND + MAX_EXTRA_ROUNDS):
            return []
        rounds = max(1 if not missing else 2, -(-left // KILLS_IN_A_ROUND))
        first = seed + len(done)
        sought = ",".join(missing) if done else ""
        return [
            [f"{first + number}/{JOURNALS[(first + number) % 2]}/{KILLS_IN_A_ROUND}/{sought}"]
            for number in range(rounds)
        ]

    def missing(self, done: Sequence[Case]) -> list[str]:
        """Phases without a kill: then the part proves less than it says."""
        met: Counter[str] = Counter()
        for case in done:
            met.update(case.counts)
        return [phase for phase in PHASES if not met[phase]]

    def run(self, names: Sequence[str], folder: Path) -> Iterator[Case]:
        """Runs rounds."""
        with Launcher() as launcher:
            for name in names:
                seed, journal, kills, sought = name.split("/")
                place = folder / seed
                place.mkdir()
                found = one_round(
                    place,
                    launcher,
                    int(seed),
                    journal="wal" if journal == "wal" else "delete",
                    wanted=Counter(
                        dict.fromkeys(set(PHASES) - set(sought.split(",")), SEEN_OFTEN) if sought else {}
                    ),
                    kills=int(kills),
                )
                yield Case(
                    name,
                    found.wrong,
                    {
                        KILLS: sum(found.kills.values()),
                        **found.kills,
                        **{f"records {each}": count for each, count in found.counts.items()},
                    },
                )


class EveryCall(Part):
    """A case is a kill at one call; its name is `JOURNAL/STEP/NUMBER/ACTION`. The size is the step width."""

    title = "kills at every call that changes something"
    unit = "of each n-th call"
    size = 1
    short = 40

    def plan(self, size: int, seed: int) -> list[list[str]]:
        """Batches of points of one step; the calls of each step are counted first."""
        batches = []
        with Launcher() as launcher:
            for journal in JOURNALS:
                for step in range(len(STEPS)):
                    with (
                        tempfile.TemporaryDirectory(dir=memory_folder()) as folder,
                        Steps(Path(folder), launcher, journal) as steps,
                    ):
                        steps.prepare(step)
                        points = all_points(steps, journal, step)[seed % size :: size]
                        batches += chunks([str(point) for point in points], POINTS_IN_A_BATCH)
        return batches

    def run(self, names: Sequence[str], folder: Path) -> Iterator[Case]:
        """Kills at points of one step."""
        points = [point_of(name) for name in names]
        first = points[0]
        with Launcher() as launcher, Steps(folder, launcher, first.journal) as steps:
            steps.prepare(first.step)
            for name, point in zip(names, points, strict=True):
                label, wrong = steps.kill(point)
                case = Case(name, wrong)
                case.count(f"{point.journal}, {STEPS[point.step]}" if label else NOT_MET)
                if label:
                    case.count(label)
                    case.count(KILLS)
                    case.count("in the middle of a write", int(point.action == "half"))
                yield case
