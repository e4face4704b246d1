"""Downloaded objects, until every record of them is written down: one file each, named by the object's id.

A download goes into a `.part` file that is renamed when it is whole and durable: what has its name is whole.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from faillog_otel.errors import LedgerBroken, NoRoom
from faillog_otel.ledger.folder import private_file, sync_folder

PART = ".part"
REPLAY = "replay"
"""The quarantine, as a replay reads it; it goes with the replay, or at the next start."""


class Part(Struct):
    """A download under way. Who writes it says when it is whole."""

    file: BinaryIO
    is_whole: bool = False


class Spool:
    """The spool folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, number: int) -> Path:
        """Where an object lies."""
        return self._folder / str(number)

    @contextmanager
    def download(self, number: int) -> Iterator[Part]:
        """A part to download an object into; on leaving, what is whole lies in the spool, durably.

        Raises NoRoom, LedgerBroken.
        """
        part = self._folder / f"{number}{PART}"
        try:
            part.unlink(missing_ok=True)
            with os.fdopen(private_file(part, os.O_WRONLY | os.O_EXCL), "wb") as file:
                downloaded = Part(file)
                yield downloaded
                if downloaded.is_whole:
                    file.flush()
                    os.fsync(file.fileno())
            if downloaded.is_whole:
                part.rename(self.path(number))
                sync_folder(self._folder)
            else:
                part.unlink()
        except OSError as error:
            _drop(part)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoom(f"{self._folder}: the disk is full") from None
            raise LedgerBroken(f"{error.filename or part}: {error.strerror}") from None
        except BaseException:
            _drop(part)
            raise

    def drop(self, number: int) -> None:
        """Removes an object that is done."""
        _drop(self.path(number))

    def clean(self, wanted: set[int]) -> set[int]:
        """Removes what no object in `wanted` stands for; returns the objects that are there."""
        found = set()
        for path in self._folder.iterdir():
            if path.name.isdigit() and int(path.name) in wanted:
                found.add(int(path.name))
            else:
                _drop(path)
        return found


def _drop(path: Path) -> None:
    with suppress(OSError):  # it is tried again at the next start
        path.unlink(missing_ok=True)
