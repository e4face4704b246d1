"""Heartbeats: late loops, and the file that is touched while none is late."""

import os
from pathlib import Path

import pytest
from support.clock import MovedClock

from faillog_otel.errors import ConfigError
from faillog_otel.telemetry import LATE_SECONDS, NO_HEARTBEAT, FileHeartbeat

OLD = (1, 1)


def test_a_loop_without_a_beat_is_late() -> None:
    clock = MovedClock()
    heartbeat = FileHeartbeat(clock.monotonic)
    heartbeat.beat("fetching")
    heartbeat.beat("forwarding")
    clock.wait(LATE_SECONDS)
    assert heartbeat.late() == {}
    clock.wait(1)
    heartbeat.beat("forwarding")
    assert heartbeat.late() == {"fetching": LATE_SECONDS + 1}
    heartbeat.beat("fetching")
    assert heartbeat.late() == {}


def test_an_ended_or_paused_loop_is_not_late() -> None:
    clock = MovedClock()
    heartbeat = FileHeartbeat(clock.monotonic)
    heartbeat.beat("fetching")
    heartbeat.ended("fetching")
    with heartbeat.paused("forwarding"):
        clock.wait(10 * LATE_SECONDS)
        assert heartbeat.late() == {}
    assert heartbeat.late() == {}
    clock.wait(LATE_SECONDS + 1)
    assert set(heartbeat.late()) == {"forwarding"}


def test_asking_whether_to_stop_is_a_beat() -> None:
    """A loop may be inside one long step: it is alive as long as it asks."""
    clock = MovedClock()
    heartbeat = FileHeartbeat(clock.monotonic)
    ask = heartbeat.beat_on_call("fetching", lambda: clock.stop)
    heartbeat.beat("fetching")
    clock.wait(LATE_SECONDS + 1)
    assert ask() is False
    assert heartbeat.late() == {}
    clock.stop = True
    assert ask() is True


def test_without_heartbeats_no_loop_is_late() -> None:
    def ask() -> bool:
        return True

    assert NO_HEARTBEAT.beat_on_call("fetching", ask) is ask
    NO_HEARTBEAT.beat("fetching")
    NO_HEARTBEAT.ended("fetching")
    with NO_HEARTBEAT.paused("fetching"):
        assert NO_HEARTBEAT.late() == {}


def test_the_file_is_touched_while_no_loop_is_late(tmp_path: Path) -> None:
    clock, file = MovedClock(), tmp_path / "alive"
    heartbeat = FileHeartbeat(clock.monotonic, str(file))
    assert file.stat().st_size == 0
    heartbeat.beat("fetching")
    os.utime(file, OLD)
    heartbeat.beat("forwarding")
    assert file.stat().st_mtime == 1, "not at every turn"
    clock.wait(LATE_SECONDS)
    heartbeat.beat("forwarding")
    assert file.stat().st_mtime > 1
    os.utime(file, OLD)
    clock.wait(10)
    heartbeat.beat("forwarding")
    assert file.stat().st_mtime == 1, "the other one is late"
    heartbeat.beat("fetching")
    assert file.stat().st_mtime > 1


def test_a_file_that_cannot_be_touched_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, folder = MovedClock(), tmp_path / "folder"
    folder.mkdir()
    heartbeat = FileHeartbeat(clock.monotonic, str(folder / "alive"))
    (folder / "alive").unlink()
    folder.rmdir()
    clock.wait(10)
    heartbeat.beat("fetching")
    assert "--health-file" in caplog.text


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """The file may be in a folder that others can write."""
    (tmp_path / "alive").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="--health-file"):
        FileHeartbeat(MovedClock().monotonic, str(tmp_path / "alive"))
