"""A worker: a process that reads, encodes and sends partitions of a run's files, and reports outcomes.

It writes nothing down itself: the run that started it does, in the order of the files. It ends when that
run does, for then its channel is closed.
"""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from faillog_otel.errors import InputError
from faillog_otel.events.model import JSON_LINES
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.inputs.files import ByteRange
from faillog_otel.inputs.formats import read_exchanges
from faillog_otel.inputs.json_stream import ReadPosition
from faillog_otel.ledger.results import BatchResult
from faillog_otel.otlp.delivery import Delivery
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.pipeline.worker_protocol import (
    BuildIndex,
    Channel,
    Drain,
    EndSending,
    Forward,
    IndexBuilt,
    Order,
    Piece,
    Ready,
    Report,
    Start,
    Stop,
    UseIndex,
    Written,
    encode,
    read_order,
)
from faillog_otel.telemetry.api import NoTelemetry


class Answered(NoTelemetry):
    """Notes how requests ended, for the next report."""

    def __init__(self) -> None:
        self._noted: queue.SimpleQueue[tuple[str, str, float]] = queue.SimpleQueue()

    def record_request(self, signal: str, outcome: str, seconds: float) -> None:
        """A request ended so."""
        self._noted.put((signal, outcome, seconds))

    def taken(self) -> list[tuple[str, str, float]]:
        """Those since the last time."""
        return [self._noted.get() for _ in range(self._noted.qsize())]


class PartBook:
    """The book of a part: what becomes of its records is reported."""

    holds_entries = True
    seen = None

    def __init__(
        self, order: Forward, reference_ns: int, report: Callable[["PartBook", BatchResult], None]
    ) -> None:
        self.part = order.part
        self.position = order.position
        self.reference_ns = reference_ns
        self.problems: list[str] = []
        self.stopped_at: list[int | None] = []
        self.bytes_in = 0
        self._report = report

    def commit(self, stretch: BatchResult) -> bool:
        """Reports it."""
        self._report(self, stretch)
        return True


class Worker:
    """Does what is ordered until the channel is closed."""

    def __init__(
        self,
        *,
        channel: Channel,
        start: Start,
        forwarder: Forwarder,
        careful: Forwarder,
        delivery: Delivery,
        answered: Answered,
        stop: Callable[[], None],
    ) -> None:
        """`careful` is a forwarder with small batches.

        `stop` lets everybody in this process know that the run was asked to stop.
        """
        self._channel = channel
        self._start = start
        self._forwarder = forwarder
        self._careful = careful
        self._delivery = delivery
        self._answered = answered
        self._stop = stop
        self._exchanges: ExchangeIndex | None = None
        self._orders: queue.SimpleQueue[tuple[Order, list[int]]] = queue.SimpleQueue()

    def run(self) -> None:
        """Never returns: the process ends with the channel."""
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            self._send(Ready())
            self._obey(*self._next())

    def _listen(self) -> None:
        """The other thread: orders also come while the main one reads, or waits for the collector."""
        while (come := self._channel.receive()) is not None:
            message, descriptors = come
            order = read_order(message)
            if isinstance(order, EndSending):
                self._delivery.end(order.why)
            else:
                if isinstance(order, Stop):
                    self._stop()
                self._orders.put((order, descriptors))
        os._exit(0)  # the run is gone, so no outcome could be reported

    def _next(self) -> tuple[Order, list[int]]:
        """The next order that is one to read something; others are obeyed on the way."""
        while True:
            order, descriptors = self._orders.get()
            if isinstance(order, UseIndex):
                if self._exchanges is not None:
                    self._exchanges.close()
                self._exchanges = ExchangeIndex.of(order.index, os.fdopen(descriptors[0], "rb"))
            elif isinstance(order, Drain | Stop):
                self._forwarder.finish()
                self._careful.finish()
            else:
                return order, descriptors

    def _obey(self, order: Order, descriptors: Sequence[int]) -> None:
        try:
            if isinstance(order, BuildIndex):
                self._learn(order.piece, descriptors[0])
            elif isinstance(order, Forward):
                self._forward(order, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _learn(self, piece: Piece, descriptor: int) -> None:
        passage = ByteRange(descriptor, piece.name, piece.start, piece.end)
        lines = 0
        exchanges = ExchangeIndex(is_part=True)

        def counted(chunk: bytes) -> bytes:
            nonlocal lines
            lines += chunk.count(b"\n")
            return chunk

        start = ReadPosition(offset=piece.start)
        with suppress(InputError):  # it will be met again, and said, when the part is read
            for raw in read_exchanges(JSON_LINES, map(counted, passage.chunks()), start):
                exchanges.add_record(raw)
        self._send(IndexBuilt(lines, exchanges.part()))

    def _forward(self, order: Forward, descriptors: Sequence[int]) -> None:
        book = PartBook(order, self._start.reference_ns, self._report)
        forwarder = self._careful if order.carefully else self._forwarder
        before = forwarder.counts.bytes_in
        for piece, descriptor in zip(order.pieces, descriptors, strict=True):
            start = None if piece.lines is None else ReadPosition(piece.lines, piece.start)
            exchanges = None if start is None else self._exchanges
            passage = ByteRange(descriptor, piece.name, piece.start, piece.end)
            try:
                forwarder.forward(passage, book, lambda _: None, start=start, exchanges=exchanges)
            except InputError as error:
                book.problems.append(str(error))
            book.stopped_at.append(forwarder.stopped_at)
        book.bytes_in = forwarder.counts.bytes_in - before
        forwarder.end(book)

    def _report(self, book: PartBook, stretch: BatchResult) -> None:
        self._send(
            Written(
                part=book.part,
                counts=stretch.counts,
                kept=stretch.kept,
                became=list(stretch.became.items()),
                shifted=stretch.shifted,
                met=stretch.met,
                is_last=stretch.is_last,
                stopped_at=book.stopped_at,
                bytes_in=book.bytes_in if stretch.is_last else 0,
                problems=book.problems if stretch.is_last else [],
                accounted=stretch.accounted,
                sent=self._delivery.sent,
                over=self._delivery.gave_up_because,
                answers=self._answered.taken(),
            )
        )

    def _send(self, report: Report) -> None:
        self._channel.send(encode(report))
