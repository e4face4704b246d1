"""Machines unlike the one where this was written: file systems, users, clocks, networks, limits."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.building import Workshop, build
from support.events import error, lines
from support.polled import Polled, simulated
from support.program import Done, run_program

from faillog_otel.ledger.folder import BALLAST_BYTES
from faillog_otel.otlp.receiver import Receiver

SUPPORT = Path(__file__).parents[1] / "support"
MACOS: dict[str, Any] = {"PYTHONPATH": str(SUPPORT / "elsewhere")}
DELIVERED = 3
"""Some of the simulated records are damaged: they are in quarantine in the end."""


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Polled]:
    """A simulated Segment."""
    with simulated(tmp_path_factory.mktemp("segment")) as polled:
        yield polled


def run(polled: Polled, receiver: Receiver, **env: Any) -> Done:
    """Polls once."""
    command = ["run", *polled.polling(receiver.http_endpoint)]
    return run_program(*command, cwd=polled.folder, SEGMENT_TOKEN=polled.segment.token, **env)


# -- file systems --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def no_fallocate() -> str:
    """The library to be loaded."""
    source = SUPPORT / "no_fallocate.c"

    def compiled(workshop: Workshop) -> Path:
        made = workshop.bench / "no_fallocate.so"
        workshop.run("cc", "-O1", "-shared", "-fPIC", "-o", made, source)
        return made

    return str(build("no_fallocate.so", source.read_bytes(), compiled))


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV])
def test_a_file_system_that_reserves_no_room_is_written_to(
    segment: Polled, receiver: Receiver, tmp_path: Path, no_fallocate: str, code: int
) -> None:
    """The ballast takes its room as it does elsewhere, and nothing is said."""
    here = segment.in_folder(tmp_path)
    done = run(here, receiver, LD_PRELOAD=no_fallocate, NO_FALLOCATE=str(code))
    assert done.code == DELIVERED, done.stderr
    assert "room" not in done.stderr
    assert (here.state / "ballast").stat().st_blocks * 512 >= BALLAST_BYTES


def test_a_disk_that_is_full_at_the_start_is_said_whatever_else_it_cannot(
    segment: Polled, receiver: Receiver, tmp_path: Path, no_fallocate: str
) -> None:
    done = run(segment.in_folder(tmp_path), receiver, LD_PRELOAD=no_fallocate, NO_FALLOCATE=str(errno.ENOSPC))
    assert done.code != DELIVERED
    assert "full" in done.stderr


# -- macOS ---------------------------------------------------------------------------------------------------


def test_polling_needs_no_call_that_only_linux_has(
    segment: Polled, receiver: Receiver, tmp_path: Path
) -> None:
    here = segment.in_folder(tmp_path)
    done = run(here, receiver, **MACOS, FAILLOG_HEALTH_ADDR="127.0.0.1:0")
    assert done.code == DELIVERED, done.stderr
    assert "Traceback" not in done.stderr
    assert (here.state / "ballast").stat().st_size == BALLAST_BYTES
    for command in ("status", "audit"):
        done = run_program(command, "--state-dir", here.state, cwd=tmp_path, **MACOS)
        assert done.code == 0, done.stderr


def test_workers_need_no_call_that_only_linux_has(receiver: Receiver, tmp_path: Path) -> None:
    """In them it is removed, too."""
    for n in range(40):
        (tmp_path / f"{n}.jsonl").write_bytes(lines(error(messageId=f"m{n}")))
    done = run_program(
        *("run", tmp_path, "--workers", "2", "--summary", "json"),
        *("--endpoint", receiver.http_endpoint),
        cwd=tmp_path,
        **MACOS,
    )
    assert (done.code, done.summary["exported"]) == (0, 40), done.stderr


def test_the_demo_needs_no_call_that_only_linux_has(tmp_path: Path) -> None:
    done = run_program("demo", cwd=tmp_path, **MACOS)
    assert (done.code, done.stderr) == (0, ""), done.stderr
