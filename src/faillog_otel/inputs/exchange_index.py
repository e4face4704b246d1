"""An index of exchanges: their answers, their numbers of attempts, and the trace contexts in request bodies.

An attempt can precede its exchange, also in another file, so a first pass builds the index and a second one
reads it. The index takes 24 bytes for each exchange, and 32 for each message with a context. It can be saved
in a file, and indexes can be joined: the first answer of an exchange counts.
"""

import hashlib
import os
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO, Self

import msgspec
from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.events.decode import answer_of, decode, read_heads
from faillog_otel.events.kept_record import KeptContext, traceparents
from faillog_otel.events.model import (
    ATTEMPT,
    EXCHANGE,
    BadRecord,
    Event,
    ExchangeAnswer,
    Form,
    Reason,
    Routing,
    exchange_of,
)
from faillog_otel.files import ChecksummedFile
from faillog_otel.hash_table import MEMORY_BYTES, HashTable, Store, Table
from faillog_otel.inputs.formats import read_groups
from faillog_otel.inputs.json_stream import FROM_THE_START, Group, ReadPosition, Record

MAX_REASONS_BYTES = 4 * 1024 * 1024
"""Further distinct reasons are dropped: their attempts have only the status."""
_REASON_BYTES = 64
"""What a reason counts besides its text: so there are at most 65,536."""
_UNBOUNDED = 2**62

_MAX_SHARED = 1024
"""Distinct answers and contexts that events share."""

_EXCHANGE_ID = re.compile(rb'"destinationExchangeId"\s*+:\s*+"([^"\\]+)"')
_MESSAGE_ID = re.compile(rb'"messageId"\s*+:\s*+"([^"\\]+)"')
_ANSWER = struct.Struct("<H6s")  # status (0: none), key of the reason (zeros: none)
_ATTEMPTS = struct.Struct("<H")
_MAX_ATTEMPTS = 2**16 - 1
_CONTEXT = struct.Struct("16s8sB")  # trace id, span id, flags
_NO_REASON = bytes(6)


class IndexPart(Struct, frozen=True):
    """The index of a part of the input: entries of hash tables, and the reasons by their keys."""

    answers: bytes
    attempts: bytes
    contexts: bytes
    reasons: dict[bytes, Reason]


class Index(Struct, frozen=True):
    """An index for other processes: hash tables, in memory or in a file, and the reasons by their keys."""

    answers: list[Table]
    attempts: list[Table]
    contexts: list[Table]
    reasons: dict[bytes, Reason]


class UnusableIndex(Exception):
    """A saved index is missing, damaged, or of another version; the message says which."""


_FORMAT = f"exchange index 2, {sys.byteorder}\n".encode()
"""The version of saved indexes. Offsets and lengths are in this machine's byte order."""
_END = struct.Struct(f"=Q{len(_FORMAT)}s")
"""The end of a saved index: length of the compressed `Index`, version."""


class ExchangeIndex:
    """Maps an exchange to its answer and its number of attempts, and an exchange's message to a context."""

    def __init__(
        self,
        memory_bytes: int = MEMORY_BYTES,
        *,
        is_part: bool = False,
        file: BinaryIO | None = None,
    ) -> None:
        """`file`: takes entries beyond the memory; by default a temporary one. Its errors are OSErrors.

        `is_part`: unbounded, for `part()`; the limits apply to the index that merges the parts.
        """
        memory_bytes = _UNBOUNDED if is_part else memory_bytes
        self._max_reason_bytes = _UNBOUNDED if is_part else MAX_REASONS_BYTES
        self._store = Store(file)
        self._answers = HashTable(_ANSWER.size, memory_bytes // 2, self._store)
        self._attempts = HashTable(_ATTEMPTS.size, memory_bytes // 4, self._store)
        self._contexts = HashTable(_CONTEXT.size, memory_bytes // 4, self._store)
        self._has_contexts = False
        self.reasons: dict[bytes, Reason] = {}
        """By key."""
        self._reason_keys: dict[Reason, bytes] = {}
        self._reason_bytes = 0
        self._counted: str | None = None
        """The exchange of the last attempt, and how many attempts of it came one after the other."""
        self._count = 0
        self._last_exchange: str | None = None
        self._last_answer: ExchangeAnswer | None = None
        self.name_of: Callable[[Routing], str | None] | None = None
        """Returns the name of an event's destination; None: no names are known."""
        self._shared_contexts: dict[tuple[ExchangeAnswer | None, int | None, str | None], KeptContext] = {}
        self._shared_answers: dict[bytes, ExchangeAnswer] = {}

    @classmethod
    def of(cls, index: Index, file: BinaryIO | None, memory_bytes: int = MEMORY_BYTES) -> Self:
        """Returns the index of another process; takes over the file of that index."""
        found = cls(memory_bytes, file=file)
        found._answers.open_tables(index.answers)
        found._attempts.open_tables(index.attempts)
        found._contexts.open_tables(index.contexts)
        found._has_contexts = bool(index.contexts)
        found.reasons = index.reasons
        return found

    @classmethod
    def open(cls, file: BinaryIO, sha256: str, memory_bytes: int = MEMORY_BYTES) -> Self:
        """Returns the index that `save` wrote, whose file has this checksum.

        Takes over the file, and closes it if all entries fit into the memory. Raises UnusableIndex.
        """
        try:
            found = cls.of(_read_saved(file, sha256), file, memory_bytes)
        except OSError as error:
            raise UnusableIndex(f"cannot be read: {error.strerror}") from None
        if all(table.is_in_memory for table in found.tables):
            file.close()
        return found

    @classmethod
    def joined(cls, indexes: Sequence[Self], memory_bytes: int = MEMORY_BYTES) -> Self:
        """Returns an index with the entries of all of these, in their order; they can be closed then.

        Raises TemporaryFileError.
        """
        found = cls(memory_bytes)
        found._join(indexes)
        return found

    def _join(self, others: Sequence["ExchangeIndex"]) -> None:
        parts = [each.tables for each in others]
        for number, table in enumerate(self.tables):
            table.join([each[number] for each in parts])
        self._has_contexts = self._contexts.size > 0
        for each in others:
            for key, reason in each.reasons.items():
                self._add_reason(key, reason)

    @property
    def tables(self) -> tuple[HashTable, HashTable, HashTable]:
        """The answers, the numbers of attempts and the contexts of everything added so far."""
        self._end_count()
        return self._answers, self._attempts, self._contexts

    def save(self, file: ChecksummedFile) -> None:
        """Completes the file, which the index was made with. Raises OSError."""
        for table in self.tables:
            table.move_all()
        packed = zlib.compress(msgspec.msgpack.encode(self.shared()), 1)
        file.write(packed + _END.pack(len(packed), _FORMAT))
        file.flush()

    @property
    def file(self) -> BinaryIO | None:
        """The file with the entries beyond the memory, if there are any."""
        return self._store.file

    @property
    def size(self) -> int:
        """The bytes of all entries."""
        return self._answers.size + self._attempts.size + self._contexts.size

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return not any(table.size for table in self.tables)

    def part(self) -> IndexPart:
        """Returns the entries of an index with `is_part`."""
        answers, attempts, contexts = [table.entries() for table in self.tables]
        return IndexPart(answers, attempts, contexts, self.reasons)

    def merge(self, part: IndexPart) -> None:
        """Adds the index of the next part of the input."""
        self._answers.add_entries(part.answers)
        self._attempts.add_entries(part.attempts)
        self._contexts.add_entries(part.contexts)
        self._has_contexts = self._has_contexts or bool(part.contexts)
        for key, reason in part.reasons.items():
            self._add_reason(key, reason)

    def shared(self) -> Index:
        """Returns the index for other processes, which also need `file`."""
        answers, attempts, contexts = [table.tables() for table in self.tables]
        return Index(answers, attempts, contexts, self.reasons)

    # -- building --------------------------------------------------------------------------------------

    def add_content(self, form: Form, chunks: Iterable[bytes], start: ReadPosition = FROM_THE_START) -> None:
        """Adds the records of a content, or of the lines of one from `start` on."""
        for each in read_groups(form, chunks, start):
            if isinstance(each, Group):
                self.add_records(each.raws)
            elif isinstance(each, Record) and each.bad is None:
                self.add_records([each.raw])

    def add_records(self, raws: Sequence[bytes]) -> None:
        """Adds the exchanges and attempts among these records; decodes only the exchanges."""
        for raw, head in zip(raws, read_heads(raws), strict=True):
            if head is None or head.kind is EXCHANGE:
                self._add_closely(raw)
            elif head.kind is ATTEMPT:
                self._count_attempt(head.exchange_id)

    def _add_closely(self, raw: bytes) -> None:
        """Adds a record that is an exchange, or whose kind only `decode` can tell."""
        event = decode(raw)
        if not isinstance(event, Event):
            return
        if event.kind is ATTEMPT:
            self._count_attempt(event.properties.destination_exchange_id)
        elif found := answer_of(event):
            exchange_id, answer = found
            self.add(propagation.exchange_digest(exchange_id), answer)
            if b"traceparent" in raw and (request := event.properties.request_to_destination):
                for message_id, traceparent in traceparents(request.body).items():
                    if context := propagation.parse_traceparent(traceparent):
                        self._has_contexts = True
                        self._contexts.add(_context_digest(exchange_id, message_id), _CONTEXT.pack(*context))

    def _count_attempt(self, exchange_id: str | None) -> None:
        if exchange_id != self._counted or self._count == _MAX_ATTEMPTS:  # mostly adjacent
            self._end_count()
            self._counted = exchange_id
        self._count += exchange_id is not None

    def _end_count(self) -> None:
        if self._count and self._counted is not None:
            self._attempts.add(propagation.exchange_digest(self._counted), _ATTEMPTS.pack(self._count))
        self._counted, self._count = None, 0

    def add(self, digest: bytes, answer: ExchangeAnswer) -> None:
        """Adds the answer of the exchange with this digest (32 bytes)."""
        key = _NO_REASON if answer.reason is None else self._key_of(answer.reason)
        self._answers.add(digest, _ANSWER.pack(answer.status or 0, key))

    def _key_of(self, reason: Reason) -> bytes:
        key = self._reason_keys.get(reason)
        if key is None:
            key = hashlib.blake2b(msgspec.msgpack.encode(reason), digest_size=len(_NO_REASON)).digest()
            if self._add_reason(key, reason):
                self._reason_keys[reason] = key
        return key

    def _add_reason(self, key: bytes, reason: Reason) -> bool:
        """Returns whether there is room for it, or it is there already."""
        if key in self.reasons:
            return True
        size = _REASON_BYTES + len(reason.text.encode()) + len(reason.code or "")
        if self._reason_bytes + size > self._max_reason_bytes:
            return False
        self._reason_bytes += size
        self.reasons[key] = reason
        return True

    # -- reading ---------------------------------------------------------------------------------------

    def context_of(self, event: Event | BadRecord, reference_ns: int) -> KeptContext:
        """Returns the context of an event, which is kept with it; events with equal contexts share it."""
        exchange_id, message_id = _ids(event)
        answer, name = self._answer_of(exchange_id), None
        if self.name_of is not None and isinstance(event, Event):
            name = self.name_of(event.routing)
        if self._has_contexts and (traceparent := self._traceparent_of(exchange_id, message_id)):
            return KeptContext(reference_ns, answer, traceparent, destination_name=name)
        attempts = None if message_id is not None else self._attempts_of(event)
        context = self._shared_contexts.get((answer, attempts, name))
        if context is None or context.reference_ns != reference_ns:
            if len(self._shared_contexts) >= _MAX_SHARED:
                self._shared_contexts.clear()
            context = KeptContext(reference_ns, answer, message_count=attempts, destination_name=name)
            self._shared_contexts[answer, attempts, name] = context
        return context

    def find(self, digest: bytes) -> ExchangeAnswer | None:
        """Returns the answer of the exchange with this digest; None if it is not in the index."""
        found = self._answers.find(digest)
        if found is None:
            return None
        answer = self._shared_answers.get(found)
        if answer is None:
            if len(self._shared_answers) >= _MAX_SHARED:
                self._shared_answers.clear()
            status, key = _ANSWER.unpack(found)
            answer = self._shared_answers[found] = ExchangeAnswer(status or None, self.reasons.get(key))
        return answer

    def count(self, digest: bytes) -> int:
        """Returns the number of attempts of the exchange with this digest."""
        self._end_count()
        return sum(int.from_bytes(found, "little") for found in self._attempts.find_all(digest))

    def close(self) -> None:
        """Closes the file; a temporary one disappears."""
        self._store.close()

    def _answer_of(self, exchange_id: str | None) -> ExchangeAnswer | None:
        if exchange_id is None:
            return None
        if exchange_id != self._last_exchange:  # attempts of one exchange are mostly adjacent
            self._last_answer = self.find(propagation.exchange_digest(exchange_id)) if exchange_id else None
            self._last_exchange = exchange_id
        return self._last_answer

    def _attempts_of(self, event: Event | BadRecord) -> int | None:
        """Returns the number of attempts of an exchange, if there are any; None for other events."""
        if not isinstance(event, Event) or event.kind is not EXCHANGE:
            return None
        return self.count(propagation.exchange_digest(event.properties.destination_exchange_id)) or None

    def _traceparent_of(self, exchange_id: str | None, message_id: str | None) -> str | None:
        if exchange_id is None or message_id is None:
            return None
        found = self._contexts.find(_context_digest(exchange_id, message_id))
        if found is None:
            return None
        trace_id, span_id, flags = _CONTEXT.unpack(found)
        return f"00-{trace_id.hex()}-{span_id.hex()}-{flags:02x}"


def _read_saved(file: BinaryIO, sha256: str) -> Index:
    """Returns an intact index. Raises UnusableIndex, OSError."""
    descriptor = file.fileno()
    end = os.fstat(descriptor).st_size - _END.size
    found = os.pread(descriptor, _END.size, max(0, end))
    if end < 0 or len(found) < _END.size:
        raise UnusableIndex("is truncated")
    length, version = _END.unpack(found)
    file.seek(0)
    found_sha256 = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # BinaryIO lacks readinto
    if found_sha256.hexdigest() != sha256:
        raise UnusableIndex("is damaged: its checksum differs")
    if version != _FORMAT or length > end:
        raise UnusableIndex("was written by another version")
    try:
        packed = zlib.decompress(os.pread(descriptor, length, end - length))
        return msgspec.msgpack.decode(packed, type=Index)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise UnusableIndex(f"is damaged: {error}") from None


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
