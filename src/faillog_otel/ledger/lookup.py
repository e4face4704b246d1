"""Hash → a value of a fixed size, for as many as a file may have: bounded memory, then a temporary file.

Entries are appended as they come, and put in order when the first one is asked for: into buckets by the first
bits of their hash, one behind the other in one string of bytes. There they are without the first byte of the
hash, which the bucket tells. Past the bound they move, in this order, into a temporary file and are looked up
there.
"""

import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from typing import BinaryIO

from msgspec import Struct

from faillog_otel.errors import InputError

MEMORY_BYTES = 32 * 1024 * 1024
HASH_BYTES = 8
"""Of ten million entries, two have the same ones with a probability of one in 370,000."""
_BUCKETS = 4096
_TO_PUT_IN_ORDER = 2.5
"""So many times the bytes of entries are held while these are put in order."""


class _Table(Struct, frozen=True, gc=False):
    """Buckets in their order: where each starts in the file, or in what memory holds of it."""

    starts: "array[int]"
    held: bytes | bytearray | None = None

    def bucket(self, number: int, file: BinaryIO | None) -> bytes | bytearray:
        """By its position, also in the file: several processes may look into one."""
        start, end = self.starts[number], self.starts[number + 1]
        if self.held is not None:
            return self.held[start - self.starts[0] : end - self.starts[0]]
        return os.pread(file.fileno(), end - start, start) if file else b""


class Lookup:
    """The first `HASH_BYTES` of a hash → `value_bytes` bytes. What was added first under a hash counts.

    All is added before anything is asked for.
    """

    def __init__(
        self, value_bytes: int, memory_bytes: int = MEMORY_BYTES, file: BinaryIO | None = None
    ) -> None:
        """`file` is where entries are moved to, behind what is there; a temporary one by default."""
        self._entry_bytes = HASH_BYTES + value_bytes
        self._ordered_bytes = self._entry_bytes - 1
        self._memory_bytes = memory_bytes
        self._file = file
        self._tables: list[_Table] = []  # the oldest one first
        self._added = bytearray()  # what came then, as it came
        self._is_asked = False

    def add(self, digest: bytes, value: bytes) -> None:
        """Remembers the value.

        Raises InputError when there is no room for the temporary file, ValueError once it was asked.
        """
        self.add_entries(digest[:HASH_BYTES] + value)

    def add_entries(self, entries: bytes) -> None:
        """Remembers what another lookup's `entries()` gave. Raises like `add`."""
        if self._is_asked:
            raise ValueError("it was asked already")
        self._added += entries
        if _TO_PUT_IN_ORDER * len(self._added) >= self._memory_bytes:
            self._move()

    def find(self, digest: bytes) -> bytes | None:
        """The value that was added first under this hash; None when there is none."""
        if not self._is_asked:
            self._is_asked = True
            if self._added:
                self._tables.append(self._in_order())
        key, number = digest[1:HASH_BYTES], _bucket(digest[0], digest[1])
        for table in self._tables:
            bucket = table.bucket(number, self._file)
            at = bucket.find(key)
            while at % self._ordered_bytes and at >= 0:  # found across two entries: not this one
                at = bucket.find(key, at + 1)
            if at >= 0:
                return bytes(bucket[at + len(key) : at + self._ordered_bytes])
        return None

    def entries(self) -> bytes:
        """What memory holds until something is asked for, as it came: hash and value, one after the other."""
        return bytes(self._added)

    def move_all(self) -> list[bytes]:
        """Moves what memory holds to the file, too; returns where all of it is there, for `look_into`.

        Raises InputError when there is no room, ValueError once it was asked.
        """
        if self._is_asked:
            raise ValueError("it was asked already")
        if self._added:
            self._move()
        return [table.starts.tobytes() for table in self._tables]

    def look_into(self, file: BinaryIO, tables: Sequence[bytes]) -> None:
        """Finds what another lookup moved to this file; reads it into memory at once, where that holds it."""
        self._file = file
        self._is_asked = True
        self._tables = [_Table(array("Q", table)) for table in tables]
        sizes = [table.starts[-1] - table.starts[0] for table in self._tables]
        if sum(sizes) <= self._memory_bytes:
            self._tables = [
                _Table(table.starts, os.pread(file.fileno(), size, table.starts[0]))
                for table, size in zip(self._tables, sizes, strict=True)
            ]

    def close(self) -> None:
        """Removes the temporary file, where there is one."""
        if self._file:
            with suppress(OSError):  # what it did not hold is of no use any more
                self._file.close()

    def _in_order(self) -> _Table:
        """What was added, as a table; the next one starts empty."""
        added, size, ordered_size = self._added, self._entry_bytes, self._ordered_bytes
        buckets = array("H", map(_bucket, added[::size], added[1::size]))
        counts = Counter(buckets)
        starts = array("Q", accumulate((counts[n] * ordered_size for n in range(_BUCKETS)), initial=0))
        ordered, places = bytearray(starts[-1]), starts[:]
        for at, number in zip(range(1, len(added), size), buckets, strict=True):
            place = places[number]
            ordered[place : place + ordered_size] = added[at : at + ordered_size]
            places[number] = place + ordered_size
        self._added = bytearray()
        return _Table(starts, ordered)

    def _move(self) -> None:
        table = self._in_order()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="faillog-")  # noqa: SIM115  # until close()
            at = self._file.seek(0, 2)
            self._file.write(table.held or b"")
            self._file.flush()
        except OSError as error:
            where = f"in {tempfile.tempdir}" if tempfile.tempdir else "anywhere"
            raise InputError(f"a temporary file {where} cannot be written: {error.strerror}") from None
        self._tables.append(_Table(array("Q", (at + start for start in table.starts))))


def _bucket(first: int, second: int) -> int:
    """Which one it is by the first two bytes of a hash."""
    return first << 4 | second >> 4
