"""Small files that a setting names: a config file, a token, certificates."""

import os
import stat
from codecs import BOM_UTF16_BE, BOM_UTF16_LE

from faillog_otel.errors import ConfigError

MAX_BYTES = 1024 * 1024


def read_small_file(name: str, *, may_be_pipe: bool = False) -> bytes:
    """The bytes of a file of at most `MAX_BYTES`. Raises ConfigError that names the file.

    A pipe can be read once only, and keeps the reader waiting where nobody writes: it is refused, and so are
    devices, unless `may_be_pipe`.
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
    """The text of such a file, without a byte order mark. Raises ConfigError that names the file."""
    content = read_small_file(name, may_be_pipe=may_be_pipe)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        found = "UTF-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "not UTF-8"
        raise ConfigError(f"{name}: is {found}; save it as UTF-8") from None


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
