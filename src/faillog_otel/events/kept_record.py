"""Kept records: why a record is kept (`REASONS`), and the entries of quarantine and pending files.

An entry holds the record's own bytes and its context, so that replay encodes it to the same bytes. The
context can have a `traceparent`, which `traceparents` finds in the request bodies of exchanges.
"""

import base64
import binascii
import hashlib
from contextlib import suppress
from typing import Any, Literal

import msgspec
from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.config import Signal
from faillog_otel.events.model import Place, ReasonCode, RecordContext
from faillog_otel.text import holds_too_much, is_too_deep, parse_json_lossless

# -- reason codes ----------------------------------------------------------------------------------------


class KeptReason(Struct, frozen=True):
    """The subject of a reason code, its meaning, and the action to take, as Markdown for the docs."""

    about: Literal["record", "file", "collector", "delivery"]
    meaning: str
    action: str


_REPAIR = "Repair the record in the entry, then replay it."
_FETCH = "Get the file again, and run it again: records that were delivered keep their ids."

REASONS: dict[ReasonCode, KeptReason] = {
    "invalid_json": KeptReason("record", "The record is not JSON, or it breaks off.", _REPAIR),
    "invalid_utf8": KeptReason("record", "The record is not UTF-8.", _REPAIR),
    "not_an_object": KeptReason("record", "The record is JSON, but not an object.", _REPAIR),
    "missing_field": KeptReason(
        "record",
        "A required field of `properties` is missing or has the wrong type: `occurredAt`; `messageId` "
        "(error, attempt); `attempt` (attempt); `destinationExchangeId` (exchange).",
        _REPAIR,
    ),
    "bad_time": KeptReason(
        "record", "`occurredAt` or `loggedAt` is not an RFC 3339 time from 1970 to 2262.", _REPAIR
    ),
    "too_long": KeptReason(
        "record",
        "The record is longer than 16 MiB. Its first 64 KiB are kept, and it cannot be replayed.",
        "Shorten the record in its file, then run that record.",
    ),
    "too_deep": KeptReason("record", "More than 100 brackets are open at the same time.", _REPAIR),
    "too_many_values": KeptReason("record", "The record holds more than 250,000 values.", _REPAIR),
    "truncated_gzip": KeptReason("file", "The gzip data ends too early. Was the file cut off?", _FETCH),
    "truncated_zstd": KeptReason("file", "The zstd data ends too early. Was the file cut off?", _FETCH),
    "damaged_gzip": KeptReason("file", "The gzip data is damaged.", _FETCH),
    "damaged_zstd": KeptReason("file", "The zstd data is damaged.", _FETCH),
    "trailing_garbage": KeptReason(
        "file",
        "The compressed data is followed by data that is not compressed in the same way.",
        "Cut it off, and run it as a file of its own if it holds records.",
    ),
    "too_much_content": KeptReason(
        "file",
        "The file unpacks to more than `max_content` (16 GiB by default).",
        "Raise `max_content` if the file is what you expect, and run it again.",
    ),
    "foreign_format": KeptReason(
        "file",
        "The whole file is something else: a zip archive, UTF-16, an HTML page and so on.",
        "Convert or unpack the file, then run the result.",
    ),
    "refused": KeptReason(
        "collector",
        "The collector refuses this record alone (HTTP 400 or 500, gRPC `INVALID_ARGUMENT` and so on) and "
        "accepts others.",
        "Find the cause in the collector's message, which is in `detail`; then replay the record.",
    ),
    "too_large": KeptReason(
        "collector",
        "The record alone is too large for the collector (HTTP 413, or a message about the size).",
        "Raise the collector's limit, or send less (`--bodies`, `--backend`); then replay the record.",
    ),
    "rejected": KeptReason(
        "collector",
        "The record was in a request that the collector accepted only in part. It may have been accepted: "
        "`replay` sends it only with `--rejected`.",
        "Look in the backend whether it arrived; if not, replay it with `--rejected`.",
    ),
    "pending": KeptReason(
        "delivery",
        "The record is not at fault. `detail` has the reason why sending stopped; of consecutive records "
        "with the same reason, only the first has it.",
        "Remove the cause, then replay the record.",
    ),
}

# -- entries ---------------------------------------------------------------------------------------------


class Rejection(Struct, frozen=True):
    """A collector's partial success: it rejected `rejected` of `records`, and does not name them."""

    signal: Signal
    rejected: int
    records: int
    message: str


class KeptContext(RecordContext, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An entry's `context`: the record's own, and its delivery so far.

    `signals` are still to be sent; None means all. `rejections`: the requests with this record that the
    collector accepted only in part.
    """

    signals: tuple[Signal, ...] | None = None
    rejections: tuple[Rejection, ...] = ()


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One kept record. `reason` is a code; the record is in `raw`, or in `raw_base64` if it is not text.

    Only the record itself is required, because people repair entries by hand.
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
        """Returns where the record was when it was first read."""
        return Place(self.file, self.line or 0, self.offset or 0)

    def record(self) -> bytes | None:
        """Returns the record's bytes; None if they are incomplete or missing."""
        if not self.replayable:
            return None
        if self.raw is not None:
            return self.raw.strip(" \t\r\n").encode()
        try:
            return base64.b64decode(self.raw_base64 or "", validate=True) or None
        except binascii.Error:
            return None


_CONTROLS = bytes(each for each in range(32) if each not in b"\t\r\n")
"""Each takes six bytes in JSON, and four thirds of a byte in base64."""

_encode = msgspec.json.Encoder().encode


def write_entry(
    reason: ReasonCode,
    detail: str,
    place: Place,
    raw: bytes,
    context: KeptContext | None,
    *,
    replayable: bool = True,
) -> bytes:
    """Returns an entry's line, without its newline."""
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
"""Segment's own lines begin with this. They are recognised without decoding: they are not entries."""


def read_entry(line: bytes) -> Entry | None:
    """Returns the entry in a line; None for all other lines, such as Segment's own events.

    A broken entry becomes an entry that cannot be replayed; its `detail` has the error.
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
    """The fields that identify an entry. Others, such as `detail`, may differ from run to run."""

    reason: str = ""
    file: str = ""
    line: int | None = None
    offset: int | None = None
    sha256: str = ""
    context: _Owed | None = None


def identity_of(line: bytes) -> bytes | None:
    """Returns a hash of what identifies an entry: record, place, reason, and signals to be sent.

    None for a line that is not an entry.
    """
    try:
        identity = msgspec.json.decode(line, type=_Identity)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return hashlib.sha256(_encode(identity)).digest()


def is_intact(line: bytes) -> bool:
    """Returns whether an entry can be read and its record has the hash in `sha256`."""
    entry = read_entry(line)
    if entry is None or (entry.raw is None and entry.raw_base64 is None):
        return False
    try:
        raw = base64.b64decode(entry.raw_base64 or "") if entry.raw is None else entry.raw.encode()
    except ValueError:
        return False
    return hashlib.sha256(raw).hexdigest() == entry.sha256


_MESSAGE_ID = "messageId"
_TRACEPARENT = "traceparent"


def traceparents(body: Any) -> dict[str, str]:
    """Returns the first valid `traceparent` of each messageId in a body: a JSON value, or its text.

    Destinations that pass events through (webhooks, functions) send what the application tracked. If the
    application added a `traceparent`, the request body holds both. They belong together if they are in the
    same JSON object, or in an object without another messageId. A body that is not JSON, such as one that was
    cut off, has none.
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
    """Returns the messageIds in a value, and the contexts in it that belong to none of them yet."""
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
    """Pairs an object's context with its own messageId, or with the only one inside; returns the rest."""
    message, context = value.get(_MESSAGE_ID), value.get(_TRACEPARENT)
    if isinstance(context, str) and propagation.parse_traceparent(context):
        if isinstance(message, str):
            found.setdefault(message, context)
        else:
            free = [*free, context]
    if isinstance(message, str):
        messages.add(message)
    elif _MESSAGE_ID in value:
        return []  # they belong to this message, whose id is not a text
    if free and len(messages) == 1:
        found.setdefault(next(iter(messages)), free[0])
    return [] if messages else free
