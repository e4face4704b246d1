"""Files of kept records: one JSON object a line, written as soon as a record is kept, readable by its owner.

The file is made when the first record comes, and later runs add to it: what is kept is never overwritten.
"""

import base64
import hashlib
import os
from typing import IO, Any

import msgspec

from faillog_otel.errors import LedgerBroken
from faillog_otel.events.model import Place


class KeptFile:
    """The quarantine or the pending file of a run over PATHs."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.count = 0
        self._file: IO[bytes] | None = None

    def keep(
        self,
        reason: str,
        detail: str,
        place: Place,
        raw: bytes,
        *,
        context: dict[str, Any] | None = None,
        replayable: bool = True,
    ) -> None:
        """Adds one entry. `context` is what the record learned. Raises LedgerBroken."""
        entry: dict[str, Any] = {
            "reason": reason,
            "detail": detail,
            "file": place.file,
            "line": place.line,
            "offset": place.offset,
        }
        try:
            entry["raw"] = raw.decode()
        except UnicodeDecodeError:
            entry["raw_base64"] = base64.b64encode(raw).decode()
        entry["sha256"] = hashlib.sha256(raw).hexdigest()
        if context:
            entry["context"] = context
        if not replayable:
            entry["replayable"] = False
        try:
            if self._file is None:
                self._file = _open_private(self.path)
            self._file.write(msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            raise LedgerBroken(f"{self.path}: cannot be written: {error.strerror}") from None
        self.count += 1

    def close(self) -> None:
        """Makes what was kept durable. Raises LedgerBroken."""
        if self._file is None:
            return
        try:
            with self._file as file:
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise LedgerBroken(f"{self.path}: cannot be written: {error.strerror}") from None


def _open_private(path: str) -> IO[bytes]:
    """Opens for appending, 0600 where it is new; never through a symbolic link at its place."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    return open(path, "ab", opener=opener)  # Path.open() takes no opener
