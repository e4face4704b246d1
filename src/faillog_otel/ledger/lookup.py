"""Hash → a value of a fixed size, for as many as a file may have: bounded memory, then a temporary file.

Entries lie in buckets by the first bits of their hash, each bucket one string of bytes; past the bound all
buckets move into a temporary file and are looked up there.
"""

import os
import tempfile
from array import array
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import BinaryIO

from faillog_otel.errors import InputError

MEMORY_BYTES = 32 * 1024 * 1024
HASH_BYTES = 8
"""Of ten million entries, two have the same ones with a probability of one in 370,000."""
_BUCKETS = 4096


class Lookup:
    """The first `HASH_BYTES` of a hash → `value_bytes` bytes. What was added first under a hash counts."""

    def __init__(
        self, value_bytes: int, memory_bytes: int = MEMORY_BYTES, file: BinaryIO | None = None
    ) -> None:
        """`file` is where buckets are moved to, behind what is there; a temporary one by default."""
        self._entry_bytes = HASH_BYTES + value_bytes
        self._memory_bytes = memory_bytes
        self._buckets = [bytearray() for _ in range(_BUCKETS)]
        self._held = 0
        self._moved: list[array[int]] = []  # where each bucket starts, of each time they were moved
        self._file = file

    def add(self, digest: bytes, value: bytes) -> None:
        """Remembers the value. Raises InputError when there is no room for the temporary file."""
        self._buckets[_bucket_of(digest)] += digest[:HASH_BYTES] + value
        self._held += self._entry_bytes
        if self._held >= self._memory_bytes:
            self._move()

    def find(self, digest: bytes) -> bytes | None:
        """The value that was added first under this hash; None when there is none."""
        key, number = digest[:HASH_BYTES], _bucket_of(digest)
        for starts in self._moved:
            if found := self._search(self._read(starts, number), key):
                return found
        return self._search(self._buckets[number], key)

    def entries(self) -> bytes:
        """What memory holds, hash and value one after the other; of one hash in the order of its coming."""
        return b"".join(self._buckets)

    def add_entries(self, entries: bytes) -> None:
        """Remembers what another lookup's `entries()` gave."""
        for at in range(0, len(entries), self._entry_bytes):
            entry = entries[at : at + self._entry_bytes]
            self.add(entry, entry[HASH_BYTES:])

    def move_all(self) -> list[bytes]:
        """Moves what memory holds to the file, too; returns where all of it is there, for `look_into`.

        Raises InputError when there is no room.
        """
        if self._held:
            self._move()
        return [starts.tobytes() for starts in self._moved]

    def look_into(self, file: BinaryIO, tables: Sequence[bytes]) -> None:
        """Finds what another lookup moved to this file; reads it into memory at once, where that holds it."""
        self._file = file
        self._moved = [array("Q", table) for table in tables]
        sizes = [starts[-1] - starts[0] for starts in self._moved]
        if sum(sizes) > self._memory_bytes:
            return
        for starts, size in zip(self._moved, sizes, strict=True):
            whole = os.pread(file.fileno(), size, starts[0])
            for bucket, (start, end) in zip(self._buckets, pairwise(starts), strict=True):
                bucket.extend(whole[start - starts[0] : end - starts[0]])
        self._held = sum(sizes)
        self._moved.clear()

    def close(self) -> None:
        """Removes the temporary file, where there is one."""
        if self._file:
            with suppress(OSError):  # what it did not hold is of no use any more
                self._file.close()

    def _search(self, bucket: bytes | bytearray, key: bytes) -> bytes | None:
        at = bucket.find(key)
        while at % self._entry_bytes and at >= 0:  # found across two entries: not this one
            at = bucket.find(key, at + 1)
        return bytes(bucket[at + HASH_BYTES : at + self._entry_bytes]) if at >= 0 else None

    def _move(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="faillog-")  # noqa: SIM115  # until close()
            at = self._file.seek(0, 2)
            starts = array("Q", [at])
            for bucket in self._buckets:
                self._file.write(bucket)
                at += len(bucket)
                starts.append(at)
            self._file.flush()
        except OSError as error:
            where = f"a temporary file in {tempfile.gettempdir()}"
            raise InputError(f"{where} cannot be written: {error.strerror}") from None
        for bucket in self._buckets:
            bucket.clear()
        self._moved.append(starts)
        self._held = 0

    def _read(self, starts: "array[int]", number: int) -> bytes:
        """A bucket, by its position: several processes may look into one file."""
        if self._file is None:
            return b""
        return os.pread(self._file.fileno(), starts[number + 1] - starts[number], starts[number])


def _bucket_of(digest: bytes) -> int:
    return int.from_bytes(digest[:2], "big") >> 4
