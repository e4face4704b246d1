"""Killed at any moment, what `failures` counts is what failed: nothing twice, nothing left out."""

import json
import random
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.building import CannotBuild
from support.failures_week import counts_differ
from support.tiers import slow

from crashes.launcher import Launcher
from crashes.points import Point, Steps
from crashes.rounds import HANGS_AFTER_CPU_SECONDS, Killer, Round
from crashes.scene import START_NS, Journal, Scene
from crashes.test_crashes import broken_build, without
from faillog_otel.clock import DAY_NS, HOUR_NS

KILLS = 50
KILLS_IN_A_ROUND = 30


def wrong_counts(scene: Scene) -> list[str]:
    """Counts by destination that `failures --json` says otherwise than the simulator.

    The simulator's are those of the records that were listed. A message has as many failed attempts as the
    number of its last one says: the record of one before may be damaged.
    """
    said = scene.folder / "failures.json"
    said.unlink(missing_ok=True)
    arguments = ["failures", "--json", "--all", "--state-dir", str(scene.state)]
    code = scene.launch(arguments, said=said, cpu_seconds=HANGS_AFTER_CPU_SECONDS).wait(60)
    if code != 0:
        return [f"failures ended with {code}: {said.read_text(errors='replace')}"]
    listed, attempts = scene.segment.failures().listed, Counter[str]()
    for message in scene.segment.failing_messages():
        attempts[message.destination] += max(message.failed, default=0)
    assert len(attempts) == len(listed), "no incidents: one sum for each destination"
    truth = [replace(each, attempts=attempts[each.destination]) for each in listed]
    return counts_differ(json.loads(said.read_bytes()), truth)


@slow
@pytest.mark.timeout(900)
def test_counts_equal_the_truth_after_fifty_random_kills(tmp_path: Path) -> None:
    """In rounds of a new folder each, and with the faults of Segment and the damage of `Scene`.

    The collector rejects nothing here.
    """
    kills, counted = Counter[str](), 0
    try:
        with Launcher() as launcher:
            for seed in count(1):
                if sum(kills.values()) >= KILLS:
                    break
                folder = tmp_path / str(seed)
                folder.mkdir()
                wanted = KILLS - sum(kills.values())
                with Scene(folder, seed=seed, hours=24, messages=30, launcher=launcher) as scene:
                    kill_and_settle(scene, seed, kills, min(wanted, KILLS_IN_A_ROUND))
                    assert wrong_counts(scene) == [], f"seed {seed}"
                    counted += sum(each.messages for each in scene.segment.failures().listed)
    except CannotBuild as error:
        without(f"the tripwire could not be built: {error}")
    assert counted > 1000
    assert len(kills) > 5, "kills in several phases"


def kill_and_settle(scene: Scene, seed: int, kills: Counter[str], number: int) -> None:
    """Kills the sidecar so many times, then lets it read everything; adds the kills by phase."""
    scene.step_seconds = 3600
    scene.collector_is_moody = False
    found = Round(seed, "")
    killer = Killer(scene, found, random.Random(seed), kills)
    away_ns = START_NS + 36 * HOUR_NS
    while sum(found.kills.values()) < number and scene.segment.clock.now_ns() < away_ns:
        killer.kill_somewhere(scene.once_options(), away_ns)
    scene.segment.faults.stop()
    for day in range(1, 5):
        scene.segment.clock.move_to(max(scene.segment.clock.now_ns(), START_NS + day * DAY_NS + DAY_NS // 2))
        code = killer.run(scene.once_options("--once"))
    assert code in (0, 3), scene.said()


def differences(folder: Path, package: Path | None, labels: tuple[str, ...], journal: Journal) -> list[str]:
    """What is counted otherwise after kills before the first calls of these phases, of a new folder each."""
    wrong = []
    try:
        with Launcher(package) as launcher, Steps(folder, launcher, journal, hours=4) as steps:
            steps.prepare(0)
            for label in labels:
                for number in range(1, 6):
                    met, found = steps.kill(Point(journal, 0, number, "kill", label))
                    assert met in (label, None)
                    assert met or number > 1, f"no call of {label}"
                    wrong += found
    except CannotBuild as error:
        without(f"the tripwire could not be built: {error}")
    return wrong


@slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_kill_where_failures_are_counted_changes_no_count(journal: Journal, tmp_path: Path) -> None:
    """T3 stores the counts of a batch, T4 merges the notes about messages, and later some are lost by age."""
    assert differences(tmp_path, None, ("T3", "done", "messages expired"), journal) == []


@slow
@pytest.mark.timeout(600)
def test_counts_in_a_transaction_of_their_own_are_found_out(tmp_path: Path) -> None:
    """A build that stores them after T3 forgets those of a batch when it is killed in between."""
    package = broken_build(
        tmp_path,
        "ledger/ledger.py",
        """
            return self._failure_store(db).add(db, spooled.id, result.failures, now_ns)

        return self.transact(steps)
""",
        """
            return Changes()

        self.transact(steps)
        return self.transact(
            lambda db: self._failure_store(db).add(db, spooled.id, result.failures, now_ns)
        )
""",
    )
    wrong = differences(tmp_path, package, ("failures counted",), "wal")
    assert any("failures are counted differently" in each for each in wrong)
