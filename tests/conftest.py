"""Fixtures: real parts, made for one test and taken down after it."""

import signal
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from collector.build import build
from support.building import CannotBuild, required
from support.collector import Collector
from support.node import install_packages
from support.program import end_started, started
from support.raw_server import identity_for_tls

from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.sandbox.collector import Receiver

hypothesis.settings.register_profile(  # timings are never asserted
    "here", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("here")

# A shell's background job ignores SIGINT, and its programs inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves every n-th case of a thinned test in the fast tier."""
    cases: Counter[str] = Counter()
    for item in items:
        if marker := item.get_closest_marker("thin"):
            test = item.nodeid.partition("[")[0]
            if cases[test] % marker.args[0]:
                item.add_marker("slow")
            cases[test] += 1


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names binary parameters by length: gzip writes the time of day, and all processes need one name."""
    is_binary = isinstance(val, bytes) and not val.decode("latin-1").isprintable()
    return f"{argname}-of-{len(val)}-bytes" if isinstance(val, bytes) and is_binary else None


@pytest.fixture(autouse=True)
def _no_program_outlives_its_test() -> Iterator[None]:
    """A program that a failed test leaves behind, and its open pipes, would be errors of other tests.

    Programs of fixtures that several tests share were started before.
    """
    before = started()
    yield
    end_started(before)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An OTLP receiver that takes everything."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    """An empty ledger in a state folder of its own."""
    with StateFolder(str(tmp_path / "state")) as folder:
        ledger = SqliteLedger(folder)
        yield ledger
        ledger.close()


@pytest.fixture(scope="session")
def collector_program() -> Path:
    """The built OpenTelemetry Collector."""
    try:
        return build()
    except CannotBuild as error:
        return required(None, f"the Collector could not be built: {error}")


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Where the packages of tests/node are installed."""
    return required(*install_packages())


@pytest.fixture
def collector(collector_program: Path, tmp_path: Path) -> Iterator[Collector]:
    """A running OpenTelemetry Collector."""
    with Collector(collector_program, tmp_path) as collector:
        yield collector


@pytest.fixture(params=["http", "https"])
def tls(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ssl.SSLContext | None:
    """A server's TLS settings, which the system trusts; None for plain HTTP."""
    if request.param == "http":
        return None
    context, authority = identity_for_tls(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", authority)
    return context
