"""One record of a file, as bytes with their place, before anybody has understood it."""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from faillog_otel.events.model import BadRecord
from faillog_otel.events.unpack import DamagedFile

LONGEST_RECORD_BYTES = 16 * 1024 * 1024
KEPT_BYTES = 64 * 1024
"""How much of an over-long record is kept in the quarantine."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Record(Struct, frozen=True, gc=False):
    """One record without its outer white space.

    `line` counts from 1, `offset` is in bytes of the decompressed file: where the record's line begins
    in JSON Lines, else where the record does. `bad` says why there is nothing to decode.
    """

    line: int
    offset: int
    raw: bytes
    bad: BadRecord | None = None


class Start(Struct, frozen=True):
    """Where reading begins in the content: behind so many lines, and so many bytes."""

    lines: int = 0
    offset: int = 0


FROM_THE_START = Start()


class Group(Struct, frozen=True, gc=False):
    """Lines one right after the other, from this one on: each is a record, and all of its line."""

    line: int
    offset: int
    raws: list[bytes]

    def records(self) -> Iterator[Record]:
        """One by one."""
        offset = self.offset
        for line, raw in enumerate(self.raws, self.line):
            yield Record(line, offset, raw)
            offset += len(raw) + 1


class Blank(Struct, frozen=True):
    """So many blank lines."""

    lines: int


class UntilDamage:
    """The chunks of a file up to where it cannot be read on; `damage` then says why."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.damage: DamagedFile | None = None
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except DamagedFile as error:
            self.damage = error


def too_long(line: int, offset: int, head: bytes, length: int) -> Record:
    """A record of more than LONGEST_RECORD_BYTES, of which `head` is the beginning."""
    detail = f"the record has {length} bytes, more than {LONGEST_RECORD_BYTES}"
    return Record(line, offset, b"", BadRecord("too_long", detail, head[:KEPT_BYTES], replayable=False))


def damaged(line: int, offset: int, damage: DamagedFile) -> Record:
    """The place where a file cannot be read on."""
    return Record(line, offset, b"", BadRecord(damage.reason, str(damage), b"", replayable=False))
