"""The benchmarks run, count what arrives, and refuse a result where something was lost."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import grpc
import httpx
import pytest
from benchmarks.contest import Course, Lost, Run, run_once, score
from benchmarks.contestants import Contestant
from benchmarks.counting_sink import Counts, Sink, build_sink
from benchmarks.in_process import ready_request
from benchmarks.shapes import ROUTES, SHAPES, Made, events_of, make_shape
from support.building import CannotBuild
from support.tiers import slow

from faillog_otel.events.decode import decode
from faillog_otel.events.model import OTHER, Event
from faillog_otel.otlp.grpc import GRPC_METHODS

pytestmark = slow
ROOT = Path(__file__).parents[2]
COLLECTORS = {"collector", "collector-tuned", "collector-gzip", "collector-tuned-gzip"}
OURS = {"1-worker", "2-workers", "1-worker-grpc", "1-worker-gzip", "2-workers-gzip"}
EVERYONE = {*COLLECTORS, *OURS, "sdk", "sdk-whole"}
SOME_SHAPES = (ROUTES, "gzip", "reasons")
SMALLEST = (
    *("--events", "4000", "--shape-events", "4000", "--shapes", *SOME_SHAPES),
    *("--rounds", "1", "--lengths", "4000", "6000", "--requests", "4"),
)
CONTESTANT = Contestant("nobody", "Nobody", ("true",))


@pytest.fixture(scope="module")
def sink_program(collector_program: Path) -> Path:
    """The built sink; where there is a Collector, there is a `go`."""
    assert collector_program.exists()
    try:
        return build_sink()
    except CannotBuild as error:
        pytest.fail(str(error))


def post(sink: Sink, body: bytes, **headers: str) -> None:
    answer = httpx.post(f"{sink.endpoint}/v1/logs", content=body, headers=headers, trust_env=False)
    assert answer.status_code == 200


@pytest.mark.timeout(900)  # a minute and a half on an idle machine
def test_all_contestants_deliver_and_are_compared(collector_program: Path, tmp_path: Path) -> None:
    """A run with the smallest file there is: each contestant once, and every figure is there."""
    assert collector_program.exists()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--folder", tmp_path, *SMALLEST],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "bench.json").read_bytes())
    scores = {each["name"]: each for each in found["scores"]}
    assert scores.keys() == EVERYONE
    assert all(each["delivered"] == 1 for name, each in scores.items() if name != "sdk")
    assert {each["name"] for each in found["shapes"]} == set(SOME_SHAPES)
    cpu = [each["one"]["cpu_us_per_event"] for each in found["shapes"]]
    assert cpu == sorted(cpu, reverse=True)
    assert found["limits"].keys() == {"http/protobuf", "grpc"}
    assert [each["events"] for each in found["lengths"]] == [4000, 6000]
    assert found["stages"]["events"] == 4000
    assert len(found["bars"]) == 10
    picture = ET.parse(tmp_path / "bench.svg")  # noqa: S314  # we drew it
    assert len(picture.findall(".//{*}rect")) == 3 * len(SOME_SHAPES)
    assert all(each["title"] in done.stdout for each in scores.values())
    assert all(each["about"] in done.stdout for each in found["shapes"])


def test_the_sink_counts_what_is_compressed_or_not_over_http_and_grpc(
    sink_program: Path, tmp_path: Path
) -> None:
    made = make_shape(tmp_path / "events", SHAPES[ROUTES], 100)
    request = ready_request(made.path)
    with Sink(sink_program) as sink:
        post(sink, request)
        post(sink, gzip.compress(request), **{"content-encoding": "gzip"})
        with grpc.insecure_channel(sink.endpoint.removeprefix("http://")) as channel:
            for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
                export: Any = channel.unary_unary(GRPC_METHODS["logs"])  # no serialisers: bytes as they are
                export(request, compression=compression)
        counts = sink.counts()
    assert (counts.requests, counts.logs, counts.spans) == (4, 400, 0)


def test_a_sink_that_cannot_count_a_request_ends(sink_program: Path) -> None:
    with Sink(sink_program) as sink:
        with pytest.raises(httpx.TransportError):
            post(sink, b"\x0a\x7fshorter than it says")
        with pytest.raises(ConnectionError):
            sink.counts()


def test_a_contestant_that_delivers_nothing_has_no_result(sink_program: Path, tmp_path: Path) -> None:
    made = make_shape(tmp_path / "events", SHAPES[ROUTES], 10)
    with pytest.raises(Lost, match=r"nobody: .* came instead of"):
        run_once(CONTESTANT, made, sink_program)


def test_a_contestant_that_fails_has_no_result(sink_program: Path, tmp_path: Path) -> None:
    failing = Contestant("failing", "Failing", ("sh", "-c", "echo why; exit 7"))
    made = make_shape(tmp_path / "events", SHAPES[ROUTES], 10)
    with pytest.raises(Lost, match=r"ended with 7:\nwhy"):
        run_once(failing, made, sink_program)


@pytest.mark.parametrize("name", SHAPES)
def test_a_file_of_a_shape_is_understood_and_the_same_for_the_same_seed(name: str) -> None:
    one, other = ([*events_of(SHAPES[name], 2_000)] for _ in range(2))
    assert one == other
    assert len(one) == 2_000
    decoded = [decode(raw) for raw in one]
    assert all(isinstance(event, Event) and event.kind is not OTHER for event in decoded)


def test_the_compressed_file_holds_the_same_events(tmp_path: Path) -> None:
    plain = make_shape(tmp_path / "plain", SHAPES[ROUTES], 3_000)
    packed = make_shape(tmp_path / "packed", SHAPES["gzip"], 3_000)
    assert gzip.decompress(packed.path.read_bytes()) == plain.path.read_bytes()
    assert (packed.events, packed.spans) == (plain.events, plain.spans)
    assert packed.bytes < plain.bytes / 2


def test_what_the_short_file_takes_counts_for_nobody() -> None:
    def run(seconds: float, cpu_seconds: float) -> Run:
        return Run(seconds, cpu_seconds, 50, Counts(1, 120, 80, 1200, 0.1, 0), 0)

    course = Course(Made(Path("events"), 120, 80, 1000), Made(Path("short"), 20, 10, 100))
    shorts, runs = [run(1, 0.5), run(2, 0.5), run(9, 0.5)], [run(4, 1), run(6, 2.5), run(12, 3)]
    found = score(CONTESTANT, course, shorts, runs)
    assert (found.seconds, found.cpu_seconds) == ([2, 4, 10], [0.5, 2, 2.5])
    assert found.events_per_second == 100 / 4
    assert found.cpu_us_per_event == 20_000
    assert found.cpu_us_per_record == pytest.approx(2_000_000 / 170)
    assert (found.delivered, found.bytes_per_event) == (1, 10)
