"""What the stock OpenTelemetry exporters do where ours must not: shown side by side, on the same receiver.

They are made for telemetry that may be lost. Ours carries records that exist only once.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.clock import MovedClock
from support.delivery import ScriptedReplies, delivery_to

from faillog_otel.events.kept_record import Rejection
from faillog_otel.otlp.delivery import SendResults
from faillog_otel.otlp.outcome import Acked, Unsent
from faillog_otel.otlp.wire import EncodedEvent
from faillog_otel.sandbox.collector import Receiver, Reply

ITEM = EncodedEvent(b"", Span(name="s").SerializeToString())
REJECTED = ExportTraceServiceResponse(
    partial_success=ExportTracePartialSuccess(rejected_spans=1, error_message="no")
).SerializeToString()


@pytest.fixture(autouse=True)
def _silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "opentelemetry")


def finished_spans(count: int) -> list[ReadableSpan]:
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    for number in range(count):
        provider.get_tracer("t").start_span(f"s{number}").end()
    return list(memory.get_finished_spans())


def theirs(receiver: Receiver, timeout: float = 10.0) -> SpanExportResult:
    exporter = OTLPSpanExporter(f"{receiver.http_endpoint}/v1/traces", timeout=timeout)
    try:
        return exporter.export(finished_spans(1))
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK's


def ours(receiver: Receiver, clock: MovedClock, wait_seconds: float = 30.0) -> list[SendResults]:
    with delivery_to(receiver.http_endpoint, clock, wait_seconds=wait_seconds) as delivery:
        return delivery.result(delivery.submit([ITEM]))


def test_a_partial_success_is_a_success_for_them_and_a_rejection_for_us() -> None:
    with Receiver(ScriptedReplies(traces=[Reply(200, REJECTED), Reply(200, REJECTED)])) as receiver:
        assert theirs(receiver) is SpanExportResult.SUCCESS
        assert ours(receiver, MovedClock()) == [{"traces": Rejection("traces", 1, 1, "no")}]


def test_a_redirect_is_a_success_for_them_and_unsent_for_us() -> None:
    with Receiver(lambda _signal, _body: Reply(302)) as receiver:
        assert theirs(receiver) is SpanExportResult.SUCCESS
        assert ours(receiver, MovedClock()) == [{"traces": Unsent()}]
        assert receiver.spans() == []


def test_they_give_up_within_their_timeout_and_we_go_on() -> None:
    """Ten seconds by default; one here, so that the test is short."""
    with Receiver(ScriptedReplies(traces=[Reply(503)] * 50)) as receiver:
        assert theirs(receiver, timeout=1) is SpanExportResult.FAILURE
        asked = len(receiver.received)
        assert asked < 10
        clock = MovedClock()
        assert ours(receiver, clock, wait_seconds=float("inf")) == [{"traces": Acked()}]
        assert sum(clock.waits) > 10
        assert len(receiver.spans()) == 1


def test_they_drop_at_once_when_asked_to_wait_longer_and_we_wait() -> None:
    reply = Reply(429, headers={"retry-after": "60"})
    with Receiver(ScriptedReplies(traces=[reply, reply])) as receiver:
        assert theirs(receiver) is SpanExportResult.FAILURE
        assert len(receiver.received) == 1
        clock = MovedClock()
        assert ours(receiver, clock, wait_seconds=float("inf")) == [{"traces": Acked()}]
        assert clock.waits == [60.0]


def test_their_batches_drop_spans_when_the_queue_is_full_and_ours_hold_the_reader_up() -> None:
    """The exporter does not come back until the queue has overflowed."""

    class Stuck(SpanExporter):
        def __init__(self) -> None:
            self.exported: list[str] = []
            self.entered, self.go = threading.Event(), threading.Event()

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.entered.set()
            assert self.go.wait(30)
            self.exported += [span.name for span in spans]
            return SpanExportResult.FAILURE  # and nobody asks

    stuck = Stuck()
    processor = BatchSpanProcessor(stuck, max_queue_size=8, max_export_batch_size=4, schedule_delay_millis=10)
    for span in finished_spans(4):
        processor.on_end(span)
    assert stuck.entered.wait(30)
    for span in finished_spans(100):
        processor.on_end(span)
    stuck.go.set()
    processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's
    assert len(stuck.exported) < 104, "most of them are gone"

    with Receiver(ScriptedReplies(traces=[Reply(503)] * 3)) as receiver:
        clock: Any = MovedClock()
        with delivery_to(receiver.http_endpoint, clock) as delivery:
            tickets = [delivery.submit([ITEM]) for _ in range(104)]
            assert [delivery.result(ticket) for ticket in tickets] == [[{"traces": Acked()}]] * 104
        assert len(receiver.spans()) == 104
