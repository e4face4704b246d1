"""One record's bytes → an Event, or a BadRecord that says why not.

The typed structs are tried first. What they refuse without being broken JSON (an unknown field, event
or version, a wrong-typed optional field) is read leniently: whatever fits stays typed, all else becomes
extras. Both ways make the same Event of a record that both can read. Required fields and times follow
what Segment's page shows; see the README's table of reason codes.
"""

import json
import math
import re
from functools import cache, lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from faillog_otel.events.model import (
    Answer,
    AttemptProperties,
    BadRecord,
    DeliveryAttemptLogged,
    DeliveryExchangeLogged,
    DestinationExchangeLogged,
    ErrorLogged,
    ErrorProperties,
    Event,
    ExchangeProperties,
    OtherProperties,
    Properties,
    Reason,
    Request,
    Response,
    Routing,
)
from faillog_otel.events.syntax import (
    DEEPEST_NESTING,
    MOST_VALUES,
    holds_too_much,
    is_too_deep,
    why_not_json,
)
from faillog_otel.events.times import parse_rfc3339

Known = ErrorLogged | DeliveryAttemptLogged | DestinationExchangeLogged | DeliveryExchangeLogged

Fitting = TypeVar("Fitting", bound=msgspec.Struct)

_known = msgspec.json.Decoder(Known)
_anything = msgspec.json.Decoder()

_PROPERTIES: dict[str, type[Properties]] = {
    "Error Logged": ErrorProperties,
    "Delivery Attempt Logged": AttemptProperties,
    "Destination Exchange Logged": ExchangeProperties,
    "Delivery Exchange Logged": ExchangeProperties,
}
_REQUIRED: dict[type[Properties], tuple[str, ...]] = {
    ErrorProperties: ("message_id",),
    AttemptProperties: ("message_id", "attempt"),
    ExchangeProperties: ("destination_exchange_id",),
    OtherProperties: (),
}
_ENVELOPE = ("type", "event", "version", "properties")


LONGEST_PLAIN_BYTES = 2048
_BACKSLASH, _DELETE = b"\\\x7f"  # numbers: looked for as such, a byte is found many times quicker


def decode(raw: bytes) -> Event | BadRecord:
    """Reads one record. Never raises, whatever the bytes are."""
    if len(raw) <= LONGEST_PLAIN_BYTES and raw.isascii() and _BACKSLASH not in raw and _DELETE not in raw:
        try:
            properties: Properties = _known.decode(raw).properties
            routing = _shallow_routing(bytes(properties.routed))
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
            detail = f"the record holds more than {MOST_VALUES} values"
            return _too_deep(raw) or BadRecord("too_many_values", detail, raw)
        read = _read_strictly(raw) or _too_deep(raw) or _read_loosely(raw)
    except UnicodeDecodeError as error:
        return BadRecord("invalid_utf8", f"not UTF-8 at byte {error.start}", raw)
    except (ValueError, RecursionError) as error:  # msgspec.DecodeError is a ValueError
        return _too_deep(raw) or BadRecord("invalid_json", why_not_json(raw, str(error)), raw)
    return read if isinstance(read, BadRecord) else _complete(raw, *read)


_Read = tuple[Properties, dict[str, Any], Routing]
"""With what the structs do not know."""


def _read_strictly(raw: bytes) -> _Read | BadRecord | None:
    """None where the structs refuse it. Raises ValueError and RecursionError."""
    try:
        properties: Properties = _known.decode(raw).properties
    except msgspec.ValidationError:
        return None
    routed = bytes(properties.routed)
    routing = _shallow_routing(routed)
    if (routing is None or not _is_flat(properties)) and (bad := _too_deep(raw)):
        return bad
    return properties, {}, routing or _read_routing(routed)


def _read_loosely(raw: bytes) -> _Read | BadRecord:
    """What fits the structs, and what does not. Raises ValueError."""
    value = _read_anything(raw)
    if not isinstance(value, dict):
        return BadRecord("not_an_object", "a record is a JSON object; this is not", raw)
    properties, extras = _fitted(value)
    routed = bytes(properties.routed)
    return properties, extras, _shallow_routing(routed) or _read_routing(routed)


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


def _read_anything(raw: bytes) -> Any:
    """The JSON value. A number that no float and no integer type holds is its own text. Raises ValueError."""
    try:
        return _anything.decode(raw)
    except msgspec.ValidationError:
        value = json.loads(
            raw, parse_int=_integer_or_text, parse_float=_float_or_text, parse_constant=_refuse
        )
        msgspec.json.encode(value)  # json lets half characters pass, and they cannot be written
        return value


_LONGEST_INTEGER = 400
"""Digits; a longer one is only ever shown, and cut, as text."""


def _integer_or_text(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else digits


def _float_or_text(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


EXCHANGE_MARKS = (b"Exchange Logged", b"\\u")
"""An exchange holds one of these: its name, or an escape in it."""


def may_be_exchange(raw: bytes) -> bool:
    """False only for records that are no exchange: a first look that spares decoding most of them."""
    return any(mark in raw for mark in EXCHANGE_MARKS)


def answer_of(event: Event) -> tuple[str, Answer] | None:
    """An exchange's id and what the destination said in it; None for other events."""
    properties = event.properties
    if not isinstance(properties, ExchangeProperties) or properties.destination_exchange_id is None:
        return None
    response = properties.response_from_destination
    answer = Answer(response.status if response else None, event.reason)
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
    if said is not UNSET:
        extras["reason"] = said
    if routing.leftover is not None:
        extras["routed"] = routing.leftover
    if len(extras) == 1 and said is not UNSET and said.strip():
        reason, extras = _plain_reason(said), {}
    elif extras:
        reason = _take_reason(extras)
    return Event(properties, raw, occurred_ns, logged_ns, routing, reason, extras, is_plain and not extras)


# -- the lenient way ---------------------------------------------------------------------------------


def _fitted(value: dict[str, Any]) -> tuple[Properties, dict[str, Any]]:
    name, version = value.get("event"), value.get("version")
    of_type = _PROPERTIES.get(name) if isinstance(name, str) else None
    extras = {key: item for key, item in value.items() if key not in _ENVELOPE}
    if value.get("type") not in (None, "observability"):
        extras["type"] = value["type"]
    if of_type is None or version not in (None, "v1"):
        of_type = OtherProperties
        extras |= {"event": name, "version": version}
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
        if field is None:
            rest[key] = item
        elif item is None:
            continue
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
    """By their names in JSON; a reason is looked for among the extras, see `_take_reason`."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(of_type)}
    fields.pop("reason", None)
    return fields


_NESTED: dict[str, type[Request] | type[Response]] = {
    "requestToDestination": Request,
    "responseFromDestination": Response,
}


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.title() for other in others)


# -- parts ---------------------------------------------------------------------------------------------


_LONGEST_ROUTING = 1024
_MOST_BRACKETS = 90
"""Of these alone, no record that is flat otherwise is too deep."""


@lru_cache(maxsize=4096)
def _shallow_routing(raw: bytes) -> Routing | None:
    """`routed`, read once for each of its spellings: a file has few. Raises ValueError.

    None where it is long, or may be deep.
    """
    if len(raw) > _LONGEST_ROUTING or raw.count(b"[") + raw.count(b"{") > _MOST_BRACKETS:
        return None
    return _read_routing(raw)


def _read_routing(raw: bytes) -> Routing:
    value = _read_anything(raw) if raw else None
    if value is None:
        return Routing()
    to = _parties(value, "to")
    source = _parties(value, "from")
    destinations = [name for kind, name in to if kind == "destination"]
    plain = {
        key: [{"type": kind, "id": name} for kind, name in parties]
        for key, parties in (("to", to), ("from", source))
        if parties or (isinstance(value, dict) and value.get(key) == [])
    }
    return Routing(
        to_id=to[0][1] if to else None,
        from_id=source[0][1] if source else None,
        destination_id=next(iter(destinations), to[0][1] if to else None),
        destination_ids=tuple(name for _, name in to),
        leftover=None if value == plain else value,
    )


def _parties(routed: Any, key: str) -> list[tuple[Any, str]]:
    parties = routed.get(key) if isinstance(routed, dict) else None
    return [
        (party.get("type"), party["id"])
        for party in (parties if isinstance(parties, list) else ())
        if isinstance(party, dict) and isinstance(party.get("id"), str)
    ]


# -- the reason ----------------------------------------------------------------------------------------

_TEXTS = ("reason", "discardreason", "failurereason", "errorreason", "errormessage", "error")
_INNER_TEXTS = ("message", *_TEXTS)
_CODES = ("reasoncode", "errorcode", "failurecode", "code")
_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")


def _plain_reason(text: str) -> Reason:
    return _cached_reason(text) if len(text) <= 256 else Reason(text, _as_code(text))


@lru_cache(maxsize=1024)
def _cached_reason(text: str) -> Reason:
    return Reason(text, _as_code(text))


def _take_reason(extras: dict[str, Any]) -> Reason | None:
    """The reason, from any field that by its name holds one.

    Segment's page promises such a field and does not show its name. It is looked for beside the other
    properties, then inside the response; what is inside the request is a part of its body. A text that
    stands beside the other properties is taken out of the extras, for it travels as the reason.
    """
    for holder in (extras, extras.get("responseFromDestination")):
        if isinstance(holder, dict) and (found := _reason_in(holder, _TEXTS)):
            key, reason = found
            if holder is extras and extras[key] == reason.text:
                del extras[key]
            return reason
    return None


def _reason_in(holder: dict[str, Any], texts: tuple[str, ...]) -> tuple[str, Reason] | None:
    """The field that holds the reason, and the reason; `error` may be an object with a message."""
    fields = {key.lower().replace("_", "").replace("-", ""): key for key in holder}
    coded = [(fields[name], _as_code(holder[fields[name]])) for name in _CODES if name in fields]
    code_field, code = next((found for found in coded if found[1]), ("", None))
    for key in (fields[name] for name in texts if name in fields):
        value = holder[key]
        if isinstance(value, str) and value.strip():
            return key, Reason(value, code or _as_code(value))
        if isinstance(value, dict) and (inner := _reason_in(value, _INNER_TEXTS)):
            return key, inner[1]
    return (code_field, Reason(code, code)) if code else None


def _as_code(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and _CODE.fullmatch(value) else None
