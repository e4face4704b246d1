"""The forwarder over files: read → decode → map → send → write down, batch by batch.

What became of a batch is written down when the fate of each of its records is known, and in the order of
the file; a record is counted in exactly one of exported, rejected, quarantined, pending and duplicate.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.app.batch import Batch, Sending, sort_of
from faillog_otel.config import DeliveryConfig, Signal
from faillog_otel.errors import LedgerBroken
from faillog_otel.events.decode import decode
from faillog_otel.events.entry import Entry, Learned, Rejection, read_entry, write_entry
from faillog_otel.events.forms import JSON_LINES, Form, form_of, read_exchanges, read_groups, read_records
from faillog_otel.events.model import BadRecord, Event, Place
from faillog_otel.events.record import FROM_THE_START, Blank, Group, Record, Start
from faillog_otel.events.unpack import unpack
from faillog_otel.ledger.counts import Book, Counts, Kept
from faillog_otel.ledger.exchanges import Exchanges
from faillog_otel.otlp.delivery import Delivery, Fates
from faillog_otel.otlp.encoding import Encoder
from faillog_otel.otlp.sender import Suspect, Unfit, Untaken
from faillog_otel.segment.paths import InputFile, Passage
from faillog_otel.telemetry.measuring import NO_TELEMETRY, Telemetry

_log = logging.getLogger(__name__)

HELD_BYTES_PER_BATCH_BYTE = 4
"""A batch also holds its records' own bytes, to keep them if need be: this bounds both together."""

MOST_HELD_BYTES = 32 * 1024 * 1024
"""So much may be held by the batches under way: records of 16 MiB go one by one."""

Progress = Callable[[int], object]
"""Told how many bytes of the input file were read since the last time."""

MOST_SUSPECTS = 512
"""So many records may wait for the proof that it is they whom the collector refuses."""


class Lines(Struct, frozen=True):
    """Where a passage of JSON Lines begins, and what the exchanges of the whole file say."""

    start: Start
    exchanges: Exchanges


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
        most_content_bytes: int | None = None,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        """`sends_rejected`: kept records that a collector rejected partly are sent again, too.

        `most_content_bytes` bounds what a compressed file may unpack to.
        """
        self.counts = Counts()
        self.reasons: Counter[str] = Counter()
        """How many records are in quarantine, by reason code."""
        self.broken: LedgerBroken | None = None
        """Why it cannot be written down what becomes of records; nothing more is taken in then."""
        self._encoder = encoder
        self._delivery = delivery
        self._config = config
        self._is_stopping = is_stopping
        self._sends_rejected = sends_rejected
        self._most_content = most_content_bytes
        self._telemetry = telemetry
        self._batch: Batch | None = None
        self._under_way: deque[Batch] = deque()
        self._bytes_under_way = 0
        self._suspects: deque[tuple[Batch, Sending, Fates]] = deque()
        self._accounted: deque[Batch] = deque()
        self._bytes_accounted = 0
        self.stopped_at: int | None = 0
        """Where reading the last file stopped, in bytes of its content; None when all of it was read."""
        self._book: Book | None = None
        self._start = 0  # the first record of the book that is not written down yet
        self._number = 0  # of the book's next record, from 0

    def forward(
        self, file: InputFile | Passage, book: Book, progress: Progress, lines: Lines | None = None
    ) -> None:
        """Reads a file twice, first for what its exchanges say, and hands its records on.

        With `lines`, it is a passage of JSON Lines, and known already what the exchanges of all of them say.
        What becomes of the records is written into `book`, which may be one for several files. Raises
        InputError when the file cannot be read on; what was read until then is handed on.
        """
        self.stopped_at = 0
        if self._book is not book:
            self._flush()
            self._book, self._start, self._number = book, book.position, 0
        exchanges = lines.exchanges if lines else Exchanges()
        try:
            form = JSON_LINES if lines else form_of(self._content(file))
            if lines is None:
                self._index(form, file, book, exchanges)
            for group in self._groups(form, file, progress, lines):
                if isinstance(group, Group):
                    self._take_group(file.name, group, book, exchanges)
                else:
                    self._take(file.name, group, book, exchanges, is_line=form.kind == "lines")
            self.stopped_at = None
        except _Stopped:
            pass
        finally:
            if lines is None:
                exchanges.close()

    def end(self, book: Book) -> None:
        """Nothing more comes of this book: its last stretch, perhaps an empty one, says so."""
        if self._book is not book:
            self._flush()
        self._current(book).stretch.is_last = True
        self._flush()

    def finish(self) -> None:
        """Sends what is left, and waits until everything that was read is written down."""
        self._flush()
        while self._under_way:
            self._account_oldest()
        self._settle_suspects(at_most=0)
        self._write_down()

    # -- reading ---------------------------------------------------------------------------------------

    def _content(self, file: InputFile | Passage, *, is_bare: bool = False) -> Iterator[bytes]:
        chunks = file.chunks()
        for chunk in chunks if is_bare else unpack(chunks, self._most_content):
            self._stop_if_asked()
            yield chunk

    def _index(self, form: Form, file: InputFile | Passage, book: Book, exchanges: Exchanges) -> None:
        for raw in read_exchanges(form, self._content(file)):
            exchanges.learn(raw)
        if known := self._start - self._number:
            records = (each for each in read_records(form, self._content(file)) if isinstance(each, Record))
            for record in islice(records, max(known, 0)):
                book.knows(_bytes_of(record))

    def _groups(
        self, form: Form, file: InputFile | Passage, progress: Progress, lines: Lines | None
    ) -> Iterator[Group | Record]:
        told = 0
        content = self._counted(self._content(file, is_bare=lines is not None))
        for group in read_groups(form, content, lines.start if lines else FROM_THE_START):
            if file.bytes_read != told:
                progress(file.bytes_read - told)
                told = file.bytes_read
            if isinstance(group, Blank):
                self._take_blank(group.lines)
                continue
            if self._is_stopping() or self.broken:
                self.stopped_at = group.offset
                raise _Stopped
            yield group

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

    def _current(self, book: Book) -> Batch:
        if self._batch is None:
            self._batch = Batch(book)
        return self._batch

    def _take_group(self, file: str, group: Group, book: Book, exchanges: Exchanges) -> None:
        """Lines that have nothing odd about them, as nearly all have."""
        offset, reference_ns = group.offset, book.reference_ns
        for line, raw in enumerate(group.raws, group.line):
            number, self._number = self._number, self._number + 1
            if number >= self._start:
                batch = self._batch or self._current(book)
                batch.stretch.counts.lines += 1
                if not self._took_before(batch, number, raw):
                    event = decode(raw)
                    learned = exchanges.learned_by(event, reference_ns)
                    place = Place(file, line, offset)
                    if isinstance(event, Event):
                        item = self._encoder.encode(event, learned)
                        batch.add(Sending(number, place, raw, learned, item, sort_of(event), event.logged_ns))
                    else:
                        self._quarantine(batch, number, event, place, learned)
                self.stopped_at = offset + len(raw)
                if self._is_full(batch):
                    self._flush()
                    self._stop_if_asked()
            offset += len(raw) + 1

    def _take(self, file: str, record: Record, book: Book, exchanges: Exchanges, *, is_line: bool) -> None:
        number, self._number = self._number, self._number + 1
        if number < self._start:
            return
        batch = self._batch or self._current(book)
        batch.stretch.counts.lines += is_line
        if not self._took_before(batch, number, _bytes_of(record)):
            event = decode(record.raw) if record.bad is None else record.bad
            learned = exchanges.learned_by(event, book.reference_ns)
            self._take_event(batch, number, event, Place(file, record.line, record.offset), learned)
        self.stopped_at = record.offset + len(record.raw)
        if self._is_full(batch):
            self._flush()

    def _took_before(self, batch: Batch, number: int, raw: bytes) -> bool:
        """Counts a record; takes care of it where this run, or an earlier one, knows it already."""
        book, counts = batch.book, batch.stretch.counts
        counts.records += 1
        if book.knows(raw):
            counts.duplicate += 1
            batch.stretch.became["", "duplicate", ""] += 1
            return True
        if book.holds_entries and (entry := read_entry(raw)) is not None:
            self._take_again(batch, number, raw, entry)
            return True
        return False

    def _is_full(self, batch: Batch) -> bool:
        config = self._config
        return (
            batch.stretch.counts.records >= config.batch_records
            or batch.largest_request >= config.batch_bytes
            or batch.held_bytes >= config.batch_bytes * HELD_BYTES_PER_BATCH_BYTE
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
        learned = entry.context or Learned(batch.book.reference_ns)
        if is_rejected:
            owed = tuple(each.signal for each in learned.rejections)
            learned = replace(learned, signals=owed or None, rejections=())
        self._take_event(batch, number, decode(record), entry.place(), learned)

    def _take_event(
        self, batch: Batch, number: int, event: Event | BadRecord, place: Place, learned: Learned
    ) -> None:
        if isinstance(event, Event):
            self._add(batch, number, place, event, learned)
        else:
            self._quarantine(batch, number, event, place, learned)

    def _quarantine(
        self, batch: Batch, number: int, event: BadRecord, place: Place, learned: Learned
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

    def _add(self, batch: Batch, number: int, place: Place, event: Event, learned: Learned) -> None:
        item = self._encoder.encode(event, learned)
        unsendable: tuple[Signal, ...] = ()
        if learned.signals:
            owed = item.only(learned.signals)
            item = owed if owed.log or owed.span else item  # mended, it may have become another event
            unsendable = tuple(each for each in learned.signals if each not in self._config.signals)
        sort, logged_ns = sort_of(event), event.logged_ns
        batch.add(Sending(number, place, event.raw, learned, item, sort, logged_ns, unsendable))

    def _flush(self) -> None:
        batch, self._batch = self._batch, None
        if batch is None:
            return
        batch.count()
        self._bytes_under_way += batch.held_bytes
        batch.ticket = self._delivery.submit([sending.item for sending in batch.sendings])
        self._under_way.append(batch)
        while self._under_way and (
            not self._under_way[0].sendings  # there is nothing to wait for
            or len(self._under_way) > self._delivery.most_batches
            or self._bytes_under_way > MOST_HELD_BYTES
        ):
            self._account_oldest()

    # -- accounting ------------------------------------------------------------------------------------

    def _account_oldest(self) -> None:
        """Waits for the oldest batch: results are taken in the order of the file."""
        batch = self._under_way.popleft()
        self._accounted.append(batch)
        self._bytes_accounted += batch.held_bytes
        if batch.ticket is not None and batch.is_plain and self._delivery.took_all(batch.ticket):
            batch.account_all()
        elif batch.ticket is not None:
            for sending, fates in zip(batch.sendings, self._delivery.result(batch.ticket), strict=True):
                if any(isinstance(fate, Suspect) for fate in fates.values()):
                    self._suspects.append((batch, sending, fates))
                    batch.suspects += 1
                else:
                    self._account(batch, sending, fates)
        self._bytes_under_way -= batch.held_bytes
        batch.sendings.clear()
        self._settle_suspects(at_most=MOST_SUSPECTS)
        self._write_down()

    def _settle_suspects(self, at_most: int) -> None:
        """Clears up what can be by now; waits for it only where more suspects would be left than `at_most`.

        Reading goes on meanwhile: the record whose success proves the case may not have been read yet.
        """
        while self._suspects:
            batch, sending, fates = self._suspects[0]
            are_few = len(self._suspects) <= at_most and self._bytes_accounted <= MOST_HELD_BYTES
            if are_few and not self._delivery.is_ripe(fates):
                return
            self._suspects.popleft()
            batch.suspects -= 1
            self._account(batch, sending, self._delivery.settle(sending.item, fates))

    def _account(self, batch: Batch, sending: Sending, fates: Fates) -> None:
        counts = batch.stretch.counts
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
            entry = write_entry("pending", why, sending.place, sending.raw, learned)
            batch.keep(Kept(sending.number, "pending", "pending", entry))
            counts.pending += 1
            return
        if unfit:
            reason = next(iter(unfit.values())).reason
            why = "; ".join(f"{signal}: {fate.why}" for signal, fate in unfit.items())
            counts.quarantined += 1
            batch.account(sending, "quarantined")
        elif learned.rejections:
            reason, why = "rejected", _told(learned.rejections)
            counts.rejected += 1
            batch.account(sending, "rejected")
        else:
            counts.exported += 1
            batch.account(sending, "exported")
            if sending.item.is_shifted:
                counts.time_shifted += 1
                batch.stretch.shifted.add(sending.number)
            batch.stretch.newest_ns = max(batch.stretch.newest_ns, sending.logged_ns)
            return
        entry = write_entry(reason, why, sending.place, sending.raw, learned)
        batch.keep(Kept(sending.number, "quarantine", reason, entry))
        self.reasons[reason] += 1

    def _write_down(self) -> None:
        """Writes down the batches of which everything is known, in their order."""
        while self._accounted and not self._accounted[0].suspects:
            batch = self._accounted.popleft()
            self._bytes_accounted -= batch.held_bytes
            batch.stretch.kept.sort(key=lambda kept: kept.number)
            is_written = True  # what cannot be written down is counted all the same, and the run is broken
            try:
                is_written = batch.book.write_down(batch.stretch)
            except LedgerBroken as error:
                self.broken = self.broken or error
            if is_written:
                self.counts.add(batch.stretch.counts)
                shifted = len(batch.stretch.shifted)
                self._telemetry.written(batch.stretch.became, batch.stretch.reasons(), shifted)


def _bytes_of(record: Record) -> bytes:
    """What tells a record from others; nothing, where only its beginning is known."""
    if record.bad is None:
        return record.raw
    return record.bad.raw if record.bad.replayable else b""


def _told(rejections: Sequence[Rejection]) -> str:
    return "; ".join(
        f"{each.rejected} of {each.records} {each.signal}: {each.message}" for each in rejections
    )
