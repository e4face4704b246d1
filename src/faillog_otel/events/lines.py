"""Chunks of JSON Lines → records, each with its place. Memory holds one chunk and one line at the most."""

from collections.abc import Iterable, Iterator
from itertools import chain

from faillog_otel.events.record import (
    BYTE_ORDER_MARK,
    FROM_THE_START,
    KEPT_BYTES,
    LONGEST_RECORD_BYTES,
    Blank,
    Group,
    Record,
    Start,
    UntilDamage,
    damaged,
    too_long,
)
from faillog_otel.events.syntax import WHITE_SPACE

LONGEST_ENTRY_BYTES = 3 * LONGEST_RECORD_BYTES
"""An entry of a kept file holds a record's bytes once more as text, with its quotes escaped."""


def split_lines(chunks: Iterable[bytes], start: Start = FROM_THE_START) -> Iterator[Record | Blank]:
    """The lines of a file one by one, as `group_lines` gives them."""
    for group in group_lines(chunks, start):
        if isinstance(group, Group):
            yield from group.records()
        else:
            yield group


def group_lines(chunks: Iterable[bytes], start: Start = FROM_THE_START) -> Iterator[Group | Record | Blank]:
    """The lines of a file, the last one also without a final newline; blank ones are counted.

    A byte order mark and CRLF are understood. Where the file's content breaks off (DamagedFile), what
    came of the last line is a line, and the damage is one more that is bad.
    """
    source, splitter = UntilDamage(chunks), _Splitter(start)
    for chunk in source:
        yield from splitter.take(chunk)
    yield from splitter.end()
    if source.damage:
        yield damaged(splitter.number + 1, splitter.offset, source.damage)


def lines_with(
    mark: bytes, escape: bytes, chunks: Iterable[bytes], start: Start = FROM_THE_START
) -> Iterator[bytes]:
    """Those lines that hold a mark or an escape, without outer white space; the others are not looked at.

    Lines of more than LONGEST_RECORD_BYTES are left out. Where the content breaks off, so does this.
    """
    begun, is_first = b"", start.offset == 0
    is_passed_over = False  # the rest of a line that is too long
    for chunk in chain(UntilDamage(chunks), [b"\n"]):
        end = chunk.rfind(b"\n") + 1
        lines, rest = begun + chunk[:end], chunk[end:]
        if not end:
            begun += rest
            if len(begun) > LONGEST_RECORD_BYTES:
                begun, is_passed_over = b"", True
            continue
        if is_passed_over:
            lines, is_passed_over = lines[lines.index(b"\n") + 1 :], False
        elif is_first:
            lines = lines.removeprefix(BYTE_ORDER_MARK)
        begun, is_first = rest, False
        yield from _found(mark, escape, lines)


def _found(mark: bytes, escape: bytes, lines: bytes) -> Iterator[bytes]:
    at, marked = 0, -1
    while at < len(lines):
        if marked < at and (marked := lines.find(mark, at)) < 0:
            marked = len(lines)
        # One byte is found many times quicker than two, and few lines without the mark have an escape.
        place = lines.find(escape[:1], at, marked)
        if place >= 0:
            place = lines.find(escape, place, marked)
        if place < 0 and (place := marked) == len(lines):
            return
        start, end = max(at, lines.rfind(b"\n", at, place) + 1), lines.index(b"\n", place)
        if end - start <= LONGEST_RECORD_BYTES:
            yield lines[start:end].strip(WHITE_SPACE)
        at = end + 1


class _Splitter:
    """Where splitting stands: `number` lines have ended, at `offset`; one more may have begun."""

    def __init__(self, start: Start) -> None:
        self.number = start.lines
        self.offset = start.offset
        self._blank = 0
        self._begun: list[bytes] = []  # pieces of a line without its end; joined when that comes
        self._begun_bytes = 0
        self._passed_over = 0

    def take(self, chunk: bytes) -> Iterator[Group | Record | Blank]:
        if not self._begun_bytes and not chunk.strip(WHITE_SPACE):
            chunk = self._after_blank_lines(chunk)
        first, *others = chunk.split(b"\n")
        self._go_on(first)
        if others:
            yield from self._end_line(newline=1)
            begun = others.pop()
            yield from self._whole_lines(others)
            self._go_on(begun)
        if self._begun_bytes > _longest(self._begun[0]):
            head = b"".join(self._begun).lstrip(WHITE_SPACE)[:KEPT_BYTES]  # nothing, while the line is blank
            self._begun = [head]
            self._passed_over += self._begun_bytes - len(head)
            self._begun_bytes = len(head)

    def end(self) -> Iterator[Group | Record | Blank]:
        if self._begun_bytes or self._passed_over:
            yield from self._end_line(newline=0)
        if self._blank:
            yield Blank(self._blank)

    def _whole_lines(self, lines: list[bytes]) -> Iterator[Group | Record | Blank]:
        """Lines that begin and end in one chunk, and of which none is the first: nearly all of them."""
        raws = [line.strip(WHITE_SPACE) for line in lines]
        if (
            raws == lines
            and not self._blank
            and all(raws)
            and max(map(len, raws), default=0) <= LONGEST_RECORD_BYTES
        ):
            if raws:
                yield Group(self.number + 1, self.offset, raws)
                self.number += len(raws)
                self.offset += sum(map(len, raws)) + len(raws)
            return
        number, offset = self.number, self.offset
        for line, raw in zip(lines, raws, strict=True):
            number += 1
            if raw:
                if self._blank:
                    yield Blank(self._blank)
                    self._blank = 0
                if len(line) > LONGEST_RECORD_BYTES and (record := _record(number, offset, line, len(line))):
                    yield record
                else:
                    yield Record(number, offset, raw)
            else:
                self._blank += 1
            offset += len(line) + 1
        self.number, self.offset = number, offset

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
