"""The files that the ledger names: downloaded objects in `spool/`, digests of records in `digests/`.

A download goes into a `.part` file that is renamed when it is whole and durable; the object's id is its name.
Its length and SHA-256 go into the ledger, and are checked before anything of it is forwarded. Beside it lies
the index of its exchanges (`.exchanges`), which stays when the object is done: attempts in later objects of
its collection need it.

The digests of a collection-hour say which of its records are committed: 8 bytes a record, in one sorted file.
New digests are kept in memory, above a limit in temporary sorted runs, and merged into the file when their
object is done: the file never names a record whose result was not stored. Two of five million records share a
digest with a probability of about one in a million.
"""

import errno
import hashlib
import heapq
import logging
import os
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import compress, groupby, islice
from mmap import ACCESS_READ, mmap
from typing import BinaryIO

from msgspec import Struct

from faillog_otel.clock import hour_text
from faillog_otel.errors import LedgerBroken, NoRoom
from faillog_otel.files import (
    PART,
    TEMPORARY,
    ChecksummedFile,
    PrivateFolder,
    StrangeEntry,
    is_disk_full,
    make_durable,
)

_log = logging.getLogger(__name__)

OBJECT_NAME = re.compile(r"[1-9][0-9]{0,18}")
INDEX = ".exchanges"
"""The end of the name of an object's exchange index."""
_SPOOL_NAMES = re.compile(
    rf"{OBJECT_NAME.pattern}({re.escape(INDEX)})?({re.escape(PART)})?|replay|{TEMPORARY}[0-9a-f]+"
)
"""`replay`: version 0.1.0 wrote the quarantine there for its replay."""
_DIGESTS_NAMES = re.compile(
    rf"[0-9a-f]{{16}}-\d{{4}}-\d\d-\d\dT\d{{6}}Z({re.escape(PART)})?|{TEMPORARY}[0-9a-f]+", re.ASCII
)
_HASHED_AT_ONCE = 1 << 20
DIGEST_BYTES = 8
MAX_IN_MEMORY = 1 << 18
"""Digests; then they go into a temporary run."""
_WRITTEN_AT_ONCE = 1 << 16
"""Digests."""


# -- spool ---------------------------------------------------------------------------------------------------


class NotWhole(Exception):
    """A spooled object is missing, or differs from what was downloaded; the message says which."""


class Download:
    """An object that is being downloaded, and the index of its exchanges. The caller sets `is_whole`."""

    def __init__(self, content: ChecksummedFile, exchanges: ChecksummedFile) -> None:
        self.content = content
        self.exchanges = exchanges
        """Its index, if the caller sets `has_index`."""
        self.is_whole = self.has_index = False


class IndexFile(Struct, frozen=True):
    """The file of an object's exchange index: its bytes, and their SHA-256 in hexadecimal."""

    bytes: int
    sha256: str


class SavedIndex(IndexFile, frozen=True):
    """An exchange index that counts for an object; `object` is the id of the one that it was made from."""

    object: int


class Spool:
    """The spool folder."""

    def __init__(self, folder: PrivateFolder) -> None:
        self._folder = folder

    @contextmanager
    def download(self, number: int) -> Iterator[Download]:
        """Yields files for an object and its index; on leaving, whole ones are in the spool, durably.

        Raises NoRoom, LedgerBroken, and StrangeEntry if another entry has one of the names.
        """
        names = f"{number}{INDEX}", str(number)
        parts = [f"{name}{PART}" for name in names]
        try:
            with (
                ChecksummedFile(self._folder.create(parts[0])) as exchanges,
                ChecksummedFile(self._folder.create(parts[1])) as content,
            ):
                download = Download(content, exchanges)
                yield download
                is_wanted = download.is_whole and download.has_index, download.is_whole
                for file in compress((exchanges, content), is_wanted):
                    file.flush()
                    make_durable(file.fileno())
            for name, part in compress(zip(names, parts, strict=True), is_wanted):
                self._folder.rename(part, name)
            self._drop(*parts)
        except OSError as error:
            self._drop(*parts)
            if is_disk_full(error):
                raise NoRoom(f"{self._folder.path}: disk full") from None
            raise LedgerBroken(f"{self._folder.path / str(number)}: {error.strerror}") from None
        except BaseException:
            self._drop(*parts)
            raise

    def open(self, number: int) -> BinaryIO:
        """Opens an object for reading, unbuffered. Raises NotWhole if it is missing, LedgerBroken."""
        try:
            return self._folder.read_file(str(number))
        except FileNotFoundError:
            raise NotWhole("its spool file is gone") from None
        except StrangeEntry as error:
            raise NotWhole(str(error)) from None
        except OSError as error:
            raise LedgerBroken(f"{self._folder.path / str(number)}: {error.strerror}") from None

    def open_index(self, number: int) -> BinaryIO | None:
        """Opens the index of an object's exchanges, unbuffered. Returns None if it cannot be opened.

        Raises LedgerBroken if too many files are open.
        """
        try:
            return self._folder.read_file(f"{number}{INDEX}")
        except (OSError, StrangeEntry) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                why = f"{error.strerror}; raise the limit (ulimit -n)"
                raise LedgerBroken(f"{self._folder.path / str(number)}{INDEX}: {why}") from None
            return None

    @contextmanager
    def rebuilt_index(self, number: int) -> Iterator[ChecksummedFile]:
        """Yields a file that replaces an object's index on leaving. Raises NoRoom, LedgerBroken."""
        try:
            with self._folder.replacement(f"{number}{INDEX}") as file:
                yield file
        except OSError as error:
            if is_disk_full(error):
                raise NoRoom(f"{self._folder.path}: disk full") from None
            raise LedgerBroken(f"{self._folder.path / str(number)}: {error.strerror}") from None

    def check(
        self, file: BinaryIO, length: int | None, sha256: str | None, goes_on: Callable[[], bool]
    ) -> bool:
        """Raises NotWhole if an object differs from what was downloaded; what is None is not compared.

        `goes_on` is called after each MiB. Returns False if it returned False: then nothing is known.
        """
        found, size = hashlib.sha256(), 0
        try:
            while piece := os.pread(file.fileno(), _HASHED_AT_ONCE, size):
                size += len(piece)
                found.update(piece)
                if not goes_on():
                    return False
        except OSError as error:
            raise NotWhole(f"its spool file cannot be read: {error.strerror}") from None
        if length is not None and size != length:
            raise NotWhole(f"its spool file has {size} bytes, not the {length} that were downloaded")
        if sha256 is not None and found.hexdigest() != sha256:
            raise NotWhole("its spool file is not what was downloaded: the disk changed it")
        return True

    def drop(self, number: int) -> None:
        """Removes an object that is done."""
        self._drop(str(number))

    def drop_index(self, number: int) -> None:
        """Removes the index of an object."""
        self._drop(f"{number}{INDEX}")

    def clean(self, objects: Iterable[int], indexes: Iterable[int]) -> None:
        """Removes our files except these objects, and the indexes of these objects. Raises LedgerBroken.

        Warns of all other entries, and leaves them alone.
        """
        kept = {str(number) for number in objects} | {f"{number}{INDEX}" for number in indexes}
        try:
            for name in self._folder.our_files(_SPOOL_NAMES):
                if name not in kept:
                    self._folder.remove(name)
        except OSError as error:
            raise LedgerBroken(f"{self._folder.path}: {error.strerror}") from None

    def _drop(self, *names: str) -> None:
        for name in names:
            with suppress(OSError, StrangeEntry):  # `sweep` tries again at the next start
                self._folder.remove(name)


# -- digests -------------------------------------------------------------------------------------------------


def digest_of(raw: bytes) -> int:
    """Returns a record's digest: its bytes decide, as they decide its `log.record.uid`."""
    return int.from_bytes(hashlib.sha256(raw).digest()[:DIGEST_BYTES], "big")


class SeenRecords:
    """The digests of the records of one collection-hour: a set that `save` makes durable."""

    def __init__(self, folder: PrivateFolder, name: str | None, max_in_memory: int = MAX_IN_MEMORY) -> None:
        """Without a `name`, the digests are forgotten by `close()`.

        Raises OSError if the file cannot be read, StrangeEntry if it is not a file of ours.
        """
        self._folder = folder
        self._name = name
        self._max_in_memory = max_in_memory
        self._new: set[int] = set()
        self._runs = [_Run(folder.read_file(name))] if name and folder.has(name) else []
        self.saved = sum(map(len, self._runs))
        """How many digests the file held when it was opened."""

    def __contains__(self, digest: int) -> bool:
        if digest in self._new:
            return True
        return bool(self._runs) and any(digest in run for run in self._runs)

    def add(self, digest: int) -> None:
        """Adds one. Raises LedgerBroken."""
        self._new.add(digest)
        if len(self._new) >= self._max_in_memory:
            try:
                self._spill()
            except OSError as error:
                raise LedgerBroken(f"{self._folder.path}: {error.strerror}") from None

    def _spill(self) -> None:
        run = self._folder.temporary()
        array("Q", sorted(self._new)).tofile(run)
        run.flush()
        self._runs.append(_Run(run))
        self._new.clear()

    def save(self) -> None:
        """Makes all of them durable in the file, which is replaced in one step. Raises NoRoom, LedgerBroken.

        If another entry has its name, a warning says so.
        """
        if self._name is None:
            return
        try:
            with self._folder.replacement(self._name) as file:
                merged = (digest for digest, _ in groupby(heapq.merge(*self._runs, sorted(self._new))))
                while piece := array("Q", islice(merged, _WRITTEN_AT_ONCE)):
                    piece.tofile(file)
        except StrangeEntry as error:
            _log.warning("%s; until then records of this hour may be sent twice", error)
        except OSError as error:
            if is_disk_full(error):
                raise NoRoom(str(error)) from None
            raise LedgerBroken(f"{self._folder.path}: {error.strerror}") from None

    def close(self) -> None:
        """Closes the files, and forgets what was not saved."""
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


def open_seen_records(folder: PrivateFolder, collection: str, hour: int, recorded: int) -> SeenRecords:
    """Opens the digests of an hour; an empty set if its file cannot be trusted. Raises LedgerBroken.

    `recorded`: how many records of the hour are in the ledger; the file cannot hold more digests.
    """
    name = _digests_name(collection, hour)
    try:
        seen = SeenRecords(folder, name)
        if seen.saved <= recorded:
            return seen
        seen.close()
        folder.remove(name)
        _log.error(
            "%s: knows more records than the ledger, which the disk set back; all records of this hour that "
            "come again are sent again",
            folder.path / name,
        )
        return SeenRecords(folder, name)
    except StrangeEntry as error:
        _log.warning("%s; until then records of this hour may be sent twice", error)
        return SeenRecords(folder, None)
    except (OSError, ValueError) as error:
        raise LedgerBroken(f"{folder.path}: {error}") from None


def forget_digests(folder: PrivateFolder, collection: str, hour: int) -> None:
    """Removes the digests of an hour: all of its records count as new. Raises LedgerBroken."""
    try:
        folder.remove(_digests_name(collection, hour))
    except StrangeEntry as error:
        _log.warning("%s", error)
    except OSError as error:
        raise LedgerBroken(f"{folder.path}: {error.strerror}") from None


def clean_digests(folder: PrivateFolder, hours: Iterable[tuple[str, int]]) -> None:
    """Removes our digests of all other hours; leaves other entries alone. Raises LedgerBroken."""
    wanted = {_digests_name(collection, hour) for collection, hour in hours}
    try:
        for name in folder.our_files(_DIGESTS_NAMES):
            if name not in wanted:
                folder.remove(name)
    except OSError as error:
        raise LedgerBroken(f"{folder.path}: {error.strerror}") from None


def _digests_name(collection: str, hour: int) -> str:
    """The name of an hour's file. A collection id may be any text, so its hash is in the name."""
    name = hashlib.sha256(collection.encode()).hexdigest()[:16]
    return f"{name}-{hour_text(hour).replace(':', '')}"
