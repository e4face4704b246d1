"""Killed at any moment, the sidecar loses nothing, invents nothing, and sends nothing in two forms."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.building import CannotBuild
from support.tiers import slow

import faillog_otel
from crashes.checker import problems
from crashes.launcher import Launcher
from crashes.points import STEPS, Point, Steps, all_points
from crashes.rounds import PHASES, POLLING, one_round
from crashes.scene import Journal, Scene
from crashes.tripwire import Action, Watch, read_log
from faillog_otel.clock import DAY_NS, HOUR_NS, hour_text
from faillog_otel.sandbox.config import Scripted

MIB = 1024 * 1024

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    try:
        with Launcher() as launcher:
            yield launcher
    except CannotBuild as error:
        without(f"the tripwire could not be built: {error}")


def without(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def checked(scene: Scene) -> list[str]:
    scene.write_evidence()
    return problems(scene.folder)


@slow
def test_nothing_is_lost_invented_or_changed_by_kills_and_faults(launcher: Launcher, tmp_path: Path) -> None:
    """`make crashes` goes on until each phase was met."""
    found = one_round(tmp_path, launcher, 3, journal="", wanted=Counter(), kills=25)
    assert found.wrong == []
    assert sum(found.kills.values()) >= 15
    assert len(found.kills.keys() & set(PHASES)) >= 8
    assert found.counts["quarantined"]
    assert found.counts["duplicate"]


@slow
def test_a_collector_that_was_away_gets_everything_when_it_is_back(tmp_path: Path) -> None:
    with Scene(tmp_path, faults={}) as scene:
        scene.collector_is_away = True
        scene.kill_when(lambda: bool(scene.collector.received))
        assert not any(each.taken for each in scene.collector.received)
        assert scene.segment.requests()
        assert set(scene.settle()) <= {0, 3}, scene.said()
        assert checked(scene) == []


@slow
def test_while_the_collector_is_away_for_three_days_memory_stays_flat(tmp_path: Path) -> None:
    """Hours go on being listed and downloaded, and wait on the disk."""
    with Scene(tmp_path, hours=72, messages=20, faults={}) as scene:
        scene.segment.clock.move_to(scene.hours.start * HOUR_NS)
        scene.collector_is_away = True
        scene.step_seconds = 600
        process = scene.start()
        peaks = []
        for day in (1, 3):
            scene.until(partial(has_come, scene, scene.hours.start * HOUR_NS + day * DAY_NS), process)
            peaks.append(peak_bytes(process.pid))
        process.kill()
        process.wait()
        assert peaks[1] < peaks[0] + 8 * MIB
        assert peaks[1] < 120 * MIB
        listed = {(each.collection, each.hour) for each in scene.segment.requests() if each.counted}
        assert len(listed) > 100
        assert set(scene.settle()) <= {0, 3}, scene.said()
        assert checked(scene) == []


def has_come(scene: Scene, at_ns: int) -> bool:
    return scene.segment.clock.now_ns() >= at_ns


def peak_bytes(process: int) -> int:
    """The most memory that a process has held so far."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


BROKEN_BUILDS: dict[str, tuple[str, str, str]] = {
    "writes down before the collector acknowledged": (
        "pipeline/batch.py",
        """
        self._in_flight.append(batch)
""",
        """
        self._in_flight.append(batch)
        batch.result.counts.exported += len(batch.records)
        batch.sink.commit(batch.result)
        batch.sink.commit = lambda result: True
""",
    ),
    "takes a partial success for a whole one": (
        "otlp/outcome.py",
        "PartlyRejected(rejected, message) if rejected > 0 else Acknowledged(message)",
        "Acknowledged(message)",
    ),
    "is done with an object before it is sent": (
        "pipeline/sidecar.py",
        """
        is_read = False
""",
        """
        is_read = False
        self._ledger.transact(
            lambda db: db.execute(
                "UPDATE objects SET state = 'done', exported = records - rejected - quarantined - duplicate,"
                " position = records WHERE id = ?",
                (spooled.id,),
            )
        )
""",
    ),
    "keeps a high-water mark": (
        "segment/survey.py",
        """
        never_read = [hour for hour in due if hour not in views]
""",
        """
        never_read = [hour for hour in due if hour > max(views, default=0)]
        views = {hour: view for hour, view in views.items() if not view.failures}
""",
    ),
}


def broken_build(folder: Path, where: str, right: str, wrong: str) -> Path:
    """A build of the program with one thing wrong in it."""
    package = folder / "build" / "faillog_otel"
    shutil.copytree(Path(faillog_otel.__file__).parent, package)
    source = (package / where).read_text()
    assert right in source
    (package / where).write_text(source.replace(right, wrong))
    return package.parent


@slow
@pytest.mark.parametrize("name", BROKEN_BUILDS)
def test_the_checker_catches_a_broken_build(name: str, tmp_path: Path) -> None:
    package = broken_build(tmp_path, *BROKEN_BUILDS[name])
    with Scene(tmp_path, faults={}, package=package) as scene:
        busy = next(hour for hour in scene.hours if scene.segment.world.records("a", hour))
        assert busy < scene.hours[-1]
        scene.segment.faults.script(
            Scripted(fault="listing:500", collection="a", hour=hour_text(busy), times=9)
        )
        scene.collector_is_away = True
        scene.kill_when(lambda: len(scene.collector.received) > 2)
        scene.settle()
        assert any(problem.startswith("lost") for problem in checked(scene))


READS_WRONGLY: dict[str, tuple[str, str, str]] = {
    "misread": ("otlp/rules.py", '("segment.feature", redacted(facts.feature))', '("segment.feature", None)'),
    "misread: a subscription": ("events/decode.py", 'kind != "subscription"', 'kind != "source"'),
    "lost: a version": ("events/model.py", "1 <= version < 2", "version == 2"),
}
"""By the first word of what the checker says."""


@slow
@pytest.mark.parametrize("name", READS_WRONGLY)
def test_the_checker_catches_a_build_that_reads_a_dialect_wrongly(name: str, tmp_path: Path) -> None:
    package = broken_build(tmp_path, *READS_WRONGLY[name])
    with Scene(tmp_path, hours=1, faults={}, package=package) as scene:
        scene.collector_is_moody = False
        scene.settle()
        assert any(problem.startswith(name.partition(":")[0]) for problem in checked(scene))


@slow
@pytest.mark.parametrize("step", range(len(STEPS)), ids=STEPS)
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_kill_at_a_call_loses_nothing(
    journal: Journal, step: int, launcher: Launcher, tmp_path: Path
) -> None:
    """Four of them; `make campaign-every-call` takes each."""
    with Steps(tmp_path, launcher, journal, hours=1) as steps:
        steps.prepare(step)
        points = all_points(steps, journal, step)
        for point in points[:: -(-len(points) // 4)]:
            label, wrong = steps.kill(point)
            assert wrong == []
            assert label


@slow
@pytest.mark.parametrize(
    "label", ["index written", "index synced", "rename", "T2", "indexes decided", "done"]
)
def test_a_kill_around_an_exchange_index_changes_no_record(
    label: str, launcher: Launcher, tmp_path: Path
) -> None:
    """At the first and the fourth such call, before it and in the middle: what is sent again is the same."""
    with Steps(tmp_path, launcher, "wal", hours=2) as steps:
        steps.prepare(0)
        actions: tuple[Action, ...] = ("kill", "half") if label == "index written" else ("kill",)
        for number in (1, 4):
            for action in actions:
                assert steps.kill(Point("wal", 0, number, action, label)) == (label, [])


@slow
def test_the_tripwire_sees_every_call_that_strace_sees(tmp_path: Path) -> None:
    """On files and folders of the state folder; else kills would leave some out."""
    if shutil.which("strace") is None:
        without("strace is not on this machine")
    with Scene(tmp_path, hours=2, messages=12.0, faults={}, seed=7) as scene:
        scene.segment.clock.move_to(scene.hours.stop * HOUR_NS + 2 * DAY_NS)
        calls = [
            "fsync",
            "fdatasync",
            "ftruncate",
            "fallocate",
            "pwrite64",
            "write",
            "rename",
            "unlink",
            "mkdir",
        ]
        traced, log = tmp_path / "traced", tmp_path / "watched"
        prefix = [
            "strace",
            "-f",
            "-y",
            "-o",
            str(traced),
            "-e",
            f"trace={','.join(calls)},/renameat,/unlinkat,/mkdirat",
        ]
        watch = Watch(log=log)
        assert scene.start_command(scene.once_options("--once"), prefix=prefix, watch=watch).wait(100) in (
            0,
            3,
        )
        below = re.compile(rf"^\d+ +(\w+)\([^)]*{re.escape(str(scene.state))}")
        found = Counter(match[1] for line in traced.read_text().splitlines() if (match := below.match(line)))
    names = {
        "pwrite64": "pwrite",
        "renameat": "rename",
        "renameat2": "rename",
        "unlinkat": "unlink",
        "mkdirat": "mkdir",
    }
    seen = Counter[str]()
    for call, count in found.items():
        seen[names.get(call, call)] += count
    assert seen == Counter(each.call for each in read_log(log) if each.call in {*seen, *calls, "pwrite"})
    assert seen["pwrite"] > 50
    faults = {"recovery", "T3 quarantine", "answer noted"}  # a listing is noted by T1, a refusal by itself
    assert {each.label for each in read_log(log)} >= set(POLLING) - faults
