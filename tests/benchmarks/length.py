"""Files of different lengths through one contestant: memory and time an event stay the same."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from msgspec import Struct

from benchmarks.contest import SHORT_EVENTS, run_once
from benchmarks.contestants import Contestant
from benchmarks.make_file import make_mix

_SHORT_RUNS = 3


class Length(Struct, frozen=True):
    """A file of so many events. Time an event is without what the short file takes."""

    events: int
    file_bytes: int
    seconds: float
    us_per_event: float
    cpu_us_per_event: float
    peak_bytes: int


def lengths(contestant: Contestant, events: Sequence[int], sink: Path) -> Iterator[Length]:
    """Makes the files one after the other, and each is gone before the next: the largest takes 4 GB."""
    with tempfile.TemporaryDirectory() as folder:
        short = make_mix(Path(folder, "short"), SHORT_EVENTS)
        shorts = [run_once(contestant, short, sink) for _ in range(_SHORT_RUNS)]
        for number in events:
            made = make_mix(Path(folder, "events"), number)
            run = run_once(contestant, made, sink)
            made.path.unlink()
            extra = max(number - SHORT_EVENTS, 1)
            yield Length(
                events=number,
                file_bytes=made.bytes,
                seconds=run.seconds,
                us_per_event=(run.seconds - median(each.seconds for each in shorts)) / extra * 1e6,
                cpu_us_per_event=(run.cpu_seconds - median(each.cpu_seconds for each in shorts))
                / extra
                * 1e6,
                peak_bytes=run.peak_bytes,
            )
