"""JSON as text: whether it is well-formed, how deep it goes, how much it holds. Nothing is built of it."""

import json
import math
import re
from typing import Any, TypeVar

import msgspec

# -- syntax --------------------------------------------------------------------------------------------------


MAX_DEPTH = 100
"""How many brackets may be open at once; deeper JSON is quarantined (`too_deep`)."""
MAX_VALUES = 250_000
"""How many values a record may hold: 16 MiB of empty lists would take half a gigabyte (`too_many_values`)."""

WHITE_SPACE = b" \t\r\n"
"""JSON's own (RFC 8259, section 2)."""

STRING = rb'"(?:[^"\\]++|\\.)*+"'
_STRINGS = re.compile(STRING + rb"?+", re.DOTALL)  # the last one perhaps without its end
_BRACKET = re.compile(rb"[\[\]{}]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

_passed_over = msgspec.json.Decoder(msgspec.Raw)


def is_json(raw: bytes) -> bool:
    """Whether these bytes are one JSON value by the grammar, no deeper than DEEPEST_NESTING.

    What its texts hold is not looked at: invalid UTF-8 and lone surrogates are one record's own trouble.
    """
    if is_too_deep(raw):
        return False
    if b"\\ud" in raw or b"\\uD" in raw:
        raw = _SURROGATE.sub(rb"\\u0020", raw)
    try:
        _passed_over.decode(raw)
    except msgspec.DecodeError:
        return False
    return True


def is_too_deep(raw: bytes) -> bool:
    """Whether more than DEEPEST_NESTING brackets are open at once: said here, not by the stack's size."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    # Bodies are JSON in texts, with as many brackets: first without all texts, and without a pattern.
    bare = b"".join(raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    if bare.count(b"{") + bare.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _BRACKET.finditer(_STRINGS.sub(b"", raw)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def holds_too_much(raw: bytes) -> bool:
    """Whether there are more than MOST_VALUES values: each has a bracket or a comma before it."""
    if len(raw) <= MAX_VALUES:
        return False
    if raw.count(b",") + raw.count(b"{") + raw.count(b"[") <= MAX_VALUES:
        return False
    bare = _STRINGS.sub(b"", raw)
    return bare.count(b",") + bare.count(b"{") + bare.count(b"[") > MAX_VALUES


def why_not_json(raw: bytes, said: str) -> str:
    """A sentence for people, where what the decoder `said` would mislead them."""
    if not raw:
        return "empty"
    if raw.startswith(b"\xef\xbb\xbf"):
        return "a byte order mark stands in the middle of the file: were files joined?"
    if b"\0" in raw:
        first = raw.index(b"\0")
        return f"NUL bytes, the first at byte {first}: was the file cut off by a crash?"
    if said.startswith("Input data was truncated"):
        return "the record breaks off before its end: was it cut off?"
    return said


_PAIR_OR_HALF = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def whole_characters(raw: bytes) -> bytes:
    """JSON with U+FFFD for each escape that is half of a surrogate pair; its length stays the same.

    Texts that were cut between two UTF-16 units end in such a half.
    """
    if not _SURROGATE.search(raw):
        return raw
    return _PAIR_OR_HALF.sub(lambda found: rb"\ufffd" if found["half"] else found[0], raw)


# -- anything ------------------------------------------------------------------------------------------------
#
# Any JSON value, no type in mind.
#
# A number that no float and no integer type holds is its own text, half of a surrogate pair is U+FFFD.


Type = TypeVar("Type")

_decode = msgspec.json.Decoder().decode


def parse_json_lossless(raw: bytes) -> Any:
    """The JSON value; half of a surrogate pair is read as U+FFFD. Raises ValueError."""
    try:
        return _read(raw)
    except ValueError:
        if (mended := whole_characters(raw)) == raw:
            raise
        return _read(mended)


def read_as(of_type: type[Type], raw: bytes) -> Type:
    """The JSON value as this type; half of a surrogate pair is read as U+FFFD.

    Raises ValueError and RecursionError.
    """
    try:
        return msgspec.json.decode(raw, type=of_type)
    except msgspec.DecodeError:
        return msgspec.json.decode(whole_characters(raw), type=of_type)


def without_null(value: Any) -> Any:
    """The value without those fields of its objects that are null: they are as good as absent."""
    if isinstance(value, dict):
        return {key: without_null(item) for key, item in value.items() if item is not None}
    return [without_null(item) for item in value] if isinstance(value, list) else value


def _read(raw: bytes) -> Any:
    try:
        return _decode(raw)
    except msgspec.ValidationError:
        value = json.loads(
            raw, parse_int=_integer_or_text, parse_float=_float_or_text, parse_constant=_refuse
        )
        msgspec.json.encode(value)  # json lets half characters pass, and they cannot be written
        return value


_MAX_INTEGER = 400
"""Digits; a longer one is only ever shown, and cut, as text."""


def _integer_or_text(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_INTEGER else digits


def _float_or_text(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
