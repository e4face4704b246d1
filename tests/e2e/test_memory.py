"""Memory stays flat, however long the file is."""

from pathlib import Path

import pytest
from support.program import run_measured
from support.tiers import slow

from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.generator import failure_events

pytestmark = slow
MIB = 1024 * 1024


def peak_bytes(messages: int, folder: Path, *args: str) -> int:
    """The most resident memory that a run over so many failing messages took; by default to a collector."""
    path = folder / "events"
    with path.open("wb") as file:
        file.writelines(each + b"\n" for each in failure_events(1, messages))
    with Receiver() as receiver:
        sent = args or ("--endpoint", receiver.http_endpoint)
        done, peak = run_measured("run", path, "-q", *sent, cwd=folder)
    assert done.code == 0
    return peak


def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    """About 4,000 and 60,000 events; `make memory` measures a million."""
    short, long = peak_bytes(1_000, tmp_path), peak_bytes(15_000, tmp_path)
    assert long < 150 * MIB
    assert long - short < 20 * MIB


@pytest.mark.parametrize("more", [(), ("--all",)])
def test_the_console_keeps_little_in_memory(tmp_path: Path, more: tuple[str, ...]) -> None:
    """An entry for each message; the records of all of them are in a file."""
    console = ("--protocol", "console", *more)
    short, long = peak_bytes(1_000, tmp_path, *console), peak_bytes(30_000, tmp_path, *console)
    assert long < 150 * MIB
    assert long - short < 30 * MIB
