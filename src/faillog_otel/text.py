"""Texts: counted things, texts from outside (bounded and escaped for messages), and JSON.

JSON is checked for syntax, depth and size without building its values, and decoded leniently: half of a
surrogate pair, where a text was truncated, is decoded as U+FFFD.
"""

import codecs
import json
import math
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec

MAX_PEER_BYTES = 500
"""UTF-8 bytes kept of a message from a collector, Segment or S3."""
MAX_SEARCHED_BYTES = 8 * MAX_PEER_BYTES
"""UTF-8 bytes of a message that are searched for secrets."""
_ELLIPSIS = "…"


def truncate(text: str, max_bytes: int = MAX_PEER_BYTES) -> str:
    """Returns the text, or its start with an ellipsis, in at most `max_bytes` of UTF-8."""
    start = text[: max_bytes + 1].encode(errors="replace")
    if len(start) <= max_bytes:
        return text
    return start[: max_bytes - len(_ELLIPSIS.encode())].decode(errors="ignore") + _ELLIPSIS


def did_you_mean(word: str, possible: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Returns `; did you mean "endpoint"?`, or nothing if no possible word is similar."""
    near = get_close_matches(word, list(possible), n=1, cutoff=cutoff)
    return f'; did you mean "{near[0]}"?' if near else ""


def peer_text(text: str, hide: Callable[[str], str]) -> str:
    """Returns a peer's text without secrets, in at most `MAX_PEER_BYTES` of UTF-8.

    `hide` replaces secrets. It reads more than is kept, so that a secret at the cut is complete. The caller
    has replaced our own secrets in the whole text.
    """
    return truncate(hide(truncate(text, MAX_SEARCHED_BYTES)))


def is_unicode(encoding: str | None) -> bool:
    """Returns whether a charset has all characters; True without a charset."""
    return encoding is None or codecs.lookup(encoding).name.startswith("utf")


def counted(number: int, what: str) -> str:
    """Returns `1 record`, `2 records`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def printable(text: str) -> str:
    """Returns the text with control and format characters (newlines, escapes, bidi) as escapes.

    A terminal then shows them instead of executing them.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_json(text: str, *, is_ascii: bool = False) -> str:
    """Returns JSON with such characters as JSON escapes; `is_ascii`: all outside ASCII, too."""
    if text.isprintable() and (not is_ascii or text.isascii()):
        return text
    return "".join(
        c if c.isprintable() and (not is_ascii or c.isascii()) else json.dumps(c)[1:-1] for c in text
    )


def quoted(text: str, max_chars: int = 40) -> str:
    """Returns the start of a text as a message quotes it: escaped, about `max_chars` characters at most."""
    shown = repr(text[:max_chars])
    return shown if len(shown) <= max_chars + 2 else f"{shown[:max_chars]}...{shown[0]}"


MAX_DEPTH = 100
"""Open brackets of JSON; a deeper record is quarantined (`too_deep`)."""
MAX_VALUES = 250_000
"""JSON values in a record (`too_many_values`): 16 MiB of empty lists would take half a gigabyte."""

WHITE_SPACE = b" \t\r\n"
"""That of JSON (RFC 8259, section 2)."""

JSON_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_STRINGS = re.compile(JSON_STRING + rb"?+", re.DOTALL)  # the last one can be truncated
_BRACKET = re.compile(rb"[\[\]{}]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

_skipper = msgspec.json.Decoder(msgspec.Raw)


def is_json(raw: bytes) -> bool:
    """Returns whether these bytes are one JSON value by the grammar, no deeper than MAX_DEPTH.

    The content of strings is not checked: invalid UTF-8 and lone surrogates concern one record only.
    """
    if is_too_deep(raw):
        return False
    if b"\\ud" in raw or b"\\uD" in raw:
        raw = _SURROGATE.sub(rb"\\u0020", raw)
    try:
        _skipper.decode(raw)
    except msgspec.DecodeError:
        return False
    return True


def is_too_deep(raw: bytes) -> bool:
    """Returns whether more than MAX_DEPTH brackets are open at once, independent of the stack's size."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    # Bodies are JSON inside strings: count the brackets outside strings first, without a regular expression.
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
    """Returns whether there are more than MAX_VALUES values: a bracket or a comma precedes each."""
    if len(raw) <= MAX_VALUES:
        return False
    if raw.count(b",") + raw.count(b"{") + raw.count(b"[") <= MAX_VALUES:
        return False
    bare = _STRINGS.sub(b"", raw)
    return bare.count(b",") + bare.count(b"{") + bare.count(b"[") > MAX_VALUES


def why_not_json(raw: bytes, message: str) -> str:
    """Returns why JSON is invalid: the decoder's message, or a clearer one."""
    if not raw:
        return "empty"
    if raw.startswith(b"\xef\xbb\xbf"):
        return "a byte order mark in the middle of the file; files were probably joined"
    if b"\0" in raw:
        first = raw.index(b"\0")
        return f"NUL bytes, the first at byte {first}; a crash has probably truncated the file"
    if message.startswith("Input data was truncated"):
        return "the record is incomplete; the file is probably truncated"
    return message


_PAIR_OR_HALF = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def whole_characters(raw: bytes) -> bytes:
    """Returns JSON of the same length with U+FFFD for each escape that is half of a surrogate pair.

    Texts that were truncated between two UTF-16 units end in such a half.
    """
    if not _SURROGATE.search(raw):
        return raw
    return _PAIR_OR_HALF.sub(lambda found: rb"\ufffd" if found["half"] else found[0], raw)


Type = TypeVar("Type")

_decode = msgspec.json.Decoder().decode


def parse_json_lossless(raw: bytes) -> Any:
    """Returns the JSON value; a number beyond the range of float or int is its text. Raises ValueError."""
    try:
        return _read(raw)
    except ValueError:
        if (mended := whole_characters(raw)) == raw:
            raise
        return _read(mended)


def read_as(of_type: type[Type], raw: bytes) -> Type:
    """Returns the JSON value as this type. Raises ValueError and RecursionError."""
    try:
        return msgspec.json.decode(raw, type=of_type)
    except msgspec.DecodeError:
        return msgspec.json.decode(whole_characters(raw), type=of_type)


def without_null(value: Any) -> Any:
    """Returns the value without null fields, which mean the same as absent ones."""
    if isinstance(value, dict):
        return {key: without_null(item) for key, item in value.items() if item is not None}
    return [without_null(item) for item in value] if isinstance(value, list) else value


def _read(raw: bytes) -> Any:
    try:
        return _decode(raw)
    except msgspec.ValidationError:
        value = json.loads(
            raw, parse_int=_integer_or_text, parse_float=_float_or_text, parse_constant=_reject_constant
        )
        msgspec.json.encode(value)  # json accepts surrogates, which cannot be encoded
        return value


_MAX_INTEGER_DIGITS = 400
"""A longer integer becomes text, which is truncated."""


def _integer_or_text(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else digits


def _float_or_text(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _reject_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")
