"""Decompresses chunks of a file, and defines what is read from it: records, groups of lines, blank lines.

The first bytes of a file decide whether it is compressed, never its name.
"""

import sys
import zlib
from collections.abc import Iterable, Iterator

from msgspec import Struct

from faillog_otel.events.model import BadRecord, ReasonCode

# -- decompression -------------------------------------------------------------------------------------------

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
PIECE_BYTES = 256 * 1024
"""Bytes decompressed at a time, which bounds the memory for any file."""

_ZSTD_INPUT_BYTES = 1024
"""A failed zstd call returns nothing, so small inputs lose little before the damage."""
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 26}
"""Refuses frames with windows above 64 MiB, which would take that much memory; only `--ultra` and `--long`
make them."""


class DamagedFile(Exception):
    """The rest of a file cannot be read; `reason` is a reason code."""

    def __init__(self, reason: ReasonCode, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def unpack(chunks: Iterable[bytes], max_bytes: int | None = None) -> Iterator[bytes]:
    """Yields the content: decompressed, member by member, if it begins as gzip or zstd.

    Raises DamagedFile after the last good byte if the compressed data is truncated or damaged, or if the
    content is longer than `max_bytes`.
    """
    source = iter(chunks)
    first = next(source, b"")
    while 0 < len(first) < len(ZSTD_MAGIC) and (more := next(source, b"")):
        first += more
    if first.startswith(GZIP_MAGIC):
        yield from _limit_length(_gunzip(first, source), max_bytes)
    elif _is_zstd(first):
        yield from _limit_length(_unzstd(first, source), max_bytes)
    else:
        yield first
        yield from source


def is_packed(start: bytes) -> bool:
    """Returns whether a file is compressed, by its first bytes."""
    return start.startswith(GZIP_MAGIC) or _is_zstd(start)


def _limit_length(content: Iterator[bytes], max_bytes: int | None) -> Iterator[bytes]:
    left = max_bytes
    for chunk in content:
        if left is not None and len(chunk) > left:
            yield chunk[:left]
            detail = f"the content is longer than {max_bytes} bytes; raise max_content if the file is trusted"
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
            yield _read_until_damage(before, data)
            raise DamagedFile("damaged_gzip", f"the gzip data is damaged: {error}") from None
        data = member.unconsumed_tail
        if member.eof:
            data = member.unused_data.lstrip(b"\0") or _skip_padding(source)
            if not data:
                return  # zero bytes after the last member are padding
            while len(data) < len(GZIP_MAGIC) and (more := next(source, b"")):
                data += more
            if not GZIP_MAGIC.startswith(data[:2]):
                raise DamagedFile("trailing_garbage", "the data after the gzip data is not gzip")
            member = zlib.decompressobj(wbits=31)
    raise DamagedFile("truncated_gzip", "the gzip data is incomplete; the file is probably truncated")


def _read_until_damage(member: "zlib._Decompress", data: bytes) -> bytes:
    """Returns the content before the damage, byte by byte, because a failed call returns nothing."""
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


def _skip_padding(source: Iterator[bytes]) -> bytes:
    return next((left for chunk in source if (left := chunk.lstrip(b"\0"))), b"")


def _is_zstd(data: bytes) -> bool:
    """Returns whether a zstd frame or a skippable frame begins here (RFC 8878, section 3.1)."""
    return data.startswith(ZSTD_MAGIC) or (data[1:4] == b"\x2a\x4d\x18" and data[0] & 0xF0 == 0x50)


def _unzstd(data: bytes, source: Iterator[bytes]) -> Iterator[bytes]:
    frame = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
    while data or (data := next(source, b"")):
        try:
            yield frame.decompress(data[:_ZSTD_INPUT_BYTES], PIECE_BYTES)
            while not frame.needs_input and not frame.eof:
                yield frame.decompress(b"", PIECE_BYTES)
        except zstd.ZstdError as error:
            raise DamagedFile("damaged_zstd", f"the zstd data is damaged: {error}") from None
        data = data[_ZSTD_INPUT_BYTES:]
        if frame.eof:
            data = frame.unused_data + data
            while len(data) < len(ZSTD_MAGIC) and (more := next(source, b"")):
                data += more
            if not data:
                return
            if not _is_zstd(data):
                raise DamagedFile("trailing_garbage", "the data after the zstd data is not zstd")
            frame = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
    raise DamagedFile("truncated_zstd", "the zstd data is incomplete; the file is probably truncated")


# -- records -------------------------------------------------------------------------------------------------

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


class StopAtCorruption:
    """Yields the chunks of a file up to a damage; `damage` then says what it is."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.damage: DamagedFile | None = None
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except DamagedFile as error:
            self.damage = error


def too_long(line: int, offset: int, head: bytes, length: int) -> Record:
    """Returns the bad record for one longer than MAX_RECORD_BYTES, which begins with `head`."""
    detail = f"the record has {length} bytes, more than {MAX_RECORD_BYTES}"
    return Record(line, offset, b"", BadRecord("too_long", detail, head[:MAX_KEPT_BYTES], replayable=False))


def damaged(line: int, offset: int, damage: DamagedFile) -> Record:
    """Returns the bad record for the position of a damage."""
    return Record(line, offset, b"", BadRecord(damage.reason, str(damage), b"", replayable=False))
