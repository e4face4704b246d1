"""Small files that settings name, durable writes, and private folders.

A `PrivateFolder` is opened by descriptor, and its entries are opened relative to it, never through a symbolic
link. An entry is ours only if it is a regular file of this user with one name. Anything else is a
`StrangeEntry`: it can belong to somebody else, so it is reported and left alone.
"""

import errno
import fcntl
import hashlib
import io
import logging
import os
import re
import stat
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Self

from faillog_otel.errors import ConfigError, LedgerBroken

MAX_BYTES = 1024 * 1024


def read_small_file(name: str, *, may_be_pipe: bool = False) -> bytes:
    """Returns the bytes of a file of at most `MAX_BYTES`. Raises ConfigError, which names the file.

    Pipes and devices are refused unless `may_be_pipe`: a pipe can be read only once, and blocks without a
    writer.
    """
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | (0 if may_be_pipe else os.O_NONBLOCK))
        try:
            mode = os.fstat(descriptor).st_mode
            if not (stat.S_ISREG(mode) or (may_be_pipe and not stat.S_ISDIR(mode))):
                raise ConfigError(f"{name}: is {_kind(mode)}; name a regular file")
            content = bytearray()
            while len(content) <= MAX_BYTES and (chunk := os.read(descriptor, MAX_BYTES)):
                content += chunk
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{name}: is longer than {MAX_BYTES >> 20} MiB; name the right file")
    return bytes(content)


def read_small_text(name: str, *, may_be_pipe: bool = False) -> str:
    """Returns the text of such a file, without a byte order mark. Raises ConfigError."""
    content = read_small_file(name, may_be_pipe=may_be_pipe)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        found = "UTF-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "not UTF-8"
        raise ConfigError(f"{name}: is {found}; save it as UTF-8") from None


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def replace_file(name: str, content: bytes) -> None:
    """Writes a file of results; a reader sees the old content or the new one, never a part. Raises OSError.

    The mode follows the umask. A symbolic link stays one. Pipes and devices are written to as they are.
    """
    path = Path(name)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()
    part = path.with_name(f".{token_hex(8)}{PART}")  # of a length that fits
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            make_durable(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def make_durable(descriptor: int) -> None:
    """Flushes a file or folder to the disk, so that it survives a power cut. Raises OSError."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync leaves the data in the disk's own cache
        with suppress(OSError):  # not on every file system
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


class ChecksummedFile(io.BufferedWriter):
    """A file that is written from its start to its end; `sha256` is the checksum of what was written."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(io.FileIO(descriptor, "wb"))
        self._sha256 = hashlib.sha256()

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]  # the bytes-like types that we use
        """Writes the data, and adds it to the checksum. Raises OSError."""
        self._sha256.update(data)
        return super().write(data)

    @property
    def sha256(self) -> str:
        """The checksum of everything that was written, in hexadecimal."""
        return self._sha256.hexdigest()


_log = logging.getLogger(__name__)

FOLDER_MODE = 0o700
FILE_MODE = 0o600
PART = ".part"
TEMPORARY = "temporary-"
"""Prefix of the short-lived name of a file of `PrivateFolder.temporary`."""


class StrangeEntry(LedgerBroken):
    """An entry that is not a regular file of ours; the message names it and says what to do."""


class PrivateFolder:
    """A folder of this user, open until `close()`. Methods raise OSError and StrangeEntry."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """`path`: for messages. `descriptor`: closed with this object."""
        self.path = path
        self.descriptor = descriptor

    @classmethod
    def open(cls, path: Path, parent: Self | None = None, *, create: bool = True) -> Self:
        """Opens a folder by its path or as an entry of another folder; creates it (0700) if it is missing.

        Raises OSError, and StrangeEntry if it is not a folder of this user.
        """
        name, at = (path.name, parent.descriptor) if parent else (str(path), None)
        if create:
            with suppress(FileExistsError):
                os.mkdir(name, FOLDER_MODE, dir_fd=at)
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=at)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            is_link = stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
            if parent:
                do = "move it out of the state folder"
            else:
                do = f"write --state-dir {os.path.realpath(path)}" if is_link else "name a folder"
            kind = f"a symbolic link to {os.readlink(name, dir_fd=at)}" if is_link else "not a folder"
            raise StrangeEntry(f"{path}: is {kind}; {do}") from None
        owner = os.fstat(descriptor).st_uid
        if owner != os.geteuid():
            os.close(descriptor)
            do = f"run as user {owner}, or name a folder of your own"
            if parent is None and os.access(path, os.W_OK | os.X_OK, effective_ids=True):  # by its group
                do = f"name a folder inside it, which `run` creates: --state-dir {path / 'faillog-otel'}"
            raise StrangeEntry(f"{path}: belongs to user {owner}, not to user {os.geteuid()}; {do}")
        return cls(path, descriptor)

    def make_private(self) -> None:
        """Removes all permissions of group and others. Raises LedgerBroken if the file system refuses."""
        self._set_mode(FOLDER_MODE)

    def check_private(self) -> None:
        """Raises LedgerBroken if `make_private` would, without changing the mode."""
        self._set_mode(stat.S_IMODE(os.fstat(self.descriptor).st_mode))

    def _set_mode(self, mode: int) -> None:
        if stat.S_IMODE(os.fstat(self.descriptor).st_mode) == FOLDER_MODE:
            return
        try:
            os.fchmod(self.descriptor, mode)
        except OSError as error:
            raise LedgerBroken(
                f"{self.path}: readable by other users, and chmod 700 failed ({error.strerror}); name a "
                "--state-dir on another file system, or mount this one with mode 0700"
            ) from None

    def sync(self) -> None:
        """Makes created, renamed and removed entries durable."""
        make_durable(self.descriptor)

    def names(self) -> list[str]:
        """Returns the names of all entries, sorted."""
        return sorted(os.listdir(self.descriptor))  # noqa: PTH208  # a Path holds no descriptor

    def our_files(self, names: re.Pattern[str]) -> Iterator[str]:
        """Yields the names of our files that match; warns of every other entry."""
        for name in self.names():
            if not names.fullmatch(name):
                _log.warning("%s: not created by faillog-otel; ignored", self.path / name)
            elif strange := self.strangeness(name):
                _log.warning("%s", strange)
            else:
                yield name

    def open_file(self, name: str, flags: int) -> int:
        """Opens one of our files, or creates it with O_CREAT; returns its descriptor. A written file gets
        0600.

        O_TRUNC takes effect only after the file was checked.
        """
        opened = flags & ~os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, opened, FILE_MODE, dir_fd=self.descriptor)
        except OSError as error:
            if strange := self.strangeness(name):
                raise StrangeEntry(strange) from error
            raise
        try:
            found = os.fstat(descriptor)
            self._refuse_strange(name, found)
            writes = flags & (os.O_WRONLY | os.O_RDWR)
            if writes and stat.S_IMODE(found.st_mode) != FILE_MODE:
                os.fchmod(descriptor, FILE_MODE)
            if flags & os.O_TRUNC:
                os.ftruncate(descriptor, 0)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def read_file(self, name: str) -> BinaryIO:
        """Opens one of our files for reading, unbuffered. Raises FileNotFoundError if it is missing."""
        return os.fdopen(self.open_file(name, os.O_RDONLY), "rb", buffering=0)

    def create(self, name: str) -> int:
        """Creates a file for writing and reading; returns its descriptor. Removes an existing one first."""
        self.remove(name)
        return self.open_file(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    @contextmanager
    def replacement(self, name: str) -> Iterator[ChecksummedFile]:
        """Opens a `.part` file for writing; on exit it replaces the named file atomically and durably."""
        part = f"{name}{PART}"
        try:
            with ChecksummedFile(self.create(part)) as file:
                yield file
                file.flush()
                make_durable(file.fileno())
            self.rename(part, name)
        except BaseException:
            with suppress(OSError, StrangeEntry):  # the first error is the one to report
                self.remove(part)
            raise

    def temporary(self) -> BinaryIO:
        """Returns a file for writing and reading without a name, which disappears when it is closed."""
        name = f"{TEMPORARY}{token_hex(8)}"
        descriptor = self.open_file(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.unlink(name, dir_fd=self.descriptor)
        return os.fdopen(descriptor, "w+b")

    def has(self, name: str) -> bool:
        """Returns whether one of our files has this name. Raises StrangeEntry for another entry."""
        try:
            found = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        self._refuse_strange(name, found)
        return True

    def remove(self, name: str) -> None:
        """Removes one of our files, if it exists."""
        if self.has(name):
            os.unlink(name, dir_fd=self.descriptor)

    def rename(self, name: str, new_name: str) -> None:
        """Renames a file durably; replaces one of our files that has the new name."""
        self.has(new_name)
        os.rename(name, new_name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        self.sync()

    def strangeness(self, name: str) -> str:
        """Returns why an entry is not one of our files, and what to do; empty if it is one or is missing."""
        try:
            return self._strangeness(name, os.stat(name, dir_fd=self.descriptor, follow_symlinks=False))
        except OSError:
            return ""

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self.descriptor)

    def _refuse_strange(self, name: str, found: os.stat_result) -> None:
        if strange := self._strangeness(name, found):
            raise StrangeEntry(strange)

    def _strangeness(self, name: str, found: os.stat_result) -> str:
        do = "move it out of the state folder"
        if stat.S_ISLNK(found.st_mode):
            why = "is a symbolic link"
        elif stat.S_ISDIR(found.st_mode):
            why = "is a folder"
        elif not stat.S_ISREG(found.st_mode):
            why = "is not a regular file"
        elif found.st_uid != os.geteuid():
            why = f"belongs to user {found.st_uid}, not to user {os.geteuid()}"
            do = f"run as user {found.st_uid}, or change its owner"
        elif found.st_nlink > 1:
            why = f"is a file with {found.st_nlink} names (hard links)"
            do = "replace it with a copy"
        else:
            return ""
        return f"{self.path / name}: {why}; {do}"


def is_disk_full(error: OSError) -> bool:
    """Returns whether the disk, or this user's quota, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
