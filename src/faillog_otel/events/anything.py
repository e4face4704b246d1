"""Any JSON value, no type in mind; a number that no float and no integer type holds is its own text."""

import json
import math
from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode


def read_anything(raw: bytes) -> Any:
    """The JSON value. Raises ValueError."""
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
