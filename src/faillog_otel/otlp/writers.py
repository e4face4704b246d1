"""Requests as JSON, and a client that writes them to a file: OTLP JSON Lines.

OTLP's JSON differs from protobuf's own: ids are hexadecimal, enums are numbers, 64-bit integers are texts
(opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding"). It is made from the records' protobuf bytes, so
both have the same content.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any

import msgspec
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from faillog_otel.config import Signal
from faillog_otel.otlp.outcome import READER_GONE, Acknowledged, Outcome, Refused
from faillog_otel.otlp.wire import SCHEMA_URL, SCOPE_NAME
from faillog_otel.text import printable_json


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
            "attributes": _key_values(log.attributes),
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
            "attributes": _key_values(span.attributes),
            "links": [
                {
                    "traceId": link.trace_id.hex(),
                    "spanId": link.span_id.hex(),
                    "attributes": _key_values(link.attributes),
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


def _key_values(pairs: Iterable[KeyValue]) -> list[dict[str, Any]]:
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
    return {}  # the mapping makes no other values


class FileClient:
    """Writes OTLP JSON Lines, one request a line, to an open unbuffered file; a written line is acknowledged.

    The Collector's file exporter writes the same format, and its `otlpjsonfile` receiver reads it. A partial
    line is truncated away; where that is impossible (a pipe, a device), nothing more is written, because it
    would damage the next line. One request at a time.
    """

    flush = None
    """It keeps nothing."""

    def __init__(
        self,
        file: IO[bytes],
        envelope: JsonEnvelope,
        *,
        is_terminal: bool = False,
        is_ascii: bool = False,
        on_closed: Callable[[], object],
    ) -> None:
        """`is_terminal`: escapes control characters; `is_ascii`: escapes all other characters, too.

        `on_closed` is called when the reader of the output has closed it.
        """
        self._on_closed = on_closed
        self._file = file
        self._is_terminal = is_terminal
        self._is_ascii = is_ascii
        self._envelope = envelope
        self._broken = ""

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Writes one line; nothing for an empty request."""
        if self._broken:
            return Refused(self._broken)
        if not records:
            return Acknowledged()
        request = self._envelope.request(signal, records)
        if self._is_terminal:
            request = printable_json(request.decode(), is_ascii=self._is_ascii).encode()
        line = memoryview(request + b"\n")
        start = self._file.tell() if self._file.seekable() else None
        try:
            while line:
                line = line[self._file.write(line) :]
        except ConnectionError:
            self._broken = READER_GONE
            self._on_closed()
            return Refused(READER_GONE)
        except OSError as error:
            why = f"the output cannot be written: {error.strerror}"
            if not self._remove_partial_line(start):
                self._broken = why
            return Refused(why)
        return Acknowledged()

    def _remove_partial_line(self, start: int | None) -> bool:
        """Truncates the file to `start`; returns False if that is impossible, as on a pipe or a device."""
        if start is None:
            return False
        try:
            self._file.seek(start)
            self._file.truncate()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Does nothing: the caller closes the file."""
