"""The forwarder over PATHs: the one place that orders effects.

read → decode → map → send → account, batch by batch. A record is counted when it is read, and again in
exactly one of exported, rejected, quarantined and pending; what is not exported is kept first.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.config import DeliveryConfig, Signal
from faillog_otel.errors import LedgerBroken
from faillog_otel.events.decode import decode
from faillog_otel.events.entry import Entry, Learned, Rejection, read_entry, write_entry
from faillog_otel.events.forms import Form, form_of, read_records
from faillog_otel.events.model import (
    AttemptProperties,
    BadRecord,
    ErrorProperties,
    Event,
    ExchangeProperties,
    Place,
)
from faillog_otel.events.record import Blank, Record
from faillog_otel.events.unpack import unpack
from faillog_otel.ledger.counts import Counts
from faillog_otel.ledger.exchanges import Exchanges
from faillog_otel.ledger.kept import KeptFile
from faillog_otel.otlp.delivery import Delivery, Fates, Ticket
from faillog_otel.otlp.encoding import Encoder, Item
from faillog_otel.otlp.sender import Suspect, Unfit, Untaken
from faillog_otel.segment.paths import InputFile

_log = logging.getLogger(__name__)

HELD_BYTES_PER_BATCH_BYTE = 4
"""A batch also holds its records' own bytes, to keep them if need be: this bounds both together."""

MOST_HELD_BYTES = 32 * 1024 * 1024
"""So much may be held by the batches under way: records of 16 MiB go one by one."""

Progress = Callable[[int], object]
"""Told how many bytes of the input file were read since the last time."""

MOST_SUSPECTS = 512
"""So many records may wait for the proof that it is they whom the collector refuses."""


class _Sending(Struct, frozen=True):
    """A record that is mapped: where it stands, what it learned, and what is sent of it."""

    place: Place
    raw: bytes
    learned: Learned
    item: Item
    unsendable: tuple[Signal, ...] = ()
    """Signals that a kept record is still owed, and that this run does not send."""

    def held_bytes(self) -> int:
        """How much memory it takes, roughly."""
        return len(self.raw) + len(self.item.log) + len(self.item.span)


class _Stopped(Exception):
    """Reading was asked to stop."""


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
        sends_rejected: bool = False,
        most_content_bytes: int | None = None,
    ) -> None:
        """`sends_rejected`: kept records that a collector rejected partly are sent again, too.

        `most_content_bytes` bounds what a compressed file may unpack to.
        """
        self.counts = Counts()
        self.reasons: Counter[str] = Counter()
        """How many records are in quarantine, by reason code."""
        self.broken: LedgerBroken | None = None
        """Why records could not be kept; nothing more is taken in then."""
        self._encoder = encoder
        self._delivery = delivery
        self._quarantine = quarantine
        self._pending = pending
        self._config = config
        self._reference_ns = reference_ns
        self._is_stopping = is_stopping
        self._sends_rejected = sends_rejected
        self._most_content = most_content_bytes
        self._batch: list[_Sending] = []
        self._largest_request = 0
        self._held_bytes = 0
        self._under_way: deque[tuple[list[_Sending], Ticket]] = deque()
        self._bytes_under_way = 0
        self._suspects: deque[tuple[_Sending, Fates]] = deque()
        self._suspect_bytes = 0
        self.stopped_at: int | None = 0
        """Where reading the last file stopped, in bytes of its content; None when all of it was read."""

    def forward(self, file: InputFile, progress: Progress) -> None:
        """Reads a file twice, first for what its exchanges say, and hands its records on.

        Raises InputError when the file cannot be read on; what was read until then is handed on.
        """
        self.stopped_at = 0
        exchanges = Exchanges()
        try:
            form = form_of(self._content(file))
            self._index(form, file, exchanges)
            for record in self._records(form, file, progress):
                self._take(file.name, record, exchanges, is_line=form.kind == "lines")
                self.stopped_at = record.offset + len(record.raw)
            self.stopped_at = None
        except _Stopped:
            pass
        finally:
            exchanges.close()

    def finish(self) -> None:
        """Sends what is left, waits for all results, and makes what was kept durable."""
        self._flush()
        while self._under_way:
            self._account_oldest()
        self._settle_suspects(at_most=0)
        for kept in (self._quarantine, self._pending):
            try:
                kept.close()
            except LedgerBroken as error:
                self.broken = self.broken or error

    # -- reading ---------------------------------------------------------------------------------------

    def _content(self, file: InputFile) -> Iterator[bytes]:
        for chunk in unpack(file.chunks(), self._most_content):
            if self._is_stopping() or self.broken:
                raise _Stopped
            yield chunk

    def _index(self, form: Form, file: InputFile, exchanges: Exchanges) -> None:
        for record in read_records(form, self._content(file)):
            if self._is_stopping():
                raise _Stopped
            if isinstance(record, Record):
                exchanges.learn(record.raw)

    def _records(self, form: Form, file: InputFile, progress: Progress) -> Iterator[Record]:
        told = 0
        for record in read_records(form, self._counted(self._content(file))):
            if file.bytes_read != told:
                progress(file.bytes_read - told)
                told = file.bytes_read
            if isinstance(record, Blank):
                self.counts.lines += record.lines
                self.counts.blank += record.lines
                continue
            if self._is_stopping() or self.broken:
                self.stopped_at = record.offset
                raise _Stopped
            yield record

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.counts.bytes_in += len(chunk)
            yield chunk

    def _take(self, file: str, record: Record, exchanges: Exchanges, *, is_line: bool) -> None:
        self.counts.lines += is_line
        self.counts.records += 1
        if (entry := read_entry(record.raw)) is not None:
            self._take_again(record.raw, entry)
            return
        place = Place(file, record.line, record.offset)
        event = record.bad or decode(record.raw)
        learned = Learned(self._reference_ns, exchanges.answer_to(event))
        if isinstance(event, BadRecord):
            self._set_aside(event, place, learned)
        else:
            self._add(place, event, learned)

    def _take_again(self, line: bytes, entry: Entry) -> None:
        """A record that an earlier run kept: with all that it learned then, and only what is still owed."""
        record = entry.record()
        is_rejected = entry.reason == "rejected"
        if not entry.replayable and entry.detail:
            _log.warning("an entry is not sent again: %s", entry.detail)
        if record is None or (is_rejected and not self._sends_rejected):
            self._keep(self._quarantine, line)
            self.counts.rejected += is_rejected
            self.counts.quarantined += not is_rejected
            self.reasons[entry.reason] += 1
            return
        learned = entry.context or Learned(self._reference_ns)
        if is_rejected:
            owed = tuple(each.signal for each in learned.rejections)
            learned = replace(learned, signals=owed or None, rejections=())
        event = decode(record)
        if isinstance(event, BadRecord):
            self._set_aside(event, entry.place(), learned)
        else:
            self._add(entry.place(), event, learned)

    def _set_aside(self, bad: BadRecord, place: Place, learned: Learned) -> None:
        replayable = bad.replayable
        entry = write_entry(bad.reason, bad.detail, place, bad.raw, learned, replayable=replayable)
        self._keep(self._quarantine, entry)
        self.counts.quarantined += 1
        self.reasons[bad.reason] += 1
        level = logging.WARNING if self.reasons[bad.reason] == 1 else logging.INFO
        _log.log(level, "%s, line %d: %s: %s", place.file, place.line, bad.reason, bad.detail)

    def _keep(self, kept: KeptFile, entry: bytes) -> None:
        """Keeps a record; one that cannot be kept is counted all the same, and the run is broken."""
        try:
            kept.keep(entry)
        except LedgerBroken as error:
            self.broken = self.broken or error

    # -- sending ---------------------------------------------------------------------------------------

    def _add(self, place: Place, event: Event, learned: Learned) -> None:
        _count_event(event, self.counts)
        item = self._encoder.encode(event, learned)
        unsendable: tuple[Signal, ...] = ()
        if learned.signals:
            owed = item.only(learned.signals)
            item = owed if owed.log or owed.span else item  # mended, it may have become another event
            unsendable = tuple(each for each in learned.signals if each not in self._config.signals)
        self._batch.append(_Sending(place, event.raw, learned, item, unsendable))
        self._largest_request += max(len(item.log), len(item.span))
        self._held_bytes += self._batch[-1].held_bytes()
        limit = self._config.batch_bytes
        if (
            len(self._batch) >= self._config.batch_records
            or self._largest_request >= limit
            or self._held_bytes >= limit * HELD_BYTES_PER_BATCH_BYTE
        ):
            self._flush()

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        self._bytes_under_way += self._held_bytes
        self._largest_request = self._held_bytes = 0
        if not batch:
            return
        self._under_way.append((batch, self._delivery.submit([sending.item for sending in batch])))
        while len(self._under_way) > self._delivery.most_batches or self._bytes_under_way > MOST_HELD_BYTES:
            self._account_oldest()

    # -- accounting ------------------------------------------------------------------------------------

    def _account_oldest(self) -> None:
        """Waits for the oldest batch: results are taken in the order of the file."""
        batch, ticket = self._under_way.popleft()
        for sending, fates in zip(batch, self._delivery.result(ticket), strict=True):
            self._bytes_under_way -= sending.held_bytes()
            if any(isinstance(fate, Suspect) for fate in fates.values()):
                self._suspects.append((sending, fates))
                self._suspect_bytes += sending.held_bytes()
            else:
                self._account(sending, fates)
        self._settle_suspects(at_most=MOST_SUSPECTS)

    def _settle_suspects(self, at_most: int) -> None:
        """Clears up what can be by now; waits for it only where more suspects would be left than `at_most`.

        Reading goes on meanwhile: the record whose success proves the case may not have been read yet.
        """
        while self._suspects:
            sending, fates = self._suspects[0]
            are_few = len(self._suspects) <= at_most and self._suspect_bytes <= MOST_HELD_BYTES
            if are_few and not self._delivery.is_ripe(fates):
                return
            self._suspects.popleft()
            self._suspect_bytes -= sending.held_bytes()
            self._account(sending, self._delivery.settle(sending.item, fates))

    def _account(self, sending: _Sending, fates: Fates) -> None:
        untaken = [signal for signal, fate in fates.items() if isinstance(fate, Untaken)]
        untaken += sending.unsendable
        unfit = {signal: fate for signal, fate in fates.items() if isinstance(fate, Unfit)}
        rejections = [fate for fate in fates.values() if isinstance(fate, Rejection)]
        learned = replace(
            sending.learned,
            signals=(*untaken, *unfit) or None,
            rejections=(*sending.learned.rejections, *rejections),
        )
        if untaken:
            why = self._delivery.over or "this run does not send all that is owed"
            self._keep(self._pending, write_entry("pending", why, sending.place, sending.raw, learned))
            self.counts.pending += 1
        elif unfit:
            reason = next(iter(unfit.values())).reason
            why = "; ".join(f"{signal}: {fate.why}" for signal, fate in unfit.items())
            self._keep(self._quarantine, write_entry(reason, why, sending.place, sending.raw, learned))
            self.counts.quarantined += 1
            self.reasons[reason] += 1
        elif learned.rejections:
            why = _told(learned.rejections)
            self._keep(self._quarantine, write_entry("rejected", why, sending.place, sending.raw, learned))
            self.counts.rejected += 1
            self.reasons["rejected"] += 1
        else:
            self.counts.exported += 1


def _told(rejections: Sequence[Rejection]) -> str:
    return "; ".join(
        f"{each.rejected} of {each.records} {each.signal}: {each.message}" for each in rejections
    )


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
