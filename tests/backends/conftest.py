"""Fixtures: built backends. Building takes minutes: without `make backends` their tests are skipped."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from backends.build import built
from support.backends import DesktopViewer, Jaeger, VictoriaLogs
from support.building import required


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--screenshot FILE`: where the picture for the front page goes."""
    parser.addoption("--screenshot", type=Path, metavar="FILE", help="write what the browser shows to FILE")


@pytest.fixture
def screenshot(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a picture of the browser's window goes."""
    chosen: Path | None = request.config.getoption("--screenshot")
    return chosen or tmp_path / "trace.png"


def program_of(name: str) -> Path:
    """The built program of a backend."""
    return required(built(name), f"{name} is not built: make backends builds it")


@pytest.fixture(scope="session")
def prometheus_program() -> Path:
    """The built Prometheus."""
    return program_of("prometheus")


@pytest.fixture(scope="session")
def victorialogs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaLogs]:
    """A running VictoriaLogs."""
    with VictoriaLogs(program_of("victorialogs"), tmp_path_factory.mktemp("victorialogs")) as victorialogs:
        yield victorialogs


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
