"""A hash table for millions of small values: sorted strings of bytes, in memory or in a file.

An entry takes one byte less than its key and its value. Beyond a limit of memory, entries move to a file.
"""

import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate, repeat
from typing import BinaryIO

from msgspec import Struct

from faillog_otel.errors import InputError

MEMORY_BYTES = 32 * 1024 * 1024
HASH_BYTES = 8
"""The probability of a collision among ten million entries is one in 370,000."""
_BUCKETS = 4096
_SORT_FACTOR = 2.5
"""Memory while entries are sorted into buckets, as a multiple of their bytes."""


class _Table(Struct, frozen=True, gc=False):
    """Buckets in order: their start offsets in the file, and their bytes if they are in memory."""

    starts: "array[int]"
    held: bytes | bytearray | None = None

    def bucket(self, number: int, file: BinaryIO | None) -> bytes | bytearray:
        """Returns a bucket; reads the file by position, so several processes can share it."""
        start, end = self.starts[number], self.starts[number + 1]
        if self.held is not None:
            return self.held[start - self.starts[0] : end - self.starts[0]]
        return os.pread(file.fileno(), end - start, start) if file else b""


class HashTable:
    """Maps the first `HASH_BYTES` of a hash to `value_bytes` bytes; the first value of a hash counts.

    The first `find` freezes it: the entries are sorted into buckets by the first bits of their hash, in one
    string of bytes, without the first byte of the hash, which the bucket implies. Beyond `memory_bytes`,
    buckets move to a temporary file.
    """

    def __init__(
        self, value_bytes: int, memory_bytes: int = MEMORY_BYTES, file: BinaryIO | None = None
    ) -> None:
        """`file`: entries are appended to it; by default a temporary file. Errors of `file` are OSErrors."""
        self._entry_bytes = HASH_BYTES + value_bytes
        self._ordered_bytes = self._entry_bytes - 1
        self._memory_bytes = memory_bytes
        self._file = file
        self._is_temporary = file is None
        self._tables: list[_Table] = []  # the oldest one first
        self._added = bytearray()  # unsorted entries
        self._is_frozen = False

    def add(self, digest: bytes, value: bytes) -> None:
        """Adds a value. Raises InputError if the temporary file is not writable, ValueError once frozen."""
        self.add_entries(digest[:HASH_BYTES] + value)

    def add_entries(self, entries: bytes) -> None:
        """Adds the `entries()` of another table. Raises like `add`."""
        if self._is_frozen:
            raise ValueError("the index is frozen")
        self._added += entries
        if _SORT_FACTOR * len(self._added) >= self._memory_bytes:
            self._move()

    @property
    def size(self) -> int:
        """The bytes of all entries, in memory and in the file."""
        return len(self._added) + sum(table.starts[-1] - table.starts[0] for table in self._tables)

    def find(self, digest: bytes) -> bytes | None:
        """Returns the first value of this hash; None if there is none."""
        if not self._is_frozen:
            self._is_frozen = True
            if self._added:
                self._tables.append(self._sorted_into_buckets())
        key, number = digest[1:HASH_BYTES], _bucket(digest[0], digest[1])
        for table in self._tables:
            bucket = table.bucket(number, self._file)
            at = bucket.find(key)
            while at % self._ordered_bytes and at >= 0:  # a match across two entries
                at = bucket.find(key, at + 1)
            if at >= 0:
                return bytes(bucket[at + len(key) : at + self._ordered_bytes])
        return None

    def entries(self) -> bytes:
        """Returns the unsorted entries in memory: hash and value, one after the other."""
        return bytes(self._added)

    def move_all(self) -> list[bytes]:
        """Moves all entries to the file; returns their offsets for `open_tables`. Raises like `add`."""
        if self._is_frozen:
            raise ValueError("the index is frozen")
        if self._added:
            self._move()
        return [table.starts.tobytes() for table in self._tables]

    def open_tables(self, file: BinaryIO, tables: Sequence[bytes]) -> None:
        """Reads what another table moved to this file; loads it if it fits into the memory."""
        self._file = file
        self._is_frozen = True
        self._tables = [_Table(array("Q", table)) for table in tables]
        sizes = [table.starts[-1] - table.starts[0] for table in self._tables]
        if sum(sizes) <= self._memory_bytes:
            self._tables = [
                _Table(table.starts, os.pread(file.fileno(), size, table.starts[0]))
                for table, size in zip(self._tables, sizes, strict=True)
            ]

    def close(self) -> None:
        """Removes the temporary file, if there is one."""
        if self._file:
            with suppress(OSError):  # a failed flush: its content is no longer needed
                self._file.close()

    def _sorted_into_buckets(self) -> _Table:
        """Returns the added entries as a table, and starts a new one."""
        added, size, ordered_size = self._added, self._entry_bytes, self._ordered_bytes
        buckets = array("H", map(_bucket, added[::size], added[1::size]))
        counts: dict[int, int] = Counter(buckets)
        sizes = map(ordered_size.__mul__, map(counts.get, range(_BUCKETS), repeat(0)))
        starts = array("Q", accumulate(sizes, initial=0))
        ordered, places = bytearray(starts[-1]), starts[:]
        for at, number in zip(range(1, len(added), size), buckets, strict=True):
            place = places[number]
            ordered[place : place + ordered_size] = added[at : at + ordered_size]
            places[number] = place + ordered_size
        self._added = bytearray()
        return _Table(starts, ordered)

    def _move(self) -> None:
        table = self._sorted_into_buckets()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="faillog-")  # noqa: SIM115  # until close()
            at = self._file.seek(0, 2)
            self._file.write(table.held or b"")
            self._file.flush()
        except OSError as error:
            if not self._is_temporary:
                raise
            where = f" in {tempfile.tempdir}" if tempfile.tempdir else ""
            remedy = "make space, or name another folder in TMPDIR"
            raise InputError(
                f"a temporary file{where} cannot be written: {error.strerror}; {remedy}"
            ) from None
        self._tables.append(_Table(array("Q", map(at.__add__, table.starts))))


def _bucket(first: int, second: int) -> int:
    """Returns the number of a bucket from the first two bytes of a hash."""
    return first << 4 | second >> 4
