"""Chunks of a file → chunks of its content. What a file is, its first bytes say, never its name."""

import zlib
from collections.abc import Iterable, Iterator

GZIP_MAGIC = b"\x1f\x8b"
PIECE_BYTES = 256 * 1024
"""How much is decompressed at a time: a file that unpacks to a terabyte never takes more memory."""


class DamagedFile(Exception):
    """The rest of a compressed file cannot be read; `reason` is a quarantine reason code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def unpack(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The content, decompressed where the first bytes are gzip's; all of gzip's members, one by one.

    Raises DamagedFile after the last good byte where the compressed data breaks off or goes wrong.
    """
    source = iter(chunks)
    first = next(source, b"")
    while 0 < len(first) < len(GZIP_MAGIC) and (more := next(source, b"")):
        first += more
    if first.startswith(GZIP_MAGIC):
        yield from _gunzip(first, source)
    else:
        yield first
        yield from source


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
