"""The contestants: the command of each, and what it must deliver of a file.

All read the same file and send to the same sink, without compression unless the name says otherwise. The
Collector sends log records only; everyone else logs, spans and links.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from collector.build import build
from msgspec import Struct
from support.program import PROGRAM

from benchmarks.counting_sink import Counts
from benchmarks.shapes import Made

HERE = Path(__file__).parent
COLLECTOR, COLLECTOR_GZIP = "collector", "collector-gzip"
SDK, SDK_WHOLE = "sdk", "sdk-whole"
TUNED, TUNED_GZIP = "collector-tuned", "collector-tuned-gzip"
ONE_WORKER, TWO_WORKERS = "1-worker", "2-workers"
PROGRAM_TITLE = "faillog-otel"


class Contestant(Struct, frozen=True):
    """`{file}` and `{endpoint}` in its command and environment are filled in for each run."""

    name: str
    title: str
    """For people."""
    command: tuple[str, ...]
    env: Mapping[str, str] = {}
    ends: bool = True
    """False: it goes on waiting for more, and is ended when nothing more comes."""
    sends_spans: bool = True
    may_drop: bool = False

    def filled(self, file: Path, endpoint: str) -> tuple[list[str], dict[str, str]]:
        """The command and the environment for this file and this sink."""
        return (
            [part.format(file=file, endpoint=endpoint) for part in self.command],
            {name: value.format(file=file, endpoint=endpoint) for name, value in self.env.items()},
        )

    def records_of(self, made: Made) -> int:
        """The number of log records and spans that a file gives."""
        return made.events + (made.spans if self.sends_spans else 0)

    def wrong(self, made: Made, counts: Counts) -> str:
        """What is wrong with what came of the file; empty if nothing is."""
        wanted = (made.events, made.spans if self.sends_spans else 0)
        came = (counts.logs, counts.spans)
        if came == wanted or (self.may_drop and came[0] <= wanted[0] and came[1] <= wanted[1]):
            return ""
        return f"{self.name}: {came} log records and spans came instead of {wanted}"


def contestants() -> list[Contestant]:
    """Returns all of them, the tuned Collector first: the others are compared with it. Raises CannotBuild."""
    collector = str(build())
    return [
        _collector(collector, TUNED),
        one_worker(),
        _ours(TWO_WORKERS, "2 workers"),
        _ours("1-worker-grpc", "1 worker, gRPC", "--protocol", "grpc"),
        _collector(collector, COLLECTOR),
        _collector(collector, TUNED_GZIP, "gzip"),
        _collector(collector, COLLECTOR_GZIP, "gzip"),
        _ours("1-worker-gzip", "1 worker, gzip", compression="gzip"),
        _ours("2-workers-gzip", "2 workers, gzip", compression="gzip"),
        _sdk(),
        _sdk_whole(),
    ]


def one_worker() -> Contestant:
    """The program as a sidecar has it, without compression."""
    return _ours(ONE_WORKER, "1 worker")


def _ours(name: str, title: str, *flags: str, compression: str = "none") -> Contestant:
    return Contestant(
        name,
        f"{PROGRAM_TITLE}, {title}",
        (PROGRAM, "run", "{file}", "--endpoint", "{endpoint}", "-q", "--workers", name[0], *flags),
        {"OTEL_EXPORTER_OTLP_COMPRESSION": compression},
    )


def _collector(program: str, name: str, compression: str = "none") -> Contestant:
    is_tuned = name in (TUNED, TUNED_GZIP)
    words = [*(["batches tuned"] if is_tuned else []), *([compression] if compression != "none" else [])]
    return Contestant(
        name,
        ", ".join(["OpenTelemetry Collector", *words]),
        (program, "--config", str(HERE / ("collector-tuned.yaml" if is_tuned else "collector.yaml"))),
        {"BENCH_FILE": "{file}", "BENCH_ENDPOINT": "{endpoint}", "BENCH_COMPRESSION": compression},
        ends=False,
        sends_spans=False,
    )


_SDK_TITLE = "OpenTelemetry SDK for Python"
_SDK_COMMAND = (sys.executable, str(HERE / "sdk_pipeline.py"), "{file}", "{endpoint}")


def _sdk() -> Contestant:
    return Contestant(SDK, _SDK_TITLE, _SDK_COMMAND, may_drop=True)


def _sdk_whole() -> Contestant:
    """With queues that hold all of the file: nothing is dropped, and memory pays for it."""
    queues = dict.fromkeys(("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BLRP_MAX_QUEUE_SIZE"), str(2**20))
    return Contestant(SDK_WHOLE, f"{_SDK_TITLE}, queues for everything", _SDK_COMMAND, queues)
