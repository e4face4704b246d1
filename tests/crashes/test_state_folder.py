"""The state folder: for one process, for its owner, and never trusted when it is spoilt."""

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.tiers import slow, slow_case

from crashes.checker import Evidence, problems
from crashes.scene import FAULTS, START_NS, TOKEN, Scene
from faillog_otel.clock import DAY_NS

BROKEN = 5


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Hours of two collections, all of them complete, some lines damaged, and nothing goes wrong."""
    with Scene(tmp_path, faults={}, messages=20, damage=0.05) as scene:
        scene.segment.clock.move_to(START_NS + 2 * DAY_NS)
        scene.collector_is_moody = False
        yield scene


def run_once(scene: Scene, *more: str, before: tuple[str, ...] = ()) -> int:
    return scene.start("--once", *more, prefix=before).wait(200)


def received(scene: Scene) -> Evidence:
    scene.write_evidence()
    return Evidence(scene.folder)


def test_only_its_owner_can_read_it_whatever_the_umask(scene: Scene) -> None:
    assert run_once(scene, before=("sh", "-c", 'umask 0; exec "$@"', "sh")) == 3
    for path in [scene.state, *scene.state.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_second_process_refuses_and_names_the_first(scene: Scene) -> None:
    scene.collector_is_away = True
    first = scene.start()
    try:
        scene.until((scene.state / "ledger.sqlite3").exists, first)
        assert run_once(scene) == BROKEN
        assert f"process {first.pid} holds it" in scene.said()
    finally:
        first.kill()
        first.wait()


def test_a_folder_that_cannot_be_written_says_so(scene: Scene) -> None:
    scene.state.mkdir(mode=0o700)
    os.chown(scene.state, 65534, 65534)
    scene.state.chmod(0o500)
    privileges = "-dac_override,-dac_read_search,-fowner"
    without = ("setpriv", f"--bounding-set={privileges}", f"--inh-caps={privileges}")
    assert run_once(scene, before=without) == BROKEN
    assert "cannot be used as state folder: " in scene.said()


def test_a_damaged_ledger_is_refused_with_the_remedy(scene: Scene) -> None:
    assert run_once(scene) == 3
    ledger = scene.state / "ledger.sqlite3"
    content = bytearray(ledger.read_bytes())
    content[4096:8192] = b"\xa5" * 4096
    ledger.write_bytes(content)
    assert run_once(scene) == BROKEN
    assert "; move " in scene.said()
    assert "with the same ids" in scene.said()
    assert ledger.read_bytes() == content


def test_a_newer_ledger_is_refused(scene: Scene) -> None:
    assert run_once(scene) == 3
    with sqlite3.connect(scene.state / "ledger.sqlite3") as ledger:
        ledger.execute("PRAGMA user_version = 99")
    assert run_once(scene) == BROKEN
    assert "newer faillog-otel" in scene.said()


@slow
def test_after_a_deleted_ledger_the_same_ids_are_sent_again(scene: Scene) -> None:
    assert run_once(scene) == 3
    first = received(scene)
    before = len(scene.collector.received)
    shutil.rmtree(scene.state)
    assert run_once(scene) == 3
    assert len(scene.collector.received) > before
    again = received(scene)
    assert again.logs.keys() == first.logs.keys()
    assert again.spans.keys() == first.spans.keys()
    assert problems(scene.folder) == []


@slow
def test_a_full_disk_stops_taking_in_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """A small disk, filled to its last byte: the sidecar exports what it has, waits, and loses nothing."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(disk)], check=False).returncode:
        if os.environ.get("CI"):
            pytest.fail("a tmpfs cannot be mounted here")
        pytest.skip("mounting a small disk needs root")
    try:
        with Scene(tmp_path, faults={}, messages=40, state=disk / "state") as scene:
            scene.segment.clock.move_to(START_NS + 2 * DAY_NS)
            scene.collector_is_away = True
            process = scene.start()
            scene.until(lambda: "HTTP 503" in scene.said(), process)
            with (disk / "other").open("wb", buffering=0) as other, suppress(OSError):
                while True:
                    other.write(bytes(4096))
            scene.collector_is_away = False
            scene.until(
                lambda: "disk full; polling is paused until space is available" in scene.said(), process
            )
            scene.until(lambda: any(each.taken for each in scene.collector.received), process)
            (disk / "other").unlink()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 143
            assert run_once(scene) in (0, 3), scene.said()
            shutil.copytree(scene.state, tmp_path / "state")
            scene.write_evidence()
            assert problems(tmp_path) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("faults", [slow_case({}), slow_case(FAULTS)], ids=["all is well", "much goes wrong"])
def test_no_secret_is_in_any_output_or_left_in_the_folder(faults: dict[str, float], tmp_path: Path) -> None:
    """Token, presigned signatures and header values, at the highest verbosity."""
    with Scene(tmp_path, faults=faults, messages=20) as scene:
        scene.segment.clock.move_to(START_NS + 2 * DAY_NS)
        for log_format in ("text", "json"):
            run_once(scene, "-vvv", "--header", "x-api-key=he4der-value", "--log-format", log_format)
        files = [tmp_path / "said.txt", *scene.state.rglob("*")]
        everything = b"\n".join(path.read_bytes() for path in files if path.is_file())
        everything += b"\n".join(each.body for each in scene.collector.received)
    assert b"an object of" in everything
    for secret in (TOKEN.encode(), b"X-Amz-Signature", b"X-Amz-Credential", b"he4der-value"):
        assert secret not in everything, secret
