"""Killed at any moment, the sidecar loses nothing, invents nothing, and sends nothing in two forms."""

import os
import random
import shutil
from functools import partial
from pathlib import Path

import pytest

import faillog_otel
from crashes.checker import problems
from crashes.scene import Scene, crash_often
from crashes.system_calls import SYSTEM_CALLS, has_strace, kill_at
from faillog_otel.clock import DAY_NS, HOUR_NS, hour_text
from faillog_otel.segment.simulator.faults import Scripted

MIB = 1024 * 1024

pytestmark = pytest.mark.timeout(300)


def checked(scene: Scene) -> list[str]:
    scene.write_evidence()
    return problems(scene.folder)


def test_nothing_is_lost_invented_or_changed_by_kills_and_faults(tmp_path: Path) -> None:
    with Scene(tmp_path) as scene:
        crash_often(scene, kills=15, rng=random.Random(3))
        assert set(scene.settle()) <= {0, 3}, scene.said()
        assert checked(scene) == []


def test_a_collector_that_was_away_gets_everything_when_it_is_back(tmp_path: Path) -> None:
    with Scene(tmp_path, faults={}) as scene:
        scene.collector_is_away = True
        scene.kill_after(3.0)
        assert scene.collector.received
        assert not any(each.taken for each in scene.collector.received)
        assert scene.segment.requests()
        assert set(scene.settle()) <= {0, 3}, scene.said()
        assert checked(scene) == []


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
        "app/accounting.py",
        """
        self._under_way.append(batch)
""",
        """
        self._under_way.append(batch)
        batch.stretch.counts.exported += len(batch.sendings)
        batch.book.write_down(batch.stretch)
        batch.book.write_down = lambda stretch: True
""",
    ),
    "takes a partial success for a whole one": (
        "otlp/outcome.py",
        "PartlyRejected(rejected, message) if rejected > 0 else Acknowledged(message)",
        "Acknowledged(message)",
    ),
    "is done with an object before it is sent": (
        "app/sidecar.py",
        """
        is_done = is_read = False
""",
        """
        is_done = is_read = False
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
        "segment/schedule.py",
        """
        never_read = [hour for hour in self._due if hour not in views]
""",
        """
        never_read = [hour for hour in self._due if hour > max(views, default=0)]
        views = {hour: view for hour, view in views.items() if not view.failures}
""",
    ),
}


@pytest.mark.parametrize("name", BROKEN_BUILDS)
def test_the_checker_catches_a_broken_build(name: str, tmp_path: Path) -> None:
    where, right, wrong = BROKEN_BUILDS[name]
    package = tmp_path / "build" / "faillog_otel"
    shutil.copytree(Path(faillog_otel.__file__).parent, package)
    source = (package / where).read_text()
    assert right in source
    (package / where).write_text(source.replace(right, wrong))
    with Scene(tmp_path, faults={}, package=package.parent) as scene:
        busy = next(hour for hour in scene.hours if scene.segment.world.records("a", hour))
        assert busy < scene.hours[-1]
        scene.segment.faults.script(
            Scripted(fault="listing:500", collection="a", hour=hour_text(busy), times=9)
        )
        scene.collector_is_away = True
        scene.kill_after(3.0)
        scene.settle()
        assert any(problem.startswith("lost") for problem in checked(scene))


NUMBERS = dict.fromkeys(SYSTEM_CALLS, 3) | {"ftruncate": 1, "fsync": 9, "pwrite64": 40, "sendto": 2}
"""The how-manieth call is the last one of the sidecar: `make crashes` takes each."""


@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_a_kill_at_a_system_call_loses_nothing(call: str, tmp_path: Path) -> None:
    if not has_strace():
        if os.environ.get("CI"):
            pytest.fail("strace is missing")
        pytest.skip("strace is not on this machine: `make crashes` and this test need it")
    number = NUMBERS[call]
    was_killed, wrong = kill_at(tmp_path, call, number)
    assert wrong == []
    assert was_killed
