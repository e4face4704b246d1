"""Random kills, in rounds: each a new folder with hours to read, killed again and again until nothing is due.

Where a kill falls is decided by what the sidecar does, not by the machine's speed: before a certain call of a
phase, before the n-th call of all, or at a random moment of its run. A round also kills the first start
(migration), replays of the quarantine and of hours, and the pruning of old hours. Rounds follow one another
until there were enough kills and one in every phase.
"""

import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct, field

from crashes.checker import Evidence, problems
from crashes.launcher import Launcher
from crashes.scene import START_NS, Journal, Scene
from crashes.tripwire import Action, Watch, read_log
from faillog_otel.clock import DAY_NS, HOUR_NS

POLLING = (
    *("T0", "segment", "T1", "answer noted", "downloads", "part", "part written", "part synced", "rename"),
    *(
        "index",
        "index written",
        "index synced",
        "spool synced",
        "T2",
        "indexes decided",
        "collector",
        "T3",
        "T3 quarantine",
        "digests saved",
        "done",
        "unlink",
        "recovery",
    ),
)
"""What a polling sidecar does over and over; the names are those of the tripwire. `segment`, `downloads` and
`collector` are requests to these; `recovery` is a start after a kill."""
OFTEN = {"T0", "T1", "downloads", "part", "index", "T2", "collector", "T3", "digests saved", "done"}
"""Many calls of these follow one another."""
PHASES = ("migration", *POLLING, "replay file", "replay", "hours wanted", "prune")
OTHERWISE = "between calls"
MAX_KILLS_IN_A_ROUND = 60
HANGS_AFTER_CPU_SECONDS = 60
HANGS_AFTER_SECONDS = 600.0
KILLED = -signal.SIGKILL


class Round(Struct):
    """What one round saw."""

    seed: int
    journal: Journal
    kills: Counter[str] = field(default_factory=Counter)
    """By phase."""
    ways: Counter[str] = field(default_factory=Counter)
    """By what decided the moment: `phase`, `call` or `time`."""
    counts: Counter[str] = field(default_factory=Counter)
    """What the ledger says in the end: exported, rejected, ..."""
    wrong: list[str] = field(default_factory=list)


class Killer:
    """Kills the sidecar of one scene."""

    def __init__(self, scene: Scene, found: Round, rng: random.Random, wanted: Counter[str]) -> None:
        """`wanted`: kills so far, by phase; the rarest phase is the next to be killed."""
        self._scene = scene
        self._found = found
        self._rng = rng
        self._wanted = wanted
        self._log = scene.folder / "watched.log"
        self._data = scene.folder / "watched.data"

    def kill(self, arguments: Sequence[str], label: str, end_ns: int) -> int | None:
        """Starts a command and kills it at a call of a phase; returns its code, None where it was killed.

        Where that never comes, it is killed at `end_ns` of Segment's clock.
        """
        at = 1 + int(self._rng.expovariate(1 / 8)) if label in OFTEN else 1 + self._rng.randrange(3)
        last = self._rng.randrange(40, 400) if label in POLLING else 0
        action: Action = "half" if self._rng.random() < 1 / 3 else "kill"
        return self._run(
            arguments, Watch(log=self._log, label=label, at=at, last=last, action=action), end_ns
        )

    def kill_somewhere(self, arguments: Sequence[str], end_ns: int) -> int | None:
        """The same, at a call or a time that the generator picks."""
        way = self._rng.choice(("phase", "phase", "call", "time"))
        self._found.ways[way] += 1
        if way == "phase":
            rarest = min(self._wanted[each] for each in POLLING)
            label = self._rng.choice([each for each in POLLING if self._wanted[each] <= rarest + 1])
            return self.kill(arguments, label, end_ns)
        if way == "call":
            last = self._rng.randrange(1, 400)
            return self._run(arguments, Watch(log=self._log, last=last), end_ns)
        return self._run(arguments, Watch(log=self._log), end_ns, self._rng.expovariate(1 / 0.1))

    def _run(
        self, arguments: Sequence[str], watch: Watch, end_ns: int, seconds: float = HANGS_AFTER_SECONDS
    ) -> int | None:
        self._log.unlink(missing_ok=True)
        process = self._scene.launch(arguments, watch=watch, cpu_seconds=HANGS_AFTER_CPU_SECONDS)
        until = time.monotonic() + seconds
        while process.poll() is None:
            if time.monotonic() > until or self._scene.segment.clock.now_ns() > end_ns:
                process.kill()
                process.wait()
                break
            try:
                process.wait(0.005)
            except subprocess.TimeoutExpired:
                continue
        if process.returncode != KILLED:
            return process.returncode
        calls = read_log(self._log)
        under_way = [each for each in calls if each.ended is None]
        label = under_way[-1].label if under_way else OTHERWISE
        self._found.kills[label] += 1
        self._wanted[label] += 1
        return None

    def run(self, arguments: Sequence[str]) -> int:
        """Runs a command to its end; its code."""
        return self._scene.launch(arguments, cpu_seconds=HANGS_AFTER_CPU_SECONDS).wait(HANGS_AFTER_SECONDS)


def one_round(
    folder: Path, launcher: Launcher, seed: int, *, journal: Journal, wanted: Counter[str], kills: int
) -> Round:
    """One round of at most about so many kills; `wanted`: those of all rounds, by phase."""
    found = Round(seed, journal)
    rng = random.Random(seed)
    with Scene(
        folder, seed=seed, hours=24, messages=rng.choice((5, 30, 80)), journal=journal, launcher=launcher
    ) as scene:
        scene.step_seconds = 3600
        killer = Killer(scene, found, rng, wanted)
        first_ns, away_ns = START_NS + DAY_NS // 2, START_NS + 36 * HOUR_NS
        killer.kill(scene.once_options(), "migration", away_ns)
        killer.kill(scene.once_options(), "segment", away_ns)  # unanswered, that is a case for the recovery
        killer.kill(scene.once_options(), "recovery", away_ns)
        while sum(found.kills.values()) < kills and scene.segment.clock.now_ns() < away_ns:
            killer.kill_somewhere(scene.once_options(), away_ns)
        scene.segment.faults.stop()
        codes = []
        for day in range(1, 5):
            at_ns = max(scene.segment.clock.now_ns(), first_ns + day * DAY_NS)
            scene.segment.clock.move_to(at_ns)
            codes.append(killer.run(scene.once_options("--once")))
        if codes[-1] not in (0, 3) or not set(codes) <= {0, 3, 6}:  # 6: the quota may have been used up
            found.wrong.append(f"exit codes {codes}: {scene.said()}")
        scene.collector_is_moody = False
        _kill_replays(scene, killer, found)
        _kill_pruning(scene, killer, found, rng)
        found.wrong += judged(scene, found)
        assert journal == "" or journal_of(scene.state) == journal
    return found


def _kill_replays(scene: Scene, killer: Killer, found: Round) -> None:
    """Kills replays of the quarantine and of hours, and lets them end."""
    now_ns = scene.segment.clock.now_ns() + DAY_NS
    for label in ("replay file", "replay"):
        killer.kill(scene.replaying("--rejected"), label, now_ns)
    killer.kill(scene.reading_again(2), "hours wanted", now_ns)
    killer.kill(scene.reading_again(2), "T3", now_ns)
    for arguments in (scene.once_options("--once"), scene.replaying("--rejected")):
        if (code := killer.run(arguments)) not in (0, 3):
            found.wrong.append(f"exit code {code}: {scene.said()}")


def _kill_pruning(scene: Scene, killer: Killer, found: Round, rng: random.Random) -> None:
    """Hours leave Segment's 28 days: kills the sidecar while it sums them up."""
    scene.segment.clock.move_to(START_NS + (29 + rng.randrange(5)) * DAY_NS)
    now_ns = scene.segment.clock.now_ns() + DAY_NS
    for _ in range(2):
        killer.kill(scene.once_options("--once"), "prune", now_ns)
    if (code := killer.run(scene.once_options("--once"))) not in (0, 3):
        found.wrong.append(f"exit code {code}: {scene.said()}")


def judged(scene: Scene, found: Round) -> list[str]:
    """What the checker and `audit` say; notes the counts."""
    scene.write_evidence()
    wrong = problems(scene.folder)
    rows = Evidence(scene.folder)
    for name in ("records", "exported", "rejected", "quarantined", "duplicate"):
        found.counts[name] += sum(row[name] for row in rows.objects + rows.past)
    return wrong + audited(scene)


def audited(scene: Scene) -> list[str]:
    """What `audit` says does not hold."""
    said = scene.folder / "audit.json"
    said.unlink(missing_ok=True)
    code = scene.launch(scene.auditing(), said=said, cpu_seconds=HANGS_AFTER_CPU_SECONDS).wait(60)
    if code == 0:
        return []
    try:
        named = [
            f"{each['check']}: {each['where']}: {each['what']}"
            for each in json.loads(said.read_text())["problems"]
        ]
    except ValueError:
        named = [said.read_text()]
    return [f"audit ended with {code}: {each}" for each in named]


def journal_of(state: Path) -> Journal:
    """Which journal a ledger has, by its file's head."""
    with (state / "ledger.sqlite3").open("rb") as file:
        return "wal" if file.read(20)[18:] == b"\x02\x02" else "delete"
