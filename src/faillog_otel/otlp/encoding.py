"""Events → bytes: each record encoded by itself, then portions of them wrapped into requests.

`Encoder` is the one interface between the mapping and the wire. A record's bytes never change once they
are made, whatever else travels in its request.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec import Struct

from faillog_otel.config import Signal
from faillog_otel.events.model import Context, Event
from faillog_otel.otlp.messages import attribute_fields
from faillog_otel.otlp.records import SCHEMA_URL
from faillog_otel.otlp.wire import Heads, message_field, tag, text_field, varint

SCOPE_NAME = "faillog-otel"


class Item(Struct, frozen=True, gc=False):
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


class Envelope:
    """Wraps records into requests: one resource and one scope around them, the same for all.

    The scope has no version, so that what is sent again after an upgrade is still byte-identical.
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
        """An ExportLogsServiceRequest of LogRecords, or an ExportTraceServiceRequest of Spans: alike."""
        if not records:
            return b""
        heads = self._records
        parts = [part for each in records for part in (heads[len(each)], each)]
        # The lengths first, then one copy of everything: a request is large.
        scoped = len(self._scope) + sum(map(len, parts)) + len(self._after)
        head = tag(self._SCOPE_RECORDS) + varint(scoped)
        inside = len(self._before) + len(head) + scoped + len(self._after)
        before = (tag(self._RESOURCE_RECORDS), varint(inside), self._before, head, self._scope)
        return b"".join([*before, *parts, self._after, self._after])
