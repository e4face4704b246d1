"""A log record and a span, as plain data: what `mapping` decides and an encoder writes.

Field for field OTLP's messages LogRecord and Span (opentelemetry-proto 1.x); ids are bytes, times are
nanoseconds since 1970. An absent id is empty.
"""

from enum import IntEnum

from msgspec import Struct

Value = str | bool | int | float | tuple[str, ...]
Attributes = list[tuple[str, Value]]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""The semantic conventions that the attributes follow."""


class Severity(IntEnum):
    """OTLP's severity numbers, as far as they are used here; the names are the severity texts."""

    INFO = 9
    WARN = 13
    ERROR = 17


class SpanKind(IntEnum):
    """OTLP's span kinds, as far as they are used here."""

    CLIENT = 3
    CONSUMER = 5


class StatusCode(IntEnum):
    """OTLP's span status codes; Ok is never claimed of somebody else's work."""

    UNSET = 0
    ERROR = 2


class Link(Struct, frozen=True):
    """A span's link to another span."""

    trace_id: bytes
    span_id: bytes
    attributes: Attributes
    flags: int


class Span(Struct, frozen=True, kw_only=True):
    """A span without duration: it starts and ends at `time_ns`."""

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
    """A log record. `dropped_attributes` counts what the limits left out."""

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
