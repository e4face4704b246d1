"""Downloaded objects, until every record of them is recorded in the ledger: one file each, named by its id.

A download goes into a `.part` file that is renamed when it is whole and durable. Its length and SHA-256 go
into the ledger, and are checked before anything of it is forwarded.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from faillog_otel.durable import make_durable
from faillog_otel.errors import LedgerBroken, NoRoom
from faillog_otel.ledger.private_folder import PART, TEMPORARY, PrivateFolder, StrangeEntry, is_disk_full

OBJECT_NAME = re.compile(r"[1-9][0-9]{0,18}")
_OUR_NAMES = re.compile(rf"{OBJECT_NAME.pattern}({re.escape(PART)})?|replay|{TEMPORARY}[0-9a-f]+")
"""`replay`: version 0.1.0 wrote the quarantine there for its replay."""
_PIECE_BYTES = 1 << 20


class NotWhole(Exception):
    """A spooled object is missing, or is not what was downloaded; the message says which."""


class Part(io.BufferedWriter):
    """A download under way. The writer sets `is_whole` at its end."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(io.FileIO(descriptor, "wb"))
        self.is_whole = False
        self._sha256 = hashlib.sha256()

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]  # the bytes-like types that we use
        """Writes the data, and adds it to the checksum. Raises OSError."""
        self._sha256.update(data)
        return super().write(data)

    @property
    def sha256(self) -> str:
        """The checksum of everything that was written, in hexadecimal."""
        return self._sha256.hexdigest()


class Spool:
    """The spool folder."""

    def __init__(self, folder: PrivateFolder) -> None:
        self._folder = folder

    @contextmanager
    def download(self, number: int) -> Iterator[Part]:
        """A part to download an object into; on leaving, a whole one is in the spool, durably.

        Raises NoRoom, LedgerBroken, and StrangeEntry if another entry has the name.
        """
        name = f"{number}{PART}"
        try:
            with Part(self._folder.create(name)) as part:
                yield part
                if part.is_whole:
                    part.flush()
                    make_durable(part.fileno())
            if part.is_whole:
                self._folder.rename(name, str(number))
            else:
                self._folder.remove(name)
        except OSError as error:
            self._drop(name)
            if is_disk_full(error):
                raise NoRoom(f"{self._folder.path}: the disk is full") from None
            raise LedgerBroken(f"{self._folder.path / name}: {error.strerror}") from None
        except BaseException:
            self._drop(name)
            raise

    def open(self, number: int) -> BinaryIO:
        """An object for reading, unbuffered. Raises NotWhole if it is not there, LedgerBroken."""
        try:
            return self._folder.read_file(str(number))
        except FileNotFoundError:
            raise NotWhole("its spool file is gone") from None
        except StrangeEntry as error:
            raise NotWhole(str(error)) from None
        except OSError as error:
            raise LedgerBroken(f"{self._folder.path / str(number)}: {error.strerror}") from None

    def check(
        self, file: BinaryIO, length: int | None, sha256: str | None, goes_on: Callable[[], bool]
    ) -> bool:
        """Raises NotWhole if an object differs from what was downloaded; what is None is not compared.

        `goes_on` is asked after each MiB. Returns False if it said no: then nothing is known.
        """
        found, size = hashlib.sha256(), 0
        try:
            while piece := os.pread(file.fileno(), _PIECE_BYTES, size):
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

    def clean(self, wanted: Collection[int]) -> None:
        """Removes files of ours that no object in `wanted` has. Raises LedgerBroken.

        Warns of all other entries, and leaves them alone.
        """
        kept = set(map(str, wanted))
        try:
            for name in self._folder.our_files(_OUR_NAMES):
                if name not in kept:
                    self._folder.remove(name)
        except OSError as error:
            raise LedgerBroken(f"{self._folder.path}: {error.strerror}") from None

    def _drop(self, name: str) -> None:
        with suppress(OSError, StrangeEntry):  # the next start tries again
            self._folder.remove(name)
