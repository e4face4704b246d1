"""Which log record and which span an event becomes: every rule, and no I/O.

One event becomes one log record; an attempt and an exchange become one span each, too. The same event in
the same context under the same settings always becomes the same records. Names follow OpenTelemetry's
semantic conventions 1.44.0, `segment.*` is ours; the README has the table.
"""

import hashlib
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.config import MappingConfig, TimePolicy
from faillog_otel.events.model import (
    AttemptProperties,
    Context,
    ErrorProperties,
    Event,
    ExchangeProperties,
    OtherProperties,
    Properties,
    Reason,
    Request,
    Response,
)
from faillog_otel.events.printable import printable
from faillog_otel.otlp.extras import (
    as_text,
    clean,
    cut,
    extra_attributes,
    header_attributes,
    leaving,
    within,
)
from faillog_otel.otlp.origin import LOCAL, Origin, link_flags, origin_of
from faillog_otel.otlp.records import (
    Attributes,
    Link,
    Log,
    Severity,
    Span,
    SpanKind,
    StatusCode,
    Value,
)
from faillog_otel.propagation import SAMPLED

SAMPLED_LOCAL = LOCAL | SAMPLED
"""Flags of links and root spans made here: sampled, and known not to be remote (SpanFlags)."""

EVENT_NAMES: dict[type[Properties], str] = {
    ErrorProperties: "segment.error",
    AttemptProperties: "segment.attempt",
    ExchangeProperties: "segment.exchange",
    OtherProperties: "segment.other",
}
_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY")
)
_SHORT_BYTES = 256


class Mapped(Struct, frozen=True):
    """What one event becomes."""

    log: Log
    span: Span | None
    is_shifted: bool
    """Whether the time policy gave them another time than their own."""


class _Facts(Struct, frozen=True, kw_only=True):
    """What the rules for both signals rest on, read from the event and its context once.

    All texts but ids are redacted and cut here.
    """

    name: str
    destination: str | None
    failed: bool
    message_id: str | None = None
    origin: Origin | None = None
    """Where the message's records stand; None where there is no message."""
    exchange_id: str | None = None
    status: int | None = None
    reason: str | None = None
    error_type: str | None = None
    outcome: str | None = None
    url: str | None = None
    host: str | None = None
    port: int | None = None
    other_name: str | None = None
    """What an unknown event calls itself."""
    request: Request | None = None
    response: Response | None = None


def map_event(event: Event, context: Context, config: MappingConfig) -> Mapped:
    """The records of one event. Pure: no clock but `context.reference_ns`, no memory between events."""
    facts = _facts(event, context, config)
    time_ns = shifted(event.occurred_ns, context.reference_ns, config.time_policy)
    common = _standard_attributes(facts) + _own_attributes(event, facts, time_ns)
    trace_id, span_id = _ids(event, facts)
    origin, span = facts.origin, None
    if span_id:
        span = Span(
            trace_id=trace_id,
            span_id=span_id,
            name=_span_name(facts),
            kind=SpanKind.CLIENT if facts.name == "segment.exchange" else SpanKind.CONSUMER,
            time_ns=time_ns,
            attributes=common,
            status=StatusCode.ERROR if facts.failed else StatusCode.UNSET,
            status_message=_status_message(event, facts) if facts.failed else "",
            links=_links(event, facts),
            flags=origin.span_flags if origin else SAMPLED_LOCAL,
            parent_span_id=origin.parent_span_id if origin else b"",
        )
    limits, is_shifted = config.limits, time_ns != event.occurred_ns
    extras, untold = extra_attributes(
        leaving(event.extras, config.bodies), config.redaction_key, limits.extra_bytes
    )
    attributes, dropped = within(common + _log_attributes(event, facts, config) + extras, limits)
    log = Log(
        time_ns=time_ns,
        observed_ns=event.logged_ns,
        severity=_severity(event, facts),
        event_name=facts.name,
        body=printable(_sentence(event, facts) + (_true_time(event) if is_shifted else "")),
        attributes=attributes,
        dropped_attributes=untold + dropped,
        flags=origin.log_flags if origin else SAMPLED,
        trace_id=trace_id,
        span_id=span_id or (origin.log_span_id if origin else b""),
    )
    return Mapped(log, span, is_shifted)


def shifted(occurred_ns: int, reference_ns: int, policy: TimePolicy) -> int:
    """The time that a record carries under the policy, nanoseconds since 1970."""
    if policy.kind == "arrival":
        return reference_ns
    if policy.kind == "clamp":
        return max(occurred_ns, reference_ns - int(policy.age_seconds * 1_000_000_000), 0)
    return occurred_ns


# -- facts -------------------------------------------------------------------------------------------


def _facts(event: Event, context: Context, config: MappingConfig) -> _Facts:
    properties, reason = event.properties, event.reason
    request, response = properties.request_to_destination, properties.response_from_destination
    status = response.status if response else None
    message_id: str | None = None
    exchange_id: str | None = None
    failed = False
    if isinstance(properties, AttemptProperties | ExchangeProperties):
        exchange_id = properties.destination_exchange_id
    if not isinstance(properties, ExchangeProperties):
        message_id = properties.message_id
    if isinstance(properties, AttemptProperties):
        failed = properties.outcome == "failure"
        if context.answer:  # what its exchange said, where the attempt itself says nothing
            status = context.answer.status if status is None else status
            reason = context.answer.reason if reason is None else reason
    elif isinstance(properties, ExchangeProperties):
        failed = _is_unanswered(event) or (status is not None and status >= 400)
    elif isinstance(properties, ErrorProperties):
        failed = True
    destination = event.routing.destination_id
    host, port = _server(request.url if request else None)

    def cleaned(text: Any) -> str | None:
        return clean(text, config.redaction_key)[0] if isinstance(text, str) and text else None

    return _Facts(
        name=EVENT_NAMES[type(properties)],
        destination=cut(config.destination_names.get(destination, destination)) if destination else None,
        failed=failed,
        message_id=message_id,
        origin=origin_of(message_id, context.traceparent, config.join) if message_id is not None else None,
        exchange_id=exchange_id,
        status=status,
        reason=cleaned(reason.text) if reason else None,
        error_type=cleaned(_error_type(status, reason)) if failed else None,
        outcome=cleaned(properties.outcome) if isinstance(properties, AttemptProperties) else None,
        url=cleaned(request.url) if request else None,
        host=cleaned(host),
        port=port,
        other_name=cleaned(event.extras.get("event")),
        request=request,
        response=response,
    )


def _is_unanswered(event: Event) -> bool:
    """Whether a destination gave no response: one whose status is missing or odd is a response."""
    response = event.properties.response_from_destination
    return response in (None, Response()) and "responseFromDestination" not in event.extras


def _error_type(status: int | None, reason: Reason | None) -> str:
    if status is not None and status >= 400:
        return str(status)
    return reason.code if reason and reason.code else "_OTHER"


def _ids(event: Event, facts: _Facts) -> tuple[bytes, bytes]:
    """Trace id and span id of the event; the span id is empty where it becomes no span."""
    properties, routing = event.properties, event.routing
    if isinstance(properties, ExchangeProperties):
        return _exchange_ids(facts.exchange_id)
    if facts.origin is None:
        return b"", b""
    trace_id = facts.origin.trace_id
    if not isinstance(properties, AttemptProperties):
        return trace_id, b""
    digest = propagation.digest(
        "segment.attempt",
        facts.message_id,
        routing.to_id,
        routing.from_id,
        properties.attempt,
        properties.occurred_at,
    )
    return trace_id, propagation.part(digest, 0, 8)


def _exchange_ids(exchange_id: str | None) -> tuple[bytes, bytes]:
    digest = propagation.exchange_digest(exchange_id)
    return propagation.part(digest, 0, 16), propagation.part(digest, 16, 24)


def _links(event: Event, facts: _Facts) -> list[Link]:
    if not isinstance(event.properties, AttemptProperties):
        return []
    links = []
    if facts.exchange_id is not None:
        attributes = _present(
            ("segment.link.type", "exchange"), ("segment.destination_exchange.id", facts.exchange_id)
        )
        links.append(Link(*_exchange_ids(facts.exchange_id), attributes, SAMPLED_LOCAL))
    if facts.origin and (app := facts.origin.linked):
        attributes = [("segment.link.type", "message")]
        links.append(Link(app.trace_id, app.span_id, attributes, link_flags(app)))
    return links


# -- attributes --------------------------------------------------------------------------------------


def _standard_attributes(facts: _Facts) -> Attributes:
    return _present(
        ("messaging.system", "segment"),
        ("messaging.operation.name", "deliver"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", facts.destination),
        ("messaging.message.id", facts.message_id),
        ("http.request.method", _method(facts)),
        ("http.response.status_code", facts.status),
        ("url.full", facts.url),
        ("server.address", facts.host),
        ("server.port", facts.port),
        ("error.type", facts.error_type),
    )


def _own_attributes(event: Event, facts: _Facts, time_ns: int) -> Attributes:
    properties, routing = event.properties, event.routing
    attempt = properties if isinstance(properties, AttemptProperties) else None
    error = properties if isinstance(properties, ErrorProperties) else None
    lag_ms = (event.logged_ns - event.occurred_ns) // 1_000_000
    return _present(
        ("segment.event", facts.name),
        ("segment.source.id", routing.from_id),
        ("segment.destination.id", routing.destination_id),
        ("segment.destination_exchange.id", facts.exchange_id),
        ("segment.delivery.attempt", attempt.attempt if attempt else None),
        ("segment.delivery.outcome", facts.outcome),
        ("segment.discarded", error.discarded if error else None),
        ("segment.trace.origin", facts.origin.name if facts.origin else None),
        ("segment.occurred_at", properties.occurred_at),
        ("segment.logged_at", properties.logged_at),
        ("segment.report_lag_ms", lag_ms if properties.logged_at is not None else None),
        ("segment.reason", facts.reason),
        ("segment.time_shifted", True if time_ns != event.occurred_ns else None),
        (
            "segment.destination.ids",
            routing.destination_ids if len(routing.destination_ids) > 1 else None,
        ),
    )


def _log_attributes(event: Event, facts: _Facts, config: MappingConfig) -> Attributes:
    """What only logs carry, besides the extras: the record's own id, headers and bodies."""
    uid = hashlib.sha256(facts.name.encode() + b"\n" + event.raw).digest()[:16]
    attributes: Attributes = [("log.record.uid", uid.hex())]
    if facts.response:
        attributes += header_attributes(facts.response.headers, config.response_headers, config.redaction_key)
    truncated = False
    for name, carrier, allowed in (
        ("segment.request.body", facts.request, config.bodies == "all"),
        ("segment.response.body", facts.response, config.bodies != "none"),
    ):
        if allowed and carrier and carrier.body is not None:
            text, was_cut = clean(as_text(carrier.body), config.redaction_key, config.limits.body_bytes)
            attributes.append((name, text))
            truncated = truncated or was_cut
    if truncated:
        attributes.append(("segment.body_truncated", True))
    return attributes


def _present(*pairs: tuple[str, Value | None]) -> Attributes:
    """Those that are there. Ids and times are cut, too: somebody else chose them."""
    return [
        (key, cut(value) if isinstance(value, str) else value) for key, value in pairs if value is not None
    ]


def _method(facts: _Facts) -> str | None:
    method = facts.request.method if facts.request else None
    if method is None and facts.name != "segment.exchange":
        return None
    return method.upper() if method and method.upper() in _METHODS else "_OTHER"


def _server(url: str | None) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(url or "")
        return parts.hostname, parts.port
    except ValueError:
        return None, None


# -- words ---------------------------------------------------------------------------------------------


def _span_name(facts: _Facts) -> str:
    method = _method(facts)
    if facts.name != "segment.exchange":
        verb = "deliver"
    else:
        verb = "HTTP" if method in (None, "_OTHER") else str(method)
    return f"{verb} {facts.destination}" if facts.destination else verb


def _severity(event: Event, facts: _Facts) -> Severity:
    if not facts.failed:
        return Severity.INFO
    if isinstance(event.properties, ExchangeProperties):
        return Severity.ERROR
    is_discarded = isinstance(event.properties, ErrorProperties) and event.properties.discarded
    return Severity.ERROR if is_discarded else Severity.WARN


def _status_message(event: Event, facts: _Facts) -> str:
    if facts.reason:
        return cut(facts.reason, _SHORT_BYTES)
    if facts.status is not None:
        return f"HTTP {facts.status}"
    return "failure" if isinstance(event.properties, AttemptProperties) else "no response"


def _sentence(event: Event, facts: _Facts) -> str:
    properties = event.properties
    message, exchange = (cut(each) if each else each for each in (facts.message_id, facts.exchange_id))
    to = f" to {facts.destination}" if facts.destination else ""
    why = f": {cut(facts.reason, _SHORT_BYTES)}" if facts.reason else ""
    if isinstance(properties, ErrorProperties):
        verb = "discarded" if properties.discarded else "error"
        return f"{verb}: message {message}{to}{why}"
    if isinstance(properties, AttemptProperties):
        status = f" (HTTP {facts.status})" if facts.status is not None else ""
        outcome = facts.outcome or "unknown outcome"
        return f"attempt {properties.attempt}: {outcome}{status}: message {message}{to}{why}"
    if isinstance(properties, ExchangeProperties):
        said = "no response" if _is_unanswered(event) else "an answer without status"
        said = f"HTTP {facts.status}" if facts.status is not None else said
        return f"{said} from {facts.destination or 'destination'}: exchange {exchange}{why}"
    about = f": message {message}{to}" if message is not None else to
    name = cut(facts.other_name or "event without a name", _SHORT_BYTES)
    return f"{name}{about}{why}"


def _true_time(event: Event) -> str:
    """Behind a shifted record's sentence: at one and the same time, Loki drops all but one of equal lines."""
    return f", occurred {cut(event.properties.occurred_at or event.properties.logged_at or '', _SHORT_BYTES)}"
