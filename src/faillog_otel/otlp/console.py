"""Traces as trees on the terminal: for people who want to see, not to keep."""

from collections.abc import Callable, Sequence
from typing import IO

from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from faillog_otel.config import Signal
from faillog_otel.events.printable import printable
from faillog_otel.otlp.outcome import READER_GONE, Acknowledged, Outcome, Refused
from faillog_otel.otlp.tree import trace_trees


class ConsoleClient:
    """Shows the trees of one batch after the other. One request at a time, a batch's spans before its logs.

    Every record has a log: what cannot be shown is not acknowledged. A trace that goes on in a later batch is
    shown in two pieces: memory stays flat.
    """

    def __init__(self, file: IO[str], on_closed: Callable[[], object], *, waits_for_logs: bool) -> None:
        """`on_closed` is called when the reader of the output has closed it.

        `waits_for_logs`: whether logs are sent at all.
        """
        self._file = file
        self._on_closed = on_closed
        self._waits_for_logs = waits_for_logs
        self._spans: list[Span] = []

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Shows the records; spans wait for the logs that belong to them."""
        if signal == "logs":
            return self._show([LogRecord.FromString(record) for record in records])
        outcome = self._show([])
        self._spans = [Span.FromString(record) for record in records]
        return outcome if self._waits_for_logs else self._show([])

    def close(self) -> None:
        """Shows the spans that no logs came for."""
        self._show([])

    def _show(self, logs: Sequence[LogRecord]) -> Outcome:
        spans, self._spans = self._spans, []
        try:
            for tree in trace_trees(spans, logs):
                self._file.write("\n".join(map(printable, tree.lines)) + "\n\n")
            self._file.flush()
        except ConnectionError:
            self._on_closed()
            return Refused(READER_GONE)
        except OSError as error:
            return Refused(f"the output cannot be written: {error.strerror}")
        return Acknowledged()
