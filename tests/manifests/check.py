"""Checks docker/compose.yaml and docker/kubernetes.yaml by main.go: what it takes are the arguments.

`PYTHONPATH=tests python -m manifests.check -compose FILE -kubernetes FILE`.
"""

import subprocess
import sys
from pathlib import Path

from support.building import CannotBuild, Workshop
from support.building import build as build_once

SOURCES = [Path(__file__).with_name(name) for name in ("main.go", "go.mod", "go.sum")]


def build() -> Path:
    """The path of the built program; builds it first where needed (a minute). Raises CannotBuild."""

    def make(workshop: Workshop) -> Path:
        program = workshop.bench / "manifests"
        workshop.go("build", "-mod=readonly", "-o", program, ".", cwd=SOURCES[0].parent)
        return program

    return build_once("manifests", b"".join(source.read_bytes() for source in SOURCES), make)


if __name__ == "__main__":
    try:
        sys.exit(subprocess.run([build(), *sys.argv[1:]], check=False).returncode)
    except CannotBuild as error:
        sys.exit(f"the check of manifests could not be built: {error}")
