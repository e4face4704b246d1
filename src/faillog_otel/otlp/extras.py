"""Values of any JSON shape → OTLP attributes: redacted, cut and counted."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec

from faillog_otel.events.redaction import is_secret_name, redact_text
from faillog_otel.otlp.records import Attributes, Value

LONGEST_VALUE_BYTES = 2048
MOST_EXTRAS = 64
_PREFIX = "segment.extra"
_REMEMBERED_CHARACTERS = 1024
_READ_CHARACTERS = 16 * 1024
"""How much of a text is looked at: a body of megabytes costs no more than one of these."""


def cut(text: str, most_bytes: int = LONGEST_VALUE_BYTES) -> str:
    """The text, cut at so many bytes of UTF-8 and never within a character."""
    if len(text) * 4 <= most_bytes:
        return text
    encoded = text.encode()
    return text if len(encoded) <= most_bytes else encoded[:most_bytes].decode(errors="ignore")


def clean(text: str) -> tuple[str, bool]:
    """The text redacted and cut; True when something was cut off."""
    return _remembered(text) if len(text) <= _REMEMBERED_CHARACTERS else _clean(text)


def _clean(text: str) -> tuple[str, bool]:
    redacted = redact_text(text[:_READ_CHARACTERS])
    short = cut(redacted)
    return short, len(short) < len(redacted) or len(text) > _READ_CHARACTERS


_remembered = lru_cache(maxsize=1024)(_clean)  # reasons, URLs and short answers come again and again


def as_text(value: Any) -> str:
    """A JSON value as text: a string is itself, anything else its compact JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def extra_attributes(extras: dict[str, Any]) -> tuple[Attributes, int]:
    """`segment.extra.<dotted path>` for each leaf, the first 64 in the record's order; and how many not.

    A list is one leaf, as its JSON text; so are an empty object and null: nothing unknown is dropped.
    """
    found: dict[str, Value] = {}
    for path, leaf, secret in islice(_leaves(extras, _PREFIX, secret=False), MOST_EXTRAS):
        key = path
        while key in found:  # {"a.b": 1, "a": {"b": 2}}
            key += "~"
        found[key] = "[redacted:secret]" if secret else _attribute_value(leaf)
    return list(found.items()), _count_leaves(extras) - len(found)


def header_attributes(headers: Any, allowed: Iterable[str]) -> Attributes:
    """`http.response.header.<key>` for the headers that the allow-list names, each a string array.

    Headers are an object, or a list of pairs; of any other shape none leaves.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, value in _header_pairs(headers):
        key = name.lower()
        if any(_matches(key, entry.lower()) for entry in allowed):
            values = value if isinstance(value, list) else [value]
            is_secret = is_secret_name(key)
            shown = ["[redacted:secret]" if is_secret else clean(as_text(item))[0] for item in values]
            found[key] = (*found.get(key, ()), *shown)
    return [(f"http.response.header.{key}", values) for key, values in found.items()]


def _header_pairs(headers: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(headers, dict):
        yield from headers.items()
    elif isinstance(headers, list):
        for pair in headers:
            if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str):
                yield pair[0], pair[1]


def _matches(name: str, entry: str) -> bool:
    return name.startswith(entry[:-1]) if entry.endswith("*") else name == entry


def _leaves(value: Any, path: str, *, secret: bool) -> Iterator[tuple[str, Any, bool]]:
    if isinstance(value, dict) and (value or path == _PREFIX):
        for key, item in value.items():
            inner = cut(f"{path}.{key}")
            yield from _leaves(item, inner, secret=secret or is_secret_name(key))
    else:
        yield path, value, secret


def _count_leaves(extras: dict[str, Any]) -> int:
    count, inside = 0, [extras]
    while inside:
        for item in inside.pop().values():
            if isinstance(item, dict) and item:
                inside.append(item)
            else:
                count += 1
    return count


def _attribute_value(leaf: Any) -> Value:
    if isinstance(leaf, bool | float) or (isinstance(leaf, int) and -(2**63) <= leaf < 2**63):
        return leaf
    if isinstance(leaf, int):
        return cut(str(leaf))
    return clean(as_text(leaf))[0]
