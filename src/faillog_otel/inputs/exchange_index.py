"""An index of one file's exchanges: the answers, and the trace contexts in request bodies.

An attempt can precede its exchange in the file, so a first pass builds the index and a second one reads it.
The index takes 11 bytes for each exchange, and 32 for each message with a context. It can be saved in a file,
for the object that it belongs to.
"""

import hashlib
import os
import re
import struct
import sys
import zlib
from typing import BinaryIO, Self

import msgspec
from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.events.decode import answer_of, decode, may_be_exchange
from faillog_otel.events.kept_record import KeptContext, traceparents
from faillog_otel.events.model import BadRecord, Event, ExchangeAnswer, Reason, exchange_of
from faillog_otel.inputs.hash_table import HASH_BYTES, MEMORY_BYTES, HashTable

MAX_REASONS_BYTES = 4 * 1024 * 1024
"""Further distinct reasons are dropped: their attempts have only the status."""
_MAX_REASONS = 2**16 - 1
"""The same."""
_UNBOUNDED = 2**62

_MAX_ANSWERS = 1024
"""Distinct answers and contexts that events share."""

_EXCHANGE_ID = re.compile(rb'"destinationExchangeId"\s*+:\s*+"([^"\\]+)"')
_MESSAGE_ID = re.compile(rb'"messageId"\s*+:\s*+"([^"\\]+)"')
_ANSWER = struct.Struct("<HH")  # status (0: none), number of the reason (0: none)
_PART_ANSWER = struct.Struct("<HI")  # the same, with all reasons
_CONTEXT = struct.Struct("16s8sB")  # trace id, span id, flags


class IndexPart(Struct, frozen=True):
    """The index of a part of a file: entries of hash tables, and the reasons whose numbers they contain."""

    answers: bytes
    contexts: bytes
    reasons: list[Reason | None]


class Index(Struct, frozen=True):
    """The index of a file, written to another file: the offsets of its hash tables, and the reasons."""

    answers: list[bytes]
    contexts: list[bytes]
    reasons: list[Reason | None]


class UnusableIndex(Exception):
    """A saved index is damaged, or belongs to another version or object; the message says which."""


class _Footer(Struct, frozen=True):
    """The end of a saved index: the object that it belongs to, and where its hash tables are."""

    sha256: str
    length: int
    index: Index


_FORMAT = f"exchange index 1, {sys.byteorder}\n".encode()
"""The version of saved indexes. Offsets and lengths are in this machine's byte order."""
_END = struct.Struct(f"=Q{len(_FORMAT)}s32s")
"""The end of a saved index: length of the compressed footer, version, SHA-256 of all bytes before."""
_READ_BYTES = 1024 * 1024


class ExchangeIndex:
    """Maps an exchange to its answer, an exchange with a message to a traceparent; the first one counts."""

    def __init__(
        self,
        memory_bytes: int = MEMORY_BYTES,
        *,
        is_part: bool = False,
        file: BinaryIO | None = None,
    ) -> None:
        """`file`: takes entries beyond the memory; by default temporary files. Its errors are OSErrors.

        `is_part`: unbounded, for `part()`; the limits apply to the index that merges the parts.
        """
        memory_bytes = _UNBOUNDED if is_part else memory_bytes
        self._answer = _PART_ANSWER if is_part else _ANSWER
        self._max_reason_bytes = _UNBOUNDED if is_part else MAX_REASONS_BYTES
        self._max_reasons = _UNBOUNDED if is_part else _MAX_REASONS
        self._answers = HashTable(self._answer.size, memory_bytes, file)
        self._contexts = HashTable(_CONTEXT.size, memory_bytes, file)
        self._has_contexts = False
        self._reasons: list[Reason | None] = [None]
        self._reason_numbers: dict[Reason, int] = {}
        self._reason_bytes = 0
        self._last_exchange: str | None = None
        self._last_answer: ExchangeAnswer | None = None
        self._shared_contexts: dict[ExchangeAnswer | None, KeptContext] = {}
        self._shared_answers: dict[bytes, ExchangeAnswer] = {}

    @classmethod
    def of(cls, index: Index, file: BinaryIO, memory_bytes: int = MEMORY_BYTES) -> Self:
        """Returns the index that another process wrote to the file; takes over the file."""
        found = cls(memory_bytes, file=file)
        found._answers.open_tables(file, index.answers)
        found._contexts.open_tables(file, index.contexts)
        found._has_contexts = bool(index.contexts)
        found._reasons = index.reasons
        return found

    @classmethod
    def open(cls, file: BinaryIO, sha256: str, length: int, memory_bytes: int = MEMORY_BYTES) -> Self:
        """Returns the index that `save` wrote for the object with this checksum and length.

        Takes over the file. Raises UnusableIndex.
        """
        try:
            footer = _read_footer(file.fileno())
        except OSError as error:
            raise UnusableIndex(f"cannot be read: {error.strerror}") from None
        if (footer.sha256, footer.length) != (sha256, length):
            raise UnusableIndex("belongs to another object")
        return cls.of(footer.index, file, memory_bytes)

    def save(self, file: BinaryIO, sha256: str, length: int) -> None:
        """Completes `file`, which the index was made with, for the object with this checksum and length.

        The file must be open for reading, too. Raises OSError.
        """
        footer = msgspec.msgpack.encode(_Footer(sha256, length, self.write_out()))
        packed = zlib.compress(footer, 1)
        file.seek(0, os.SEEK_END)
        file.write(packed)
        file.flush()
        checksum = _checksum(file.fileno(), os.fstat(file.fileno()).st_size)
        file.write(_END.pack(len(packed), _FORMAT, checksum))
        file.flush()

    @property
    def size(self) -> int:
        """The bytes of all entries."""
        return self._answers.size + self._contexts.size

    def part(self) -> IndexPart:
        """Returns the entries of an index with `is_part`."""
        return IndexPart(self._answers.entries(), self._contexts.entries(), self._reasons)

    def merge(self, part: IndexPart) -> None:
        """Adds the index of the next part of the file."""
        numbers = [self._number_of(reason) for reason in part.reasons]
        for at in range(0, len(part.answers), HASH_BYTES + _PART_ANSWER.size):
            status, reason = _PART_ANSWER.unpack_from(part.answers, at + HASH_BYTES)
            answer = self._answer.pack(status, numbers[reason])
            self._answers.add(part.answers[at : at + HASH_BYTES], answer)
        self._contexts.add_entries(part.contexts)

    def write_out(self) -> Index:
        """Writes the index to the file."""
        return Index(self._answers.move_all(), self._contexts.move_all(), self._reasons)

    def add_record(self, raw: bytes) -> None:
        """Adds a record if it is an exchange."""
        if not may_be_exchange(raw):
            return
        event = decode(raw)
        if isinstance(event, Event) and (found := answer_of(event)):
            exchange_id, answer = found
            self.add(propagation.exchange_digest(exchange_id), answer)
            if b"traceparent" in raw and (request := event.properties.request_to_destination):
                for message_id, traceparent in traceparents(request.body).items():
                    if context := propagation.parse_traceparent(traceparent):
                        self._has_contexts = True
                        self._contexts.add(_context_digest(exchange_id, message_id), _CONTEXT.pack(*context))

    def context_of(self, event: Event | BadRecord, reference_ns: int) -> KeptContext:
        """Returns the context of an event, which is kept with it; events with equal contexts share it."""
        exchange_id, message_id = _ids(event)
        answer = self._answer_of(exchange_id)
        if self._has_contexts and (traceparent := self._traceparent_of(exchange_id, message_id)):
            return KeptContext(reference_ns, answer, traceparent)
        context = self._shared_contexts.get(answer)
        if context is None or context.reference_ns != reference_ns:
            if len(self._shared_contexts) >= _MAX_ANSWERS:
                self._shared_contexts.clear()
            context = self._shared_contexts[answer] = KeptContext(reference_ns, answer)
        return context

    def add(self, digest: bytes, answer: ExchangeAnswer) -> None:
        """Adds the answer of the exchange with this digest (32 bytes)."""
        self._answers.add(digest, self._answer.pack(answer.status or 0, self._number_of(answer.reason)))

    def find(self, digest: bytes) -> ExchangeAnswer | None:
        """Returns the answer of the exchange with this digest; None if it is not in the file."""
        found = self._answers.find(digest)
        if found is None:
            return None
        answer = self._shared_answers.get(found)
        if answer is None:
            if len(self._shared_answers) >= _MAX_ANSWERS:
                self._shared_answers.clear()
            status, reason = self._answer.unpack(found)
            answer = self._shared_answers[found] = ExchangeAnswer(status or None, self._reasons[reason])
        return answer

    def close(self) -> None:
        """Removes the temporary files, if there are any."""
        self._answers.close()
        self._contexts.close()

    def _answer_of(self, exchange_id: str | None) -> ExchangeAnswer | None:
        if exchange_id is None:
            return None
        if exchange_id != self._last_exchange:  # attempts of one exchange are mostly adjacent
            self._last_answer = self.find(propagation.exchange_digest(exchange_id)) if exchange_id else None
            self._last_exchange = exchange_id
        return self._last_answer

    def _traceparent_of(self, exchange_id: str | None, message_id: str | None) -> str | None:
        if exchange_id is None or message_id is None:
            return None
        found = self._contexts.find(_context_digest(exchange_id, message_id))
        if found is None:
            return None
        trace_id, span_id, flags = _CONTEXT.unpack(found)
        return f"00-{trace_id.hex()}-{span_id.hex()}-{flags:02x}"

    def _number_of(self, reason: Reason | None) -> int:
        if reason is None:
            return 0
        number = self._reason_numbers.get(reason)
        if number is None:
            size = len(reason.text.encode()) + len(reason.code or "")
            if self._reason_bytes + size > self._max_reason_bytes or len(self._reasons) > self._max_reasons:
                return 0
            self._reason_bytes += size
            number = self._reason_numbers[reason] = len(self._reasons)
            self._reasons.append(reason)
        return number


def _read_footer(descriptor: int) -> _Footer:
    """Returns the footer of an intact index. Raises UnusableIndex, OSError."""
    end = os.fstat(descriptor).st_size - _END.size
    found = os.pread(descriptor, _END.size, max(0, end))
    if end < 0 or len(found) < _END.size:
        raise UnusableIndex("is truncated")
    length, version, checksum = _END.unpack(found)
    if version != _FORMAT:
        raise UnusableIndex("is damaged, or another version wrote it")
    if length > end or _checksum(descriptor, end) != checksum:
        raise UnusableIndex("is damaged: its checksum differs")
    try:
        footer = zlib.decompress(os.pread(descriptor, length, end - length))
        return msgspec.msgpack.decode(footer, type=_Footer)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise UnusableIndex(f"is damaged: {error}") from None


def _checksum(descriptor: int, end: int) -> bytes:
    """Returns the SHA-256 of the first bytes of a file. Raises OSError."""
    found, at = hashlib.sha256(), 0
    while piece := os.pread(descriptor, min(_READ_BYTES, end - at), at):
        found.update(piece)
        at += len(piece)
    return found.digest()


def _ids(event: Event | BadRecord) -> tuple[str | None, str | None]:
    """Returns the ids of an attempt's exchange and message."""
    if isinstance(event, Event):
        return exchange_of(event.properties), event.properties.message_id
    exchange, message = (pattern.search(event.raw) for pattern in (_EXCHANGE_ID, _MESSAGE_ID))
    return _text(exchange), _text(message)


def _text(found: "re.Match[bytes] | None") -> str | None:
    return found[1].decode(errors="replace") if found else None


def _context_digest(exchange_id: str, message_id: str) -> bytes:
    return propagation.digest("context", exchange_id, message_id)
