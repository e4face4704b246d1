"""Memory stays flat, however long the file is."""

from pathlib import Path

from support.program import run_measured
from support.tiers import slow

from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.generator import failure_events

pytestmark = slow
MIB = 1024 * 1024


def peak_bytes(messages: int, folder: Path) -> int:
    """The most resident memory that a run over so many failing messages took."""
    path = folder / "events"
    with path.open("wb") as file:
        file.writelines(each + b"\n" for each in failure_events(1, messages))
    with Receiver() as receiver:
        done, peak = run_measured("run", path, "--endpoint", receiver.http_endpoint, "-q", cwd=folder)
    assert done.code == 0
    return peak


def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    """About 4,000 and 60,000 events; `make memory` measures a million."""
    short, long = peak_bytes(1_000, tmp_path), peak_bytes(15_000, tmp_path)
    assert long < 150 * MIB
    assert long - short < 20 * MIB
