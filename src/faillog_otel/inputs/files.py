"""Failure-log files on this machine: which files the PATHs of a run mean, and their bytes.

A file is read twice, so what can be read only once (standard input, a pipe) is first copied to a
temporary file that nobody else can read (0600) and that is gone when it is closed.
"""

import errno
import glob
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Self

from faillog_otel.errors import InputError

CHUNK_BYTES = 256 * 1024
STDIN = "-"

UntilReadable = Callable[[int], object]
Interruptible = Callable[[], AbstractContextManager[UntilReadable | None]]
"""A context in which a signal may end the wait for input. It gives the function to wait with."""


class FoundPaths:
    """The files that PATHs mean, in their order; `problems` says what could not be found or looked into.

    A PATH is a file, a folder (all files below it, sorted, except hidden ones), a glob (`**` too), or
    `-` for standard input. `except_files` are this program's own outputs: they are no input.
    """

    def __init__(self, paths: Iterable[str], except_files: Iterable[str]) -> None:
        self.files: list[str] = []
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._excluded = {os.path.realpath(name) for name in except_files}
        for path in paths:
            self._add(path)

    def _add(self, path: str) -> None:
        if path == STDIN or (os.path.lexists(path) and not os.path.isdir(path)):
            if path != STDIN and os.path.realpath(path) in self._excluded:
                self.problems.append(
                    f"{path}: belongs to this run itself, which writes there or reads its settings there"
                )
            else:
                self.files.append(path)
        elif os.path.isdir(path):
            self._add_folder(path)
        elif glob.has_magic(path) and (found := sorted(glob.glob(path, recursive=True))):
            for each in found:
                if os.path.isfile(each) and not self._own(each):
                    self.files.append(each)
                elif os.path.isdir(each) and "**" not in path:  # ** names the files below it itself
                    self._add_folder(each)
        else:
            self.problems.append(f"{path}: no such file, folder or match")

    def _add_folder(self, folder: str) -> None:
        before = len(self.files)
        for parent, folders, names in os.walk(folder, onerror=self._not_listed):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                file = os.path.join(parent, name)
                if name.startswith(".") or self._own(file):
                    continue
                if os.path.isfile(file):
                    self.files.append(file)
                elif not os.path.exists(file):
                    self.problems.append(f"{file}: no such file, or a link to none")
        if len(self.files) == before:
            self.warnings.append(f"{folder}: holds no files")

    def _own(self, file: str) -> bool:
        return os.path.realpath(file) in self._excluded

    def _not_listed(self, error: OSError) -> None:
        self.problems.append(f"{error.filename}: {error.strerror}")


class ByteRange:
    """Bytes `start` to `end` of an open file, read by their positions: others may read it meanwhile."""

    def __init__(self, descriptor: int, name: str, start: int, end: int) -> None:
        """`name` is what the file is called in messages and kept entries."""
        self.name = name
        self.start = start
        self.end = end
        self.bytes_read = 0
        """How far the present reading has come, in bytes of the file as it is (compressed or not)."""
        self._descriptor = descriptor

    def chunks(self) -> Iterator[bytes]:
        """The bytes from the start. Raises InputError when they cannot be read on, or the file has shrunk."""
        self.bytes_read = 0
        try:
            while left := self.end - self.start - self.bytes_read:
                chunk = os.pread(self._descriptor, min(CHUNK_BYTES, left), self.start + self.bytes_read)
                if not chunk:
                    raise InputError(
                        f"{self.name}: was cut short while it was read ({left} bytes): run it again"
                    )
                self.bytes_read += len(chunk)
                yield chunk
        except OSError as error:
            raise InputError(f"{self.name}: {error.strerror}") from None


class InputFile:
    """One input, to be read more than once. A context manager; raises InputError.

    Each reading gives what the file held when it was first opened, though others write to it meanwhile.
    """

    def __init__(
        self, path: str, stdin: BinaryIO, interruptible: Interruptible, name: str | None = None
    ) -> None:
        """`name` is what it is called in messages and kept entries, its path by default."""
        self.name = name or ("<stdin>" if path == STDIN else os.fsencode(path).decode(errors="replace"))
        self._path = path
        self._interruptible = interruptible
        self._is_copy = False
        try:
            if path == STDIN:
                self._file = self._copied(stdin)
            else:
                self._file = _opened(path)
                if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                    with self._file as once:
                        self._file = self._copied(once)
            found = os.fstat(self._file.fileno())
            self._identity = found.st_dev, found.st_ino
            self._whole = ByteRange(self._file.fileno(), self.name, 0, found.st_size)
        except OSError as error:
            raise InputError(f"{self.name}: {_reason(error)}") from None

    @property
    def length(self) -> int:
        """How many bytes are read of it."""
        return self._whole.end

    @property
    def bytes_read(self) -> int:
        """How far the present reading has come, in bytes of the file as it is (compressed or not)."""
        return self._whole.bytes_read

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes from its start. Raises InputError when it cannot be read on, or has shrunk."""
        self._whole = ByteRange(self.fileno(), self.name, 0, self.length)
        return self._whole.chunks()

    @property
    def is_open(self) -> bool:
        """Whether it takes a descriptor now."""
        return not self._file.closed

    def fileno(self) -> int:
        """Returns the file's descriptor; opens a file again that was released. Raises InputError."""
        if not self.is_open:
            try:
                self._file = _opened(self._path)
                found = os.fstat(self._file.fileno())
            except OSError as error:
                raise InputError(f"{self.name}: {_reason(error)}") from None
            if (found.st_dev, found.st_ino) != self._identity:
                self._file.close()
                raise InputError(f"{self.name}: was replaced while it was read; run it again")
        return self._file.fileno()

    def release(self) -> None:
        """Gives the descriptor back until the file is read again; a copy stays open: it has no name."""
        if not self._is_copy:
            self._file.close()

    def line_after(self, offset: int) -> int:
        """The first position from this one on where a line begins, else the length. Raises InputError."""
        at = offset - 1
        for chunk in ByteRange(self.fileno(), self.name, at, self.length).chunks():
            if (found := chunk.find(b"\n")) >= 0:
                return at + found + 1
            at += len(chunk)
        return self.length

    def grown_bytes(self) -> int:
        """How much was added to the file since it was opened, and is not read; 0 if it is not there now."""
        try:
            found = os.fstat(self._file.fileno()) if self.is_open else os.stat(self._path)
        except OSError:
            return 0
        is_same = (found.st_dev, found.st_ino) == self._identity
        return max(0, found.st_size - self.length) if is_same else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _copied(self, once: BinaryIO) -> BinaryIO:
        try:
            copy = tempfile.TemporaryFile(prefix="faillog-")  # noqa: SIM115  # until __exit__
        except FileNotFoundError:
            raise InputError(
                f"{self.name}: no folder for temporary files can be written to; name one in TMPDIR"
            ) from None
        self._is_copy = True
        read: Callable[[int], bytes | None] = getattr(once, "read1", once.read)
        with self._interruptible() as until_readable:
            while True:
                if until_readable is not None:
                    until_readable(once.fileno())
                chunk = read(CHUNK_BYTES)
                if chunk:
                    copy.write(chunk)
                elif chunk is not None:  # None: nothing there yet, after all
                    copy.flush()
                    return copy


def _reason(error: OSError) -> str:
    """Why a file cannot be opened, and what to do where it is not the file's fault."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}; raise the limit (ulimit -n), or lower --workers"
    return error.strerror or str(error)


def _opened(path: str) -> BinaryIO:
    """Opens without waiting: a pipe that nobody writes to yet is opened at once, and waited for later."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)

    return open(path, "rb", buffering=0, opener=opener)  # until __exit__
