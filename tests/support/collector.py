"""The OpenTelemetry Collector of tests/collector/manifest.yaml, run with collector-config/local.yaml."""

import json
import re
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

from msgspec import Struct

from support.program import environment

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "collector-config" / "local.yaml"


def build_collector() -> tuple[Path | None, str]:
    """The built program; or None, and why there is none."""
    build = [sys.executable, str(ROOT / "tests" / "collector" / "build.py")]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    return (Path(done.stdout.strip()), "") if done.returncode == 0 else (None, done.stderr.strip())


class Arrived(Struct, frozen=True):
    """What came out at the collector's other end, as OTLP JSON."""

    logs: list[dict[str, Any]]
    spans: list[dict[str, Any]]
    envelopes: list[dict[str, Any]]
    """ResourceLogs and ResourceSpans without their records."""


class Collector:
    """A context manager: a running collector on ports that the system picks."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._output = folder / "collector-output.jsonl"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [self._program, "--config", CONFIG],
            env=environment(
                FAILLOG_COLLECTOR_HTTP="127.0.0.1:0",
                FAILLOG_COLLECTOR_GRPC="127.0.0.1:0",
                FAILLOG_COLLECTOR_OUTPUT=str(self._output),
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._listen)
        self._reader.start()
        self._ready.wait(60)
        found = re.search(r'Starting HTTP server.*"endpoint": "([^"]+)"', "".join(self._said))
        if found is None:
            self.__exit__()
            raise AssertionError("the collector did not start:\n" + "".join(self._said))
        self.http_endpoint = f"http://{found[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()

    def _listen(self) -> None:
        """Reads what the collector says, to its end: an unread pipe would block it."""
        with self._process.stderr or nullcontext(()) as lines:
            for line in lines:
                self._said.append(line)
                if "Everything is ready" in line:
                    self._ready.set()
        self._ready.set()

    def stop(self) -> Arrived:
        """Ends the collector, which writes out what it holds, and reads that."""
        self.__exit__()
        arrived = Arrived([], [], [])
        for line in self._output.read_text("utf-8").splitlines():
            request = json.loads(line)
            for whole, scopes, records, found in (
                ("resourceLogs", "scopeLogs", "logRecords", arrived.logs),
                ("resourceSpans", "scopeSpans", "spans", arrived.spans),
            ):
                for envelope in request.get(whole, ()):
                    for scope in envelope[scopes]:
                        found.extend(scope.pop(records))
                    arrived.envelopes.append(envelope)
        return arrived


def attributes_of(record: dict[str, Any]) -> dict[str, Any]:
    """An OTLP JSON record's attributes as plain values; integers stay the texts that JSON makes of them."""
    return {pair["key"]: plain(pair["value"]) for pair in record.get("attributes", ())}


def plain(value: dict[str, Any]) -> Any:
    """An OTLP JSON AnyValue as a plain value."""
    if "arrayValue" in value:
        return [plain(each) for each in value["arrayValue"].get("values", ())]
    return next(iter(value.values()), None)
