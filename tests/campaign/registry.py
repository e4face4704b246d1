"""All parts by their names, and how a batch of cases runs in a process of its own."""

import shutil
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from campaign.bit_flips import BitFlips
from campaign.clock_jumps import ClockJumps
from campaign.full_disk import FullDisk
from campaign.kills import EveryCall, RandomKills
from campaign.long_object import LongObject
from campaign.many_objects import ManyObjects
from campaign.parts import Case, Part, memory_folder
from campaign.power_loss import PowerLoss
from campaign.slow_quota import SlowQuota
from campaign.year import Year

PARTS: dict[str, Part] = {
    "random-kills": RandomKills(),
    "every-call": EveryCall(),
    "power-loss": PowerLoss(),
    "bit-flips": BitFlips(),
    "full-disk": FullDisk(),
    "clock-jumps": ClockJumps(),
    "many-objects": ManyObjects(),
    "long-object": LongObject(),
    "slow-quota": SlowQuota(),
    "year": Year(),
}
ON_DISK = ("many-objects", "long-object")
"""They need more room than memory should give."""


def run_batch(name: str, batch: Sequence[str], failed: Path) -> list[Case]:
    """Runs cases in a process of its own; a fault of the campaign itself is one of the cases' faults.

    The state folders of cases in which something was wrong are copied into `failed`.
    """
    cases: list[Case] = []
    part = PARTS[name]
    with tempfile.TemporaryDirectory(dir=None if name in ON_DISK else memory_folder()) as folder:
        try:
            for case in part.run(batch, Path(folder)):
                cases.append(case)
                if case.wrong and Path(case.state or "-").exists():
                    kept = failed / name / case.name.replace("/", "-")
                    shutil.copytree(case.state, kept, dirs_exist_ok=True)
        except Exception:  # noqa: BLE001  # the others go on
            left = batch[len(cases)] if len(cases) < len(batch) else batch[-1]
            cases.append(Case(left, [f"the campaign failed: {traceback.format_exc()}"]))
    return cases
