"""A sidecar between a simulated Segment and a collector, to be killed, starved and started again.

Segment's clock moves on by the sidecar's own waits, so that days pass in seconds.
"""

import base64
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from support.program import environment

from faillog_otel.clock import DAY_NS, HOUR_NS, hour_text, time_text
from faillog_otel.config import Signal
from faillog_otel.otlp.receiver import Receiver, Reply
from faillog_otel.segment.simulator.clock import SimulatedClock
from faillog_otel.segment.simulator.config import SimulatorConfig, WorldConfig
from faillog_otel.segment.simulator.server import Simulator

START_NS = 1_746_662_400 * 1_000_000_000  # 2025-05-08T00:00:00Z
TOKEN = "t0ken-of-the-scene"  # noqa: S105  # the simulator's
PROGRAM = Path(__file__).parents[1] / "support" / "moved_program.py"
LOOK_SECONDS = 0.05
PHASES = ("asking", "listed", "downloading", "spooled", "partly sent", "sent", "idle")
FAULTS = {
    "listing:503": 0.06,
    "listing:reset-after": 0.04,
    "listing:429-retry-after": 0.03,
    "listing:truncated": 0.03,
    "listing:html": 0.02,
    "download:reset": 0.05,
    "download:truncated": 0.05,
    "download:500": 0.05,
    "download:expired": 0.03,
    "download:changed": 0.05,
}


class Scene:
    """A context manager. `folder` holds the state folder and, in the end, the evidence for the checker."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 1,
        hours: int = 4,
        messages: float = 60.0,
        faults: dict[str, float] | None = None,
        package: Path | None = None,
        state: Path | None = None,
    ) -> None:
        """`package`: a folder with another build of the program, to be run in its place."""
        self.folder = folder
        self.state = state or folder / "state"
        self.kills: Counter[str] = Counter()
        self.step_seconds = 60
        """How much Segment's clock moves on while the sidecar has nothing to ask, at once."""
        self.hours = range(START_NS // HOUR_NS - hours, START_NS // HOUR_NS)
        self._package = package
        world = WorldConfig(
            seed=seed, collections=("a", "b"), messages=messages, damage=0.02, duplicates=0.03
        )
        rates = FAULTS if faults is None else faults
        self.segment = Simulator(
            SimulatorConfig(world=world, token=TOKEN, faults=rates, slow_seconds=0.05),
            SimulatedClock(START_NS, standing=True),
        )
        self._rng = random.Random(seed)
        self.collector_is_away = False
        self.collector_is_moody = True
        """Whether it sometimes refuses for now, hangs up, or rejects a request whole."""
        self.collector_is_slow = False
        self.collector = Receiver(self._answer)

    def __enter__(self) -> Self:
        self.segment.__enter__()
        self.collector.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.collector.__exit__(kind, error, at)
        self.segment.__exit__(kind, error, at)

    def command(self, *more: str) -> list[str]:
        """The sidecar's command line."""
        return [
            sys.executable,
            str(PROGRAM),
            f"{self.segment.control_url}clock",
            str(self.step_seconds),
            "run",
            *("--segment-url", self.segment.url),
            *("--download-host", self.segment.download_host),
            *("--endpoint", self.collector.http_endpoint),
            *("--since", hour_text(self.hours.start)),
            *("--until", hour_text(self.hours.stop)),
            *("--state-dir", str(self.state)),
            *("--collection", "a", "--collection", "b"),
            *more,
        ]

    def start(self, *more: str, prefix: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
        """Starts the sidecar; its words are added to `said.txt`."""
        env = environment(SEGMENT_TOKEN=self.segment.token)
        if self._package:
            env["PYTHONPATH"] = str(self._package)
        with (self.folder / "said.txt").open("ab") as said:
            return subprocess.Popen(
                [*prefix, *self.command(*more)],
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def until(self, is_so: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
        """Waits until something is so, while the sidecar runs."""
        while not is_so():
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
                raise AssertionError(f"the sidecar ended with {process.returncode}: {self.said()}")

    def kill_after(self, seconds: float) -> None:
        """Starts the sidecar, kills it at some moment, and notes in which phase that was."""
        process = self.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.kills[self.phase()] += 1

    def kill_in(self, phase: str, seconds: float = 20.0) -> None:
        """Starts the sidecar, and kills it as soon as it is seen in a phase; the collector takes its time."""
        self.collector_is_slow = True
        process = self.start()
        until = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < until and self.phase() != phase:
            pass
        process.kill()
        process.wait()
        self.collector_is_slow = False
        self.kills[self.phase()] += 1

    def phase(self) -> str:
        """What was under way when the sidecar ended, by what it left behind."""
        ledger = self.state / "ledger.sqlite3"
        if not ledger.exists():
            return "starting"
        with tempfile.TemporaryDirectory() as folder:
            for name in ("ledger.sqlite3", "ledger.sqlite3-journal", "ledger.sqlite3-wal"):
                with suppress(FileNotFoundError):
                    shutil.copy(self.state / name, folder)
            database = sqlite3.connect(Path(folder) / "ledger.sqlite3")
            try:
                rows = database.execute("SELECT state, position, records FROM objects WHERE state != 'done'")
                objects = rows.fetchall()
                asked = database.execute("SELECT 1 FROM requests WHERE outcome IS NULL").fetchone()
            except sqlite3.Error:
                return "starting"
            finally:
                database.close()
        phases = {
            "downloading": any(self.state.glob("spool/*.part")),
            "asking": bool(asked),
            "listed": any(state == "listed" for state, *_ in objects),
            "partly sent": any(0 < position < records for _, position, records in objects),
            "sent": any(0 < position == records for _, position, records in objects),
            "spooled": bool(objects),
        }
        return next((phase for phase, is_so in phases.items() if is_so), "idle")

    def settle(self, timeout: float = 120) -> list[int]:
        """Without further faults, lets days pass until every hour is read to its end; returns exit codes."""
        self.segment.faults.stop()
        self.collector_is_away = False
        codes = []
        for day in range(1, 4):
            now_ns = START_NS + day * DAY_NS + 12 * HOUR_NS
            if self.segment.clock.now_ns() < now_ns:
                self.segment.clock.move_to(now_ns)
            codes.append(self.start("--once").wait(timeout))
        return codes

    def said(self) -> str:
        """The last words of the sidecar."""
        return (self.folder / "said.txt").read_text()[-3000:]

    def write_evidence(self) -> None:
        """Writes down what Segment had and what the collector got, for the checker."""
        with (self.folder / "truth.jsonl").open("w") as file:
            for collection in ("a", "b"):
                for hour in self.hours:
                    for record in self.segment.world.records(collection, hour):
                        entry = {
                            "collection": collection,
                            "hour": hour_text(hour),
                            "available_at": time_text(record.available_ns),
                            "raw": base64.b64encode(record.raw).decode(),
                            "damaged": record.damaged,
                        }
                        file.write(json.dumps(entry) + "\n")
        with (self.folder / "received.jsonl").open("w") as file:
            for each in self.collector.received:
                if each.taken:
                    body = base64.b64encode(each.body).decode()
                    file.write(json.dumps({"signal": each.signal, "body": body}) + "\n")
        quota = {"most_in_24_hours": self.segment.quota.most_in_24_hours}
        (self.folder / "quota.json").write_text(json.dumps(quota))

    def _answer(self, signal: Signal, _body: bytes) -> Reply | None:
        if self.collector_is_away:
            return Reply(503)
        luck = self._rng.random() if self.collector_is_moody else 1.0
        if luck < 0.05:
            return Reply(503, headers={"retry-after": "0"})
        if luck < 0.08:
            return Reply(hangs_up=True)
        if luck < 0.11:
            return Reply(body=_rejection(signal), taken=False)
        return Reply(delay_seconds=0.3 if self.collector_is_slow else self._rng.choice((0.0, 0.0, 0.02)))


def _rejection(signal: Signal) -> bytes:
    if signal == "logs":
        logs = ExportLogsServiceResponse()
        logs.partial_success.rejected_log_records = 1
        return logs.SerializeToString()
    traces = ExportTraceServiceResponse()
    traces.partial_success.rejected_spans = 1
    return traces.SerializeToString()


def crash_often(scene: Scene, kills: int, rng: random.Random) -> None:
    """Kills the sidecar so many times, at random moments."""
    while sum(scene.kills.values()) < kills:
        scene.kill_after(0.3 + rng.expovariate(1 / 0.35))
        if scene.segment.clock.now_ns() > START_NS + 20 * DAY_NS:
            raise AssertionError("the sidecar had too little to do")
        if sum(scene.kills.values()) % 10 == 9:
            scene.kill_in("partly sent")
