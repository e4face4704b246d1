"""What Jaeger has of a message that could not be delivered."""

import time
from pathlib import Path

from support.backends import Jaeger, eventually, forward
from support.failed_message import FailedMessage

from faillog_otel.clock import HOUR_NS


def test_one_trace_has_the_attempts_and_their_links_to_the_exchanges(jaeger: Jaeger, tmp_path: Path) -> None:
    message = FailedMessage("once", time.time_ns() - 26 * HOUR_NS)
    forward(message.content(), jaeger.otlp_endpoint, "traces", tmp_path)
    spans = sorted(
        eventually(lambda: jaeger.spans(message.trace_id)), key=lambda span: str(span["startTimeUnixNano"])
    )
    assert [span["name"] for span in spans] == ["deliver abc"] * message.attempts
    assert [span["status"] for span in spans] == [{"code": 2, "message": "HTTP 418"}] * message.attempts
    links = [(link["traceId"], link["spanId"]) for span in spans for link in span["links"]]
    assert links == message.exchange_spans()
    for trace_id, span_id in links:
        (exchange,) = jaeger.spans(trace_id)
        assert (exchange["spanId"], exchange["name"]) == (span_id, "HTTP abc")


def test_everything_sent_twice_is_there_once(jaeger: Jaeger, tmp_path: Path) -> None:
    message = FailedMessage("twice", time.time_ns() - 26 * HOUR_NS)
    for _ in range(2):
        forward(message.content(), jaeger.otlp_endpoint, "traces", tmp_path)
    ids = [span["spanId"] for span in eventually(lambda: jaeger.spans(message.trace_id))]
    assert sorted(ids) == sorted(set(ids))
