"""Delivery over real sockets to a receiver that answers by a script; only the waiting takes no time."""

import random
import socket
import socketserver
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.clock import MovedClock

from faillog_otel.config import SIGNALS, Signal, Target
from faillog_otel.otlp.delivery import Delivery, Rejection, Verdict
from faillog_otel.otlp.encoding import Envelope, Item
from faillog_otel.otlp.http import HttpClient
from faillog_otel.otlp.receiver import Receiver, Reply

ITEMS = [
    Item(LogRecord(event_name=str(n)).SerializeToString(), Span(name=str(n)).SerializeToString())
    for n in range(3)
]
PARTIAL = ExportLogsServiceResponse(
    partial_success=ExportLogsPartialSuccess(rejected_log_records=2, error_message="no")
).SerializeToString()


class Scripted:
    """Answers the requests of each signal with these replies, then takes everything."""

    def __init__(self, **replies: Sequence[Reply]) -> None:
        self.replies = {signal: list(each) for signal, each in replies.items()}
        self.bodies: list[bytes] = []

    def __call__(self, signal: Signal, body: bytes) -> Reply | None:
        self.bodies.append(body)
        left = self.replies.get(signal)
        return left.pop(0) if left else None


@contextmanager
def delivery_to(endpoint: str, clock: MovedClock, wait_seconds: float = 30.0) -> Iterator[Delivery]:
    targets: dict[Signal, Target] = {
        "logs": Target(url=f"{endpoint}/v1/logs"),
        "traces": Target(url=f"{endpoint}/v1/traces", compression="none"),
    }
    delivery = Delivery(
        HttpClient(targets, Envelope(()), "tests"),
        signals=SIGNALS,
        wait_seconds=wait_seconds,
        clock=clock,
        jitter=random.Random(1),
    )
    try:
        yield delivery
    finally:
        delivery.close()


def test_a_batch_arrives_in_both_signals_and_counts() -> None:
    with Receiver() as receiver, delivery_to(receiver.http_endpoint, MovedClock()) as delivery:
        assert delivery.deliver(ITEMS) == Verdict()
        assert [log.event_name for log in receiver.logs()] == ["0", "1", "2"]
        assert [span.name for span in receiver.spans()] == ["0", "1", "2"]
        sent = delivery.sent
        assert (sent.logs, sent.traces, sent.requests, sent.retries) == (3, 3, 2, 0)


def test_an_item_without_span_is_sent_as_a_log_only() -> None:
    with Receiver() as receiver, delivery_to(receiver.http_endpoint, MovedClock()) as delivery:
        assert delivery.deliver([Item(ITEMS[0].log, b"")]) == Verdict()
        assert [each.signal for each in receiver.received] == ["logs"]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_be_retried_is_sent_again_byte_for_byte(status: int) -> None:
    script, clock = Scripted(logs=[Reply(status), Reply(status)]), MovedClock()
    with Receiver(script) as receiver, delivery_to(receiver.http_endpoint, clock) as delivery:
        assert delivery.deliver(ITEMS) == Verdict()
        assert len(set(script.bodies[:3])) == 1
        assert (delivery.sent.requests, delivery.sent.retries) == (4, 2)
        assert [log.event_name for log in receiver.logs()] == ["0", "1", "2"]
    first, second = clock.waits
    assert 0.25 <= first <= 0.5 <= second <= 1.0


def test_retry_after_is_waited_out() -> None:
    script, clock = Scripted(logs=[Reply(429, headers={"retry-after": "17"})]), MovedClock()
    with Receiver(script) as receiver, delivery_to(receiver.http_endpoint, clock) as delivery:
        assert delivery.deliver(ITEMS) == Verdict()
    assert clock.waits == [17.0]


def test_a_retry_after_beyond_the_wait_ends_it_at_once() -> None:
    script, clock = Scripted(traces=[Reply(503, headers={"retry-after": "31"})]), MovedClock()
    with Receiver(script) as receiver, delivery_to(receiver.http_endpoint, clock) as delivery:
        verdict = delivery.deliver(ITEMS)
        assert verdict.pending == ("traces",)
        assert "31 s" in verdict.why
        assert (delivery.sent.logs, delivery.sent.traces) == (3, 0)
        assert delivery.deliver(ITEMS).pending == ("logs", "traces")
        assert len(receiver.received) == 2
    assert clock.waits == []


def test_a_collector_that_stays_away_is_waited_for_and_the_wait_starts_anew_with_each_success() -> None:
    busy = [Reply(503)] * 1000
    script, clock = Scripted(traces=busy), MovedClock()
    with Receiver(script) as receiver, delivery_to(receiver.http_endpoint, clock) as delivery:
        assert delivery.deliver(ITEMS).pending == ("traces",)
    assert sum(clock.waits) == pytest.approx(30.0)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    away = MovedClock()
    with delivery_to(f"http://127.0.0.1:{port}", away, wait_seconds=5) as delivery:
        verdict = delivery.deliver(ITEMS)
        assert verdict.pending == ("logs", "traces")
        assert f"127.0.0.1:{port}" in verdict.why
    assert sum(away.waits) == pytest.approx(5.0)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 500])
def test_what_otlp_forbids_to_retry_is_asked_once_and_stays_pending(status: int) -> None:
    reply = Reply(status, headers={"location": "/v1/logs"})
    with (
        Receiver(Scripted(logs=[reply])) as receiver,
        delivery_to(receiver.http_endpoint, MovedClock()) as delivery,
    ):
        verdict = delivery.deliver(ITEMS)
        assert verdict.pending == ("logs", "traces")
        assert f"HTTP {status}" in verdict.why
        assert (len(receiver.received), delivery.sent.logs) == (1, 0)


def test_a_login_page_with_status_200_acknowledges_nothing() -> None:
    page = Reply(200, b"<html>", {"content-type": "text/html"})
    with (
        Receiver(Scripted(logs=[page])) as receiver,
        delivery_to(receiver.http_endpoint, MovedClock()) as delivery,
    ):
        assert delivery.deliver(ITEMS).pending == ("logs", "traces")


def test_partly_rejected_is_never_sent_again_and_the_other_signal_still_goes() -> None:
    with (
        Receiver(Scripted(logs=[Reply(200, PARTIAL)])) as receiver,
        delivery_to(receiver.http_endpoint, MovedClock()) as delivery,
    ):
        assert delivery.deliver(ITEMS) == Verdict(rejected=(Rejection("logs", 2, 3, "no"),))
        assert [each.signal for each in receiver.received] == ["logs", "traces"]
        assert (delivery.sent.logs, delivery.sent.traces) == (1, 3)


def test_a_connection_that_closes_before_the_answer_is_tried_again() -> None:
    """Nobody knows whether the request counted, so it is sent again, the same."""
    requests: list[bytes] = []

    class HangUpOnce(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lengths = [
                line for line in iter(self.rfile.readline, b"\r\n") if b"content-length" in line.lower()
            ]
            requests.append(self.rfile.read(int(lengths[0].split(b":")[1])))
            if len(requests) > 1:
                self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HangUpOnce) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with delivery_to(f"http://127.0.0.1:{server.server_address[1]}", MovedClock()) as delivery:
            assert delivery.deliver([Item(ITEMS[0].log, b"")]) == Verdict()
        server.shutdown()
        thread.join()
    assert len(requests) == 2
    assert requests[0] == requests[1]


def test_a_stop_while_waiting_leaves_the_batch_pending() -> None:
    clock = MovedClock()

    def stop(_signal: Signal, _body: bytes) -> Reply:
        clock.stop = True
        return Reply(503)

    with Receiver(stop) as receiver, delivery_to(receiver.http_endpoint, clock) as delivery:
        verdict = delivery.deliver(ITEMS)
        assert (verdict.pending, verdict.why) == (("logs", "traces"), "interrupted")
        assert len(receiver.received) == 1
