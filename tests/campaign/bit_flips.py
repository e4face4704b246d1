"""Damage: a bit, a sector or the end of a file of the state folder is spoilt while nothing runs.

Then `run --once` must end, by itself, with a code that says how; nothing changed or invented may be sent;
what is lost must be said, by the code and by `audit`; and the way out that the message names must bring
everything back.
"""

import random
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from crashes.checker import problems
from crashes.launcher import Launcher
from crashes.rounds import audited
from crashes.scene import START_NS, Journal, Scene
from crashes.tripwire import Watch

from campaign.parts import Case, Part, chunks, copy_state
from faillog_otel.clock import DAY_NS
from faillog_otel.sandbox.collector import Received

JOURNALS: tuple[Journal, ...] = ("delete", "wal")
CASES_OF_A_FOLDER = 20
WITHOUT_BOUND = 10**9
NOW_NS = START_NS + 2 * DAY_NS
HANGS_AFTER_CPU_SECONDS = 20
HANGS_AFTER_SECONDS = 240.0
BROKEN, BUG = 5, 70
SECTOR = 512
MAX_ATTEMPTS = 60
"""To stop a run while some of its objects are done and others are not; some worlds hardly have any."""
WAYS_OUT = ("move ", "name ", "remove ", "delete ")
"""What a message that ends a run tells to do begins with one of these words."""


class BitFlips(Part):
    """A case is named `SEED/JOURNAL`."""

    title = "damaged ledgers, spools and digests"
    unit = "damages"
    size = 500
    short = 20

    def plan(self, size: int, seed: int) -> list[list[str]]:
        """All cases; those of one folder in one batch."""
        first = seed * CASES_OF_A_FOLDER
        names = [
            f"{number}/{JOURNALS[number // CASES_OF_A_FOLDER % 2]}" for number in range(first, first + size)
        ]
        return chunks(names, CASES_OF_A_FOLDER)

    def run(self, names: Sequence[str], folder: Path) -> Iterator[Case]:
        """Damages copies of one folder."""
        number, journal = names[0].split("/")
        with (
            Launcher() as launcher,
            Scene(
                folder,
                seed=int(number) // CASES_OF_A_FOLDER,
                hours=6,
                messages=20,
                faults={},
                journal="wal" if journal == "wal" else "delete",
                launcher=launcher,
                per_day=WITHOUT_BOUND,
                damage=0.05,
            ) as scene,
        ):
            template = Template(scene, random.Random(int(number) // CASES_OF_A_FOLDER))
            for name in names:
                yield Damaged(template, name).case


class Template:
    """A folder that was left in the middle: hours to list, objects to download and to send, some sent."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self.scene = scene
        self.folder = scene.folder / "template"
        scene.collector_is_moody, scene.collector_rejects = False, True
        for attempt in range(MAX_ATTEMPTS):
            shutil.rmtree(scene.state, ignore_errors=True)
            scene.collector.received.clear()
            scene.segment.clock.move_to(NOW_NS)
            log = scene.folder / "watched.log"
            log.unlink(missing_ok=True)
            watch = Watch(log=log, label="T3", at=1 + rng.randrange(60) % (attempt + 1))
            scene.launch(scene.once_options("--once"), watch=watch).wait(HANGS_AFTER_SECONDS)
            if any((scene.state / "spool").glob("[0-9]*")) and any((scene.state / "digests").iterdir()):
                break
        shutil.copytree(scene.state, self.folder)
        self.received: list[Received] = list(scene.collector.received)


class Damaged:
    """One case."""

    def __init__(self, template: Template, name: str) -> None:
        self.case = Case(name)
        self._scene = template.scene
        self._said = template.scene.folder / "said.txt"
        self._said.unlink(missing_ok=True)
        shutil.rmtree(self._scene.state, ignore_errors=True)
        shutil.copytree(template.folder, self._scene.state)
        self._scene.collector.received[:] = template.received
        self._scene.segment.clock.move_to(NOW_NS)
        self._damage = damage(self._scene.state, random.Random(name))
        self.case.count(self._damage.split(":")[0])
        self.case.state = copy_state(self._scene.state, self._scene.folder)
        self._judge()

    def _judge(self) -> None:
        code = self._run()
        if code is None:
            return
        self._judge_words(code)
        if code == BROKEN:
            self._take_the_way_out()
            return
        if code not in (0, 3):  # hours could not be read: again, later
            self._wrong(f"exit code {code}")
        self._scene.segment.clock.move_to(NOW_NS + 3 * DAY_NS // 2)
        again = self._run()
        if again == BROKEN:  # what was damaged was not needed before
            self._judge_words(BROKEN)
            self._take_the_way_out()
        elif again is not None:
            self._judge_books()

    def _run(self) -> int | None:
        """Runs once; the exit code, None where it had to be killed."""
        process = self._scene.launch(self._scene.once_options("--once"), cpu_seconds=HANGS_AFTER_CPU_SECONDS)
        try:
            code = process.wait(HANGS_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code < 0:
            self.case.count("hung")
            self._wrong(f"did not end by itself ({code})")
            return None
        self.case.count(f"exit {code}")
        return code

    def _judge_words(self, code: int) -> None:
        said = self._said.read_text(errors="replace")
        if code == BUG or "Traceback" in said:
            self._wrong(f"exit code {code}: {said[-600:]}")
        if code == BROKEN and not any(word in said.lower() for word in WAYS_OUT):
            self._wrong(f"no way out is named: {said[-600:]}")

    def _judge_books(self) -> None:
        """Nothing is lost; where the books are wrong, `audit` says so."""
        named = audited(self._scene)
        self._scene.write_evidence()
        try:
            found = problems(self._scene.folder, WITHOUT_BOUND)
        except (sqlite3.DatabaseError, ValueError, KeyError) as error:  # a row or an entry makes no sense
            found = [] if named else [f"the ledger cannot be read, and audit holds: {error}"]
        spoilt_entries = sum(": kept: " in each for each in named)
        in_books = ("miscounted", "invented: a kept record", "left behind")
        for each in found:
            if each.startswith("lost: ") and spoilt_entries:  # its only copy was damaged, and `audit` says so
                spoilt_entries -= 1
                self.case.count("kept records spoilt, named by audit")
            elif not (named and (each.startswith(in_books) or "is not in quarantine" in each)):
                self._wrong(each if not named else f"{each} (audit says: {named[0]})")
        self.case.count("named by audit" if named else "unharmed or mended")
        for each in named:
            if "Traceback" in each:
                self._wrong(each)

    def _take_the_way_out(self) -> None:
        """Moves the folder away, and lists again: everything is there."""
        self._scene.state.rename(away := self._scene.folder / "away")
        shutil.rmtree(away)
        code = self._run()
        if code not in (0, 3):
            self._wrong(f"after the way out, exit code {code}")
            return
        self._scene.write_evidence()
        for each in problems(self._scene.folder, WITHOUT_BOUND) + audited(self._scene):
            self._wrong(f"after the way out: {each}")
        self.case.count("by the way out")

    def _wrong(self, what: str) -> None:
        self.case.wrong.append(f"{self._damage}: {what}")


def damage(state: Path, rng: random.Random) -> str:
    """Spoils a file; says which, and how."""
    kind = rng.choice(("ledger", "ledger", "spool", "digests"))
    patterns = {"ledger": "ledger.sqlite3*", "spool": "spool/*", "digests": "digests/*"}
    found = {
        kind: [path for path in sorted(state.glob(pattern)) if path.stat().st_size and _is_read(path)]
        for kind, pattern in patterns.items()
    }
    if not found[kind]:
        kind = "ledger"
    paths = found[kind]
    path = rng.choices(paths, [path.stat().st_size for path in paths])[0]
    content = bytearray(path.read_bytes())
    how = rng.choice(("bit", "bit", "bit", "sector", "end"))
    at = rng.randrange(len(content))
    if how == "bit":
        content[at] ^= 1 << rng.randrange(8)
    elif how == "sector":
        at -= at % SECTOR
        content[at : at + SECTOR] = bytes(len(content[at : at + SECTOR]))
    else:
        del content[at:]
    path.write_bytes(content)
    return f"{kind}, {how}: {path.relative_to(state)} at {at}"


def _is_read(path: Path) -> bool:
    """Parts are thrown away, and shared memory is made anew."""
    return path.suffix != ".part" and not path.name.endswith("-shm")
