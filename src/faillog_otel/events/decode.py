"""One record's bytes → an Event, or a BadRecord that says why not.

The typed structs are tried first. What they refuse without being broken JSON (an unknown field, event
or version, a wrong-typed optional field) is read leniently: whatever fits stays typed, all else becomes
extras. Both ways make the same Event of a record that both can read. Required fields and times follow
what Segment's page shows; see docs/reference/reason-codes.md.
"""

from functools import cache, lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from faillog_otel.clock import parse_rfc3339
from faillog_otel.events.model import (
    AttemptProperties,
    BadRecord,
    DeliveryAttemptLogged,
    DeliveryExchangeLogged,
    DestinationExchangeLogged,
    ErrorLogged,
    ErrorProperties,
    Event,
    ExchangeAnswer,
    ExchangeProperties,
    OtherProperties,
    Properties,
    Request,
    Response,
    Routing,
    is_version_1,
)
from faillog_otel.events.reason import plain_reason, reason_of_results, take_reason
from faillog_otel.json_syntax import (
    DEEPEST_NESTING,
    MAX_VALUES,
    holds_too_much,
    is_too_deep,
    parse_json_lossless,
    why_not_json,
    without_null,
)

# -- routing -------------------------------------------------------------------------------------------------
#
# `properties.routed` → a Routing: where an event was going, and where it came from.


_MAX_ROUTING = 1024
_MAX_BRACKETS = 90
"""Of these alone, no record that is flat otherwise is too deep."""


@lru_cache(maxsize=4096)
def shallow_routing(raw: bytes) -> Routing | None:
    """`routed`, read once for each of its spellings: a file has few. Raises ValueError.

    None where it is long, or may be deep.
    """
    if len(raw) > _MAX_ROUTING or raw.count(b"[") + raw.count(b"{") > _MAX_BRACKETS:
        return None
    return read_routing(raw)


def read_routing(raw: bytes) -> Routing:
    """What it says, whatever it is; what is null is absent. Raises ValueError."""
    value = without_null(parse_json_lossless(raw)) if raw else None
    if value is None:
        return Routing()
    if isinstance(value, dict):
        value = {key: _without_gaps(item) for key, item in value.items()}
    to = _parties(value, "to")
    source = _parties(value, "from")
    subscriptions = [name for kind, name in to if kind == "subscription"]
    destinations = [(kind, name) for kind, name in to if kind != "subscription"]
    first = destinations[0][1] if destinations else None
    plain = {
        key: [{"type": kind, "id": name} for kind, name in parties]
        for key, parties in (("to", to), ("from", source))
        if parties or (isinstance(value, dict) and value.get(key) == [])
    }
    return Routing(
        to_id=first,
        from_id=source[0][1] if source else None,
        destination_id=next((name for kind, name in destinations if kind == "destination"), first),
        destination_ids=tuple(name for _, name in destinations),
        subscription_id=subscriptions[0] if subscriptions else None,
        leftover=None if value == plain and len(subscriptions) <= 1 else value,
    )


def _without_gaps(value: Any) -> Any:
    return [item for item in value if item is not None] if isinstance(value, list) else value


def _parties(routed: Any, key: str) -> list[tuple[Any, str]]:
    parties = routed.get(key) if isinstance(routed, dict) else None
    return [
        (party.get("type"), party["id"])
        for party in (parties if isinstance(parties, list) else ())
        if isinstance(party, dict) and isinstance(party.get("id"), str)
    ]


# -- fitting -------------------------------------------------------------------------------------------------
#
# The lenient way to read a record: whatever fits the structs stays typed, all else becomes extras.


Fitting = TypeVar("Fitting", bound=msgspec.Struct)

_PROPERTIES: dict[str, type[Properties]] = {
    "Error Logged": ErrorProperties,
    "Delivery Attempt Logged": AttemptProperties,
    "Destination Exchange Logged": ExchangeProperties,
    "Delivery Exchange Logged": ExchangeProperties,
}
_ENVELOPE = ("type", "event", "version", "properties")


def decode_lenient(value: dict[str, Any]) -> tuple[Properties, dict[str, Any]]:
    """What of a record the structs can hold, and the rest by its names."""
    name, version = value.get("event"), value.get("version")
    of_type = _PROPERTIES.get(name) if isinstance(name, str) else None
    extras = {key: item for key, item in value.items() if key not in _ENVELOPE}
    if value.get("type") not in (None, "observability"):
        extras["type"] = value["type"]
    if of_type is None or (version != "v1" and not is_version_1(version)):
        of_type = OtherProperties
        extras |= {key: value[key] for key in ("event", "version") if key in value}
    inside = value.get("properties")
    if not isinstance(inside, dict):
        if inside is not None:
            extras["properties"] = inside
        inside = {}
    properties, unknown = _fit(of_type, inside)
    for key, item in unknown.items():
        while key in extras:  # beside `properties` stands a field of the same name
            key = f"properties.{key}"  # noqa: PLW2901  # the name under which it travels
        extras[key] = item
    return properties, extras


def _fit(of_type: type[Fitting], value: dict[str, Any]) -> tuple[Fitting, dict[str, Any]]:
    """What of `value` the struct can hold, and the rest."""
    fields = _fields(of_type)
    fitting: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, item in value.items():
        field = fields.get(key)
        nested = _NESTED.get(key)
        if item is None:
            continue
        if field is None:
            rest[key] = item
        elif nested is not None:
            # Whatever stands there is under the rules for bodies and headers, never a plain extra.
            fitting[field.name], inner_rest = _fit(nested, item if isinstance(item, dict) else {"body": item})
            if inner_rest:
                rest[key] = inner_rest
        elif key == "routed":
            fitting[field.name] = msgspec.Raw(msgspec.json.encode(item))
        else:
            try:
                fitting[field.name] = msgspec.convert(item, field.type)
            except msgspec.ValidationError:
                rest[key] = item
    return of_type(**fitting), rest


@cache
def _fields(of_type: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """By their names in JSON; a reason is looked for among the extras, see `take_reason`."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(of_type)}
    fields.pop("reason", None)
    return fields


_NESTED: dict[str, type[Request] | type[Response]] = {
    "requestToDestination": Request,
    "responseFromDestination": Response,
}


# -- decode --------------------------------------------------------------------------------------------------


Known = ErrorLogged | DeliveryAttemptLogged | DestinationExchangeLogged | DeliveryExchangeLogged

_known = msgspec.json.Decoder(Known)

_REQUIRED: dict[type[Properties], tuple[str, ...]] = {
    ErrorProperties: ("message_id",),
    AttemptProperties: ("message_id", "attempt"),
    ExchangeProperties: ("destination_exchange_id",),
    OtherProperties: (),
}

MAX_PLAIN_BYTES = 2048
_BACKSLASH, _DELETE = b"\\\x7f"  # numbers: looked for as such, a byte is found many times quicker


def decode(raw: bytes) -> Event | BadRecord:
    """Reads one record. Never raises, whatever the bytes are."""
    if len(raw) <= MAX_PLAIN_BYTES and raw.isascii() and _BACKSLASH not in raw and _DELETE not in raw:
        try:
            known = _known.decode(raw)
            properties: Properties = known.properties
            is_known = known.version == "v1" or is_version_1(known.version)
            routing = shallow_routing(bytes(properties.routed)) if is_known else None
        except (ValueError, RecursionError):
            routing = None  # looked at closely below
        if (
            routing is not None
            and properties.request_to_destination is None
            and properties.response_from_destination is None
        ):
            return _complete(raw, properties, {}, routing, is_plain=True)
    return _read_closely(raw)


def _read_closely(raw: bytes) -> Event | BadRecord:
    try:
        # Inside fields that are skipped over, msgspec lets invalid UTF-8 and deep nesting pass.
        raw.isascii() or raw.decode()
        if holds_too_much(raw):
            detail = f"the record holds more than {MAX_VALUES} values"
            return _too_deep(raw) or BadRecord("too_many_values", detail, raw)
        read = _read_strictly(raw) or _too_deep(raw) or _read_loosely(raw)
    except UnicodeDecodeError as error:
        return BadRecord("invalid_utf8", f"not UTF-8 at byte {error.start}", raw)
    except (ValueError, RecursionError) as error:  # msgspec.DecodeError is a ValueError
        return _too_deep(raw) or BadRecord("invalid_json", why_not_json(raw, str(error)), raw)
    found = read if isinstance(read, BadRecord) else _complete(raw, *read)
    if isinstance(found, BadRecord) or found.reason is not None:
        return found
    reason = reason_of_results(found.extras, found.properties.response_from_destination)
    return found if reason is None else replace(found, reason=reason)


_Read = tuple[Properties, dict[str, Any], Routing]
"""With what the structs do not know."""


def _read_strictly(raw: bytes) -> _Read | BadRecord | None:
    """None where the structs refuse it. Raises ValueError and RecursionError."""
    try:
        known = _known.decode(raw)
    except msgspec.DecodeError:
        return None
    if known.version != "v1" and not is_version_1(known.version):
        return None
    properties: Properties = known.properties
    routed = bytes(properties.routed)
    routing = shallow_routing(routed)
    if (routing is None or not _is_flat(properties)) and (bad := _too_deep(raw)):
        return bad
    return properties, {}, routing or read_routing(routed)


def _read_loosely(raw: bytes) -> _Read | BadRecord:
    """What fits the structs, and what does not. Raises ValueError."""
    value = parse_json_lossless(raw)
    if not isinstance(value, dict):
        return BadRecord("not_an_object", "a record is a JSON object; this is not", raw)
    properties, extras = decode_lenient(value)
    if b"null" in raw:
        extras = without_null(extras)
    routed = bytes(properties.routed)
    return properties, extras, shallow_routing(routed) or read_routing(routed)


def _too_deep(raw: bytes) -> BadRecord | None:
    if not is_too_deep(raw):
        return None
    return BadRecord("too_deep", f"nested more than {DEEPEST_NESTING} levels deep", raw)


def _is_flat(properties: Properties) -> bool:
    """Whether nothing is nested where anything may stand: a text has no depth, whatever it holds."""
    for part in (properties.request_to_destination, properties.response_from_destination):
        if part is not None and not (
            (part.body is None or isinstance(part.body, str))
            and (part.headers is None or _are_texts(part.headers))
        ):
            return False
    return True


def _are_texts(headers: Any) -> bool:
    return isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values())


EXCHANGE_MARKS = (b"Exchange Logged", b"\\u")
"""An exchange holds one of these: its name, or an escape in it."""


def may_be_exchange(raw: bytes) -> bool:
    """False only for records that are no exchange: a first look that spares decoding most of them."""
    return any(mark in raw for mark in EXCHANGE_MARKS)


def answer_of(event: Event) -> tuple[str, ExchangeAnswer] | None:
    """An exchange's id and what the destination said in it; None for other events."""
    properties = event.properties
    if not isinstance(properties, ExchangeProperties) or properties.destination_exchange_id is None:
        return None
    response = properties.response_from_destination
    answer = ExchangeAnswer(response.status if response else None, event.reason)
    return properties.destination_exchange_id, answer


def _complete(
    raw: bytes, properties: Properties, extras: dict[str, Any], routing: Routing, *, is_plain: bool = False
) -> Event | BadRecord:
    for name in _REQUIRED[type(properties)]:
        if getattr(properties, name) is None:
            return BadRecord("missing_field", f"properties.{_camel(name)} is missing or of a wrong type", raw)
    occurred_at, logged_at = properties.occurred_at, properties.logged_at
    if occurred_at is None and isinstance(properties, OtherProperties):
        occurred_at = logged_at
    if occurred_at is None:
        return BadRecord("missing_field", "properties.occurredAt is missing or of a wrong type", raw)
    occurred_ns = parse_rfc3339(occurred_at)
    logged_ns = occurred_ns if logged_at is None else parse_rfc3339(logged_at)
    if occurred_ns is None or logged_ns is None:
        name = "occurredAt" if occurred_ns is None else "loggedAt"
        return BadRecord("bad_time", f"{name} is no RFC 3339 time from 1970 to 2262", raw)
    said, reason = properties.reason, None
    if said is not None:
        extras["reason"] = said
    if routing.leftover is not None:
        extras["routed"] = routing.leftover
    if len(extras) == 1 and said is not None and said.strip():
        reason, extras = plain_reason(said), {}
    elif extras:
        reason = take_reason(extras)
    return Event(properties, raw, occurred_ns, logged_ns, routing, reason, extras, is_plain and not extras)


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.title() for other in others)
