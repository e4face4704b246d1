"""Files of different lengths through one contestant: memory and time an event stay the same.

The machine's weather changes while a file of gigabytes is made and read, so each file stands between two runs
of the shortest one, and is compared with these.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median

from msgspec import Struct

from benchmarks.contest import SHORT_EVENTS, run_once, without
from benchmarks.contestants import Contestant
from benchmarks.shapes import SHAPES, make_shape

_START_RUNS = 3


class Length(Struct, frozen=True):
    """A file of so many events. Time an event is without what starting and ending take."""

    events: int
    file_bytes: int
    seconds: float
    us_per_event: float
    cpu_us_per_event: float
    peak_bytes: int
    to_shortest: float
    """Time an event, divided by that of the shortest file just before and just after."""


def lengths(contestant: Contestant, events: Sequence[int], sink: Path) -> Iterator[Length]:
    """Makes the files one after the other, and each is gone before the next: the largest takes 4 GB.

    All are longer than the contest's short file.
    """
    shape = SHAPES["400-routes"]
    with tempfile.TemporaryDirectory() as folder:
        start = make_shape(Path(folder, "start"), shape, SHORT_EVENTS)
        starts = [run_once(contestant, start, sink) for _ in range(_START_RUNS)]
        start_seconds = median(each.seconds for each in starts)
        start_cpu_seconds = median(each.cpu_seconds for each in starts)
        shortest = make_shape(Path(folder, "shortest"), shape, events[0])
        for number in events:
            made = make_shape(Path(folder, "events"), shape, number)
            before, run, after = (run_once(contestant, each, sink) for each in (shortest, made, shortest))
            made.path.unlink()
            seconds_before, seconds, seconds_after = without(
                start_seconds, (each.seconds for each in (before, run, after))
            )
            (cpu_seconds,) = without(start_cpu_seconds, [run.cpu_seconds])
            extra, extra_of_shortest = number - SHORT_EVENTS, shortest.events - SHORT_EVENTS
            yield Length(
                events=number,
                file_bytes=made.bytes,
                seconds=run.seconds,
                us_per_event=seconds / extra * 1e6,
                cpu_us_per_event=cpu_seconds / extra * 1e6,
                peak_bytes=run.peak_bytes,
                to_shortest=(seconds / extra) / (mean((seconds_before, seconds_after)) / extra_of_shortest),
            )
