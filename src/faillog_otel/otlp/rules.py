"""The parts of records: fields that depend on the routing or on the outcome, and an event's own values.

Many events share the first two. Each rule is here once, as plain data: `mapping` joins the parts, `encoder`
encodes shared parts once. What differs between kinds of events is a method of `KindRules`; its subclasses
are in `mapping`. All texts except ids are redacted, and all are truncated.
"""

from operator import attrgetter
from typing import Any, Literal
from urllib.parse import urlsplit

from msgspec import UNSET, Struct
from msgspec.structs import asdict, replace

from faillog_otel import propagation
from faillog_otel.config import Bodies, MappingConfig
from faillog_otel.events.model import Event, ExchangeAnswer, Kind, Reason, RecordContext, Routing
from faillog_otel.otlp.attributes import MAX_VALUE_BYTES, redact_and_truncate, truncate
from faillog_otel.otlp.origin import Origin, TraceOrigin
from faillog_otel.otlp.wire import Attributes, Severity, Value
from faillog_otel.reasons import ReasonClass, classify, code_of_text
from faillog_otel.text import printable

# -- fields that depend on the routing -------------------------------------------------------------------

_MAX_SHORT_BYTES = 256


class DestinationFields(Struct, frozen=True):
    """The fields that depend on an event's kind and routing. `topic` begins the log record's body."""

    attributes: Attributes
    name: str
    """Its name, or its id if it has none; empty without a destination."""
    topic: str
    route: bytes
    """The routing as it is hashed for an attempt's span id."""


def destination_fields(rules: "KindRules", routing: Routing, names: dict[str, str]) -> DestinationFields:
    """Returns the fields of all events of this kind with this routing. `names`: of destinations, by id."""
    known, subscription = routing.destination_id, routing.subscription_id
    shown = truncate(names.get(known, known)) if known else ""
    several = routing.destination_ids if len(routing.destination_ids) > 1 else None
    attributes = present(
        ("messaging.system", "segment"),
        ("messaging.operation.name", "deliver"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", shown if known else None),
        ("messaging.destination.subscription.name", names.get(subscription or "") or None),
        ("segment.event", rules.kind.event_name),
        ("segment.source.id", routing.from_id),
        ("segment.destination.id", known),
        ("segment.destination.ids", several),
        ("segment.subscription.id", subscription),
    )
    topic = f"{rules.topic} to {shown}" if shown else rules.topic
    route = propagation.route(routing.to_id, routing.from_id)
    return DestinationFields(attributes, shown, printable(topic), route)


# -- fields that depend on the outcome -------------------------------------------------------------------


MIN_FAILING_STATUS = 400
"""A smaller status code says nothing about the cause of a failure."""


class Varying(Struct, frozen=True, gc=False):
    """What the fields of an outcome depend on: short values, no text for people. Hashed for each event."""

    own: tuple[Any, ...]
    """The values of `KindRules.own_facts`."""
    status: int | None
    code: str | None
    text_code: str | None
    """The code that the reason means, where the status says nothing."""
    has_reason: bool
    origin: TraceOrigin | None
    method: str | None


class DeliveryFacts(Struct, frozen=True, kw_only=True, gc=False):
    """The same by name. The fields that only some kinds have are those that `KindRules.own_facts` names."""

    status: int | None
    code: str | None
    """The code of the reason."""
    text_code: str | None
    has_reason: bool
    origin: TraceOrigin | None
    """The origin of the message's trace; None for an event that is not about a message."""
    method: str | None
    """The request's method."""
    feature: str | None = None
    attempt: int | None = None
    outcome: str | None = None
    discarded: bool | None = None
    is_unanswered: bool = False
    """Whether an exchange has no response at all; a response without a status code counts as a response."""
    other_name: str | None = None
    """The name of an unknown event."""


def status_and_reason(
    event: Event, rules: "KindRules", context: RecordContext, bodies: Bodies
) -> tuple[int | None, Reason | None]:
    """Returns the status code and the reason of an event. `bodies` may withhold a reason from a body."""
    status, reason = rules.status_and_reason(event, context.answer)
    if reason is not None and reason.in_body is True and bodies == "none":
        return status, None
    return status, reason


def varying_of(
    event: Event,
    rules: "KindRules",
    context: RecordContext,
    status: int | None,
    reason: Reason | None,
    *,
    origin: Origin | None,
) -> Varying:
    """Returns what an event's outcome depends on. `status` and `reason`: from `status_and_reason`."""
    request = event.properties.request_to_destination
    says_nothing = reason is not None and (status is None or status < MIN_FAILING_STATUS)
    return Varying(
        rules.own_values_of(event),
        status,
        None if reason is None else reason.code,
        _text_code(reason, context) if reason is not None and says_nothing else None,
        reason is not None,
        None if origin is None else origin.name,
        None if request is None else request.method,
    )


def _text_code(reason: Reason, context: RecordContext) -> str | None:
    """Returns the code that the reason means, or else the one that the exchange says."""
    code, answer = code_of_text(reason.text), context.answer
    if code or answer is None or answer.reason is None or answer.reason.in_body is True:
        return code
    return code_of_text(answer.reason.code or answer.reason.text)


class OutcomeFields(Struct, frozen=True):
    """The fields that depend on the outcome. In the body: `sentence`, the reason, `before_id`, the id."""

    before_url: Attributes
    """The attributes before those of the request's URL; `after_url`: the others."""
    after_url: Attributes
    failed: bool
    severity: Severity
    verb: str
    """The first word of the span's name."""
    status_message: str
    """Of a failed span without a reason."""
    sentence: str
    before_id: str
    after_id: str
    code: str | None
    """The canonical code of a failure (`reasons`), or the one it gives; None if it has none."""
    reason_class: ReasonClass
    retryable: bool | None


def outcome_fields(varying: Varying, rules: "KindRules", config: MappingConfig) -> OutcomeFields:
    """Returns the fields of all events of a kind with these values."""

    def redacted(text: str | None) -> str | None:
        return redact_and_truncate(text, config.redaction_key)[0] if text else None

    by_name = asdict(varying)
    facts = DeliveryFacts(**dict(zip(rules.own_facts, by_name.pop("own"), strict=True)), **by_name)
    failed, method, outcome = rules.has_failed(facts), rules.method(facts.method), redacted(facts.outcome)
    other_name = truncate(redacted(facts.other_name) or "", _MAX_SHORT_BYTES)
    details = ", ".join(rules.details(replace(facts, outcome=outcome, other_name=other_name)))
    sentence = rules.predicate(facts) + (f": {details}" if details else "")
    id_name = rules.body_id_name(facts)
    attempt = "" if facts.attempt is None else f", attempt {facts.attempt}"
    status = f"HTTP {facts.status}" if facts.status is not None else rules.without_status
    found = classify(facts.code, facts.status, facts.text_code, facts.feature)
    code = redacted(found.code or facts.code)
    return OutcomeFields(
        before_url=present(("http.request.method", method), ("http.response.status_code", facts.status)),
        after_url=present(
            ("error.type", (code or "_OTHER") if failed else None),
            ("segment.reason.class", found.reason_class if failed else None),
            ("segment.reason.retryable", found.retryable if failed else None),
            ("segment.delivery.attempt", facts.attempt),
            ("segment.delivery.outcome", outcome),
            ("segment.discarded", facts.discarded),
            ("segment.trace.origin", facts.origin),
            ("segment.feature", redacted(facts.feature)),
        ),
        failed=failed,
        severity=rules.severity(facts) if failed else Severity.INFO,
        verb=rules.verb(method),
        status_message=status if failed else "",
        sentence=printable(sentence + (", " if details else ": ") if facts.has_reason else sentence),
        before_id=f" ({id_name} " if id_name else "",
        after_id=f"{attempt})" if id_name else "",
        code=code,
        reason_class=found.reason_class,
        retryable=found.retryable,
    )


# -- fields that depend on a text ------------------------------------------------------------------------


class ReasonFields(Struct, frozen=True):
    """The fields that depend on the reason. `short` is in the body and in the status of a failed span."""

    attributes: Attributes
    short: str
    group_text: str | None
    """What all reasons of a failure group have in common (`reasons.normalise`)."""


def reason_fields(reason: Reason, config: MappingConfig) -> ReasonFields:
    """Returns the fields of all events with this reason."""
    from faillog_otel.reason_text import normalise  # its patterns take 15 ms to compile

    text, _ = redact_and_truncate(reason.text, config.redaction_key)
    reporter = None if reason.reporter is UNSET else reason.reporter
    attributes = present(("segment.reason", text or None), ("segment.error.reporter", reporter))
    return ReasonFields(attributes, truncate(text, _MAX_SHORT_BYTES), normalise(text) or None)


NO_REASON = ReasonFields([], "", None)


def url_attributes(url: str, config: MappingConfig) -> Attributes:
    """Returns the attributes of a request's URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    full, _ = redact_and_truncate(url, config.redaction_key)
    address = redact_and_truncate(host, config.redaction_key)[0] if host else None
    return present(("url.full", full), ("server.address", address), ("server.port", port))


def failure_group(routing: Routing, code: str | None, status: int | None, text: str | None) -> str:
    """Returns `segment.failure.group`: 16 hex characters. `text`: `ReasonFields.group_text`."""
    key = routing.destination_id, routing.subscription_id, code, status, text
    return propagation.digest("segment.failure", *key)[:8].hex()


def group_attributes(group: str) -> Attributes:
    """Returns the attribute of a failure."""
    return [("segment.failure.group", group)]


TIME_SHIFTED: Attributes = [("segment.time_shifted", True)]


def batch_attributes(message_count: int | None) -> Attributes:
    """Returns the attribute of an exchange whose number of attempts is known."""
    return [] if message_count is None else [("messaging.batch.message_count", message_count)]


# -- fields that depend on the kind ----------------------------------------------------------------------

_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY")
)


class KindRules:
    """The rules for the records of one kind of event. This class serves kinds without rules of their own.

    A log record's body is one sentence: `TOPIC to DESTINATION PREDICATE: DETAILS, REASON (message ID, attempt
    N)`. What an event does not have is left out.
    """

    body_id: Literal[0, 1] = 0
    """The index in `own_values` of the id in the log record's body."""
    topic = "Event"
    """The first words of a log record's body."""
    without_status = "no response"
    """The status message of a failed span that has neither reason nor status code."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.own_facts: tuple[str, ...] = ("feature", *kind.varies)
        """The names in `DeliveryFacts` of what `own_values_of` returns."""
        self._read_own = attrgetter("feature_name", *kind.varies)

    def own_values_of(self, event: Event) -> tuple[Any, ...]:
        """Returns the facts that are fields of this kind of event, in the order of `own_facts`."""
        own = self._read_own(event.properties)
        return own if self.kind.varies else (own,)

    def status_and_reason(
        self, event: Event, _answer: ExchangeAnswer | None
    ) -> tuple[int | None, Reason | None]:
        """Returns the event's status code and reason. `_answer` is that of its exchange."""
        response = event.properties.response_from_destination
        return response.status if response is not None else None, event.reason

    def has_failed(self, _facts: DeliveryFacts) -> bool:
        """Returns whether the event is a failure; it sets a span's status and a log record's severity."""
        return False

    def severity(self, _facts: DeliveryFacts) -> Severity:
        """Returns the severity of a failure."""
        return Severity.WARN

    def method(self, method: str | None) -> str | None:
        """Returns `http.request.method`: a known method, `_OTHER`, or None."""
        if method is None:
            return None
        return method.upper() if method.upper() in _METHODS else "_OTHER"

    def verb(self, _method: str | None) -> str:
        """Returns the first word of the span's name. `_method`: what `method` returned."""
        return "deliver"

    def body_id_name(self, facts: DeliveryFacts) -> str:
        """Returns the noun before the body's id: `message` or `exchange`; empty for an event without one."""
        return "message" if facts.origin else ""

    def predicate(self, _facts: DeliveryFacts) -> str:
        """Returns the result for the body, with its separator: ` failed`; empty if `details` hold it."""
        return ""

    def details(self, facts: DeliveryFacts) -> list[str]:
        """Returns the parts of the body before the reason, among them the status code."""
        return [] if facts.status is None else [f"HTTP {facts.status}"]

    def ids(self, _event: Event, origin: Origin | None, _route: bytes) -> tuple[bytes, bytes]:
        """Returns trace id and span id; the span id is empty if the event does not become a span.

        `_route`: from `propagation.route`.
        """
        return origin.trace_id if origin else b"", b""


# -- the event's own values ------------------------------------------------------------------------------

OWN = (
    "messaging.message.id",
    "segment.destination_exchange.id",
    "segment.occurred_at",
    "segment.logged_at",
    "segment.report_lag_ms",
)
"""The attributes of `own_values`, in the same order."""

Own = tuple[str | None, str | None, str | None, str | None, int | None]


def own_values(event: Event) -> Own:
    """Returns the event's own values: four texts and a number; None for an absent one."""
    properties = event.properties
    message_id, exchange_id = properties.message_id, properties.destination_exchange_id
    occurred_at, logged_at = properties.occurred_at, properties.logged_at
    lag_ms = None if logged_at is None else (event.logged_ns - event.occurred_ns) // 1_000_000
    if len(event.raw) <= MAX_VALUE_BYTES:
        return message_id, exchange_id, occurred_at, logged_at, lag_ms
    return _short(message_id), _short(exchange_id), _short(occurred_at), _short(logged_at), lag_ms


def occurred_suffix(event: Event) -> str:
    """Returns the end of a shifted record's body. It keeps lines distinct: Loki drops equal ones."""
    properties = event.properties
    return printable(
        f", occurred {truncate(properties.occurred_at or properties.logged_at or '', _MAX_SHORT_BYTES)}"
    )


def _short(text: str | None) -> str | None:
    return None if text is None else truncate(text)


def present(*pairs: tuple[str, Value | None]) -> Attributes:
    """Returns the attributes that have a value. Texts are truncated, also ids and times."""
    return [
        (key, truncate(value) if isinstance(value, str) else value)
        for key, value in pairs
        if value is not None
    ]
