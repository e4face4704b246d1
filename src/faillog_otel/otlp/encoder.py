"""Encodes events: writes the bytes of the records that `mapping` describes.

A record is the concatenation of its fields. Those that other events share are taken from `SharedParts`; an
event's own values are encoded each time. The bytes are exactly those that the official classes write of
`map_event`'s records.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

from faillog_otel.config import MappingConfig
from faillog_otel.events.model import Event, RecordContext, exchange_of
from faillog_otel.otlp import wire
from faillog_otel.otlp.attributes import size_of
from faillog_otel.otlp.mapping import (
    RULES_OF,
    SAMPLED_LOCAL,
    UID,
    link_to_exchange,
    link_to_message,
    log_attributes,
    map_event,
    record_uid,
    shifted,
)
from faillog_otel.otlp.origin import REMOTE, Origin, origin_of
from faillog_otel.otlp.parts import (
    MAX_REMEMBERED,
    NO_ATTRIBUTES,
    NO_GROUP,
    NO_REASON,
    SHIFTED,
    EncodedAttributes,
    SharedParts,
)
from faillog_otel.otlp.rules import (
    OWN,
    Own,
    occurred_suffix,
    own_values,
    status_and_reason,
    varying_of,
)
from faillog_otel.otlp.wire import (
    FIXED64,
    VARINT,
    Attributes,
    EncodedEvent,
    Heads,
    attribute_fields,
    fixed64,
    flags_field,
    int64,
    int_heads,
    link_field,
    tag,
    text_heads,
    varint,
)
from faillog_otel.propagation import SAMPLED
from faillog_otel.text import printable

_LOG_TIME = tag(wire.LOG_TIME, FIXED64)
_LOG_OBSERVED_TIME = tag(wire.LOG_OBSERVED_TIME, FIXED64)
_SPAN_START_TIME = tag(wire.SPAN_START_TIME, FIXED64)
_SPAN_END_TIME = tag(wire.SPAN_END_TIME, FIXED64)
_LOG_BODY = Heads(tag(wire.LOG_BODY), tag(wire.ANY_STRING))
_LOG_UID = tag(wire.LOG_ATTRIBUTES) + text_heads(UID)[32]
_LOG_DROPPED_ATTRIBUTES = tag(wire.LOG_DROPPED_ATTRIBUTES, VARINT)
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
        config, parts, properties = self._config, self._parts, event.properties
        rules = RULES_OF[type(properties)]
        time_ns = event.occurred_ns
        if self._shifts:
            time_ns = shifted(time_ns, context.reference_ns, config.time_policy)
        is_shifted = time_ns != event.occurred_ns
        message_id, request = properties.message_id, properties.request_to_destination
        origin = None if message_id is None else origin_of(message_id, context.traceparent, config.join)
        status, reason = status_and_reason(event, rules, context, config.bodies)
        is_short = len(event.raw) <= 2 * MAX_REMEMBERED
        varying = varying_of(event, rules, context, status, reason, origin=origin)
        outcome = parts.outcome(rules, varying, is_short=is_short)
        name = context.destination_name
        destination = parts.destination(rules, outcome.verb, event.routing, name, is_short=is_short)
        of_reason = NO_REASON if reason is None else parts.reason(reason)
        group = NO_GROUP
        if outcome.failed:
            to = event.routing
            group = parts.group(
                to.destination_id, to.subscription_id, outcome.code, status, of_reason.group_text
            )
        url = NO_ATTRIBUTES if request is None or not request.url else parts.url(request.url)
        shift = SHIFTED if is_shifted else NO_ATTRIBUTES
        count = context.message_count
        batch = NO_ATTRIBUTES if count is None else parts.batch(count)
        own = own_values(event)
        key_values = _key_values(own)
        trace_id, span_id = rules.ids(event, origin, destination.route)
        time = fixed64(time_ns) if time_ns else b""
        # Long tuples without `*`, which takes 0.2 us each time.
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
                    destination.attributes.span,
                    outcome.before_url.span,
                    url.span,
                    outcome.after_url.span,
                    of_reason.attributes.span,
                    group.attributes.span,
                    shift.span,
                    batch.span,
                    _SPAN_ATTRIBUTE.join(key_values),
                    _link_fields(exchange_of(properties), origin),
                    (of_reason.status or outcome.status) if outcome.failed else outcome.status,
                    _LOCAL_SPAN_FLAGS if origin is None else _SPAN_FLAGS[origin.span_flags],
                )
            )
        elif origin is not None:
            span_id = origin.log_span_id
        body = b"".join(
            (
                destination.topic,
                outcome.sentence,
                of_reason.short,
                outcome.before_id,
                printable(own[rules.body_id] or "").encode(),
                outcome.after_id,
                occurred_suffix(event).encode() if is_shifted else b"",
            )
        )
        log_only, dropped = log_attributes(event, config)
        if self._is_limited and not self._has_room(
            (
                destination.attributes,
                outcome.before_url,
                url,
                outcome.after_url,
                of_reason.attributes,
                group.attributes,
                shift,
                batch,
            ),
            key_values,
            log_only,
        ):
            limited = map_event(event, context, config).log
            attributes, dropped = _log_fields(limited.attributes), limited.dropped_attributes
        else:
            attributes = b"".join(
                (
                    destination.attributes.log,
                    outcome.before_url.log,
                    url.log,
                    outcome.after_url.log,
                    of_reason.attributes.log,
                    group.attributes.log,
                    shift.log,
                    batch.log,
                    _LOG_ATTRIBUTE.join(key_values),
                    _LOG_UID,
                    record_uid(rules.kind, event.raw).encode(),
                    _log_fields(log_only) if log_only else b"",
                )
            )
        log = b"".join(
            (
                _LOG_TIME if time else b"",
                time,
                outcome.severity,
                _LOG_BODY[len(body)],
                body,
                attributes,
                _LOG_DROPPED_ATTRIBUTES + varint(dropped) if dropped else b"",
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
        return EncodedEvent(log, span, is_shifted, group.number)

    def _has_room(
        self, shared: Iterable[EncodedAttributes], key_values: list[bytes], log_only: Attributes
    ) -> bool:
        """Returns True if a log record's attributes are within the limits for certain."""
        limits = self._config.limits
        size = sum(each.size for each in shared) + sum(map(len, key_values)) + sum(map(size_of, log_only))
        count = sum(each.count for each in shared) + len(OWN) + 1 + len(log_only)
        return size + _MAX_OTHER_SIZE <= limits.attribute_bytes and count <= limits.attributes


_MAX_OTHER_SIZE = len(UID) + 32 + 20
"""What limits count besides: the record's uid, and the longest number in the own values."""


def _log_fields(attributes: Attributes) -> bytes:
    return attribute_fields(wire.LOG_ATTRIBUTES, attributes)


# -- own values --------------------------------------------------------------------------------------------

_LOG_ATTRIBUTE, _SPAN_ATTRIBUTE = tag(wire.LOG_ATTRIBUTES), tag(wire.SPAN_ATTRIBUTES)
_OF_MESSAGE, _OF_EXCHANGE, _OF_OCCURRED, _OF_LOGGED = (text_heads(key) for key in OWN[:-1])
_OF_LAG = int_heads(OWN[-1])


def _key_values(own: Own) -> list[bytes]:
    """Returns the own values as KeyValue messages with their lengths, after an empty one.

    Joined with the tag of a field, they are its values: logs and spans have different tags.
    """
    message_id, exchange_id, occurred_at, logged_at, lag_ms = own
    found = [b""]
    if message_id is not None:  # without a loop, which takes 0.6 us
        value = message_id.encode()
        found.append(_OF_MESSAGE[len(value)] + value)
    if exchange_id is not None:
        value = exchange_id.encode()
        found.append(_OF_EXCHANGE[len(value)] + value)
    if occurred_at is not None:
        value = occurred_at.encode()
        found.append(_OF_OCCURRED[len(value)] + value)
    if logged_at is not None:
        value = logged_at.encode()
        found.append(_OF_LOGGED[len(value)] + value)
    if lag_ms is not None:
        value = int64(lag_ms)
        found.append(_OF_LAG[len(value)] + value)
    return found


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
