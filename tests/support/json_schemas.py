"""The JSON Schemas of docs/reference/schemas: what a value violates, and which of their keys it holds."""

import json
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from msgspec import Struct
from referencing import Registry
from referencing.jsonschema import DRAFT202012

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "schemas"
SUFFIX = ".schema.json"
SCHEMAS: dict[str, Any] = {
    path.name.removesuffix(SUFFIX): json.loads(path.read_text("utf-8"))
    for path in sorted(FOLDER.glob(f"*{SUFFIX}"))
}
"""Name, such as `status` → the schema."""

Location = tuple[str, str]
"""A file, and a JSON pointer in it."""

_REGISTRY: Registry[Any] = Registry().with_resources(
    (name + SUFFIX, DRAFT202012.create_resource(schema)) for name, schema in SCHEMAS.items()
)
_FORMATS = FormatChecker(formats=())


@_FORMATS.checks("date", raises=ValueError)
def _is_date(value: object) -> bool:
    return not isinstance(value, str) or bool(date.fromisoformat(value))


@_FORMATS.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


def problems(name: str, value: object) -> list[str]:
    """The violations of the schema of this name; empty for a valid value."""
    return [
        f"{error.json_path}: {error.message}" for error in _validator(name + SUFFIX, "").iter_errors(value)
    ]


def all_keys(name: str) -> set[Location]:
    """Each key that a schema describes; not those of another schema that it refers to."""
    return {
        (name + SUFFIX, f"{pointer}/properties/{key}")
        for pointer, schema in _subschemas(SCHEMAS[name], "")
        for key in schema.get("properties", ())
    }


class Key(Struct, frozen=True):
    """A key in a value, and what the schema says about it."""

    location: Location
    path: tuple[str | int, ...]
    """From the value's root to the key, the key included."""
    is_null: bool
    is_required: bool


def keys_in(name: str, value: object) -> Iterator[Key]:
    """The keys of a valid value that a schema describes; not those of maps, such as collection ids."""
    return _keys_in(name + SUFFIX, "", value, ())


def resolve(file: str, pointer: str) -> tuple[str, str, Any]:
    """The file, the pointer and the schema at a location; a `$ref` is followed."""
    schema = SCHEMAS[file.removesuffix(SUFFIX)]
    for part in pointer.split("/")[1:]:
        schema = schema[int(part)] if isinstance(schema, list) else schema[part]
    if "$ref" in schema:
        other, _, fragment = schema["$ref"].partition("#")
        return resolve(other or file, fragment)
    return file, pointer, schema


def _validator(file: str, pointer: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"{file}#{pointer}"}, registry=_REGISTRY, format_checker=_FORMATS)


def _subschemas(schema: Any, pointer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All schemas in a schema that have properties."""
    if isinstance(schema, dict):
        if "properties" in schema and "type" in schema:
            yield pointer, schema
        for key, value in schema.items():
            yield from _subschemas(value, f"{pointer}/{key}")
    elif isinstance(schema, list):
        for number, value in enumerate(schema):
            yield from _subschemas(value, f"{pointer}/{number}")


def _keys_in(file: str, pointer: str, value: object, path: tuple[str | int, ...]) -> Iterator[Key]:
    file, pointer, schema = resolve(file, pointer)
    for keyword in ("anyOf", "oneOf"):
        for number in range(len(schema.get(keyword, ()))):
            branch = f"{pointer}/{keyword}/{number}"
            if _validator(file, branch).is_valid(value):
                yield from _keys_in(file, branch, value, path)
    if isinstance(value, list):
        for number, item in enumerate(value if "items" in schema else ()):
            yield from _keys_in(file, f"{pointer}/items", item, (*path, number))
    elif isinstance(value, dict):
        for key, item in value.items():
            inner = (*path, key)
            if key in schema.get("properties", ()):
                location = file, f"{pointer}/properties/{key}"
                yield Key(location, inner, item is None, key in schema.get("required", ()))
                yield from _keys_in(*location, item, inner)
            elif isinstance(schema.get("additionalProperties"), dict):
                yield from _keys_in(file, f"{pointer}/additionalProperties", item, inner)
