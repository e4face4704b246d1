"""The mapping's plain data written with the official classes: what our own bytes are held against."""

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from faillog_otel.config import MappingConfig
from faillog_otel.events.failure import group_number
from faillog_otel.events.model import Event, RecordContext
from faillog_otel.otlp.mapping import map_event
from faillog_otel.otlp.wire import Attributes, EncodedEvent, Log, Span, Value


class ProtobufEncoder:
    """An `Encoder` that writes with the official message classes."""

    def __init__(self, config: MappingConfig) -> None:
        self._config = config

    def encode(self, event: Event, context: RecordContext) -> EncodedEvent:
        """The event's records in this context."""
        mapped = map_event(event, context, self._config)
        span = encode_span(mapped.span) if mapped.span else b""
        group = dict((mapped.span or mapped.log).attributes).get("segment.failure.group")
        number = group_number(str(group)) if group else 0
        return EncodedEvent(encode_log(mapped.log), span, mapped.is_shifted, number)


def encode_log(log: Log) -> bytes:
    """An OTLP LogRecord message."""
    message = LogRecord(
        time_unix_nano=log.time_ns,
        observed_time_unix_nano=log.observed_ns,
        severity_number=SeverityNumber.ValueType(log.severity),
        severity_text=log.severity.name,
        body=AnyValue(string_value=log.body),
        attributes=_key_values(log.attributes),
        dropped_attributes_count=log.dropped_attributes,
        flags=log.flags,
        trace_id=log.trace_id,
        span_id=log.span_id,
        event_name=log.event_name,
    )
    return message.SerializeToString(deterministic=True)


def encode_span(span: Span) -> bytes:
    """An OTLP Span message."""
    message = SpanMessage(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        flags=span.flags,
        name=span.name,
        kind=SpanMessage.SpanKind.ValueType(span.kind),
        start_time_unix_nano=span.time_ns,
        end_time_unix_nano=span.time_ns,
        attributes=_key_values(span.attributes),
        links=[
            SpanMessage.Link(
                trace_id=link.trace_id,
                span_id=link.span_id,
                attributes=_key_values(link.attributes),
                flags=link.flags,
            )
            for link in span.links
        ],
        status=Status(code=Status.StatusCode.ValueType(span.status), message=span.status_message),
    )
    return message.SerializeToString(deterministic=True)


def _key_values(attributes: Attributes) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any_value(value)) for key, value in attributes]


def _any_value(value: Value) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=each) for each in value]))
