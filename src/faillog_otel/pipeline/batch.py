"""What becomes of the batches of a run: waited for, counted, and written down in the order of the file.

A batch is written down when the fate of each of its records is known, and all before it are; a record is
counted in exactly one of exported, rejected, quarantined, pending and duplicate.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from faillog_otel.config import Signal
from faillog_otel.errors import LedgerBroken
from faillog_otel.events.kept_record import KeptContext, Rejection, write_entry
from faillog_otel.events.model import KIND_OF, OTHER, Event, Kind, Place
from faillog_otel.ledger.results import (
    Accounted,
    BatchResult,
    Counts,
    FirstMet,
    Kept,
    ResultSink,
    met_by,
    note_first,
)
from faillog_otel.otlp.delivery import Delivery, SendResults, Ticket
from faillog_otel.otlp.outcome import Suspected, Unacceptable, Unsent
from faillog_otel.otlp.wire import EncodedEvent
from faillog_otel.telemetry.api import Telemetry

# -- batch ---------------------------------------------------------------------------------------------------
#
# Records that are sent together: what is held of each until its fate is known, and what they come to.


EventClass = tuple[Kind, str, bool]
"""What counts tell apart: the kind of event, its destination, and whether it is bad (`Kind.is_bad`)."""


class PendingRecord(Struct, frozen=True, gc=False):
    """A mapped record: its place, its context, and what is to be sent."""

    number: int
    file: str
    line: int
    offset: int
    raw: bytes
    learned: KeptContext
    item: EncodedEvent
    event_class: EventClass
    logged_ns: int
    unsendable: tuple[Signal, ...] = ()
    """Signals that a kept record is still owed, and that this run does not send."""

    def place(self) -> Place:
        """Its place: needed only if it is kept."""
        return Place(self.file, self.line, self.offset)


class Batch(Struct):
    """Records that are sent together, and those between them that are not sent."""

    book: ResultSink
    stretch: BatchResult = field(default_factory=BatchResult)
    sendings: list[PendingRecord] = field(default_factory=list)
    ticket: Ticket | None = None
    held_bytes: int = 0
    read_bytes: int = 0
    """Bytes of its file, as it is, that end with it: a chunk ends when all its records are in batches."""
    suspects: int = 0
    """So many of its records are not cleared up yet."""
    max_request: int = 0
    is_plain: bool = True
    """Whether none of its records was kept before: none of them owes or has suffered anything."""
    classes: Counter[EventClass] = field(default_factory=Counter)
    """How many records of each class are sent."""

    def add(self, sending: PendingRecord) -> None:
        """Adds a record that is sent."""
        self.sendings.append(sending)
        item = sending.item
        log_bytes, span_bytes = len(item.log), len(item.span)
        self.max_request += max(log_bytes, span_bytes)
        self.held_bytes += len(sending.raw) + log_bytes + span_bytes  # roughly

    def keep(self, kept: Kept) -> None:
        """Notes a record that is kept, and why."""
        self.stretch.kept.append(kept)
        self.held_bytes += len(kept.entry)

    def count(self) -> None:
        """Counts the events that are sent, all at once."""
        self.classes = Counter([sending.event_class for sending in self.sendings])
        counts = self.stretch.counts
        for (kind, _, is_bad), count in self.classes.items():
            counts.count_events(kind, count, are_bad=is_bad)
            if is_bad and kind.fail_on and kind.fail_on not in self.stretch.met:
                first = self.first_bad(kind)
                met = met_by(first.raw, first.file, first.line, first.learned)
                self.stretch.met[kind.fail_on] = met

    def first_bad(self, kind: Kind) -> PendingRecord:
        """Returns the first bad event of a kind. There must be one."""
        return next(each for each in self.sendings if each.event_class[0] is kind and each.event_class[2])

    def account(self, sending: PendingRecord, outcome: str) -> None:
        """Notes the outcome of a record that was sent."""
        kind, destination, _ = sending.event_class
        self.stretch.became[kind.name, outcome, destination] += 1

    def account_all(self) -> None:
        """All records are exported: the ordinary case, without a look at each fate."""
        sendings, stretch = self.sendings, self.stretch
        stretch.counts.exported += len(sendings)
        for (kind, destination, _), count in self.classes.items():
            stretch.became[kind.name, "exported", destination] += count
        if shifted := [sending.number for sending in sendings if sending.item.is_shifted]:
            stretch.counts.time_shifted += len(shifted)
            stretch.shifted.update(shifted)
        stretch.newest_ns = max([stretch.newest_ns, *[sending.logged_ns for sending in sendings]])


def classify(event: Event) -> EventClass:
    """Returns what the counts have to know of an event."""
    properties = event.properties
    kind = KIND_OF[type(properties)]
    return kind, event.routing.destination_id or "", kind.is_bad(properties, event.extras)


# -- accounting ----------------------------------------------------------------------------------------------


_log = logging.getLogger(__name__)

MAX_HELD_BYTES = 32 * 1024 * 1024
"""So much may be held by the batches under way: records of 16 MiB go one by one."""

MAX_SUSPECTS = 512
"""So many records may wait for the proof that it is they whom the collector refuses."""


class InFlightBatches:
    """Of one run, or of one worker: its batches, and what all of them came to."""

    def __init__(self, delivery: Delivery, telemetry: Telemetry) -> None:
        self.counts = Counts()
        self.reasons: Counter[str] = Counter()
        """How many records are in quarantine, by reason code."""
        self.first_met: FirstMet = {}
        self.broken: LedgerBroken | None = None
        """Why it cannot be written down what becomes of records."""
        self.progress: Callable[[Accounted], object] = lambda _: None
        """Receives how many more bytes of input are accounted for."""
        self._delivery = delivery
        self._telemetry = telemetry
        self._under_way: deque[Batch] = deque()
        self._bytes_under_way = 0
        self._suspects: deque[tuple[Batch, PendingRecord, SendResults]] = deque()
        self._accounted: deque[Batch] = deque()
        self._bytes_accounted = 0
        self._last_rejections: dict[str, Rejection] = {}
        self._last_why = ""
        self._has_warned = False
        self._covered = 0  # bytes of input in front of the next batch
        self._records = self._pending = 0  # since the last batch that bytes of input end with
        self._share = (0, 1)  # of the records before it: so many of so many are pending

    def cover(self, read: int) -> None:
        """So many more bytes of input are accounted for when all batches so far are."""
        if batches := self._under_way or self._accounted:
            batches[-1].read_bytes += read
        else:
            self._covered += read

    def send(self, batch: Batch) -> None:
        """Sends a batch on its way; waits for older ones while there are too many."""
        batch.count()
        self._warn_of_unknown_versions(batch)
        batch.read_bytes += self._covered
        self._covered = 0
        self._bytes_under_way += batch.held_bytes
        batch.ticket = self._delivery.submit([sending.item for sending in batch.sendings])
        self._under_way.append(batch)
        while self._under_way and (
            not self._under_way[0].sendings  # there is nothing to wait for
            or len(self._under_way) > self._delivery.max_batches
            or self._bytes_under_way > MAX_HELD_BYTES
        ):
            self._account_oldest()

    def _warn_of_unknown_versions(self, batch: Batch) -> None:
        """Names the first event of an unknown version, once: it looks like one that is in order."""
        if self._has_warned or not batch.stretch.counts.unknown_version:
            return
        self._has_warned = True
        first = batch.first_bad(OTHER)
        _log.warning(
            "%s, line %d: an event of an unknown version: it is forwarded as segment.other and not judged;"
            " look for a newer faillog-otel",
            first.file,
            first.line,
        )

    def finish(self) -> None:
        """Waits until everything that was sent is written down."""
        while self._under_way:
            self._account_oldest()
        self._settle_suspects(at_most=0)
        self._write_down()
        self.progress(self._accounted_for(self._covered))
        self._covered = 0

    def _account_oldest(self) -> None:
        """Waits for the oldest batch: results are taken in the order of the file."""
        batch = self._under_way.popleft()
        self._accounted.append(batch)
        self._bytes_accounted += batch.held_bytes
        if batch.ticket is not None and batch.is_plain and self._delivery.is_all_acked(batch.ticket):
            batch.account_all()
        elif batch.ticket is not None:
            for sending, fates in zip(batch.sendings, self._delivery.result(batch.ticket), strict=True):
                if any(isinstance(fate, Suspected) for fate in fates.values()):
                    self._suspects.append((batch, sending, fates))
                    batch.suspects += 1
                else:
                    self._account(batch, sending, fates)
        self._bytes_under_way -= batch.held_bytes
        batch.sendings.clear()
        self._settle_suspects(at_most=MAX_SUSPECTS)
        self._write_down()

    def _settle_suspects(self, at_most: int) -> None:
        """Clears up what can be by now; waits for it only where more suspects would be left than `at_most`.

        Reading goes on meanwhile: the record whose success proves the case may not have been read yet.
        """
        while self._suspects:
            batch, sending, fates = self._suspects[0]
            are_few = len(self._suspects) <= at_most and self._bytes_accounted <= MAX_HELD_BYTES
            if are_few and not self._delivery.can_settle(fates):
                return
            self._suspects.popleft()
            batch.suspects -= 1
            self._account(batch, sending, self._delivery.settle(sending.item, fates))

    def _account(self, batch: Batch, sending: PendingRecord, fates: SendResults) -> None:
        counts = batch.stretch.counts
        untaken = [signal for signal, fate in fates.items() if isinstance(fate, Unsent)]
        untaken += sending.unsendable
        unfit = {signal: fate for signal, fate in fates.items() if isinstance(fate, Unacceptable)}
        rejections = [self._with_message_once(fate) for fate in fates.values() if isinstance(fate, Rejection)]
        learned = replace(
            sending.learned,
            signals=(*untaken, *unfit) or None,
            rejections=(*sending.learned.rejections, *rejections),
        )
        if untaken:
            why = self._delivery.gave_up_because or "this run does not send all that is owed"
            entry = write_entry("pending", self._once(why), sending.place(), sending.raw, learned)
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
        entry = write_entry(reason, why, sending.place(), sending.raw, learned)
        batch.keep(Kept(sending.number, "quarantine", reason, entry))
        self.reasons[reason] += 1

    def _with_message_once(self, rejection: Rejection) -> Rejection:
        """The rejection of a request for one of its records: only the first one keeps its message."""
        if self._last_rejections.get(rejection.signal) is rejection:
            return replace(rejection, message="")
        self._last_rejections[rejection.signal] = rejection
        return rejection

    def _once(self, why: str) -> str:
        """Why a record is pending; empty if the record before it is pending for the same reason."""
        last, self._last_why = self._last_why, why
        return "" if why == last else why

    def _write_down(self) -> None:
        """Writes down the batches of which everything is known, in their order."""
        while self._accounted and not self._accounted[0].suspects:
            batch = self._accounted.popleft()
            self._bytes_accounted -= batch.held_bytes
            batch.stretch.kept.sort(key=lambda kept: kept.number)
            self._records += batch.stretch.counts.records
            self._pending += batch.stretch.counts.pending
            batch.stretch.accounted = self._accounted_for(batch.read_bytes)
            is_written = True  # what cannot be written down is counted all the same, and the run is broken
            try:
                is_written = batch.book.commit(batch.stretch)
            except LedgerBroken as error:
                self.broken = self.broken or error
            if is_written:
                self.counts.add(batch.stretch.counts)
                self.progress(batch.stretch.accounted)
                note_first(self.first_met, batch.stretch)
                shifted = len(batch.stretch.shifted)
                self._telemetry.record_outcomes(batch.stretch.became, batch.stretch.reasons(), shifted)

    def _accounted_for(self, read: int) -> Accounted:
        """So many bytes of input end here: the records that were in them share them evenly.

        A batch may hold records of several small files, and bytes may end behind the batch that has all of
        their records: the share of pending ones is then that of the records before.
        """
        if not read:
            return Accounted()
        if self._records:
            self._share = self._pending, self._records
            self._records = self._pending = 0
        part, all_records = self._share
        pending = read * part // all_records
        return Accounted(read - pending, pending)


def _told(rejections: Sequence[Rejection]) -> str:
    return "; ".join(
        f"{each.rejected} of {each.records} {each.signal}" + (f": {each.message}" if each.message else "")
        for each in rejections
    )
