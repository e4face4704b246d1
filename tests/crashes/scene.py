"""A sidecar between a simulated Segment and a collector, to be killed, starved and started again.

Segment's clock moves on by the sidecar's own waits, so that days pass in seconds.
"""

import base64
import hashlib
import json
import os
import random
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from support.program import environment

from crashes.launcher import PROGRAM, Child, Launcher, Process
from crashes.tripwire import Watch
from faillog_otel.clock import DAY_NS, HOUR_NS, hour_text, time_text
from faillog_otel.config import Signal
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver, Reply
from faillog_otel.sandbox.config import QuotaConfig, SimulatedClock, SimulatorConfig, WorldConfig

START_NS = 1_746_662_400 * 1_000_000_000  # 2025-05-08T00:00:00Z
TOKEN = "t0ken-of-the-scene"  # noqa: S105  # the simulator's
LOOK_SECONDS = 0.02
COLLECTIONS = ("a", "b")
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

Journal = Literal["", "wal", "delete"]
"""Of the ledger; empty: as the program decides, by the version of SQLite."""


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
        journal: Journal = "",
        launcher: Launcher | None = None,
        per_day: int = 120,
        damage: float = 0.02,
        reads_counts: bool | None = None,
    ) -> None:
        """`package`: a folder with another build of the program, to be run in its place.

        With a `launcher`, what it starts has its modules already. `per_day`: what Segment grants.
        `reads_counts`: whether Segment's own counts are read; by default with a quarter of the seeds, because
        each start of the program reads them again.
        """
        self.folder = folder
        self.state = state or folder / "state"
        self.step_seconds = 60
        """How much Segment's clock moves on while the sidecar has nothing to ask, at once."""
        self.hours = range(START_NS // HOUR_NS - hours, START_NS // HOUR_NS)
        self.journal = journal
        self.launcher = launcher
        self._package = package
        reads_counts = seed % 4 == 0 if reads_counts is None else reads_counts
        self._settings = {"FAILLOG_SEGMENT_COUNTS": str(reads_counts).lower()}
        world = WorldConfig(
            seed=seed, collections=COLLECTIONS, messages=messages, damage=damage, duplicates=0.03
        )
        config = SimulatorConfig(
            world=world,
            quota=QuotaConfig(per_day=per_day, replenish="rolling"),
            token=TOKEN,
            faults=FAULTS if faults is None else faults,
            slow_seconds=0.05,
        )
        self.segment = Simulator(config, SimulatedClock(START_NS, standing=True))
        self._rng = random.Random(seed)
        self.collector_is_away = False
        self.collector_is_moody = True
        """Whether it sometimes refuses for now, hangs up, or rejects a request whole."""
        self.collector_rejects = False
        """Whether it always rejects the same few requests, as their content decides."""
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

    # -- the program ---------------------------------------------------------------------------------------

    def once_options(self, *more: str) -> list[str]:
        """The arguments of `run`."""
        since, until = hour_text(self.hours.start), hour_text(self.hours.stop)
        return ["run", *self._segment(), "--since", since, "--until", until, *self._sending(), *more]

    def replaying(self, *more: str) -> list[str]:
        """The arguments of `replay` for the quarantine."""
        return ["replay", *self._sending(), *more]

    def reading_again(self, hours: int) -> list[str]:
        """The arguments of `replay` for the last hours."""
        since, until = hour_text(self.hours.stop - hours), hour_text(self.hours.stop)
        return ["replay", *self._segment(), "--since", since, "--until", until, *self._sending()]

    def auditing(self) -> list[str]:
        """The arguments of `audit`."""
        return ["audit", "--json", "--state-dir", str(self.state)]

    def _segment(self) -> list[str]:
        hosts = ["--segment-url", self.segment.url, "--download-host", self.segment.download_host]
        return [*hosts, *(f"--collection={each}" for each in COLLECTIONS)]

    def _sending(self) -> list[str]:
        return ["--endpoint", self.collector.http_endpoint, "--state-dir", str(self.state)]

    def start(self, *more: str, prefix: Sequence[str] = ()) -> Process:
        """Starts `run`; its words are added to `said.txt`."""
        return self.start_command(self.once_options(*more), prefix=prefix)

    def start_command(
        self, arguments: Sequence[str], *, prefix: Sequence[str] = (), watch: Watch | None = None
    ) -> Process:
        """Starts any command of the program."""
        path = [*([str(self._package)] if self._package else []), *sys.path]
        env = environment(
            SEGMENT_TOKEN=self.segment.token, PYTHONPATH=os.pathsep.join(path), **self._settings
        )
        if watch:
            ports = {
                "segment": self.segment.url,
                "downloads": self.segment.download_host,
                "collector": self.collector.http_endpoint,
            }
            env |= watch.environment(
                self.state.absolute(), {name: int(each.rpartition(":")[2]) for name, each in ports.items()}
            )
        words = [f"{self.segment.control_url}clock", str(self.step_seconds), self.journal, *arguments]
        with (self.folder / "said.txt").open("ab") as said:
            return subprocess.Popen(
                [*prefix, sys.executable, str(PROGRAM), *words],
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def launch(
        self,
        arguments: Sequence[str],
        *,
        watch: Watch | None = None,
        cpu_seconds: int = 0,
        said: Path | None = None,
    ) -> Child:
        """Starts a command by the launcher. `cpu_seconds` of work end it."""
        assert self.launcher is not None
        ports = {
            "segment": self.segment.url,
            "downloads": self.segment.download_host,
            "collector": self.collector.http_endpoint,
        }
        env = environment(SEGMENT_TOKEN=self.segment.token, **self._settings)
        if watch:
            numbers = {name: int(each.rpartition(":")[2]) for name, each in ports.items()}
            env |= watch.environment(self.state.absolute(), numbers)
        words = [f"{self.segment.control_url}clock", str(self.step_seconds), self.journal, *arguments]
        return self.launcher.start(words, env, self.folder, said or self.folder / "said.txt", cpu_seconds)

    def until(self, is_so: Callable[[], bool], process: Process) -> None:
        """Waits until something is so, while the sidecar runs."""
        while not is_so():
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
                raise AssertionError(f"the sidecar ended with {process.returncode}: {self.said()}")

    def kill_when(self, is_so: Callable[[], bool]) -> None:
        """Starts the sidecar, and kills it as soon as something is so."""
        process = self.start()
        try:
            self.until(is_so, process)
        finally:
            process.kill()
            process.wait()

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
        return (self.folder / "said.txt").read_text(errors="replace")[-3000:]

    # -- evidence ------------------------------------------------------------------------------------------

    def write_evidence(self) -> None:
        """Writes down what Segment had and what the collector got, for the checker."""
        self.write_truth()
        with (self.folder / "received.jsonl").open("w") as file:
            for each in tuple(self.collector.received):
                if each.taken:
                    body = base64.b64encode(each.body).decode()
                    file.write(json.dumps({"signal": each.signal, "body": body}) + "\n")
        quota = {"most_in_24_hours": self._max_in_24_hours()}
        (self.folder / "quota.json").write_text(json.dumps(quota))

    def _max_in_24_hours(self) -> int:
        """How many listings Segment's quota granted or refused; a 429 of another limit counts nowhere."""
        at_ns = [
            round(datetime.fromisoformat(each.at).timestamp() * 1e9)
            for each in self.segment.requests()
            if each.counted or (each.status == 429 and each.fault is None)
        ]
        return max((bisect_right(at_ns, at) - bisect_right(at_ns, at - DAY_NS) for at in at_ns), default=0)

    def write_truth(self) -> None:
        """Writes down what Segment had: it stays the same, so once is enough."""
        if (self.folder / "truth.jsonl").exists():
            return
        with (self.folder / "truth.jsonl").open("w") as file:
            for collection in COLLECTIONS:
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

    # -- the collector -------------------------------------------------------------------------------------

    def _answer(self, signal: Signal, body: bytes) -> Reply | None:
        if self.collector_is_away:
            return Reply(503)
        if self.collector_rejects and hashlib.sha256(body).digest()[0] < 40:
            return Reply(body=_rejection(signal), taken=False)
        luck = self._rng.random() if self.collector_is_moody else 1.0
        if luck < 0.05:
            return Reply(503, headers={"retry-after": "0"})
        if luck < 0.08:
            return Reply(hangs_up=True)
        if luck < 0.11:
            return Reply(body=_rejection(signal), taken=False)
        return None


def _rejection(signal: Signal) -> bytes:
    if signal == "logs":
        logs = ExportLogsServiceResponse()
        logs.partial_success.rejected_log_records = 1
        return logs.SerializeToString()
    traces = ExportTraceServiceResponse()
    traces.partial_success.rejected_spans = 1
    return traces.SerializeToString()
