"""From an application's track() to the failed deliveries under its span, in the backend that people use.

Everything is real: OpenTelemetry's and Segment's SDKs in the application, `faillog-otel run` that polls a
simulated Segment, the Collector with the configuration that is shipped, and the backend.
"""

import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.app import Order, complete_order
from support.backends import Jaeger, Loki, Tempo, eventually
from support.collector import shipped
from support.failing_later import ATTEMPTS, RECORDS, hours_ago, hours_later, poll
from support.server import unused_port

from faillog_otel.clock import HOUR_NS
from faillog_otel.segment.simulator.server import Simulator

Spans = list[dict[str, Any]]


@pytest.fixture
def segment() -> Iterator[Simulator]:
    """What failed comes in several files."""
    with hours_ago("append") as segment:
        yield segment


def ids(span: dict[str, Any], name: str) -> str:
    """An id in hex: Jaeger's JSON has it so, Tempo's in base64."""
    text: str = span.get(name, "")
    return b64decode(text).hex() if text.endswith("=") or len(text) not in (0, 16, 32) else text


def deliveries(spans: Spans) -> Spans:
    return [span for span in spans if span["name"].startswith("deliver ")]


def is_whole(spans: Spans) -> Spans:
    """The spans of the trace as soon as all are there."""
    return spans if len(spans) == ATTEMPTS + 2 else []


def check_trace(order: Order, spans: Spans, look_up: Callable[[str], Spans]) -> None:
    """One trace: the application's spans and the failed attempts below; the links lead to the exchanges."""
    own = {span["name"]: span for span in spans if not span["name"].startswith("deliver ")}
    assert set(own) == {"POST /orders", "complete order"}
    assert ids(own["complete order"], "spanId") == order.span_id
    failed = deliveries(spans)
    assert len({ids(span, "spanId") for span in failed}) == len(failed) == ATTEMPTS
    exchanges = set()
    for span in failed:
        assert (ids(span, "traceId"), ids(span, "parentSpanId")) == (order.trace_id, order.span_id)
        links = {(ids(link, "traceId"), ids(link, "spanId")) for link in span["links"]}
        assert (order.trace_id, order.span_id) in links
        (exchange,) = links - {(order.trace_id, order.span_id)}
        exchanges.add(exchange)
    for trace_id, span_id in exchanges:
        (span,) = look_up(trace_id)
        assert (ids(span, "traceId"), ids(span, "spanId")) == (trace_id, span_id)


def test_in_tempo_and_loki(
    segment: Simulator, collector_program: Path, tempo_program: Path, loki_program: Path, tmp_path: Path
) -> None:
    """Under the span that called track(), once, though all is sent twice; the logs beside it in Loki."""
    with Tempo(tempo_program, tmp_path) as tempo, Loki(loki_program, tmp_path) as loki:
        order = complete_order(tempo.otlp_endpoint, segment.url, segment.clock.now_ns())
        hours_later(segment)
        nobody = f"http://127.0.0.1:{unused_port()}"
        endpoints = {"TEMPO_ENDPOINT": tempo.otlp_endpoint, "LOKI_ENDPOINT": loki.otlp_endpoint}
        with shipped(
            collector_program, "tempo-loki", tmp_path, PROMETHEUS_ENDPOINT=nobody, **endpoints
        ) as collector:
            first = poll(segment, collector, tmp_path).summary
            spans = eventually(lambda: is_whole(tempo.spans(order.trace_id)))
            check_trace(order, spans, tempo.spans)
            tempo.flush()
            again = poll(segment, collector, tmp_path).summary
            assert again["exported"] == first["exported"] == RECORDS
            tempo.flush()
        assert eventually(lambda: tempo.blocks() == 2)  # both sendings are looked into
        check_trace(order, tempo.spans(order.trace_id), tempo.spans)
        now_ns = time.time_ns()
        query = f'{{service_name="segment"}} | trace_id="{order.trace_id}"'
        lines = loki.lines(query, start_ns=now_ns - 24 * HOUR_NS, end_ns=now_ns)
        assert len(lines) == RECORDS - ATTEMPTS  # the exchanges have traces of their own
        discarded = f"discarded: message {order.message_id} to "
        assert any(line.startswith(discarded) for _, line, _ in lines)


def test_in_jaeger(segment: Simulator, collector_program: Path, jaeger: Jaeger, tmp_path: Path) -> None:
    order = complete_order(jaeger.otlp_endpoint, segment.url, segment.clock.now_ns())
    hours_later(segment)
    with shipped(collector_program, "jaeger", tmp_path, JAEGER_ENDPOINT=jaeger.otlp_endpoint) as collector:
        poll(segment, collector, tmp_path)
        spans = eventually(lambda: is_whole(jaeger.spans(order.trace_id)))
    check_trace(order, spans, jaeger.spans)
