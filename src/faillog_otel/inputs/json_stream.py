"""Defines records, and splits chunks of JSON arrays or of concatenated JSON values into records.

Memory holds at most one chunk and one record. After a syntax error the start of the next record is unknown,
so the rest of the file is one bad record.
"""

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct

from faillog_otel.events.model import BadRecord
from faillog_otel.inputs.files import DamagedFile, StopAtCorruption
from faillog_otel.text import JSON_STRING, MAX_DEPTH, WHITE_SPACE, is_json

MAX_RECORD_BYTES = 16 * 1024 * 1024
MAX_KEPT_BYTES = 64 * 1024
"""Bytes of a record that is too long that the quarantine keeps."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Record(Struct, frozen=True, gc=False):
    """One record without outer white space, not decoded yet.

    `line` counts from 1. `offset` is in bytes of the decompressed file: that of the line in JSON Lines, else
    that of the record. `bad` says why there is nothing to decode.
    """

    line: int
    offset: int
    raw: bytes
    bad: BadRecord | None = None


class ReadPosition(Struct, frozen=True):
    """Where reading begins: after this many lines and bytes of the content."""

    lines: int = 0
    offset: int = 0


FROM_THE_START = ReadPosition()


class Group(Struct, frozen=True, gc=False):
    """Consecutive lines, each of which is exactly one record."""

    line: int
    offset: int
    raws: list[bytes]

    def records(self) -> Iterator[Record]:
        """Yields the records one by one."""
        offset = self.offset
        for line, raw in enumerate(self.raws, self.line):
            yield Record(line, offset, raw)
            offset += len(raw) + 1


class Blank(Struct, frozen=True):
    """A number of blank lines."""

    lines: int


def too_long(line: int, offset: int, head: bytes, length: int) -> Record:
    """Returns the bad record for one longer than MAX_RECORD_BYTES, which begins with `head`."""
    detail = f"the record has {length} bytes, more than {MAX_RECORD_BYTES}"
    return Record(line, offset, b"", BadRecord("too_long", detail, head[:MAX_KEPT_BYTES], replayable=False))


def damaged(line: int, offset: int, damage: DamagedFile) -> Record:
    """Returns the bad record for the position of a damage."""
    return Record(line, offset, b"", BadRecord(damage.reason, str(damage), b"", replayable=False))


# -- JSON values ---------------------------------------------------------------------------------------------

_SPACE = re.compile(rb"[ \t\r\n]*+")
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + JSON_STRING + rb")*+", re.DOTALL)
_TO_QUOTE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_TO_DELIMITER = re.compile(rb'[^ \t\r\n,\[\]{}"]*+')


def read_values(chunks: Iterable[bytes], *, in_arrays: bool) -> Iterator[Record]:
    """Yields the values of a file; with `in_arrays`, those inside its arrays.

    A value that is too long is one bad record, and reading goes on. The first byte that JSON's grammar does
    not allow makes the rest of the file one bad record, as does the missing end of an array; damage to a
    compressed file makes one more.
    """
    source = _Source(chunks)
    expected = "value"
    inside = False
    while source.skip_space():
        byte = source.data[source.at : source.at + 1]
        if inside and byte == b"]" and expected != "value after comma":
            inside, expected = False, "value"
            source.at += 1
        elif expected == "comma":
            if byte != b",":
                yield _rest(source, f"a comma or ] is expected, not {_shown(byte)}")
                break
            expected = "value after comma"
            source.at += 1
        elif byte == b"[" and in_arrays and not inside:
            inside, expected = True, "value"
            source.at += 1
        elif byte in b",]}:":
            yield _rest(source, f"a value is expected, not {_shown(byte)}")
            break
        else:
            record, can_continue = _value(source)
            yield record
            if not can_continue:
                break
            expected = "comma" if inside else "value"
    else:
        if inside and source.damage is None:
            why = "the array does not end; the file is probably truncated"
            bad = BadRecord("invalid_json", why, b"", replayable=False)
            yield Record(source.line, source.offset(), b"", bad)
    if source.damage:
        yield damaged(source.line, source.offset(), source.damage)


class _Source:
    """The chunks with a read position."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.data = b""
        self.at = 0
        self.line = 1
        self._until_damage = StopAtCorruption(chunks)
        self._chunks = iter(self._until_damage)
        self._before = 0
        while len(self.data) < len(BYTE_ORDER_MARK) and self.more(keep=True):
            pass
        if self.data.startswith(BYTE_ORDER_MARK):
            self.at = len(BYTE_ORDER_MARK)

    @property
    def damage(self) -> DamagedFile | None:
        """Why the chunks ended early; None if they did not."""
        return self._until_damage.damage

    def offset(self) -> int:
        """Returns the position in bytes of the content."""
        return self._before + self.at

    def more(self, *, keep: bool = False) -> bool:
        """Reads the next chunk; returns False at the end."""
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        if keep:
            self.data += chunk
        else:
            self._before += len(self.data)
            self.data, self.at = chunk, 0
        return True

    def skip_space(self) -> bool:
        """Skips white space; returns False at the end."""
        while True:
            start, self.at = self.at, _match_end(_SPACE, self.data, self.at)
            self.line += self.data.count(b"\n", start, self.at)
            if self.at < len(self.data):
                return True
            if not self.more():
                return False


class _Piece:
    """The bytes of one record, collected chunk by chunk; only the head of one that is too long."""

    def __init__(self, source: _Source) -> None:
        self.line, self.offset = source.line, source.offset()
        self.length = 0
        self._parts: list[bytes] = []
        self._kept = 0

    def add(self, part: bytes) -> None:
        self.length += len(part)
        if self.length <= MAX_RECORD_BYTES:
            self._parts.append(part)
        elif self._kept != MAX_KEPT_BYTES:
            self._parts = [b"".join([*self._parts, part])[:MAX_KEPT_BYTES]]
            self._kept = MAX_KEPT_BYTES

    def is_whole(self) -> bool:
        return self.length <= MAX_RECORD_BYTES

    def raw(self) -> bytes:
        return b"".join(self._parts)


def _value(source: _Source) -> tuple[Record, bool]:
    """Returns the value that begins here, and whether the file can be read further after it."""
    piece, scan = _Piece(source), _Scan(source.data[source.at])
    while (end := scan.end(source.data, source.at)) is None:
        piece.add(source.data[source.at :])
        source.line += source.data.count(b"\n", source.at)
        source.at = len(source.data)
        if not source.more():
            if scan.is_scalar:
                end = source.at
                break
            return _broken(piece, "the record does not end; the file is probably truncated"), False
    piece.add(source.data[source.at : end])
    source.line += source.data.count(b"\n", source.at, end)
    source.at = end
    if not piece.is_whole():
        return too_long(piece.line, piece.offset, piece.raw(), piece.length), True
    raw = piece.raw()
    if scan.deepest > MAX_DEPTH or is_json(raw):
        return Record(piece.line, piece.offset, raw), True
    return _rest(source, "the record is not valid JSON", piece), False


class _Scan:
    """Finds the end of a value by its brackets and quotes, across chunks."""

    def __init__(self, first: int) -> None:
        self.is_scalar = first not in b'[{"'
        self.deepest = 0
        self._depth = 0
        self._in_string = first == ord('"')
        self._skip = 1 if self._in_string else 0  # an opening quote, or an escaped byte

    def end(self, data: bytes, at: int) -> int | None:
        """Returns the end of the value; None if it continues in the next chunk."""
        if self.is_scalar:
            end = _match_end(_TO_DELIMITER, data, at)
            return end if end < len(data) else None
        if at + self._skip > len(data):
            return None
        at += self._skip
        self._skip = 0
        while at < len(data):
            at = _match_end(_TO_QUOTE if self._in_string else _TO_BRACKET, data, at)
            if at == len(data):
                break
            byte = data[at]
            at += 1
            if byte == ord("\\"):
                self._skip = 1  # the chunk ends here
                return None
            if byte == ord('"'):
                self._in_string = not self._in_string
            else:
                self._depth += 1 if byte in b"[{" else -1
                self.deepest = max(self.deepest, self._depth)
            if self._depth <= 0 and not self._in_string:
                return at
        return None


def _rest(source: _Source, why: str, begun: _Piece | None = None) -> Record:
    """Returns the rest of the file, from `begun` or from here on, as one bad record."""
    piece = begun or _Piece(source)
    piece.add(source.data[source.at :])
    while source.more():
        piece.add(source.data)
    source.at = len(source.data)
    return _broken(piece, f"{why}; the rest of the file is kept as one record")


def _broken(piece: _Piece, why: str) -> Record:
    raw = piece.raw().strip(WHITE_SPACE)
    bad = BadRecord("invalid_json", why, raw, replayable=piece.is_whole())
    return Record(piece.line, piece.offset, b"", bad)


def _match_end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    found = pattern.match(data, at)
    return found.end() if found else at


def _shown(byte: bytes) -> str:
    return byte.decode("ascii", "backslashreplace")
