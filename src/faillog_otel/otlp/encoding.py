"""Events → bytes: each record encoded by itself, then portions of them wrapped into requests.

`Encoder` is the one interface between the mapping and the wire. A record's bytes never change once they
are made, whatever else travels in its request.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec import Struct
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    InstrumentationScope,
    KeyValue,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from faillog_otel.config import MappingConfig, Signal
from faillog_otel.events.model import Context, Event
from faillog_otel.otlp.mapping import map_event
from faillog_otel.otlp.records import SCHEMA_URL, Attributes, Log, Span, Value
from faillog_otel.otlp.wire import message_field, repeated_field

SCOPE_NAME = "faillog-otel"


class Item(Struct, frozen=True):
    """One event's records, encoded: LogRecord and Span messages. `span` is empty where there is none."""

    log: bytes
    span: bytes
    is_shifted: bool = False
    """Whether they carry another time than their own."""

    def record(self, signal: Signal) -> bytes:
        """The record of this signal."""
        return self.log if signal == "logs" else self.span

    def only(self, signals: Sequence[Signal]) -> "Item":
        """The item without the records of other signals."""
        log = self.log if "logs" in signals else b""
        return Item(log, self.span if "traces" in signals else b"", self.is_shifted)


class Encoder(Protocol):
    """Turns one event into the bytes of its records; the same ones every time."""

    def encode(self, event: Event, context: Context) -> Item:
        """The event's records in this context."""


class ProtobufEncoder:
    """Writes the mapping with the official message classes."""

    def __init__(self, config: MappingConfig) -> None:
        self._config = config

    def encode(self, event: Event, context: Context) -> Item:
        """The event's records in this context."""
        mapped = map_event(event, context, self._config)
        span = encode_span(mapped.span) if mapped.span else b""
        return Item(encode_log(mapped.log), span, mapped.is_shifted)


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


class Envelope:
    """Wraps records into requests: one resource and one scope around them, the same for all.

    The scope has no version, so that what is sent again after an upgrade is still byte-identical.
    ExportLogsServiceRequest and ExportTraceServiceRequest, and ResourceLogs and ResourceSpans, number
    their fields alike (opentelemetry-proto: logs.proto, trace.proto), so one layout serves both.
    """

    _RESOURCE_RECORDS = 1  # ExportLogsServiceRequest.resource_logs
    _RESOURCE = 1  # ResourceLogs.resource
    _SCOPE_RECORDS = 2  # ResourceLogs.scope_logs
    _SCOPE = 1  # ScopeLogs.scope
    _RECORDS = 2  # ScopeLogs.log_records
    _SCHEMA_URL = 3  # ResourceLogs.schema_url, ScopeLogs.schema_url

    def __init__(self, resource: Iterable[tuple[str, str]]) -> None:
        attributes = _key_values(list(resource))
        encoded = Resource(attributes=attributes).SerializeToString(deterministic=True)
        scope = InstrumentationScope(name=SCOPE_NAME).SerializeToString(deterministic=True)
        self._before = message_field(self._RESOURCE, encoded)
        self._scope = message_field(self._SCOPE, scope)
        self._after = message_field(self._SCHEMA_URL, SCHEMA_URL.encode())

    def request(self, _signal: Signal, records: Sequence[bytes]) -> bytes:
        """An ExportLogsServiceRequest of LogRecords, or an ExportTraceServiceRequest of Spans: alike."""
        if not records:
            return b""
        scoped = self._scope + repeated_field(self._RECORDS, records) + self._after
        inside = self._before + message_field(self._SCOPE_RECORDS, scoped) + self._after
        return message_field(self._RESOURCE_RECORDS, inside)


def _key_values(attributes: Attributes | list[tuple[str, str]]) -> list[KeyValue]:
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
