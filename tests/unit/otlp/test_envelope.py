"""Records → protobuf: what is written, the official classes read back."""

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from faillog_otel.otlp.wire import SCHEMA_URL, Envelope, message_field, varint

RESOURCE = (("service.name", "segment"), ("deployment.environment.name", "prod"))


@given(st.lists(st.text(max_size=300), min_size=1))
def test_a_request_is_what_the_official_classes_write(bodies: list[str]) -> None:
    records = [LogRecord(event_name=body) for body in bodies]
    scope = ScopeLogs(
        scope=InstrumentationScope(name="faillog-otel"), log_records=records, schema_url=SCHEMA_URL
    )
    resource = ResourceLogs(scope_logs=[scope], schema_url=SCHEMA_URL)
    for key, value in RESOURCE:
        resource.resource.attributes.add(key=key).value.string_value = value
    expected = ExportLogsServiceRequest(resource_logs=[resource]).SerializeToString(deterministic=True)
    assert Envelope(RESOURCE).request("logs", [record.SerializeToString() for record in records]) == expected


def test_spans_and_logs_share_the_layout_of_a_request() -> None:
    span = Span(name="deliver abc")
    scope = ScopeSpans(scope=InstrumentationScope(name="faillog-otel"), spans=[span], schema_url=SCHEMA_URL)
    resource = ResourceSpans(scope_spans=[scope], schema_url=SCHEMA_URL)
    resource.resource.SetInParent()
    expected = ExportTraceServiceRequest(resource_spans=[resource]).SerializeToString(deterministic=True)
    assert Envelope(()).request("traces", [span.SerializeToString()]) == expected


def test_no_records_are_an_empty_request() -> None:
    assert Envelope(RESOURCE).request("logs", []) == b""


@given(st.integers(0, 2**64 - 1))
def test_a_varint_reads_back(number: int) -> None:
    found = 0
    for at, byte in enumerate(varint(number)):
        found |= (byte & 0x7F) << (7 * at)
    assert found == number


def test_a_field_of_any_length_has_the_length_before_it() -> None:
    for length in (0, 127, 128, 20_000):
        whole = message_field(1, b"x" * length)
        assert whole == b"\x0a" + varint(length) + b"x" * length
