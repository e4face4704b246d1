"""OTLP JSON Lines: each request one line, as the Collector's file exporter writes and its `otlpjsonfile`
receiver reads them.
"""

from collections.abc import Sequence
from typing import IO

from faillog_otel.config import Signal
from faillog_otel.otlp.json import JsonEnvelope
from faillog_otel.otlp.outcome import Acknowledged, Outcome, Refused


class FileClient:
    """Writes requests to an open file; a line that is written is acknowledged. One request at a time."""

    def __init__(self, file: IO[bytes], envelope: JsonEnvelope) -> None:
        self._file = file
        self._envelope = envelope

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Writes one line; nothing for an empty request."""
        if not records:
            return Acknowledged()
        try:
            self._file.write(self._envelope.request(signal, records) + b"\n")
            self._file.flush()
        except OSError as error:
            return Refused(f"the output cannot be written: {error.strerror}")
        return Acknowledged()

    def close(self) -> None:
        """Leaves the file to who opened it."""
