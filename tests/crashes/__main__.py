"""`make crashes`: hundreds of kills, at random moments and at every system call that changes something.

Prints what was seen; exits with 1 when anything was lost, invented or changed, or when the run did not see
duplicates, quarantine and kills in every phase: then it proves nothing.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from crashes.checker import Evidence, problems
from crashes.scene import PHASES, Scene, crash_often
from crashes.system_calls import SYSTEM_CALLS, kill_at


def random_kills(kills: int, seed: int) -> list[str]:
    """So many kills at random moments, with all faults on; returns what is wrong."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Scene(Path(folder), seed=seed, hours=60, messages=300) as scene,
    ):
        crash_often(scene, kills, random.Random(seed))
        codes = scene.settle()
        scene.write_evidence()
        wrong = problems(scene.folder)
        found = Evidence(scene.folder)
        counts = {
            name: sum(row[name] for row in found.objects + found.past)
            for name in ("records", "exported", "rejected", "quarantined", "duplicate")
        }
        resent = sum(len(each.request().SerializeToString()) > 0 for each in scene.collector.received)
        print(f"{sum(scene.kills.values())} kills: {dict(scene.kills)}")
        print(f"{counts}; {resent} requests; at most {found.quota['most_in_24_hours']} listings in 24 h")
        if codes[-1] not in (0, 3):  # before, the quota may have been used up
            wrong.append(f"exit codes {codes}: {scene.said()}")
        wrong += [f"proves nothing: no kill while {phase}" for phase in PHASES if not scene.kills[phase]]
        wrong += [
            f"proves nothing: nothing {name}"
            for name in ("rejected", "quarantined", "duplicate")
            if not counts[name]
        ]
        return wrong


def every_system_call(step: int) -> list[str]:
    """Kills at each `step`-th state-changing system call of one hour; returns what is wrong."""
    wrong = []
    total = 0
    for call in SYSTEM_CALLS:
        number = 1
        while True:
            with tempfile.TemporaryDirectory() as folder:
                was_killed, found = kill_at(Path(folder), call, number)
            if not was_killed:
                break
            wrong += [f"{call} {number}: {each}" for each in found]
            total += 1
            number += step
        print(f"{call}: killed at every {step}. of {number - 1}", flush=True)
    print(f"{total} kills at system calls")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    wrong = random_kills(options.kills, options.seed) + every_system_call(options.step)
    print("\n".join(wrong) or "nothing lost, nothing invented, nothing changed")
    sys.exit(bool(wrong))
