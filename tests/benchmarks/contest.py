"""Contestants in turns over the same file, each into a fresh sink; medians, and ratios pair by pair.

How a run is measured. The clock starts with the process. For a program that ends it stops when that has
ended; for the Collector, which goes on waiting for more, when the sink has acknowledged the last request:
the sink is asked once, and answers when nothing has come for a while, so nobody asks while others work.
CPU seconds are user and system time of the whole process and those it waited for. In each round each
contestant also runs over a short file; the median of these runs is taken off both figures before they are
compared. So starting and ending, and the Collector's waits for a file to be found and for a batch to be full,
count for nobody, and a rate is that of the events by which the file is longer than the short one. Both hold
whole batches of the Collector's, so that it waits for none at the end.
A run that does not deliver what the file holds ends the benchmark, except that the SDK's processors may
drop: how much is a part of the result.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct
from support.program import environment

from benchmarks.contestants import HERE, Contestant
from benchmarks.counting_sink import Counts, Sink
from benchmarks.make_file import Made

SHORT_EVENTS = 2_000
"""Events of the short file; files hold a multiple of it."""
_QUIET_SECONDS = 1.5
"""Longer than anybody pauses between two requests; who did would be found to have lost records."""
_LEAST_SECONDS = 1e-3
"""What is left of a run at least: a file that is hardly longer than the short one may seem to take less."""


class Lost(Exception):
    """A contestant ended badly, or did not deliver what it had to; the message says what."""


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
    made: Made,
    short: Made,
    *,
    sink: Path,
    rounds: int,
    say: Callable[[str], object],
) -> list[Score]:
    """So many rounds; in each, every contestant over both files."""
    shorts: dict[str, list[Run]] = {each.name: [] for each in contestants}
    runs: dict[str, list[Run]] = {each.name: [] for each in contestants}
    for number in range(1, rounds + 1):
        for each in contestants:
            shorts[each.name].append(run_once(each, short, sink))
            run = run_once(each, made, sink)
            runs[each.name].append(run)
            say(
                f"round {number}: {each.title}: {run.seconds:.2f} s, CPU {run.cpu_seconds:.2f} s,"
                f" load {run.load:.1f}"
            )
    extra = made.events - short.events
    return [score(each, made, extra, shorts[each.name], runs[each.name]) for each in contestants]


def run_once(contestant: Contestant, made: Made, sink: Path) -> Run:
    """Runs it over the file, into a sink that is started for it. Raises Lost."""
    load = os.getloadavg()[0]
    with Sink(sink) as counting:
        command, env = contestant.filled(made.path, counting.endpoint)
        if contestant.ends:
            took = measure(command, made.path.parent, env)
            seconds, counts = took.seconds, counting.counts()
        else:
            took, counts = _until_quiet(command, made.path.parent, env, counting)
            seconds = counts.last - took.started
    if wrong := contestant.wrong(made, counts):
        raise Lost(wrong)
    return Run(seconds, took.cpu_seconds, took.peak_bytes, counts, load)


def score(
    contestant: Contestant, made: Made, extra_events: int, shorts: Sequence[Run], runs: Sequence[Run]
) -> Score:
    """Takes off the runs what the short file took; `extra_events` are left."""
    short = median(each.seconds for each in shorts)
    short_cpu = median(each.cpu_seconds for each in shorts)
    seconds = without(short, (each.seconds for each in runs))
    cpu_seconds = without(short_cpu, (each.cpu_seconds for each in runs))
    wanted = made.events + (made.spans if contestant.sends_spans else 0)
    return Score(
        name=contestant.name,
        title=contestant.title,
        short_seconds=short,
        short_cpu_seconds=short_cpu,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        events_per_second=extra_events / median(seconds),
        cpu_us_per_event=median(cpu_seconds) / extra_events * 1e6,
        peak_bytes=max(each.peak_bytes for each in runs),
        delivered=min((each.counts.logs + each.counts.spans) / wanted for each in runs),
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
    command: Sequence[str], folder: Path, env: dict[str, str], counting: Sink
) -> tuple[Took, Counts]:
    process, result, said = _start(command, folder, env)
    try:
        counts = counting.counts(_QUIET_SECONDS)
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
