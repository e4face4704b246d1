"""An index of one file's exchanges: the answers, and the trace contexts in request bodies.

An attempt can precede its exchange in the file, so a first pass builds the index and a second one reads it.
It takes 11 bytes of memory for each exchange, and 32 for each message with a context; beyond a limit it moves
to a temporary file.
"""

import os
import re
import struct
import tempfile
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from typing import BinaryIO, Self

from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.errors import InputError
from faillog_otel.events.decode import answer_of, decode, may_be_exchange
from faillog_otel.events.kept_record import KeptContext, traceparents
from faillog_otel.events.model import BadRecord, Event, ExchangeAnswer, Reason, exchange_of

# -- hash table ----------------------------------------------------------------------------------------------

MEMORY_BYTES = 32 * 1024 * 1024
HASH_BYTES = 8
"""The probability of a collision among ten million entries is one in 370,000."""
_BUCKETS = 4096
_SORT_FACTOR = 2.5
"""Memory while entries are sorted into buckets, as a multiple of their bytes."""


class _Table(Struct, frozen=True, gc=False):
    """Buckets in order: their start offsets in the file, and their bytes if they are in memory."""

    starts: "array[int]"
    held: bytes | bytearray | None = None

    def bucket(self, number: int, file: BinaryIO | None) -> bytes | bytearray:
        """Returns a bucket; reads the file by position, so several processes can share it."""
        start, end = self.starts[number], self.starts[number + 1]
        if self.held is not None:
            return self.held[start - self.starts[0] : end - self.starts[0]]
        return os.pread(file.fileno(), end - start, start) if file else b""


class HashTable:
    """Maps the first `HASH_BYTES` of a hash to `value_bytes` bytes; the first value of a hash counts.

    The first `find` freezes it: the entries are sorted into buckets by the first bits of their hash, in one
    string of bytes, without the first byte of the hash, which the bucket implies. Beyond `memory_bytes`,
    buckets move to a temporary file.
    """

    def __init__(
        self, value_bytes: int, memory_bytes: int = MEMORY_BYTES, file: BinaryIO | None = None
    ) -> None:
        """`file`: entries are appended to it; by default a temporary file."""
        self._entry_bytes = HASH_BYTES + value_bytes
        self._ordered_bytes = self._entry_bytes - 1
        self._memory_bytes = memory_bytes
        self._file = file
        self._tables: list[_Table] = []  # the oldest one first
        self._added = bytearray()  # unsorted entries
        self._is_frozen = False

    def add(self, digest: bytes, value: bytes) -> None:
        """Adds a value. Raises InputError if the temporary file is not writable, ValueError once frozen."""
        self.add_entries(digest[:HASH_BYTES] + value)

    def add_entries(self, entries: bytes) -> None:
        """Adds the `entries()` of another table. Raises like `add`."""
        if self._is_frozen:
            raise ValueError("the index is frozen")
        self._added += entries
        if _SORT_FACTOR * len(self._added) >= self._memory_bytes:
            self._move()

    def find(self, digest: bytes) -> bytes | None:
        """Returns the first value of this hash; None if there is none."""
        if not self._is_frozen:
            self._is_frozen = True
            if self._added:
                self._tables.append(self._sorted_into_buckets())
        key, number = digest[1:HASH_BYTES], _bucket(digest[0], digest[1])
        for table in self._tables:
            bucket = table.bucket(number, self._file)
            at = bucket.find(key)
            while at % self._ordered_bytes and at >= 0:  # a match across two entries
                at = bucket.find(key, at + 1)
            if at >= 0:
                return bytes(bucket[at + len(key) : at + self._ordered_bytes])
        return None

    def entries(self) -> bytes:
        """Returns the unsorted entries in memory: hash and value, one after the other."""
        return bytes(self._added)

    def move_all(self) -> list[bytes]:
        """Moves all entries to the file; returns their offsets for `open_tables`. Raises like `add`."""
        if self._is_frozen:
            raise ValueError("the index is frozen")
        if self._added:
            self._move()
        return [table.starts.tobytes() for table in self._tables]

    def open_tables(self, file: BinaryIO, tables: Sequence[bytes]) -> None:
        """Reads what another table moved to this file; loads it if it fits into the memory."""
        self._file = file
        self._is_frozen = True
        self._tables = [_Table(array("Q", table)) for table in tables]
        sizes = [table.starts[-1] - table.starts[0] for table in self._tables]
        if sum(sizes) <= self._memory_bytes:
            self._tables = [
                _Table(table.starts, os.pread(file.fileno(), size, table.starts[0]))
                for table, size in zip(self._tables, sizes, strict=True)
            ]

    def close(self) -> None:
        """Removes the temporary file, if there is one."""
        if self._file:
            with suppress(OSError):  # a failed flush: its content is no longer needed
                self._file.close()

    def _sorted_into_buckets(self) -> _Table:
        """Returns the added entries as a table, and starts a new one."""
        added, size, ordered_size = self._added, self._entry_bytes, self._ordered_bytes
        buckets = array("H", map(_bucket, added[::size], added[1::size]))
        counts = Counter(buckets)
        starts = array("Q", accumulate((counts[n] * ordered_size for n in range(_BUCKETS)), initial=0))
        ordered, places = bytearray(starts[-1]), starts[:]
        for at, number in zip(range(1, len(added), size), buckets, strict=True):
            place = places[number]
            ordered[place : place + ordered_size] = added[at : at + ordered_size]
            places[number] = place + ordered_size
        self._added = bytearray()
        return _Table(starts, ordered)

    def _move(self) -> None:
        table = self._sorted_into_buckets()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="faillog-")  # noqa: SIM115  # until close()
            at = self._file.seek(0, 2)
            self._file.write(table.held or b"")
            self._file.flush()
        except OSError as error:
            where = f" in {tempfile.tempdir}" if tempfile.tempdir else ""
            remedy = "make space, or name another folder in TMPDIR"
            raise InputError(
                f"a temporary file{where} cannot be written: {error.strerror}; {remedy}"
            ) from None
        self._tables.append(_Table(array("Q", (at + start for start in table.starts))))


def _bucket(first: int, second: int) -> int:
    """Returns the number of a bucket from the first two bytes of a hash."""
    return first << 4 | second >> 4


# -- index ---------------------------------------------------------------------------------------------------

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


class ExchangeIndex:
    """Maps an exchange to its answer, an exchange with a message to a traceparent; the first one counts."""

    def __init__(
        self,
        memory_bytes: int = MEMORY_BYTES,
        *,
        is_part: bool = False,
        file: BinaryIO | None = None,
    ) -> None:
        """`file`: takes entries beyond the memory; by default temporary files.

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
