"""The forwarder over files: read → decode → map → send → write down, batch by batch.

It reads and makes batches; what becomes of them is `accounting`.
"""

import logging
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from faillog_otel.config import DeliveryConfig, Signal
from faillog_otel.errors import LedgerBroken
from faillog_otel.events.decode import decode
from faillog_otel.events.kept_record import Entry, KeptContext, read_entry, write_entry
from faillog_otel.events.model import JSON_LINES, BadRecord, Event, Form, Place, Survey
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.inputs.files import ByteRange, InputFile, unpack
from faillog_otel.inputs.formats import form_of, read_exchanges, read_groups
from faillog_otel.inputs.json_stream import FROM_THE_START, Blank, Group, ReadPosition, Record
from faillog_otel.ledger.results import Accounted, Kept, ResultSink
from faillog_otel.ledger.spool import digest_of
from faillog_otel.otlp.delivery import Delivery
from faillog_otel.otlp.encoder import Encoder
from faillog_otel.pipeline.batch import Batch, InFlightBatches, PendingRecord, classify
from faillog_otel.telemetry.api import NO_TELEMETRY, Telemetry

_log = logging.getLogger(__name__)

HELD_BYTES_PER_BATCH_BYTE = 4
"""A batch also holds its records' own bytes, to keep them if need be: this bounds both together."""

Progress = Callable[[Accounted], object]
"""Receives how many more bytes of input are accounted for."""


class _Stopped(Exception):
    """Reading was asked to stop."""


class Forwarder:
    """Forwards files, one after the other, and keeps the counts of all of them."""

    def __init__(
        self,
        *,
        encoder: Encoder,
        delivery: Delivery,
        config: DeliveryConfig,
        is_stopping: Callable[[], bool],
        sends_rejected: bool = False,
        max_content_bytes: int | None = None,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        """`sends_rejected`: kept records that a collector rejected partly are sent again, too.

        `max_content_bytes` bounds what a compressed file may unpack to.
        """
        self._accounting = InFlightBatches(delivery, telemetry)
        self.counts = self._accounting.counts
        self.reasons = self._accounting.reasons
        """How many records are in quarantine, by reason code."""
        self.first_met = self._accounting.first_met
        self.stopped_at: int | None = 0
        """Where reading the last file stopped, in bytes of its content; None when all of it was read."""
        self._encoder = encoder
        self._signals = config.signals
        self._max_records = config.batch_records
        self._max_bytes = config.batch_bytes
        self._max_held_bytes = config.batch_bytes * HELD_BYTES_PER_BATCH_BYTE
        self._is_stopping = is_stopping
        self._sends_rejected = sends_rejected
        self._max_content = max_content_bytes
        self._file_max_content = max_content_bytes  # of the file that is being read
        self._batch: Batch | None = None
        self._book: ResultSink | None = None
        self._start = 0  # the first record of the book that is not written down yet
        self._number = 0  # of the book's next record, from 0

    @property
    def broken(self) -> LedgerBroken | None:
        """Why it cannot be written down what becomes of records; nothing more is taken in then."""
        return self._accounting.broken

    def forward(
        self,
        file: InputFile | ByteRange,
        book: ResultSink,
        progress: Progress,
        *,
        start: ReadPosition | None = None,
        survey: Survey | None = None,
        exchanges: ExchangeIndex | None = None,
    ) -> None:
        """Reads a file and sends its records; commits their results to `sink`.

        `exchanges` is the index of the file's exchanges; without it, the file is read once more before, to be
        indexed. With `start`, the file is a passage of uncompressed JSON Lines that begins there. With
        `survey`, the file is read in the way in which its records were counted. `progress` receives the bytes
        that are accounted for from now on. Several files can share a sink.

        Raises InputError if the file cannot be read to its end; the records before are sent.
        """
        self.stopped_at = 0
        self._accounting.progress = progress
        if self._book is not book:
            self._flush()
            self._book, self._start, self._number = book, book.position, 0
        index = exchanges or ExchangeIndex()
        try:
            self._file_max_content = survey.max_content_bytes if survey else self._max_content
            form = survey.form if survey else JSON_LINES if start else form_of(self._content(file))
            if exchanges is None:
                for raw in read_exchanges(form, self._content(file)):
                    index.add_record(raw)
            for group in self._groups(form, file, start):
                if isinstance(group, Group):
                    self._take_group(file.name, group, book, index)
                else:
                    self._take(file.name, group, book, index, is_line=form.kind == "lines")
            self.stopped_at = None
        except _Stopped:
            pass
        finally:
            if exchanges is None:
                index.close()

    def end(self, book: ResultSink) -> None:
        """Nothing more comes of this book: its last stretch, perhaps an empty one, says so."""
        if self._book is not book:
            self._flush()
        self._current(book).stretch.is_last = True
        self._flush()

    def finish(self) -> None:
        """Sends what is left, and waits until everything that was read is written down."""
        self._flush()
        self._accounting.finish()

    # -- reading ---------------------------------------------------------------------------------------

    def _content(self, file: InputFile | ByteRange, *, is_bare: bool = False) -> Iterator[bytes]:
        chunks = file.chunks()
        for chunk in chunks if is_bare else unpack(chunks, self._file_max_content):
            self._stop_if_asked()
            yield chunk

    def _groups(
        self, form: Form, file: InputFile | ByteRange, start: ReadPosition | None
    ) -> Iterator[Group | Record]:
        batched = read = 0
        content = self._counted(self._content(file, is_bare=start is not None))
        for group in read_groups(form, content, start or FROM_THE_START):
            if file.bytes_read != read:
                self._cover(read - batched)  # the records of the chunk before this one are in batches
                batched, read = read, file.bytes_read
            if isinstance(group, Blank):
                self._take_blank(group.lines)
                continue
            if self._is_stopping() or self.broken:
                self.stopped_at = group.offset
                raise _Stopped
            yield group
        self._cover(file.bytes_read - batched)

    def _cover(self, read: int) -> None:
        """So many more bytes of the file are done when all that was read so far is."""
        if self._batch is not None:
            self._batch.read_bytes += read
        else:
            self._accounting.cover(read)

    def _take_blank(self, lines: int) -> None:
        """Blank lines are written down with the record behind them: a book goes on with both or neither."""
        if self._number >= self._start and self._book is not None:
            counts = self._current(self._book).stretch.counts
            counts.lines += lines
            counts.blank += lines

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.counts.bytes_in += len(chunk)
            yield chunk

    def _current(self, book: ResultSink) -> Batch:
        if self._batch is None:
            self._batch = Batch(book)
        return self._batch

    def _take_group(self, file: str, group: Group, book: ResultSink, exchanges: ExchangeIndex) -> None:
        """Lines that have nothing odd about them, as nearly all have."""
        encode, context_of, reference_ns = self._encoder.encode, exchanges.context_of, book.reference_ns
        offset = group.offset
        for line, raw in enumerate(group.raws, group.line):
            number, self._number = self._number, self._number + 1
            end = offset + len(raw)
            if number >= self._start:
                batch = self._batch or self._current(book)
                batch.stretch.counts.lines += 1
                if not self._took_before(batch, number, raw):
                    event = decode(raw)
                    learned = context_of(event, reference_ns)
                    if isinstance(event, Event):
                        item, sort = encode(event, learned), classify(event)
                        batch.add(
                            PendingRecord(
                                number, file, line, offset, raw, learned, item, sort, event.logged_ns
                            )
                        )
                    else:
                        self._quarantine(batch, number, event, Place(file, line, offset), learned)
                self.stopped_at = end
                if self._is_full(batch):
                    self._flush()
                    self._stop_if_asked()
            elif book.seen is not None:
                book.seen.add(digest_of(raw))
            offset = end + 1

    def _take(
        self, file: str, record: Record, book: ResultSink, exchanges: ExchangeIndex, *, is_line: bool
    ) -> None:
        number, self._number = self._number, self._number + 1
        if number < self._start:
            if book.seen is not None and (raw := _bytes_of(record)):
                book.seen.add(digest_of(raw))
            return
        batch = self._batch or self._current(book)
        batch.stretch.counts.lines += is_line
        if not self._took_before(batch, number, _bytes_of(record)):
            event = decode(record.raw) if record.bad is None else record.bad
            learned = exchanges.context_of(event, book.reference_ns)
            self._take_event(batch, number, event, Place(file, record.line, record.offset), learned)
        self.stopped_at = record.offset + len(record.raw)
        if self._is_full(batch):
            self._flush()

    def _took_before(self, batch: Batch, number: int, raw: bytes) -> bool:
        """Counts a record; takes care of it if this run, or an earlier one, knows it already."""
        book, counts = batch.book, batch.stretch.counts
        counts.records += 1
        if (seen := book.seen) is not None and raw:
            digest = digest_of(raw)
            if digest in seen:
                counts.duplicate += 1
                batch.stretch.became["", "duplicate", ""] += 1
                return True
            seen.add(digest)
        if book.holds_entries and (entry := read_entry(raw)) is not None:
            self._take_again(batch, number, raw, entry)
            return True
        return False

    def _is_full(self, batch: Batch) -> bool:
        return (
            batch.stretch.counts.records >= self._max_records
            or batch.max_request >= self._max_bytes
            or batch.held_bytes >= self._max_held_bytes
        )

    def _stop_if_asked(self) -> None:
        if self._is_stopping() or self.broken:
            raise _Stopped

    def _take_again(self, batch: Batch, number: int, line: bytes, entry: Entry) -> None:
        """A record that an earlier run kept: with all that it learned then, and only what is still owed."""
        record = entry.record()
        is_rejected = entry.reason == "rejected"
        if not entry.replayable and entry.detail:
            _log.warning("an entry is not sent again: %s", entry.detail)
        if record is None or (is_rejected and not self._sends_rejected):
            batch.keep(Kept(number, "quarantine", entry.reason, line))
            batch.stretch.counts.rejected += is_rejected
            batch.stretch.counts.quarantined += not is_rejected
            batch.stretch.became["", "rejected" if is_rejected else "quarantined", ""] += 1
            self.reasons[entry.reason] += 1
            return
        batch.is_plain = False
        learned = entry.context or KeptContext(batch.book.reference_ns)
        if is_rejected:
            owed = tuple(each.signal for each in learned.rejections)
            learned = replace(learned, signals=owed or None, rejections=())
        self._take_event(batch, number, decode(record), entry.place(), learned)

    def _take_event(
        self, batch: Batch, number: int, event: Event | BadRecord, place: Place, learned: KeptContext
    ) -> None:
        if isinstance(event, Event):
            self._add(batch, number, place, event, learned)
        else:
            self._quarantine(batch, number, event, place, learned)

    def _quarantine(
        self, batch: Batch, number: int, event: BadRecord, place: Place, learned: KeptContext
    ) -> None:
        replayable = event.replayable
        entry = write_entry(event.reason, event.detail, place, event.raw, learned, replayable=replayable)
        batch.keep(Kept(number, "quarantine", event.reason, entry))
        batch.stretch.counts.quarantined += 1
        batch.stretch.became["", "quarantined", ""] += 1
        self.reasons[event.reason] += 1
        level = logging.WARNING if self.reasons[event.reason] == 1 else logging.INFO
        _log.log(level, "%s, line %d: %s: %s", place.file, place.line, event.reason, event.detail)

    # -- sending ---------------------------------------------------------------------------------------

    def _add(self, batch: Batch, number: int, place: Place, event: Event, learned: KeptContext) -> None:
        item = self._encoder.encode(event, learned)
        unsendable: tuple[Signal, ...] = ()
        if learned.signals:
            owed = item.only(learned.signals)
            item = owed if owed.log or owed.span else item  # mended, it may have become another event
            unsendable = tuple(each for each in learned.signals if each not in self._signals)
        sending = PendingRecord(
            number,
            place.file,
            place.line,
            place.offset,
            event.raw,
            learned,
            item,
            classify(event),
            event.logged_ns,
            unsendable,
        )
        batch.add(sending)

    def _flush(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            self._accounting.send(batch)


def _bytes_of(record: Record) -> bytes:
    """What tells a record from others; nothing, where only its beginning is known."""
    if record.bad is None:
        return record.raw
    return record.bad.raw if record.bad.replayable else b""
