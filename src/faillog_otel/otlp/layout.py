"""The fields of a log record and of a span, in their order, as parts to be joined.

What follows from where an event went and from how it went comes encoded (`Where`, `How`); between these
parts stand the event's own values. Fields that have their default value are absent, as protobuf has it.
"""

from typing import NamedTuple

from msgspec import Struct

from faillog_otel.otlp import messages
from faillog_otel.otlp.mapping import SAMPLED_LOCAL, UID
from faillog_otel.otlp.messages import flags_field, int_attribute_heads, text_attribute_heads
from faillog_otel.otlp.origin import REMOTE, Origin
from faillog_otel.otlp.parts import EVENT_NAMES, OWN
from faillog_otel.otlp.records import Attributes
from faillog_otel.otlp.wire import FIXED64, Heads, tag, text_field, varint
from faillog_otel.propagation import SAMPLED

_LOG_TIME = tag(messages.LOG_TIME, FIXED64)
_LOG_OBSERVED_TIME = tag(messages.LOG_OBSERVED_TIME, FIXED64)
_SPAN_START_TIME = tag(messages.SPAN_START_TIME, FIXED64)
_SPAN_END_TIME = tag(messages.SPAN_END_TIME, FIXED64)
_LOG_BODY = Heads(tag(messages.LOG_BODY), tag(messages.ANY_STRING))
_LOG_UID = text_attribute_heads(messages.LOG_ATTRIBUTES, UID)[32]
_LOG_TRACE_ID = tag(messages.LOG_TRACE_ID) + varint(16)
_LOG_SPAN_ID = tag(messages.LOG_SPAN_ID) + varint(8)
_SPAN_TRACE_ID = tag(messages.SPAN_TRACE_ID) + varint(16)
_SPAN_SPAN_ID = tag(messages.SPAN_SPAN_ID) + varint(8)
_SPAN_PARENT_SPAN_ID = tag(messages.SPAN_PARENT_SPAN_ID) + varint(8)


def _own_heads(field_number: int) -> tuple[Heads, ...]:
    """What stands before each own value; the last one is a number, the others are texts."""
    texts = [text_attribute_heads(field_number, key) for key in OWN[:-1]]
    return (*texts, int_attribute_heads(field_number, OWN[-1]))


_LOG_OWN = _own_heads(messages.LOG_ATTRIBUTES)
_SPAN_OWN = _own_heads(messages.SPAN_ATTRIBUTES)
_LOG_FLAGS = {flags: flags_field(messages.LOG_FLAGS, flags) for flags in (0, SAMPLED)}
_SPAN_FLAGS = {flags: flags_field(messages.SPAN_FLAGS, flags) for flags in (SAMPLED_LOCAL, REMOTE | SAMPLED)}
_EVENT_NAME_FIELDS = {name: text_field(messages.LOG_EVENT_NAME, name) for name in EVENT_NAMES.values()}

Parts = tuple[bytes, ...]


class Where(Struct, frozen=True):
    """Where events went, encoded. `name_and_kind` are the span's, `size` is what limits count."""

    log: bytes
    span: bytes
    name_and_kind: bytes
    event_name: str
    attributes: Attributes
    size: int
    before: bytes
    after: bytes


class How(Struct, frozen=True):
    """How it went with events, encoded."""

    log: bytes
    span: bytes
    attributes: Attributes
    size: int
    severity: bytes
    status: bytes
    opening: bytes
    ending: bytes
    verb: str


class Values(NamedTuple):
    """An event's own values, encoded; what is empty is absent, but for `own`, where None is."""

    time: bytes
    """Fixed64; so is `observed`."""
    about: bytes
    """The id that the log's body names; `when` are its last words."""
    own: tuple[bytes | None, ...]
    """As OWN names them."""
    uid: bytes
    trace_id: bytes
    span_id: bytes
    """Of the span, or of the span that the log record belongs to."""
    parent_span_id: bytes
    observed: bytes
    links: bytes
    when: bytes


def log_parts(values: Values, where: Where, how: How, attributes: Parts, origin: Origin | None) -> Parts:
    """A LogRecord message."""
    words = (how.opening, where.before, values.about, where.after, how.ending, values.when)
    return (
        _LOG_TIME if values.time else b"",
        values.time,
        how.severity,
        _LOG_BODY[sum(map(len, words))],
        *words,
        *attributes,
        _LOG_FLAGS[origin.log_flags if origin else SAMPLED],
        _LOG_TRACE_ID if values.trace_id else b"",
        values.trace_id,
        _LOG_SPAN_ID if values.span_id else b"",
        values.span_id,
        _LOG_OBSERVED_TIME if values.observed else b"",
        values.observed,
        _EVENT_NAME_FIELDS[where.event_name],
    )


def log_attributes(values: Values, where: Where, how: How) -> Parts:
    """The attributes that every log record has."""
    return (where.log, how.log, *_own_parts(_LOG_OWN, values.own), _LOG_UID, values.uid)


def span_parts(values: Values, where: Where, how: How, origin: Origin | None) -> Parts:
    """A Span message."""
    return (
        _SPAN_TRACE_ID,
        values.trace_id,
        _SPAN_SPAN_ID,
        values.span_id,
        _SPAN_PARENT_SPAN_ID if values.parent_span_id else b"",
        values.parent_span_id,
        where.name_and_kind,
        _SPAN_START_TIME if values.time else b"",
        values.time,
        _SPAN_END_TIME if values.time else b"",
        values.time,
        where.span,
        how.span,
        *_own_parts(_SPAN_OWN, values.own),
        values.links,
        how.status,
        _SPAN_FLAGS[origin.span_flags if origin else SAMPLED_LOCAL],
    )


def _own_parts(heads: tuple[Heads, ...], own: tuple[bytes | None, ...]) -> list[bytes]:
    parts: list[bytes] = []
    for each, value in zip(heads, own, strict=True):
        if value is not None:
            parts += (each[len(value)], value)
    return parts
