"""Detects the form of a file's content, and splits the content into records with their positions.

JSON Lines are split here, arrays and concatenated values in `json_stream`. Memory holds at most one chunk and
one line.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from faillog_otel.events.model import BadRecord, Form
from faillog_otel.inputs.files import GZIP_MAGIC, PIECE_BYTES, ZSTD_MAGIC, DamagedFile, StopAtCorruption
from faillog_otel.inputs.json_stream import (
    BYTE_ORDER_MARK,
    FROM_THE_START,
    MAX_KEPT_BYTES,
    MAX_RECORD_BYTES,
    Blank,
    Group,
    ReadPosition,
    Record,
    damaged,
    read_values,
    too_long,
)
from faillog_otel.text import WHITE_SPACE, is_json

# -- lines ---------------------------------------------------------------------------------------------------

MAX_ENTRY_BYTES = 3 * MAX_RECORD_BYTES
"""An entry of a kept file also contains the record's bytes as text, with escaped quotes."""


def split_lines(chunks: Iterable[bytes], start: ReadPosition = FROM_THE_START) -> Iterator[Record | Blank]:
    """Yields the lines of a file one by one, like `group_lines`."""
    for group in group_lines(chunks, start):
        if isinstance(group, Group):
            yield from group.records()
        else:
            yield group


def group_lines(
    chunks: Iterable[bytes], start: ReadPosition = FROM_THE_START
) -> Iterator[Group | Record | Blank]:
    """Yields the lines of a file, the last one also without a newline; counts blank lines.

    Accepts a byte order mark and CRLF. If the content is damaged (DamagedFile), the incomplete last line is a
    line, and the damage is one more, bad, record.
    """
    source, splitter = StopAtCorruption(chunks), _Splitter(start)
    for chunk in source:
        yield from splitter.take(chunk)
    yield from splitter.end()
    if source.damage:
        yield damaged(splitter.number + 1, splitter.offset, source.damage)


class _Splitter:
    """The state of splitting: `number` lines have ended, at `offset`; another one can have begun."""

    def __init__(self, start: ReadPosition) -> None:
        self.number = start.lines
        self.offset = start.offset
        self._blank = 0
        self._begun: list[bytes] = []  # pieces of an incomplete line
        self._begun_bytes = 0
        self._dropped_bytes = 0

    def take(self, chunk: bytes) -> Iterator[Group | Record | Blank]:
        if not self._begun_bytes and not chunk.strip(WHITE_SPACE):
            chunk = self._after_blank_lines(chunk)
        first, *others = chunk.split(b"\n")
        self._append(first)
        if others:
            yield from self._end_line(newline=1)
            begun = others.pop()
            yield from self._whole_lines(others)
            self._append(begun)
        if self._begun_bytes > _max_line_bytes(self._begun[0]):
            head = b"".join(self._begun).lstrip(WHITE_SPACE)[:MAX_KEPT_BYTES]  # empty while the line is blank
            self._begun = [head]
            self._dropped_bytes += self._begun_bytes - len(head)
            self._begun_bytes = len(head)

    def end(self) -> Iterator[Group | Record | Blank]:
        if self._begun_bytes or self._dropped_bytes:
            yield from self._end_line(newline=0)
        if self._blank:
            yield Blank(self._blank)

    def _whole_lines(self, lines: list[bytes]) -> Iterator[Group | Record | Blank]:
        """Yields the lines that begin and end in one chunk, except the first: nearly all lines."""
        raws = [line.strip(WHITE_SPACE) for line in lines]
        if (
            raws == lines
            and not self._blank
            and all(raws)
            and max(map(len, raws), default=0) <= MAX_RECORD_BYTES
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
                if len(line) > MAX_RECORD_BYTES and (record := _record(number, offset, line, len(line))):
                    yield record
                else:
                    yield Record(number, offset, raw)
            else:
                self._blank += 1
            offset += len(line) + 1
        self.number, self.offset = number, offset

    def _after_blank_lines(self, chunk: bytes) -> bytes:
        """Counts blank lines at once: a file can have gigabytes of them. Returns the rest of the chunk."""
        newlines, end = chunk.count(b"\n"), chunk.rfind(b"\n") + 1
        if newlines:
            self.number += newlines
            self._blank += newlines
            self.offset += end + self._dropped_bytes
            self._dropped_bytes = 0
        return chunk[end:]

    def _append(self, piece: bytes) -> None:
        self._begun.append(piece)
        self._begun_bytes += len(piece)

    def _end_line(self, newline: int) -> Iterator[Record | Blank]:
        line = b"".join(self._begun)
        length = len(line) + self._dropped_bytes
        self.number += 1
        if record := _record(self.number, self.offset, line, length):
            if self._blank:
                yield Blank(self._blank)
                self._blank = 0
            yield record
        else:
            self._blank += 1
        self.offset += length + newline
        self._begun, self._begun_bytes, self._dropped_bytes = [], 0, 0


def _max_line_bytes(head: bytes) -> int:
    return MAX_ENTRY_BYTES if head.startswith(b'{"reason":') else MAX_RECORD_BYTES


def _record(number: int, offset: int, line: bytes, length: int) -> Record | None:
    """Returns the line's record; None if it is blank."""
    if number == 1:
        line = line.removeprefix(BYTE_ORDER_MARK)
    raw = line.strip(WHITE_SPACE)
    if raw and length > _max_line_bytes(line):
        return too_long(number, offset, line.lstrip(WHITE_SPACE), length)
    return Record(number, offset, raw) if raw else None


# -- forms ---------------------------------------------------------------------------------------------------

_CONVERT = "convert it (iconv -f"
_JSON_STARTS = (b"{", b"[", b" ", b"\n")
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive; unpack it and name the files inside"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"BZh", "bzip2; unpack it with bunzip2"),
    (b"\xfd7zXZ\0", "xz; unpack it with unxz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it and name the files inside"),
    (GZIP_MAGIC, "gzip inside a compressed file; unpack it once"),
    (ZSTD_MAGIC, "zstd inside a compressed file; unpack it once"),
    *((start, f"UTF-32; {_CONVERT} UTF-32 -t UTF-8)") for start in (b"\xff\xfe\0\0", b"\0\0\xfe\xff")),
    *((start, f"UTF-16; {_CONVERT} UTF-16 -t UTF-8)") for start in (b"\xff\xfe", b"\xfe\xff")),
    *((start + b"\0", f"UTF-16; {_CONVERT} UTF-16LE -t UTF-8)") for start in _JSON_STARTS),
    *((b"\0" + start, f"UTF-16; {_CONVERT} UTF-16BE -t UTF-8)") for start in _JSON_STARTS),
    (b"PAR1", "Parquet"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"%PDF", "PDF"),
)
_MAX_START = 16
MAX_PEEKED_BYTES = 2 * (MAX_RECORD_BYTES + PIECE_BYTES)
"""Of the content that form detection reads: two records of any allowed length, and the chunks they end in."""


def form_of(chunks: Iterable[bytes]) -> Form:
    """Returns the form of the content; reads up to the second line that is not blank.

    An array if the first byte after white space is `[`. Else JSON Lines if either of the first two lines that
    are not blank is a complete JSON value. Else values.
    """
    source = iter(StopAtCorruption(chunks))
    opening, start, head = b"", b"", b""
    for chunk in source:
        opening += chunk[: _MAX_START - len(opening)]
        start += chunk
        head = start.removeprefix(BYTE_ORDER_MARK).lstrip(WHITE_SPACE)
        if head and len(start) >= _MAX_START:
            break
        if not head and len(start) > _MAX_START:
            start = start[-1:]  # white space is not collected
    for magic, what in _FOREIGN:
        if opening.startswith(magic):
            return Form("foreign", f"this file is {what}")
    if head.startswith(b"["):
        return Form("array")
    lines = (line for line in split_lines(chain([start], source)) if isinstance(line, Record))
    first = list(islice(lines, 2))
    if not head or any(map(_is_complete, first)):
        return Form("lines")
    if head.startswith(b"<"):
        return Form("foreign", "this file is HTML or XML, probably an error page; download it again")
    return Form("values")


def form_and_content(
    open_content: Callable[[], Iterator[bytes]], max_bytes: int = MAX_PEEKED_BYTES
) -> tuple[Form, Iterator[bytes]]:
    """Returns the form of a content, and all of its chunks; opens the content once.

    Form detection reads up to the second line that is not blank, and its chunks are kept for the reader. Only
    a content whose first two lines exceed `max_bytes` is opened again. The chunks may raise DamagedFile.
    """
    source, peeked, damage, size = open_content(), deque[bytes](), list[DamagedFile](), 0

    def peek() -> Iterator[bytes]:
        nonlocal size
        try:
            for chunk in source:
                size += len(chunk)
                if size <= max_bytes:
                    peeked.append(chunk)
                yield chunk
        except DamagedFile as error:  # form detection ignores it
            damage.append(error)
            raise

    def content() -> Iterator[bytes]:
        while peeked:
            yield peeked.popleft()
        yield from source
        if damage:
            raise damage[0]

    form = form_of(peek())
    return form, content() if size <= max_bytes else open_content()


def read_records(
    form: Form, chunks: Iterable[bytes], start: ReadPosition = FROM_THE_START
) -> Iterator[Record | Blank]:
    """Yields the records of the content in order, and the blank lines of JSON Lines.

    The chunks of JSON Lines can start at any line.
    """
    if form.kind == "lines":
        return split_lines(chunks, start)
    if form.kind == "foreign":
        return iter([_foreign(form, chunks)])
    return read_values(chunks, in_arrays=form.kind == "array")


def read_groups(
    form: Form, chunks: Iterable[bytes], start: ReadPosition = FROM_THE_START
) -> Iterator[Group | Record | Blank]:
    """Yields the same records; ordinary lines come in groups."""
    return group_lines(chunks, start) if form.kind == "lines" else read_records(form, chunks)


def _is_complete(line: Record) -> bool:
    """Returns whether a line is one JSON value; of a line that is too long, only the beginning is known."""
    if line.bad is None:
        return is_json(line.raw)
    if line.bad.reason != "too_long":
        return False
    first = next(iter(read_values([line.bad.raw], in_arrays=False)))
    return first.bad is not None  # a bad record: the value goes on to the end of the line


def _foreign(form: Form, chunks: Iterable[bytes]) -> Record:
    head = b""
    for chunk in StopAtCorruption(chunks):
        head += chunk
        if len(head) >= MAX_KEPT_BYTES:
            break
    return Record(
        1, 0, b"", BadRecord("foreign_format", form.detail, head[:MAX_KEPT_BYTES], replayable=False)
    )
