"""Encodes events: writes the bytes of the records that `mapping` describes.

A record is the concatenation of its fields. Those that other events share are taken from `SharedParts`; an
event's own values are encoded each time. The bytes are exactly those that the official classes write of
`map_event`'s records.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from faillog_otel.config import MappingConfig
from faillog_otel.events.model import Event, RecordContext, exchange_of
from faillog_otel.otlp import wire
from faillog_otel.otlp.attributes import apply_limits
from faillog_otel.otlp.mapping import (
    RULES_OF,
    SAMPLED_LOCAL,
    UID,
    link_to_exchange,
    link_to_message,
    log_attributes,
    record_uid,
    shifted,
)
from faillog_otel.otlp.parts import MAX_REMEMBERED, NO_REASON, SHIFTED, EncodedAttributes, SharedParts
from faillog_otel.otlp.rules import (
    OWN,
    REMOTE,
    Origin,
    Own,
    occurred_suffix,
    origin_of,
    own_values,
    present,
    status_and_reason,
    varying_of,
)
from faillog_otel.otlp.wire import (
    FIXED64,
    VARINT,
    EncodedEvent,
    Heads,
    attribute_fields,
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
from faillog_otel.text import printable

_OwnParts = tuple[bytes | None, ...]

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
_LOG_FLAGS = {flags: flags_field(wire.LOG_FLAGS, flags) for flags in (0, SAMPLED)}
_SAMPLED_LOG_FLAGS = _LOG_FLAGS[SAMPLED]
_SPAN_FLAGS = {flags: flags_field(wire.SPAN_FLAGS, flags) for flags in (SAMPLED_LOCAL, REMOTE | SAMPLED)}
_LOCAL_SPAN_FLAGS = _SPAN_FLAGS[SAMPLED_LOCAL]


class Encoder(Protocol):
    """Encodes events: the interface between mapping and delivery. An event always gives the same bytes."""

    def encode(self, event: Event, context: RecordContext) -> EncodedEvent:
        """Returns the event's records in this context."""


class WireEncoder:
    """The `Encoder` of this program."""

    def __init__(self, config: MappingConfig) -> None:
        self._config = config
        self._is_limited = config.limits.attributes != math.inf or config.limits.attribute_bytes != math.inf
        self._shifts = config.time_policy.kind != "occurred"
        self._parts = SharedParts(config)

    def encode(self, event: Event, context: RecordContext) -> EncodedEvent:
        """Returns the event's records in this context."""
        config, properties = self._config, event.properties
        rules = RULES_OF[type(properties)]
        time_ns = event.occurred_ns
        if self._shifts:
            time_ns = shifted(time_ns, context.reference_ns, config.time_policy)
        is_shifted = time_ns != event.occurred_ns
        message_id = properties.message_id
        origin = None if message_id is None else origin_of(message_id, context.traceparent, config.join)
        status, reason = status_and_reason(event, rules, context, config.bodies)
        is_short = len(event.raw) <= 2 * MAX_REMEMBERED
        varying = varying_of(event, rules, status, reason, origin)
        outcome = self._parts.outcome(rules, varying, is_short=is_short)
        encoded_reason = NO_REASON if reason is None else self._parts.reason(reason)
        destination = self._parts.destination(rules, outcome.verb, event.routing, is_short=is_short)
        request = properties.request_to_destination
        if request is None or not request.url:
            shared = [destination.attributes, outcome.attributes]
        else:
            shared = [
                destination.attributes,
                outcome.before_url,
                self._parts.url(request.url),
                outcome.after_url,
            ]
        if reason is not None:
            shared.append(encoded_reason.attributes)
        if is_shifted:
            shared.append(SHIFTED)
        if context.message_count is not None:
            shared.append(self._parts.batch(context.message_count))
        own = own_values(event)
        encoded = _encoded(own)
        trace_id, span_id = rules.ids(event, origin, destination.route)
        time = fixed64(time_ns) if time_ns else b""
        span = b""
        if span_id:
            parent = b"" if origin is None else origin.parent_span_id
            span = b"".join(
                (
                    _SPAN_TRACE_ID,
                    trace_id,
                    _SPAN_SPAN_ID,
                    span_id,
                    _SPAN_PARENT_SPAN_ID if parent else b"",
                    parent,
                    destination.name_and_kind,
                    _SPAN_START_TIME if time else b"",
                    time,
                    _SPAN_END_TIME if time else b"",
                    time,
                    *[each.span for each in shared],
                    *_own_fields(_SPAN_OWN, encoded),
                    _link_fields(exchange_of(properties), origin),
                    (encoded_reason.status or outcome.status) if outcome.failed else outcome.status,
                    _LOCAL_SPAN_FLAGS if origin is None else _SPAN_FLAGS[origin.span_flags],
                )
            )
        elif origin is not None:
            span_id = origin.log_span_id
        about, about_bytes = own[rules.body_id], encoded[rules.body_id] or b""
        if about and not about.isprintable():
            about_bytes = printable(about).encode()
        when = occurred_suffix(event).encode() if is_shifted else b""
        body = b"".join(
            (
                destination.topic,
                outcome.sentence,
                encoded_reason.short,
                outcome.before_id,
                about_bytes,
                outcome.after_id,
                when,
            )
        )
        log = b"".join(
            (
                _LOG_TIME if time else b"",
                time,
                outcome.severity,
                _LOG_BODY[len(body)],
                body,
                *self._log_attributes(event, shared, own, encoded),
                _SAMPLED_LOG_FLAGS if origin is None else _LOG_FLAGS[origin.log_flags],
                _LOG_TRACE_ID if trace_id else b"",
                trace_id,
                _LOG_SPAN_ID if span_id else b"",
                span_id,
                _LOG_OBSERVED_TIME if event.logged_ns else b"",
                fixed64(event.logged_ns) if event.logged_ns else b"",
                destination.event_name,
            )
        )
        return EncodedEvent(log, span, is_shifted)

    def _log_attributes(
        self, event: Event, shared: list[EncodedAttributes], own: Own, own_parts: _OwnParts
    ) -> list[bytes]:
        """Returns a log record's attributes, and the number of those that do not fit."""
        uid = record_uid(event.kind, event.raw)
        log_only, dropped = log_attributes(event, self._config)
        if self._is_limited and (log_only or not self._has_room(shared, own_parts)):
            common = [pair for each in shared for pair in each.plain] + present(*zip(OWN, own, strict=True))
            kept, more = apply_limits([*common, (UID, uid), *log_only], self._config.limits)
            fields = [attribute_fields(wire.LOG_ATTRIBUTES, kept)]
            dropped += more
        else:
            fields = [each.log for each in shared]
            fields += _own_fields(_LOG_OWN, own_parts)
            fields += (_LOG_UID, uid.encode())
            if log_only:
                fields.append(attribute_fields(wire.LOG_ATTRIBUTES, log_only))
        if dropped:
            fields.append(tag(wire.LOG_DROPPED_ATTRIBUTES, VARINT) + varint(dropped))
        return fields

    def _has_room(self, shared: list[EncodedAttributes], own_parts: _OwnParts) -> bool:
        """Returns True if the attributes that every log record has are within the limits for certain."""
        limits = self._config.limits
        size = (
            sum(each.size for each in shared)
            + sum(len(part) for part in own_parts if part is not None)
            + _OWN_NAMES_SIZE
        )
        count = sum(len(each.plain) for each in shared) + len(OWN) + 1
        return size <= limits.attribute_bytes and count <= limits.attributes


# -- own values --------------------------------------------------------------------------------------------


def _own_heads(field_number: int) -> tuple[Heads, ...]:
    """Returns the bytes before each own value, by its length. The last is a number, the others are texts."""
    texts = [text_attribute_heads(field_number, key) for key in OWN[:-1]]
    return (*texts, int_attribute_heads(field_number, OWN[-1]))


_OWN_NAMES_SIZE = sum(map(len, OWN)) + len(UID) + 32 + 20
"""What limits count of own values besides the texts: names, the record's uid, and the longest number."""
_LOG_OWN = _own_heads(wire.LOG_ATTRIBUTES)
_SPAN_OWN = _own_heads(wire.SPAN_ATTRIBUTES)


def _encoded(own: Own) -> _OwnParts:
    message_id, exchange_id, occurred_at, logged_at, lag_ms = own
    return (
        None if message_id is None else message_id.encode(),
        None if exchange_id is None else exchange_id.encode(),
        None if occurred_at is None else occurred_at.encode(),
        None if logged_at is None else logged_at.encode(),
        None if lag_ms is None else int64(lag_ms),
    )


def _own_fields(heads: tuple[Heads, ...], own: _OwnParts) -> Sequence[bytes]:
    """Returns the fields of own values. Most events have all five of them."""
    a, b, c, d, e = own
    if a is None or b is None or c is None or d is None or e is None:
        pairs = [(head, value) for head, value in zip(heads, own, strict=True) if value is not None]
        return [part for head, value in pairs for part in (head[len(value)], value)]
    of_a, of_b, of_c, of_d, of_e = heads
    return (of_a[len(a)], a, of_b[len(b)], b, of_c[len(c)], c, of_d[len(d)], d, of_e[len(e)], e)


_MAX_LINKED = 512


def _link_fields(exchange_id: str | None, origin: Origin | None) -> bytes:
    """Returns the links of a span: to the exchange, then to the application's context."""
    found = b""
    if exchange_id is not None:
        is_short = len(exchange_id) <= _MAX_LINKED
        found = _link(exchange_id) if is_short else link_field(link_to_exchange(exchange_id))
    if origin is not None and origin.linked is not None:
        found += link_field(link_to_message(origin.linked))
    return found


@lru_cache(maxsize=1024)  # the attempts of one exchange are mostly neighbours
def _link(exchange_id: str) -> bytes:
    return link_field(link_to_exchange(exchange_id))
