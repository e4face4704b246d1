"""Standard output and standard error as streams whose writes never fail: a report never ends what it reports.

What cannot be written is dropped, and why is noted. A pipe that its reader closed (`| head`) is no error.
"""

import io
import select
import signal
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CLOSED_PIPE: int = 128 + signal.SIGPIPE
"""The exit code of a run that ended early because the reader of its output closed the pipe."""


class ReportFile(io.FileIO):
    """A file for writing. `error` is the first error; from then on nothing is written."""

    error: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes the data, or drops it; returns its length, or how much a regular short write took."""
        while self.error is None:
            try:
                # FileIO returns None where a non-blocking pipe is full, whatever its type says.
                written: int | None = super().write(data)
            except OSError as error:
                self.error = error
                break
            if written is not None:
                return written
            select.select([], [self], [])
        return memoryview(data).nbytes


def protect_standard_streams() -> None:
    """Replaces `sys.stdout` and `sys.stderr`. To be called once, before anything is written."""
    sys.stdout, sys.stderr = _protected(sys.stdout), _protected(sys.stderr)


def is_output_closed() -> bool:
    """Whether the reader of standard output has closed it: what is printed from now on, nobody reads."""
    return isinstance(_error_of(sys.stdout), ConnectionError)


def unwritten() -> str:
    """Why standard output could not be written; empty if it could, or if its reader closed it."""
    sys.stdout.flush()
    error = _error_of(sys.stdout)
    return "" if error is None or isinstance(error, ConnectionError) else str(error.strerror)


def results_stream() -> TextIO:
    """Standard output for results that must be written: here, writes raise OSError."""
    if _report_of(sys.stdout) is None:
        return sys.stdout
    return open(1, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False)


def _protected(stream: TextIO) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(ReportFile(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=bool(stream.line_buffering),
    )


def _error_of(stream: TextIO) -> OSError | None:
    report = _report_of(stream)
    return None if report is None else report.error


def _report_of(stream: TextIO) -> ReportFile | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, ReportFile) else None
