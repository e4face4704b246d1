"""Chunks of a JSON array, or of JSON values one after the other → records, each with its place.

Memory holds one chunk and one record at the most. Where the syntax breaks nobody can say where the next
record begins: the rest of the file is one bad record.
"""

import re
from collections.abc import Iterable, Iterator

from faillog_otel.events.model import BadRecord
from faillog_otel.inputs.decompress import (
    BYTE_ORDER_MARK,
    KEPT_BYTES,
    MAX_RECORD_BYTES,
    DamagedFile,
    Record,
    StopAtCorruption,
    damaged,
    too_long,
)
from faillog_otel.json_syntax import DEEPEST_NESTING, STRING, WHITE_SPACE, is_json

_SPACE = re.compile(rb"[ \t\r\n]*+")
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + STRING + rb")*+", re.DOTALL)
_TO_QUOTE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_TO_DELIMITER = re.compile(rb'[^ \t\r\n,\[\]{}"]*+')


def read_values(chunks: Iterable[bytes], *, in_arrays: bool) -> Iterator[Record]:
    """The values of a file; with `in_arrays`, those inside its arrays.

    A value that is too long, or well-formed and no event, is one bad record, and the next is read. The
    first byte that JSON's grammar does not allow makes the rest of the file one bad record (the array's
    missing end, too), and damage to a compressed file one more.
    """
    source = _Source(chunks)
    expected = "value"
    inside = False
    while source.to_content():
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
            record, is_sound = _value(source)
            yield record
            if not is_sound:
                break
            expected = "comma" if inside else "value"
    else:
        if inside and source.damage is None:
            why = "the array does not end: was the file cut off?"
            bad = BadRecord("invalid_json", why, b"", replayable=False)
            yield Record(source.line, source.offset(), b"", bad)
    if source.damage:
        yield damaged(source.line, source.offset(), source.damage)


class _Source:
    """The chunks, with a position."""

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
        """Why the chunks ended, where they ended early."""
        return self._until_damage.damage

    def offset(self) -> int:
        """The position in bytes of the content."""
        return self._before + self.at

    def more(self, *, keep: bool = False) -> bool:
        """Goes on to the next chunk; False at the end."""
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        if keep:
            self.data += chunk
        else:
            self._before += len(self.data)
            self.data, self.at = chunk, 0
        return True

    def to_content(self) -> bool:
        """Passes over white space; False at the end."""
        while True:
            start, self.at = self.at, _match_end(_SPACE, self.data, self.at)
            self.line += self.data.count(b"\n", start, self.at)
            if self.at < len(self.data):
                return True
            if not self.more():
                return False


class _Piece:
    """The bytes of one record, gathered chunk by chunk; of an over-long one its head."""

    def __init__(self, source: _Source) -> None:
        self.line, self.offset = source.line, source.offset()
        self.length = 0
        self._parts: list[bytes] = []
        self._kept = 0

    def add(self, part: bytes) -> None:
        self.length += len(part)
        if self.length <= MAX_RECORD_BYTES:
            self._parts.append(part)
        elif self._kept != KEPT_BYTES:
            self._parts = [b"".join([*self._parts, part])[:KEPT_BYTES]]
            self._kept = KEPT_BYTES

    def is_whole(self) -> bool:
        return self.length <= MAX_RECORD_BYTES

    def raw(self) -> bytes:
        return b"".join(self._parts)


def _value(source: _Source) -> tuple[Record, bool]:
    """The value that begins here; False beside it where the file cannot be read on behind it."""
    piece, scan = _Piece(source), _Scan(source.data[source.at])
    while (end := scan.end(source.data, source.at)) is None:
        piece.add(source.data[source.at :])
        source.line += source.data.count(b"\n", source.at)
        source.at = len(source.data)
        if not source.more():
            if scan.is_scalar:
                end = source.at
                break
            return _broken(piece, "the record does not end: was the file cut off?"), False
    piece.add(source.data[source.at : end])
    source.line += source.data.count(b"\n", source.at, end)
    source.at = end
    if not piece.is_whole():
        return too_long(piece.line, piece.offset, piece.raw(), piece.length), True
    raw = piece.raw()
    if scan.deepest > DEEPEST_NESTING or is_json(raw):
        return Record(piece.line, piece.offset, raw), True
    return _rest(source, "this record is no JSON", piece), False


class _Scan:
    """Finds the end of a value by its brackets and quotes alone, over as many chunks as it takes."""

    def __init__(self, first: int) -> None:
        self.is_scalar = first not in b'[{"'
        self.deepest = 0
        self._depth = 0
        self._in_string = first == ord('"')
        self._passed_over = 1 if self._in_string else 0  # a quote that opens, or a byte that is escaped

    def end(self, data: bytes, at: int) -> int | None:
        """Where the value ends; None where it goes on in the next chunk."""
        if self.is_scalar:
            end = _match_end(_TO_DELIMITER, data, at)
            return end if end < len(data) else None
        if at + self._passed_over > len(data):
            return None
        at += self._passed_over
        self._passed_over = 0
        while at < len(data):
            at = _match_end(_TO_QUOTE if self._in_string else _TO_BRACKET, data, at)
            if at == len(data):
                break
            byte = data[at]
            at += 1
            if byte == ord("\\"):
                self._passed_over = 1  # the chunk ends here
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
    """All from here on, or from what was begun, as one bad record."""
    piece = begun or _Piece(source)
    piece.add(source.data[source.at :])
    while source.more():
        piece.add(source.data)
    source.at = len(source.data)
    return _broken(piece, f"{why}; the rest of the file, from here on, is kept as one record")


def _broken(piece: _Piece, why: str) -> Record:
    raw = piece.raw().strip(WHITE_SPACE)
    bad = BadRecord("invalid_json", why, raw, replayable=piece.is_whole())
    return Record(piece.line, piece.offset, b"", bad)


def _match_end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    found = pattern.match(data, at)
    return found.end() if found else at


def _shown(byte: bytes) -> str:
    return byte.decode("ascii", "backslashreplace")
