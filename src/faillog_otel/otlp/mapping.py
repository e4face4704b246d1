"""Which log record and which span an event becomes, and no I/O.

One event becomes one log record; an attempt and an exchange become one span each, too. The same event in
the same context under the same settings always becomes the same records. Names follow OpenTelemetry's
semantic conventions 1.44.0, `segment.*` is ours; docs/reference/attributes.md has the table. The
rules for attributes and words are in `parts`; `encoder` writes the same records as bytes.
"""

from hashlib import sha256

from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.config import MappingConfig, TimePolicy
from faillog_otel.events.model import AttemptProperties, Event, ExchangeProperties, RecordContext
from faillog_otel.otlp.attributes import (
    allowed_extras,
    apply_limits,
    body_text,
    extra_attributes,
    header_attributes,
    redact_and_truncate,
)
from faillog_otel.otlp.rules import (
    EVENT_NAMES,
    LOCAL,
    OWN,
    Origin,
    case_of,
    destined,
    judged,
    link_flags,
    origin_of,
    own_values,
    present,
    true_time,
)
from faillog_otel.otlp.wire import Attributes, Link, Log, Span, SpanKind, StatusCode
from faillog_otel.propagation import SAMPLED, TraceContext
from faillog_otel.text import printable

SAMPLED_LOCAL = LOCAL | SAMPLED
"""Flags of links and root spans made here: sampled, and known not to be remote (SpanFlags)."""

SPAN_KINDS = {"segment.attempt": SpanKind.CONSUMER, "segment.exchange": SpanKind.CLIENT}
UID = "log.record.uid"
UID_STARTS = {name: name.encode() + b"\n" for name in EVENT_NAMES.values()}
"""What is hashed before a record's own bytes for its uid."""


class Mapped(Struct, frozen=True):
    """What one event becomes."""

    log: Log
    span: Span | None
    is_shifted: bool
    """Whether the time policy gave them another time than their own."""


def map_event(event: Event, context: RecordContext, config: MappingConfig) -> Mapped:
    """The records of one event. Pure: no clock but `context.reference_ns`, no memory between events."""
    name = EVENT_NAMES[type(event.properties)]
    time_ns = shifted(event.occurred_ns, context.reference_ns, config.time_policy)
    is_shifted = time_ns != event.occurred_ns
    own = own_values(event)
    message_id, exchange_id, *_ = own
    origin = message_origin(event, context, config)
    case = case_of(event, context.answer, origin.name if origin else None, is_shifted=is_shifted)
    where, how = destined(name, event.routing, config.destination_names), judged(case, config)
    common = where.attributes + how.attributes + present(*zip(OWN, own, strict=True))
    trace_id, span_id = ids(event, origin)
    span = None
    if name in SPAN_KINDS:
        span = Span(
            trace_id=trace_id,
            span_id=span_id,
            name=span_name(how.verb, where.destination),
            kind=SPAN_KINDS[name],
            time_ns=time_ns,
            attributes=common,
            status=StatusCode.ERROR if how.failed else StatusCode.UNSET,
            status_message=how.status_message,
            links=links(event, origin),
            flags=origin.span_flags if origin else SAMPLED_LOCAL,
            parent_span_id=origin.parent_span_id if origin else b"",
        )
    alone, untold = log_attributes(event, config)
    attributes, dropped = apply_limits([*common, (UID, record_uid(name, event.raw)), *alone], config.limits)
    about = exchange_id if name == "segment.exchange" else message_id
    ending = how.ending + (true_time(event) if is_shifted else "")
    log = Log(
        time_ns=time_ns,
        observed_ns=event.logged_ns,
        severity=how.severity,
        event_name=name,
        body=f"{how.opening}{where.before}{printable(about or '')}{where.after}{ending}",
        attributes=attributes,
        dropped_attributes=untold + dropped,
        flags=origin.log_flags if origin else SAMPLED,
        trace_id=trace_id,
        span_id=span_id or (origin.log_span_id if origin else b""),
    )
    return Mapped(log, span, is_shifted)


def shifted(occurred_ns: int, reference_ns: int, policy: TimePolicy) -> int:
    """The time that a record carries under the policy, nanoseconds since 1970."""
    if policy.kind == "occurred":
        return occurred_ns
    if policy.kind == "arrival":
        return reference_ns
    return max(occurred_ns, reference_ns - int(policy.age_seconds * 1_000_000_000), 0)


def span_name(verb: str, destination: str) -> str:
    """`deliver DESTINATION`; without a destination the verb alone."""
    return f"{verb} {destination}" if destination else verb


# -- identity --------------------------------------------------------------------------------------------


def message_origin(event: Event, context: RecordContext, config: MappingConfig) -> Origin | None:
    """Where the records of the event's message stand; None where there is no message."""
    properties = event.properties
    if isinstance(properties, ExchangeProperties) or properties.message_id is None:
        return None
    return origin_of(properties.message_id, context.traceparent, config.join)


def ids(event: Event, origin: Origin | None) -> tuple[bytes, bytes]:
    """Trace id and span id of the event; the span id is empty where it becomes no span."""
    properties, routing = event.properties, event.routing
    if isinstance(properties, AttemptProperties) and origin is not None:
        digest = propagation.attempt_digest(
            properties.message_id,
            routing.to_id,
            routing.from_id,
            properties.attempt,
            properties.occurred_at,
        )
        return origin.trace_id, propagation.part(digest, 0, 8)
    if isinstance(properties, ExchangeProperties):
        return exchange_ids(properties.destination_exchange_id)
    return (origin.trace_id if origin else b""), b""


def exchange_ids(exchange_id: str | None) -> tuple[bytes, bytes]:
    """Trace id and span id of an exchange."""
    digest = propagation.exchange_digest(exchange_id)
    return propagation.part(digest, 0, 16), propagation.part(digest, 16, 24)


def links(event: Event, origin: Origin | None) -> list[Link]:
    """Where an attempt's span leads: to its exchange, and to the application's context when known."""
    properties, found = event.properties, []
    if isinstance(properties, AttemptProperties):
        if properties.destination_exchange_id is not None:
            found.append(link_to_exchange(properties.destination_exchange_id))
        if origin is not None and origin.linked is not None:
            found.append(link_to_message(origin.linked))
    return found


def link_to_exchange(exchange_id: str) -> Link:
    """A link to an exchange, seen or not."""
    attributes = present(("segment.link.type", "exchange"), ("segment.destination_exchange.id", exchange_id))
    return Link(*exchange_ids(exchange_id), attributes, SAMPLED_LOCAL)


def link_to_message(app: TraceContext) -> Link:
    """A link to the application's own context."""
    return Link(app.trace_id, app.span_id, [("segment.link.type", "message")], link_flags(app))


def record_uid(name: str, raw: bytes) -> str:
    """`log.record.uid`: 32 hex characters, the same for the same bytes of the same kind of event."""
    uid = sha256(UID_STARTS[name])
    step = _HASHED_ALONE if len(raw) <= _SHORT_BYTES else len(raw)
    for at in range(0, len(raw), step):
        uid.update(raw[at : at + step])
    return uid.hexdigest()[:32]


_HASHED_ALONE = 2047
"""hashlib lets other threads run while it hashes more bytes than these: dearer than to hash some KiB."""
_SHORT_BYTES = 64 * 1024


# -- what only logs carry ------------------------------------------------------------------------------


def log_attributes(event: Event, config: MappingConfig) -> tuple[Attributes, int]:
    """Headers, bodies and extras; and how many extras were left out."""
    attributes: Attributes = []
    request = event.properties.request_to_destination
    response = event.properties.response_from_destination
    if request is None and response is None and not event.extras:
        return attributes, 0
    if response is not None and response.headers:
        attributes += header_attributes(response.headers, config.response_headers, config.redaction_key)
    truncated = False
    for name, carrier, allowed in (
        ("segment.request.body", request, config.bodies == "all"),
        ("segment.response.body", response, config.bodies != "none"),
    ):
        if allowed and carrier and carrier.body is not None:
            text, was_cut = redact_and_truncate(
                body_text(carrier.body, config.bodies), config.redaction_key, config.limits.body_bytes
            )
            attributes.append((name, text))
            truncated = truncated or was_cut
    if truncated:
        attributes.append(("segment.body_truncated", True))
    if not event.extras:
        return attributes, 0
    extras, dropped = extra_attributes(
        allowed_extras(event.extras, config.bodies), config.redaction_key, config.limits.extra_bytes
    )
    return attributes + extras, dropped
