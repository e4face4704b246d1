"""Encodes events: writes the bytes of the records that `mapping` describes.

A record is the concatenation of its fields, and most of them repeat. The fields that depend on the routing
and those that depend on the outcome are encoded once and cached; events that differ only in their own values
share a template. The bytes equal those that the official protobuf classes write for `map_event`'s records.
"""

import math
from functools import lru_cache
from typing import Protocol

from faillog_otel.config import MappingConfig
from faillog_otel.events.model import Event, RecordContext, Routing, exchange_of
from faillog_otel.otlp import templates, wire
from faillog_otel.otlp.attributes import apply_limits, size_of
from faillog_otel.otlp.mapping import (
    RULES,
    UID,
    log_attributes,
    message_origin,
    record_uid,
    shifted,
    span_name,
)
from faillog_otel.otlp.rules import (
    OWN,
    DeliveryFacts,
    KindRules,
    Own,
    delivery_facts,
    destination_fields,
    occurred_suffix,
    outcome_fields,
    own_values,
    present,
)
from faillog_otel.otlp.templates import (
    EncodedDestination,
    EncodedOutcome,
    OwnValues,
    Parts,
    Slot,
    Templates,
    link_fields,
    with_slots,
)
from faillog_otel.otlp.wire import (
    VARINT,
    EncodedEvent,
    SpanKind,
    StatusCode,
    attribute_fields,
    fixed64,
    int64,
    message_field,
    tag,
    text_field,
    varint,
)
from faillog_otel.text import printable

MAX_CACHED = 1024
"""Entries in each cache."""
MAX_CACHED_CHARACTERS = 512
"""Longer values are encoded each time, so that both caches together hold a few MiB at most."""


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
        self._cached_destination = lru_cache(MAX_CACHED)(self._destination)
        self._cached_outcome = lru_cache(MAX_CACHED)(self._outcome)
        self._templates = Templates(config.join, self._parts_with_slots, self._log_only)

    def encode(self, event: Event, context: RecordContext) -> EncodedEvent:
        """Returns the event's records in this context."""
        time_ns = event.occurred_ns
        if self._shifts:
            time_ns = shifted(time_ns, context.reference_ns, self._config.time_policy)
        if time_ns == event.occurred_ns and (encoded := self._templates.encode(event, context)):
            return encoded
        log, span = self._parts(event, context, time_ns)
        return EncodedEvent(b"".join(log), b"".join(span), time_ns != event.occurred_ns)

    def _parts_with_slots(self, event: Event, context: RecordContext) -> tuple[Parts, Parts]:
        return self._parts(event, context, event.occurred_ns, has_slots=True)

    def _parts(
        self, event: Event, context: RecordContext, time_ns: int, *, has_slots: bool = False
    ) -> tuple[Parts, Parts]:
        """Returns the fields of a log record and of a span."""
        rules = RULES[event.kind]
        origin = message_origin(event, context, self._config)
        is_shifted = time_ns != event.occurred_ns
        facts = delivery_facts(
            event, rules, context.answer, origin.name if origin else None, is_shifted=is_shifted
        )
        outcome = self._outcome_of(facts, event)
        destination = self._destination_of(rules, outcome.verb, event.routing)
        trace_id, span_id = rules.ids(event, origin)
        own = own_values(event)
        body_id = rules.body_id(own)
        values = OwnValues(
            time=fixed64(time_ns) if time_ns else b"",
            body_id=printable(body_id).encode() if body_id else b"",
            own=_encoded(own),
            uid=record_uid(rules.kind, event.raw).encode(),
            trace_id=trace_id,
            span_id=span_id or (origin.log_span_id if origin else b""),
            parent_span_id=origin.parent_span_id if origin else b"",
            observed=fixed64(event.logged_ns) if event.logged_ns else b"",
            links=link_fields(exchange_of(event.properties), origin) if span_id else b"",
            occurred=occurred_suffix(event).encode() if is_shifted else b"",
        )
        if has_slots:
            values = with_slots(values)
        attributes = self._log_attributes(event, destination, outcome, own, values)
        span = templates.span_parts(values, destination, outcome, origin) if span_id else ()
        return templates.log_parts(values, destination, outcome, attributes, origin), span

    def _log_only(self, event: Event) -> bytes | None:
        """Returns the attributes that only the log record has; None if they may not fit."""
        found, dropped = log_attributes(event, self._config)
        if dropped or (found and self._is_limited):
            return None
        return attribute_fields(wire.LOG_ATTRIBUTES, found)

    def _log_attributes(
        self,
        event: Event,
        destination: EncodedDestination,
        outcome: EncodedOutcome,
        own: Own,
        values: OwnValues,
    ) -> Parts:
        """Returns a log record's attributes and, if the limits leave some out, their number."""
        log_only, dropped = log_attributes(event, self._config)
        limits = self._config.limits
        fields = templates.log_attributes(values, destination, outcome)
        if self._is_limited and (log_only or not self._has_room(destination, outcome, fields)):
            common = [*destination.attributes, *outcome.attributes, *present(*zip(OWN, own, strict=True))]
            kept, more = apply_limits([*common, (UID, values.uid.decode()), *log_only], limits)
            fields = (attribute_fields(wire.LOG_ATTRIBUTES, kept),)
            dropped += more
        elif log_only:
            fields += (Slot(attribute_fields(wire.LOG_ATTRIBUTES, log_only)),)
        if dropped:
            fields += (tag(wire.LOG_DROPPED_ATTRIBUTES, VARINT) + varint(dropped),)
        return fields

    def _has_room(self, destination: EncodedDestination, outcome: EncodedOutcome, fields: Parts) -> bool:
        """Returns True only if the attributes that every log record has are certainly within the limits."""
        limits = self._config.limits
        _, _, *own = fields  # encoded fields are longer than their names and values
        size = destination.size + outcome.size + sum(map(len, own))
        count = len(destination.attributes) + len(outcome.attributes) + len(OWN) + 1
        return size <= limits.attribute_bytes and count <= limits.attributes

    def _outcome_of(self, facts: DeliveryFacts, event: Event) -> EncodedOutcome:
        reason = facts.reason
        if (reason is None or len(reason.text) <= MAX_CACHED_CHARACTERS) and (
            len(event.raw) <= 2 * MAX_CACHED_CHARACTERS or facts.length() <= MAX_CACHED_CHARACTERS
        ):
            return self._cached_outcome(facts)
        return self._outcome(facts)

    def _destination_of(self, rules: KindRules, verb: str, routing: Routing) -> EncodedDestination:
        to, source, subscription = routing.destination_id, routing.from_id, routing.subscription_id
        ids = routing.destination_ids
        encode = self._destination
        if (
            len(ids) <= 1
            and len(to or "") + len(source or "") + len(subscription or "") <= MAX_CACHED_CHARACTERS
        ):
            encode = self._cached_destination
        shown = Routing(from_id=source, destination_id=to, destination_ids=ids, subscription_id=subscription)
        return encode(rules, verb, shown)

    def _destination(self, rules: KindRules, verb: str, routing: Routing) -> EncodedDestination:
        part = destination_fields(rules, routing, self._config.destination_names)
        span = rules.kind.span
        return EncodedDestination(
            log=attribute_fields(wire.LOG_ATTRIBUTES, part.attributes),
            span=attribute_fields(wire.SPAN_ATTRIBUTES, part.attributes),
            attributes=part.attributes,
            size=sum(map(size_of, part.attributes)),
            name_and_kind=text_field(wire.SPAN_NAME, span_name(verb, part.name))
            + (tag(wire.SPAN_KIND, VARINT) + varint(SpanKind[span]) if span else b""),
            event_name=text_field(wire.LOG_EVENT_NAME, rules.kind.event_name),
            topic=part.topic.encode(),
        )

    def _outcome(self, facts: DeliveryFacts) -> EncodedOutcome:
        part = outcome_fields(facts, RULES[facts.kind], self._config)
        code = StatusCode.ERROR if part.failed else StatusCode.UNSET
        status = text_field(wire.STATUS_MESSAGE, part.status_message)
        if code:
            status += tag(wire.STATUS_CODE, VARINT) + varint(code)
        return EncodedOutcome(
            log=attribute_fields(wire.LOG_ATTRIBUTES, part.attributes),
            span=attribute_fields(wire.SPAN_ATTRIBUTES, part.attributes),
            attributes=part.attributes,
            size=sum(map(size_of, part.attributes)),
            severity=tag(wire.LOG_SEVERITY_NUMBER, VARINT)
            + varint(part.severity)
            + text_field(wire.LOG_SEVERITY_TEXT, part.severity.name),
            status=message_field(wire.SPAN_STATUS, status),
            before_id=part.before_id.encode(),
            after_id=part.after_id.encode(),
            verb=part.verb,
        )


def _encoded(own: Own) -> tuple[bytes | None, ...]:
    *texts, lag_ms = own
    encoded = [None if text is None else text.encode() for text in texts]
    return (*encoded, None if lag_ms is None else int64(lag_ms))
