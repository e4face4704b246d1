"""Requests: wraps encoded records into the protobuf or the JSON of a request, and compresses it.

A record is encoded by itself, once: its bytes never change, whatever else travels in its request.
"""

import gzip
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from faillog_otel.config import Signal
from faillog_otel.events.model import Event, RecordContext
from faillog_otel.otlp.wire import SCHEMA_URL, Heads, attribute_fields, message_field, tag, text_field, varint

# -- gzip ------------------------------------------------------------------------------------------------
#
# isal if it is installed (`faillog-otel[isal]`), else zlib, both at level 1.

try:
    from isal import igzip
except ImportError:  # an optional dependency, without wheels for some machines
    igzip = None  # type: ignore[assignment]  # there is no module then

_LEVEL = 1


def gzip_body(body: bytes) -> bytes:
    """Returns the body as one gzip member without a time, so that equal bodies give equal bytes."""
    return _compress(body, compresslevel=_LEVEL, mtime=0)


_compress: Callable[..., bytes] = igzip.compress if igzip is not None else gzip.compress


# -- protobuf --------------------------------------------------------------------------------------------

SCOPE_NAME = "faillog-otel"


class EncodedEvent(Struct, frozen=True, gc=False):
    """One event's records, encoded as LogRecord and Span messages. `span` is empty if there is none."""

    log: bytes
    span: bytes
    is_shifted: bool = False
    """Whether the time policy gave them another time."""

    def record(self, signal: Signal) -> bytes:
        """Returns the record of this signal."""
        return self.log if signal == "logs" else self.span

    def only(self, signals: Sequence[Signal]) -> "EncodedEvent":
        """Returns the records of these signals only."""
        log = self.log if "logs" in signals else b""
        return EncodedEvent(log, self.span if "traces" in signals else b"", self.is_shifted)


class Encoder(Protocol):
    """Encodes events: the interface between mapping and delivery. An event always gives the same bytes."""

    def encode(self, event: Event, context: RecordContext) -> EncodedEvent:
        """Returns the event's records in this context."""


class Envelope:
    """Wraps records into requests: one resource and one scope around them, the same for all.

    The scope has no version, so that a record that is sent again after an upgrade is still byte-identical.
    ExportLogsServiceRequest and ExportTraceServiceRequest, and ResourceLogs and ResourceSpans, number
    their fields alike (opentelemetry-proto: logs.proto, trace.proto), so one layout serves both.
    """

    _RESOURCE_RECORDS = 1  # ExportLogsServiceRequest.resource_logs
    _RESOURCE = 1  # ResourceLogs.resource
    _RESOURCE_ATTRIBUTES = 1  # Resource.attributes
    _SCOPE_RECORDS = 2  # ResourceLogs.scope_logs
    _SCOPE = 1  # ScopeLogs.scope
    _SCOPE_NAME = 1  # InstrumentationScope.name
    _RECORDS = 2  # ScopeLogs.log_records
    _SCHEMA_URL = 3  # ResourceLogs.schema_url, ScopeLogs.schema_url

    def __init__(self, resource: Iterable[tuple[str, str]]) -> None:
        attributes = attribute_fields(self._RESOURCE_ATTRIBUTES, list(resource))
        self._before = message_field(self._RESOURCE, attributes)
        self._scope = message_field(self._SCOPE, text_field(self._SCOPE_NAME, SCOPE_NAME))
        self._records = Heads(tag(self._RECORDS))
        self._after = message_field(self._SCHEMA_URL, SCHEMA_URL.encode())

    def request(self, _signal: Signal, records: Sequence[bytes]) -> bytes:
        """Returns an ExportLogsServiceRequest of LogRecords or an ExportTraceServiceRequest of Spans."""
        if not records:
            return b""
        heads = self._records
        parts = [part for each in records for part in (heads[len(each)], each)]
        # Sums up lengths first, to copy everything only once: a request is large.
        scoped = len(self._scope) + sum(map(len, parts)) + len(self._after)
        head = tag(self._SCOPE_RECORDS) + varint(scoped)
        inside = len(self._before) + len(head) + scoped + len(self._after)
        before = (tag(self._RESOURCE_RECORDS), varint(inside), self._before, head, self._scope)
        return b"".join([*before, *parts, self._after, self._after])


# -- JSON ------------------------------------------------------------------------------------------------
#
# OTLP's JSON differs from protobuf's own: ids are hexadecimal, enums are numbers, 64-bit integers are texts
# (opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding"). It is made from the records' protobuf bytes,
# so that both have the same content.


class JsonEnvelope:
    """Wraps records into requests on one line of JSON, as `Envelope` does for protobuf."""

    def __init__(self, resource: Iterable[tuple[str, str]]) -> None:
        self._resource = {"attributes": [{"key": k, "value": {"stringValue": v}} for k, v in resource]}

    def request(self, signal: Signal, records: Sequence[bytes]) -> bytes:
        """Returns an ExportLogsServiceRequest or an ExportTraceServiceRequest as JSON."""
        if signal == "logs":
            names = ("resourceLogs", "scopeLogs", "logRecords")
            values = [_log(LogRecord.FromString(record)) for record in records]
        else:
            names = ("resourceSpans", "scopeSpans", "spans")
            values = [_span(Span.FromString(record)) for record in records]
        outer, middle, inner = names
        if not values:
            return msgspec.json.encode({outer: []})
        scoped = {"scope": {"name": SCOPE_NAME}, inner: values, "schemaUrl": SCHEMA_URL}
        whole = {"resource": self._resource, middle: [scoped], "schemaUrl": SCHEMA_URL}
        return msgspec.json.encode({outer: [whole]})


def _log(log: LogRecord) -> dict[str, Any]:
    return _without_absent(
        {
            "timeUnixNano": str(log.time_unix_nano),
            "observedTimeUnixNano": str(log.observed_time_unix_nano),
            "severityNumber": int(log.severity_number),
            "severityText": log.severity_text,
            "eventName": log.event_name,
            "body": _value(log.body),
            "attributes": _attributes(log.attributes),
            "droppedAttributesCount": log.dropped_attributes_count,
            "flags": log.flags,
            "traceId": log.trace_id.hex(),
            "spanId": log.span_id.hex(),
        }
    )


def _span(span: Span) -> dict[str, Any]:
    status = {"code": int(span.status.code), "message": span.status.message}
    message = _without_absent(
        {
            "traceId": span.trace_id.hex(),
            "spanId": span.span_id.hex(),
            "parentSpanId": span.parent_span_id.hex(),
            "flags": span.flags,
            "name": span.name,
            "kind": int(span.kind),
            "startTimeUnixNano": str(span.start_time_unix_nano),
            "endTimeUnixNano": str(span.end_time_unix_nano),
            "attributes": _attributes(span.attributes),
            "links": [
                {
                    "traceId": link.trace_id.hex(),
                    "spanId": link.span_id.hex(),
                    "attributes": _attributes(link.attributes),
                    "flags": link.flags,
                }
                for link in span.links
            ],
        }
    )
    if span.HasField("status"):  # also if it is Unset, as in protobuf
        message["status"] = _without_absent(status)
    return message


def _without_absent(message: dict[str, Any]) -> dict[str, Any]:
    """Returns the message without fields that have protobuf's default values."""
    return {name: value for name, value in message.items() if value not in (0, "", [], {})}


def _attributes(pairs: Iterable[KeyValue]) -> list[dict[str, Any]]:
    return [{"key": pair.key, "value": _value(pair.value)} for pair in pairs]


def _value(value: AnyValue) -> dict[str, Any]:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return {"stringValue": value.string_value}
    if kind == "int_value":
        return {"intValue": str(value.int_value)}
    if kind == "bool_value":
        return {"boolValue": value.bool_value}
    if kind == "double_value":
        return {"doubleValue": value.double_value}
    if kind == "array_value":
        return {"arrayValue": {"values": [_value(each) for each in value.array_value.values]}}
    return {}  # absent: the mapping makes no other values
