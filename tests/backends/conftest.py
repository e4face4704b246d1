"""Fixtures: built backends. Building takes minutes: without `make backends` their tests are skipped."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from backends.build import built
from support.backends import DesktopViewer, Jaeger


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--screenshot FILE`: where the picture for the README goes."""
    parser.addoption("--screenshot", type=Path, metavar="FILE", help="write what the browser shows to FILE")


@pytest.fixture
def screenshot(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a picture of the browser's window goes."""
    chosen: Path | None = request.config.getoption("--screenshot")
    return chosen or tmp_path / "trace.png"


def program_of(name: str) -> Path:
    """The built program of a backend; skips the test where there is none."""
    program = built(name)
    if program is None:
        pytest.skip(f"{name} is not built: make backends builds it")
    return program


@pytest.fixture(scope="session")
def tempo_program() -> Path:
    """The built Grafana Tempo."""
    return program_of("tempo")


@pytest.fixture(scope="session")
def loki_program() -> Path:
    """The built Grafana Loki."""
    return program_of("loki")


@pytest.fixture(scope="session")
def jaeger() -> Iterator[Jaeger]:
    """A running Jaeger."""
    with Jaeger(program_of("jaeger")) as jaeger:
        yield jaeger


@pytest.fixture
def viewer() -> Iterator[DesktopViewer]:
    """A running otel-desktop-viewer, with nothing in it."""
    with DesktopViewer(program_of("desktop-viewer")) as viewer:
        yield viewer
