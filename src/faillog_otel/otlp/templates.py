"""Templates: most events differ from others only in ids and times, so everything else is encoded once.

A template is made from the parts of the first event with its key, the same parts of which other records are
joined, so the layout is written once. An event without a template is encoded part by part.
"""

from binascii import hexlify
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from operator import attrgetter
from typing import NamedTuple

from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.config import Join
from faillog_otel.events.model import ATTEMPT, ERROR, EXCHANGE, Event, Kind, RecordContext
from faillog_otel.otlp import wire
from faillog_otel.otlp.mapping import (
    SAMPLED_LOCAL,
    UID,
    UID_PREFIXES,
    attempt_span_id,
    exchange_ids,
    link_to_exchange,
    link_to_message,
    record_uid,
)
from faillog_otel.otlp.rules import OWN, REMOTE, Origin, origin_of
from faillog_otel.otlp.wire import (
    FIXED64,
    Attributes,
    EncodedEvent,
    Heads,
    fixed64,
    flags_field,
    int64,
    int_attribute_heads,
    link_field,
    tag,
    text_attribute_heads,
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
    """Returns the bytes before each own value, by its length. The last is a number, the others are texts."""
    texts = [text_attribute_heads(field_number, key) for key in OWN[:-1]]
    return (*texts, int_attribute_heads(field_number, OWN[-1]))


_LOG_OWN = _own_heads(wire.LOG_ATTRIBUTES)
_SPAN_OWN = _own_heads(wire.SPAN_ATTRIBUTES)
_LOG_FLAGS = {flags: flags_field(wire.LOG_FLAGS, flags) for flags in (0, SAMPLED)}
_SPAN_FLAGS = {flags: flags_field(wire.SPAN_FLAGS, flags) for flags in (SAMPLED_LOCAL, REMOTE | SAMPLED)}

Parts = tuple[bytes, ...]


class EncodedDestination(Struct, frozen=True):
    """The fields that depend on the routing (`DestinationFields`), encoded."""

    log: bytes
    """The attributes as fields of a log record; `span`: the same attributes as fields of a span."""
    span: bytes
    name_and_kind: bytes
    """Of the span."""
    event_name: bytes
    attributes: Attributes
    size: int
    """The bytes of the attributes' names and values, which the limits count."""
    topic: bytes


class EncodedOutcome(Struct, frozen=True):
    """The fields that depend on the outcome (`OutcomeFields`), encoded; see `EncodedDestination`."""

    log: bytes
    span: bytes
    attributes: Attributes
    size: int
    severity: bytes
    status: bytes
    before_id: bytes
    after_id: bytes
    verb: str


class OwnValues(NamedTuple):
    """An event's own values, encoded. An absent one is empty, in `own` None."""

    time: bytes
    """Fixed64, as `observed`."""
    body_id: bytes
    """The id in the log record's body; `occurred` is the end of the body."""
    own: tuple[bytes | None, ...]
    """In the order of `OWN`."""
    uid: bytes
    trace_id: bytes
    span_id: bytes
    """Of the span, or of the span that the log record belongs to."""
    parent_span_id: bytes
    observed: bytes
    links: bytes
    occurred: bytes


def log_parts(
    values: OwnValues,
    destination: EncodedDestination,
    outcome: EncodedOutcome,
    attributes: Parts,
    origin: Origin | None,
) -> Parts:
    """Returns a LogRecord message."""
    body = (destination.topic, outcome.before_id, values.body_id, outcome.after_id, values.occurred)
    return (
        _LOG_TIME if values.time else b"",
        values.time,
        outcome.severity,
        _LOG_BODY[sum(map(len, body))],
        *body,
        *attributes,
        _LOG_FLAGS[origin.log_flags if origin else SAMPLED],
        _LOG_TRACE_ID if values.trace_id else b"",
        values.trace_id,
        _LOG_SPAN_ID if values.span_id else b"",
        values.span_id,
        _LOG_OBSERVED_TIME if values.observed else b"",
        values.observed,
        destination.event_name,
    )


def log_attributes(values: OwnValues, destination: EncodedDestination, outcome: EncodedOutcome) -> Parts:
    """Returns the attributes that every log record has."""
    return (destination.log, outcome.log, *_own_parts(_LOG_OWN, values.own), _LOG_UID, values.uid)


def span_parts(
    values: OwnValues, destination: EncodedDestination, outcome: EncodedOutcome, origin: Origin | None
) -> Parts:
    """Returns a Span message."""
    return (
        _SPAN_TRACE_ID,
        values.trace_id,
        _SPAN_SPAN_ID,
        values.span_id,
        _SPAN_PARENT_SPAN_ID if values.parent_span_id else b"",
        values.parent_span_id,
        destination.name_and_kind,
        _SPAN_START_TIME if values.time else b"",
        values.time,
        _SPAN_END_TIME if values.time else b"",
        values.time,
        destination.span,
        outcome.span,
        *_own_parts(_SPAN_OWN, values.own),
        values.links,
        outcome.status,
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
"""Longer templates are not kept, so that all of them take a few MiB at most."""
_MAX_OWN = 512
"""Characters. An exchange with longer ids, times, method or URL has no template: they may be truncated."""


def link_fields(exchange_id: str | None, origin: Origin | None) -> bytes:
    """Returns the links of a span: to the exchange, then to the application's context."""
    found = b""
    if exchange_id is not None:
        is_short = len(exchange_id) <= _MAX_OWN
        found = _link(exchange_id) if is_short else link_field(link_to_exchange(exchange_id))
    if origin is not None and origin.linked is not None:
        found += link_field(link_to_message(origin.linked))
    return found


@lru_cache(maxsize=1024)  # attempts of one exchange mostly follow one another
def _link(exchange_id: str) -> bytes:
    return link_field(link_to_exchange(exchange_id))


class Slot(bytes):
    """A value of one event, among parts that it shares with other events."""

    __slots__ = ()


def with_slots(values: OwnValues) -> OwnValues:
    """Returns the values as slots; an absent one stays absent."""
    own = tuple(None if value is None else Slot(value) for value in values.own)
    others = {name: Slot(value) for name, value in values._asdict().items() if value and name != "own"}
    return values._replace(own=own, **others)


class Template(Struct, frozen=True, gc=False):
    """A log record and a span with `%b` for each slot; both empty for a key without a template."""

    log: bytes = b""
    span: bytes = b""


TemplateKey = tuple[object, ...]
"""Everything that a record's bytes depend on, except its own values; of these, the lengths."""
SlotValues = tuple[bytes, ...]
"""The values for the slots of a template, in their order."""


class Templates:
    """The templates of one encoder, for events whose time the policy does not move."""

    def __init__(
        self,
        join: Join,
        parts_of: Callable[[Event, RecordContext], tuple[Parts, Parts]],
        log_only_of: Callable[[Event], bytes | None],
    ) -> None:
        """`parts_of` returns the parts of a log record and of a span, with the event's own values as slots.

        `log_only_of` returns the attributes that only an exchange's log record has; None if some of them do
        not fit.
        """
        self._join = join
        self._parts_of = parts_of
        self._log_only_of = log_only_of
        self._templates: dict[TemplateKey, Template] = {}
        self._encoders = {ATTEMPT: self._attempt, ERROR: self._error, EXCHANGE: self._exchange}

    def encode(self, event: Event, context: RecordContext) -> EncodedEvent | None:
        """Returns the event's records; None if they have to be encoded part by part."""
        encoder = self._encoders.get(event.kind)
        if encoder is None or not event.occurred_ns or not event.logged_ns:
            return None
        return encoder(event, context)

    def _attempt(self, event: Event, context: RecordContext) -> EncodedEvent | None:
        properties = event.properties
        message_id, exchange_id = properties.message_id, properties.destination_exchange_id
        occurred_at, logged_at = properties.occurred_at, properties.logged_at
        if not event.is_plain or not message_id:
            return None
        if exchange_id is None or occurred_at is None or logged_at is None:
            return None
        parent: SlotValues = ()
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
        lengths = (len(message), len(exchange), len(occurred), len(logged), len(lag))
        facts = (_attempt_facts(properties), context.answer, event.reason)
        uid = hexlify(sha256(_ATTEMPT_UID + event.raw).digest()[:16])
        span_id, time, observed = attempt_span_id(event), fixed64(event.occurred_ns), fixed64(event.logged_ns)
        own = (message, exchange, occurred, logged, lag)
        return self._fill(
            (event.routing, facts, lengths, joined),
            event,
            context,
            (time, message, *own, uid, trace_id, span_id, observed),
            (trace_id, span_id, *parent, time, time, *own, links),
        )

    def _error(self, event: Event, context: RecordContext) -> EncodedEvent | None:
        properties = event.properties
        message_id = properties.message_id
        occurred_at, logged_at = properties.occurred_at, properties.logged_at
        if not event.is_plain or not message_id or occurred_at is None or logged_at is None:
            return None
        span_id: SlotValues = ()
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
        lengths = (len(message), len(occurred), len(logged), len(lag))
        uid = hexlify(sha256(_ERROR_UID + event.raw).digest()[:16])
        time, observed = fixed64(event.occurred_ns), fixed64(event.logged_ns)
        return self._fill(
            (event.routing, (_error_facts(properties), event.reason), lengths, joined),
            event,
            context,
            (time, message, message, occurred, logged, lag, uid, trace_id, *span_id, observed),
        )

    def _exchange(self, event: Event, context: RecordContext) -> EncodedEvent | None:
        properties = event.properties
        exchange_id, response = properties.destination_exchange_id, properties.response_from_destination
        occurred_at, logged_at = properties.occurred_at, properties.logged_at
        if event.extras or not exchange_id or occurred_at is None or logged_at is None or response is None:
            return None
        request, status = properties.request_to_destination, response.status
        request_line = (request.method, request.url) if request is not None else None
        own_length = len(exchange_id) + len(occurred_at) + len(logged_at)
        request_length = len(request.url or "") + len(request.method or "") if request is not None else 0
        if status is None or own_length > _MAX_OWN or request_length > _MAX_OWN:
            return None
        if not exchange_id.isascii() or not exchange_id.isprintable():
            return None
        if event.reason is not None and len(event.reason.text) > _MAX_OWN:
            return None  # templates are kept, and another event with the same long reason is rare
        log_only = self._log_only_of(event)
        if not log_only:
            return None
        exchange, occurred, logged = exchange_id.encode(), occurred_at.encode(), logged_at.encode()
        lag = int64((event.logged_ns - event.occurred_ns) // 1_000_000)
        lengths = (len(exchange), len(occurred), len(logged), len(lag))
        trace_id, span_id = exchange_ids(exchange_id)
        uid = record_uid(EXCHANGE, event.raw).encode()
        time, observed = fixed64(event.occurred_ns), fixed64(event.logged_ns)
        own = (exchange, occurred, logged, lag)
        return self._fill(
            (event.routing, status, request_line, _exchange_facts(properties), event.reason, lengths),
            event,
            context,
            (time, exchange, *own, uid, log_only, trace_id, span_id, observed),
            (trace_id, span_id, time, time, *own),
        )

    def _fill(
        self, key: TemplateKey, event: Event, context: RecordContext, log: SlotValues, span: SlotValues = ()
    ) -> EncodedEvent | None:
        """Returns the records from the key's template, which the first event with this key makes."""
        template = self._templates.get(key)
        if template is None:
            template = self._make(event, context, log, span)
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
            self._templates[key] = template
        return EncodedEvent(template.log % log, template.span % span) if template.log else None

    def _make(self, event: Event, context: RecordContext, log: SlotValues, span: SlotValues) -> Template:
        log_parts, span_parts = self._parts_of(event, context)
        (log_text, log_slots), (span_text, span_slots) = _format(log_parts), _format(span_parts)
        has_all = (log_slots, span_slots) == (len(log), len(span))  # else the limits left some values out
        is_short = len(log_text) + len(span_text) <= 2 * MAX_TEMPLATE_BYTES
        return Template(log_text, span_text) if has_all and is_short else Template()


_ATTEMPT_UID, _ERROR_UID = UID_PREFIXES[ATTEMPT], UID_PREFIXES[ERROR]


def _facts(kind: Kind) -> "attrgetter[object]":
    """Returns a getter of the properties, besides ids and times, that records of this kind depend on."""
    return attrgetter("feature_name", *kind.varies)


_attempt_facts, _error_facts, _exchange_facts = _facts(ATTEMPT), _facts(ERROR), _facts(EXCHANGE)


def _format(parts: Parts) -> tuple[bytes, int]:
    """Returns a template's format, and the number of its slots."""
    pieces = [b"%b" if type(part) is Slot else part.replace(b"%", b"%%") for part in parts]
    return b"".join(pieces), pieces.count(b"%b")
