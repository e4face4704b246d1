"""What a benchmark found: as JSON, as tables for people, and held against the bars it has to clear."""

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct, field

from benchmarks.contest import Score
from benchmarks.contestants import (
    COLLECTOR,
    COLLECTOR_GZIP,
    ONE_WORKER,
    ONE_WORKER_GZIP,
    SDK,
    SDK_WHOLE,
    TWO_WORKERS,
)
from benchmarks.counting_sink import Limit
from benchmarks.in_process import Stages
from benchmarks.length import Length
from benchmarks.ratios import median_ratio, ratios

MIB = 1024 * 1024
ROUTES = "400-routes"
"""The shape that the targets are about."""


class Machine(Struct, frozen=True):
    """Where it was measured."""

    processor: str
    cores: int
    system: str
    python: str
    load: float
    """The load average (1 minute) at the beginning: others were at work."""


class ShapeScore(Struct, frozen=True):
    """What one worker, two workers and the tuned Collector reached with a file of one shape: medians."""

    name: str
    about: str
    events_per_second: float
    cpu_us_per_event: float
    cpu_us_per_record: float
    """A record is a log record or a span."""
    peak_bytes: int
    to_collector: float
    """Events a second of one worker, as a ratio to the Collector's; `two_to_collector`: of two workers."""
    two_to_collector: float
    collector_cpu_us_per_record: float


class Results(Struct):
    """What is there of it: parts that were not asked for are empty."""

    machine: Machine
    events: int = 0
    bytes: int = 0
    """Of the file that all contestants read."""
    scores: list[Score] = field(default_factory=list)
    limits: dict[str, Limit] = field(default_factory=dict)
    """What the sink takes, by protocol."""
    stages: Stages | None = None
    shapes: list[ShapeScore] = field(default_factory=list)
    """The worst one first, by CPU for each event."""
    lengths: list[Length] = field(default_factory=list)
    help_seconds: float | None = None

    def score(self, name: str) -> Score | None:
        """A contestant's; None if it did not take part."""
        return next((each for each in self.scores if each.name == name), None)


class Bar(Struct, frozen=True):
    """Something that has to hold, and whether it does."""

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
    return Machine(processor, cores, platform.system(), platform.python_version(), os.getloadavg()[0])


def write(results: Results, file: Path) -> None:
    """Writes all of it as JSON, with the bars and, round by round, the ratios to the first contestant."""
    whole = msgspec.to_builtins(results) | {"bars": msgspec.to_builtins(bars(results)), "ratios": {}}
    for each in results.scores:
        first = results.scores[0]
        whole["ratios"][each.name] = {
            "events_per_second": ratios(first.seconds, each.seconds),
            "cpu_seconds": ratios(each.cpu_seconds, first.cpu_seconds),
        }
    file.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n")


def bars(results: Results) -> list[Bar]:
    """The bars that can be told of what was measured; requests are not compressed unless they say so."""
    return [
        *_speed(results),
        *_shapes(results.shapes),
        *_memory(results.lengths),
        *_start(results.help_seconds),
    ]


def _speed(results: Results) -> Iterator[Bar]:
    collector = results.score(COLLECTOR)
    for text, own_name, other_name, least in (
        ("1 worker: at least 1.1 times the Collector's events/s", ONE_WORKER, COLLECTOR, 1.1),
        ("2 workers: at least 1.8 times the Collector's events/s", TWO_WORKERS, COLLECTOR, 1.8),
        ("1 worker with gzip: at least the Collector's events/s", ONE_WORKER_GZIP, COLLECTOR, 1.0),
        ("both with gzip: 1 worker at least the Collector's events/s", ONE_WORKER_GZIP, COLLECTOR_GZIP, 1.0),
        ("1 worker: at least 12 times the SDK's events/s, lost ones included", ONE_WORKER, SDK, 12.0),
        ("1 worker: at least 12 times the SDK's events/s, none of them lost", ONE_WORKER, SDK_WHOLE, 12.0),
    ):
        own, other = results.score(own_name), results.score(other_name)
        if own and other:
            ratio = median_ratio(other.seconds, own.seconds)
            yield Bar(text, f"{ratio:.2f}", ratio >= least)
    one = results.score(ONE_WORKER)
    if one and collector:
        ratio = median_ratio(one.cpu_seconds, collector.cpu_seconds)
        yield Bar("1 worker: at most 0.8 times the Collector's CPU seconds", f"{ratio:.2f}", ratio <= 0.8)


def _shapes(shapes: Sequence[ShapeScore]) -> Iterator[Bar]:
    for each in shapes:
        if each.name == ROUTES:
            text = "400 routes, 1 worker: at least 0.45 times the tuned Collector's events/s"
            yield Bar(text, f"{each.to_collector:.2f}", each.to_collector >= 0.45)
            text = "400 routes, 2 workers: at least 0.75 times the tuned Collector's events/s"
            yield Bar(text, f"{each.two_to_collector:.2f}", each.two_to_collector >= 0.75)
            is_met = each.cpu_us_per_event <= 22
            yield Bar("400 routes: at most 22 µs of CPU an event", f"{each.cpu_us_per_event:.1f} µs", is_met)
    if shapes:
        ratio = min(each.events_per_second for each in shapes) / max(
            each.events_per_second for each in shapes
        )
        yield Bar("no shape slower than 0.3 times the fastest one", f"{ratio:.2f}", ratio >= 0.3)
        peak = max(each.peak_bytes for each in shapes) / MIB
        yield Bar("every shape: at most 62 MiB a process", f"{peak:.1f} MiB", peak <= 62)


def _memory(lengths: Sequence[Length]) -> Iterator[Bar]:
    if not lengths:
        return
    peak = max(each.peak_bytes for each in lengths) / MIB
    yield Bar("peak memory: at most 80 MiB a process", f"{peak:.1f} MiB", peak <= 80)
    first, last = lengths[0], lengths[-1]
    if last is not first:
        more = f"at {last.events:,} events within 10 % of {first.events:,}"
        memory = last.peak_bytes / first.peak_bytes
        yield Bar(f"peak memory: {more}", f"{memory:.2f}", memory <= 1.1)
        yield Bar(f"time an event: {more}", f"{last.to_shortest:.2f}", last.to_shortest <= 1.1)


def _start(seconds: float | None) -> Iterator[Bar]:
    if seconds is not None:
        yield Bar("--help: in less than 0.3 s", f"{seconds:.2f} s", seconds < 0.3)


def lines(results: Results) -> Iterator[str]:
    """All of it for people."""
    machine = results.machine
    yield (
        f"{machine.cores} x {machine.processor}, {machine.system}, Python {machine.python};"
        f" load average {machine.load:.1f} at the beginning"
    )
    if results.scores:
        yield from ("", *_contest(results))
    if results.shapes:
        yield from ("", *_shape_table(results.shapes))
    for protocol, limit in results.limits.items():
        yield (
            f"the sink alone, {protocol}: {limit.records_per_second:,.0f} records/s,"
            f" {limit.bytes_per_second / MIB:,.0f} MiB/s, CPU {limit.cpu_us_per_record:.2f} µs a record"
        )
    if stages := results.stages:
        yield f"decode only: {stages.decode_us:.1f} µs an event; map and encode: {stages.encode_us:.1f} µs"
    if results.lengths:
        yield (
            f"\n{'events':>10} {'MiB file':>9} {'seconds':>8} {'µs/event':>9} {'ratio':>6} {'CPU µs':>7}"
            f" {'peak MiB':>9}"
        )
    for each in results.lengths:
        yield (
            f"{each.events:>10,} {each.file_bytes / MIB:>9,.0f} {each.seconds:>8.1f}"
            f" {each.us_per_event:>9.1f} {each.to_shortest:>6.2f} {each.cpu_us_per_event:>7.1f}"
            f" {each.peak_bytes / MIB:>9.1f}"
        )
    if results.help_seconds is not None:
        yield f"\n--help: {results.help_seconds:.2f} s"
    yield ""
    for bar in bars(results):
        yield f"{'met    ' if bar.is_met else 'NOT MET'} {bar.shown:>10}  {bar.text}"


def _shape_table(shapes: Sequence[ShapeScore]) -> Iterator[str]:
    width = max(len(each.about) for each in shapes)
    yield (
        f"{'shape of the file':<{width}} {'events/s':>9} {'CPU µs/event':>13} {'µs/record':>10}"
        f" {'peak MiB':>9} {'to Collector':>13} {'2 workers':>10} {'its µs/record':>14}"
    )
    for each in shapes:
        yield (
            f"{each.about:<{width}} {each.events_per_second:>9,.0f} {each.cpu_us_per_event:>13.1f}"
            f" {each.cpu_us_per_record:>10.1f} {each.peak_bytes / MIB:>9.1f} {each.to_collector:>13.2f}"
            f" {each.two_to_collector:>10.2f} {each.collector_cpu_us_per_record:>14.1f}"
        )


def _contest(results: Results) -> Iterator[str]:
    first = results.scores[0]
    width = max(len(each.title) for each in results.scores)
    yield f"{results.events:,} events, {results.bytes / MIB:,.0f} MiB; ratios to {first.title}"
    yield (
        f"{'':<{width}} {'events/s':>9} {'ratio':>6} {'CPU µs/event':>13} {'ratio':>6} {'peak MiB':>9}"
        f" {'sent B/event':>13} {'delivered':>10} {'sink CPU':>9}"
    )
    for each in results.scores:
        ratio = median_ratio(first.seconds, each.seconds)
        cpu_ratio = median_ratio(each.cpu_seconds, first.cpu_seconds)
        yield (
            f"{each.title:<{width}} {each.events_per_second:>9,.0f} {ratio:>6.2f}"
            f" {each.cpu_us_per_event:>13.1f} {cpu_ratio:>6.2f} {each.peak_bytes / MIB:>9.1f}"
            f" {each.bytes_per_event:>13.0f} {each.delivered:>10.1%} {each.sink_cpu_seconds:>7.2f} s"
        )
