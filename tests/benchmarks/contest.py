"""Contestants take turns over the same files, each into a fresh sink; the results are medians.

How a run is measured. The clock starts with the process. For a program that ends, it stops when that has
ended; for the Collector, which waits for more, when the sink has acknowledged the last request: the sink is
asked once, and answers when all records have come, or nothing for a while, so nobody asks while others work.
CPU seconds are user and system time of the process and of the children that it waited for. In each round each
contestant also runs over a short file; the median of these runs is subtracted from both figures. So starting
and ending, and the Collector's waits for a file to be found and for a batch to be full, do not count, and a
rate is that of the events by which the file is longer than the short one. Both hold whole batches of the
Collector's, so that it waits for none at the end.

A run that does not deliver what the file holds ends the benchmark; but the SDK's processors may drop: how
much is a part of the result.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct
from support.program import environment

from benchmarks.contestants import HERE, Contestant
from benchmarks.counting_sink import Counts, Sink
from benchmarks.shapes import Made

SHORT_EVENTS = 2_000
"""Events of the short file; files hold a multiple of it."""
_QUIET_SECONDS = 5
"""Longer than the Collector pauses between two requests, also on a busy machine."""
_LEAST_SECONDS = 1e-3
"""What is left of a run at least: a file that is hardly longer than the short one may seem to take less."""


class Lost(Exception):
    """A contestant ended badly, or did not deliver what it had to; the message says what."""


class Course(Struct, frozen=True):
    """A file, and a short file of the same shape."""

    made: Made
    short: Made


class Took(Struct, frozen=True):
    """What measured.py writes down."""

    started: float
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    code: int


class Run(Struct, frozen=True):
    """One run of one contestant over one file, from the start of its process."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    counts: Counts
    load: float
    """The machine's load average (1 minute) before it: others at work make it slower."""


class Score(Struct, frozen=True):
    """What a contestant reached; seconds and CPU seconds without the short file's, one for each round."""

    name: str
    title: str
    short_seconds: float
    short_cpu_seconds: float
    """What the short file takes: the median."""
    seconds: list[float]
    cpu_seconds: list[float]
    events_per_second: float
    """The median."""
    cpu_us_per_event: float
    """The median."""
    cpu_us_per_record: float
    """The median; a record is a log record or a span that was delivered."""
    peak_bytes: int
    """Of its largest process, in the worst run."""
    delivered: float
    """The share of log records and spans that came, in the worst run."""
    bytes_per_event: float
    sink_cpu_seconds: float
    """The median of what the sink took beside it."""
    load: float


def compete(
    contestants: Sequence[Contestant],
    courses: Sequence[Course],
    *,
    sink: Path,
    rounds: int,
    say: Callable[[str], object],
) -> list[list[Score]]:
    """Runs every contestant over every course in each round; returns the scores of each course."""
    pairs = list(product(courses, contestants))
    shorts: list[list[Run]] = [[] for _ in pairs]
    runs: list[list[Run]] = [[] for _ in pairs]
    for number in range(1, rounds + 1):
        for (course, each), own_shorts, own_runs in zip(pairs, shorts, runs, strict=True):
            own_shorts.append(run_once(each, course.short, sink))
            own_runs.append(run := run_once(each, course.made, sink))
            say(
                f"round {number}: {course.made.path.name}: {each.title}: {run.seconds:.2f} s,"
                f" CPU {run.cpu_seconds:.2f} s, load {run.load:.1f}"
            )
    scores = [
        score(each, course, own_shorts, own_runs)
        for (course, each), own_shorts, own_runs in zip(pairs, shorts, runs, strict=True)
    ]
    size = len(contestants)
    return [scores[start : start + size] for start in range(0, len(scores), size)]


def run_once(contestant: Contestant, made: Made, sink: Path) -> Run:
    """Runs it over the file, into a sink that is started for it. Raises Lost."""
    load = os.getloadavg()[0]
    with Sink(sink) as counting:
        command, env = contestant.filled(made.path, counting.endpoint)
        if contestant.ends:
            took = measure(command, made.path.parent, env)
            seconds, counts = took.seconds, counting.counts()
        else:
            took, counts = _until_quiet(command, made, env, counting)
            seconds = counts.last - took.started
    if wrong := contestant.wrong(made, counts):
        raise Lost(wrong)
    return Run(seconds, took.cpu_seconds, took.peak_bytes, counts, load)


def score(contestant: Contestant, course: Course, shorts: Sequence[Run], runs: Sequence[Run]) -> Score:
    """Returns the medians of the runs, without what the short file took."""
    made, short = course.made, course.short
    short_seconds = median(each.seconds for each in shorts)
    short_cpu_seconds = median(each.cpu_seconds for each in shorts)
    seconds = without(short_seconds, (each.seconds for each in runs))
    cpu_seconds = without(short_cpu_seconds, (each.cpu_seconds for each in runs))
    events = made.events - short.events
    delivered = min(each.counts.records for each in runs) / contestant.records_of(made)
    records = (contestant.records_of(made) - contestant.records_of(short)) * delivered
    return Score(
        name=contestant.name,
        title=contestant.title,
        short_seconds=short_seconds,
        short_cpu_seconds=short_cpu_seconds,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        events_per_second=events / median(seconds),
        cpu_us_per_event=median(cpu_seconds) / events * 1e6,
        cpu_us_per_record=median(cpu_seconds) / records * 1e6,
        peak_bytes=max(each.peak_bytes for each in runs),
        delivered=delivered,
        bytes_per_event=median(each.counts.bytes for each in runs) / made.events,
        sink_cpu_seconds=median(each.counts.cpu_seconds for each in runs),
        load=median(each.load for each in runs),
    )


def measure(command: Sequence[str], folder: Path, env: dict[str, str]) -> Took:
    """Runs a command to its end, in this folder. Raises Lost if it fails."""
    process, result, said = _start(command, folder, env)
    process.wait()
    return _took(result, said)


def _until_quiet(
    command: Sequence[str], made: Made, env: dict[str, str], counting: Sink
) -> tuple[Took, Counts]:
    process, result, said = _start(command, made.path.parent, env)
    try:
        counts = counting.counts(_QUIET_SECONDS, made.events)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return _took(result, said), counts


def _start(
    command: Sequence[str], folder: Path, env: dict[str, str]
) -> "tuple[subprocess.Popen[bytes], Path, Path]":
    result, said = folder / "measured.json", folder / "said.txt"
    with said.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-S", str(HERE / "measured.py"), str(result), *command],
            cwd=folder,
            env=environment(**env),
            stdout=out,
            stderr=out,
        )
    return process, result, said


def _took(result: Path, said: Path) -> Took:
    took = msgspec.json.decode(result.read_bytes(), type=Took)
    result.unlink()
    if took.code != 0:
        raise Lost(f"ended with {took.code}:\n{said.read_text('utf-8', 'replace')[-4000:]}")
    return took


def without(short: float, measured: Iterable[float]) -> list[float]:
    """What was measured, without what the short file takes."""
    return [max(each - short, _LEAST_SECONDS) for each in measured]
