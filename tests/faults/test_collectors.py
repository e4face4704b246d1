"""Real collectors between the program and the receiver: killed in the middle, and one of another make."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.collector import READY, ROOT, endpoint_in
from support.program import run_program, start_program
from support.rust_collector import rust_collector
from support.server import Server
from support.tiers import swept

from faillog_otel.config import NetworkProtocol, Signal
from faillog_otel.sandbox.collector import REQUESTS, Receiver, records_of
from faillog_otel.sandbox.generator import failure_events

CONFIG = ROOT / "tests" / "collector" / "forward.yaml"


def uid(record: Any) -> str:
    return next(str(pair.value.string_value) for pair in record.attributes if pair.key == "log.record.uid")


def expected(files: Sequence[Path], folder: Path) -> tuple[dict[str, bytes], dict[bytes, bytes]]:
    """What arrives when nothing stands between: logs by uid, spans by id."""
    with Receiver() as receiver:
        assert run_program("run", *files, "--endpoint", receiver.http_endpoint, cwd=folder).code == 0
        return arrived(receiver)


def arrived(receiver: Receiver) -> tuple[dict[str, bytes], dict[bytes, bytes]]:
    """Logs by uid and spans by id; copies of one must be equal."""
    logs: dict[str, bytes] = {}
    spans: dict[bytes, bytes] = {}
    for log in receiver.logs():
        assert logs.setdefault(uid(log), log.SerializeToString(deterministic=True)) == log.SerializeToString(
            deterministic=True
        )
    for span in receiver.spans():
        encoded = span.SerializeToString(deterministic=True)
        assert spans.setdefault(span.span_id, encoded) == encoded
    return logs, spans


@pytest.fixture
def events(tmp_path: Path) -> tuple[Path, Path]:
    """Two files."""
    found = list(failure_events(11, 5_000))
    half = len(found) // 2
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"\n".join(found[:half]))
    second.write_bytes(b"\n".join(found[half:]))
    return first, second


@pytest.mark.parametrize("protocol", swept(["http/protobuf", "grpc"], ["grpc"]))
def test_a_collector_that_is_killed_and_started_again_in_the_middle_costs_no_record(
    collector_program: Path, events: tuple[Path, Path], tmp_path: Path, protocol: NetworkProtocol
) -> None:
    """What is under way is tried again, and the second half is sent when the second collector is there."""
    some_came, all_there = threading.Event(), threading.Event()
    wanted_logs, wanted_spans = expected(events, tmp_path)
    seen: set[object] = set()

    def script(signal: Signal, body: bytes) -> None:
        for record in records_of(REQUESTS[signal].FromString(body)):
            seen.add(uid(record) if signal == "logs" else record.span_id)
        some_came.set()
        if len(seen) == len(wanted_logs) + len(wanted_spans):
            all_there.set()

    (tmp_path / "storage").mkdir()
    with Receiver(script) as receiver:
        ports = {"HTTP": "127.0.0.1:0", "GRPC": "127.0.0.1:0"}
        for is_second in (False, True):
            server = Server(
                [collector_program, "--config", CONFIG],
                READY,
                FAILLOG_COLLECTOR_HTTP=ports["HTTP"],
                FAILLOG_COLLECTOR_GRPC=ports["GRPC"],
                FAILLOG_COLLECTOR_STORAGE=str(tmp_path / "storage"),
                FAILLOG_COLLECTOR_TARGET=receiver.http_endpoint,
            )
            with server:
                if not is_second:
                    ports = {name: endpoint_in(server.said, name).removeprefix("http://") for name in ports}
                    endpoint = f"http://{ports['GRPC' if protocol == 'grpc' else 'HTTP']}"
                    process = start_program(
                        *("run", *events, "--endpoint", endpoint, "--protocol", protocol),
                        *("--wait", "60s", "--summary", "json"),
                        cwd=tmp_path,
                    )
                    assert some_came.wait(60)
                    server.kill()
                    assert process.stderr is not None
                    assert any(b"retrying" in line for line in process.stderr)
                else:
                    stdout, stderr = process.communicate(timeout=90)
                    assert process.returncode == 0, stderr
                    assert all_there.wait(60), "what the collector acknowledged, its queue delivers"
        summary = json.loads(stdout.splitlines()[-1])
        assert summary["exported"] == summary["records"] == len(wanted_logs)
        assert summary["retries"] > 0
        assert arrived(receiver) == (wanted_logs, wanted_spans)


def test_the_collector_reads_what_protocol_file_writes(collector_program: Path, tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.write_bytes(b"\n".join(failure_events(13, 300)))
    wanted = expected([events], tmp_path)
    done = run_program("run", events, "--protocol", "file", "--output", "out.jsonl", cwd=tmp_path)
    assert done.code == 0, done.stderr
    all_there, seen = threading.Event(), set[object]()

    def script(signal: Signal, body: bytes) -> None:
        for record in records_of(REQUESTS[signal].FromString(body)):
            seen.add(uid(record) if signal == "logs" else record.span_id)
        if len(seen) == len(wanted[0]) + len(wanted[1]):
            all_there.set()

    with Receiver(script) as receiver:
        server = Server(
            [collector_program, "--config", ROOT / "tests" / "collector" / "jsonfile.yaml"],
            READY,
            FAILLOG_COLLECTOR_INPUT=str(tmp_path / "out.jsonl"),
            FAILLOG_COLLECTOR_TARGET=receiver.http_endpoint,
        )
        with server:
            assert all_there.wait(60)
        assert arrived(receiver) == wanted


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
def test_rotel_passes_on_exactly_what_we_send(tmp_path: Path, protocol: NetworkProtocol) -> None:
    events = tmp_path / "events"
    events.write_bytes(b"\n".join(failure_events(12, 1_000)))
    with Receiver() as receiver:
        with rust_collector(receiver, tmp_path) as (http, grpc):
            done = run_program(
                *("run", events, "--endpoint", grpc if protocol == "grpc" else http),
                *("--protocol", protocol, "--summary", "json"),
                cwd=tmp_path,
            )
            assert done.code == 0, done.stderr
        assert arrived(receiver) == expected([events], tmp_path)
        assert done.summary["sent"] == {"logs": len(receiver.logs()), "spans": len(receiver.spans())}
