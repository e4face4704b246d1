"""Which records of one collection-hour are written down already: 8-byte digests in one sorted file.

New digests are gathered in memory, past a bound in temporary sorted runs, and merged into the file only when
their object is done: the file never tells of a record whose fate was not stored. Two of five million records
share a digest with a probability of about one in a million.
"""

import hashlib
import heapq
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import groupby, islice
from mmap import ACCESS_READ, mmap
from typing import BinaryIO

from faillog_otel.ledger.private_folder import PrivateFolder

DIGEST_BYTES = 8
MAX_IN_MEMORY = 1 << 18
_PIECE = 1 << 16


def digest_of(raw: bytes) -> int:
    """A record's digest: its bytes decide, as they decide its `log.record.uid`."""
    return int.from_bytes(hashlib.sha256(raw).digest()[:DIGEST_BYTES], "big")


class Digests:
    """A set of digests that remembers its file. Digests are added in any order."""

    def __init__(self, folder: PrivateFolder, name: str | None, max_in_memory: int = MAX_IN_MEMORY) -> None:
        """Without a `name`, digests are only remembered until `close()`.

        Raises OSError if the file cannot be read, StrangeEntry if it is not a file of ours.
        """
        self._folder = folder
        self._name = name
        self._max_in_memory = max_in_memory
        self._new: set[int] = set()
        self._runs = [_Run(folder.read_file(name))] if name and folder.has(name) else []
        self.saved = sum(map(len, self._runs))
        """How many digests the file held when it was opened."""

    def add(self, digest: int) -> bool:
        """Adds one; False where it was there already. Raises OSError."""
        if digest in self._new or any(digest in run for run in self._runs):
            return False
        self._new.add(digest)
        if len(self._new) >= self._max_in_memory:
            run = self._folder.temporary()
            array("Q", sorted(self._new)).tofile(run)
            run.flush()
            self._runs.append(_Run(run))
            self._new.clear()
        return True

    def save(self) -> None:
        """Makes all of them durable in the file, which is replaced in one step. Raises OSError."""
        if self._name is None:
            return
        with self._folder.replacement(self._name) as file:
            merged = (digest for digest, _ in groupby(heapq.merge(*self._runs, sorted(self._new))))
            while piece := array("Q", islice(merged, _PIECE)):
                piece.tofile(file)

    def close(self) -> None:
        """Lets go of the files; what was not saved is forgotten."""
        for run in self._runs:
            run.close()
        self._runs.clear()
        self._new.clear()


class _Run:
    """Sorted digests in a file, in this machine's byte order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        length = os.fstat(file.fileno()).st_size // DIGEST_BYTES * DIGEST_BYTES
        self._map = mmap(file.fileno(), length, access=ACCESS_READ) if length else None
        self._digests = memoryview(self._map or b"").cast("Q")

    def __contains__(self, digest: int) -> bool:
        at = bisect_left(self._digests, digest)
        return at < len(self._digests) and self._digests[at] == digest

    def __iter__(self) -> Iterator[int]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)

    def close(self) -> None:
        self._digests.release()
        if self._map is not None:
            self._map.close()
        self._file.close()
