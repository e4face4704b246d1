"""From an application's track() to the failed deliveries under its span, in the backend that people use.

Everything is real: OpenTelemetry's and Segment's SDKs in the application, `faillog-otel run` that polls a
simulated Segment, the Collector with the configuration that is shipped, and the backend.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.backends import Jaeger, VictoriaLogs, eventually
from support.collector import shipped
from support.instrumented_app import Order, complete_order
from support.server import unused_port
from support.tracked_failures import ATTEMPTS, RECORDS, move_to_now, poll, segment_hours_ago

from faillog_otel.sandbox import Simulator

Spans = list[dict[str, Any]]
APPLICATIONS_OWN = {"POST /orders", "complete order"}


@pytest.fixture
def segment() -> Iterator[Simulator]:
    """What failed comes in several files."""
    with segment_hours_ago("append") as segment:
        yield segment


def deliveries(spans: Spans) -> Spans:
    return [span for span in spans if span["name"].startswith("deliver ")]


def is_whole(spans: Spans) -> Spans:
    """The spans of the trace as soon as all are there."""
    return spans if len(spans) == ATTEMPTS + len(APPLICATIONS_OWN) else []


def check_trace(order: Order, spans: Spans, look_up: Callable[[str], Spans]) -> None:
    """One trace: the application's spans and the failed attempts below; the links lead to the exchanges."""
    own = {span["name"]: span for span in spans if not span["name"].startswith("deliver ")}
    assert set(own) == APPLICATIONS_OWN
    assert own["complete order"]["spanId"] == order.span_id
    failed = deliveries(spans)
    assert len({span["spanId"] for span in failed}) == len(failed) == ATTEMPTS
    exchanges = set()
    for span in failed:
        assert (span["traceId"], span["parentSpanId"]) == (order.trace_id, order.span_id)
        links = {(link["traceId"], link["spanId"]) for link in span["links"]}
        assert (order.trace_id, order.span_id) in links
        (exchange,) = links - {(order.trace_id, order.span_id)}
        exchanges.add(exchange)
    for trace_id, span_id in exchanges:
        (span,) = look_up(trace_id)
        assert (span["traceId"], span["spanId"]) == (trace_id, span_id)


def test_the_configuration_for_grafana_brings_traces_and_logs_to_their_backends(
    segment: Simulator, collector_program: Path, jaeger: Jaeger, victorialogs: VictoriaLogs, tmp_path: Path
) -> None:
    """The way that tempo-loki.yaml describes, with Jaeger in the place of Tempo and VictoriaLogs in Loki's.

    The trace is there once, though everything is sent twice; each of its log records has the same trace id.
    """
    order = complete_order(jaeger.otlp_endpoint, segment.url, segment.clock.now_ns())
    move_to_now(segment)
    nobody = f"http://127.0.0.1:{unused_port()}"
    endpoints = {"TEMPO_ENDPOINT": jaeger.otlp_endpoint, "LOKI_ENDPOINT": victorialogs.otlp_endpoint}
    with shipped(
        collector_program, "tempo-loki", tmp_path, PROMETHEUS_ENDPOINT=nobody, **endpoints
    ) as collector:
        for _ in range(2):
            assert poll(segment, collector, tmp_path).summary["exported"] == RECORDS
        stored = 2 * ATTEMPTS + len(APPLICATIONS_OWN)
        assert eventually(lambda: len(jaeger.spans(order.trace_id, raw=True)) == stored)
        query, sent = f"trace_id:={order.trace_id}", RECORDS - ATTEMPTS  # exchanges have their own traces
        assert eventually(lambda: len(victorialogs.records(query)) == 2 * sent)
    check_trace(order, jaeger.spans(order.trace_id), jaeger.spans)
    records = victorialogs.records(query)
    assert len({record["log.record.uid"] for record in records}) == sent
    discarded = f"message discarded.*message {order.message_id}\\b"
    assert any(re.search(discarded, record["_msg"]) for record in records)


def test_in_jaeger(segment: Simulator, collector_program: Path, jaeger: Jaeger, tmp_path: Path) -> None:
    """Once, though all is sent twice: it shows once what is the same byte for byte.

    Nobody looks in between: Jaeger would put the attributes of what it has in memory in another order.
    """
    order = complete_order(jaeger.otlp_endpoint, segment.url, segment.clock.now_ns())
    move_to_now(segment)
    with shipped(collector_program, "jaeger", tmp_path, JAEGER_ENDPOINT=jaeger.otlp_endpoint) as collector:
        for _ in range(2):
            poll(segment, collector, tmp_path)
        stored = 2 * ATTEMPTS + len(APPLICATIONS_OWN)
        assert eventually(lambda: len(jaeger.spans(order.trace_id, raw=True)) == stored)
    check_trace(order, jaeger.spans(order.trace_id), jaeger.spans)
