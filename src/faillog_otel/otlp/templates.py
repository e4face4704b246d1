"""Templates: most events of a kind differ only in their ids and times, so the rest is encoded once.

A template is made from the first event of its kind, from the same parts that its records are joined from, so
the layout is written once. An event that fits no template is encoded part by part.
"""

from binascii import hexlify
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.config import Join
from faillog_otel.events.model import (
    AttemptProperties,
    ErrorProperties,
    Event,
    ExchangeProperties,
    RecordContext,
)
from faillog_otel.otlp import wire
from faillog_otel.otlp.envelope import EncodedEvent
from faillog_otel.otlp.mapping import (
    SAMPLED_LOCAL,
    UID,
    UID_STARTS,
    exchange_ids,
    link_to_exchange,
    link_to_message,
    record_uid,
)
from faillog_otel.otlp.rules import EVENT_NAMES, OWN, REMOTE, Origin, origin_of
from faillog_otel.otlp.wire import (
    FIXED64,
    Attributes,
    Heads,
    fixed64,
    flags_field,
    int64,
    int_attribute_heads,
    link_field,
    tag,
    text_attribute_heads,
    text_field,
    varint,
)
from faillog_otel.propagation import SAMPLED

_LOG_TIME = tag(wire.LOG_TIME, FIXED64)
_LOG_OBSERVED_TIME = tag(wire.LOG_OBSERVED_TIME, FIXED64)
_SPAN_START_TIME = tag(wire.SPAN_START_TIME, FIXED64)
_SPAN_END_TIME = tag(wire.SPAN_END_TIME, FIXED64)
_LOG_BODY = Heads(tag(wire.LOG_BODY), tag(wire.ANY_STRING))
_LOG_UID = text_attribute_heads(wire.LOG_ATTRIBUTES, UID)[32]
_LOG_TRACE_ID = tag(wire.LOG_TRACE_ID) + varint(16)
_LOG_SPAN_ID = tag(wire.LOG_SPAN_ID) + varint(8)
_SPAN_TRACE_ID = tag(wire.SPAN_TRACE_ID) + varint(16)
_SPAN_SPAN_ID = tag(wire.SPAN_SPAN_ID) + varint(8)
_SPAN_PARENT_SPAN_ID = tag(wire.SPAN_PARENT_SPAN_ID) + varint(8)


def _own_heads(field_number: int) -> tuple[Heads, ...]:
    """What stands before each own value; the last one is a number, the others are texts."""
    texts = [text_attribute_heads(field_number, key) for key in OWN[:-1]]
    return (*texts, int_attribute_heads(field_number, OWN[-1]))


_LOG_OWN = _own_heads(wire.LOG_ATTRIBUTES)
_SPAN_OWN = _own_heads(wire.SPAN_ATTRIBUTES)
_LOG_FLAGS = {flags: flags_field(wire.LOG_FLAGS, flags) for flags in (0, SAMPLED)}
_SPAN_FLAGS = {flags: flags_field(wire.SPAN_FLAGS, flags) for flags in (SAMPLED_LOCAL, REMOTE | SAMPLED)}
_EVENT_NAME_FIELDS = {name: text_field(wire.LOG_EVENT_NAME, name) for name in EVENT_NAMES.values()}

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


MAX_TEMPLATES = 1024
MAX_TEMPLATE_BYTES = 4096
"""Longer ones are not remembered: all of them take some MiB at most."""

_ATTEMPT, _ERROR = UID_STARTS["segment.attempt"], UID_STARTS["segment.error"]
_ATTEMPT_GAPS, _ERROR_GAPS, _EXCHANGE_GAPS = (11, 10), (9, 0), (11, 8)
"""In the log record, in the span; without the ids that only the application's context gives."""
_MAX_OWN = 512
"""Characters of an exchange's own texts, and of its request's URL, that are surely not cut."""


def link_fields(exchange_id: str | None, origin: Origin | None) -> bytes:
    """An attempt's links: the one to its exchange, then the one to the application's context."""
    found = b""
    if exchange_id is not None:
        is_short = len(exchange_id) <= _MAX_OWN
        found = _link(exchange_id) if is_short else link_field(link_to_exchange(exchange_id))
    if origin is not None and origin.linked is not None:
        found += link_field(link_to_message(origin.linked))
    return found


@lru_cache(maxsize=1024)  # the attempts of one exchange mostly stand together
def _link(exchange_id: str) -> bytes:
    return link_field(link_to_exchange(exchange_id))


class Slot(bytes):
    """A value of the event's own, among the parts that it shares with others."""

    __slots__ = ()


def with_gaps(values: Values) -> Values:
    """The values, which can now be told from other parts; what is absent stays so."""
    own = tuple(None if value is None else Slot(value) for value in values.own)
    others = {name: Slot(value) for name, value in values._asdict().items() if value and name != "own"}
    return values._replace(own=own, **others)


class Template(Struct, frozen=True, gc=False):
    """A log record and a span, with `%b` for each gap; without a log record it fits nothing.

    `between` stands between message id and time in what an attempt's span id is a hash of.
    """

    log: bytes = b""
    span: bytes = b""
    between: bytes = b""


class Templates:
    """Those of one encoder, for events whose records carry their own time."""

    def __init__(
        self,
        join: Join,
        parts_of: Callable[[Event, RecordContext], tuple[Parts, Parts]],
        alone_of: Callable[[Event], bytes | None],
    ) -> None:
        """`parts_of` gives a log record and a span part by part, with the event's own values as Gaps.

        `alone_of` gives the attributes that only the log record of an exchange carries; None where limits
        or their number leave some out.
        """
        self._join = join
        self._parts_of = parts_of
        self._alone_of = alone_of
        self._known: dict[tuple[object, ...], Template] = {}

    def item(self, event: Event, context: RecordContext) -> EncodedEvent | None:
        """The event's records; None where they have to be written part by part."""
        properties = event.properties
        if not event.occurred_ns or not event.logged_ns:
            return None
        if event.is_plain:
            if type(properties) is AttemptProperties:
                return self._attempt(event, properties, context)
            if type(properties) is ErrorProperties:
                return self._error(event, properties, context)
        if type(properties) is ExchangeProperties and not event.extras:
            return self._exchange(event, properties, context)
        return None

    def _attempt(
        self, event: Event, properties: AttemptProperties, context: RecordContext
    ) -> EncodedEvent | None:
        message_id, exchange_id = properties.message_id, properties.destination_exchange_id
        occurred_at, logged_at = properties.occurred_at, properties.logged_at
        if not message_id or exchange_id is None or occurred_at is None or logged_at is None:
            return None
        parent: tuple[bytes, ...] = ()
        joined: object = None
        if message_id.startswith(propagation.CARRYING) or context.traceparent is not None:
            origin = origin_of(message_id, context.traceparent, self._join)
            trace_id, links = origin.trace_id, link_fields(exchange_id, origin)
            parent = (origin.parent_span_id,) if origin.parent_span_id else ()
            joined = origin.name, origin.span_flags, origin.log_flags, len(parent)
        else:
            trace_id, links = propagation.derived_trace_id(message_id), _link(exchange_id)
        message, exchange = message_id.encode(), exchange_id.encode()
        occurred, logged = occurred_at.encode(), logged_at.encode()
        lag = int64((event.logged_ns - event.occurred_ns) // 1_000_000)
        routing, attempt = event.routing, properties.attempt
        shape = (len(message), len(exchange), len(occurred), len(logged), len(lag))
        how = (attempt, properties.outcome, properties.feature_name, context.answer, event.reason)
        key = (routing, how, shape, joined)
        stencil = self._known.get(key)
        if stencil is None:
            between = propagation.attempt_between(routing.to_id, routing.from_id, attempt)
            in_log, in_span = _ATTEMPT_GAPS
            stencil = self._first(key, event, context, (in_log, in_span + len(parent)), between)
        if not stencil.log:
            return None
        identity = b'["segment.attempt","%b",%b,"%b"]' % (message, stencil.between, occurred)
        span_id = propagation.part(sha256(identity).digest(), 0, 8)
        uid = hexlify(sha256(_ATTEMPT + event.raw).digest()[:16])
        time, observed = fixed64(event.occurred_ns), fixed64(event.logged_ns)
        own = (message, exchange, occurred, logged, lag)
        return EncodedEvent(
            stencil.log % (time, message, *own, uid, trace_id, span_id, observed),
            stencil.span % (trace_id, span_id, *parent, time, time, *own, links),
        )

    def _error(
        self, event: Event, properties: ErrorProperties, context: RecordContext
    ) -> EncodedEvent | None:
        message_id = properties.message_id
        occurred_at, logged_at = properties.occurred_at, properties.logged_at
        if not message_id or occurred_at is None or logged_at is None:
            return None
        span_id: tuple[bytes, ...] = ()
        joined: object = None
        if message_id.startswith(propagation.CARRYING) or context.traceparent is not None:
            origin = origin_of(message_id, context.traceparent, self._join)
            trace_id = origin.trace_id
            span_id = (origin.log_span_id,) if origin.log_span_id else ()
            joined = origin.name, origin.log_flags, len(span_id)
        else:
            trace_id = propagation.derived_trace_id(message_id)
        message, occurred, logged = message_id.encode(), occurred_at.encode(), logged_at.encode()
        lag = int64((event.logged_ns - event.occurred_ns) // 1_000_000)
        shape = (len(message), len(occurred), len(logged), len(lag))
        how = (properties.attempt, properties.discarded, properties.feature_name, event.reason)
        key = (event.routing, how, shape, joined)
        stencil = self._known.get(key)
        if stencil is None:
            in_log, in_span = _ERROR_GAPS
            stencil = self._first(key, event, context, (in_log + len(span_id), in_span))
        if not stencil.log:
            return None
        uid = hexlify(sha256(_ERROR + event.raw).digest()[:16])
        time, observed = fixed64(event.occurred_ns), fixed64(event.logged_ns)
        values = (time, message, message, occurred, logged, lag, uid, trace_id, *span_id, observed)
        return EncodedEvent(stencil.log % values, b"")

    def _exchange(
        self, event: Event, properties: ExchangeProperties, context: RecordContext
    ) -> EncodedEvent | None:
        exchange_id, response = properties.destination_exchange_id, properties.response_from_destination
        occurred_at, logged_at = properties.occurred_at, properties.logged_at
        if not exchange_id or occurred_at is None or logged_at is None or response is None:
            return None
        request, status = properties.request_to_destination, response.status
        asked = (request.method, request.url) if request is not None else None
        own_length = len(exchange_id) + len(occurred_at) + len(logged_at)
        asked_length = len(request.url or "") + len(request.method or "") if request is not None else 0
        if status is None or own_length > _MAX_OWN or asked_length > _MAX_OWN:
            return None
        if not exchange_id.isascii() or not exchange_id.isprintable():
            return None
        alone = self._alone_of(event)
        if not alone:
            return None
        exchange, occurred, logged = exchange_id.encode(), occurred_at.encode(), logged_at.encode()
        lag = int64((event.logged_ns - event.occurred_ns) // 1_000_000)
        shape = (len(exchange), len(occurred), len(logged), len(lag))
        key = (event.routing, status, asked, properties.feature_name, event.reason, shape)
        stencil = self._known.get(key) or self._first(key, event, context, _EXCHANGE_GAPS)
        if not stencil.log:
            return None
        trace_id, span_id = exchange_ids(exchange_id)
        uid = record_uid("segment.exchange", event.raw).encode()
        time, observed = fixed64(event.occurred_ns), fixed64(event.logged_ns)
        own = (exchange, occurred, logged, lag)
        return EncodedEvent(
            stencil.log % (time, exchange, *own, uid, alone, trace_id, span_id, observed),
            stencil.span % (trace_id, span_id, time, time, *own),
        )

    def _first(
        self,
        key: tuple[object, ...],
        event: Event,
        context: RecordContext,
        gaps: tuple[int, int],
        between: bytes = b"",
    ) -> Template:
        """The stencil of which this event is the first."""
        log, span = self._parts_of(event, context)
        has_all = (_gaps_in(log), _gaps_in(span)) == gaps  # limits may have left some out
        stencil = Template(_text(log), _text(span), between) if has_all else Template()
        if len(stencil.log) + len(stencil.span) > 2 * MAX_TEMPLATE_BYTES:
            return Template()
        if len(self._known) >= MAX_TEMPLATES:
            self._known.clear()
        self._known[key] = stencil
        return stencil


def _gaps_in(parts: Parts) -> int:
    return sum(type(part) is Slot for part in parts)


def _text(parts: Parts) -> bytes:
    return b"".join([b"%b" if type(part) is Slot else part.replace(b"%", b"%%") for part in parts])
