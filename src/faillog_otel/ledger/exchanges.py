"""What the exchanges of one file said, found by their hash: at most 24 bytes of memory an exchange.

An attempt may stand before its exchange in the file, so a first pass adds all exchanges here and a second
one asks. Entries lie in buckets by the first bits of their hash, each bucket one string of bytes; past
32 MiB all buckets move into a temporary file and are looked up there.
"""

import re
import struct
import tempfile
from array import array
from collections.abc import Sequence
from typing import BinaryIO

from faillog_otel import propagation
from faillog_otel.events.decode import answer_of, decode, may_be_exchange
from faillog_otel.events.model import Answer, AttemptProperties, BadRecord, Event, Reason

MEMORY_BYTES = 32 * 1024 * 1024
LARGEST_REASONS_BYTES = 4 * 1024 * 1024
"""Distinct reasons beyond this are not remembered: their attempts say the status alone."""

_EXCHANGE_ID = re.compile(rb'"destinationExchangeId"\s*+:\s*+"([^"\\]+)"')
_BUCKETS = 4096
_HASH_BYTES = 12
_VALUE = struct.Struct("<HI")  # status (0: none), number of the reason (0: none)
_ENTRY_BYTES = _HASH_BYTES + _VALUE.size


class Exchanges:
    """Exchange hash → Answer. Of several exchanges with one id the first counts."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._buckets = [bytearray() for _ in range(_BUCKETS)]
        self._held = 0
        self._moved: list[array[int]] = []  # where each bucket starts, of each time they were moved
        self._file: BinaryIO | None = None
        self._reasons: list[Reason | None] = [None]
        self._reason_numbers: dict[Reason, int] = {}
        self._reason_bytes = 0

    def learn(self, raw: bytes) -> None:
        """Remembers what this record says, where it is an exchange."""
        if not may_be_exchange(raw):
            return
        event = decode(raw)
        if isinstance(event, Event) and (found := answer_of(event)):
            exchange_id, answer = found
            self.add(propagation.exchange_digest(exchange_id), answer)

    def answer_to(self, event: Event | BadRecord) -> Answer | None:
        """What its exchange said to an attempt; also to one that is not understood and may be mended."""
        if isinstance(event, BadRecord):
            found = _EXCHANGE_ID.search(event.raw)
            exchange_id = found[1].decode(errors="replace") if found else None
        else:
            attempt = event.properties if isinstance(event.properties, AttemptProperties) else None
            exchange_id = attempt.destination_exchange_id if attempt else None
        return self.find(propagation.exchange_digest(exchange_id)) if exchange_id else None

    def add(self, digest: bytes, answer: Answer) -> None:
        """Remembers what the exchange with this hash (32 bytes) said."""
        value = _VALUE.pack(answer.status or 0, self._number_of(answer.reason))
        self._buckets[_bucket_of(digest)] += digest[:_HASH_BYTES] + value
        self._held += _ENTRY_BYTES
        if self._held >= self._memory_bytes:
            self._move()

    def find(self, digest: bytes) -> Answer | None:
        """What the exchange with this hash said; None when it is not in the file."""
        key, number = digest[:_HASH_BYTES], _bucket_of(digest)
        for starts in self._moved:
            if found := _search(self._read(starts, number), key):
                return self._answer(found)
        found = _search(self._buckets[number], key)
        return self._answer(found) if found else None

    def close(self) -> None:
        """Removes the temporary file, where there is one."""
        if self._file:
            self._file.close()

    def _number_of(self, reason: Reason | None) -> int:
        if reason is None:
            return 0
        number = self._reason_numbers.get(reason)
        if number is None:
            size = len(reason.text.encode()) + len(reason.code or "")
            if self._reason_bytes + size > LARGEST_REASONS_BYTES:
                return 0
            self._reason_bytes += size
            number = self._reason_numbers[reason] = len(self._reasons)
            self._reasons.append(reason)
        return number

    def _answer(self, value: Sequence[int]) -> Answer:
        status, reason = value
        return Answer(status or None, self._reasons[reason])

    def _move(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="faillog-")  # noqa: SIM115  # until close()
        at = self._file.seek(0, 2)
        starts = array("Q", [at])
        for bucket in self._buckets:
            self._file.write(bucket)
            at += len(bucket)
            starts.append(at)
            bucket.clear()
        self._moved.append(starts)
        self._held = 0

    def _read(self, starts: "array[int]", number: int) -> bytes:
        if self._file is None:
            return b""
        self._file.seek(starts[number])
        return self._file.read(starts[number + 1] - starts[number])


def _bucket_of(digest: bytes) -> int:
    return int.from_bytes(digest[:2], "big") >> 4


def _search(bucket: bytes | bytearray, key: bytes) -> tuple[int, ...] | None:
    at = bucket.find(key)
    while at % _ENTRY_BYTES and at >= 0:  # found across two entries: not this one
        at = bucket.find(key, at + 1)
    return _VALUE.unpack_from(bucket, at + _HASH_BYTES) if at >= 0 else None
