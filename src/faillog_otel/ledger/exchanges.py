"""What the exchanges of one file tell about its attempts: what was answered, and whose message it was.

An attempt may stand before its exchange in the file, so a first pass learns all exchanges here and a second
one asks. 11 bytes of memory an exchange, 32 a message whose context a request names.
"""

import re
import struct
from typing import BinaryIO, Self

from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.events.contexts import traceparents
from faillog_otel.events.decode import answer_of, decode, may_be_exchange
from faillog_otel.events.entry import Learned
from faillog_otel.events.model import Answer, AttemptProperties, BadRecord, Event, Reason
from faillog_otel.ledger.lookup import HASH_BYTES, MEMORY_BYTES, Lookup

LARGEST_REASONS_BYTES = 4 * 1024 * 1024
"""Distinct reasons beyond this are not remembered: their attempts say the status alone."""
_MOST_REASONS = 2**16 - 1
"""The same."""
_NO_BOUND = 2**62

_MOST_ANSWERS = 1024
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
        self._most_reason_bytes = _NO_BOUND if is_lesson else LARGEST_REASONS_BYTES
        self._most_reasons = _NO_BOUND if is_lesson else _MOST_REASONS
        self._answers = Lookup(self._answer.size, memory_bytes, file)
        self._contexts = Lookup(_CONTEXT.size, memory_bytes, file)
        self._names_contexts = False
        self._reasons: list[Reason | None] = [None]
        self._reason_numbers: dict[Reason, int] = {}
        self._reason_bytes = 0
        self._asked: str | None = None
        self._told: Answer | None = None
        self._learned: dict[Answer | None, Learned] = {}
        self._answered: dict[bytes, Answer] = {}

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

    def learned_by(self, event: Event | BadRecord, reference_ns: int) -> Learned:
        """All that an event learns from its file, to be kept with it; events that learn the same share it."""
        exchange_id, message_id = _ids(event)
        answer = self._answer_of(exchange_id)
        if self._names_contexts and (traceparent := self._traceparent_of(exchange_id, message_id)):
            return Learned(reference_ns, answer, traceparent)
        learned = self._learned.get(answer)
        if learned is None or learned.reference_ns != reference_ns:
            if len(self._learned) >= _MOST_ANSWERS:
                self._learned.clear()
            learned = self._learned[answer] = Learned(reference_ns, answer)
        return learned

    def add(self, digest: bytes, answer: Answer) -> None:
        """Remembers what the exchange with this hash (32 bytes) said."""
        self._answers.add(digest, self._answer.pack(answer.status or 0, self._number_of(answer.reason)))

    def find(self, digest: bytes) -> Answer | None:
        """What the exchange with this hash said; None when it is not in the file."""
        found = self._answers.find(digest)
        if found is None:
            return None
        answer = self._answered.get(found)
        if answer is None:
            if len(self._answered) >= _MOST_ANSWERS:
                self._answered.clear()
            status, reason = self._answer.unpack(found)
            answer = self._answered[found] = Answer(status or None, self._reasons[reason])
        return answer

    def close(self) -> None:
        """Removes the temporary files, where there are some."""
        self._answers.close()
        self._contexts.close()

    def _answer_of(self, exchange_id: str | None) -> Answer | None:
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
            if self._reason_bytes + size > self._most_reason_bytes or len(self._reasons) > self._most_reasons:
                return 0
            self._reason_bytes += size
            number = self._reason_numbers[reason] = len(self._reasons)
            self._reasons.append(reason)
        return number


def _ids(event: Event | BadRecord) -> tuple[str | None, str | None]:
    """An attempt's exchange and message."""
    if isinstance(event, Event):
        attempt = event.properties
        if isinstance(attempt, AttemptProperties):
            return attempt.destination_exchange_id, attempt.message_id
        return None, None
    exchange, message = (pattern.search(event.raw) for pattern in (_EXCHANGE_ID, _MESSAGE_ID))
    return _text(exchange), _text(message)


def _text(found: "re.Match[bytes] | None") -> str | None:
    return found[1].decode(errors="replace") if found else None


def _context_digest(exchange_id: str, message_id: str) -> bytes:
    return propagation.digest("context", exchange_id, message_id)
