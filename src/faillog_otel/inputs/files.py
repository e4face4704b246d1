"""Input files: finds the files that PATHs name, reads their bytes, and decompresses them.

A file is read twice, so standard input and pipes are first copied to a private temporary file (0600) that
disappears when it is closed. The first bytes of a file decide whether it is compressed, never its name.
"""

import errno
import glob
import os
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Self

from faillog_otel.errors import InputError
from faillog_otel.events.model import ReasonCode

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK_BYTES = 256 * 1024
STDIN = "-"

UntilReadable = Callable[[int], object]
Interruptible = Callable[[], AbstractContextManager[UntilReadable | None]]
"""A context in which a signal can end the wait for input; its value is the function that waits."""


class FoundPaths:
    """The files that PATHs name, in order; `problems` lists what was not found or not readable.

    A PATH is a file, a folder (all files below it, sorted, except hidden ones), a glob (also with `**`), or
    `-` for standard input. `except_files` are this program's own files, which are never input.
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
                    f"{path}: is an output or a settings file of this run; name an input file"
                )
            else:
                self.files.append(path)
        elif os.path.isdir(path):
            self._add_folder(path)
        elif glob.has_magic(path) and (found := sorted(glob.glob(path, recursive=True))):
            for each in found:
                if os.path.isfile(each) and not self._is_excluded(each):
                    self.files.append(each)
                elif os.path.isdir(each) and "**" not in path:  # ** matches the files below it itself
                    self._add_folder(each)
        else:
            self.problems.append(f"{path}: no such file, folder or match")

    def _add_folder(self, folder: str) -> None:
        before = len(self.files)
        for parent, folders, names in os.walk(folder, onerror=self._on_walk_error):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                file = os.path.join(parent, name)
                if name.startswith(".") or self._is_excluded(file):
                    continue
                if os.path.isfile(file):
                    self.files.append(file)
                elif not os.path.exists(file):
                    self.problems.append(f"{file}: a symbolic link to a missing file")
        if len(self.files) == before:
            self.warnings.append(f"{folder}: holds no files")

    def _is_excluded(self, file: str) -> bool:
        return os.path.realpath(file) in self._excluded

    def _on_walk_error(self, error: OSError) -> None:
        self.problems.append(f"{error.filename}: {error.strerror}")


class ByteRange:
    """Bytes `start` to `end` of an open file, read by position, so that several readers can share it."""

    def __init__(self, descriptor: int, name: str, start: int, end: int) -> None:
        """`name`: for messages and kept entries."""
        self.name = name
        self.start = start
        self.end = end
        self.bytes_read = 0
        """Bytes of the file, compressed or not, that the current pass has read."""
        self._descriptor = descriptor

    def chunks(self) -> Iterator[bytes]:
        """Yields the bytes from the start. Raises InputError if the file cannot be read or was truncated."""
        self.bytes_read = 0
        try:
            while left := self.end - self.start - self.bytes_read:
                chunk = os.pread(self._descriptor, min(CHUNK_BYTES, left), self.start + self.bytes_read)
                if not chunk:
                    raise InputError(
                        f"{self.name}: was truncated while it was read ({left} bytes missing); run it again"
                    )
                self.bytes_read += len(chunk)
                yield chunk
        except OSError as error:
            raise InputError(f"{self.name}: {error.strerror}") from None


class InputFile:
    """One input, which can be read several times. A context manager; raises InputError.

    Each pass reads the length that the file had when it was opened, even if other processes append to it.
    """

    def __init__(
        self, path: str, stdin: BinaryIO, interruptible: Interruptible, name: str | None = None
    ) -> None:
        """`name`: for messages and kept entries; by default the path."""
        self.name = name or ("<stdin>" if path == STDIN else os.fsencode(path).decode(errors="replace"))
        self._path = path
        self._interruptible = interruptible
        self._is_copy = False
        try:
            if path == STDIN:
                self._file = self._copy(stdin)
            else:
                self._file = _open(path)
                if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                    with self._file as pipe:
                        self._file = self._copy(pipe)
            found = os.fstat(self._file.fileno())
            self._identity = found.st_dev, found.st_ino
            self._whole = ByteRange(self._file.fileno(), self.name, 0, found.st_size)
        except OSError as error:
            raise InputError(f"{self.name}: {_reason(error)}") from None

    @property
    def length(self) -> int:
        """The number of bytes that a pass reads."""
        return self._whole.end

    @property
    def bytes_read(self) -> int:
        """Bytes of the file, compressed or not, that the current pass has read."""
        return self._whole.bytes_read

    def chunks(self) -> Iterator[bytes]:
        """Yields the file's bytes from the start. Raises InputError if it cannot be read or was truncated."""
        self._whole = ByteRange(self.fileno(), self.name, 0, self.length)
        return self._whole.chunks()

    @property
    def is_open(self) -> bool:
        """Whether it uses a file descriptor now."""
        return not self._file.closed

    def fileno(self) -> int:
        """Returns the file descriptor; reopens a released file. Raises InputError."""
        if not self.is_open:
            try:
                self._file = _open(self._path)
                found = os.fstat(self._file.fileno())
            except OSError as error:
                raise InputError(f"{self.name}: {_reason(error)}") from None
            if (found.st_dev, found.st_ino) != self._identity:
                self._file.close()
                raise InputError(f"{self.name}: was replaced while it was read; run it again")
        return self._file.fileno()

    def release(self) -> None:
        """Closes the descriptor until the next read; a copy stays open, because it has no name."""
        if not self._is_copy:
            self._file.close()

    def line_after(self, offset: int) -> int:
        """Returns the first offset from this one on at which a line begins, or the length."""
        at = offset - 1
        for chunk in ByteRange(self.fileno(), self.name, at, self.length).chunks():
            if (found := chunk.find(b"\n")) >= 0:
                return at + found + 1
            at += len(chunk)
        return self.length

    def grown_bytes(self) -> int:
        """Returns the bytes appended since the file was opened, which are not read; 0 if it is missing."""
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

    def _copy(self, pipe: BinaryIO) -> BinaryIO:
        try:
            copy = tempfile.TemporaryFile(prefix="faillog-")  # noqa: SIM115  # until __exit__
        except FileNotFoundError:
            raise InputError(
                f"{self.name}: no folder for temporary files is writable; name one in TMPDIR"
            ) from None
        self._is_copy = True
        read: Callable[[int], bytes | None] = getattr(pipe, "read1", pipe.read)
        with self._interruptible() as until_readable:
            while True:
                if until_readable is not None:
                    until_readable(pipe.fileno())
                chunk = read(CHUNK_BYTES)
                if chunk:
                    copy.write(chunk)
                elif chunk is not None:  # None: no data yet
                    copy.flush()
                    return copy


def _reason(error: OSError) -> str:
    """Returns why a file cannot be opened, and what to do if the limit of open files is the cause."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}; raise the limit (ulimit -n), or lower --workers"
    return error.strerror or str(error)


def _open(path: str) -> BinaryIO:
    """Opens without blocking, also a pipe without a writer; the wait for data comes later."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC)

    return open(path, "rb", buffering=0, opener=opener)  # until __exit__


# -- decompression -------------------------------------------------------------------------------------------

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
PIECE_BYTES = 256 * 1024
"""Bytes decompressed at a time, which bounds the memory for any file."""

_ZSTD_INPUT_BYTES = 1024
"""A failed zstd call returns nothing, so small inputs lose little before the damage."""
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 26}
"""Refuses frames with windows above 64 MiB, which would take that much memory; only `--ultra` and `--long`
make them."""


class DamagedFile(Exception):
    """The rest of a file cannot be read; `reason` is a reason code."""

    def __init__(self, reason: ReasonCode, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def unpack(chunks: Iterable[bytes], max_bytes: int | None = None) -> Iterator[bytes]:
    """Yields the content: decompressed, member by member, if it begins as gzip or zstd.

    Raises DamagedFile after the last good byte if the compressed data is truncated or damaged, or if the
    content is longer than `max_bytes`.
    """
    source = iter(chunks)
    first = next(source, b"")
    while 0 < len(first) < len(ZSTD_MAGIC) and (more := next(source, b"")):
        first += more
    if first.startswith(GZIP_MAGIC):
        yield from _limit_length(_gunzip(first, source), max_bytes)
    elif _is_zstd(first):
        yield from _limit_length(_unzstd(first, source), max_bytes)
    else:
        yield first
        yield from source


def is_packed(start: bytes) -> bool:
    """Returns whether a file is compressed, by its first bytes."""
    return start.startswith(GZIP_MAGIC) or _is_zstd(start)


def _limit_length(content: Iterator[bytes], max_bytes: int | None) -> Iterator[bytes]:
    left = max_bytes
    for chunk in content:
        if left is not None and len(chunk) > left:
            yield chunk[:left]
            detail = f"the content is longer than {max_bytes} bytes; raise max_content if the file is trusted"
            raise DamagedFile("too_much_content", detail)
        left = None if left is None else left - len(chunk)
        yield chunk


def _gunzip(data: bytes, source: Iterator[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)
    while data or (data := next(source, b"")):
        before = member.copy()
        try:
            yield member.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            yield _read_until_damage(before, data)
            raise DamagedFile("damaged_gzip", f"the gzip data is damaged: {error}") from None
        data = member.unconsumed_tail
        if member.eof:
            data = member.unused_data.lstrip(b"\0") or _skip_padding(source)
            if not data:
                return  # zero bytes after the last member are padding
            while len(data) < len(GZIP_MAGIC) and (more := next(source, b"")):
                data += more
            if not GZIP_MAGIC.startswith(data[:2]):
                raise DamagedFile("trailing_garbage", "the data after the gzip data is not gzip")
            member = zlib.decompressobj(wbits=31)
    raise DamagedFile("truncated_gzip", "the gzip data is incomplete; the file is probably truncated")


def _read_until_damage(member: "zlib._Decompress", data: bytes) -> bytes:
    """Returns the content before the damage, byte by byte, because a failed call returns nothing."""
    found = bytearray()
    for at in range(0, len(data), 512):
        piece = data[at : at + 512]
        try:
            while piece or member.unconsumed_tail:
                byte = member.decompress(piece, 1)
                found += byte
                piece = member.unconsumed_tail
                if not byte and not piece:
                    break
        except zlib.error:
            break
    return bytes(found[:PIECE_BYTES])


def _skip_padding(source: Iterator[bytes]) -> bytes:
    return next((left for chunk in source if (left := chunk.lstrip(b"\0"))), b"")


def _is_zstd(data: bytes) -> bool:
    """Returns whether a zstd frame or a skippable frame begins here (RFC 8878, section 3.1)."""
    return data.startswith(ZSTD_MAGIC) or (data[1:4] == b"\x2a\x4d\x18" and data[0] & 0xF0 == 0x50)


def _unzstd(data: bytes, source: Iterator[bytes]) -> Iterator[bytes]:
    frame = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
    while data or (data := next(source, b"")):
        try:
            yield frame.decompress(data[:_ZSTD_INPUT_BYTES], PIECE_BYTES)
            while not frame.needs_input and not frame.eof:
                yield frame.decompress(b"", PIECE_BYTES)
        except zstd.ZstdError as error:
            raise DamagedFile("damaged_zstd", f"the zstd data is damaged: {error}") from None
        data = data[_ZSTD_INPUT_BYTES:]
        if frame.eof:
            data = frame.unused_data + data
            while len(data) < len(ZSTD_MAGIC) and (more := next(source, b"")):
                data += more
            if not data:
                return
            if not _is_zstd(data):
                raise DamagedFile("trailing_garbage", "the data after the zstd data is not zstd")
            frame = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
    raise DamagedFile("truncated_zstd", "the zstd data is incomplete; the file is probably truncated")


class StopAtCorruption:
    """Yields the chunks of a file up to a damage; `damage` then says what it is."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.damage: DamagedFile | None = None
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except DamagedFile as error:
            self.damage = error
