"""OTLP JSON Lines: each request one line, as the Collector's file exporter writes and its `otlpjsonfile`
receiver reads them.
"""

from collections.abc import Callable, Sequence
from typing import IO

from faillog_otel.config import Signal
from faillog_otel.events.printable import printable_json
from faillog_otel.otlp.json import JsonEnvelope
from faillog_otel.otlp.outcome import READER_GONE, Acknowledged, Outcome, Refused


class FileClient:
    """Writes requests to an open, unbuffered file; a line that is written is acknowledged.

    A line of which only a part could be written is taken back; where that is impossible (a pipe, a device),
    nothing is written any more: a part of a line would spoil the next one. One request at a time.
    """

    def __init__(
        self,
        file: IO[bytes],
        envelope: JsonEnvelope,
        *,
        is_terminal: bool = False,
        is_ascii: bool = False,
        on_closed: Callable[[], object],
    ) -> None:
        """To a terminal, control characters are written as JSON's escapes; `is_ascii`: others, too.

        `on_closed` is called when the reader of the output has closed it.
        """
        self._on_closed = on_closed
        self._file = file
        self._is_terminal = is_terminal
        self._is_ascii = is_ascii
        self._envelope = envelope
        self._broken = ""

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Writes one line; nothing for an empty request."""
        if self._broken:
            return Refused(self._broken)
        if not records:
            return Acknowledged()
        request = self._envelope.request(signal, records)
        if self._is_terminal:
            request = printable_json(request.decode(), is_ascii=self._is_ascii).encode()
        line = memoryview(request + b"\n")
        start = self._file.tell() if self._file.seekable() else None
        try:
            while line:
                line = line[self._file.write(line) :]
        except ConnectionError:
            self._broken = READER_GONE
            self._on_closed()
            return Refused(READER_GONE)
        except OSError as error:
            why = f"the output cannot be written: {error.strerror}"
            if not self._is_cut_back(start):
                self._broken = why
            return Refused(why)
        return Acknowledged()

    def _is_cut_back(self, start: int | None) -> bool:
        """Removes half a line, if the output is a file: a device may seek, and cannot be cut."""
        if start is None:
            return False
        try:
            self._file.seek(start)
            self._file.truncate()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Leaves the file to who opened it."""
