"""What a run imports: what takes long is imported only where it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)
from support.collector import Collector
from support.events import error, lines
from support.program import environment

from faillog_otel.sandbox.collector import Receiver, Reply

PROTOBUF = ("google.protobuf", "opentelemetry.proto")
WARNING = ExportLogsServiceResponse(
    partial_success=ExportLogsPartialSuccess(error_message="slow down")
).SerializeToString()


def imported(endpoint: str, protocol: str, folder: Path) -> set[str]:
    """The modules that a run over one small file has imported at its end, as the interpreter lists them."""
    folder.joinpath("events").write_bytes(lines(error()))
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-X", "importtime", "-m", "faillog_otel"),
            *("run", "events", "--endpoint", endpoint, "--protocol", protocol),
        ],
        cwd=folder,
        env=environment(),
        capture_output=True,
        check=True,
    )
    listed = [line for line in done.stderr.decode().splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in listed}


def of_protobuf(modules: set[str]) -> list[str]:
    return sorted(module for module in modules if module.startswith(PROTOBUF))


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_protobuf_is_not_imported_if_the_collector_takes_everything(
    collector: Collector, tmp_path: Path, protocol: str
) -> None:
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
    modules = imported(endpoint, protocol, tmp_path)
    assert "faillog_otel.otlp.outcome" in modules
    assert of_protobuf(modules) == []


@pytest.mark.parametrize(("body", "is_imported"), [(b"", False), (b"\x0a\x00", False), (WARNING, True)])
def test_protobuf_is_imported_for_an_answer_that_says_something(
    tmp_path: Path, body: bytes, is_imported: bool
) -> None:
    with Receiver(lambda _signal, _body: Reply(body=body)) as receiver:
        modules = imported(receiver.http_endpoint, "http/protobuf", tmp_path)
    assert bool(of_protobuf(modules)) is is_imported


def test_a_run_without_own_metrics_imports_no_sdk_and_no_grpc(receiver: Receiver, tmp_path: Path) -> None:
    modules = imported(receiver.http_endpoint, "http/protobuf", tmp_path)
    assert {"grpc", "opentelemetry.sdk", "httpx", "rich"} & modules == set()
