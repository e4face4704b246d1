"""The installed program, started as a user starts it: in a folder, with an environment that is known."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from support.fork_server import run_forked

PROGRAM = str(Path(sys.prefix, "bin", "faillog-otel"))
_READ_AT_START = ("PYTHON", "LANG", "LC_", "COVERAGE_", "LD_", "DYLD_", "MALLOC_", "OPENSSL_")
"""How the names of variables begin that the loader, libraries or the interpreter read when they start."""
_started: "list[subprocess.Popen[bytes]]" = []


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
    """The environment of a started program: nothing of the test's own but the search path (and coverage)."""
    measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "XDG_STATE_HOME": "/dev/null", **measured, **more}


def run_program(*args: str | Path, cwd: Path, stdin: bytes = b"", timeout: float = 100, **env: str) -> Done:
    """Runs `faillog-otel ARGS` to its end."""
    return run_script(PROGRAM, *args, cwd=cwd, stdin=stdin, timeout=timeout, **env)


def run_script(*command: str | Path, cwd: Path, stdin: bytes = b"", timeout: float = 100, **env: str) -> Done:
    """Runs a Python script with arguments to its end.

    A run whose environment says nothing to the interpreter is forked, which is faster: see fork_server.py.
    """
    texts, variables = [*map(str, command)], environment(**env)
    if [name for name in variables if name.startswith(_READ_AT_START)] == ["LANG"] and "LANG" not in env:
        done = run_forked(texts, cwd, variables, stdin, timeout)
    else:
        texts = [sys.executable, *texts]
        done = subprocess.run(
            texts, cwd=cwd, input=stdin, env=variables, capture_output=True, timeout=timeout, check=False
        )
    return Done(done.returncode, done.stdout, done.stderr.decode())


def start_program(*args: str | Path, cwd: Path, **env: str) -> "subprocess.Popen[bytes]":
    """Starts `faillog-otel ARGS` with pipes; the caller ends it."""
    process = subprocess.Popen(
        [PROGRAM, *map(str, args)],
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _started.append(process)
    return process


def started() -> int:
    """Returns how many programs `start_program` started that were not ended by `end_started`."""
    return len(_started)


def end_started(before: int) -> None:
    """Kills those of the started programs, but for the first `before`, that run, and closes their pipes."""
    while len(_started) > before:
        with suppress(BrokenPipeError), _started.pop() as process:
            process.kill()


_MEASURED = (
    "import resource, subprocess, sys; done = subprocess.run(sys.argv[2:]); "
    "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss; "
    "open(sys.argv[1], 'w').write(str(peak * 1024)); sys.exit(done.returncode)"
)


def run_measured(*args: str | Path, cwd: Path) -> tuple[Done, int]:
    """Runs `faillog-otel ARGS` to its end; also returns the most resident memory that it took, in bytes.

    A process's peak includes that of the one it was forked from: a small one stands between it and the tests.
    """
    peak = cwd.with_name(f"{cwd.name}.peak")
    done = subprocess.run(
        [sys.executable, "-S", "-c", _MEASURED, str(peak), PROGRAM, *map(str, args)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr.decode()), int(peak.read_text())
