"""Maps an event to its log record and its span. `RULES` holds what differs between kinds of events.

Each event becomes a log record; an attempt and an exchange also become a span. The same event in the same
context under the same settings always gives the same records. Attribute names follow OpenTelemetry's semantic
conventions 1.44.0; those under `segment.` are this program's (docs/reference/attributes.md). `rules` has the
parts that all kinds share; `encoder` writes the same records as bytes.
"""

from hashlib import sha256
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel import propagation
from faillog_otel.config import MappingConfig, TimePolicy
from faillog_otel.events.model import (
    ATTEMPT,
    ERROR,
    EXCHANGE,
    KINDS,
    OTHER,
    Event,
    ExchangeAnswer,
    Kind,
    Reason,
    RecordContext,
    Response,
    Routing,
    exchange_of,
)
from faillog_otel.otlp.attributes import (
    allowed_extras,
    apply_limits,
    body_text,
    extra_attributes,
    header_attributes,
    redact_and_truncate,
    truncate,
)
from faillog_otel.otlp.origin import LOCAL, Origin, link_flags, origin_of
from faillog_otel.otlp.rules import (
    NO_REASON,
    OWN,
    TIME_SHIFTED,
    DeliveryFacts,
    DestinationFields,
    KindRules,
    batch_attributes,
    destination_fields,
    failure_group,
    group_attributes,
    occurred_suffix,
    outcome_fields,
    own_values,
    present,
    reason_fields,
    status_and_reason,
    url_attributes,
    varying_of,
)
from faillog_otel.otlp.wire import Attributes, Link, Log, Severity, Span, SpanKind, StatusCode
from faillog_otel.propagation import SAMPLED, TraceContext
from faillog_otel.text import printable

SAMPLED_LOCAL = LOCAL | SAMPLED
"""SpanFlags of links and root spans made here: sampled, and known not to be remote."""

UID = "log.record.uid"
UID_PREFIXES = {kind: kind.event_name.encode() + b"\n" for kind in KINDS}
"""The bytes that are hashed before a record's own to compute its `log.record.uid`."""


# -- kinds of events -------------------------------------------------------------------------------------


class _ErrorRules(KindRules):
    """`segment.error`: a log record in the message's trace."""

    topic = "Error in delivery"

    def has_failed(self, _facts: DeliveryFacts) -> bool:
        return True

    def severity(self, facts: DeliveryFacts) -> Severity:
        return Severity.ERROR if facts.discarded else Severity.WARN

    def predicate(self, facts: DeliveryFacts) -> str:
        return ", message discarded" if facts.discarded else ""


_PREDICATES: dict[str | None, str] = {"success": " succeeded", "failure": " failed"}
"""By outcome."""


class _AttemptRules(KindRules):
    """`segment.attempt`: a span in the message's trace, with the answer of its exchange."""

    topic = "Delivery"
    without_status = "failure"

    def status_and_reason(
        self, event: Event, answer: ExchangeAnswer | None
    ) -> tuple[int | None, Reason | None]:
        """Returns those of its exchange where the attempt has none of its own.

        A success does not get a reason from a response body: it is about other messages of the batch.
        """
        properties: Any = event.properties
        response, reason = properties.response_from_destination, event.reason
        status = None if response is None else response.status
        if answer is None:
            return status, reason
        if reason is None and (found := answer.reason) is not None:
            reason = None if found.in_body is True and properties.outcome == "success" else found
        return answer.status if status is None else status, reason

    def has_failed(self, facts: DeliveryFacts) -> bool:
        return facts.outcome == "failure"

    def predicate(self, facts: DeliveryFacts) -> str:
        return _PREDICATES.get(facts.outcome, "")

    def details(self, facts: DeliveryFacts) -> list[str]:
        if facts.outcome in _PREDICATES:
            return super().details(facts)
        return [f"outcome {facts.outcome}" if facts.outcome else "unknown outcome", *super().details(facts)]

    def ids(self, event: Event, origin: Origin | None, route: bytes) -> tuple[bytes, bytes]:
        properties: Any = event.properties
        digest = propagation.attempt_digest_along(
            properties.message_id, route, properties.attempt, properties.occurred_at
        )
        return origin.trace_id if origin else b"", propagation.part(digest, 0, 8)


_NO_RESPONSE = Response()


class _ExchangeRules(KindRules):
    """`segment.exchange`: a span in a trace of its own."""

    body_id = 1
    topic = "Request"

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.own_facts += ("is_unanswered",)

    def own_values_of(self, event: Event) -> tuple[Any, ...]:
        response = event.properties.response_from_destination
        is_unanswered = response is None or response == _NO_RESPONSE
        is_unanswered = is_unanswered and "responseFromDestination" not in event.extras
        return (*super().own_values_of(event), is_unanswered)

    def has_failed(self, facts: DeliveryFacts) -> bool:
        return facts.is_unanswered or (facts.status is not None and facts.status >= 400)

    def severity(self, _facts: DeliveryFacts) -> Severity:
        return Severity.ERROR

    def method(self, method: str | None) -> str | None:
        return super().method(method) or "_OTHER"

    def verb(self, method: str | None) -> str:
        return "HTTP" if method in (None, "_OTHER") else str(method)

    def body_id_name(self, _facts: DeliveryFacts) -> str:
        return "exchange"

    def details(self, facts: DeliveryFacts) -> list[str]:
        without = self.without_status if facts.is_unanswered else "response without a status"
        return super().details(facts) or [without]

    def ids(self, event: Event, _origin: Origin | None, _route: bytes) -> tuple[bytes, bytes]:
        return exchange_ids(event.properties.destination_exchange_id)


class _OtherRules(KindRules):
    """`segment.other`: a log record, in the message's trace if it has a message."""

    topic = "Unknown event"

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.own_facts += ("other_name",)

    def own_values_of(self, event: Event) -> tuple[Any, ...]:
        name = event.extras.get("event")
        return (*super().own_values_of(event), name if isinstance(name, str) else None)

    def details(self, facts: DeliveryFacts) -> list[str]:
        return [facts.other_name or "no name", *super().details(facts)]


_RULES = {ERROR: _ErrorRules, ATTEMPT: _AttemptRules, EXCHANGE: _ExchangeRules, OTHER: _OtherRules}
RULES: dict[Kind, KindRules] = {kind: _RULES.get(kind, KindRules)(kind) for kind in KINDS}
RULES_OF = {kind.properties: rules for kind, rules in RULES.items()}
"""By the type of the event's properties."""

# -- mapping ---------------------------------------------------------------------------------------------


class Mapped(Struct, frozen=True):
    """The records of one event."""

    log: Log
    span: Span | None
    is_shifted: bool
    """Whether the time policy changed their time."""


def map_event(event: Event, context: RecordContext, config: MappingConfig) -> Mapped:
    """Maps one event. The only clock is `context.reference_ns`; nothing is kept between events."""
    kind, rules = event.kind, RULES[event.kind]
    time_ns = shifted(event.occurred_ns, context.reference_ns, config.time_policy)
    is_shifted = time_ns != event.occurred_ns
    own = own_values(event)
    origin = message_origin(event, context, config)
    status, reason = status_and_reason(event, rules, context, config.bodies)
    destination = named_destination(rules, event.routing, config, context.destination_name)
    outcome = outcome_fields(varying_of(event, rules, context, status, reason, origin=origin), rules, config)
    of_reason = reason_fields(reason, config) if reason is not None else NO_REASON
    group = failure_group(event.routing, outcome.code, status, of_reason.group_text)
    request = event.properties.request_to_destination
    common = [
        *destination.attributes,
        *outcome.before_url,
        *(url_attributes(request.url, config) if request and request.url else ()),
        *outcome.after_url,
        *of_reason.attributes,
        *(group_attributes(group) if outcome.failed else ()),
        *(TIME_SHIFTED if is_shifted else ()),
        *batch_attributes(context.message_count),
        *present(*zip(OWN, own, strict=True)),
    ]
    trace_id, span_id = rules.ids(event, origin, destination.route)
    span = None
    if kind.span:
        span = Span(
            trace_id=trace_id,
            span_id=span_id,
            name=span_name(outcome.verb, destination.name),
            kind=SpanKind[kind.span],
            time_ns=time_ns,
            attributes=common,
            status=StatusCode.ERROR if outcome.failed else StatusCode.UNSET,
            status_message=(of_reason.short or outcome.status_message) if outcome.failed else "",
            links=links(event, origin),
            flags=origin.span_flags if origin else SAMPLED_LOCAL,
            parent_span_id=origin.parent_span_id if origin else b"",
        )
    log_only, left_out = log_attributes(event, config)
    attributes, dropped = apply_limits(
        [*common, (UID, record_uid(kind, event.raw)), *log_only], config.limits
    )
    about = printable(own[rules.body_id] or "")
    log = Log(
        time_ns=time_ns,
        observed_ns=event.logged_ns,
        severity=outcome.severity,
        event_name=kind.event_name,
        body=f"{destination.topic}{outcome.sentence}{printable(of_reason.short)}"
        f"{outcome.before_id}{about}{outcome.after_id}{occurred_suffix(event) if is_shifted else ''}",
        attributes=attributes,
        dropped_attributes=left_out + dropped,
        flags=origin.log_flags if origin else SAMPLED,
        trace_id=trace_id,
        span_id=span_id or (origin.log_span_id if origin else b""),
    )
    return Mapped(log, span, is_shifted)


def shifted(occurred_ns: int, reference_ns: int, policy: TimePolicy) -> int:
    """Returns the time that a record carries under the policy, in nanoseconds since 1970."""
    if policy.kind == "occurred":
        return occurred_ns
    if policy.kind == "arrival":
        return reference_ns
    return max(occurred_ns, reference_ns - int(policy.age_seconds * 1_000_000_000), 0)


def named_destination(
    rules: KindRules, routing: Routing, config: MappingConfig, read_name: str | None
) -> DestinationFields:
    """Returns the fields of all events with this kind and routing.

    The span's name and the log's body show `read_name`, which Segment has, unless the settings name the
    destination.
    """
    fields = destination_fields(rules, routing, config.destination_names)
    if not read_name or not fields.name or routing.destination_id in config.destination_names:
        return fields
    shown = truncate(read_name)
    return replace(fields, name=shown, topic=printable(f"{rules.topic} to {shown}"))


def span_name(verb: str, destination: str) -> str:
    """Returns `deliver DESTINATION`; without a destination only the verb."""
    return f"{verb} {destination}" if destination else verb


# -- ids and links ---------------------------------------------------------------------------------------


def message_origin(event: Event, context: RecordContext, config: MappingConfig) -> Origin | None:
    """Returns the trace of the event's message; None if it is not about a message."""
    message_id = event.properties.message_id
    return None if message_id is None else origin_of(message_id, context.traceparent, config.join)


def exchange_ids(exchange_id: str | None) -> tuple[bytes, bytes]:
    """Returns trace id and span id of an exchange."""
    digest = propagation.exchange_digest(exchange_id)
    return propagation.part(digest, 0, 16), propagation.part(digest, 16, 24)


def links(event: Event, origin: Origin | None) -> list[Link]:
    """Returns the links of the span of one message: to its exchange, then to the application's context."""
    found = []
    if (exchange_id := exchange_of(event.properties)) is not None:
        found.append(link_to_exchange(exchange_id))
    if origin is not None and origin.linked is not None:
        found.append(link_to_message(origin.linked))
    return found


def link_to_exchange(exchange_id: str) -> Link:
    """Returns a link to an exchange, which need not be in the same file."""
    attributes = present(("segment.link.type", "exchange"), ("segment.destination_exchange.id", exchange_id))
    return Link(*exchange_ids(exchange_id), attributes, SAMPLED_LOCAL)


def link_to_message(app: TraceContext) -> Link:
    """Returns a link to the application's own context."""
    return Link(app.trace_id, app.span_id, [("segment.link.type", "message")], link_flags(app))


def record_uid(kind: Kind, raw: bytes) -> str:
    """Returns `log.record.uid`: 32 hex characters, the same for the same bytes of the same kind of event."""
    if len(raw) <= _HASHED_ALONE - 32:
        return sha256(UID_PREFIXES[kind] + raw).hexdigest()[:32]
    uid = sha256(UID_PREFIXES[kind])
    step = _HASHED_ALONE if len(raw) <= _SHORT_BYTES else len(raw)
    for at in range(0, len(raw), step):
        uid.update(raw[at : at + step])
    return uid.hexdigest()[:32]


_HASHED_ALONE = 2047
"""hashlib releases the GIL to hash more bytes than these, which costs more than hashing some KiB."""
_SHORT_BYTES = 64 * 1024


# -- attributes of log records only ----------------------------------------------------------------------


def log_attributes(event: Event, config: MappingConfig) -> tuple[Attributes, int]:
    """Returns headers, bodies and extras, and how many extras do not fit."""
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
