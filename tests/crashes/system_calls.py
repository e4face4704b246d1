"""Kills the sidecar at one system call of one hour's way, by strace's fault injection."""

import shutil
from pathlib import Path

from crashes.checker import problems
from crashes.scene import START_NS, Scene
from faillog_otel.clock import DAY_NS

SYSTEM_CALLS = ("mkdir", "rename", "unlink", "ftruncate", "fsync", "fdatasync", "sendto", "pwrite64", "write")
"""Those that change what others see. Of `openat`, what it creates is written to by the others."""
KILLED = -9


def has_strace() -> bool:
    """Whether strace is on this machine."""
    return shutil.which("strace") is not None


def kill_at(folder: Path, call: str, number: int) -> tuple[bool, list[str]]:
    """Kills at the n-th such call of a thread, runs again; returns whether it was killed, what is wrong."""
    with Scene(folder, hours=2, messages=12.0, faults={}, seed=7) as scene:
        scene.segment.clock.move_to(START_NS + 2 * DAY_NS)
        inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
        inject += ["-e", f"inject={call}:signal=KILL:when={number}"]
        code = scene.start("--once", prefix=inject).wait(60)
        if code != KILLED:
            return False, []
        again = scene.start("--once").wait(60)
        scene.write_evidence()
        wrong = problems(folder)
        if again not in (0, 3):
            wrong.append(f"the next run ended with {again}: {scene.said()}")
        return True, wrong
