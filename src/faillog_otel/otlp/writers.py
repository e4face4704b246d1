"""Clients that write to a file or a terminal: OTLP JSON Lines, or one tree for each trace.

OTLP's JSON differs from protobuf's own: ids are hexadecimal, enums are numbers, 64-bit integers are texts
(opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding"). It is made from the records' protobuf bytes, so
both have the same content.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import IO, Any

import msgspec
from msgspec import Struct
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from faillog_otel.config import Signal
from faillog_otel.otlp.outcome import READER_GONE, Acknowledged, Outcome, Refused
from faillog_otel.otlp.wire import SCHEMA_URL, SCOPE_NAME
from faillog_otel.text import printable, printable_json


class TraceTree(Struct, frozen=True):
    """One trace as lines of text, and the name of its destination if it has one."""

    destination: str | None
    lines: tuple[str, ...]


def trace_trees(spans: Iterable[Span], logs: Iterable[LogRecord]) -> list[TraceTree]:
    """Returns one tree for each message in each trace, in the order of their first times.

    A tree shows the spans of a trace, and the log records without a span. An exchange is shown below the
    attempts that link to it; an exchange without links is a tree of its own.
    """
    by_id = {(span.trace_id, span.span_id): span for span in spans}
    linked = {(link.trace_id, link.span_id) for span in by_id.values() for link in span.links}
    trees: dict[tuple[bytes, str], list[Span | LogRecord]] = defaultdict(list)
    for key, span in by_id.items():
        if key not in linked:
            trees[span.trace_id, _message(span)].append(span)
    for log in logs:
        if (log.trace_id, log.span_id) not in by_id:
            trees[log.trace_id, _message(log)].append(log)
    ordered = sorted(trees.items(), key=lambda tree: min(map(_time_ns, tree[1])))
    return [_tree(trace_id, sorted(nodes, key=_time_ns), by_id) for (trace_id, _), nodes in ordered]


def _tree(
    trace_id: bytes, nodes: Sequence[Span | LogRecord], spans: dict[tuple[bytes, bytes], Span]
) -> TraceTree:
    title = f"{_message(nodes[0]) or 'without a message'}  trace {trace_id.hex() or '-'}"
    parents = {node.parent_span_id.hex() for node in nodes if isinstance(node, Span) and node.parent_span_id}
    under = f"  under the application's span {', '.join(sorted(parents))}" if parents else ""
    lines = (title + under, *_branches(nodes, spans))
    return TraceTree(_attributes(nodes[0].attributes).get("messaging.destination.name"), lines)


def _message(node: Span | LogRecord) -> str:
    message = _attributes(node.attributes).get("messaging.message.id")
    return f"message {message}" if message is not None else ""


def _branches(nodes: Sequence[Span | LogRecord], spans: dict[tuple[bytes, bytes], Span]) -> Iterable[str]:
    for node in nodes:
        is_last = node is nodes[-1]
        yield f"{'└─' if is_last else '├─'} {_clock(node)}  {_line(node)}"
        for link in node.links if isinstance(node, Span) else ():
            if link.span_id != getattr(node, "parent_span_id", b""):  # it is shown in the title
                shown = _linked(link, spans.get((link.trace_id, link.span_id)))
                yield f"{'  ' if is_last else '│ '}   ↳ link: {shown}  trace {link.trace_id.hex()}"


def _linked(link: Span.Link, target: Span | None) -> str:
    if target is not None:
        return _line(target)
    if _attributes(link.attributes).get("segment.link.type") == "message":
        return f"the application's span {link.span_id.hex()}"
    return f"exchange {link.span_id.hex()} (in another file)"


def _line(node: Span | LogRecord) -> str:
    if isinstance(node, LogRecord):
        return f"log {node.severity_text}  {node.body.string_value}"
    attributes = _attributes(node.attributes)
    parts = [node.name]
    if "segment.delivery.attempt" in attributes:
        parts.append(f"attempt {attributes['segment.delivery.attempt']}")
        parts.append(attributes.get("segment.delivery.outcome", ""))
    if "http.response.status_code" in attributes:
        parts.append(f"HTTP {attributes['http.response.status_code']}")
    if node.status.code == Status.STATUS_CODE_ERROR and node.status.message not in " ".join(parts):
        parts.append(node.status.message)
    return "  ".join(filter(None, parts))


def _clock(node: Span | LogRecord) -> str:
    return datetime.fromtimestamp(_time_ns(node) / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _time_ns(node: Span | LogRecord) -> int:
    return node.start_time_unix_nano if isinstance(node, Span) else node.time_unix_nano


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, str]:
    return {
        pair.key: str(getattr(pair.value, pair.value.WhichOneof("value") or "string_value")) for pair in pairs
    }


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


class ConsoleClient:
    """Prints the trees of each batch. One request at a time, a batch's spans before its logs.

    Every event has a log record, so an event that cannot be printed is not acknowledged. A trace that
    continues in a later batch is printed in two parts, so that memory stays bounded.
    """

    def __init__(self, file: IO[str], on_closed: Callable[[], object], *, has_logs: bool) -> None:
        """`on_closed` is called when the reader of the output has closed it.

        `has_logs`: whether log records are sent, too.
        """
        self._file = file
        self._on_closed = on_closed
        self._has_logs = has_logs
        self._spans: list[Span] = []

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Prints the records; spans wait for the log records of their batch."""
        if signal == "logs":
            return self._print([LogRecord.FromString(record) for record in records])
        outcome = self._print([])
        self._spans = [Span.FromString(record) for record in records]
        return outcome if self._has_logs else self._print([])

    def close(self) -> None:
        """Prints the spans that still wait for log records."""
        self._print([])

    def _print(self, logs: Sequence[LogRecord]) -> Outcome:
        spans, self._spans = self._spans, []
        try:
            for tree in trace_trees(spans, logs):
                self._file.write("\n".join(map(printable, tree.lines)) + "\n\n")
            self._file.flush()
        except ConnectionError:
            self._on_closed()
            return Refused(READER_GONE)
        except OSError as error:
            return Refused(f"the output cannot be written: {error.strerror}")
        return Acknowledged()
