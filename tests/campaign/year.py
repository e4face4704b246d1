"""A simulated year of polling: the ledger does not grow without end."""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from crashes.checker import problems
from crashes.launcher import Launcher
from crashes.rounds import audited
from crashes.scene import START_NS, Scene

from campaign.parts import Case, Part
from faillog_otel.clock import DAY_NS, HOUR_NS

KIB = 1024
LEAD_DAYS = 4
"""The last hours that are asked for end so long before the end: each of them is read to its end."""
STEADY_AFTER_DAYS = 100
"""Hours are kept for 60 days after they were closed: by then nothing is new."""
MAX_GROWTH = 1.1
SECONDS_OF_A_DAY = 120.0


class Year(Part):
    """One case; its name is `SEED/DAYS`."""

    title = "a simulated year"
    unit = "days"
    size = 365
    short = 3

    def plan(self, size: int, seed: int) -> list[list[str]]:
        """The case."""
        return [[f"{seed}/{size}"]]

    def run(self, names: Sequence[str], folder: Path) -> Iterator[Case]:
        """Runs it."""
        [name] = names
        seed, days = map(int, name.split("/"))
        case = Case(name)
        with (
            Launcher() as launcher,
            Scene(
                folder, seed=seed, hours=days * 24, messages=1, faults={}, launcher=launcher, damage=0.0
            ) as scene,
        ):
            scene.collector_is_moody = False
            scene.step_seconds = 3600
            scene.segment.clock.move_to(scene.hours.start * HOUR_NS)
            sizes = self._poll(scene, case, days)
            scene.write_evidence()
            case.wrong += problems(folder) + audited(scene)
            case.counts["listings"] = sum(each.counted for each in scene.segment.requests())
        self._judge(case, sizes, days)
        yield case

    def _poll(self, scene: Scene, case: Case, days: int) -> list[int]:
        """Runs for so long; returns the ledger's size after each day, in bytes."""
        process = scene.launch(scene.once_options())
        sizes: list[int] = []
        for day in range(1, days + LEAD_DAYS + 1):
            end_ns = scene.hours.start * HOUR_NS + day * DAY_NS
            until = time.monotonic() + SECONDS_OF_A_DAY
            while scene.segment.clock.now_ns() < end_ns:
                if process.poll() is not None or time.monotonic() > until:
                    case.wrong.append(f"day {day}: it ended ({process.returncode}), or stays: {scene.said()}")
                    process.kill()
                    return sizes
                time.sleep(0.01)
            sizes.append(sum(path.stat().st_size for path in scene.state.glob("ledger.sqlite3*")))
            print(f"\ryear: day {day}, ledger {sizes[-1] // KIB} KiB", end="", file=sys.stderr, flush=True)
        process.send_signal(15)
        process.wait(SECONDS_OF_A_DAY)
        code = scene.launch(scene.once_options("--once")).wait(SECONDS_OF_A_DAY)
        if code not in (0, 3):
            case.wrong.append(f"exit code {code}: {scene.said()}")
        return sizes

    def _judge(self, case: Case, sizes: Sequence[int], days: int) -> None:
        if not sizes:
            return
        case.peaks["KiB of ledger at most"] = max(sizes) // KIB
        case.peaks["KiB of ledger in the end"] = sizes[-1] // KIB
        if days < 2 * STEADY_AFTER_DAYS:
            return
        early, late = max(sizes[:STEADY_AFTER_DAYS]), max(sizes[STEADY_AFTER_DAYS:])
        case.peaks[f"KiB of ledger at most, first {STEADY_AFTER_DAYS} days"] = early // KIB
        if late > early * MAX_GROWTH:
            case.wrong.append(f"the ledger grew: {early} bytes, then {late}")


assert START_NS % DAY_NS == 0
