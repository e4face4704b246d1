"""Decodes the bytes of one record to an Event, or to a BadRecord with the reason why that is impossible.

The typed structs are tried first. JSON that they refuse (an unknown field, event or version, an optional
field of a wrong type) is decoded leniently: fields that fit are typed, all others become extras. Both ways
give the same Event for a record that both can decode.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache, lru_cache, reduce
from operator import or_
from typing import Any, Literal, TypeVar

import msgspec

from faillog_otel.clock import parse_rfc3339
from faillog_otel.events.model import (
    KIND_OF,
    KINDS,
    OTHER,
    BadRecord,
    Event,
    ExchangeAnswer,
    Kind,
    Properties,
    Request,
    Response,
    Routing,
    is_version_1,
)
from faillog_otel.events.reason import plain_reason, reason_of_results, take_reason
from faillog_otel.text import (
    MAX_DEPTH,
    MAX_VALUES,
    holds_too_much,
    is_too_deep,
    parse_json_lossless,
    why_not_json,
    without_null,
)

# -- routing ---------------------------------------------------------------------------------------------

_MAX_ROUTING = 1024
_MAX_BRACKETS = 90
"""With at most this many brackets in `routed`, a record that is flat otherwise is not too deep."""


@lru_cache(maxsize=4096)  # a file has few different values
def shallow_routing(raw: bytes) -> Routing | None:
    """Reads `routed`; None if it is long or may be deep. Raises ValueError."""
    if len(raw) > _MAX_ROUTING or raw.count(b"[") + raw.count(b"{") > _MAX_BRACKETS:
        return None
    return read_routing(raw)


def read_routing(raw: bytes) -> Routing:
    """Reads any `routed`; null counts as absent. Raises ValueError."""
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


# -- the envelope ----------------------------------------------------------------------------------------


class Envelope(
    msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="event", forbid_unknown_fields=True
):
    """A record of a known kind: `event` names the kind, `properties` has its fields."""

    type: Literal["observability"] = "observability"
    version: str | int | float | None = None
    """See `is_version_1`."""
    properties: Properties


_KIND_NAMED = {name: kind for kind in KINDS for name in kind.segment_names}
_ENVELOPES: list[Any] = [
    msgspec.defstruct(name, [("properties", kind.properties)], bases=(Envelope,), tag=name)
    for name, kind in _KIND_NAMED.items()
]
_known = msgspec.json.Decoder[Envelope](reduce(or_, _ENVELOPES))
_FIELDS = ("event", *Envelope.__struct_fields__)

# -- lenient decoding ------------------------------------------------------------------------------------

Fitting = TypeVar("Fitting", bound=msgspec.Struct)


def decode_lenient(value: dict[str, Any]) -> tuple[Properties, dict[str, Any]]:
    """Returns the fields that fit the structs, and all others by name."""
    name, version = value.get("event"), value.get("version")
    kind = _KIND_NAMED.get(name, OTHER) if isinstance(name, str) else OTHER
    extras = {key: item for key, item in value.items() if key not in _FIELDS}
    if value.get("type") not in (None, "observability"):
        extras["type"] = value["type"]
    if kind is OTHER or (version != "v1" and not is_version_1(version)):
        kind = OTHER
        extras |= {key: value[key] for key in ("event", "version") if key in value}
    inside = value.get("properties")
    if not isinstance(inside, dict):
        if inside is not None:
            extras["properties"] = inside
        inside = {}
    properties, unknown = _fit(kind.properties, inside)
    for key, item in unknown.items():
        while key in extras:  # next to `properties` there is a field of the same name
            key = f"properties.{key}"  # noqa: PLW2901  # its name among the extras
        extras[key] = item
    return properties, extras


def _fit(of_type: type[Fitting], value: dict[str, Any]) -> tuple[Fitting, dict[str, Any]]:
    """Returns a struct with the fields that fit it, and all other fields."""
    fields = _fields(of_type)
    known = {key: item for key, item in value.items() if item is not None and key in fields}
    if "routed" in known:
        known["routed"] = msgspec.Raw(msgspec.json.encode(known["routed"]))
    with suppress(msgspec.ValidationError):  # one by one they take several times as long
        whole = msgspec.convert(known, of_type)
        return whole, {key: item for key, item in value.items() if item is not None and key not in fields}
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
            # The rules for bodies and headers apply to a value of any type: it is never a plain extra.
            fitting[field.name], inner_rest = _fit(nested, item if isinstance(item, dict) else {"body": item})
            if inner_rest:
                rest[key] = inner_rest
        else:
            try:
                fitting[field.name] = msgspec.convert(known[key], field.type)
            except msgspec.ValidationError:
                rest[key] = item
    return of_type(**fitting), rest


@cache
def _fields(of_type: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Returns the fields by their JSON names, without `reason`, which `take_reason` finds in the extras."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(of_type)}
    fields.pop("reason", None)
    return fields


_NESTED: dict[str, type[Request] | type[Response]] = {
    "requestToDestination": Request,
    "responseFromDestination": Response,
}


# -- decoding --------------------------------------------------------------------------------------------


def decode(raw: bytes) -> Event | BadRecord:
    """Decodes one record. Never raises."""
    try:
        # msgspec accepts invalid UTF-8 and deep nesting in fields that it skips.
        raw.isascii() or raw.decode()
        if len(raw) > MAX_VALUES and holds_too_much(raw):
            detail = f"the record holds more than {MAX_VALUES} values"
            return _too_deep(raw) or BadRecord("too_many_values", detail, raw)
        read = _read_strictly(raw) or _too_deep(raw) or _read_loosely(raw)
    except UnicodeDecodeError as error:
        return BadRecord("invalid_utf8", f"not UTF-8 at byte {error.start}", raw)
    except (ValueError, RecursionError) as error:  # msgspec.DecodeError is a ValueError
        return _too_deep(raw) or BadRecord("invalid_json", why_not_json(raw, str(error)), raw)
    if isinstance(read, BadRecord):
        return read
    return _complete(raw, *read)


_Read = tuple[Properties, dict[str, Any], Routing]
"""Properties, extras, routing."""


def _read_strictly(raw: bytes) -> _Read | BadRecord | None:
    """Reads a record that fits the structs; None if it does not. Raises ValueError, RecursionError."""
    try:
        known = _known.decode(raw)
    except msgspec.DecodeError:
        return None
    if known.version != "v1" and not is_version_1(known.version):
        return None
    properties = known.properties
    routed = bytes(properties.routed)
    routing = shallow_routing(routed)
    if (routing is None or not _is_flat(properties)) and (bad := _too_deep(raw)):
        return bad
    return properties, {}, routing or read_routing(routed)


def _read_loosely(raw: bytes) -> _Read | BadRecord:
    """Reads any JSON object: fields that fit the structs, and extras. Raises ValueError."""
    value = parse_json_lossless(raw)
    if not isinstance(value, dict):
        return BadRecord("not_an_object", "the record is JSON, but not an object", raw)
    properties, extras = decode_lenient(value)
    if b"null" in raw:
        extras = without_null(extras)
    routed = bytes(properties.routed)
    return properties, extras, shallow_routing(routed) or read_routing(routed)


def _too_deep(raw: bytes) -> BadRecord | None:
    if not is_too_deep(raw):
        return None
    return BadRecord("too_deep", f"nested more than {MAX_DEPTH} levels deep", raw)


def _is_flat(properties: Properties) -> bool:
    """Whether headers and bodies, which may be any JSON, are not nested; a text counts as flat."""
    request, response = properties.request_to_destination, properties.response_from_destination
    if request is None and response is None:
        return True
    return all(
        part is None
        or (
            (part.body is None or isinstance(part.body, str))
            and (part.headers is None or _are_texts(part.headers))
        )
        for part in (request, response)
    )


def _are_texts(headers: Any) -> bool:
    return isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values())


class Head(msgspec.Struct, frozen=True, gc=False):
    """What says which event a record is, and of an attempt its exchange; the other fields are skipped."""

    event: str | None = None
    version: str | int | float | None = None
    properties: "_Ids | None" = None

    @property
    def kind(self) -> Kind:
        """The kind that `decode` finds, unless it refuses the record."""
        kind = OTHER if self.event is None else _KIND_NAMED.get(self.event, OTHER)
        return kind if self.version == "v1" or is_version_1(self.version) else OTHER

    @property
    def exchange_id(self) -> str | None:
        """Its `destinationExchangeId`."""
        return None if self.properties is None else self.properties.destination_exchange_id


class _Ids(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    destination_exchange_id: str | None = None


_head = msgspec.json.Decoder(Head)


def read_heads(raws: Sequence[bytes]) -> Sequence[Head | None]:
    """Returns the heads of these records; None for one whose kind only `decode` can tell."""
    lines = b"\n".join(raws)
    # msgspec also reads values that are not one a line; then an object begins or ends elsewhere.
    if lines.count(b"}\n{") == len(raws) - 1:
        with suppress(ValueError, RecursionError):  # one of them is unusual
            found = _head.decode_lines(lines)
            if len(found) == len(raws):
                return found
    return [_head_of(raw) for raw in raws]


def _head_of(raw: bytes) -> Head | None:
    try:
        return _head.decode(raw)
    except (ValueError, RecursionError):
        return None


def answer_of(event: Event) -> tuple[str, ExchangeAnswer] | None:
    """Returns an exchange's id and its answer; None for other events, which are about one message or none."""
    properties = event.properties
    exchange_id = properties.destination_exchange_id
    if exchange_id is None or properties.message_id is not None:
        return None
    response = properties.response_from_destination
    return exchange_id, ExchangeAnswer(response.status if response else None, event.reason)


def _complete(
    raw: bytes, properties: Properties, extras: dict[str, Any], routing: Routing
) -> Event | BadRecord:
    for name in KIND_OF[type(properties)].required:
        if getattr(properties, name) is None:
            return _missing(name, raw)
    logged_at = properties.logged_at
    occurred_at = logged_at if properties.occurred_at is None else properties.occurred_at
    if occurred_at is None:
        return _missing("occurred_at", raw)
    occurred_ns = parse_rfc3339(occurred_at)
    logged_ns = occurred_ns if logged_at is None else parse_rfc3339(logged_at)
    if occurred_ns is None or logged_ns is None:
        name = "occurredAt" if occurred_ns is None else "loggedAt"
        return BadRecord("bad_time", f"{name} is not an RFC 3339 time from 1970 to 2262", raw)
    text, reason = properties.reason, None
    if text is not None:
        extras["reason"] = text
    if routing.leftover is not None:
        extras["routed"] = routing.leftover
    if len(extras) == 1 and text is not None and text.strip():
        reason, extras = plain_reason(text), {}
    elif extras:
        reason = take_reason(extras)
    if reason is None and (extras or properties.response_from_destination is not None):
        reason = reason_of_results(extras, properties.response_from_destination)
    return Event(properties, raw, occurred_ns, logged_ns, routing, reason, extras)


def _missing(name: str, raw: bytes) -> BadRecord:
    first, *others = name.split("_")
    field = first + "".join(other.title() for other in others)
    return BadRecord("missing_field", f"properties.{field} is missing or of a wrong type", raw)
