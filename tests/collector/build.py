"""Builds the OpenTelemetry Collector of manifest.yaml: `make collector` prints the path of the program."""

import sys
from pathlib import Path

from support.building import CannotBuild, Workshop
from support.building import build as build_once

MANIFEST = Path(__file__).with_name("manifest.yaml")
BUILDER = "go.opentelemetry.io/collector/cmd/builder@v0.158.0"


def build() -> Path:
    """The path of the built program; builds it first where needed (minutes). Raises CannotBuild."""
    return build_once("otelcol", MANIFEST.read_bytes() + BUILDER.encode(), _make)


def _make(workshop: Workshop) -> Path:
    workshop.go("install", BUILDER)
    workshop.run(workshop.bench / "builder", "--config", MANIFEST)
    return workshop.bench / "otelcol" / "otelcol"


if __name__ == "__main__":
    try:
        print(build())
    except CannotBuild as error:
        sys.exit(f"the Collector could not be built: {error}")
