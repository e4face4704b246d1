"""The state folder: its marker, its lock for one process at a time, and the ballast for a full disk.

A folder that is not empty and has no marker is refused, before anything in it changes. The lock is on the
folder itself and ends with the process. The ballast is a file that reserves disk space: it is removed when
the disk is full, so that the results of exported records can still be committed.
"""

import fcntl
import logging
import math
import os
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from socket import gethostname
from typing import BinaryIO, Self, TypeVar

from msgspec import Struct

from faillog_otel.clock import time_text
from faillog_otel.errors import Busy, Interrupted, LedgerBroken, NoRoom
from faillog_otel.files import PART, PrivateFolder, StrangeEntry, is_disk_full
from faillog_otel.text import printable

_log = logging.getLogger(__name__)

BALLAST_BYTES = 8 * 1024 * 1024
MARKER = "faillog-otel-state"
_MARKER_TEXT = b"faillog-otel state folder 1\n"
_LEDGER = "ledger.sqlite3"
_TABLES = {"requests", "said", "facts", "hours", "objects", "kept", "past"}
"""Of the ledger of version 0.1.0."""
_BALLAST = "ballast"
_LOCK = "lock"
"""A file that names the process that holds the folder. Version 0.1.0 locks it instead of the folder."""
_OF_THE_FILE_SYSTEM = {"lost+found"}
_PROCESS_ID = re.compile(rb"([0-9]+\n)?")
_PROCESS_BYTES = 20
"""How many bytes of the lock file version 0.1.0 reads; it expects a process id and white space."""
_FOLDERS = {"spool", "digests"}
_OF_VERSION_0_1_0 = {_LOCK, _BALLAST, _BALLAST + PART, *_FOLDERS}
LOCK_TRIES = 5


class Holder(Struct, frozen=True):
    """The process that holds a state folder."""

    process: str = "?"
    """Its id; `?` if unknown."""
    host: str = ""
    """The name of its machine or pod; empty if version 0.1.0 wrote it."""
    since: str = ""
    """RFC 3339, by that machine's clock."""

    def text(self, does: str) -> str:
        """Returns a text such as `process 1 holds it (on host web-1, since 2026-01-02T03:04:05Z)`."""
        where = f" (on host {self.host}, since {self.since})" if self.host else ""
        return f"process {self.process} {does}{where}"


class StateFolder:
    """A context manager that holds the folder; `root`, `spool` and `digests` are open only inside it.

    Raises LedgerBroken if another process holds the folder, or if the folder is not ours.
    """

    root: PrivateFolder
    spool: PrivateFolder
    digests: PrivateFolder

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.ledger = self.path / _LEDGER
        self.spool_path = self.path / "spool"
        self.digests_path = self.path / "digests"
        self._open: list[PrivateFolder] = []
        self._lock: int | None = None
        self._is_without_ballast = False

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.root = self._opened(PrivateFolder.open(self.path))
            self._lock_exclusively(self.root.descriptor)
            _refuse_others_folder(self.root)
            self.root.make_private()
            self._mark()
            self._write_process()
            os.close(self.root.open_file(_LEDGER, os.O_RDWR | os.O_CREAT))
            for suffix in ("journal", "wal", "shm"):
                self.root.has(f"{_LEDGER}-{suffix}")
            self.spool = self._opened(PrivateFolder.open(self.spool_path, self.root))
            self.digests = self._opened(PrivateFolder.open(self.digests_path, self.root))
            self.spool.make_private()
            self.digests.make_private()
        except OSError as error:
            self.__exit__()
            raise LedgerBroken(
                f"{self.path}: cannot be used as state folder: {error.strerror}; name another --state-dir"
            ) from None
        except LedgerBroken:
            self.__exit__()
            raise
        self.has_room()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        while self._open:
            self._open.pop().close()

    def check(self) -> None:
        """Raises LedgerBroken if `run` would refuse an existing folder; changes nothing. Raises OSError."""
        root = PrivateFolder.open(self.path, create=False)
        try:
            _refuse_others_folder(root)
            root.check_private()
        finally:
            root.close()

    def holder(self) -> Holder | None:
        """Returns the process that holds the folder; None if no process does. Raises LedgerBroken."""
        for name in (".", _LOCK):
            try:
                descriptor = os.open(
                    self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                )
            except OSError as error:
                if name == _LOCK or isinstance(error, FileNotFoundError):
                    continue
                raise LedgerBroken(f"{self.path}: its lock cannot be read: {error.strerror}") from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._read_holder()
            finally:
                os.close(descriptor)
        return None

    def has_room(self) -> bool:
        """Returns whether the ballast exists, or could be created; False means that the disk is full.

        If it cannot be created for another reason, a warning is logged once, and the run goes on without it.
        """
        if self._is_without_ballast:
            return True
        try:
            if not self.root.has(_BALLAST):
                with self.root.replacement(_BALLAST) as file:
                    _reserve(file)
        except OSError as error:
            if is_disk_full(error):
                return False
            self._go_without_ballast(f"{self.path / _BALLAST}: {error.strerror}")
        except StrangeEntry as error:
            self._go_without_ballast(f"{error}; until then")
        return True

    def give_up_ballast(self) -> bool:
        """Removes the ballast; returns False if there is none."""
        try:
            if not self.root.has(_BALLAST):
                return False
            self.root.remove(_BALLAST)
        except (OSError, StrangeEntry):
            return False
        return True

    def _opened(self, folder: PrivateFolder) -> PrivateFolder:
        self._open.append(folder)
        return folder

    def _lock_exclusively(self, descriptor: int) -> None:
        """Locks the folder or its `lock` file. Tries several times: `holder` locks them for a moment."""
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
            else:
                return
        raise LedgerBroken(
            f"{self.path}: {self._read_holder().text('holds it')}; stop that process, or name another "
            "--state-dir"
        )

    def _write_process(self) -> None:
        """Writes this process's id, host and start into the lock file, and locks it for version 0.1.0."""
        try:
            self._lock = self.root.open_file(_LOCK, os.O_RDWR | os.O_CREAT)
        except StrangeEntry as error:
            _log.warning(
                "%s; until then other processes cannot say which process holds the state folder", error
            )
            return
        self._lock_exclusively(self._lock)
        process = f"{os.getpid()}\n".ljust(_PROCESS_BYTES)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{process}\n{gethostname()}\n{time_text(time.time_ns())}\n".encode(), 0)

    def _read_holder(self) -> Holder:
        try:
            lock = os.open(self.path / _LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return Holder()
        try:
            process, *more = os.pread(lock, 512, 0).decode(errors="replace").split()
            if not (process.isascii() and process.isdigit()):
                return Holder()
            return Holder(process, *map(printable, more)) if len(more) == 2 else Holder(process)
        except (OSError, ValueError):  # it is empty
            return Holder()
        finally:
            os.close(lock)

    def _mark(self) -> None:
        if not self.root.has(MARKER):
            with self.root.replacement(MARKER) as file:
                file.write(_MARKER_TEXT)

    def _go_without_ballast(self, why: str) -> None:
        self._is_without_ballast = True
        _log.warning("%s: no disk space is reserved for the case that the disk is full", why)


def _reserve(file: BinaryIO) -> None:
    """Makes the file occupy `BALLAST_BYTES` on the disk. Raises OSError."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)
        except OSError as error:
            if is_disk_full(error):
                raise
        else:
            return
    # The file system cannot reserve space (ZFS, some of FUSE; musl says so). It may compress: random bytes.
    file.write(os.urandom(BALLAST_BYTES))


def _refuse_others_folder(root: PrivateFolder) -> None:
    """Raises LedgerBroken unless the folder has our marker, belongs to version 0.1.0, or is empty."""
    names = set(root.names()) - _OF_THE_FILE_SYSTEM - {MARKER + PART}
    if MARKER in names:
        with root.read_file(MARKER) as marker:
            found = marker.read(len(_MARKER_TEXT))
        if found != _MARKER_TEXT:
            raise LedgerBroken(
                f"{root.path / MARKER}: is damaged, or a newer faillog-otel made it; use that version, or "
                "name another --state-dir"
            )
    elif names and not (_holds_ledger(root) or _is_interrupted_start(root, names)):
        raise LedgerBroken(
            f"{root.path}: is not empty, and is not a state folder of faillog-otel; name an empty folder"
        )


def _holds_ledger(root: PrivateFolder) -> bool:
    """Returns whether the folder holds a ledger of version 0.1.0. Changes nothing."""
    if not root.has(_LEDGER):
        return False
    with root.read_file(_LEDGER) as file:
        header = file.read(64)
    if not header.startswith(b"SQLite format 3\0"):
        return False
    try:
        with closing(
            sqlite3.connect(f"{(root.path / _LEDGER).absolute().as_uri()}?mode=ro", uri=True)
        ) as ledger:
            [version] = ledger.execute("PRAGMA user_version").fetchone()
            tables = {row[0] for row in ledger.execute("SELECT name FROM sqlite_master")}
    except (sqlite3.Error, UnicodeDecodeError):  # damaged, or left by a crash: the header decides
        version, tables = int.from_bytes(header[60:64], "big"), _TABLES
    return version in (1, 2) and tables >= _TABLES


def _is_interrupted_start(root: PrivateFolder, names: set[str]) -> bool:
    """Returns whether version 0.1.0 was killed before it wrote to its ledger."""
    if _LOCK not in names or names - _OF_VERSION_0_1_0 - {_LEDGER}:
        return False
    if _LEDGER in names and os.stat(_LEDGER, dir_fd=root.descriptor, follow_symlinks=False).st_size:
        return False
    with root.read_file(_LOCK) as lock:
        if not _PROCESS_ID.fullmatch(lock.read(32)):
            return False
    for name in names & _FOLDERS:
        folder = PrivateFolder.open(root.path / name, root, create=False)
        try:
            if folder.names():
                return False
        finally:
            folder.close()
    return True


# -- room ----------------------------------------------------------------------------------------------------

PAUSE_SECONDS = 5.0

Result = TypeVar("Result")


class RoomWait:
    """Limits how long a polling run waits while the disk is full or another process locks the ledger.

    The time counts from the first failure after the last success. Used by one thread.
    """

    def __init__(self, wait_seconds: float, monotonic: Callable[[], float]) -> None:
        """`wait_seconds` may be infinite. `monotonic`: seconds that never run backwards."""
        self._wait_seconds = wait_seconds
        self._monotonic = monotonic
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        """Notes a success."""
        self._failing_since = None

    def pause(self, error: NoRoom) -> float | None:
        """Notes a failure; returns how many seconds to wait before the next try, None to give up."""
        now = self._monotonic()
        if self._failing_since is None:
            self._failing_since = now
            until = "it is unlocked" if isinstance(error, Busy) else "space is available"
            limit = "" if math.isinf(self._wait_seconds) else f", for up to {self._wait_seconds:g} s"
            _log.error("%s; polling is paused until %s%s", error, until, limit)
        left = self._failing_since + self._wait_seconds - now
        return None if left <= 0 else min(PAUSE_SECONDS, left)

    def retry(self, step: Callable[[], Result], wait: Callable[[float], bool]) -> Result:
        """Returns the result of a step, which is repeated while it raises NoRoom.

        `wait` waits this many seconds, and returns True to end the run: then Interrupted is raised. Raises
        NoRoom when the time is over.
        """
        while True:
            try:
                result = step()
            except NoRoom as error:
                seconds = self.pause(error)
                if seconds is None:
                    raise
                if wait(seconds):
                    raise Interrupted from None
            else:
                self.succeeded()
                return result


def with_remedy(error: NoRoom) -> str:
    """Returns the error with what to do about it."""
    return f"{error}; {'run again later' if isinstance(error, Busy) else 'make room, then run again'}"
