"""Files of kept records: one entry a line, written as soon as a record is kept, readable by its owner only.

The file is made when the first record comes, and later runs add to it: what is kept is never overwritten.
To be replayed it is set aside under another name first, so that what fails again can be added to it anew;
the set-aside file goes only when every entry of it is accounted for.
"""

import errno
import os
from pathlib import Path
from typing import IO

from faillog_otel.errors import InputError, LedgerBroken

SET_ASIDE = ".replaying"


class KeptFile:
    """The quarantine or the pending file of a run over PATHs."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.count = 0
        self._file: IO[bytes] | None = None

    def keep(self, entry: bytes) -> None:
        """Adds one entry. Raises LedgerBroken."""
        try:
            if self._file is None:
                self._file = _open_private(self.path)
            _write(self._file, entry + b"\n")
        except OSError as error:
            raise LedgerBroken(f"{self.path}: cannot be written: {error.strerror}") from None
        self.count += 1

    def close(self) -> None:
        """Makes what was kept durable. Raises LedgerBroken."""
        if self._file is None:
            return
        open_file, self._file = self._file, None
        try:
            with open_file as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise LedgerBroken(f"{self.path}: cannot be written: {error.strerror}") from None


def set_aside(path: str) -> str:
    """Renames a kept file for its replay, and returns the name. Raises InputError.

    One that an interrupted replay left behind is gone on with: its entries come first.
    """
    aside = path + SET_ASIDE
    try:
        if not Path(aside).exists():
            Path(path).rename(aside)
        elif Path(path).exists():
            with Path(path).open("rb") as newer, _open_private(aside) as older:
                while piece := newer.read(1024 * 1024):
                    _write(older, piece)
                os.fsync(older.fileno())
            Path(path).unlink()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    return aside


def _write(file: IO[bytes], data: bytes) -> None:
    """Writes all of it, or raises OSError: without a buffer, a full disk may take a part."""
    if file.write(data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _open_private(path: str) -> IO[bytes]:
    """Opens for appending without a buffer, 0600 where it is new; never through a symbolic link."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    return open(path, "ab", buffering=0, opener=opener)  # Path.open() takes no opener
