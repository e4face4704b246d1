"""What a run and its workers say to each other: orders one way, reports the other."""

import socket
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from faillog_otel.config import FailOn, RunConfig, Secret
from faillog_otel.inputs.exchange_index import Index, IndexPart
from faillog_otel.ledger.results import Accounted, BatchResult, Counts, Kept, Met
from faillog_otel.otlp.sender import Sent

# -- orders --------------------------------------------------------------------------------------------------


class Piece(Struct, frozen=True):
    """A file, or the lines of one that stand from byte `start` to `end`. Its descriptor travels beside it."""

    name: str
    start: int
    end: int
    lines: int | None = None
    """So many lines stand before it in its file; None: it is a whole file, of whatever form."""


class Start(Struct, frozen=True, tag=True):
    """The first order: what the run is. `reference_ns` is the "now" of its time policy."""

    config: RunConfig
    reference_ns: int
    sends_rejected: bool = False


class BuildIndex(Struct, frozen=True, tag=True):
    """Find out what the exchanges in these lines say, and how many lines they are."""

    piece: Piece


class UseIndex(Struct, frozen=True, tag=True):
    """What all exchanges of a file say: the parts that follow are of this file."""

    index: Index


class Forward(Struct, frozen=True, tag=True):
    """Forward a part, from its record `position` on: those before it are written down.

    `carefully`: in small batches, so that little is done again when this worker dies, too.
    """

    part: int
    pieces: list[Piece]
    position: int = 0
    carefully: bool = False


class Drain(Struct, frozen=True, tag=True):
    """Drain: wait for the outcome of every record that was read."""


class EndSending(Struct, frozen=True, tag=True):
    """Nothing is sent any more: what is read from now on is pending."""

    why: str


class Stop(Struct, frozen=True, tag=True):
    """The run was asked to stop: read nothing more, and wait for the outcomes of the rest."""


Order = Start | BuildIndex | UseIndex | Forward | Drain | EndSending | Stop


class Ready(Struct, frozen=True, tag=True):
    """Everything that was ordered is read: another order, please."""


class IndexBuilt(Struct, frozen=True, tag=True):
    """The answer to Learn."""

    lines: int
    lessons: IndexPart


class Written(Struct, frozen=True, tag=True, kw_only=True):
    """The outcomes of the next records of a partition, in its order."""

    part: int
    counts: Counts
    kept: list[Kept]
    became: list[tuple[tuple[str, str, str], int]]
    shifted: set[int]
    met: dict[FailOn, Met]
    is_last: bool
    stopped_at: list[int | None] = field(default_factory=list)
    """With the last one, for each piece that was begun: where reading stopped, in bytes of the content; None:
    it was read to its end."""
    problems: list[str] = field(default_factory=list)
    """With the last one: what could not be read."""
    bytes_in: int = 0
    """With the last one: so much content the part has."""
    accounted: Accounted
    """The bytes of files that end with these records."""
    sent: Sent
    """What this worker sent so far."""
    over: str = ""
    """Why this worker sends nothing any more."""
    answers: list[tuple[str, str, float]] = field(default_factory=list)
    """Requests since the last report: signal, outcome, seconds."""

    def stretch(self) -> BatchResult:
        """It once more, as books take it."""
        self.counts.bytes_in = self.bytes_in
        return BatchResult(
            counts=self.counts,
            kept=self.kept,
            became=Counter(dict(self.became)),
            shifted=self.shifted,
            accounted=self.accounted,
            met=self.met,
            is_last=self.is_last,
        )


class Waits(Struct, frozen=True, tag=True):
    """A request waits: for what, and for how many seconds. The run says it, once for all workers."""

    what: str
    seconds: float


Report = Ready | IndexBuilt | Written | Waits


def _reveal(secret: Any) -> Any:
    return secret.reveal()


def _secret(_type: type, text: Any) -> Any:
    return Secret(text)


encode = msgspec.msgpack.Encoder(enc_hook=_reveal).encode
read_order = msgspec.msgpack.Decoder[Order](Order, dec_hook=_secret).decode
read_report = msgspec.msgpack.Decoder[Report](Report).decode


# -- channel -------------------------------------------------------------------------------------------------
#
# Messages between the run and one of its workers over a Unix socket, with open files beside them.
#
# A frame is the message's length (4 bytes, big-endian) and the message. Descriptors travel with the length.
#
# Not `multiprocessing.connection`: its `recv_bytes` blocks until the whole message is there. If the collector
# is away, a report is about 0.6 MB and the socket holds 208 KiB: measured with two workers, more than half of
# all reads end within a message. If the worker is stopped at that point (SIGSTOP, swapping), a blocked run
# neither takes what the other workers report nor ends within ten seconds of a signal. Nor does
# `reduction.send_handle` fit: on macOS it waits for an answer on the connection that also carries the
# reports.

_LENGTH_BYTES = 4
_MAX_DESCRIPTORS = 253  # Linux: SCM_MAX_FD
_READ_BYTES = 256 * 1024


class Channel:
    """One end. Any thread may send; one thread receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()
        self._unread = bytearray()

    def fileno(self) -> int:
        """The socket's descriptor."""
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
