"""OTLP on the wire: protobuf's encoding, records as plain data, the numbers of their fields, and requests.

Sources: protobuf.dev, "Encoding"; opentelemetry-proto 1.x, common.proto, logs.proto and trace.proto (the
messages are named below). A message is the concatenation of its fields, each after its tag, so an encoded
record can be put into another request without changing a byte. Fields are written in the order of their
numbers, as the official classes do. A field with its default value is absent, unless it is part of a oneof.
"""

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from functools import lru_cache

from msgspec import Struct

from faillog_otel.config import Signal

VARINT = 0
FIXED64 = 1
LENGTH_DELIMITED = 2
FIXED32 = 5

_SHORT = [bytes((number,)) for number in range(0x80)]


def varint(number: int) -> bytes:
    """Encodes an unsigned integer: seven bits a byte, the least significant ones first."""
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number < 0x20_0000:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def int64(number: int) -> bytes:
    """Encodes a signed integer as a varint; a negative one takes ten bytes (two's complement)."""
    return varint(number if number >= 0 else number & 0xFFFF_FFFF_FFFF_FFFF)


fixed32 = struct.Struct("<I").pack
fixed64 = struct.Struct("<Q").pack
double = struct.Struct("<d").pack


def tag(field_number: int, wire_type: int = LENGTH_DELIMITED) -> bytes:
    """Returns the tag before a field's value."""
    return varint(field_number << 3 | wire_type)


def message_field(field_number: int, payload: bytes) -> bytes:
    """Encodes a field that holds an encoded message, a text or bytes."""
    return b"".join((tag(field_number), varint(len(payload)), payload))


def text_field(field_number: int, text: str) -> bytes:
    """Encodes a field that holds a text; an empty text is absent."""
    return message_field(field_number, text.encode()) if text else b""


class Heads(dict[int, bytes]):
    """Maps a value's length to the bytes before the value: tags and lengths, made once for each length.

    The value may be in nested messages: `path` has the bytes before each length, from the outermost message
    inwards; `behind` follows the last length.
    """

    MAX_LENGTH = 4096
    """Heads of longer values are not remembered, so that memory is bounded."""

    def __init__(self, *path: bytes, behind: bytes = b"") -> None:
        super().__init__()
        self._path = path
        self._behind = behind

    def __missing__(self, length: int) -> bytes:
        head = self._behind
        for before in reversed(self._path):
            head = before + varint(length + len(head)) + head
        if length <= self.MAX_LENGTH:
            self[length] = head
        return head


Value = str | bool | int | float | tuple[str, ...]
Attributes = list[tuple[str, Value]]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""The semantic conventions that the attributes follow."""
SCOPE_NAME = "faillog-otel"


class Severity(IntEnum):
    """The severity numbers of OTLP that are used here; their names are the severity texts."""

    INFO = 9
    WARN = 13
    ERROR = 17


class SpanKind(IntEnum):
    """The span kinds of OTLP that are used here."""

    CLIENT = 3
    CONSUMER = 5


class StatusCode(IntEnum):
    """The span status codes of OTLP that are used here: Ok is for the application that did the work."""

    UNSET = 0
    ERROR = 2


class Link(Struct, frozen=True):
    """A span's link to another span."""

    trace_id: bytes
    span_id: bytes
    attributes: Attributes
    flags: int


class Span(Struct, frozen=True, kw_only=True):
    """A span without duration: it starts and ends at `time_ns` (nanoseconds since 1970)."""

    trace_id: bytes
    span_id: bytes
    name: str
    kind: SpanKind
    time_ns: int
    attributes: Attributes
    status: StatusCode
    status_message: str
    links: list[Link]
    flags: int
    parent_span_id: bytes = b""


class Log(Struct, frozen=True, kw_only=True):
    """A log record. Ids are bytes, empty if absent; `dropped_attributes` counts what the limits left out."""

    time_ns: int
    observed_ns: int
    severity: Severity
    event_name: str
    body: str
    attributes: Attributes
    dropped_attributes: int
    flags: int
    trace_id: bytes = b""
    span_id: bytes = b""


class EncodedEvent(Struct, frozen=True, gc=False):
    """One event's records, encoded as LogRecord and Span messages; an absent record is empty."""

    log: bytes
    span: bytes
    is_shifted: bool = False
    """Whether the time policy changed their time."""
    group: int = 0
    """The id of its failure group as a signed 64-bit number; 0 if the event is no failure."""

    def record(self, signal: Signal) -> bytes:
        """Returns the record of this signal."""
        return self.log if signal == "logs" else self.span

    def only(self, signals: Sequence[Signal]) -> "EncodedEvent":
        """Returns the records of these signals only."""
        log = self.log if "logs" in signals else b""
        span = self.span if "traces" in signals else b""
        return EncodedEvent(log, span, self.is_shifted, self.group)


# common.proto: KeyValue, AnyValue, ArrayValue
KEY_VALUE_KEY = 1
KEY_VALUE_VALUE = 2
ANY_STRING = 1
ANY_BOOL = 2
ANY_INT = 3
ANY_DOUBLE = 4
ANY_ARRAY = 5
ARRAY_VALUES = 1

# logs.proto: LogRecord
LOG_TIME = 1  # time_unix_nano
LOG_SEVERITY_NUMBER = 2
LOG_SEVERITY_TEXT = 3
LOG_BODY = 5
LOG_ATTRIBUTES = 6
LOG_DROPPED_ATTRIBUTES = 7  # dropped_attributes_count
LOG_FLAGS = 8
LOG_TRACE_ID = 9
LOG_SPAN_ID = 10
LOG_OBSERVED_TIME = 11  # observed_time_unix_nano
LOG_EVENT_NAME = 12

# trace.proto: Span, Span.Link, Status
SPAN_TRACE_ID = 1
SPAN_SPAN_ID = 2
SPAN_PARENT_SPAN_ID = 4
SPAN_NAME = 5
SPAN_KIND = 6
SPAN_START_TIME = 7  # start_time_unix_nano
SPAN_END_TIME = 8  # end_time_unix_nano
SPAN_ATTRIBUTES = 9
SPAN_LINKS = 13
SPAN_STATUS = 15
SPAN_FLAGS = 16
LINK_TRACE_ID = 1
LINK_SPAN_ID = 2
LINK_ATTRIBUTES = 4
LINK_FLAGS = 6
STATUS_MESSAGE = 2
STATUS_CODE = 3


def any_value(value: Value) -> bytes:
    """Encodes an AnyValue message."""
    if isinstance(value, str):
        return message_field(ANY_STRING, value.encode())
    if isinstance(value, bool):
        return tag(ANY_BOOL, VARINT) + varint(value)
    if isinstance(value, int):
        return tag(ANY_INT, VARINT) + int64(value)
    if isinstance(value, float):
        return tag(ANY_DOUBLE, FIXED64) + double(value)
    values = b"".join([message_field(ARRAY_VALUES, any_value(each)) for each in value])
    return message_field(ANY_ARRAY, values)


def attribute_fields(field_number: int, attributes: Attributes) -> bytes:
    """Encodes KeyValues as a repeated field of this number."""
    return repeated_field(field_number, [key_value(key, value) for key, value in attributes])


def repeated_field(field_number: int, key_values: Iterable[bytes]) -> bytes:
    """Encodes what `key_value` returned as a repeated field of this number."""
    return tag(field_number).join((b"", *key_values))


def key_value(key: str, value: Value) -> bytes:
    """Encodes a KeyValue message, after its length."""
    if isinstance(value, str) and len(key) <= _MAX_REMEMBERED_KEY:
        text = value.encode()
        return text_heads(key)[len(text)] + text
    if isinstance(value, tuple) and len(value) == 1 and len(key) <= _MAX_REMEMBERED_KEY:
        text = value[0].encode()
        return _array_heads(key)[len(text)] + text
    inside = text_field(KEY_VALUE_KEY, key) + message_field(KEY_VALUE_VALUE, any_value(value))
    return varint(len(inside)) + inside


_MAX_REMEMBERED_KEY = 64


@lru_cache(maxsize=128)
def text_heads(key: str) -> Heads:
    """Returns the heads of a text that is a KeyValue with this key."""
    return _heads(key, tag(ANY_STRING))


@lru_cache(maxsize=128)
def _array_heads(key: str) -> Heads:
    """Returns the heads of the only text of an array that is a KeyValue with this key."""
    return _heads(key, tag(ANY_ARRAY), tag(ARRAY_VALUES), tag(ANY_STRING))


def int_heads(key: str) -> Heads:
    """Returns the heads of a varint that is a KeyValue with this key."""
    return _heads(key, behind=tag(ANY_INT, VARINT))  # a varint has no length


def _heads(key: str, *path: bytes, behind: bytes = b"") -> Heads:
    inside = text_field(KEY_VALUE_KEY, key) + tag(KEY_VALUE_VALUE)
    return Heads(b"", inside, *path, behind=behind)


def flags_field(field_number: int, flags: int) -> bytes:
    """Encodes a fixed32 field; 0 is absent."""
    return tag(field_number, FIXED32) + fixed32(flags) if flags else b""


def bytes_field(field_number: int, value: bytes) -> bytes:
    """Encodes a field of bytes; an empty one is absent."""
    return message_field(field_number, value) if value else b""


def link_field(link: Link) -> bytes:
    """Encodes one link of a span."""
    return message_field(
        SPAN_LINKS,
        bytes_field(LINK_TRACE_ID, link.trace_id)
        + bytes_field(LINK_SPAN_ID, link.span_id)
        + attribute_fields(LINK_ATTRIBUTES, link.attributes)
        + flags_field(LINK_FLAGS, link.flags),
    )


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
        # Lengths are summed first, so that everything is copied only once: a request is large.
        scoped = len(self._scope) + sum(map(len, parts)) + len(self._after)
        head = tag(self._SCOPE_RECORDS) + varint(scoped)
        inside = len(self._before) + len(head) + scoped + len(self._after)
        before = (tag(self._RESOURCE_RECORDS), varint(inside), self._before, head, self._scope)
        return b"".join([*before, *parts, self._after, self._after])
