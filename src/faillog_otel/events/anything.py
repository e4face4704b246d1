"""Any JSON value, no type in mind.

A number that no float and no integer type holds is its own text, half of a surrogate pair is U+FFFD.
"""

import json
import math
from typing import Any, TypeVar

import msgspec

from faillog_otel.events.syntax import whole_characters

Type = TypeVar("Type")

_decode = msgspec.json.Decoder().decode


def read_anything(raw: bytes) -> Any:
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


_LONGEST_INTEGER = 400
"""Digits; a longer one is only ever shown, and cut, as text."""


def _integer_or_text(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else digits


def _float_or_text(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
