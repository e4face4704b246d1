"""Files of different lengths, all of 400 routes, through one contestant: memory, and time per event.

The speed of the machine changes while a file of gigabytes is made and read, so each file runs between two
runs of the shortest one, and is compared with these.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median

from msgspec import Struct

from benchmarks.contest import SHORT_EVENTS, Run, run_once, without
from benchmarks.contestants import Contestant
from benchmarks.shapes import ROUTES, SHAPES, Made, make_shape

_START_RUNS = 3


class Length(Struct, frozen=True):
    """A file of so many events. Time per event is without what starting and ending take."""

    events: int
    file_bytes: int
    seconds: float
    us_per_event: float
    cpu_us_per_event: float
    peak_bytes: int
    to_shortest: float
    """Time per event, divided by that of the shortest file just before and just after."""
    cpu_to_shortest: float
    """The same for CPU time."""


def lengths(contestant: Contestant, events: Sequence[int], sink: Path) -> Iterator[Length]:
    """Makes one file after the other, and removes each before it makes the next: the largest has 2.5 GB.

    All are longer than the contest's short file.
    """
    shape = SHAPES[ROUTES]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short = make_shape(folder / "short", shape, SHORT_EVENTS)
        starts = [run_once(contestant, short, sink) for _ in range(_START_RUNS)]
        shortest = make_shape(folder / "shortest", shape, events[0])
        for number in events:
            made = make_shape(folder / "events", shape, number)
            before, run, after = (run_once(contestant, each, sink) for each in (shortest, made, shortest))
            made.path.unlink()
            seconds = _per_event(starts, run, made, lambda each: each.seconds)
            cpu_seconds = _per_event(starts, run, made, lambda each: each.cpu_seconds)
            yield Length(
                events=number,
                file_bytes=made.bytes,
                seconds=run.seconds,
                us_per_event=seconds * 1e6,
                cpu_us_per_event=cpu_seconds * 1e6,
                peak_bytes=run.peak_bytes,
                to_shortest=seconds
                / mean(
                    _per_event(starts, each, shortest, lambda each: each.seconds) for each in (before, after)
                ),
                cpu_to_shortest=cpu_seconds
                / mean(
                    _per_event(starts, each, shortest, lambda each: each.cpu_seconds)
                    for each in (before, after)
                ),
            )


def _per_event(starts: Sequence[Run], run: Run, made: Made, seconds_of: Callable[[Run], float]) -> float:
    (left,) = without(median(map(seconds_of, starts)), [seconds_of(run)])
    return left / (made.events - SHORT_EVENTS)
