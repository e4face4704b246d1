"""A client that shows what failed: one tree for each message of a run, by failure group, the worst first.

Records are kept in a temporary file until `flush`. In memory are one small entry for each message, and hash
tables that move to a second file. A tree is built only when it is shown.
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from struct import Struct as Layout
from typing import IO, Any, Literal, TextIO

import click
from msgspec import Struct
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from rich.cells import cell_len, set_cell_size

from faillog_otel.config import Signal
from faillog_otel.hash_table import HASH_BYTES, HashTable, Store, TemporaryFileError
from faillog_otel.otlp.outcome import READER_GONE, Acknowledged, Outcome, Refused
from faillog_otel.otlp.trees import (
    EXCHANGE,
    MESSAGE,
    Style,
    TraceTree,
    attributes_of,
    is_attempt,
    is_exchange,
    time_ns_of,
    trace_trees,
)
from faillog_otel.text import counted, printable

MAX_MESSAGES = 200_000
"""Records of further messages are counted, but not shown. An entry takes about 300 bytes of memory."""
MAX_GROUPS = 20
"""The groups that are shown unless all are asked for, with one message each."""
MEMORY_BYTES = 16 * 1024 * 1024
"""Of each hash table; an entry takes up to 16 bytes."""

_LineStyle = Style | Literal["heading", "note"]
_STYLES: dict[_LineStyle, dict[str, Any]] = {
    "heading": {"bold": True, "fg": "yellow"},
    "title": {"bold": True},
    "failed": {"fg": "red"},
    "succeeded": {"fg": "green"},
    "plain": {},
    "detail": {"dim": True},
    "note": {},
}
_NEVER_CUT: tuple[_LineStyle, ...] = ("title", "note")
"""Titles have ids to copy."""
_HEADER = Layout(f"<{HASH_BYTES}scI")
"""Before each kept record: its key, its kind, its length."""
_OFFSET = Layout("<Q")
_ABOUT_MESSAGE, _ABOUT_EXCHANGE, _OTHER = b"m", b"x", b"o"
_SPAN = bytes.upper
"""The kind of a span's record is the letter of its log record, in upper case."""


class _Message(Struct, gc=False):
    """What is known of a message. Times are nanoseconds since 1970."""

    first_ns: int
    group: bytes = b""
    """The group of its most specific failure; empty: it did not fail."""
    specific: int = -1
    """How specific that failure is: 4 with a status, 2 with a code, 1 with a reason, and their sums."""
    failed_ns: int = 0
    failed_at: int = 0
    """The time of that failure, and where its record is kept."""
    attempts: int = 0
    """Failed ones."""
    is_discarded: bool = False


class _Records:
    """The records that were not shown yet."""

    def __init__(self) -> None:
        self.messages: dict[bytes, _Message] = {}
        self.not_kept = 0
        """Records of messages beyond `MAX_MESSAGES`."""
        self._store, self._tables = Store(), Store()
        self._size = 0
        self._places = HashTable(
            _OFFSET.size, MEMORY_BYTES, self._tables
        )  # message or exchange → its records
        self._linked = HashTable(0, MEMORY_BYTES, self._tables)  # the exchanges that attempts link to

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self._size and not self.not_kept

    def add(self, signal: Signal, records: Sequence[bytes], *, are_judged: bool) -> None:
        """Keeps records. Raises TemporaryFileError. `are_judged`: failures are counted by this signal."""
        kept = []
        new = set[bytes]()
        for raw in records:
            record = (LogRecord if signal == "logs" else Span).FromString(raw)
            attributes = attributes_of(record)
            kind, key = _key_of(attributes)
            if kind == _ABOUT_MESSAGE and key not in self.messages:
                if len(self.messages) + len(new) >= MAX_MESSAGES and key not in new:
                    self.not_kept += are_judged
                    continue
                new.add(key)
            header = _HEADER.pack(key, kind if signal == "logs" else _SPAN(kind), len(raw))
            kept.append((kind, key, header + raw, record, attributes))
        at = self._size = self._store.append(each[2] for each in kept)
        for kind, key, written, record, attributes in kept:
            if kind != _OTHER:
                self._places.add(key, _OFFSET.pack(at))
            if kind == _ABOUT_MESSAGE:
                time_ns = time_ns_of(record)
                message = self.messages.setdefault(key, _Message(time_ns))
                message.first_ns = min(message.first_ns, time_ns)
                if is_attempt(attributes) and EXCHANGE in attributes:
                    self._linked.add(_hash(EXCHANGE, attributes[EXCHANGE]), b"")
                if are_judged:
                    _judge(message, attributes, time_ns, at)
            at += len(written)
        self._size = at

    def at(self, place: int) -> Span | LogRecord:
        """Returns the record that is kept there. Raises OSError."""
        _, kind, length = _HEADER.unpack(self._store.read(place, _HEADER.size))
        raw = self._store.read(place + _HEADER.size, length)
        return (Span if kind.isupper() else LogRecord).FromString(raw)

    def trees(self, key: bytes) -> list[TraceTree]:
        """Returns the tree of a message, with the exchanges that it links to, or of an exchange."""
        records = [self.at(place) for place in self._places_of(key)]
        attempts = [each for each in map(attributes_of, records) if is_attempt(each)]
        linked = {_hash(EXCHANGE, each[EXCHANGE]) for each in attempts if EXCHANGE in each}
        records += [self.at(place) for key in linked for place in self._places_of(key)]
        return _trees_of(records)

    def trees_at(self, place: int) -> list[TraceTree]:
        """Returns the tree of one record."""
        return _trees_of([self.at(place)])

    def unlinked_exchanges(self) -> Iterator[bytes]:
        """Yields the keys of the exchanges that no attempt links to."""
        for place, key, kind in self._headers():
            is_first = kind.lower() == _ABOUT_EXCHANGE and next(self._places_of(key)) == place
            if is_first and self._linked.find(key) is None:
                yield key

    def others(self) -> Iterator[int]:
        """Yields where the records are that are about no message and no exchange."""
        return (place for place, _, kind in self._headers() if kind.lower() == _OTHER)

    def close(self) -> None:
        """Removes the files."""
        self._store.close()
        self._tables.close()

    def _places_of(self, key: bytes) -> Iterator[int]:
        return (_OFFSET.unpack(value)[0] for value in self._places.find_all(key))

    def _headers(self) -> Iterator[tuple[int, bytes, bytes]]:
        place = 0
        while place < self._size:
            key, kind, length = _HEADER.unpack(self._store.read(place, _HEADER.size))
            yield place, key, kind
            place += _HEADER.size + length


def _trees_of(records: Sequence[Span | LogRecord]) -> list[TraceTree]:
    """Returns the trees of records, with local times."""
    spans = [each for each in records if isinstance(each, Span)]
    return trace_trees(spans, [each for each in records if isinstance(each, LogRecord)])


def _key_of(attributes: dict[str, str]) -> tuple[bytes, bytes]:
    """Returns what a record is about: the kind, and the key by which it is found."""
    if is_exchange(attributes):
        return _ABOUT_EXCHANGE, _hash(EXCHANGE, attributes[EXCHANGE])
    if MESSAGE in attributes:
        return _ABOUT_MESSAGE, _hash(MESSAGE, attributes[MESSAGE])
    return _OTHER, b""


def _judge(message: _Message, attributes: dict[str, str], time_ns: int, place: int) -> None:
    """Adds a record to what is known of its message: the most specific failure counts, then the latest."""
    code = attributes.get("error.type")
    group = attributes.get("segment.failure.group")
    if group is None and code is None:
        return
    message.attempts += is_attempt(attributes)
    message.is_discarded = message.is_discarded or attributes.get("segment.discarded") == "True"
    has_status = "http.response.status_code" in attributes
    specific = 4 * has_status + 2 * (_own_code(attributes) is not None) + ("segment.reason" in attributes)
    if (specific, time_ns) >= (message.specific, message.failed_ns):
        about = ("segment.destination.id", "error.type", "segment.reason")
        message.group = _hash("", group) if group else _hash(*(attributes.get(name, "") for name in about))
        message.specific, message.failed_ns, message.failed_at = specific, time_ns, place


def _own_code(attributes: dict[str, str]) -> str | None:
    """Returns the code of a failure that is neither its status nor a placeholder."""
    code = attributes.get("error.type", "_OTHER")
    return None if code in ("_OTHER", attributes.get("http.response.status_code")) else code


def _hash(*parts: str) -> bytes:
    return blake2b("\0".join(parts).encode(), digest_size=HASH_BYTES).digest()


class _Group(Struct):
    """The messages of a failure group, the earliest first."""

    messages: list[tuple[bytes, _Message]]

    def sample(self) -> tuple[bytes, _Message]:
        """The first message that was discarded, or else the first one."""
        return next((each for each in self.messages if each[1].is_discarded), self.messages[0])

    def counts(self) -> tuple[int, int, int]:
        """How many messages were discarded, how many there are, and their failed attempts."""
        messages = [message for _, message in self.messages]
        discarded = sum(message.is_discarded for message in messages)
        return discarded, len(messages), sum(message.attempts for message in messages)

    def headline(self, records: _Records) -> str:
        """Returns what fails, how many messages, and why. Raises OSError."""
        attributes = attributes_of(records.at(self.sample()[1].failed_at))
        status, code = attributes.get("http.response.status_code"), _own_code(attributes)
        discarded, messages, attempts = self.counts()
        how_many = [
            counted(messages, "message"),
            *([f"{discarded} discarded"] if discarded else []),
            counted(attempts, "failed attempt"),
        ]
        what = [
            attributes.get("messaging.destination.name") or "no destination",
            f"HTTP {status}" if status else "",
            code or "",
            attributes.get("segment.reason.class", ""),
            ", ".join(how_many),
            attributes.get("segment.reason", ""),
        ]
        return f"— {'  '.join(filter(None, what))}"


_Line = tuple[str, _LineStyle]


class ConsoleClient:
    """Keeps the records of a run, and prints them at `flush`. Safe for use from two threads.

    A record that cannot be kept is not acknowledged, and neither is what `flush` cannot print.
    """

    def __init__(
        self,
        file: IO[bytes],
        terminal: TextIO,
        on_closed: Callable[[], object],
        *,
        has_logs: bool,
        shows_all: bool,
        has_colours: bool,
    ) -> None:
        """`file` is unbuffered: a signal can end a write. `terminal` is the same one, and has its charset.

        `on_closed` is called when the reader of the output has closed it. `has_logs`: whether log records are
        sent, too. `shows_all`: everything, not only samples.
        """
        self._file = file
        self._encoding, self._errors = terminal.encoding, terminal.errors or "strict"
        self._on_closed = on_closed
        self._judged: Signal = "logs" if has_logs else "traces"
        self._shows_all = shows_all
        self._has_colours = has_colours
        self._lock = threading.Lock()
        self._records = _Records()
        self._is_first = True

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Keeps the records."""
        with self._lock:
            try:
                self._records.add(signal, records, are_judged=signal == self._judged)
            except TemporaryFileError as error:
                return Refused(str(error))
        return Acknowledged()

    def flush(self) -> Acknowledged | Refused:
        """Prints what was kept since the last time, and forgets it."""
        with self._lock:
            if self._records.is_empty:
                return Acknowledged()
            try:
                if self._is_first:
                    self._print([(f"times in {_zone()}", "plain")])
                for lines in self._report():
                    self._print(lines)
            except ConnectionError:
                self._on_closed()
                return Refused(READER_GONE)
            except OSError as error:
                return Refused(f"the output cannot be written: {error.strerror}")
            except TemporaryFileError as error:
                return Refused(str(error))
            self._records.close()
            self._records, self._is_first = _Records(), False
        return Acknowledged()

    def close(self) -> None:
        """Forgets what was not printed."""
        self._records.close()

    def _report(self) -> Iterator[list[_Line]]:
        """Yields the groups and the trees, each as its lines."""
        records, by_group = self._records, defaultdict[bytes, list[tuple[bytes, _Message]]](list)
        for key, message in sorted(records.messages.items(), key=lambda each: each[1].first_ns):
            by_group[message.group].append((key, message))
        unfailed = [key for key, _ in by_group.pop(b"", [])]
        groups = sorted(map(_Group, by_group.values()), key=_Group.counts, reverse=True)
        shown = groups if self._shows_all else groups[:MAX_GROUPS]
        for group in shown:
            yield [(group.headline(records), "heading")]
            for key, _ in group.messages if self._shows_all else [group.sample()]:
                yield from map(_lines_of, records.trees(key))
        left_out = []
        sections: tuple[
            tuple[str, str, Callable[[], Iterable[Any]], Callable[[Any], list[TraceTree]]], ...
        ] = (
            ("message", "without failures", lambda: unfailed, records.trees),
            ("exchange", "that no attempt links to", records.unlinked_exchanges, records.trees),
            ("record", "without a message", records.others, records.trees_at),
        )
        for noun, which, keys, trees in sections:
            what = f"{counted(number, noun)} {which}" if (number := sum(1 for _ in keys())) else ""
            if what and self._shows_all:
                yield [(f"— {what}", "heading")]
                yield from (_lines_of(tree) for key in keys() for tree in trees(key))
            elif what:
                left_out.append(what)
        if notes := self._notes(groups, len(shown), left_out):
            yield [(note, "note") for note in notes]

    def _notes(self, groups: Sequence[_Group], shown: int, left_out: Sequence[str]) -> list[str]:
        """Returns what was left out; nothing if everything was shown."""
        notes = []
        failing = sum(len(group.messages) for group in groups)
        if not self._shows_all and failing > shown:
            of_groups = f"showed {shown} of {counted(len(groups), 'group')}, one message of each"
            notes.append(f"{of_groups}: {shown} of {failing} failing messages")
        if left_out:
            notes.append(f"not shown: {', '.join(left_out)}")
        if notes:
            notes.append("--all shows everything")
        if number := self._records.not_kept:
            what = f"{counted(number, 'record')} of messages after the first {MAX_MESSAGES}"
            notes.append(f"never shown: {what}; for fewer messages, run with fewer files or hours")
        return notes

    def _print(self, lines: Iterable[_Line]) -> None:
        """Writes the lines, and an empty one behind them. Raises OSError."""
        width = os.get_terminal_size(self._file.fileno()).columns if self._file.isatty() else 0
        shown = [self._shown(printable(text), style, width) for text, style in lines]
        data = memoryview(self._encoded("\n".join([*shown, "", ""])))
        while data:
            data = data[self._file.write(data) :]

    def _shown(self, line: str, style: _LineStyle, width: int) -> str:
        """Returns a line as it is printed: cut to the width (0: no limit), and with colours."""
        line = self._encoded(line).decode(self._encoding)
        if 0 < width < cell_len(line) and style not in _NEVER_CUT:
            end = self._encoded("…").decode(self._encoding)
            line = set_cell_size(line, max(0, width - len(end))) + end
        return click.style(line, **_STYLES[style]) if self._has_colours else line

    def _encoded(self, text: str) -> bytes:
        return text.encode(self._encoding, self._errors)


def _lines_of(tree: TraceTree) -> list[_Line]:
    return list(zip(tree.lines, tree.styles, strict=True))


def _zone() -> str:
    """Returns the names of the local time zone, in winter and in summer."""
    return "/".join(time.tzname if time.daylight else time.tzname[:1])
