"""The state folder: where the ledger and everything that belongs to it lies, for one process at a time.

Folders are 0700 and files 0600, whatever the umask. The lock belongs to the process: it goes with it, however
that ends. A ballast file takes up room that is given up when the disk is full, so that it can still be
written down what was exported.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from faillog_otel.errors import LedgerBroken

BALLAST_BYTES = 8 * 1024 * 1024
PRIVATE = 0o700
LOOKS_AT_LOCK = 5


class StateFolder:
    """A context manager: holds the folder's lock. Raises LedgerBroken where another process holds it."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.ledger = self.path / "ledger.sqlite3"
        self.spool = self.path / "spool"
        self.digests = self.path / "digests"
        self._ballast = self.path / "ballast"
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            for folder in (self.path, self.spool, self.digests):
                folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
                folder.chmod(PRIVATE)
            self._lock = private_file(self.path / "lock", os.O_RDWR)
            _take(self._lock, self.path)
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.__exit__()
            raise LedgerBroken(f"{self.path}: cannot be used as state folder: {error.strerror}") from None
        except LedgerBroken:
            self.__exit__()
            raise
        self.has_room()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def holder(self) -> str | None:
        """The id of the process that holds the lock; None where none does. Raises LedgerBroken."""
        try:
            lock = os.open(self.path / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerBroken(f"{self.path}: its lock cannot be read: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _said_in(lock)
        finally:
            os.close(lock)
        return None

    def has_room(self) -> bool:
        """Whether room is set aside; sets it aside where it is not."""
        if self._ballast.exists():
            return True
        part = self._ballast.with_suffix(".part")
        try:
            descriptor = private_file(part, os.O_WRONLY)
            try:
                os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
            finally:
                os.close(descriptor)
            part.rename(self._ballast)
        except OSError:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            return False
        return True

    def give_up_ballast(self) -> bool:
        """Frees the room that was set aside; False where that was done already."""
        try:
            self._ballast.unlink()
        except OSError:
            return False
        return True


def _take(lock: int, path: Path) -> None:
    """Takes the lock. Whoever looks at it (`holder`) has it for a moment, too: hence more than one try."""
    for _ in range(LOOKS_AT_LOCK):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return
    raise LedgerBroken(
        f"{path}: process {_said_in(lock)} holds it; stop that one, or name another --state-dir"
    )


def _said_in(lock: int) -> str:
    """Who wrote its process id into the lock."""
    return os.pread(lock, 20, 0).decode(errors="replace").strip()


def private_file(path: Path, flags: int) -> int:
    """Opens a file, made where it is missing, that only its owner can read; never through a symbolic link."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def sync_folder(path: Path) -> None:
    """Makes names in a folder durable: after a file was made, renamed or removed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
