"""Peers that say three megabytes: what is kept, shown and held of it is some hundred bytes."""

import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from support.delivery import endpoint_of, targets
from support.events import exchange, lines
from support.program import run_measured
from support.raw_server import raw_server, read_request

from faillog_otel.config import DeliveryConfig, NetworkProtocol, Secret, Signal
from faillog_otel.events.kept_record import Entry
from faillog_otel.otlp.delivery import network_client
from faillog_otel.otlp.outcome import Outcome, Refused
from faillog_otel.sandbox.collector import Receiver, Reply
from faillog_otel.segment.answers import LISTING, MAX_URL_CHARS, Failed, read_answer
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.download import Downloaded, Downloader, DownloadFailed, DownloadOutcome, NotModified
from faillog_otel.segment.hours import ObjectVersion
from faillog_otel.text import MAX_PEER_BYTES

LONG = ("no: ä bad record " * 200_000)[: 3 * 1024 * 1024]
RECORDS = 30
MAX_ENTRY_BYTES = 4096
"""The record itself has some 800; the collector's message is there in the reason and in the context."""


def partly(signal: Signal, _body: bytes) -> Reply:
    """All records of the request are rejected, at length."""
    message: Any = ExportLogsServiceResponse() if signal == "logs" else ExportTraceServiceResponse()
    rejected = "rejected_log_records" if signal == "logs" else "rejected_spans"
    setattr(message.partial_success, rejected, RECORDS)
    message.partial_success.error_message = LONG
    return Reply(200, message.SerializeToString(), {"content-type": "application/x-protobuf"})


def refused(status: int, content_type: str) -> Callable[[Signal, bytes], Reply]:
    """All requests are, at length."""
    body = LONG if content_type == "text/plain" else json.dumps({"message": LONG})
    return lambda _signal, _body: Reply(status, body.encode(), {"content-type": content_type})


@pytest.mark.thin(4)
@pytest.mark.parametrize(
    ("protocol", "script", "code", "file"),
    [
        ("http/protobuf", partly, 3, "faillog-quarantine.jsonl"),
        ("grpc", partly, 3, "faillog-quarantine.jsonl"),
        ("http/json", refused(400, "application/json"), 4, "faillog-pending.jsonl"),
        ("http/protobuf", refused(404, "text/plain"), 4, "faillog-pending.jsonl"),
        ("http/protobuf", refused(503, "application/json"), 4, "faillog-pending.jsonl"),
        ("grpc", lambda *_: Reply(code="INVALID_ARGUMENT", details=LONG), 4, "faillog-pending.jsonl"),
        ("grpc", lambda *_: Reply(code="UNAVAILABLE", details=LONG[:9000]), 4, "faillog-pending.jsonl"),
    ],
)
def test_a_long_message_is_not_multiplied_by_the_records(
    tmp_path: Path, protocol: NetworkProtocol, script: Callable[[Signal, bytes], Reply], code: int, file: str
) -> None:
    (tmp_path / "events").write_bytes(
        lines(*(exchange(destinationExchangeId=f"x{number}") for number in range(RECORDS)))
    )
    with Receiver(script) as receiver:
        endpoint = ("--endpoint", endpoint_of(receiver, protocol), "--protocol", protocol)
        done, peak = run_measured("run", "events", *endpoint, "--wait", "0", cwd=tmp_path)
    assert done.code == code, done.stderr[:1000]
    assert len(done.stderr) < 4 * MAX_PEER_BYTES
    entries = (tmp_path / file).read_bytes().splitlines()
    assert len(entries) == RECORDS
    assert max(map(len, entries)) < MAX_ENTRY_BYTES
    quoting = [each for each in entries if LONG[:20].encode() in each]
    assert len(quoting) <= 2  # once for each signal, whose requests are their own
    for each in entries:
        context = msgspec.json.decode(each, type=Entry).context
        for rejection in context.rejections if context else ():
            assert len(rejection.message.encode()) <= MAX_PEER_BYTES
    assert peak < 160 * 1024 * 1024


def sent_to(reply: Reply, protocol: NetworkProtocol) -> Outcome:
    with Receiver(lambda *_: reply) as receiver:
        config = DeliveryConfig(targets=targets(endpoint_of(receiver, protocol), protocol), signals=("logs",))
        client = network_client(config, (), "tests")
        try:
            return client.send("logs", [])
        finally:
            client.close()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_answer_that_is_too_large_says_nothing_about_the_records(protocol: NetworkProtocol) -> None:
    """It was taken for a request that is too large: all records went to the quarantine, one by one."""
    assert isinstance(sent_to(Reply(200, b"x" * 5 * 1024 * 1024), protocol), Refused)


def test_a_long_content_type_is_cut() -> None:
    outcome = sent_to(Reply(200, b"x", {"content-type": "y" * 9000}), "http/protobuf")
    assert isinstance(outcome, Refused)
    assert len(outcome.why) < MAX_PEER_BYTES + 100


def test_segments_errors_are_cut() -> None:
    body = json.dumps({"errors": [{"message": LONG}]}).encode()
    found = read_answer(500, {}, body, 0, expected=LISTING).outcome
    assert isinstance(found, Failed)
    assert len(found.why.encode()) < MAX_PEER_BYTES + 100


def test_a_status_line_without_an_end_is_cut() -> None:
    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"x" * 60_000 + b"\r\n")

    with raw_server(treat) as peer:
        api = SegmentApi(peer.origin, lambda: Secret("token"), "tests")
        found = api.check_token(0).outcome
        api.close()
    assert isinstance(found, Failed)
    assert len(found.why.encode()) < MAX_PEER_BYTES + 100


def test_a_url_that_no_server_takes_is_a_failure_of_the_listing() -> None:
    url = "https://b.s3.amazonaws.com/" + "x" * MAX_URL_CHARS
    body = json.dumps({"data": {"download": {"urls": [url]}}}).encode()
    found = read_answer(200, {}, body, 0, expected=LISTING).outcome
    assert found == Failed(f"the answer lists a URL of {len(url)} characters, more than {MAX_URL_CHARS}")


def downloaded(head: str, known: ObjectVersion | None = None) -> tuple[DownloadOutcome, bytes]:
    """What a download came to, and the head of its request."""
    heads = []

    def treat(connection: socket.socket) -> None:
        heads.append(read_request(connection))
        connection.sendall(f"HTTP/1.1 200 OK\r\n{head}Content-Length: 2\r\n\r\nok".encode())

    with raw_server(treat) as peer:
        downloader = Downloader((peer.address,), "tests")
        found = downloader.download(f"{peer.origin}/a", known, io.BytesIO(), lambda: False)
    return found, heads[0]


@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
def test_versions_whose_names_are_long_stay_apart_and_are_kept_short(name: str) -> None:
    """Cut, both would be the same, and the second version would never be downloaded."""
    start = '"' + "e" * 5000
    first, _ = downloaded(f'{name}: {start}1"\r\n')
    assert isinstance(first, Downloaded)
    assert len(first.etag or first.last_modified or "") < MAX_PEER_BYTES
    known = ObjectVersion(first.etag, first.last_modified, first.length)
    second, asked = downloaded(f'{name}: {start}2"\r\n', known)
    assert isinstance(second, Downloaded)
    assert downloaded(f'{name}: {start}1"\r\n', known)[0] == NotModified()
    assert b"if-none-match" not in asked.lower()


def test_a_server_with_a_long_name_is_not_quoted_whole() -> None:
    found, _ = downloaded(f"Server: {'s' * 9000}\r\nContent-Type: text/html\r\n")
    assert isinstance(found, DownloadFailed)
    assert len(found.why) < MAX_PEER_BYTES + 100


@pytest.mark.parametrize(
    "head", ["Content-Length: " + "9" * 5000, "Content-Length: -5", "Transfer-Encoding: gzip, chunked"]
)
def test_an_answer_whose_end_cannot_be_found_is_no_object(head: str) -> None:
    found, _ = downloaded(f"{head}\r\n")
    assert isinstance(found, DownloadFailed)
