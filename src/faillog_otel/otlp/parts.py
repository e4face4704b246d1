"""The parts of records that events share, encoded once and remembered.

What follows from the routing, from the outcome and from the reason is kept in caches that are independent of
one another: 400 routes and nine attempts take 409 entries, not 3,600, and a reason that no other event has
takes no entry from the others.
"""

from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct

from faillog_otel.config import MappingConfig
from faillog_otel.events.failure import group_number
from faillog_otel.events.model import Reason, Routing
from faillog_otel.otlp import wire
from faillog_otel.otlp.attributes import size_of
from faillog_otel.otlp.mapping import named_destination, span_name
from faillog_otel.otlp.rules import (
    TIME_SHIFTED,
    KindRules,
    Varying,
    batch_attributes,
    failure_group,
    group_attributes,
    outcome_fields,
    reason_fields,
    url_attributes,
)
from faillog_otel.otlp.wire import (
    VARINT,
    Attributes,
    SpanKind,
    StatusCode,
    key_value,
    message_field,
    repeated_field,
    tag,
    text_field,
    varint,
)
from faillog_otel.text import printable

MAX_ROUTES = 7168
"""Entries in the cache of routings, of about 1 KiB each; the next two are those of the other caches."""
MAX_OUTCOMES = 4096
MAX_REASONS = 1024
MAX_REMEMBERED = 512
"""Characters. What is longer is encoded each time, so that the caches stay within some MiB."""


class EncodedAttributes(Struct, frozen=True, gc=False):
    """Attributes as fields of a log record and as fields of a span."""

    log: bytes
    span: bytes
    count: int
    size: int
    """What limits count: the bytes of names and values."""


class EncodedDestination(Struct, frozen=True, gc=False):
    """`DestinationFields`, encoded."""

    attributes: EncodedAttributes
    name_and_kind: bytes
    """Of the span."""
    event_name: bytes
    topic: bytes
    route: bytes


class EncodedOutcome(Struct, frozen=True, gc=False):
    """`OutcomeFields`, encoded."""

    before_url: EncodedAttributes
    after_url: EncodedAttributes
    failed: bool
    severity: bytes
    status: bytes
    """Of the span, if there is no reason."""
    sentence: bytes
    before_id: bytes
    after_id: bytes
    verb: str
    code: str | None


class EncodedReason(Struct, frozen=True, gc=False):
    """`ReasonFields`, encoded."""

    attributes: EncodedAttributes
    short: bytes
    status: bytes
    """Of a span that has failed."""
    group_text: str | None


class EncodedGroup(Struct, frozen=True, gc=False):
    """The attribute of a failure group, encoded."""

    attributes: EncodedAttributes
    number: int
    """Its id as a signed 64-bit number; 0 for an event that is no failure."""


def _encode(attributes: Attributes, *, has_span: bool = True) -> EncodedAttributes:
    key_values = [key_value(key, value) for key, value in attributes]
    return EncodedAttributes(
        repeated_field(wire.LOG_ATTRIBUTES, key_values),
        repeated_field(wire.SPAN_ATTRIBUTES, key_values) if has_span else b"",
        len(attributes),
        sum(map(size_of, attributes)),
    )


NO_ATTRIBUTES = _encode([])
NO_REASON = EncodedReason(NO_ATTRIBUTES, b"", b"", None)
NO_GROUP = EncodedGroup(NO_ATTRIBUTES, 0)
SHIFTED = _encode(TIME_SHIFTED)


class SharedParts:
    """The parts for one configuration."""

    def __init__(self, config: MappingConfig) -> None:
        self._config = config
        self._remembered_destination = lru_cache(MAX_ROUTES)(self._destination)
        self._remembered_outcome = lru_cache(MAX_OUTCOMES)(self._outcome)
        self._remembered_reason = lru_cache(MAX_REASONS)(self._reason)
        self._remembered_url = lru_cache(MAX_REASONS)(self._url)
        self.group = lru_cache(MAX_OUTCOMES)(_group)
        """Returns a failure group: of destination, subscription, code, status and text of the reason."""
        self.batch = lru_cache(MAX_REASONS)(_batch)
        """Returns the attribute for the number of messages of an exchange."""

    def destination(
        self, rules: KindRules, verb: str, routing: Routing, read_name: str | None, *, is_short: bool
    ) -> EncodedDestination:
        """Returns what they decide. `verb`: the outcome's. `is_short`: ids are surely short."""
        is_short = is_short or (
            _length((*routing.destination_ids, routing.from_id, routing.subscription_id)) <= MAX_REMEMBERED
        )
        if routing.leftover is None and is_short and len(read_name or "") <= MAX_REMEMBERED:
            return self._remembered_destination(rules, verb, routing, read_name)
        return self._destination(rules, verb, routing, read_name)

    def outcome(self, rules: KindRules, varying: Varying, *, is_short: bool) -> EncodedOutcome:
        """Returns what the outcome decides. `is_short`: the event's own texts are surely short."""
        code = varying.code  # perhaps that of another event
        is_short = is_short or _length((*varying.own, varying.method)) <= MAX_REMEMBERED
        if is_short and (code is None or len(code) <= MAX_REMEMBERED):
            return self._remembered_outcome(rules, varying)
        return self._outcome(rules, varying)

    def reason(self, reason: Reason) -> EncodedReason:
        """Returns what the reason decides."""
        is_short = len(reason.text) <= MAX_REMEMBERED
        return self._remembered_reason(reason) if is_short else self._reason(reason)

    def url(self, url: str) -> EncodedAttributes:
        """Returns the attributes of a request's URL."""
        return self._remembered_url(url) if len(url) <= MAX_REMEMBERED else self._url(url)

    def _destination(
        self, rules: KindRules, verb: str, routing: Routing, read_name: str | None
    ) -> EncodedDestination:
        fields = named_destination(rules, routing, self._config, read_name)
        kind = rules.kind
        span_kind = tag(wire.SPAN_KIND, VARINT) + varint(SpanKind[kind.span]) if kind.span else b""
        return EncodedDestination(
            _encode(fields.attributes, has_span=kind.span is not None),
            text_field(wire.SPAN_NAME, span_name(verb, fields.name)) + span_kind,
            text_field(wire.LOG_EVENT_NAME, kind.event_name),
            fields.topic.encode(),
            fields.route,
        )

    def _outcome(self, rules: KindRules, varying: Varying) -> EncodedOutcome:
        fields = outcome_fields(varying, rules, self._config)
        number = tag(wire.LOG_SEVERITY_NUMBER, VARINT) + varint(fields.severity)
        return EncodedOutcome(
            before_url=_encode(fields.before_url),
            after_url=_encode(fields.after_url),
            failed=fields.failed,
            severity=number + text_field(wire.LOG_SEVERITY_TEXT, fields.severity.name),
            status=_status(fields.status_message, failed=fields.failed),
            sentence=fields.sentence.encode(),
            before_id=fields.before_id.encode(),
            after_id=fields.after_id.encode(),
            verb=fields.verb,
            code=fields.code,
        )

    def _reason(self, reason: Reason) -> EncodedReason:
        fields = reason_fields(reason, self._config)
        return EncodedReason(
            _encode(fields.attributes),
            printable(fields.short).encode(),
            _status(fields.short, failed=True),
            fields.group_text,
        )

    def _url(self, url: str) -> EncodedAttributes:
        return _encode(url_attributes(url, self._config))


def _group(
    destination: str | None, subscription: str | None, code: str | None, status: int | None, text: str | None
) -> EncodedGroup:
    routing = Routing(destination_id=destination, subscription_id=subscription)
    group = failure_group(routing, code, status, text)
    return EncodedGroup(_encode(group_attributes(group)), group_number(group))


def _batch(message_count: int) -> EncodedAttributes:
    return _encode(batch_attributes(message_count))


def _length(values: Iterable[object]) -> int:
    """Returns the characters of the texts among the values."""
    return sum([len(value) for value in values if isinstance(value, str)])


def _status(message: str, *, failed: bool) -> bytes:
    code = tag(wire.STATUS_CODE, VARINT) + varint(StatusCode.ERROR) if failed else b""
    return message_field(wire.SPAN_STATUS, text_field(wire.STATUS_MESSAGE, message) + code)
