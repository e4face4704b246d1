"""The kinds of events (`KINDS`), and the structs of one record, its reason, its position and its context.

A kind is a struct of `properties` and an entry in `KINDS`; the rules for its records are in
`otlp.mapping.RULES`. The structs refuse unknown fields, which `decode` then keeps as extras. Source of the
fields: Segment's page "Failure Log Collection". No struct can be part of a reference cycle (`gc=False`).
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from faillog_otel.config import FailOn

Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Status = Annotated[int, Meta(ge=100, le=999)]
"""An HTTP status code has three digits (RFC 9110, section 15)."""

# -- properties ------------------------------------------------------------------------------------------


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """`requestToDestination`. Segment's page shows only headers and body."""

    method: str | None = None
    url: str | None = None
    headers: Any = None
    body: Any = None


class Response(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """`responseFromDestination`."""

    status: Status | None = None
    headers: Any = None
    body: Any = None


class Properties(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False, rename="camel"):
    """`properties`: the fields that all kinds have. A field is None where it is absent."""

    routed: Raw = Raw()
    occurred_at: str | None = None
    logged_at: str | None = None
    request_to_destination: Request | None = None
    response_from_destination: Response | None = None
    feature_name: str | None = None
    """The part of Segment that wrote the event: `delivery`, `destinationInsertFunction`."""
    reason: str | None = None
    """The most likely name for the reason: Segment's page mentions none; see `Event.reason`."""

    @property
    def message_id(self) -> str | None:
        """The id of the event's message; always None for a kind without this field."""
        return None

    @property
    def destination_exchange_id(self) -> str | None:
        """The id of the event's exchange; always None for a kind without this field."""
        return None


class ErrorProperties(Properties, frozen=True, kw_only=True):
    """An error of one message: it is retried, discarded, ... `attempt` counts from 1."""

    message_id: str | None = None
    attempt: Int64 | None = None
    discarded: bool | None = None


class AttemptProperties(Properties, frozen=True, kw_only=True):
    """One attempt to deliver one message. `attempt` counts from 1."""

    message_id: str | None = None
    attempt: Int64 | None = None
    outcome: str | None = None
    destination_exchange_id: str | None = None


class ExchangeProperties(Properties, frozen=True, kw_only=True):
    """One HTTP exchange with a destination, for a batch of messages: it has no `messageId`."""

    destination_exchange_id: str | None = None


class OtherProperties(Properties, frozen=True, kw_only=True):
    """The fields of an event of another name or version."""

    message_id: str | None = None


def exchange_of(properties: Properties) -> str | None:
    """Returns the exchange that the event of one message is part of; None if there is none."""
    return None if properties.message_id is None else properties.destination_exchange_id


# -- versions --------------------------------------------------------------------------------------------

_MAJOR_1 = re.compile(r"\s*[vV]?0*1(?![0-9])")


def is_version_1(version: object) -> bool:
    """Returns whether a record's `version` is known: `1`, `"1"`, `"v1"`, `"v1.x"` or absent (None).

    Segment's page has `"v1"`; its first draft had the number 1.
    """
    if isinstance(version, str):
        return _MAJOR_1.match(version) is not None
    if isinstance(version, bool):
        return False
    return version is None or (isinstance(version, int | float) and 1 <= version < 2)


# -- kinds -----------------------------------------------------------------------------------------------


def _never(_properties: Any, _extras: dict[str, Any]) -> bool:
    return False


class Kind(Struct, frozen=True, kw_only=True, eq=False):
    """One kind of event. Kinds are compared and hashed by identity."""

    name: str
    """In counts (`events` of the summary) and in metrics."""
    event_name: str
    """Of its log records."""
    segment_names: tuple[str, ...] = ()
    """The values of `event` by which Segment names it."""
    properties: type[Properties]
    required: tuple[str, ...] = ()
    """The fields that a record must have (else `missing_field`)."""
    varies: tuple[str, ...] = ()
    """The fields of its struct, besides ids and times, that its records depend on."""
    span: Literal["CONSUMER", "CLIENT"] | None = None
    """The kind of its span; None for a kind without spans."""
    is_bad: Callable[[Any, dict[str, Any]], bool] = _never
    """Returns whether an event is bad, from its properties and extras. `bad_count` counts bad events."""
    bad_count: Literal["failures", "discarded", "unknown_version"] | None = None
    fail_on: FailOn | None = None
    """The condition of `--fail-on` that a bad event meets."""


def _is_discarded(properties: ErrorProperties, extras: dict[str, Any]) -> bool:
    """Returns True for any value but false: a discard that Segment writes as "yes" must be counted."""
    discarded = properties.discarded or extras.get("discarded")
    return bool(discarded) and str(discarded).lower() != "false"


def _is_failure(properties: AttemptProperties, extras: dict[str, Any]) -> bool:
    """Returns True for any outcome but success, also for an unknown one."""
    outcome = properties.outcome or extras.get("outcome")
    return outcome is not None and str(outcome).lower() != "success"


def _is_unknown_version(_properties: OtherProperties, extras: dict[str, Any]) -> bool:
    return not is_version_1(extras.get("version"))


ERROR = Kind(
    name="error",
    event_name="segment.error",
    segment_names=("Error Logged",),
    properties=ErrorProperties,
    required=("message_id", "occurred_at"),
    varies=("attempt", "discarded"),
    is_bad=_is_discarded,
    bad_count="discarded",
    fail_on="discarded",
)
ATTEMPT = Kind(
    name="attempt",
    event_name="segment.attempt",
    segment_names=("Delivery Attempt Logged",),
    properties=AttemptProperties,
    required=("message_id", "attempt", "occurred_at"),
    varies=("attempt", "outcome"),
    span="CONSUMER",
    is_bad=_is_failure,
    bad_count="failures",
    fail_on="failure",
)
EXCHANGE = Kind(
    name="exchange",
    event_name="segment.exchange",
    segment_names=("Destination Exchange Logged", "Delivery Exchange Logged"),  # Segment's page has both
    properties=ExchangeProperties,
    required=("destination_exchange_id", "occurred_at"),
    span="CLIENT",
)
OTHER = Kind(
    name="other",
    event_name="segment.other",
    properties=OtherProperties,
    is_bad=_is_unknown_version,
    bad_count="unknown_version",
)
"""Events of other names and versions: they are forwarded, but not judged."""

KINDS = (ERROR, ATTEMPT, EXCHANGE, OTHER)
KIND_OF: dict[type[Properties], Kind] = {kind.properties: kind for kind in KINDS}

# -- one record -------------------------------------------------------------------------------------------


class Routing(Struct, frozen=True, gc=False, cache_hash=True):
    """`properties.routed`: the source and the destination of an event."""

    to_id: str | None = None
    """The first `to` that is not a subscription: a field of the attempt's span id."""
    from_id: str | None = None
    """The first `from`: `segment.source.id`."""
    destination_id: str | None = None
    """The first `to` of type destination, else `to_id`: it names the span."""
    destination_ids: tuple[str, ...] = ()
    """Every `to` that is not a subscription."""
    subscription_id: str | None = None
    """The first `to` of type subscription: the mapping of an Actions destination."""
    leftover: Any = None
    """All of `routed` if it holds more than ids, or is not of this form; else None."""


class Reason(Struct, frozen=True, gc=False, cache_hash=True):
    """Why something failed: a text for people, and a code if the event gives one."""

    text: str
    code: str | None = None
    reporter: str | UnsetType = UNSET
    """Whose fault it is, if the event has it: INTEGRATIONS (Segment's) or DESTINATION."""
    in_body: bool | UnsetType = UNSET
    """True if it comes from a response body; otherwise absent, so that kept entries stay as they are."""


class Event(Struct, frozen=True, gc=False):
    """One decoded event.

    `raw` holds its own JSON bytes unchanged, without outer white space. Times are nanoseconds since 1970;
    `logged_ns` equals `occurred_ns` if there is no `loggedAt`. `extras` holds unknown fields unchanged; their
    paths start inside `properties`.
    """

    properties: Properties
    raw: bytes
    occurred_ns: int
    logged_ns: int
    routing: Routing
    reason: Reason | None
    extras: dict[str, Any]

    @property
    def kind(self) -> Kind:
        """Its entry in `KINDS`."""
        return KIND_OF[type(self.properties)]


ReasonCode = Literal[
    "invalid_json",
    "invalid_utf8",
    "not_an_object",
    "missing_field",
    "bad_time",
    "too_long",
    "too_deep",
    "too_many_values",
    "truncated_gzip",
    "truncated_zstd",
    "damaged_gzip",
    "damaged_zstd",
    "trailing_garbage",
    "too_much_content",
    "foreign_format",
    "refused",
    "too_large",
    "rejected",
    "pending",
]
"""Why a record is kept; `kept_record.REASONS` has the meaning of each code, and the action."""


class BadRecord(Struct, frozen=True, gc=False):
    """One record that cannot be decoded: a reason code for machines, and a sentence for people."""

    reason: ReasonCode
    detail: str
    raw: bytes
    replayable: bool = True
    """False if the record is too long to keep, and `raw` is only its beginning."""


class Place(Struct, frozen=True, gc=False):
    """The position of a record. `line` counts from 1; `offset` is in bytes of the decompressed file."""

    file: str
    line: int
    offset: int


class ExchangeAnswer(Struct, frozen=True, gc=False, cache_hash=True):
    """A destination's answer in one exchange."""

    status: int | None
    reason: Reason | None


class RecordContext(Struct, frozen=True, gc=False):
    """What the mapping needs besides the record itself, to encode it to the same bytes again.

    `reference_ns` is the "now" of the time policy, in nanoseconds since 1970, fixed once for each file.
    """

    reference_ns: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    answer: ExchangeAnswer | None = None
    traceparent: str | None = None
    """The application's context, if the exchange's request names it next to the attempt's messageId."""
    message_count: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    """Of an exchange: how many attempts of it the same index has."""
    destination_name: str | None = None
    """The name of the event's destination, as Segment had it when the event was downloaded."""


class Form(Struct, frozen=True):
    """The format of a file's content: JSON Lines, an array, concatenated values, or something else."""

    kind: Literal["lines", "array", "values", "foreign"]
    detail: str = ""
    """For people: the format of `foreign` content."""


JSON_LINES = Form("lines")


class Survey(Struct, frozen=True):
    """What is known of a downloaded object: the form and the limit determine its number of records."""

    form: Form
    max_content_bytes: int | None
    """The bytes to which a compressed file may unpack; None for any number."""
    is_indexed: bool = False
    """Whether the index of its exchanges was saved."""
