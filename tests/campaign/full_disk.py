"""A full disk: the program is stopped at some call, its disk is filled, and it goes on.

The disk is a small one in memory, which takes root to mount. The log must name it; when there is room again,
all is delivered.
"""

import base64
import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from crashes.checker import problems, uid_of
from crashes.launcher import Child, Launcher
from crashes.rounds import HANGS_AFTER_CPU_SECONDS, audited
from crashes.scene import START_NS, Journal, Scene
from crashes.tripwire import Watch, read_log
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from campaign.parts import Case, Part, chunks
from faillog_otel.clock import DAY_NS

JOURNALS: tuple[Journal, ...] = ("delete", "wal")
CALLS = {"delete": 800, "wal": 350}
"""A run makes more than so many."""
CASES_OF_A_BATCH = 10
WITHOUT_BOUND = 10**9
NOW_NS = START_NS + 2 * DAY_NS
IDLE_NS = DAY_NS
SECONDS = 120.0
START_SECONDS = 10.0
NAMES = ("disk full", "No space left on device")
BROKEN = 5


class FullDisk(Part):
    """A case is named `SEED/JOURNAL/polling` or `SEED/JOURNAL/replay`."""

    title = "a full disk while polling and replaying"
    unit = "moments"
    size = 100
    short = 6

    def plan(self, size: int, seed: int) -> list[list[str]]:
        """All cases; each third one replays."""
        first = seed * 1000
        names = [
            f"{number}/{JOURNALS[number % 2]}/{'polling' if number % 3 else 'replay'}"
            for number in range(first, first + size)
        ]
        return chunks(names, CASES_OF_A_BATCH)

    def run(self, names: Sequence[str], folder: Path) -> Iterator[Case]:
        """Runs cases on one disk."""
        with Launcher() as launcher, small_disk(folder / "disk") as disk:
            for name in names:
                place = folder / name.replace("/", "-")
                place.mkdir()
                journal: Journal = "wal" if "/wal/" in name else "delete"
                with Scene(
                    place,
                    seed=int(name.split("/")[0]),
                    messages=30,
                    faults={},
                    state=disk / "state",
                    journal=journal,
                    launcher=launcher,
                    per_day=WITHOUT_BOUND,
                ) as scene:
                    yield FilledUp(scene, disk, name).case
                shutil.rmtree(scene.state)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of a few megabytes; its root only may mount it."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class FilledUp:
    """One case."""

    def __init__(self, scene: Scene, disk: Path, name: str) -> None:
        self.case = Case(name)
        self._scene = scene
        self._other = disk / "other"
        self._rng = random.Random(name)
        scene.segment.clock.move_to(NOW_NS)
        scene.collector_is_moody = False
        if name.endswith("polling"):
            self._poll()
        else:
            self._replay()
        self._judge()

    def _poll(self) -> None:
        process = self._fill(self._scene.once_options(), CALLS[self._scene.journal])
        if not any(each.label == "segment" for each in read_log(self._scene.folder / "watched.log")):
            self._end_at_the_start(process)
            return
        self._named_or_idle(process)
        self._go_on(process)

    def _go_on(self, process: Child) -> None:
        """Makes room: the sidecar must deliver everything, and end by a signal."""
        self._other.unlink(missing_ok=True)
        if process.poll() is not None:
            self.case.wrong.append(f"the sidecar ended with {process.returncode}: {self._scene.said()}")
            return
        self._scene.write_truth()
        self._wait(process, self._has_all, "it did not go on when there was room")
        process.send_signal(signal.SIGTERM)
        if (code := process.wait(SECONDS)) != 128 + signal.SIGTERM:
            self.case.wrong.append(f"exit code {code}: {self._scene.said()}")

    def _end_at_the_start(self, process: Child) -> None:
        """Where it cannot even begin it may end, if it says why; else it goes on like any other."""
        with suppress(subprocess.TimeoutExpired):
            if process.wait(START_SECONDS) == BROKEN and self._is_named():
                self.case.count("ended at its start, named")
            else:
                self.case.wrong.append(f"exit code {process.returncode}: {self._scene.said()}")
            self._other.unlink(missing_ok=True)
            return
        self._named_or_idle(process)
        self._go_on(process)

    def _replay(self) -> None:
        self._scene.collector_rejects = True
        if self._run(self._scene.once_options("--once")) not in (0, 3):
            self.case.wrong.append(f"the run before: {self._scene.said()}")
        self._scene.collector_rejects = False
        process = self._fill(self._scene.replaying("--rejected"), 20)
        code = process.wait(SECONDS)
        if code == BROKEN:
            self._note(is_named=self._is_named())
        else:
            self.case.count("needed no room")
        self._other.unlink(missing_ok=True)
        if code not in (0, 3, BROKEN):
            self.case.wrong.append(f"exit code {code}: {self._scene.said()}")
        if (code := self._run(self._scene.replaying("--rejected"))) not in (0, 3):
            self.case.wrong.append(f"replay again: exit code {code}: {self._scene.said()}")

    def _fill(self, arguments: Sequence[str], calls: int) -> Child:
        """Starts a command, fills its disk before some call, and lets it go on."""
        log = self._scene.folder / "watched.log"
        watch = Watch(log=log, at=self._rng.randrange(1, calls), action="stop")
        process = self._scene.launch(arguments, watch=watch, cpu_seconds=HANGS_AFTER_CPU_SECONDS)
        if process.wait_for_stop(SECONDS):
            with self._other.open("wb", buffering=0) as other:
                for size in (1 << 20, 1 << 12):
                    try:
                        while True:
                            other.write(bytes(size))
                    except OSError:
                        continue
            self.case.count("filled")
            process.go_on()
        return process

    def _named_or_idle(self, process: Child) -> None:
        """Waits until the log names it; a day without that means that no room was needed."""
        until_ns = self._scene.segment.clock.now_ns() + IDLE_NS
        self._wait(
            process,
            lambda: self._is_named() or self._scene.segment.clock.now_ns() > until_ns,
            "the log does not name it",
        )
        if self._is_named() or process.returncode is not None:
            self._note(is_named=self._is_named())
        else:
            self.case.count("needed no room")

    def _note(self, *, is_named: bool) -> None:
        if is_named:
            self.case.count("named by the log")
        else:
            self.case.wrong.append(f"the log does not name it: {self._scene.said()}")

    def _is_named(self) -> bool:
        return any(name in self._scene.said() for name in NAMES)

    def _has_all(self) -> bool:
        got = set()
        for each in tuple(self._scene.collector.received):
            if each.taken and each.signal == "logs":
                for resource in ExportLogsServiceRequest.FromString(each.body).resource_logs:
                    for scope in resource.scope_logs:
                        for log in scope.log_records:
                            got |= {a.value.string_value for a in log.attributes if a.key == "log.record.uid"}
        with (self._scene.folder / "truth.jsonl").open() as file:
            truth = [json.loads(line) for line in file]
        return all(each["damaged"] or uid_of(base64.b64decode(each["raw"])) in got for each in truth)

    def _wait(self, process: Child, is_so: Callable[[], bool], otherwise: str) -> None:
        until = time.monotonic() + SECONDS
        while not is_so() and process.poll() is None:
            if time.monotonic() > until:
                self.case.wrong.append(f"{otherwise}: {self._scene.said()}")
                return
            time.sleep(0.05)

    def _judge(self) -> None:
        if (code := self._run(self._scene.once_options("--once"))) not in (0, 3):
            self.case.wrong.append(f"afterwards, exit code {code}: {self._scene.said()}")
        self._scene.write_evidence()
        self.case.wrong += problems(self._scene.folder, WITHOUT_BOUND, self._scene.state) + audited(
            self._scene
        )

    def _run(self, arguments: Sequence[str]) -> int:
        return self._scene.launch(arguments, cpu_seconds=HANGS_AFTER_CPU_SECONDS).wait(SECONDS)
