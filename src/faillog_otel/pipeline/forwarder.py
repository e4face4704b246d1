"""Forwards files batch by batch: read, decode, map, encode, send, commit.

This module reads records and puts them into batches; `batch` counts and commits their outcomes.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress

from msgspec.structs import replace

from faillog_otel.config import DeliveryConfig, Signal
from faillog_otel.errors import InputError, LedgerBroken
from faillog_otel.events.decode import decode
from faillog_otel.events.failure_counts import BatchFailures
from faillog_otel.events.kept_record import Entry, KeptContext, read_entry, write_entry
from faillog_otel.events.model import JSON_LINES, BadRecord, Event, Form, Place, Survey
from faillog_otel.hash_table import TemporaryFileError
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.inputs.files import ByteRange, InputFile, unpack
from faillog_otel.inputs.formats import form_of, read_groups
from faillog_otel.inputs.json_stream import FROM_THE_START, Blank, Group, ReadPosition, Record
from faillog_otel.ledger.results import Accounted, Kept, ResultSink
from faillog_otel.ledger.spool import digest_of
from faillog_otel.otlp.delivery import Delivery
from faillog_otel.otlp.encoder import Encoder
from faillog_otel.otlp.failure_notes import NO_NOTES, FailureNotes
from faillog_otel.pipeline.batch import Batch, InFlightBatches, PendingRecord, classify
from faillog_otel.telemetry import NO_TELEMETRY, Telemetry

_log = logging.getLogger(__name__)

HELD_BYTES_PER_BATCH_BYTE = 4
"""A batch also holds its records' own bytes, which may have to be kept: this bounds both together."""

Progress = Callable[[Accounted], object]
"""Receives the further bytes of input that are accounted for."""


class _Stopped(Exception):
    """Reading ends early: the run ends, or results can no longer be committed."""


class Forwarder:
    """Forwards files, one after the other; counts the outcomes of all of them."""

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
        notes: FailureNotes = NO_NOTES,
        take_failures: Callable[[BatchFailures], object] = lambda _: None,
    ) -> None:
        """`sends_rejected`: replayed records that a collector rejected are sent again, too.

        `notes` notes failures, by default none; `take_failures` receives those of each batch that
        is committed. `max_content_bytes`: the size to which a compressed file may decompress.
        """
        self._batches = InFlightBatches(delivery, telemetry)
        self.counts = self._batches.counts
        self.reasons = self._batches.reasons
        """Records in the quarantine, by reason code."""
        self.first_met = self._batches.first_met
        self.stopped_at: int | None = 0
        """Where reading the last file stopped, in bytes of its content; None if it was read to its end."""
        self._batches.take_failures = take_failures
        self._encoder = encoder
        self._notes = notes
        self._signals = config.signals
        self._max_records = config.batch_records
        self._max_bytes = config.batch_bytes
        self._max_held_bytes = config.batch_bytes * HELD_BYTES_PER_BATCH_BYTE
        self._is_stopping = is_stopping
        self._sends_rejected = sends_rejected
        self._max_content = max_content_bytes
        self._file_max_content = max_content_bytes  # of the file that is being read
        self._batch: Batch | None = None
        self._sink: ResultSink | None = None
        self._start = 0  # the sink's first record that is not committed yet
        self._number = 0  # of the sink's next record, from 0

    @property
    def broken(self) -> LedgerBroken | None:
        """Why results can no longer be committed, which ends reading; None while they can."""
        return self._batches.broken

    def index(
        self,
        file: InputFile | ByteRange,
        exchanges: ExchangeIndex,
        *,
        start: ReadPosition | None = None,
        survey: Survey | None = None,
    ) -> int:
        """Adds a file's records to the index, for `forward`; returns the number of newlines.

        `start` and `survey` are as for `forward`. Ends early if the run ends, or if the file cannot be read,
        which `forward` reports. Raises TemporaryFileError if the index is not writable.
        """
        lines = 0

        def counted() -> Iterator[bytes]:
            nonlocal lines
            for chunk in self._content(file, is_bare=start is not None):
                lines += chunk.count(b"\n")
                yield chunk

        try:
            form = self._form(file, start, survey)
            exchanges.add_content(form, counted(), start or FROM_THE_START)
        except TemporaryFileError:
            raise
        except (InputError, _Stopped):
            pass
        return lines

    def forward(
        self,
        file: InputFile | ByteRange,
        sink: ResultSink,
        exchanges: ExchangeIndex,
        *,
        progress: Progress = lambda _: None,
        start: ReadPosition | None = None,
        survey: Survey | None = None,
    ) -> None:
        """Reads a file and sends its records; commits their results to `sink`.

        With `start`, the file is a passage of uncompressed JSON Lines that begins there. With `survey`, the
        file is read in the way in which its records were counted. `progress` receives the bytes that are
        accounted for from now on. Several files can share a sink.

        Raises InputError if the file cannot be read to its end; the records before are sent.
        """
        self.stopped_at = 0
        self._batches.progress = progress
        if self._sink is not sink:
            self._flush()
            self._sink, self._start, self._number = sink, sink.position, 0
        with suppress(_Stopped):
            form = self._form(file, start, survey)
            for group in self._groups(form, file, start):
                if isinstance(group, Group):
                    self._take_group(file.name, group, sink, exchanges)
                else:
                    self._take(file.name, group, sink, exchanges, is_line=form.kind == "lines")
            self.stopped_at = None

    def end(self, sink: ResultSink) -> None:
        """Ends a sink: its last result, which can be empty, has `is_last`."""
        if self._sink is not sink:
            self._flush()
        self._current(sink).result.is_last = True
        self._flush()

    def finish(self) -> None:
        """Sends the last batch, and waits until the results of all records are committed."""
        self._flush()
        self._batches.finish()

    def show(self) -> int:
        """Shows the finished records that a terminal shows later than it gets them.

        Returns how many could not be shown; they count as pending then.
        """
        return self._batches.show()

    # -- reading ---------------------------------------------------------------------------------------

    def _form(self, file: InputFile | ByteRange, start: ReadPosition | None, survey: Survey | None) -> Form:
        """Returns the form of the file that is read from now on."""
        self._file_max_content = survey.max_content_bytes if survey else self._max_content
        return survey.form if survey else JSON_LINES if start else form_of(self._content(file))

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
        """Adds bytes of the file that are accounted for together with all records so far."""
        if self._batch is not None:
            self._batch.read_bytes += read
        else:
            self._batches.cover(read)

    def _take_blank(self, lines: int) -> None:
        """Counts blank lines with the record behind them: a resumed sink continues with both or neither."""
        if self._number >= self._start and self._sink is not None:
            counts = self._current(self._sink).result.counts
            counts.lines += lines
            counts.blank += lines

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.counts.bytes_in += len(chunk)
            yield chunk

    def _current(self, sink: ResultSink) -> Batch:
        if self._batch is None:
            self._batch = Batch(sink)
        return self._batch

    def _take_group(self, file: str, group: Group, sink: ResultSink, exchanges: ExchangeIndex) -> None:
        """Takes ordinary lines, one record each: nearly all records of a file."""
        encode, context_of, reference_ns = self._encoder.encode, exchanges.context_of, sink.reference_ns
        note = self._notes.note
        offset, takes_all = group.offset, sink.seen is None and not sink.holds_entries
        for line, raw in enumerate(group.raws, group.line):
            number, self._number = self._number, self._number + 1
            end = offset + len(raw)
            if number >= self._start:
                batch = self._batch or self._current(sink)
                counts = batch.result.counts
                counts.lines += 1
                if takes_all:
                    counts.records += 1
                if takes_all or not self._is_taken(batch, number, raw):
                    event = decode(raw)
                    context = context_of(event, reference_ns)
                    if isinstance(event, Event):
                        item, event_class = encode(event, context), classify(event)
                        batch.add(
                            PendingRecord(
                                number, file, line, offset, raw, context, item, event_class, event.logged_ns
                            )
                        )
                        note(batch.result.failures, event, event_class[0], context, item.group)
                    else:
                        self._quarantine(batch, number, event, Place(file, line, offset), context)
                self.stopped_at = end
                if self._is_full(batch):
                    self._flush()
                    self._stop_if_asked()
            elif sink.seen is not None:
                sink.seen.add(digest_of(raw))
            offset = end + 1

    def _take(
        self, file: str, record: Record, sink: ResultSink, exchanges: ExchangeIndex, *, is_line: bool
    ) -> None:
        number, self._number = self._number, self._number + 1
        if number < self._start:
            if sink.seen is not None and (raw := _bytes_of(record)):
                sink.seen.add(digest_of(raw))
            return
        batch = self._batch or self._current(sink)
        batch.result.counts.lines += is_line
        if not self._is_taken(batch, number, _bytes_of(record)):
            event = decode(record.raw) if record.bad is None else record.bad
            context = exchanges.context_of(event, sink.reference_ns)
            self._take_event(batch, number, event, Place(file, record.line, record.offset), context)
        self.stopped_at = record.offset + len(record.raw)
        if self._is_full(batch):
            self._flush()

    def _is_taken(self, batch: Batch, number: int, raw: bytes) -> bool:
        """Counts a record; takes it and returns True if it is a duplicate or an entry of a kept file."""
        sink, counts = batch.sink, batch.result.counts
        counts.records += 1
        if (seen := sink.seen) is not None and raw:
            digest = digest_of(raw)
            if digest in seen:
                counts.duplicate += 1
                batch.result.outcomes["", "duplicate", ""] += 1
                return True
            seen.add(digest)
        if sink.holds_entries and (entry := read_entry(raw)) is not None:
            self._take_entry(batch, number, raw, entry)
            return True
        return False

    def _is_full(self, batch: Batch) -> bool:
        return (
            batch.result.counts.records >= self._max_records
            or batch.max_request >= self._max_bytes
            or batch.held_bytes >= self._max_held_bytes
        )

    def _stop_if_asked(self) -> None:
        if self._is_stopping() or self.broken:
            raise _Stopped

    def _take_entry(self, batch: Batch, number: int, line: bytes, entry: Entry) -> None:
        """Takes a record that an earlier run kept: with its context, for the signals not acknowledged."""
        record = entry.record()
        is_rejected = entry.reason == "rejected"
        if not entry.replayable and entry.detail:
            _log.warning("an entry is not sent again: %s", entry.detail)
        if record is None or (is_rejected and not self._sends_rejected):
            batch.keep(Kept(number, "quarantine", entry.reason, line))
            batch.result.counts.rejected += is_rejected
            batch.result.counts.quarantined += not is_rejected
            batch.result.outcomes["", "rejected" if is_rejected else "quarantined", ""] += 1
            self.reasons[entry.reason] += 1
            return
        batch.is_plain = False
        context = entry.context or KeptContext(batch.sink.reference_ns)
        if is_rejected:
            rejected = tuple(each.signal for each in context.rejections)
            context = replace(context, signals=rejected or None, rejections=())
        self._take_event(batch, number, decode(record), entry.place(), context)

    def _take_event(
        self, batch: Batch, number: int, event: Event | BadRecord, place: Place, context: KeptContext
    ) -> None:
        if isinstance(event, Event):
            self._add(batch, number, place, event, context)
        else:
            self._quarantine(batch, number, event, place, context)

    def _quarantine(
        self, batch: Batch, number: int, event: BadRecord, place: Place, context: KeptContext
    ) -> None:
        replayable = event.replayable
        entry = write_entry(event.reason, event.detail, place, event.raw, context, replayable=replayable)
        batch.keep(Kept(number, "quarantine", event.reason, entry))
        batch.result.counts.quarantined += 1
        batch.result.outcomes["", "quarantined", ""] += 1
        self.reasons[event.reason] += 1
        level = logging.WARNING if self.reasons[event.reason] == 1 else logging.INFO
        _log.log(level, "%s, line %d: %s: %s", place.file, place.line, event.reason, event.detail)

    # -- sending ---------------------------------------------------------------------------------------

    def _add(self, batch: Batch, number: int, place: Place, event: Event, context: KeptContext) -> None:
        item, event_class = self._encoder.encode(event, context), classify(event)
        self._notes.note(batch.result.failures, event, event_class[0], context, item.group)
        unsendable: tuple[Signal, ...] = ()
        if context.signals:
            missing = item.only(context.signals)
            item = missing if missing.log or missing.span else item  # a corrected record can be another event
            unsendable = tuple(each for each in context.signals if each not in self._signals)
        pending = PendingRecord(
            number,
            place.file,
            place.line,
            place.offset,
            event.raw,
            context,
            item,
            event_class,
            event.logged_ns,
            unsendable,
        )
        batch.add(pending)

    def _flush(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            self._batches.send(batch)


def _bytes_of(record: Record) -> bytes:
    """Returns the bytes that identify a record; empty if only its beginning is known."""
    if record.bad is None:
        return record.raw
    return record.bad.raw if record.bad.replayable else b""
