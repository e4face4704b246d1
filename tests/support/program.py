"""The installed program, started as a user starts it: in a folder, with an environment that is known."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from msgspec import Struct

PROGRAM = str(Path(sys.prefix, "bin", "faillog-otel"))


class Done(Struct, frozen=True):
    """How a program ended."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        """What `--summary json` printed: the last line of standard output."""
        found: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return found


def environment(**more: str) -> dict[str, str]:
    """The environment of a started program: nothing of the test's own but the search path."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **more}


def run_program(*args: str | Path, cwd: Path, stdin: bytes = b"", timeout: float = 100, **env: str) -> Done:
    """Runs `faillog-otel ARGS` to its end."""
    done = subprocess.run(
        [PROGRAM, *map(str, args)],
        cwd=cwd,
        input=stdin,
        env=environment(**env),
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr.decode())


def start_program(*args: str | Path, cwd: Path, **env: str) -> "subprocess.Popen[bytes]":
    """Starts `faillog-otel ARGS` with pipes; the caller ends it."""
    return subprocess.Popen(
        [PROGRAM, *map(str, args)],
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
