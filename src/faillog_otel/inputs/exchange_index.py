"""What the exchanges of one file tell about its attempts: what was answered, and whose message it was.

An attempt may stand before its exchange in the file, so a first pass learns all exchanges here and a second
one asks. 11 bytes of memory an exchange, 32 a message whose context a request names.
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

# -- lookup --------------------------------------------------------------------------------------------------
#
# Hash → a value of a fixed size, for as many as a file may have: bounded memory, then a temporary file.
#
# Entries are appended as they come, and put in order when the first one is asked for: into buckets by the
# first bits of their hash, one behind the other in one string of bytes. There they are without the first byte
# of the hash, which the bucket tells. Past the bound they move, in this order, into a temporary file and are
# looked up there.


MEMORY_BYTES = 32 * 1024 * 1024
HASH_BYTES = 8
"""Of ten million entries, two have the same ones with a probability of one in 370,000."""
_BUCKETS = 4096
_TO_PUT_IN_ORDER = 2.5
"""So many times the bytes of entries are held while these are put in order."""


class _Table(Struct, frozen=True, gc=False):
    """Buckets in their order: where each starts in the file, or in what memory holds of it."""

    starts: "array[int]"
    held: bytes | bytearray | None = None

    def bucket(self, number: int, file: BinaryIO | None) -> bytes | bytearray:
        """By its position, also in the file: several processes may look into one."""
        start, end = self.starts[number], self.starts[number + 1]
        if self.held is not None:
            return self.held[start - self.starts[0] : end - self.starts[0]]
        return os.pread(file.fileno(), end - start, start) if file else b""


class Lookup:
    """The first `HASH_BYTES` of a hash → `value_bytes` bytes. What was added first under a hash counts.

    All is added before anything is asked for.
    """

    def __init__(
        self, value_bytes: int, memory_bytes: int = MEMORY_BYTES, file: BinaryIO | None = None
    ) -> None:
        """`file` is where entries are moved to, behind what is there; a temporary one by default."""
        self._entry_bytes = HASH_BYTES + value_bytes
        self._ordered_bytes = self._entry_bytes - 1
        self._memory_bytes = memory_bytes
        self._file = file
        self._tables: list[_Table] = []  # the oldest one first
        self._added = bytearray()  # what came then, as it came
        self._is_asked = False

    def add(self, digest: bytes, value: bytes) -> None:
        """Remembers the value.

        Raises InputError when there is no room for the temporary file, ValueError once it was asked.
        """
        self.add_entries(digest[:HASH_BYTES] + value)

    def add_entries(self, entries: bytes) -> None:
        """Remembers what another lookup's `entries()` gave. Raises like `add`."""
        if self._is_asked:
            raise ValueError("it was asked already")
        self._added += entries
        if _TO_PUT_IN_ORDER * len(self._added) >= self._memory_bytes:
            self._move()

    def find(self, digest: bytes) -> bytes | None:
        """The value that was added first under this hash; None when there is none."""
        if not self._is_asked:
            self._is_asked = True
            if self._added:
                self._tables.append(self._in_order())
        key, number = digest[1:HASH_BYTES], _bucket(digest[0], digest[1])
        for table in self._tables:
            bucket = table.bucket(number, self._file)
            at = bucket.find(key)
            while at % self._ordered_bytes and at >= 0:  # found across two entries: not this one
                at = bucket.find(key, at + 1)
            if at >= 0:
                return bytes(bucket[at + len(key) : at + self._ordered_bytes])
        return None

    def entries(self) -> bytes:
        """What memory holds until something is asked for, as it came: hash and value, one after the other."""
        return bytes(self._added)

    def move_all(self) -> list[bytes]:
        """Moves what memory holds to the file, too; returns where all of it is there, for `look_into`.

        Raises InputError when there is no room, ValueError once it was asked.
        """
        if self._is_asked:
            raise ValueError("it was asked already")
        if self._added:
            self._move()
        return [table.starts.tobytes() for table in self._tables]

    def look_into(self, file: BinaryIO, tables: Sequence[bytes]) -> None:
        """Finds what another lookup moved to this file; reads it into memory at once, where that holds it."""
        self._file = file
        self._is_asked = True
        self._tables = [_Table(array("Q", table)) for table in tables]
        sizes = [table.starts[-1] - table.starts[0] for table in self._tables]
        if sum(sizes) <= self._memory_bytes:
            self._tables = [
                _Table(table.starts, os.pread(file.fileno(), size, table.starts[0]))
                for table, size in zip(self._tables, sizes, strict=True)
            ]

    def close(self) -> None:
        """Removes the temporary file, where there is one."""
        if self._file:
            with suppress(OSError):  # what it did not hold is of no use any more
                self._file.close()

    def _in_order(self) -> _Table:
        """What was added, as a table; the next one starts empty."""
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
        table = self._in_order()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="faillog-")  # noqa: SIM115  # until close()
            at = self._file.seek(0, 2)
            self._file.write(table.held or b"")
            self._file.flush()
        except OSError as error:
            where = f"in {tempfile.tempdir}" if tempfile.tempdir else "anywhere"
            raise InputError(f"a temporary file {where} cannot be written: {error.strerror}") from None
        self._tables.append(_Table(array("Q", (at + start for start in table.starts))))


def _bucket(first: int, second: int) -> int:
    """Which one it is by the first two bytes of a hash."""
    return first << 4 | second >> 4


# -- exchanges -----------------------------------------------------------------------------------------------


MAX_REASONS_BYTES = 4 * 1024 * 1024
"""Distinct reasons beyond this are not remembered: their attempts say the status alone."""
_MAX_REASONS = 2**16 - 1
"""The same."""
_NO_BOUND = 2**62

_MAX_ANSWERS = 1024
"""So many distinct ones are shared by the events that learn them."""

_EXCHANGE_ID = re.compile(rb'"destinationExchangeId"\s*+:\s*+"([^"\\]+)"')
_MESSAGE_ID = re.compile(rb'"messageId"\s*+:\s*+"([^"\\]+)"')
_ANSWER = struct.Struct("<HH")  # status (0: none), number of the reason (0: none)
_LESSON = struct.Struct("<HI")  # the same, where all reasons are remembered
_CONTEXT = struct.Struct("16s8sB")  # trace id, span id, flags


class Lessons(Struct, frozen=True):
    """What was learned from a part of a file: entries of lookups, and the reasons that they number."""

    answers: bytes
    contexts: bytes
    reasons: list[Reason | None]


class Index(Struct, frozen=True):
    """All that was learned from a file, where it stands in another file: tables of lookups, and reasons."""

    answers: list[bytes]
    contexts: list[bytes]
    reasons: list[Reason | None]


class Exchanges:
    """Exchange → Answer; exchange and message → traceparent. Of several with one id the first counts."""

    def __init__(
        self,
        memory_bytes: int = MEMORY_BYTES,
        *,
        is_lesson: bool = False,
        file: BinaryIO | None = None,
    ) -> None:
        """`file`: where what memory does not hold is kept; temporary ones by default.

        `is_lesson`: it is for `lessons()`, and has no bounds: they are kept where all lessons come together.
        """
        memory_bytes = _NO_BOUND if is_lesson else memory_bytes
        self._answer = _LESSON if is_lesson else _ANSWER
        self._max_reason_bytes = _NO_BOUND if is_lesson else MAX_REASONS_BYTES
        self._max_reasons = _NO_BOUND if is_lesson else _MAX_REASONS
        self._answers = Lookup(self._answer.size, memory_bytes, file)
        self._contexts = Lookup(_CONTEXT.size, memory_bytes, file)
        self._names_contexts = False
        self._reasons: list[Reason | None] = [None]
        self._reason_numbers: dict[Reason, int] = {}
        self._reason_bytes = 0
        self._asked: str | None = None
        self._told: ExchangeAnswer | None = None
        self._learned: dict[ExchangeAnswer | None, KeptContext] = {}
        self._answered: dict[bytes, ExchangeAnswer] = {}

    @classmethod
    def of(cls, index: Index, file: BinaryIO, memory_bytes: int = MEMORY_BYTES) -> Self:
        """What another process learned and wrote out to the file, to be asked here. Closes the file."""
        found = cls(memory_bytes, file=file)
        found._answers.look_into(file, index.answers)
        found._contexts.look_into(file, index.contexts)
        found._names_contexts = bool(index.contexts)
        found._reasons = index.reasons
        return found

    def lessons(self) -> Lessons:
        """All that was learned here, by one that `is_lesson`."""
        return Lessons(self._answers.entries(), self._contexts.entries(), self._reasons)

    def take(self, lessons: Lessons) -> None:
        """Learns what was learned elsewhere, from the part of the file that follows."""
        numbers = [self._number_of(reason) for reason in lessons.reasons]
        for at in range(0, len(lessons.answers), HASH_BYTES + _LESSON.size):
            status, reason = _LESSON.unpack_from(lessons.answers, at + HASH_BYTES)
            answer = self._answer.pack(status, numbers[reason])
            self._answers.add(lessons.answers[at : at + HASH_BYTES], answer)
        self._contexts.add_entries(lessons.contexts)

    def written_out(self) -> Index:
        """All that was learned, written out to the file."""
        return Index(self._answers.move_all(), self._contexts.move_all(), self._reasons)

    def learn(self, raw: bytes) -> None:
        """Remembers what this record says, where it is an exchange."""
        if not may_be_exchange(raw):
            return
        event = decode(raw)
        if isinstance(event, Event) and (found := answer_of(event)):
            exchange_id, answer = found
            self.add(propagation.exchange_digest(exchange_id), answer)
            if b"traceparent" in raw and (request := event.properties.request_to_destination):
                for message_id, traceparent in traceparents(request.body).items():
                    if context := propagation.parse_traceparent(traceparent):
                        self._names_contexts = True
                        self._contexts.add(_context_digest(exchange_id, message_id), _CONTEXT.pack(*context))

    def learned_by(self, event: Event | BadRecord, reference_ns: int) -> KeptContext:
        """All that an event learns from its file, to be kept with it; events that learn the same share it."""
        exchange_id, message_id = _ids(event)
        answer = self._answer_of(exchange_id)
        if self._names_contexts and (traceparent := self._traceparent_of(exchange_id, message_id)):
            return KeptContext(reference_ns, answer, traceparent)
        learned = self._learned.get(answer)
        if learned is None or learned.reference_ns != reference_ns:
            if len(self._learned) >= _MAX_ANSWERS:
                self._learned.clear()
            learned = self._learned[answer] = KeptContext(reference_ns, answer)
        return learned

    def add(self, digest: bytes, answer: ExchangeAnswer) -> None:
        """Remembers what the exchange with this hash (32 bytes) said."""
        self._answers.add(digest, self._answer.pack(answer.status or 0, self._number_of(answer.reason)))

    def find(self, digest: bytes) -> ExchangeAnswer | None:
        """What the exchange with this hash said; None when it is not in the file."""
        found = self._answers.find(digest)
        if found is None:
            return None
        answer = self._answered.get(found)
        if answer is None:
            if len(self._answered) >= _MAX_ANSWERS:
                self._answered.clear()
            status, reason = self._answer.unpack(found)
            answer = self._answered[found] = ExchangeAnswer(status or None, self._reasons[reason])
        return answer

    def close(self) -> None:
        """Removes the temporary files, where there are some."""
        self._answers.close()
        self._contexts.close()

    def _answer_of(self, exchange_id: str | None) -> ExchangeAnswer | None:
        if exchange_id is None:
            return None
        if exchange_id != self._asked:  # the attempts of one exchange mostly stand together
            self._told = self.find(propagation.exchange_digest(exchange_id)) if exchange_id else None
            self._asked = exchange_id
        return self._told

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
    """An attempt's exchange and message."""
    if isinstance(event, Event):
        return exchange_of(event.properties), event.properties.message_id
    exchange, message = (pattern.search(event.raw) for pattern in (_EXCHANGE_ID, _MESSAGE_ID))
    return _text(exchange), _text(message)


def _text(found: "re.Match[bytes] | None") -> str | None:
    return found[1].decode(errors="replace") if found else None


def _context_digest(exchange_id: str, message_id: str) -> bytes:
    return propagation.digest("context", exchange_id, message_id)
