"""A hash table for millions of small values: sorted strings of bytes, in memory or in a file.

An entry takes one byte less than its key and its value. Beyond a limit of memory, entries move to the file.
"""

import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, repeat
from typing import BinaryIO

from msgspec import Struct

from faillog_otel.errors import InputError

MEMORY_BYTES = 32 * 1024 * 1024
HASH_BYTES = 8
"""The probability of a collision among ten million entries is one in 370,000."""
_BUCKETS = 4096
MAX_UNSORTED_BYTES = 64 * 1024
"""Of entries that are saved, shared and joined as they were added: a run joins hundreds of small tables."""
_SORT_FACTOR = 2.5
"""Memory while entries are sorted into buckets, as a multiple of their bytes."""


class TemporaryFileError(InputError):
    """A temporary file is not writable."""


class Store:
    """A file to which tables append their buckets: one of the caller, or a temporary one from the first use.

    Errors of the caller's file are OSErrors.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.file = file
        """None until a temporary one is needed."""
        self._is_temporary = file is None

    def append(self, pieces: Iterable[bytes | bytearray]) -> int:
        """Appends the pieces; returns where the first one begins. Raises OSError or TemporaryFileError."""
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(prefix="faillog-")  # noqa: SIM115  # until close()
            at = self.file.seek(0, 2)
            self.file.writelines(pieces)
            self.file.flush()
        except OSError as error:
            if not self._is_temporary:
                raise
            where = f" in {tempfile.tempdir}" if tempfile.tempdir else ""
            remedy = "make space, or name another folder in TMPDIR"
            raise TemporaryFileError(
                f"a temporary file{where} cannot be written: {error.strerror}; {remedy}"
            ) from None
        return at

    def read(self, start: int, length: int) -> bytes:
        """Reads by position, so several processes can share the file. Raises OSError."""
        return os.pread(self.file.fileno(), length, start) if self.file else b""

    def close(self) -> None:
        """Closes the file; a temporary one disappears."""
        if self.file:
            with suppress(OSError):  # a failed flush: its content is no longer needed
                self.file.close()


class Table(Struct, frozen=True, gc=False):
    """Buckets in order: where they begin (an array of 8-byte numbers), and their bytes if not in a file.

    Without `starts`, a few entries as they were added.
    """

    starts: bytes
    held: bytes | None


class _Buckets(Struct, frozen=True, gc=False):
    starts: "array[int]"
    held: bytes | bytearray | None = None

    @property
    def size(self) -> int:
        return self.starts[-1] - self.starts[0]

    def read(self, number: int, store: Store) -> bytes | bytearray:
        start, end = self.starts[number], self.starts[number + 1]
        if self.held is not None:
            return self.held[start - self.starts[0] : end - self.starts[0]]
        return store.read(start, end - start)


class HashTable:
    """Maps the first `HASH_BYTES` of a hash to values of `value_bytes` bytes, in the order of adding.

    The first look-up freezes it: the entries are sorted into buckets by the first bits of their hash, in one
    string of bytes, without the first byte of the hash, which the bucket implies. Beyond `memory_bytes`,
    buckets move to the store.
    """

    def __init__(self, value_bytes: int, memory_bytes: int, store: Store) -> None:
        self._entry_bytes = HASH_BYTES + value_bytes
        self._ordered_bytes = self._entry_bytes - 1
        self._memory_bytes = memory_bytes
        self._store = store
        self._tables: list[_Buckets] = []  # the oldest one first
        self._added = bytearray()  # unsorted entries
        self._is_frozen = False

    def add(self, digest: bytes, value: bytes) -> None:
        """Adds a value. Raises TemporaryFileError, and ValueError once frozen."""
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
        return len(self._added) + sum(table.size for table in self._tables)

    def find(self, digest: bytes) -> bytes | None:
        """Returns the first value of this hash; None if there is none."""
        return next(self.find_all(digest), None)

    def find_all(self, digest: bytes) -> Iterator[bytes]:
        """Yields all values of this hash, the first one first."""
        self._freeze()
        key, number = digest[1:HASH_BYTES], _bucket(digest[0], digest[1])
        for table in self._tables:
            bucket = table.read(number, self._store)
            at = bucket.find(key)
            while at >= 0:
                if at % self._ordered_bytes == 0:  # else a match across two entries
                    yield bytes(bucket[at + len(key) : at + self._ordered_bytes])
                at = bucket.find(key, at + 1)

    def entries(self) -> bytes:
        """Returns the unsorted entries in memory: hash and value, one after the other."""
        return bytes(self._added)

    @property
    def is_in_memory(self) -> bool:
        """Whether no entries are in the store."""
        return all(each.held is not None for each in self._tables)

    @property
    def has_few(self) -> bool:
        """Whether all entries are in memory, unsorted, and at most `MAX_UNSORTED_BYTES`."""
        return not self._tables and len(self._added) <= MAX_UNSORTED_BYTES

    def move_all(self) -> None:
        """Moves all entries to the store, unless they are few. Raises like `add`."""
        if self._is_frozen:
            raise ValueError("the index is frozen")
        if self._added and not self.has_few:
            self._move()

    def tables(self) -> list[Table]:
        """Returns the entries in memory, and where those in the store are, for another process."""
        if self.has_few:
            return [Table(b"", bytes(self._added))] if self._added else []
        self._freeze()
        return [
            Table(each.starts.tobytes(), None if each.held is None else bytes(each.held))
            for each in self._tables
        ]

    def open_tables(self, tables: Sequence[Table]) -> None:
        """Takes what `tables` returned for the same store; loads the entries if they fit into the memory."""
        self._added += b"".join(table.held or b"" for table in tables if not table.starts)
        self._is_frozen = not self._added
        self._tables = [_Buckets(array("Q", table.starts), table.held) for table in tables if table.starts]
        if self.size <= self._memory_bytes:
            self._tables = [
                _Buckets(each.starts, self._store.read(each.starts[0], each.size))
                if each.held is None
                else each
                for each in self._tables
            ]

    def join(self, others: Sequence["HashTable"]) -> None:
        """Takes over the entries of other tables, in their order; this one must be empty.

        The others can be closed then. Raises TemporaryFileError.
        """
        if all(other.has_few for other in others):
            for other in others:
                self.add_entries(other.entries())
            return
        self._is_frozen = True
        sizes = [other.bucket_sizes() for other in others if other.size]
        starts = array("Q", accumulate(map(sum, zip(*sizes, strict=True)), initial=0))
        buckets = (other.bucket(number) for number in range(_BUCKETS) for other in others)
        if starts[-1] > self._memory_bytes:
            at = self._store.append(buckets)
            self._tables = [_Buckets(array("Q", map(at.__add__, starts)))]
        elif sizes:
            self._tables = [_Buckets(starts, b"".join(buckets))]

    def bucket_sizes(self) -> list[int]:
        """Returns the bytes of each bucket."""
        self._freeze()
        return [sum(t.starts[n + 1] - t.starts[n] for t in self._tables) for n in range(_BUCKETS)]

    def bucket(self, number: int) -> bytes | bytearray:
        """Returns the entries of a bucket, in the order of adding."""
        return b"".join(table.read(number, self._store) for table in self._tables)

    def _freeze(self) -> None:
        if not self._is_frozen:
            self._is_frozen = True
            if self._added:
                self._tables.append(self._sorted_into_buckets())

    def _sorted_into_buckets(self) -> _Buckets:
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
        return _Buckets(starts, ordered)

    def _move(self) -> None:
        buckets = self._sorted_into_buckets()
        at = self._store.append([buckets.held or b""])
        self._tables.append(_Buckets(array("Q", map(at.__add__, buckets.starts))))


def _bucket(first: int, second: int) -> int:
    """Returns the number of a bucket from the first two bytes of a hash."""
    return first << 4 | second >> 4
