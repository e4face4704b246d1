"""Chunks of content → lines, each with its place. Memory holds one chunk and one line at the most."""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from faillog_otel.events.model import BadRecord
from faillog_otel.events.unpack import DamagedFile

LONGEST_LINE_BYTES = 16 * 1024 * 1024
LONGEST_ENTRY_BYTES = 3 * LONGEST_LINE_BYTES
"""An entry of a kept file holds a record's bytes once more as text, with its quotes escaped."""
KEPT_BYTES = 64 * 1024
"""How much of an over-long line is kept in the quarantine."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WHITE_SPACE = b" \t\r\n"


class Line(Struct, frozen=True):
    """One line without its outer white space: `raw` is empty where the line is blank.

    `number` counts from 1, `offset` is that of the line's first byte in the decompressed file.
    `bad` says why there is nothing to decode: the line is too long, or the file breaks off here.
    """

    number: int
    offset: int
    raw: bytes
    bad: BadRecord | None = None


def split_lines(chunks: Iterable[bytes]) -> Iterator[Line]:
    """The lines of a file, the last one also without a final newline.

    A byte order mark and CRLF are understood. Where the file's content breaks off (DamagedFile), what
    came of the last line is a line, and the damage is one more that is bad.
    """
    number, offset = 0, 0
    begun: list[bytes] = []  # pieces of a line without its end; joined when that comes
    begun_bytes, passed_over = 0, 0
    damage: DamagedFile | None = None
    source = iter(chunks)
    while True:
        try:
            chunk = next(source, None)
        except DamagedFile as error:
            chunk, damage = None, error
        if chunk is None:
            break
        first, *others = chunk.split(b"\n")
        begun.append(first)
        begun_bytes += len(first)
        for other in others:
            number += 1
            line = b"".join(begun)
            yield _line(number, offset, line, passed_over)
            offset += len(line) + passed_over + 1
            begun, begun_bytes, passed_over = [other], len(other), 0
        if begun_bytes > _longest(begun[0]):
            begun = [b"".join(begun)[:KEPT_BYTES]]
            passed_over += begun_bytes - KEPT_BYTES
            begun_bytes = KEPT_BYTES
    if begun_bytes:
        number += 1
        yield _line(number, offset, b"".join(begun), passed_over)
        offset += begun_bytes + passed_over
    if damage:
        bad = BadRecord(damage.reason, str(damage), b"", replayable=False)
        yield Line(number + 1, offset, b"", bad)


def _longest(head: bytes) -> int:
    return LONGEST_ENTRY_BYTES if head.startswith(b'{"reason":') else LONGEST_LINE_BYTES


def _line(number: int, offset: int, line: bytes, passed_over: int) -> Line:
    length = len(line) + passed_over
    if length > _longest(line):
        detail = f"the line has {length} bytes, more than {LONGEST_LINE_BYTES}"
        bad = BadRecord("too_long", detail, line[:KEPT_BYTES], replayable=False)
        return Line(number, offset, b"", bad)
    if number == 1:
        line = line.removeprefix(_BYTE_ORDER_MARK)
    return Line(number, offset, line.strip(_WHITE_SPACE))
