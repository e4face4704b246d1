"""The wrong port, scheme or protocol of a real collector: said at once, with what to write instead."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from msgspec import Struct
from support.collector import READY, ROOT, endpoint_in
from support.program import run_program, start_program
from support.server import Server, unused_port

from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.generator import failure_events

LONG = "1h"
"""A run that waited so long for what never comes would be ended by its test."""


class Ports(Struct, frozen=True):
    """Of a collector: `host:port` of OTLP/HTTP and gRPC, and what its certificate is trusted by."""

    http: str
    grpc: str
    environment: dict[str, Any]


@pytest.fixture(scope="module", params=["plain", "tls"])
def ports(
    request: pytest.FixtureRequest, collector_program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ports]:
    folder = tmp_path_factory.mktemp("collector")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    config = "tls.yaml" if request.param == "tls" else "forward.yaml"
    with (
        Receiver() as receiver,
        Server(
            [collector_program, "--config", ROOT / "tests" / "collector" / config],
            READY,
            FAILLOG_COLLECTOR_HTTP="127.0.0.1:0",
            FAILLOG_COLLECTOR_GRPC="127.0.0.1:0",
            FAILLOG_COLLECTOR_STORAGE=str(folder),
            FAILLOG_COLLECTOR_TARGET=receiver.http_endpoint,
            FAILLOG_COLLECTOR_CERTIFICATE=str(folder / "server.pem"),
            FAILLOG_COLLECTOR_KEY=str(folder / "server.pem"),
        ) as server,
    ):
        http, grpc = (endpoint_in(server.said, name).removeprefix("http://") for name in ("HTTP", "GRPC"))
        yield Ports(http, grpc, {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(folder / "ca.pem")})


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events"
    path.write_bytes(b"\n".join(failure_events(1, 20)))
    return path


@pytest.mark.thin(4)
@pytest.mark.parametrize("port", ["http", "grpc"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
def test_a_run_over_paths_ends_at_once_or_delivers(
    ports: Ports, events: Path, port: str, scheme: str, protocol: str
) -> None:
    """What the message says to write is right: the next run delivers."""
    endpoint = f"{scheme}://{getattr(ports, port)}"
    options: tuple[str, ...] = ("--endpoint", endpoint, "--protocol", protocol)
    done = run_program("run", events, *options, "--wait", LONG, cwd=events.parent, **ports.environment)
    if done.code != 0:
        assert done.code == 4, done.stderr
        assert "retrying" not in done.stderr
        found = re.search(r"--endpoint \S+ --protocol [\w/]+|--protocol http/protobuf", done.stderr)
        assert found is not None, done.stderr
        options = (*options, *found[0].split())
        pending = events.parent / "faillog-pending.jsonl"
        done = run_program("run", pending, *options, "--wait", LONG, cwd=events.parent, **ports.environment)
    assert done.code == 0, done.stderr


def test_a_run_that_waits_forever_says_it_and_goes_on(ports: Ports, events: Path) -> None:
    process = start_program(
        *("run", events, "--endpoint", f"http://{ports.grpc}", "--wait", "forever"),
        cwd=events.parent,
        **ports.environment,
    )
    assert process.stderr is not None
    assert any(
        b"the port speaks gRPC" in line and b"paused; next probe in" in line for line in process.stderr
    )
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130


def test_an_unreachable_collector_is_waited_for(events: Path) -> None:
    """A port that nobody listens at, and a name that is not known, may be right later."""
    for endpoint in (f"http://127.0.0.1:{unused_port()}", "http://collector.invalid:4318"):
        for protocol in ("http/protobuf", "grpc"):
            done = run_program(
                *("run", events, "--endpoint", endpoint, "--protocol", protocol, "--wait", "1s"),
                cwd=events.parent,
            )
            assert (done.code, "retrying" in done.stderr) == (4, True), done.stderr
            assert ("host 'collector.invalid' not found" in done.stderr) == ("invalid" in endpoint)


@pytest.mark.parametrize(
    ("endpoint", "protocol", "instead"),
    [
        ("localhost:4318", "http/protobuf", "write http://localhost:4318 or https://localhost:4318"),
        ("http://host:4318/v1/logs", "http/protobuf", "write http://host:4318"),
        ("http://host:4318/otlp/v1/traces/", "http/json", "write http://host:4318/otlp"),
        ("http://host:4317/v1/logs", "grpc", "write http://host:4317"),
        ("https://user:s3cret@host:4317/otlp", "grpc", "write https://host:4317"),
    ],
)
def test_an_endpoint_that_cannot_be_right_is_refused(
    events: Path, endpoint: str, protocol: str, instead: str
) -> None:
    done = run_program("run", events, "--endpoint", endpoint, "--protocol", protocol, cwd=events.parent)
    assert done.code == 2
    assert instead in done.stderr
    assert "s3cret" not in done.stderr


def test_a_signals_own_endpoint_is_not_another_signals(events: Path) -> None:
    done = run_program(
        "run", events, cwd=events.parent, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://host:4318/v1/logs"
    )
    assert (done.code, "write http://host:4318/v1/traces" in done.stderr) == (2, True)
