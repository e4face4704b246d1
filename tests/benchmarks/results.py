"""What a benchmark found: written as JSON, read again, and held against the targets."""

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct, field

from benchmarks.contest import Score
from benchmarks.contestants import ONE_WORKER, SDK_WHOLE
from benchmarks.counting_sink import Limit
from benchmarks.in_process import Stages
from benchmarks.length import Length
from benchmarks.ratios import median_ratio
from benchmarks.shapes import ROUTES

MIB = 1024 * 1024
MAX_LOAD = 0.5
"""A higher load average before the start means that other programs were running."""
MAX_MIB = 62
"""Peak memory of a process, for every file."""


class Machine(Struct, frozen=True):
    """Where and when it was measured."""

    processor: str
    cores: int
    system: str
    python: str
    date: str
    load: float
    """The load average (1 minute) at the beginning: whether other programs were running."""


class ShapeResult(Struct, frozen=True):
    """The scores for one shape of file; the Collector is the tuned one."""

    name: str
    about: str
    events: int
    file_bytes: int
    collector: Score
    one: Score
    two: Score

    @property
    def one_to_collector(self) -> float:
        """Events per second of one worker, divided by the Collector's."""
        return median_ratio(self.collector.seconds, self.one.seconds)

    @property
    def two_to_collector(self) -> float:
        """Events per second of two workers, divided by the Collector's."""
        return median_ratio(self.collector.seconds, self.two.seconds)

    @property
    def peak_bytes(self) -> int:
        """The peak of the largest process, with one worker or with two."""
        return max(self.one.peak_bytes, self.two.peak_bytes)


class Results(Struct):
    """All results; those of parts that did not run are empty."""

    machine: Machine
    shapes: list[ShapeResult] = field(default_factory=list)
    """The worst one first, by CPU time per event."""
    events: int = 0
    bytes: int = 0
    """Of the file that all contestants read."""
    scores: list[Score] = field(default_factory=list)
    limits: dict[str, Limit] = field(default_factory=dict)
    """The most that the sink takes, by protocol."""
    stages: Stages | None = None
    lengths: list[Length] = field(default_factory=list)
    help_seconds: float | None = None

    def score(self, name: str) -> Score | None:
        """A contestant's score; None if it did not take part."""
        return next((each for each in self.scores if each.name == name), None)

    @property
    def routes(self) -> ShapeResult | None:
        """The result for the file with 400 routes; None if it was not measured."""
        return next((each for each in self.shapes if each.name == ROUTES), None)


class Bar(Struct, frozen=True):
    """A target, what was measured, and whether that meets it."""

    text: str
    shown: str
    is_met: bool


def this_machine() -> Machine:
    """The machine and Python that this process runs on."""
    processor = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux: the general name must do
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        processor,
        cores,
        platform.system(),
        platform.python_version(),
        datetime.now(UTC).date().isoformat(),
        os.getloadavg()[0],
    )


def write(results: Results, file: Path) -> None:
    """Writes all of it as JSON, with the targets."""
    whole = msgspec.to_builtins(results) | {"bars": msgspec.to_builtins(list(bars(results)))}
    file.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n")


def read(file: Path) -> Results:
    """Reads what `write` wrote; the targets are computed again."""
    return msgspec.json.decode(file.read_bytes(), type=Results)


def bars(results: Results) -> Iterator[Bar]:
    """Yields the targets of the parts that were measured."""
    if routes := results.routes:
        yield from _routes(routes)
    if results.shapes:
        yield from _shapes(results.shapes)
    one, sdk = results.score(ONE_WORKER), results.score(SDK_WHOLE)
    if one and sdk:
        ratio = median_ratio(sdk.seconds, one.seconds)
        yield Bar(
            "1 worker: at least 15 times the events/s of an SDK that loses nothing",
            f"{ratio:.1f}",
            ratio >= 15,
        )
    yield from _lengths(results.lengths)
    if results.help_seconds is not None:
        seconds = results.help_seconds
        yield Bar("`--help`: less than 0.3 s", f"{seconds:.2f} s", seconds < 0.3)


def _routes(routes: ShapeResult) -> Iterator[Bar]:
    for workers, ratio, least in (
        ("1 worker", routes.one_to_collector, 0.45),
        ("2 workers", routes.two_to_collector, 0.75),
    ):
        text = f"400 routes, {workers}: at least {least} times the tuned Collector's events/s"
        yield Bar(text, f"{ratio:.2f}", ratio >= least)
    own, other = routes.one.cpu_us_per_event, routes.collector.cpu_us_per_event
    shown = f"{own:.1f} µs; the Collector: {other:.1f} µs"
    yield Bar("400 routes, 1 worker: at most 22 µs of CPU per event", shown, own <= 22)


def _shapes(shapes: Sequence[ShapeResult]) -> Iterator[Bar]:
    by_round = zip(*(each.one.seconds for each in shapes), strict=True)
    ratio = median(min(seconds) / max(seconds) for seconds in by_round)  # all files have as many events
    yield Bar("no shape slower than 0.3 times the fastest one", f"{ratio:.2f}", ratio >= 0.3)
    peak = max(each.peak_bytes for each in shapes) / MIB
    yield Bar(f"every shape: at most {MAX_MIB} MiB per process", f"{peak:.1f} MiB", peak <= MAX_MIB)


def _lengths(lengths: Sequence[Length]) -> Iterator[Bar]:
    if len(lengths) < 2:
        return
    first, last = lengths[0], lengths[-1]
    more = f"{last.events:,} events: at most 1.1 times that of {first.events:,}"
    yield Bar(f"time per event, {more}", f"{last.to_shortest:.2f}", last.to_shortest <= 1.1)
    memory = last.peak_bytes / first.peak_bytes
    yield Bar(f"peak memory, {more}", f"{memory:.2f}", memory <= 1.1)
    peak = max(each.peak_bytes for each in lengths) / MIB
    yield Bar(f"every length: at most {MAX_MIB} MiB per process", f"{peak:.1f} MiB", peak <= MAX_MIB)
