"""Kept records: the entries of quarantine and pending files, written and read back.

An entry holds the record's own bytes and what it learned from its surroundings, so that a later try makes
the same bytes of it.
"""

import base64
import binascii
import hashlib
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.config import Signal
from faillog_otel.events.model import Place, RecordContext
from faillog_otel.json_syntax import holds_too_much, is_too_deep, parse_json_lossless

# -- entry ---------------------------------------------------------------------------------------------------


class Rejection(Struct, frozen=True):
    """A collector's partial success: it rejected `rejected` of `records` and does not say which."""

    signal: Signal
    rejected: int
    records: int
    message: str


class KeptContext(RecordContext, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An entry's `context`: what its record learned, and what became of it so far.

    `signals` are those that are still to be sent; None are all. `rejections` says which requests with
    the record were taken partly.
    """

    signals: tuple[Signal, ...] | None = None
    rejections: tuple[Rejection, ...] = ()


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One kept record. `reason` is a code; `raw` is the record as text, `raw_base64` where it is no text.

    Only the record itself is needed to replay it: people mend entries by hand.
    """

    reason: str = "unknown"
    detail: str = ""
    file: str = ""
    line: int | None = None
    offset: int | None = None
    raw: str | None = None
    raw_base64: str | None = None
    sha256: str = ""
    context: KeptContext | None = None
    replayable: bool = True

    def place(self) -> Place:
        """Where the record stood when it was first read."""
        return Place(self.file, self.line or 0, self.offset or 0)

    def record(self) -> bytes | None:
        """The record's bytes; None where they are not whole, or not there."""
        if not self.replayable:
            return None
        if self.raw is not None:
            return self.raw.strip(" \t\r\n").encode()
        try:
            return base64.b64decode(self.raw_base64 or "", validate=True) or None
        except binascii.Error:
            return None


_CONTROLS = bytes(each for each in range(32) if each not in b"\t\r\n")
"""Each takes six bytes in JSON: a record that is mostly these is kept as base64, at four thirds."""

_encode = msgspec.json.Encoder().encode


def write_entry(
    reason: str,
    detail: str,
    place: Place,
    raw: bytes,
    context: KeptContext | None,
    *,
    replayable: bool = True,
) -> bytes:
    """An entry's line, without its newline."""
    text: str | None = None
    packed: str | None = None
    if len(raw.translate(None, _CONTROLS)) * 5 >= len(raw) * 4:
        with suppress(UnicodeDecodeError):
            text = raw.decode()
    if text is None:
        packed = base64.b64encode(raw).decode()
    return _encode(
        Entry(
            reason=reason,
            detail=detail,
            file=place.file,
            line=place.line,
            offset=place.offset,
            raw=text,
            raw_base64=packed,
            sha256=hashlib.sha256(raw).hexdigest(),
            context=context,
            replayable=replayable,
        )
    )


class _Owed(Struct, frozen=True):
    signals: tuple[Signal, ...] | None = None


_EVENT_START = b'{"type":"observability","event":'
"""So Segment's own lines begin, and what has an `event` is no entry: most need no closer look."""


def read_entry(line: bytes) -> Entry | None:
    """The entry, where the line is one; None for all other lines, such as Segment's own events.

    One that is spoilt comes as an entry that cannot be replayed, and says why in its `detail`.
    """
    if line.startswith(_EVENT_START) or b'"raw' not in line or holds_too_much(line):
        return None
    try:
        value = parse_json_lossless(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or "event" in value or not {"raw", "raw_base64"} & value.keys():
        return None
    try:
        entry = msgspec.convert({key: item for key, item in value.items() if item is not None}, Entry)
    except msgspec.ValidationError as error:
        return Entry(detail=str(error), replayable=False)
    if entry.record() is None and entry.replayable:
        return Entry(detail="raw_base64 cannot be read", replayable=False)
    return entry


class _Identity(Struct, frozen=True):
    """What tells an entry from others. The rest, such as `detail`, may differ from run to run."""

    reason: str = ""
    file: str = ""
    line: int | None = None
    offset: int | None = None
    sha256: str = ""
    context: _Owed | None = None


def identity_of(line: bytes) -> bytes | None:
    """What tells an entry from others: its record, where that stood, and why and for what it is kept.

    None for a line that is no entry.
    """
    try:
        identity = msgspec.json.decode(line, type=_Identity)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return hashlib.sha256(_encode(identity)).digest()


def is_intact(line: bytes) -> bool:
    """Whether an entry can be read, and holds the bytes that it was made of."""
    entry = read_entry(line)
    if entry is None or (entry.raw is None and entry.raw_base64 is None):
        return False
    try:
        raw = base64.b64decode(entry.raw_base64 or "") if entry.raw is None else entry.raw.encode()
    except ValueError:
        return False
    return hashlib.sha256(raw).hexdigest() == entry.sha256


# -- contexts ------------------------------------------------------------------------------------------------
#
# Which application's context a request names beside which messageId.
#
# Destinations that pass events through (webhooks, functions) send what the application tracked: where it put
# a `traceparent` into it, the exchange's request body holds both. Together they are when they stand in the
# same JSON object, or in one that names no other messageId.


_MESSAGE_ID = "messageId"
_TRACEPARENT = "traceparent"


def traceparents(body: Any) -> dict[str, str]:
    """By messageId, its `traceparent`, the first that is valid. `body`: a JSON value, or its text.

    A body that cannot be read, such as one that was cut off, names none.
    """
    if isinstance(body, str):
        if f'"{_TRACEPARENT}"' not in body:
            return {}
        text = body.encode()
        if is_too_deep(text) or holds_too_much(text):
            return {}
        try:
            body = parse_json_lossless(text)
        except ValueError:
            return {}
    found: dict[str, str] = {}
    if isinstance(body, dict | list):
        _look(body, found)
    return found


def _look(value: Any, found: dict[str, str]) -> tuple[set[str], list[str]]:
    """The messageIds in a value, and the contexts in it that belong to none of them yet."""
    messages: set[str] = set()
    free: list[str] = []
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            inner, unclaimed = _look(each, found)
            messages, fewer = (messages, inner) if len(messages) > len(inner) else (inner, messages)
            messages |= fewer
            free += unclaimed
    if isinstance(value, dict):
        free = _claimed(value, messages, free, found)
    return messages, free


def _claimed(value: dict[str, Any], messages: set[str], free: list[str], found: dict[str, str]) -> list[str]:
    """Adds an object's own messageId, gives it, or the only one inside, its context; returns the rest."""
    message, context = value.get(_MESSAGE_ID), value.get(_TRACEPARENT)
    if isinstance(context, str) and propagation.parse_traceparent(context):
        if isinstance(message, str):
            found.setdefault(message, context)
        else:
            free = [*free, context]
    if isinstance(message, str):
        messages.add(message)
    elif _MESSAGE_ID in value:
        return []  # they are of a message that has no id, and of no other
    if free and len(messages) == 1:
        found.setdefault(next(iter(messages)), free[0])
    return [] if messages else free
