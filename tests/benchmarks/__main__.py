"""`make bench`: shapes of files, the contest, the sink's own limit, stages, long files, start-up.

Prints what was found; writes `bench.json` and, of a contest, `bench.svg` into a folder after each part. The
machine should have nothing else to do: its load is written down with each run, and a warning says so.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import msgspec
from support.building import CannotBuild
from support.program import PROGRAM

from benchmarks import contestants as field
from benchmarks.contest import SHORT_EVENTS, Lost, Score, compete, measure
from benchmarks.counting_sink import build_sink, limit_of
from benchmarks.in_process import Stages, ready_request
from benchmarks.length import lengths
from benchmarks.make_file import Made, make_mix
from benchmarks.picture import picture
from benchmarks.ratios import median_ratio
from benchmarks.results import ROUTES, Results, ShapeScore, lines, this_machine, write
from benchmarks.shapes import SHAPES, Shape, make_shape

PARTS = ("shapes", "contest", "sink", "stages", "lengths", "start")
_BUSY = 0.5
_BLASTED_RECORDS = 512
_HELP_RUNS = 5


def main() -> None:
    chosen = _read_options()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    results = Results(this_machine())
    if results.machine.load > _BUSY:
        _say(f"the machine is at work already (load {results.machine.load:.1f}): numbers will be rough")
    try:
        for part in chosen.parts:
            _PARTS[part](results, chosen)
            write(results, chosen.folder / "bench.json")
    except (Lost, CannotBuild) as error:
        sys.exit(str(error))
    if results.scores:
        (chosen.folder / "bench.svg").write_text(picture(results), "utf-8")
    print("\n".join(lines(results)))


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    add = parser.add_argument
    add("--events", type=_whole_batches, default=200_000, help="of the contestants' file")
    add("--rounds", type=int, default=5)
    add("--shape-events", type=_whole_batches, default=100_000, help="of the file of each shape")
    add("--only", nargs="+", metavar="NAME", help="of the contestants: collector, 1-worker, sdk, ...")
    add("--parts", nargs="+", choices=PARTS, default=PARTS)
    add(
        "--lengths", type=_whole_batches, nargs="+", default=[200_000, 1_000_000, 5_000_000], metavar="EVENTS"
    )
    add("--requests", type=int, default=1_000, help="that the sink alone is blasted with")
    add("--folder", type=Path, default=Path("build", "bench"), help="for bench.json and bench.svg")
    return parser.parse_args()


def _whole_batches(text: str) -> int:
    number = int(text)
    if number <= SHORT_EVENTS or number % SHORT_EVENTS:
        raise argparse.ArgumentTypeError(f"more than {SHORT_EVENTS:,}, and a multiple of it")
    return number


def _contest(results: Results, chosen: argparse.Namespace) -> None:
    with_workers = field.has_workers()
    if not with_workers:
        _say("this version has no --workers: two workers do not take part")
    everyone = field.contestants(with_workers=with_workers)
    names = chosen.only or [each.name for each in everyone]
    if unknown := set(names) - {each.name for each in everyone}:
        sys.exit(f"no such contestant: {', '.join(sorted(unknown))}")
    taking_part = [each for each in everyone if each.name in names]
    with tempfile.TemporaryDirectory() as folder:
        made = make_mix(Path(folder, "events"), chosen.events)
        short = make_mix(Path(folder, "short"), SHORT_EVENTS)
        results.events, results.bytes = made.events, made.bytes
        results.scores = compete(taking_part, made, short, sink=build_sink(), rounds=chosen.rounds, say=_say)


def _shapes(results: Results, chosen: argparse.Namespace) -> None:
    names = {field.TUNED, field.ONE_WORKER, field.TWO_WORKERS}
    taking_part = [each for each in field.contestants(with_workers=True) if each.name in names]
    for shape in SHAPES.values():
        _say(f"shape {shape.name}")
        with tempfile.TemporaryDirectory() as folder:
            made = make_shape(Path(folder, "events"), shape, chosen.shape_events)
            short = make_shape(Path(folder, "short"), shape, SHORT_EVENTS)
            scores = compete(taking_part, made, short, sink=build_sink(), rounds=chosen.rounds, say=_say)
        results.shapes.append(_shape_score(shape, made, {each.name: each for each in scores}))
    results.shapes.sort(key=lambda each: -each.cpu_us_per_event)


def _shape_score(shape: Shape, made: Made, scores: Mapping[str, Score]) -> ShapeScore:
    collector, one, two = (scores[name] for name in (field.TUNED, field.ONE_WORKER, field.TWO_WORKERS))
    return ShapeScore(
        shape.name,
        shape.about,
        one.events_per_second,
        one.cpu_us_per_event,
        one.cpu_us_per_event * made.events / (made.events + made.spans),
        one.peak_bytes,
        median_ratio(collector.seconds, one.seconds),
        median_ratio(collector.seconds, two.seconds),
        collector.cpu_us_per_event,
    )


def _sink(results: Results, chosen: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        request = ready_request(make_mix(Path(folder, "events"), _BLASTED_RECORDS).path)
    for protocol in ("http/protobuf", "grpc"):
        _say(f"the sink alone, {protocol}")
        limit = limit_of(build_sink(), protocol, request, _BLASTED_RECORDS, chosen.requests)
        results.limits[protocol] = limit


def _stages(results: Results, chosen: argparse.Namespace) -> None:
    _say("decode, map, encode in one process")
    with tempfile.TemporaryDirectory() as folder:
        made = make_shape(Path(folder, "events"), SHAPES[ROUTES], min(chosen.events, 50_000))
        env = {"PYTHONPATH": str(field.HERE.parent)}
        said = Path(folder, "stages.json")
        measure([sys.executable, "-m", "benchmarks.in_process", str(made.path), str(said)], Path(folder), env)
        results.stages = msgspec.json.decode(said.read_bytes(), type=Stages)


def _lengths(results: Results, chosen: argparse.Namespace) -> None:
    one = field.one_worker(with_workers=field.has_workers())
    for each in lengths(one, sorted(chosen.lengths), build_sink()):
        _say(f"{each.events:,} events: {each.seconds:.1f} s")
        results.lengths.append(each)


def _start(results: Results, _: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure([PROGRAM, "--help"], Path(folder), {}) for _ in range(_HELP_RUNS)]
    results.help_seconds = median(each.seconds for each in runs)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_PARTS: dict[str, Callable[[Results, argparse.Namespace], None]] = {
    "shapes": _shapes,
    "contest": _contest,
    "sink": _sink,
    "stages": _stages,
    "lengths": _lengths,
    "start": _start,
}

if __name__ == "__main__":
    main()
