"""Events → the bytes of their records: what `mapping` says, written straight to the wire.

A record is the concatenation of its fields, and most of them repeat. Where an event went and how it went
are encoded once and remembered, in two small caches; plain events have all but their own values in common
and are written with stencils. The bytes are those that the official classes write of `map_event`'s records,
to the last one.
"""

import math
from functools import lru_cache

from faillog_otel.config import MappingConfig
from faillog_otel.events.model import AttemptProperties, Event, RecordContext, Routing
from faillog_otel.otlp import templates, wire
from faillog_otel.otlp.attributes import apply_limits, size_of
from faillog_otel.otlp.envelope import EncodedEvent
from faillog_otel.otlp.mapping import (
    SPAN_KINDS,
    UID,
    ids,
    log_attributes,
    message_origin,
    record_uid,
    shifted,
    span_name,
)
from faillog_otel.otlp.rules import (
    EVENT_NAMES,
    OWN,
    DeliveryFacts,
    Origin,
    Own,
    case_of,
    destined,
    judged,
    own_values,
    present,
    true_time,
)
from faillog_otel.otlp.templates import How, Parts, Slot, Templates, Values, Where, link_fields, with_gaps
from faillog_otel.otlp.wire import (
    VARINT,
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

REMEMBERED = 1024
"""Entries in each cache."""
MAX_REMEMBERED = 512
"""Characters; what is longer is encoded each time, so that the caches stay within some MiB."""


class WireEncoder:
    """Turns one event into the bytes of its records; the same ones every time."""

    def __init__(self, config: MappingConfig) -> None:
        self._config = config
        self._is_limited = config.limits.attributes != math.inf or config.limits.attribute_bytes != math.inf
        self._shifts = config.time_policy.kind != "occurred"
        self._remembered_where = lru_cache(REMEMBERED)(self._where)
        self._remembered_how = lru_cache(REMEMBERED)(self._how)
        self._stencils = Templates(config.join, self._parts_with_gaps, self._alone)

    def encode(self, event: Event, context: RecordContext) -> EncodedEvent:
        """The event's records in this context."""
        time_ns = event.occurred_ns
        if self._shifts:
            time_ns = shifted(time_ns, context.reference_ns, self._config.time_policy)
        if time_ns == event.occurred_ns and (item := self._stencils.item(event, context)):
            return item
        log, span = self._parts(event, context, time_ns)
        return EncodedEvent(b"".join(log), b"".join(span), time_ns != event.occurred_ns)

    def _parts_with_gaps(self, event: Event, context: RecordContext) -> tuple[Parts, Parts]:
        return self._parts(event, context, event.occurred_ns, has_gaps=True)

    def _parts(
        self, event: Event, context: RecordContext, time_ns: int, *, has_gaps: bool = False
    ) -> tuple[Parts, Parts]:
        """The fields of a log record and of a span."""
        name = EVENT_NAMES[type(event.properties)]
        origin = message_origin(event, context, self._config)
        is_shifted = time_ns != event.occurred_ns
        case = case_of(event, context.answer, origin.name if origin else None, is_shifted=is_shifted)
        how = self._how_of(case, event)
        where = self._where_of(name, how.verb, event.routing)
        trace_id, span_id = ids(event, origin)
        own = own_values(event)
        about = own[1] if name == "segment.exchange" else own[0]
        values = Values(
            time=fixed64(time_ns) if time_ns else b"",
            about=printable(about).encode() if about else b"",
            own=_encoded(own),
            uid=record_uid(name, event.raw).encode(),
            trace_id=trace_id,
            span_id=span_id or (origin.log_span_id if origin else b""),
            parent_span_id=origin.parent_span_id if origin else b"",
            observed=fixed64(event.logged_ns) if event.logged_ns else b"",
            links=_links(event, origin),
            when=true_time(event).encode() if is_shifted else b"",
        )
        if has_gaps:
            values = with_gaps(values)
        attributes = self._log_attributes(event, where, how, own, values)
        span = templates.span_parts(values, where, how, origin) if span_id else ()
        return templates.log_parts(values, where, how, attributes, origin), span

    def _alone(self, event: Event) -> bytes | None:
        """The attributes that only the event's log record carries, where all of them surely fit."""
        alone, dropped = log_attributes(event, self._config)
        if dropped or (alone and self._is_limited):
            return None
        return attribute_fields(wire.LOG_ATTRIBUTES, alone)

    def _log_attributes(self, event: Event, where: Where, how: How, own: Own, values: Values) -> Parts:
        """A log record's attributes, and how many were left out."""
        alone, dropped = log_attributes(event, self._config)
        limits = self._config.limits
        fields = templates.log_attributes(values, where, how)
        if self._is_limited and (alone or not self._has_room(where, how, fields)):
            common = [*where.attributes, *how.attributes, *present(*zip(OWN, own, strict=True))]
            kept, more = apply_limits([*common, (UID, values.uid.decode()), *alone], limits)
            fields = (attribute_fields(wire.LOG_ATTRIBUTES, kept),)
            dropped += more
        elif alone:
            fields += (Slot(attribute_fields(wire.LOG_ATTRIBUTES, alone)),)
        if dropped:
            fields += (tag(wire.LOG_DROPPED_ATTRIBUTES, VARINT) + varint(dropped),)
        return fields

    def _has_room(self, where: Where, how: How, fields: Parts) -> bool:
        """Whether the log record of an event without more of its own is surely within the limits."""
        limits = self._config.limits
        _, _, *own = fields  # they take more bytes on the wire than their names and values have
        size = where.size + how.size + sum(map(len, own))
        count = len(where.attributes) + len(how.attributes) + len(OWN) + 1
        return size <= limits.attribute_bytes and count <= limits.attributes

    # -- parts -----------------------------------------------------------------------------------------

    def _how_of(self, case: DeliveryFacts, event: Event) -> How:
        reason = case.reason
        if (reason is None or len(reason.text) <= MAX_REMEMBERED) and (
            len(event.raw) <= 2 * MAX_REMEMBERED or case.length() <= MAX_REMEMBERED
        ):
            return self._remembered_how(case)
        return self._how(case)

    def _where_of(self, name: str, verb: str, routing: Routing) -> Where:
        to, source, subscription = routing.destination_id, routing.from_id, routing.subscription_id
        ids = routing.destination_ids
        where = self._where
        if len(ids) <= 1 and len(to or "") + len(source or "") + len(subscription or "") <= MAX_REMEMBERED:
            where = self._remembered_where
        return where(name, verb, Routing(None, source, to, ids, subscription))

    def _where(self, name: str, verb: str, routing: Routing) -> Where:
        part = destined(name, routing, self._config.destination_names)
        kind = SPAN_KINDS.get(name)
        before, after = part.before.encode(), part.after.encode()
        return Where(
            log=attribute_fields(wire.LOG_ATTRIBUTES, part.attributes),
            span=attribute_fields(wire.SPAN_ATTRIBUTES, part.attributes),
            attributes=part.attributes,
            size=sum(map(size_of, part.attributes)),
            name_and_kind=text_field(wire.SPAN_NAME, span_name(verb, part.destination))
            + (tag(wire.SPAN_KIND, VARINT) + varint(kind) if kind else b""),
            event_name=name,
            before=before,
            after=after,
        )

    def _how(self, case: DeliveryFacts) -> How:
        part = judged(case, self._config)
        opening, ending = part.opening.encode(), part.ending.encode()
        code = StatusCode.ERROR if part.failed else StatusCode.UNSET
        status = text_field(wire.STATUS_MESSAGE, part.status_message)
        if code:
            status += tag(wire.STATUS_CODE, VARINT) + varint(code)
        return How(
            log=attribute_fields(wire.LOG_ATTRIBUTES, part.attributes),
            span=attribute_fields(wire.SPAN_ATTRIBUTES, part.attributes),
            attributes=part.attributes,
            size=sum(map(size_of, part.attributes)),
            severity=tag(wire.LOG_SEVERITY_NUMBER, VARINT)
            + varint(part.severity)
            + text_field(wire.LOG_SEVERITY_TEXT, part.severity.name),
            status=message_field(wire.SPAN_STATUS, status),
            opening=opening,
            ending=ending,
            verb=part.verb,
        )


def _encoded(own: Own) -> tuple[bytes | None, ...]:
    *texts, lag_ms = own
    encoded = [None if text is None else text.encode() for text in texts]
    return (*encoded, None if lag_ms is None else int64(lag_ms))


def _links(event: Event, origin: Origin | None) -> bytes:
    properties = event.properties
    if isinstance(properties, AttemptProperties):
        return link_fields(properties.destination_exchange_id, origin)
    return b""
