"""The quarantine and pending files of runs over PATHs: one entry a line, readable by the owner only.

An entry is written as soon as its record is kept. The first entry creates the file, and later runs append to
it: they overwrite no entry, and add no record that the file already has. A replay renames the file, so that
records that fail again go into a new file. Writers hold a shared lock on the file, a replay an exclusive one.
"""

import errno
import fcntl
import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Self

from faillog_otel.errors import InputError, LedgerBroken, NoRoom
from faillog_otel.events.kept_record import identity_of, read_entry
from faillog_otel.files import make_durable
from faillog_otel.ledger.results import BatchResult

SET_ASIDE = ".replaying"
_PIECE_BYTES = 1024 * 1024
_TRIES = 1000


class KnownEntries:
    """The identities (`events.kept_record.identity_of`) of the entries in a file. All methods raise NoRoom.

    They are in a temporary SQLite database, which SQLite moves to the disk as it grows, to bound memory.
    """

    def __init__(self) -> None:
        try:
            self._database = sqlite3.connect("", isolation_level=None)
            for statement in (
                "PRAGMA journal_mode = OFF",
                "CREATE TABLE known (identity BLOB PRIMARY KEY) STRICT, WITHOUT ROWID",
                "BEGIN",  # never committed: the data ends with the connection
            ):
                self._database.execute(statement)
        except sqlite3.Error as error:
            raise _no_room(error) from None

    def __contains__(self, identity: bytes) -> bool:
        with closing(self._do("SELECT 1 FROM known WHERE identity = ?", identity)) as found:
            return found.fetchone() is not None

    def add(self, identity: bytes) -> None:
        """Adds one."""
        self._do("INSERT OR IGNORE INTO known VALUES (?)", identity)

    def close(self) -> None:
        """Forgets all of them."""
        self._database.close()

    def _do(self, statement: str, identity: bytes) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, (identity,))
        except sqlite3.Error as error:
            raise _no_room(error) from None


def _no_room(error: sqlite3.Error) -> NoRoom:
    return NoRoom(f"identities of kept records cannot be stored: {error}")


class KeptFile:
    """The quarantine or the pending file of a run over PATHs."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._known: KnownEntries | None = None

    def keep(self, entry: bytes) -> None:
        """Appends an entry unless the file already has it. Raises LedgerBroken."""
        identity = identity_of(entry)
        try:
            if self._file is None:
                self._file = _open_to_add(self.path)
                self._read_known(self._file)
            if identity is None or not self._is_known(identity):
                _write(self._file, entry + b"\n")
                self._note(identity)
        except OSError as error:
            raise LedgerBroken(f"{self.path}: cannot be written: {error.strerror}") from None

    def _read_known(self, file: IO[bytes]) -> None:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        with suppress(NoRoom):
            self._known = KnownEntries()
        with os.fdopen(os.dup(file.fileno()), "rb") as lines:
            lines.seek(0)
            for line in lines:
                self._note(identity_of(line))

    def _is_known(self, identity: bytes) -> bool:
        with suppress(NoRoom):
            return self._known is not None and identity in self._known
        return False

    def _note(self, identity: bytes | None) -> None:
        """Adds an identity. If the disk has no space for it, the same record may be kept twice."""
        with suppress(NoRoom):
            if self._known is not None and identity is not None:
                self._known.add(identity)

    def close(self) -> None:
        """Makes the entries durable. Raises LedgerBroken."""
        if self._known is not None:
            self._known.close()
            self._known = None
        if self._file is None:
            return
        open_file, self._file = self._file, None
        try:
            with open_file as file:
                make_durable(file.fileno())
        except OSError as error:
            raise LedgerBroken(f"{self.path}: cannot be written: {error.strerror}") from None


class FileSink:
    """The results of a run over PATHs: writes quarantined and pending records to files.

    Both files may be the same.
    """

    position = 0
    holds_entries = True
    seen = None

    def __init__(
        self,
        quarantine: str,
        pending: str,
        reference_ns: int,
        keeps_pending: Callable[[], bool] = lambda: True,
    ) -> None:
        """`keeps_pending` returns whether pending records are still written."""
        self.reference_ns = reference_ns
        self.lost: Counter[str] = Counter()
        """`quarantine` and `pending` → records that could not be written."""
        self._keeps_pending = keeps_pending
        self._kept: set[str] = set()
        self.quarantine = KeptFile(quarantine)
        is_one_file = os.path.realpath(pending) == os.path.realpath(quarantine)
        self.pending = self.quarantine if is_one_file else KeptFile(pending)

    def places(self) -> dict[str, str]:
        """Returns `quarantine` and `pending` → file, for files to which this run wrote records."""
        paths = {"quarantine": self.quarantine.path, "pending": self.pending.path}
        return {where: path for where, path in paths.items() if where in self._kept}

    def check(self) -> None:
        """Raises LedgerBroken if records cannot be appended to an existing file; changes nothing."""
        for kept in (self.quarantine, self.pending):
            with suppress(OSError):  # a missing file is no problem yet
                if refusal := _refusal(os.lstat(kept.path)):
                    raise LedgerBroken(f"{kept.path}: cannot be written: {refusal}")

    def commit(self, result: BatchResult) -> bool:
        """Writes as many of the kept records as possible. Raises LedgerBroken if one could not be written."""
        broken: LedgerBroken | None = None
        for kept in result.kept:
            if kept.where == "pending" and not self._keeps_pending():
                self.lost["pending"] += 1
                continue
            try:
                (self.pending if kept.where == "pending" else self.quarantine).keep(kept.entry)
            except LedgerBroken as error:
                self.lost[kept.where] += 1
                broken = broken or error
            else:
                self._kept.add(kept.where)
        if broken:
            raise broken
        return True

    def close(self) -> None:
        """Makes the entries durable. Raises LedgerBroken."""
        try:
            self.quarantine.close()
        finally:
            self.pending.close()


class NothingKept:
    """The results of a run over PATHs that only shows records: counts them, and writes nothing."""

    position = 0
    holds_entries = True
    seen = None

    def __init__(self, reference_ns: int) -> None:
        self.reference_ns = reference_ns
        self.lost: Counter[str] = Counter()

    def check(self) -> None:
        """Does nothing."""

    def places(self) -> dict[str, str]:
        """Returns no file."""
        return {}

    def commit(self, result: BatchResult) -> bool:
        """Counts the kept records as lost."""
        self.lost.update(each.where for each in result.kept)
        return True

    def close(self) -> None:
        """Does nothing."""


class Replayed:
    """A context manager that sets a kept file aside for its replay. Raises InputError on entry.

    If a killed replay left a set-aside file behind, its entries come first. On exit, the entries from byte
    `read_to` on, which were not read, go back into the file, and the set-aside file is removed.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path) if Path(path).is_symlink() else path
        self.aside = self.path + SET_ASIDE
        self.read_to: int | None = 0
        """How far the set-aside file was read, in bytes; None: to its end."""

    def __enter__(self) -> Self:
        try:
            newer = _lock_to_replay(self.path)
            self._lock = _lock_to_replay(self.aside) or newer
            if newer is not None and self._lock is newer:
                Path(self.path).rename(self.aside)
            elif newer is not None:
                with newer, _opened(self.aside) as older:
                    _copy(newer, older)
                Path(self.path).unlink()
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}") from None
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.read_to is not None:
                self._put_back(self.read_to)
            Path(self.aside).unlink(missing_ok=True)
        except OSError as error:
            raise LedgerBroken(
                f"{self.aside}: cannot be put back into {self.path}: {error.strerror}"
            ) from None
        finally:
            if self._lock is not None:
                self._lock.close()

    def _put_back(self, read_to: int) -> None:
        if read_to == 0 and not Path(self.path).exists():
            Path(self.aside).rename(self.path)
            return
        with Path(self.aside).open("rb") as left, _open_to_add(self.path) as file:
            left.seek(read_to)
            if left.read(1) != b"\n":  # the end of the last line that was read
                left.seek(read_to)
            _copy(left, file)


def is_kept_file(path: str) -> bool:
    """Returns whether this is a kept file, or what an interrupted replay left: it begins with an entry."""
    for name in (path, path + SET_ASIDE):
        if Path(name).is_file():
            try:
                with Path(name).open("rb") as file:
                    return read_entry(file.readline().strip()) is not None
            except OSError:
                return False
    return False


def _lock_to_replay(path: str) -> IO[bytes] | None:
    """Opens and locks the file for one replay; returns None if it is missing."""
    try:
        file = Path(path).open("rb")  # noqa: SIM115  # locked as long as it is open
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OSError(errno.EBUSY, "another run is writing or replaying it; wait for its end") from None
    return file


def _open_to_add(path: str) -> IO[bytes]:
    """Opens a file to append lines, locked against a replay."""
    for _ in range(_TRIES):
        file = _opened(path)
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if Path(path).stat().st_ino == found.st_ino:
                return file
        except (BlockingIOError, FileNotFoundError):
            pass  # a replay is setting it aside: a new file will replace it
        file.close()
    raise OSError(errno.EBUSY, "a replay is using it; wait for its end")


def _opened(path: str) -> IO[bytes]:
    """Opens a file to append lines, unbuffered; a new one gets 0600. Never follows a symbolic link.

    Ends a last line without a line end, which an editor or a full disk can leave, so that lines do not join.
    """

    def opener(name: str, flags: int) -> int:
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, (flags & ~os.O_WRONLY) | os.O_RDWR, 0o600)

    file = open(path, "ab", buffering=0, opener=opener)  # noqa: SIM115  # Path takes no opener
    found = os.fstat(file.fileno())
    if refusal := _refusal(found):
        file.close()
        raise OSError(errno.EPERM, refusal)
    has_lines = stat.S_ISREG(found.st_mode) and found.st_size > 0
    if has_lines and os.pread(file.fileno(), 1, found.st_size - 1) != b"\n":
        _write(file, b"\n")
    return file


def _refusal(found: os.stat_result) -> str:
    """Returns why records cannot be appended to an existing file, and what to do; empty if they can."""
    if not stat.S_ISREG(found.st_mode):
        return ""
    if found.st_mode & 0o022:
        return "other users can write to it; run chmod go-w, or name another file"
    if found.st_nlink > 1:
        return f"it has {found.st_nlink} names (hard links); name another file"
    return ""


def _copy(source: IO[bytes], to: IO[bytes]) -> None:
    while piece := source.read(_PIECE_BYTES):
        _write(to, piece)
    make_durable(to.fileno())


def _write(file: IO[bytes], data: bytes) -> None:
    """Writes all of the data or raises OSError: without a buffer, a full disk can accept a part."""
    if file.write(data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
