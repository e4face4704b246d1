"""A worker, which forwards partitions of a run's files, and the messages between it and the run.

A worker is a process. It reads, encodes and sends records, and reports their outcomes; the run commits them.
The worker ends when the run closes the channel, or crashes.
"""

import os
import queue
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from faillog_otel.config import FailOn, RunConfig, Secret
from faillog_otel.errors import InputError
from faillog_otel.events.failure_counts import BatchFailures
from faillog_otel.inputs.exchange_index import ExchangeIndex, Index, IndexPart
from faillog_otel.inputs.files import ByteRange
from faillog_otel.inputs.json_stream import ReadPosition
from faillog_otel.ledger.results import Accounted, BatchResult, Counts, Kept, Met
from faillog_otel.otlp.delivery import Delivery
from faillog_otel.otlp.failure_notes import PackedNotes
from faillog_otel.otlp.sender import Sent
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.pipeline.partition import Piece
from faillog_otel.telemetry import NoTelemetry

# -- messages ------------------------------------------------------------------------------------------------


class Start(Struct, frozen=True, tag=True):
    """The first order: the settings of the run. `reference_ns` is the "now" of its time policy."""

    config: RunConfig
    reference_ns: int
    sends_rejected: bool = False


class BuildIndex(Struct, frozen=True, tag=True):
    """Index the exchanges in these pieces, and count their lines; their files come with the message."""

    pieces: list[Piece]


class UseIndex(Struct, frozen=True, tag=True):
    """The index of the run's exchanges, with its file if it has one. It precedes the first partition."""

    index: Index


class Forward(Struct, frozen=True, tag=True):
    """Forward a partition, from its record `position` on; its files come with the message.

    `carefully`: in small batches, so that little is sent again if this worker crashes, too.
    """

    part: int
    pieces: list[Piece]
    position: int = 0
    carefully: bool = False


class Drain(Struct, frozen=True, tag=True):
    """Wait for the outcomes of all records that were read."""


class EndSending(Struct, frozen=True, tag=True):
    """Send nothing more: further records are pending."""

    why: str


class Stop(Struct, frozen=True, tag=True):
    """The run ends: read nothing more, and wait for all outcomes."""


Order = Start | BuildIndex | UseIndex | Forward | Drain | EndSending | Stop


class Ready(Struct, frozen=True, tag=True):
    """All orders are carried out; send another one."""


class IndexBuilt(Struct, frozen=True, tag=True):
    """The answer to BuildIndex: the number of lines of each piece, and the index of all."""

    lines: list[int]
    index: IndexPart


class PartitionResult(Struct, frozen=True, tag=True, kw_only=True):
    """The outcomes of the next records of a partition, in its order."""

    part: int
    counts: Counts
    kept: list[Kept]
    outcomes: list[tuple[tuple[str, str, str], int]]
    shifted: set[int]
    met: dict[FailOn, Met]
    is_last: bool
    stopped_at: list[int | None] = field(default_factory=list)
    """For each piece so far: where reading stopped, in bytes of the content; None for its end."""
    problems: list[str] = field(default_factory=list)
    """In the last report: why files could not be read."""
    bytes_in: int = 0
    """In the last report: bytes of the partition's content."""
    accounted: Accounted
    sent: Sent
    """Sums over everything that this worker sent."""
    over: str = ""
    """Why this worker sends nothing more; empty while it sends."""
    answers: list[tuple[str, str, float]] = field(default_factory=list)
    """Requests since the last report: signal, outcome, seconds."""
    failures: BatchFailures = field(default_factory=BatchFailures)

    def result(self) -> BatchResult:
        """Returns it as a sink takes it."""
        self.counts.bytes_in = self.bytes_in
        return BatchResult(
            counts=self.counts,
            kept=self.kept,
            outcomes=Counter(dict(self.outcomes)),
            shifted=self.shifted,
            accounted=self.accounted,
            met=self.met,
            is_last=self.is_last,
            failures=self.failures,
        )


class Waits(Struct, frozen=True, tag=True):
    """A request waits, for this reason and this long. The run shows it once for all workers."""

    what: str
    seconds: float


Report = Ready | IndexBuilt | PartitionResult | Waits


def _reveal(secret: Any) -> Any:
    return secret.reveal()


def _secret(_type: type, text: Any) -> Any:
    return Secret(text)


encode = msgspec.msgpack.Encoder(enc_hook=_reveal).encode
read_order = msgspec.msgpack.Decoder[Order](Order, dec_hook=_secret).decode
read_report = msgspec.msgpack.Decoder[Report](Report).decode


# -- channel -------------------------------------------------------------------------------------------------

_LENGTH_BYTES, _READ_BYTES = 4, 256 * 1024
_MAX_DESCRIPTORS = 253  # Linux: SCM_MAX_FD


class Channel:
    """One end of a Unix socket that carries messages and open files. Any thread may send; one receives.

    A frame is the message's length (4 bytes, big-endian) and the message. Descriptors travel with the length.

    Not `multiprocessing.connection`: its `recv_bytes` blocks until the whole message is there. If the
    collector is away, a report is about 0.6 MB and the socket holds 208 KiB: measured with two workers, more
    than half of all reads end within a message. If the worker is stopped at that point (SIGSTOP, swapping), a
    blocked run neither receives reports of other workers nor ends within ten seconds of a signal. Nor does
    `reduction.send_handle` fit: on macOS it waits for an answer on the connection that carries the reports.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()
        self._unread = bytearray()

    def fileno(self) -> int:
        """Returns the socket's descriptor."""
        return self._socket.fileno()

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Sends a message; blocks while the socket is full. Raises OSError if the other end is closed."""
        length = len(message).to_bytes(_LENGTH_BYTES, "big")
        with self._sending:
            if descriptors:
                socket.send_fds(self._socket, [length], descriptors)
                self._socket.sendall(message)
            else:
                self._socket.sendall(length + message)

    def receive(self) -> tuple[bytes, list[int]] | None:
        """Waits for a message. Returns it and its descriptors, or None if the other end is closed."""
        message = bytearray()
        try:
            length, descriptors, _, _ = socket.recv_fds(self._socket, _LENGTH_BYTES, _MAX_DESCRIPTORS)
            missing = int.from_bytes(length, "big")
            while missing and (data := self._socket.recv(missing)):
                message += data
                missing -= len(data)
        except ConnectionError:  # the other end closed without reading everything
            return None
        if missing or len(length) < _LENGTH_BYTES:  # a length is sent in one piece and arrives in one
            return None
        return bytes(message), descriptors

    def receive_available(self) -> list[bytes]:
        """Returns the messages that arrived whole; never blocks. Raises EOFError once no more can arrive."""
        try:
            data = self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        self._unread += data
        messages, position, unread = [], 0, self._unread
        while len(unread) - position >= _LENGTH_BYTES:
            start = position + _LENGTH_BYTES
            end = start + int.from_bytes(unread[position:start], "big")
            if end > len(unread):
                break
            messages.append(bytes(unread[start:end]))
            position = end
        del unread[:position]
        return messages

    def close(self) -> None:
        """Closes this end; the other end then reads its end of file."""
        self._socket.close()


# -- the process ---------------------------------------------------------------------------------------------


class RequestLog(NoTelemetry):
    """Collects how requests ended, for the next report."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[tuple[str, str, float]] = queue.SimpleQueue()

    def record_request(self, signal: str, outcome: str, seconds: float) -> None:
        """Adds a request."""
        self._requests.put((signal, outcome, seconds))

    def drain(self) -> list[tuple[str, str, float]]:
        """Returns the requests since the last call."""
        return [self._requests.get() for _ in range(self._requests.qsize())]


class PartitionSink:
    """Reports the results of a partition's records."""

    holds_entries = True
    seen = None

    def __init__(
        self, order: Forward, reference_ns: int, report: Callable[["PartitionSink", BatchResult], None]
    ) -> None:
        self.part = order.part
        self.position = order.position
        self.reference_ns = reference_ns
        self.problems: list[str] = []
        self.stopped_at: list[int | None] = []
        self.bytes_in = 0
        self._report = report

    def commit(self, result: BatchResult) -> bool:
        """Reports it."""
        self._report(self, result)
        return True


class Worker:
    """Carries out orders until the channel is closed."""

    def __init__(
        self,
        *,
        channel: Channel,
        start: Start,
        forwarder: Forwarder,
        careful: Forwarder,
        delivery: Delivery,
        requests: RequestLog,
        notes: PackedNotes,
        stop: Callable[[], None],
    ) -> None:
        """`careful`: a forwarder with small batches. `stop`: makes this process stop reading."""
        self._channel = channel
        self._start = start
        self._forwarder = forwarder
        self._careful = careful
        self._delivery = delivery
        self._requests = requests
        self._notes = notes
        self._stop = stop
        self._exchanges = ExchangeIndex()
        self._orders: queue.SimpleQueue[tuple[Order, list[int]]] = queue.SimpleQueue()

    def run(self) -> None:
        """Never returns: the process ends with the channel."""
        threading.Thread(target=self._receive, daemon=True).start()
        while True:
            self._send(Ready())
            self._carry_out(*self._next())

    def _receive(self) -> None:
        """Receives orders on a thread of its own, also while the main thread reads or sends."""
        while (received := self._channel.receive()) is not None:
            message, descriptors = received
            order = read_order(message)
            if isinstance(order, EndSending):
                self._delivery.end(order.why)
                continue
            if isinstance(order, Stop):
                self._stop()
            self._orders.put((order, descriptors))
        os._exit(0)  # the run is gone, so no outcome could be reported

    def _next(self) -> tuple[Order, list[int]]:
        """Returns the next order to read something; carries out the others."""
        while True:
            order, descriptors = self._orders.get()
            if isinstance(order, UseIndex):
                file = os.fdopen(descriptors[0], "rb") if descriptors else None
                self._exchanges = ExchangeIndex.of(order.index, file)
            elif isinstance(order, Drain | Stop):
                self._forwarder.finish()
                self._careful.finish()
            else:
                return order, descriptors

    def _carry_out(self, order: Order, descriptors: Sequence[int]) -> None:
        try:
            if isinstance(order, BuildIndex):
                self._build_index(order.pieces, descriptors)
            elif isinstance(order, Forward):
                self._forward(order, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _build_index(self, pieces: Sequence[Piece], descriptors: Sequence[int]) -> None:
        exchanges = ExchangeIndex(is_part=True)
        lines = []
        for piece, descriptor in zip(pieces, descriptors, strict=True):
            passage = ByteRange(descriptor, piece.name, piece.start, piece.end)
            lines.append(self._forwarder.index(passage, exchanges, start=_start_of(piece)))
        self._send(IndexBuilt(lines, exchanges.part()))

    def _forward(self, order: Forward, descriptors: Sequence[int]) -> None:
        sink = PartitionSink(order, self._start.reference_ns, self._report)
        forwarder = self._careful if order.carefully else self._forwarder
        before = forwarder.counts.bytes_in
        for piece, descriptor in zip(order.pieces, descriptors, strict=True):
            passage = ByteRange(descriptor, piece.name, piece.start, piece.end)
            try:
                forwarder.forward(passage, sink, self._exchanges, start=_start_of(piece))
            except InputError as error:
                sink.problems.append(str(error))
            sink.stopped_at.append(forwarder.stopped_at)
        sink.bytes_in = forwarder.counts.bytes_in - before
        forwarder.end(sink)

    def _report(self, sink: PartitionSink, result: BatchResult) -> None:
        if result.is_last:
            result.failures.times = self._notes.times()
        result.failures.packed = [b"".join(result.failures.packed)]  # it takes less time than many texts
        self._send(
            PartitionResult(
                part=sink.part,
                counts=result.counts,
                kept=result.kept,
                outcomes=list(result.outcomes.items()),
                shifted=result.shifted,
                met=result.met,
                is_last=result.is_last,
                stopped_at=sink.stopped_at,
                bytes_in=sink.bytes_in if result.is_last else 0,
                problems=sink.problems if result.is_last else [],
                accounted=result.accounted,
                sent=self._delivery.sent,
                over=self._delivery.gave_up_because,
                answers=self._requests.drain(),
                failures=result.failures,
            )
        )

    def _send(self, report: Report) -> None:
        self._channel.send(encode(report))


def _start_of(piece: Piece) -> ReadPosition | None:
    """Returns where the lines of a piece begin; None for a whole file in any form."""
    return None if piece.lines is None else ReadPosition(piece.lines, piece.start)
