"""Chunks of a file → chunks of its content. What a file is, its first bytes say, never its name."""

import sys
import zlib
from collections.abc import Iterable, Iterator

from msgspec import Struct

from faillog_otel.events.model import BadRecord, ReasonCode

# -- unpack --------------------------------------------------------------------------------------------------


if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
PIECE_BYTES = 256 * 1024
"""How much is decompressed at a time: a file that unpacks to a terabyte never takes more memory."""

_ZSTD_INPUT_BYTES = 1024
"""zstd gives nothing of a call that fails: with so small portions little is lost before the damage."""
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 26}
"""Frames whose window is larger than 64 MiB would take that much memory; only `--ultra` and `--long` do."""


class DamagedFile(Exception):
    """The rest of a file cannot be read; `reason` is a quarantine reason code."""

    def __init__(self, reason: ReasonCode, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def unpack(chunks: Iterable[bytes], max_bytes: int | None = None) -> Iterator[bytes]:
    """The content, decompressed where the first bytes are gzip's or zstd's; all members, one by one.

    Raises DamagedFile after the last good byte where the compressed data breaks off or goes wrong, and
    where it unpacks to more than `max_bytes`.
    """
    source = iter(chunks)
    first = next(source, b"")
    while 0 < len(first) < len(ZSTD_MAGIC) and (more := next(source, b"")):
        first += more
    if first.startswith(GZIP_MAGIC):
        yield from _limited(_gunzip(first, source), max_bytes)
    elif _is_zstd(first):
        yield from _limited(_unzstd(first, source), max_bytes)
    else:
        yield first
        yield from source


def is_packed(start: bytes) -> bool:
    """Whether the content is compressed, by the first bytes of a file."""
    return start.startswith(GZIP_MAGIC) or _is_zstd(start)


def _limited(content: Iterator[bytes], max_bytes: int | None) -> Iterator[bytes]:
    left = max_bytes
    for chunk in content:
        if left is not None and len(chunk) > left:
            yield chunk[:left]
            detail = f"it unpacks to more than {max_bytes} bytes: raise max_content if it is no bomb"
            raise DamagedFile("too_much_content", detail)
        left = None if left is None else left - len(chunk)
        yield chunk


def _gunzip(data: bytes, source: Iterator[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)
    while data or (data := next(source, b"")):
        before = member.copy()
        try:
            yield member.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            yield _until_damage(before, data)
            raise DamagedFile("damaged_gzip", f"the gzip data is damaged: {error}") from None
        data = member.unconsumed_tail
        if member.eof:
            data = member.unused_data.lstrip(b"\0") or _next_with_content(source)
            if not data:
                return  # zero bytes behind the last member are padding
            while len(data) < len(GZIP_MAGIC) and (more := next(source, b"")):
                data += more
            if not GZIP_MAGIC.startswith(data[:2]):
                raise DamagedFile("trailing_garbage", "what follows the gzip data is not gzip")
            member = zlib.decompressobj(wbits=31)
    raise DamagedFile("truncated_gzip", "the gzip data ends before its end: was the file cut off?")


def _until_damage(member: "zlib._Decompress", data: bytes) -> bytes:
    """What the data holds before its damage: a call that fails gives nothing, so each gives one byte."""
    found = bytearray()
    for at in range(0, len(data), 512):
        piece = data[at : at + 512]
        try:
            while piece or member.unconsumed_tail:
                byte = member.decompress(piece, 1)
                found += byte
                piece = member.unconsumed_tail
                if not byte and not piece:
                    break
        except zlib.error:
            break
    return bytes(found[:PIECE_BYTES])


def _next_with_content(source: Iterator[bytes]) -> bytes:
    return next((left for chunk in source if (left := chunk.lstrip(b"\0"))), b"")


def _is_zstd(data: bytes) -> bool:
    """Whether a zstd frame begins here, or one that is to be skipped (RFC 8878, section 3.1)."""
    return data.startswith(ZSTD_MAGIC) or (data[1:4] == b"\x2a\x4d\x18" and data[0] & 0xF0 == 0x50)


def _unzstd(data: bytes, source: Iterator[bytes]) -> Iterator[bytes]:
    frame = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
    while data or (data := next(source, b"")):
        try:
            yield frame.decompress(data[:_ZSTD_INPUT_BYTES], PIECE_BYTES)
            while not frame.needs_input and not frame.eof:
                yield frame.decompress(b"", PIECE_BYTES)
        except zstd.ZstdError as error:
            raise DamagedFile("damaged_zstd", f"the zstd data cannot be read: {error}") from None
        data = data[_ZSTD_INPUT_BYTES:]
        if frame.eof:
            data = frame.unused_data + data
            while len(data) < len(ZSTD_MAGIC) and (more := next(source, b"")):
                data += more
            if not data:
                return
            if not _is_zstd(data):
                raise DamagedFile("trailing_garbage", "what follows the zstd data is not zstd")
            frame = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
    raise DamagedFile("truncated_zstd", "the zstd data ends before its end: was the file cut off?")


# -- record --------------------------------------------------------------------------------------------------
#
# One record of a file, as bytes with their place, before anybody has understood it.


MAX_RECORD_BYTES = 16 * 1024 * 1024
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


class ReadPosition(Struct, frozen=True):
    """Where reading begins in the content: behind so many lines, and so many bytes."""

    lines: int = 0
    offset: int = 0


FROM_THE_START = ReadPosition()


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


class StopAtCorruption:
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
    detail = f"the record has {length} bytes, more than {MAX_RECORD_BYTES}"
    return Record(line, offset, b"", BadRecord("too_long", detail, head[:KEPT_BYTES], replayable=False))


def damaged(line: int, offset: int, damage: DamagedFile) -> Record:
    """The place where a file cannot be read on."""
    return Record(line, offset, b"", BadRecord(damage.reason, str(damage), b"", replayable=False))
