"""Power loss: a run is cut off, and starts again on what a disk might have kept of its folder.

The calls of the run are recorded, and one of the states is drawn that a disk could show (`disk.py`). What the
collector had acknowledged stays acknowledged.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from crashes.checker import problems
from crashes.launcher import Launcher
from crashes.rounds import HANGS_AFTER_CPU_SECONDS, HANGS_AFTER_SECONDS, KILLED, audited
from crashes.scene import START_NS, Journal, Scene
from crashes.tripwire import Action, Watch, read_log

from campaign.disk import MODELS, Disk
from campaign.parts import Case, Part, chunks, copy_state
from faillog_otel.clock import DAY_NS

JOURNALS: tuple[Journal, ...] = ("delete", "wal")
CALLS = {"delete": 1400, "wal": 700}
"""About as many as a first run makes; a run that makes fewer is cut off after its end."""
CASES_OF_A_WORLD = 20
WITHOUT_BOUND = 10**9
NOW_NS = START_NS + 2 * DAY_NS


class PowerLoss(Part):
    """A case is named `SEED/JOURNAL/MODEL`."""

    title = "power loss: images of torn sectors, lost and reordered names"
    unit = "cases of one to three images"
    size = 500
    short = 20

    def plan(self, size: int, seed: int) -> list[list[str]]:
        """All cases; those of one world in one batch."""
        names = [
            f"{number}/{JOURNALS[number % 2]}/{MODELS[number // 2 % 2]}"
            for number in range(seed * CASES_OF_A_WORLD, seed * CASES_OF_A_WORLD + size)
        ]
        return chunks(names, CASES_OF_A_WORLD)

    def run(self, names: Sequence[str], folder: Path) -> Iterator[Case]:
        """Runs cases of one world."""
        with Launcher() as launcher:
            for journal in JOURNALS:
                mine = [name for name in names if name.split("/")[1] == journal]
                if mine:
                    yield from _run(mine, folder / journal, launcher, journal)


def _run(names: Sequence[str], folder: Path, launcher: Launcher, journal: Journal) -> Iterator[Case]:
    folder.mkdir()
    world = int(names[0].split("/")[0]) // CASES_OF_A_WORLD
    with Scene(
        folder,
        seed=world,
        hours=3,
        messages=12,
        faults={},
        journal=journal,
        launcher=launcher,
        per_day=WITHOUT_BOUND,
        damage=0.05,
    ) as scene:
        scene.collector_is_moody = False
        for name in names:
            yield PoweredScene(scene, name).case


class PoweredScene:
    """One case, from an empty folder to what is judged."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.case = Case(name)
        self._scene = scene
        self._rng = random.Random(name)
        self._model = MODELS[MODELS.index("harsh") if name.endswith("harsh") else MODELS.index("journal")]
        shutil.rmtree(scene.state, ignore_errors=True)
        (scene.folder / "said.txt").unlink(missing_ok=True)
        scene.collector.received.clear()
        scene.segment.clock.move_to(NOW_NS)
        scene.collector_rejects = True
        what = self._rng.choice(("polling", "polling", "polling", "replay", "hours"))
        if what != "polling":
            self._launch(scene.once_options("--once"))
        scene.collector_rejects = what == "polling"
        self.case.count(f"images while {what}", 0)
        for _ in range(self._rng.choice((1, 1, 2, 3))):
            if what == "replay":
                self._cut(scene.replaying("--rejected"), 40)
            elif what == "hours" and scene.state.exists():
                self._cut(scene.reading_again(1), CALLS[scene.journal] // 2)
            else:
                self._cut(scene.once_options("--once"), CALLS[scene.journal])
            self.case.count(f"images while {what}")
            self.case.count("images")
        self._judge()

    def _cut(self, arguments: Sequence[str], calls: int) -> None:
        """Runs, cuts power at some call, and puts what the disk kept in the folder's place."""
        scene, folder = self._scene, self._scene.folder
        before, log, data = folder / "before", folder / "watched.log", folder / "watched.data"
        shutil.rmtree(before, ignore_errors=True)
        for path in (log, data):
            path.unlink(missing_ok=True)
        if scene.state.exists():
            shutil.copytree(scene.state, before)
        action: Action = "half" if self._rng.random() < 0.5 else "kill"
        watch = Watch(log=log, data=data, at=self._rng.randrange(1, calls), action=action)
        code = self._launch(arguments, watch)
        self.case.count("cut off under way" if code == KILLED else "cut off after the end")
        if code not in (KILLED, 0, 2, 3, 6):  # 2: there is no ledger yet, or any more
            self.case.wrong.append(f"exit code {code}: {scene.said()}")
        seen = read_log(log)
        disk = Disk(before, seen, data.read_bytes() if data.exists() else b"")
        shutil.rmtree(scene.state, ignore_errors=True)
        disk.image(scene.state, self._model, self._rng, seen)
        self.case.count(
            "folders of which nothing was left", int(not (scene.state / "ledger.sqlite3").exists())
        )

    def _judge(self) -> None:
        self.case.state = copy_state(self._scene.state, self._scene.folder)
        code = self._launch(self._scene.once_options("--once"))
        if code not in (0, 3):
            self.case.wrong.append(f"exit code {code}: {self._scene.said()}")
            return
        self._scene.write_evidence()
        self.case.wrong += problems(self._scene.folder, WITHOUT_BOUND) + audited(self._scene)

    def _launch(self, arguments: Sequence[str], watch: Watch | None = None) -> int:
        process = self._scene.launch(arguments, watch=watch, cpu_seconds=HANGS_AFTER_CPU_SECONDS)
        return process.wait(HANGS_AFTER_SECONDS)
