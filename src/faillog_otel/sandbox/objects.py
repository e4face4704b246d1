"""The simulated objects: their records, and how they are packed into bytes."""

import gzip
import hashlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import hour_text
from faillog_otel.sandbox.config import Format
from faillog_otel.sandbox.incidents import Incident

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIXES: dict[Format, str] = {"gzip": "jsonl.gz", "zstd": "jsonl.zst", "jsonl": "jsonl", "array": "json"}
"""The ends of keys."""


class TrueRecord(Struct, frozen=True, gc=False):
    """One record of an hour: its bytes without surrounding white space, and when it becomes available."""

    raw: bytes
    available_ns: int
    exchange_id: str | None
    """The id of an exchange, or of an attempt's exchange; a damaged record may lack it."""
    is_exchange: bool
    damaged: bool = False
    incident: Incident | None = None
    """The injected incident that its message failed in."""

    @property
    def sha256(self) -> str:
        """The hash of its bytes, in hex."""
        return hashlib.sha256(self.raw).hexdigest()


class StoredObject(Struct, frozen=True):
    """One object of an hour, in one version."""

    collection: str
    hour: int
    key: str
    """The path of its URL, without the leading slash."""
    records: tuple[TrueRecord, ...]
    content: bytes
    modified_ns: int
    format: Format

    @property
    def etag(self) -> str:
        """S3's ETag: the MD5 of the content, in quotation marks."""
        return f'"{hashlib.md5(self.content, usedforsecurity=False).hexdigest()}"'

    def rotated(self) -> "StoredObject":
        """The object with its records in another order, and so with another ETag."""
        records = (*self.records[-1:], *self.records[:-1])
        return replace(self, records=records, content=packed(self.format, records))


def thirds(records: list[TrueRecord]) -> Iterator[list[TrueRecord]]:
    """Splits records into at most three parts. No part is empty or begins with a damaged record."""
    size = max(1, -(-len(records) // 3))
    part: list[TrueRecord] = []
    for record in records:
        if len(part) >= size and not record.damaged:
            yield part
            part = []
        part.append(record)
    yield part


def packed(form: Format, records: tuple[TrueRecord, ...] | list[TrueRecord]) -> bytes:
    """The content of an object with these records."""
    if form == "array":
        return b"[" + b",\n".join(record.raw for record in records) + b"]\n"
    content = b"".join(record.raw + b"\n" for record in records)
    if form == "gzip":
        return gzip.compress(content, mtime=0)
    return zstd.compress(content) if form == "zstd" else content


def parse_hour(text: str) -> int | None:
    """Parses an hour as the API writes it, `2025-05-07T23:00:00Z`; None if it is not a whole hour."""
    try:
        at = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    hour = int(at.timestamp()) // 3600
    return hour if hour >= 0 and hour_text(hour) == text else None
