"""Chunks of JSON Lines → records, each with its place. Memory holds one chunk and one line at the most."""

from collections.abc import Iterable, Iterator

from faillog_otel.events.record import (
    BYTE_ORDER_MARK,
    KEPT_BYTES,
    LONGEST_RECORD_BYTES,
    Blank,
    Record,
    UntilDamage,
    damaged,
    too_long,
)
from faillog_otel.events.syntax import WHITE_SPACE

LONGEST_ENTRY_BYTES = 3 * LONGEST_RECORD_BYTES
"""An entry of a kept file holds a record's bytes once more as text, with its quotes escaped."""


def split_lines(chunks: Iterable[bytes]) -> Iterator[Record | Blank]:
    """The lines of a file, the last one also without a final newline; blank ones are counted.

    A byte order mark and CRLF are understood. Where the file's content breaks off (DamagedFile), what
    came of the last line is a line, and the damage is one more that is bad.
    """
    source, splitter = UntilDamage(chunks), _Splitter()
    for chunk in source:
        yield from splitter.take(chunk)
    yield from splitter.end()
    if source.damage:
        yield damaged(splitter.number + 1, splitter.offset, source.damage)


class _Splitter:
    """Where splitting stands: `number` lines have ended, at `offset`; one more may have begun."""

    def __init__(self) -> None:
        self.number = 0
        self.offset = 0
        self._blank = 0
        self._begun: list[bytes] = []  # pieces of a line without its end; joined when that comes
        self._begun_bytes = 0
        self._passed_over = 0

    def take(self, chunk: bytes) -> Iterator[Record | Blank]:
        if not self._begun_bytes and not chunk.strip(WHITE_SPACE):
            chunk = self._after_blank_lines(chunk)
        first, *others = chunk.split(b"\n")
        self._go_on(first)
        for other in others:
            yield from self._end_line(newline=1)
            self._go_on(other)
        if self._begun_bytes > _longest(self._begun[0]):
            head = b"".join(self._begun).lstrip(WHITE_SPACE)[:KEPT_BYTES]  # nothing, while the line is blank
            self._begun = [head]
            self._passed_over += self._begun_bytes - len(head)
            self._begun_bytes = len(head)

    def end(self) -> Iterator[Record | Blank]:
        if self._begun_bytes or self._passed_over:
            yield from self._end_line(newline=0)
        if self._blank:
            yield Blank(self._blank)

    def _after_blank_lines(self, chunk: bytes) -> bytes:
        """Gigabytes of blank lines are counted, not looked at one by one."""
        newlines, end = chunk.count(b"\n"), chunk.rfind(b"\n") + 1
        if newlines:
            self.number += newlines
            self._blank += newlines
            self.offset += end + self._passed_over
            self._passed_over = 0
        return chunk[end:]

    def _go_on(self, piece: bytes) -> None:
        self._begun.append(piece)
        self._begun_bytes += len(piece)

    def _end_line(self, newline: int) -> Iterator[Record | Blank]:
        line = b"".join(self._begun)
        length = len(line) + self._passed_over
        self.number += 1
        if record := _record(self.number, self.offset, line, length):
            if self._blank:
                yield Blank(self._blank)
                self._blank = 0
            yield record
        else:
            self._blank += 1
        self.offset += length + newline
        self._begun, self._begun_bytes, self._passed_over = [], 0, 0


def _longest(head: bytes) -> int:
    return LONGEST_ENTRY_BYTES if head.startswith(b'{"reason":') else LONGEST_RECORD_BYTES


def _record(number: int, offset: int, line: bytes, length: int) -> Record | None:
    """The line's record; None where it is blank."""
    if number == 1:
        line = line.removeprefix(BYTE_ORDER_MARK)
    raw = line.strip(WHITE_SPACE)
    if raw and length > _longest(line):
        return too_long(number, offset, line.lstrip(WHITE_SPACE), length)
    return Record(number, offset, raw) if raw else None
