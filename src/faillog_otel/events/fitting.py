"""The lenient way to read a record: whatever fits the structs stays typed, all else becomes extras."""

from functools import cache
from typing import Any, TypeVar

import msgspec

from faillog_otel.events.model import (
    AttemptProperties,
    ErrorProperties,
    ExchangeProperties,
    OtherProperties,
    Properties,
    Request,
    Response,
)
from faillog_otel.events.version import is_version_1

Fitting = TypeVar("Fitting", bound=msgspec.Struct)

_PROPERTIES: dict[str, type[Properties]] = {
    "Error Logged": ErrorProperties,
    "Delivery Attempt Logged": AttemptProperties,
    "Destination Exchange Logged": ExchangeProperties,
    "Delivery Exchange Logged": ExchangeProperties,
}
_ENVELOPE = ("type", "event", "version", "properties")


def fitted(value: dict[str, Any]) -> tuple[Properties, dict[str, Any]]:
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
