"""The forwarder over PATHs: the one place that orders effects.

read → decode → map → send → count, batch by batch. A record is counted when it is read, and again in
exactly one of exported, rejected, quarantined and pending; what is not exported is kept first.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.config import DeliveryConfig
from faillog_otel.events.decode import answer_of, decode, may_be_exchange
from faillog_otel.events.lines import Line, split_lines
from faillog_otel.events.model import (
    AttemptProperties,
    BadRecord,
    Context,
    ErrorProperties,
    Event,
    ExchangeProperties,
    Place,
)
from faillog_otel.events.unpack import unpack
from faillog_otel.ledger.counts import Counts
from faillog_otel.ledger.exchanges import Exchanges
from faillog_otel.ledger.kept import KeptFile
from faillog_otel.otlp.delivery import Delivery, Rejection
from faillog_otel.otlp.encoding import Encoder, Item
from faillog_otel.segment.paths import InputFile

HELD_BYTES_PER_BATCH_BYTE = 4
"""A batch also holds its records' own bytes, to keep them if need be: this bounds both together."""

Progress = Callable[[int], object]
"""Told how many bytes of the input file were read since the last time."""


class _Entry(Struct, frozen=True):
    place: Place
    raw: bytes
    context: Context
    item: Item


class Forwarder:
    """Forwards files, one after the other, and keeps the counts of all of them."""

    def __init__(
        self,
        *,
        encoder: Encoder,
        delivery: Delivery,
        quarantine: KeptFile,
        pending: KeptFile,
        config: DeliveryConfig,
        reference_ns: int,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.counts = Counts()
        self._encoder = encoder
        self._delivery = delivery
        self._quarantine = quarantine
        self._pending = pending
        self._config = config
        self._reference_ns = reference_ns
        self._is_stopping = is_stopping
        self._batch: list[_Entry] = []
        self._largest_request = 0
        self._held_bytes = 0

    def forward(self, file: InputFile, progress: Progress) -> None:
        """Reads a file twice, first for what its exchanges say, and hands its records on.

        Raises InputError when the file cannot be read on; what was read until then is handed on.
        """
        exchanges = Exchanges()
        try:
            self._index(file, exchanges)
            for line in self._lines(file, progress):
                self._take(file.name, line, exchanges)
        finally:
            exchanges.close()

    def finish(self) -> None:
        """Sends what is left, and makes what was kept durable."""
        try:
            self._flush()
        finally:
            self._quarantine.close()
            self._pending.close()

    def _index(self, file: InputFile, exchanges: Exchanges) -> None:
        for line in split_lines(unpack(file.chunks())):
            if self._is_stopping():
                return
            if not may_be_exchange(line.raw):
                continue
            event = decode(line.raw)
            if isinstance(event, Event) and (found := answer_of(event)):
                exchange_id, answer = found
                exchanges.add(propagation.digest("segment.exchange", exchange_id), answer)

    def _lines(self, file: InputFile, progress: Progress) -> Iterator[Line]:
        told = 0
        for line in split_lines(self._counted(unpack(file.chunks()))):
            if self._is_stopping():
                return
            if file.bytes_read != told:
                progress(file.bytes_read - told)
                told = file.bytes_read
            yield line

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.counts.bytes_in += len(chunk)
            yield chunk

    def _take(self, file: str, line: Line, exchanges: Exchanges) -> None:
        counts = self.counts
        counts.lines += 1
        if not line.raw and not line.bad:
            counts.blank += 1
            return
        counts.records += 1
        place = Place(file, line.number, line.offset)
        event = line.bad or decode(line.raw)
        if isinstance(event, BadRecord):
            self._set_aside(event, place)
            return
        _count_event(event, counts)
        context = self._context(event, exchanges)
        self._add(_Entry(place, event.raw, context, self._encoder.encode(event, context)))

    def _context(self, event: Event, exchanges: Exchanges) -> Context:
        properties = event.properties
        if not isinstance(properties, AttemptProperties) or not properties.destination_exchange_id:
            return Context(self._reference_ns)
        digest = propagation.digest("segment.exchange", properties.destination_exchange_id)
        return Context(self._reference_ns, exchanges.find(digest))

    def _add(self, entry: _Entry) -> None:
        item, limit = entry.item, self._config.batch_bytes
        self._batch.append(entry)
        self._largest_request += max(len(item.log), len(item.span))
        self._held_bytes += len(entry.raw) + len(item.log) + len(item.span)
        if (
            len(self._batch) >= self._config.batch_records
            or self._largest_request >= limit
            or self._held_bytes >= limit * HELD_BYTES_PER_BATCH_BYTE
        ):
            self._flush()

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        self._largest_request = self._held_bytes = 0
        if not batch:
            return
        verdict = self._delivery.deliver([entry.item for entry in batch])
        for entry in batch:
            untaken = [signal for signal in verdict.pending if entry.item.record(signal)]
            rejections = [each for each in verdict.rejected if entry.item.record(each.signal)]
            if untaken:
                context = _to_json(entry.context) | {"signals": untaken}
                self._pending.keep("pending", verdict.why, entry.place, entry.raw, context=context)
                self.counts.pending += 1
            elif rejections:
                self._reject(entry, rejections)
            else:
                self.counts.exported += 1

    def _reject(self, entry: _Entry, rejections: list[Rejection]) -> None:
        detail = "; ".join(
            f"{each.rejected} of {each.records} {each.signal}: {each.message}" for each in rejections
        )
        context = _to_json(entry.context) | {"rejections": [_to_json(each) for each in rejections]}
        self._quarantine.keep("rejected", detail, entry.place, entry.raw, context=context)
        self.counts.rejected += 1

    def _set_aside(self, bad: BadRecord, place: Place) -> None:
        context = _to_json(Context(self._reference_ns))
        self._quarantine.keep(
            bad.reason, bad.detail, place, bad.raw, context=context, replayable=bad.replayable
        )
        self.counts.quarantined += 1


def _count_event(event: Event, counts: Counts) -> None:
    properties = event.properties
    if isinstance(properties, ErrorProperties):
        counts.events.error += 1
        counts.discarded += properties.discarded is True
    elif isinstance(properties, AttemptProperties):
        counts.events.attempt += 1
        counts.failures += properties.outcome == "failure"
    elif isinstance(properties, ExchangeProperties):
        counts.events.exchange += 1
    else:
        counts.events.other += 1


def _to_json(value: Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain
