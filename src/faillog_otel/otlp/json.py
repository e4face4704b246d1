"""OTLP's JSON encoding of requests, on one line.

It differs from protobuf's own JSON: ids are hexadecimal, enums are numbers, 64-bit integers are texts
(opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding"). It is made from the protobuf bytes of the
records, so that both say the same.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from faillog_otel.config import Signal
from faillog_otel.otlp.encoding import SCOPE_NAME
from faillog_otel.otlp.records import SCHEMA_URL


class JsonEnvelope:
    """Wraps records into requests, as `encoding.Envelope` does for protobuf."""

    def __init__(self, resource: Iterable[tuple[str, str]]) -> None:
        self._resource = {"attributes": [{"key": k, "value": {"stringValue": v}} for k, v in resource]}

    def request(self, signal: Signal, records: Sequence[bytes]) -> bytes:
        """An ExportLogsServiceRequest of LogRecords or an ExportTraceServiceRequest of Spans, as JSON."""
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
    if span.HasField("status"):  # also one that is Unset: both encodings say the same
        message["status"] = _without_absent(status)
    return message


def _without_absent(message: dict[str, Any]) -> dict[str, Any]:
    """Protobuf's default values are absent."""
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
    return {}  # absent; the mapping makes no other kinds
