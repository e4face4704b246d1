"""One line at the bottom of the terminal: what is downloaded and forwarded just now.

Two threads tell what they do, and log lines come between: all of it goes through here, so that nothing is
written over anything else.
"""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from faillog_otel.app.forwarder import Progress

BAR_WIDTH = 24
_CLEAR = "\r\x1b[K"


class ProgressLine:
    """Also the stream that the log is written to."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._lock = threading.Lock()
        self._to_download = 0
        self._forwarded: tuple[int, int] | None = None
        self._shown = ""

    def to_download(self, objects: int) -> None:
        """Told how many objects of the hour are still to be downloaded."""
        self._to_download = objects
        self._draw()

    @contextmanager
    def forwarding(self, size: int) -> Iterator[Progress]:
        """Shows how far the forwarding of an object of so many bytes has come."""
        done = 0

        def update(more: int) -> None:
            nonlocal done
            done += more
            self._forwarded = done, size
            self._draw()

        update(0)
        try:
            yield update
        finally:
            self._forwarded = None
            self._draw()

    def write(self, text: str) -> int:
        """Writes log lines above the line."""
        with self._lock:
            self._terminal.write(f"{_CLEAR}{text}{self._shown}")
        return len(text)

    def flush(self) -> None:
        """Shows what was written."""
        self._terminal.flush()

    def close(self) -> None:
        """Takes the line away."""
        self._to_download, self._forwarded = 0, None
        self._draw()

    def _draw(self) -> None:
        parts = []
        if self._to_download:
            parts.append(f"downloading, {self._to_download} to go")
        if forwarded := self._forwarded:
            done, size = forwarded
            filled = BAR_WIDTH * min(done, size) // size if size else BAR_WIDTH
            parts.append(f"forwarding [{'#' * filled}{'-' * (BAR_WIDTH - filled)}]")
        line = "  ".join(parts)[: shutil.get_terminal_size().columns - 1]
        with self._lock:
            if line != self._shown:
                self._shown = line
                self._terminal.write(f"{_CLEAR}{line}")
                self._terminal.flush()
