"""Traces as trees on the terminal: for people who want to see, not to keep."""

from collections.abc import Sequence
from typing import IO

from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from faillog_otel.config import Signal
from faillog_otel.events.printable import printable
from faillog_otel.otlp.outcome import Acknowledged, Outcome, Refused
from faillog_otel.otlp.tree import trace_trees


class ConsoleClient:
    """Shows the trees of one batch after the other. One request at a time, a batch's logs before its spans.

    A trace that goes on in a later batch is shown in two pieces: memory stays flat.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._logs: list[LogRecord] = []

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Shows the records; logs wait for the spans that belong to them."""
        if signal == "logs":
            outcome = self._show([])
            self._logs = [LogRecord.FromString(record) for record in records]
            return outcome
        return self._show([Span.FromString(record) for record in records])

    def close(self) -> None:
        """Shows the logs that no spans came for."""
        self._show([])

    def _show(self, spans: Sequence[Span]) -> Outcome:
        logs, self._logs = self._logs, []
        try:
            for tree in trace_trees(spans, logs):
                self._file.write("\n".join(map(printable, tree.lines)) + "\n\n")
            self._file.flush()
        except OSError as error:
            return Refused(f"the output cannot be written: {error.strerror}")
        return Acknowledged()
