"""What records are made of: parts that follow from where an event went and from how it went, which many
events have in common, and values of its own.

Each rule stands here once, as plain data. `mapping` puts the parts together; `encoder` encodes the common
ones once and writes the same. All texts but ids are redacted; all are cut.
"""

from typing import Literal
from urllib.parse import urlsplit

from msgspec import UNSET, Struct
from msgspec.structs import replace

from faillog_otel import propagation
from faillog_otel.config import Join, MappingConfig
from faillog_otel.events.model import (
    AttemptProperties,
    ErrorProperties,
    Event,
    ExchangeAnswer,
    ExchangeProperties,
    OtherProperties,
    Properties,
    Reason,
    Response,
    Routing,
)
from faillog_otel.otlp.attributes import MAX_VALUE_BYTES, redact_and_truncate, truncate
from faillog_otel.otlp.wire import Attributes, Severity, Value
from faillog_otel.propagation import SAMPLED, TraceContext
from faillog_otel.text import printable

# -- origin --------------------------------------------------------------------------------------------------
#
# In which trace a message's records stand, and how they join the application's own.
#
# The first of these that is there (see docs/guides/join-traces.md): the context that the messageId
# carries, in full or compact; the context that the exchange's request names beside it; none, and the trace id
# is computed. What was not sampled is no parent: nobody sends a span for it.


TraceOrigin = Literal["message_id", "message_id_compact", "body", "derived"]

LOCAL = 0x100
"""SpanFlags: it is known whether the parent, or what a link leads to, is remote; it is not."""
REMOTE = 0x300
"""SpanFlags: it is known, and it is remote."""


class Origin(Struct, frozen=True, gc=False):
    """Where a message's records stand."""

    name: TraceOrigin
    trace_id: bytes
    parent_span_id: bytes = b""
    """The application's span under which an attempt's span stands."""
    log_span_id: bytes = b""
    """The span of a log record that has no span of its own."""
    span_flags: int = LOCAL | SAMPLED
    log_flags: int = SAMPLED
    linked: TraceContext | None = None
    """The application's context that an attempt's span links to."""


def origin_of(message_id: str, traceparent: str | None, join: Join) -> Origin:
    """Where the records of this message stand. `traceparent`: what its exchange's request names, if any."""
    carried = propagation.context_in(message_id) if join != "off" else None
    if carried and join == "parent":
        return _within(carried)
    linked = carried
    name: TraceOrigin = "message_id"
    if carried is None and traceparent and join != "off":
        linked, name = propagation.parse_traceparent(traceparent), "body"
    derived = propagation.derived_trace_id(message_id)
    if linked is None or not linked.span_id:  # there is nothing to link to
        return Origin("derived", derived)
    return Origin(name, derived, linked=linked)


def _within(app: TraceContext) -> Origin:
    """In the application's own trace."""
    is_child = bool(app.span_id) and app.is_sampled
    return Origin(
        "message_id" if app.span_id else "message_id_compact",
        app.trace_id,
        parent_span_id=app.span_id if is_child else b"",
        log_span_id=app.span_id,
        span_flags=(REMOTE if is_child else LOCAL) | SAMPLED,
        log_flags=app.flags & SAMPLED,
        linked=app if app.span_id else None,
    )


def link_flags(context: TraceContext) -> int:
    """The flags of a link to the application's context: of its own only the sampled bit is kept."""
    return REMOTE | context.flags & SAMPLED


# -- parts ---------------------------------------------------------------------------------------------------


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


# -- where it went ---------------------------------------------------------------------------------------


class DestinationFields(Struct, frozen=True):
    """What follows from an event's name and routing. `before` and `after` stand around its id in the body."""

    attributes: Attributes
    destination: str
    """As people know it; empty where there is none."""
    before: str
    after: str


def destined(name: str, routing: Routing, destination_names: dict[str, str]) -> DestinationFields:
    """The part for all events of this name with this routing."""
    known, subscription = routing.destination_id, routing.subscription_id
    shown = truncate(destination_names.get(known, known)) if known else None
    attributes = present(
        ("messaging.system", "segment"),
        ("messaging.operation.name", "deliver"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", shown),
        ("messaging.destination.subscription.name", destination_names.get(subscription or "") or None),
        ("segment.event", name),
        ("segment.source.id", routing.from_id),
        ("segment.destination.id", known),
        (
            "segment.destination.ids",
            routing.destination_ids if len(routing.destination_ids) > 1 else None,
        ),
        ("segment.subscription.id", subscription),
    )
    before, after = "", f" to {shown}" if shown else ""
    if name == "segment.exchange":
        before, after = f"{shown or 'destination'}: exchange ", ""
    return DestinationFields(attributes, shown or "", printable(before), printable(after))


# -- how it went -----------------------------------------------------------------------------------------


class DeliveryFacts(Struct, frozen=True, gc=False):
    """How it went: all that an event and its context say besides the routing, the ids and the times."""

    name: str
    attempt: int | None = None
    outcome: str | None = None
    discarded: bool | None = None
    status: int | None = None
    reason: Reason | None = None
    origin: TraceOrigin | None = None
    """None where there is no message."""
    is_shifted: bool = False
    is_unanswered: bool = False
    """Whether it is an exchange that was given no response: one without status is a response."""
    request: tuple[str | None, str | None] | None = None
    """The request's method and URL."""
    other_name: str | None = None
    """What an unknown event calls itself."""
    feature: str | None = None
    """Which part of Segment the event is about."""

    def length(self) -> int:
        """Characters in it that somebody else chose."""
        reason = self.reason and self.reason.text
        texts = (self.outcome, reason, *(self.request or ()), self.other_name, self.feature)
        return sum(len(text) for text in texts if text)


def case_of(
    event: Event, answer: ExchangeAnswer | None, origin: TraceOrigin | None, *, is_shifted: bool
) -> DeliveryFacts:
    """How it went with the event. `answer`: what its exchange said, where the attempt itself says nothing."""
    properties, reason = event.properties, event.reason
    request, response = properties.request_to_destination, properties.response_from_destination
    status = response.status if response else None
    asked = (request.method, request.url) if request else None
    if isinstance(properties, AttemptProperties):
        if answer is not None:
            status = answer.status if status is None else status
            reason = _reason_of(answer, properties) if reason is None else reason
        return DeliveryFacts(
            "segment.attempt",
            *(properties.attempt, properties.outcome, None, status, reason, origin, is_shifted, False, asked),
            feature=properties.feature_name,
        )
    if isinstance(properties, ErrorProperties):
        return DeliveryFacts(
            "segment.error",
            *(
                properties.attempt,
                None,
                properties.discarded,
                status,
                reason,
                origin,
                is_shifted,
                False,
                asked,
            ),
            feature=properties.feature_name,
        )
    if isinstance(properties, ExchangeProperties):
        is_unanswered = response in (None, Response()) and "responseFromDestination" not in event.extras
        return DeliveryFacts(
            "segment.exchange",
            *(None, None, None, status, reason, None, is_shifted, is_unanswered, asked),
            feature=properties.feature_name,
        )
    name = event.extras.get("event")
    return DeliveryFacts(
        "segment.other",
        *(None, None, None, status, reason, origin, is_shifted, False, asked),
        name if isinstance(name, str) else None,
        feature=properties.feature_name,
    )


def _reason_of(answer: ExchangeAnswer, attempt: AttemptProperties) -> Reason | None:
    """What the exchange gives as the attempt's reason: what failed in its batch is none of a success."""
    reason = answer.reason
    return None if reason and reason.in_body is True and attempt.outcome == "success" else reason


class OutcomeFields(Struct, frozen=True):
    """What follows from a case. `opening` and `ending` are the first and the last words of the body."""

    attributes: Attributes
    failed: bool
    severity: Severity
    verb: str
    """The first word of the span's name."""
    status_message: str
    opening: str
    ending: str


def judged(case: DeliveryFacts, config: MappingConfig) -> OutcomeFields:
    """The part for all events with which it went like this."""

    def cleaned(text: str | None) -> str | None:
        return redact_and_truncate(text, config.redaction_key)[0] if text else None

    if config.bodies == "none" and case.reason and case.reason.in_body is True:
        case = replace(case, reason=None)
    failed = _failed(case)
    reason, outcome = cleaned(case.reason.text) if case.reason else None, cleaned(case.outcome)
    reporter = case.reason.reporter if case.reason else UNSET
    method, url = case.request or (None, None)
    method = _method(case.name, method)
    host, port = _server(url)
    attributes = present(
        ("http.request.method", method),
        ("http.response.status_code", case.status),
        ("url.full", cleaned(url)),
        ("server.address", cleaned(host)),
        ("server.port", port),
        ("error.type", cleaned(_error_type(case)) if failed else None),
        ("segment.delivery.attempt", case.attempt),
        ("segment.delivery.outcome", outcome),
        ("segment.discarded", case.discarded),
        ("segment.trace.origin", case.origin),
        ("segment.feature", cleaned(case.feature)),
        ("segment.reason", reason),
        ("segment.error.reporter", None if reporter is UNSET else reporter),
        ("segment.time_shifted", True if case.is_shifted else None),
    )
    return OutcomeFields(
        attributes=attributes,
        failed=failed,
        severity=_severity(case) if failed else Severity.INFO,
        verb=_verb(case.name, method),
        status_message=_status_message(case, reason) if failed else "",
        opening=printable(_opening(case, outcome, cleaned(case.other_name))),
        ending=printable(f": {truncate(reason, _SHORT_BYTES)}" if reason else ""),
    )


def _failed(case: DeliveryFacts) -> bool:
    if case.name == "segment.attempt":
        return case.outcome == "failure"
    if case.name == "segment.exchange":
        return case.is_unanswered or (case.status is not None and case.status >= 400)
    return case.name == "segment.error"


def _error_type(case: DeliveryFacts) -> str:
    if case.status is not None and case.status >= 400:
        return str(case.status)
    return case.reason.code if case.reason and case.reason.code else "_OTHER"


def _severity(case: DeliveryFacts) -> Severity:
    return Severity.ERROR if case.name == "segment.exchange" or case.discarded else Severity.WARN


def _method(name: str, method: str | None) -> str | None:
    if method is None and name != "segment.exchange":
        return None
    return method.upper() if method and method.upper() in _METHODS else "_OTHER"


def _server(url: str | None) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(url or "")
        return parts.hostname, parts.port
    except ValueError:
        return None, None


def _verb(name: str, method: str | None) -> str:
    if name != "segment.exchange":
        return "deliver"
    return "HTTP" if method in (None, "_OTHER") else str(method)


def _status_message(case: DeliveryFacts, reason: str | None) -> str:
    if reason:
        return truncate(reason, _SHORT_BYTES)
    if case.status is not None:
        return f"HTTP {case.status}"
    return "failure" if case.name == "segment.attempt" else "no response"


def _opening(case: DeliveryFacts, outcome: str | None, other_name: str | None) -> str:
    if case.name == "segment.error":
        return f"{'discarded' if case.discarded else 'error'}: message "
    if case.name == "segment.attempt":
        status = f" (HTTP {case.status})" if case.status is not None else ""
        return f"attempt {case.attempt}: {outcome or 'unknown outcome'}{status}: message "
    if case.name == "segment.exchange":
        said = "no response" if case.is_unanswered else "an answer without status"
        return f"HTTP {case.status} from " if case.status is not None else f"{said} from "
    about = truncate(other_name or "event without a name", _SHORT_BYTES)
    return f"{about}: message " if case.origin else about


def true_time(event: Event) -> str:
    """Behind a shifted record's body: at one and the same time, Loki drops all but one of equal lines."""
    properties = event.properties
    return printable(
        f", occurred {truncate(properties.occurred_at or properties.logged_at or '', _SHORT_BYTES)}"
    )


# -- what is its own ---------------------------------------------------------------------------------------

OWN = (
    "messaging.message.id",
    "segment.destination_exchange.id",
    "segment.occurred_at",
    "segment.logged_at",
    "segment.report_lag_ms",
)
"""The attributes that `own_values` are, in their order."""

Own = tuple[str | None, str | None, str | None, str | None, int | None]


def own_values(event: Event) -> Own:
    """The event's own values: four texts and a number; None is an absent one."""
    properties = event.properties
    message_id = exchange_id = None
    if isinstance(properties, AttemptProperties):
        message_id, exchange_id = properties.message_id, properties.destination_exchange_id
    elif isinstance(properties, ExchangeProperties):
        exchange_id = properties.destination_exchange_id
    else:
        message_id = properties.message_id
    logged_at = properties.logged_at
    lag_ms = None if logged_at is None else (event.logged_ns - event.occurred_ns) // 1_000_000
    if len(event.raw) <= MAX_VALUE_BYTES:
        return message_id, exchange_id, properties.occurred_at, logged_at, lag_ms
    return _cut(message_id), _cut(exchange_id), _cut(properties.occurred_at), _cut(logged_at), lag_ms


def _cut(text: str | None) -> str | None:
    return None if text is None else truncate(text)


def present(*pairs: tuple[str, Value | None]) -> Attributes:
    """Those that are there. Ids and times are cut, too: somebody else chose them."""
    return [
        (key, truncate(value) if isinstance(value, str) else value)
        for key, value in pairs
        if value is not None
    ]
