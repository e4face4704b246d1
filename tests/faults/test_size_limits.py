"""Servers with a limit of size, by what they answer: everything that fits is delivered, the rest quarantined.

The answers are those of gRPC's implementations and of what stands before collectors; a real Rust server is
among them.
"""

from pathlib import Path

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from support.clock import MovedClock
from support.delivery import delivery_to, endpoint_of
from support.rust_collector import rust_collector

from faillog_otel.config import NetworkProtocol, Signal
from faillog_otel.otlp.delivery import Delivery, SendResults
from faillog_otel.otlp.outcome import Acked, Unacceptable, Unsent
from faillog_otel.otlp.wire import EncodedEvent
from faillog_otel.sandbox.collector import Receiver, Reply

LIMIT = 600
FOREVER = 1e9

GO = "grpc: received message larger than max (700 vs. 600)"
UNZIPPED_BY_GO = "grpc: received message after decompression larger than max 600"
RUST = "Error, decoded message length too large: found 700 bytes, the limit is: 600 bytes"
JAVA = "gRPC message exceeds maximum size 600: 700"
DOTNET = "Received message exceeds the maximum configured message size."
TEXT = {"content-type": "text/plain; charset=utf-8"}

SAYING_SO = [
    ("grpc", Reply(code="RESOURCE_EXHAUSTED", details=GO)),
    ("grpc", Reply(code="RESOURCE_EXHAUSTED", details=UNZIPPED_BY_GO)),
    ("grpc", Reply(code="RESOURCE_EXHAUSTED", details=DOTNET)),
    ("grpc", Reply(code="RESOURCE_EXHAUSTED", details=JAVA)),
    ("grpc", Reply(code="OUT_OF_RANGE", details=RUST)),
    ("grpc", Reply(code="RESOURCE_EXHAUSTED", details=RUST)),
    ("grpc", Reply(code="CANCELLED", details=JAVA)),
    ("grpc", Reply(code="UNKNOWN", details="Payload Too Large")),
    (
        "http/protobuf",
        Reply(413, b"<html>413 Request Entity Too Large</html>", {"content-type": "text/html"}),
    ),
    ("http/protobuf", Reply(400, b"http: request body too large", TEXT)),
    ("http/protobuf", Reply(500, b"Request body size 700 exceeds the limit of 600", TEXT)),
]
SAYING_LESS = [
    ("grpc", Reply(code="OUT_OF_RANGE", details="no")),
    ("grpc", Reply(code="CANCELLED", details="RST_STREAM closed stream. HTTP/2 error code: CANCEL")),
    ("grpc", Reply(code="UNAVAILABLE", details="recvmsg:Connection reset by peer")),
    ("grpc", Reply(code="UNKNOWN", details="Received http2 header with status: 413")),
    ("http/protobuf", Reply(502)),
    ("http/protobuf", Reply(hangs_up=True)),
]


def limited(reply: Reply) -> "Receiver":
    """A receiver that answers so whatever is larger than the limit."""

    def script(_signal: Signal, body: bytes) -> Reply | None:
        return reply if len(body) > LIMIT else None

    return Receiver(script)


def log(name: str) -> EncodedEvent:
    return EncodedEvent(LogRecord(event_name=name).SerializeToString(), b"")


def fates(delivery: Delivery, items: list[EncodedEvent]) -> list[SendResults]:
    found = delivery.result(delivery.submit(items))
    return [delivery.settle(item, fates) for item, fates in zip(items, found, strict=True)]


@pytest.mark.parametrize(("protocol", "reply"), SAYING_SO + SAYING_LESS)
def test_records_within_the_limit_are_delivered(protocol: NetworkProtocol, reply: Reply) -> None:
    with limited(reply) as receiver:
        endpoint = endpoint_of(receiver, protocol)
        with delivery_to(endpoint, MovedClock(), protocol=protocol, wait_seconds=3600) as delivery:
            items = [log(f"{n}{'x' * 200}") for n in range(8)]
            assert fates(delivery, items) == [{"logs": Acked()}] * 8
            assert [record.event_name[0] for record in receiver.logs()] == list("01234567")
            before = delivery.sent.requests
            assert fates(delivery, items) == [{"logs": Acked()}] * 8
            assert delivery.sent.requests - before <= 7 + 1, "it is known by now: halved at once"


@pytest.mark.parametrize(("protocol", "reply"), SAYING_SO)
def test_a_single_record_that_is_said_to_be_too_large_is_quarantined(
    protocol: NetworkProtocol, reply: Reply
) -> None:
    with limited(reply) as receiver:
        endpoint = endpoint_of(receiver, protocol)
        with delivery_to(endpoint, MovedClock(), protocol=protocol) as delivery:
            first, second = fates(delivery, [log("x" * LIMIT), log("small")])
            assert isinstance(first["logs"], Unacceptable)
            assert first["logs"].reason == "too_large"
            assert second == {"logs": Acked()}


@pytest.mark.parametrize(("protocol", "reply"), SAYING_LESS)
def test_a_single_record_that_fails_again_and_again_is_quarantined_once_others_were_taken(
    protocol: NetworkProtocol, reply: Reply
) -> None:
    """The proof that the collector is well and the record is not."""
    with limited(reply) as receiver:
        endpoint = endpoint_of(receiver, protocol)
        with delivery_to(endpoint, MovedClock(), protocol=protocol, wait_seconds=FOREVER) as delivery:
            first, second = fates(delivery, [log("x" * LIMIT), log("small")])
            assert second == {"logs": Acked()}
            assert isinstance(first["logs"], Unacceptable)


@pytest.mark.parametrize(
    "details",
    [
        "ingestion rate limit exceeded (limit: 4194304 bytes/sec) while adding 1000 bytes",
        "request rate exceeds the quota of 600 bytes per second",
        "data refused due to high memory usage: the batch is too large for what is left of memory",
    ],
)
def test_other_limits_cost_no_record(details: str) -> None:
    """The same code is used for quotas and memory: those are waited out."""
    reply = Reply(code="RESOURCE_EXHAUSTED", details=details)
    with (
        limited(reply) as receiver,
        delivery_to(receiver.grpc_endpoint, MovedClock(), protocol="grpc") as delivery,
    ):
        first, second = fates(delivery, [log("x" * LIMIT), log("small")])
        assert first == {"logs": Unsent()}
        assert second["logs"] in (Acked(), Unsent())


def test_a_server_in_rust_is_understood(tmp_path: Path) -> None:
    """Its limit is one MiB."""
    with (
        Receiver() as receiver,
        rust_collector(receiver, tmp_path, "--otlp-grpc-max-recv-msg-size-mib", "1") as (
            _,
            endpoint,
        ),
    ):
        with delivery_to(endpoint, MovedClock(), protocol="grpc", compression="none") as delivery:
            items = [log(f"{n}{'x' * 300_000}") for n in range(8)]
            large = log("x" * 1_200_000)
            *found, last = fates(delivery, [*items, large])
        assert found == [{"logs": Acked()}] * 8
        assert isinstance(last["logs"], Unacceptable)
        assert last["logs"].reason == "too_large"
