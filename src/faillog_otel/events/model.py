"""Segment's three observability events as typed structs, and what is known of one event besides.

The structs refuse what they do not know, so that `decode` notices it; nothing that they refuse is lost:
it travels on as extras. Source: Segment's page "Failure Log Collection". None of them can be a part of a
cycle, so the garbage collector need not look at them (`gc=False`).
"""

import re
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

# -- model ---------------------------------------------------------------------------------------------------


Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Status = Annotated[int, Meta(ge=100, le=999)]
"""An HTTP status code has three digits (RFC 9110, section 15)."""


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """`requestToDestination`: Segment's page shows body and headers; method and URL may come."""

    method: str | None = None
    url: str | None = None
    headers: Any = None
    body: Any = None


class Response(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """`responseFromDestination`."""

    status: Status | None = None
    headers: Any = None
    body: Any = None


class _Properties(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False, rename="camel"):
    routed: Raw = Raw()
    occurred_at: str | None = None
    logged_at: str | None = None
    request_to_destination: Request | None = None
    response_from_destination: Response | None = None
    feature_name: str | None = None
    """Which part of Segment writes: `delivery`, `destinationInsertFunction`."""
    reason: str | None = None
    """The likeliest name of the field that Segment's page promises and does not show; see `Event.reason`."""


class ErrorProperties(_Properties, frozen=True, kw_only=True):
    """One event of a source hit an error: a retry, a discard, ... `attempt` counts from 1."""

    message_id: str | None = None
    attempt: Int64 | None = None
    discarded: bool | None = None


class AttemptProperties(_Properties, frozen=True, kw_only=True):
    """One attempt to deliver one event. `attempt` counts from 1."""

    message_id: str | None = None
    attempt: Int64 | None = None
    outcome: str | None = None
    destination_exchange_id: str | None = None


class ExchangeProperties(_Properties, frozen=True, kw_only=True):
    """One HTTP exchange with a destination, for a batch of events: it has no `messageId`."""

    destination_exchange_id: str | None = None


class OtherProperties(_Properties, frozen=True, kw_only=True):
    """What may be known of an event of another name or version."""

    message_id: str | None = None


class _Envelope(Struct, frozen=True, kw_only=True, gc=False, tag_field="event", forbid_unknown_fields=True):
    type: Literal["observability"] = "observability"
    version: str | int | float | None = None
    """See `is_version_1`."""


class ErrorLogged(_Envelope, frozen=True, kw_only=True, tag="Error Logged"):
    """`Error Logged`."""

    properties: ErrorProperties


class DeliveryAttemptLogged(_Envelope, frozen=True, kw_only=True, tag="Delivery Attempt Logged"):
    """`Delivery Attempt Logged`."""

    properties: AttemptProperties


class DestinationExchangeLogged(_Envelope, frozen=True, kw_only=True, tag="Destination Exchange Logged"):
    """`Destination Exchange Logged`."""

    properties: ExchangeProperties


class DeliveryExchangeLogged(
    DestinationExchangeLogged, frozen=True, kw_only=True, tag="Delivery Exchange Logged"
):
    """The name that Segment's page once gives to the exchange: an alias."""


Properties = ErrorProperties | AttemptProperties | ExchangeProperties | OtherProperties


class Routing(Struct, frozen=True, gc=False, cache_hash=True):
    """`properties.routed`, read: where an event was going and where it came from."""

    to_id: str | None = None
    """The first `to` that is no subscription: a field of the attempt's span id."""
    from_id: str | None = None
    """The first `from`: `segment.source.id`."""
    destination_id: str | None = None
    """The first `to` of type destination, else `to_id`: it names the span."""
    destination_ids: tuple[str, ...] = ()
    """Every `to` that is no subscription."""
    subscription_id: str | None = None
    """The first `to` of type subscription: the mapping of an Actions destination."""
    leftover: Any = None
    """All of `routed`, where it says more than ids (or something else entirely); else None."""


class Reason(Struct, frozen=True, gc=False, cache_hash=True):
    """Why something failed: a text for people, and a code where the text is one or one stands beside it."""

    text: str
    code: str | None = None
    reporter: str | UnsetType = UNSET
    """Whose fault it is, where the event says so: INTEGRATIONS (Segment's) or DESTINATION."""
    in_body: bool | UnsetType = UNSET
    """True where a response's body says it; absent otherwise, so that kept entries stay as they are."""


class Event(Struct, frozen=True, gc=False):
    """One event that was understood.

    `raw` are its own JSON bytes as they came, without outer white space. Times are nanoseconds since
    1970; `logged_ns` equals `occurred_ns` where Segment wrote no `loggedAt`. `extras` holds what the
    structs do not know, as it was: its paths start inside `properties`. `is_plain`: all its texts are
    printable ASCII without quotes and backslashes, it is short, and has no extras, request or response.
    """

    properties: Properties
    raw: bytes
    occurred_ns: int
    logged_ns: int
    routing: Routing
    reason: Reason | None
    extras: dict[str, Any]
    is_plain: bool = False


class BadRecord(Struct, frozen=True, gc=False):
    """One record that was not understood: a reason code for machines, and a sentence for people."""

    reason: str
    detail: str
    raw: bytes
    replayable: bool = True
    """False where `raw` is not the whole record: it was too long to keep."""


class Place(Struct, frozen=True, gc=False):
    """Where a record stands. `line` counts from 1; `offset` is in bytes of the decompressed file."""

    file: str
    line: int
    offset: int


class ExchangeAnswer(Struct, frozen=True, gc=False, cache_hash=True):
    """What a destination said in one exchange."""

    status: int | None
    reason: Reason | None


class RecordContext(Struct, frozen=True, gc=False):
    """What a record learns from its surroundings, needed to make the same bytes of it again.

    `reference_ns` is the "now" of the time policy, nanoseconds since 1970, fixed once for each file.
    """

    reference_ns: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    answer: ExchangeAnswer | None = None
    traceparent: str | None = None
    """The application's context, where the exchange's request names it beside the attempt's messageId."""


class Form(Struct, frozen=True):
    """What a file's content is: JSON Lines, an array, values one after the other, or something else."""

    kind: Literal["lines", "array", "values", "foreign"]
    detail: str = ""
    """For people: what else it is."""


JSON_LINES = Form("lines")


class Survey(Struct, frozen=True):
    """What decides how many records a file's content has."""

    form: Form
    max_content_bytes: int | None
    """How many bytes a compressed file may unpack to; None for any number."""


# -- version -------------------------------------------------------------------------------------------------
#
# Which versions of an event are understood: those with the major version 1, however it is written.


_MAJOR_1 = re.compile(r"\s*[vV]?0*1(?![0-9])")


def is_version_1(version: object) -> bool:
    """Whether a record's `version` is `1`, `"1"`, `"v1"`, `"v1.x"` or absent (None).

    Segment's page says `"v1"`, its first draft said the number 1.
    """
    if isinstance(version, str):
        return _MAJOR_1.match(version) is not None
    if isinstance(version, bool):
        return False
    return version is None or (isinstance(version, int | float) and 1 <= version < 2)
