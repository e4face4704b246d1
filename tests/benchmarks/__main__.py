"""`make bench`: shapes of files, the contest, the sink's own limit, stages, long files, start-up.

Prints tables; writes `bench.json` and, with shapes, `bench.svg` into a folder. `python -m benchmarks.page`
puts them into the documentation. The machine should do nothing else: its load is recorded with each run, and
a warning says if it is high.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec
from support.building import CannotBuild
from support.program import PROGRAM

from benchmarks import contestants as field
from benchmarks.contest import SHORT_EVENTS, Course, Lost, compete, measure
from benchmarks.counting_sink import build_sink, limit_of
from benchmarks.in_process import Stages, ready_request
from benchmarks.length import lengths
from benchmarks.picture import picture
from benchmarks.results import MAX_LOAD, Results, ShapeResult, this_machine, write
from benchmarks.shapes import ROUTES, SHAPES, Shape, make_shape
from benchmarks.tables import lines

PARTS = ("shapes", "contest", "sink", "stages", "lengths", "start")
_BLASTED_RECORDS = 512
_HELP_RUNS = 5


def main() -> None:
    chosen = _read_options()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    results = Results(this_machine())
    if results.machine.load > MAX_LOAD:
        _say(f"other programs are running (load {results.machine.load:.1f}): the figures will be rough")
    try:
        for part in chosen.parts:
            _PARTS[part](results, chosen)
            write(results, chosen.folder / "bench.json")
    except (Lost, CannotBuild) as error:
        sys.exit(str(error))
    if results.shapes:
        (chosen.folder / "bench.svg").write_text(picture(results), "utf-8")
    print("\n".join(lines(results)))


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    add = parser.add_argument
    add("--events", type=_whole_batches, default=200_000, help="of the contestants' file")
    add("--rounds", type=int, default=3)
    add("--shape-events", type=_whole_batches, default=100_000, help="of the file of each shape")
    add("--shapes", nargs="+", choices=SHAPES, default=[*SHAPES], metavar="SHAPE", help="%(choices)s")
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


def _shapes(results: Results, chosen: argparse.Namespace) -> None:
    everyone = {each.name: each for each in field.contestants()}
    taking_part = [everyone[name] for name in (field.TUNED, field.ONE_WORKER, field.TWO_WORKERS)]
    shapes = [SHAPES[name] for name in chosen.shapes]
    with tempfile.TemporaryDirectory() as folder:
        courses = [_course(Path(folder), shape, chosen.shape_events) for shape in shapes]
        found = compete(taking_part, courses, sink=build_sink(), rounds=chosen.rounds, say=_say)
    for shape, course, scores in zip(shapes, courses, found, strict=True):
        made = course.made
        results.shapes.append(ShapeResult(shape.name, shape.about, made.events, made.bytes, *scores))
    results.shapes.sort(key=lambda each: -each.one.cpu_us_per_event)


def _contest(results: Results, chosen: argparse.Namespace) -> None:
    everyone = field.contestants()
    names = chosen.only or [each.name for each in everyone]
    if unknown := set(names) - {each.name for each in everyone}:
        sys.exit(f"no such contestant: {', '.join(sorted(unknown))}")
    taking_part = [each for each in everyone if each.name in names]
    with tempfile.TemporaryDirectory() as folder:
        course = _course(Path(folder), SHAPES[ROUTES], chosen.events)
        results.events, results.bytes = course.made.events, course.made.bytes
        (results.scores,) = compete(taking_part, [course], sink=build_sink(), rounds=chosen.rounds, say=_say)


def _course(folder: Path, shape: Shape, events: int) -> Course:
    _say(f"making the file {shape.name}")
    return Course(
        make_shape(folder / shape.name, shape, events),
        make_shape(folder / f"{shape.name}-short", shape, SHORT_EVENTS),
    )


def _sink(results: Results, chosen: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        request = ready_request(make_shape(Path(folder, "events"), SHAPES[ROUTES], _BLASTED_RECORDS).path)
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
    for each in lengths(field.one_worker(), sorted(chosen.lengths), build_sink()):
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
