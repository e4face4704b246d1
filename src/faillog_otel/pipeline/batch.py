"""Batches of records: sends them, counts their outcomes, and commits their results in the order of the file.

A batch is committed when the outcome of each of its records is known and all batches before it are committed.
A record counts as exactly one of exported, rejected, quarantined, pending and duplicate.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from faillog_otel.config import Signal
from faillog_otel.errors import InputError, LedgerBroken
from faillog_otel.events.failure_counts import BatchFailures
from faillog_otel.events.kept_record import KeptContext, Rejection, write_entry
from faillog_otel.events.model import KIND_OF, OTHER, Event, Kind, Place
from faillog_otel.ledger.failures import Changes
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
from faillog_otel.telemetry import FailureChanges, NewGroup, Telemetry

_log = logging.getLogger(__name__)

MAX_HELD_BYTES = 32 * 1024 * 1024
"""The bytes that the batches in flight may hold: records of 16 MiB are sent one by one."""
MAX_SUSPECTS = 512
"""The records that may wait for proof that the collector rejects them, and not everything."""

EventClass = tuple[Kind, str, bool]
"""What is counted separately: the kind of event, its destination, and whether it is bad (`Kind.is_bad`)."""


class PendingRecord(Struct, frozen=True, gc=False):
    """A record that is sent: its place, its context, and its encoded event."""

    number: int
    file: str
    line: int
    offset: int
    raw: bytes
    context: KeptContext
    item: EncodedEvent
    event_class: EventClass
    logged_ns: int
    unsendable: tuple[Signal, ...] = ()
    """Signals of a replayed record that are still to be sent, and that this run does not send."""

    def place(self) -> Place:
        """Returns its place, which is needed only if it is kept."""
        return Place(self.file, self.line, self.offset)


class Batch(Struct):
    """Consecutive records: those that are sent together, and the results of all of them."""

    sink: ResultSink
    result: BatchResult = field(default_factory=BatchResult)
    records: list[PendingRecord] = field(default_factory=list)
    ticket: Ticket | None = None
    held_bytes: int = 0
    read_bytes: int = 0
    """Bytes of the input file (compressed or not) that end with this batch, counted by chunks."""
    suspects: int = 0
    """Its records that may or may not be the cause of a rejected request."""
    max_request: int = 0
    """An upper bound of the bytes of its largest request."""
    is_plain: bool = True
    """Whether none of its records is a replayed entry."""
    classes: Counter[EventClass] = field(default_factory=Counter)
    """How many records of each class are sent."""

    def add(self, record: PendingRecord) -> None:
        """Adds a record that is sent."""
        self.records.append(record)
        item = record.item
        log_bytes, span_bytes = len(item.log), len(item.span)
        self.max_request += max(log_bytes, span_bytes)
        self.held_bytes += len(record.raw) + log_bytes + span_bytes

    def keep(self, kept: Kept) -> None:
        """Adds a record that goes to the quarantine or to the pending records."""
        self.result.kept.append(kept)
        self.held_bytes += len(kept.entry)

    def count(self) -> None:
        """Counts the events that are sent."""
        self.classes = Counter([record.event_class for record in self.records])
        counts = self.result.counts
        for (kind, _, is_bad), count in self.classes.items():
            counts.count_events(kind, count, are_bad=is_bad)
            if is_bad and kind.fail_on and kind.fail_on not in self.result.met:
                first = self.first_bad(kind)
                met = met_by(first.raw, first.file, first.line, first.context)
                self.result.met[kind.fail_on] = met

    def first_bad(self, kind: Kind) -> PendingRecord:
        """Returns the first bad event of a kind. There must be one."""
        return next(each for each in self.records if each.event_class[0] is kind and each.event_class[2])

    def account(self, record: PendingRecord, outcome: str) -> None:
        """Counts the outcome of a record that was sent."""
        kind, destination, _ = record.event_class
        self.result.outcomes[kind.name, outcome, destination] += 1

    def account_all(self) -> None:
        """Counts all records as exported, which is the ordinary case."""
        records, result = self.records, self.result
        result.counts.exported += len(records)
        for (kind, destination, _), count in self.classes.items():
            result.outcomes[kind.name, "exported", destination] += count
        if shifted := [record.number for record in records if record.item.is_shifted]:
            result.counts.time_shifted += len(shifted)
            result.shifted.update(shifted)
        result.newest_ns = max([result.newest_ns, *[record.logged_ns for record in records]])


def classify(event: Event) -> EventClass:
    """Returns the class under which an event is counted."""
    properties = event.properties
    kind = KIND_OF[type(properties)]
    return kind, event.routing.destination_id or "", kind.is_bad(properties, event.extras)


class InFlightBatches:
    """The batches of one run or worker that are not committed yet, and the counts of all batches."""

    def __init__(self, delivery: Delivery, telemetry: Telemetry) -> None:
        self.counts = Counts()
        self.reasons: Counter[str] = Counter()
        """How many records are in quarantine, by reason code."""
        self.first_met: FirstMet = {}
        self.broken: LedgerBroken | None = None
        """Why results can no longer be committed; None while they can."""
        self.progress: Callable[[Accounted], object] = lambda _: None
        """Receives the further bytes of input that are accounted for."""
        self.take_failures: Callable[[BatchFailures], object] = lambda _: None
        """Receives the failures among committed records."""
        self._delivery = delivery
        self._telemetry = telemetry
        self._in_flight: deque[Batch] = deque()
        self._bytes_in_flight = 0
        self._suspects: deque[tuple[Batch, PendingRecord, SendResults]] = deque()
        self._accounted: deque[Batch] = deque()
        self._bytes_accounted = 0
        self._last_rejections: dict[str, Rejection] = {}
        self._last_why = ""
        self._has_warned = False
        self._covered = 0  # bytes of input before the next batch
        self._records = self._pending = 0  # since the last batch with which bytes of input ended
        self._share = (0, 1)  # pending records and all records before that
        self._shown = 0  # records that were exported before the last `show`

    def cover(self, read: int) -> None:
        """Adds bytes of input that are accounted for together with all batches so far."""
        if batches := self._in_flight or self._accounted:
            batches[-1].read_bytes += read
        else:
            self._covered += read

    def send(self, batch: Batch) -> None:
        """Starts sending a batch; waits for older ones while too many are in flight."""
        batch.count()
        self._warn_of_unknown_versions(batch)
        batch.read_bytes += self._covered
        self._covered = 0
        self._bytes_in_flight += batch.held_bytes
        batch.ticket = self._delivery.submit([record.item for record in batch.records])
        self._in_flight.append(batch)
        while self._in_flight and (
            not self._in_flight[0].records  # nothing was sent
            or len(self._in_flight) > self._delivery.max_batches
            or self._bytes_in_flight > MAX_HELD_BYTES
        ):
            self._account_oldest()

    def _warn_of_unknown_versions(self, batch: Batch) -> None:
        """Warns once of an event of an unknown version, which otherwise looks like a good one."""
        if self._has_warned or not batch.result.counts.unknown_version:
            return
        self._has_warned = True
        first = batch.first_bad(OTHER)
        _log.warning(
            "%s, line %d: event of an unknown version, forwarded as segment.other and not judged; install a"
            " newer faillog-otel",
            first.file,
            first.line,
        )

    def finish(self) -> None:
        """Waits until the results of everything that was sent are committed."""
        while self._in_flight:
            self._account_oldest()
        self._settle_suspects(at_most=0)
        self._commit_accounted()
        self.progress(self._accounted_for(self._covered))
        self._covered = 0

    def show(self) -> int:
        """Writes what the client keeps; returns how many records it could not, which are pending then."""
        if self._delivery.flush():
            self._shown = self.counts.exported
            return 0
        not_shown = self.counts.exported - self._shown
        self.counts.exported -= not_shown
        self.counts.pending += not_shown
        return not_shown

    def _account_oldest(self) -> None:
        """Waits for the results of the oldest batch, and counts them."""
        batch = self._in_flight.popleft()
        self._accounted.append(batch)
        self._bytes_accounted += batch.held_bytes
        if batch.ticket is not None and batch.is_plain and self._delivery.is_all_acked(batch.ticket):
            batch.account_all()
        elif batch.ticket is not None:
            for record, results in zip(batch.records, self._delivery.result(batch.ticket), strict=True):
                if any(isinstance(result, Suspected) for result in results.values()):
                    self._suspects.append((batch, record, results))
                    batch.suspects += 1
                else:
                    self._account(batch, record, results)
        self._bytes_in_flight -= batch.held_bytes
        batch.records.clear()
        self._settle_suspects(at_most=MAX_SUSPECTS)
        self._commit_accounted()

    def _settle_suspects(self, at_most: int) -> None:
        """Settles the suspects that can be settled now; waits only while more than `at_most` are left.

        Otherwise reading goes on: the record whose success is the proof may not have been read yet.
        """
        while self._suspects:
            batch, record, results = self._suspects[0]
            are_few = len(self._suspects) <= at_most and self._bytes_accounted <= MAX_HELD_BYTES
            if are_few and not self._delivery.can_settle(results):
                return
            self._suspects.popleft()
            batch.suspects -= 1
            self._account(batch, record, self._delivery.settle(record.item, results))

    def _account(self, batch: Batch, record: PendingRecord, results: SendResults) -> None:
        counts = batch.result.counts
        unsent = [signal for signal, result in results.items() if isinstance(result, Unsent)]
        unsent += record.unsendable
        unacceptable = {
            signal: result for signal, result in results.items() if isinstance(result, Unacceptable)
        }
        rejections = [
            self._with_message_once(result) for result in results.values() if isinstance(result, Rejection)
        ]
        context = replace(
            record.context,
            signals=(*unsent, *unacceptable) or None,
            rejections=(*record.context.rejections, *rejections),
        )
        if unsent:
            why = self._delivery.gave_up_because or "this run does not send all that is owed"
            entry = write_entry("pending", self._once(why), record.place(), record.raw, context)
            batch.keep(Kept(record.number, "pending", "pending", entry))
            counts.pending += 1
            return
        if unacceptable:
            reason = next(iter(unacceptable.values())).reason
            why = "; ".join(f"{signal}: {result.why}" for signal, result in unacceptable.items())
            counts.quarantined += 1
            batch.account(record, "quarantined")
        elif context.rejections:
            reason, why = "rejected", _rejections_text(context.rejections)
            counts.rejected += 1
            batch.account(record, "rejected")
        else:
            counts.exported += 1
            batch.account(record, "exported")
            if record.item.is_shifted:
                counts.time_shifted += 1
                batch.result.shifted.add(record.number)
            batch.result.newest_ns = max(batch.result.newest_ns, record.logged_ns)
            return
        entry = write_entry(reason, why, record.place(), record.raw, context)
        batch.keep(Kept(record.number, "quarantine", reason, entry))
        self.reasons[reason] += 1

    def _with_message_once(self, rejection: Rejection) -> Rejection:
        """Returns a request's rejection for one of its records; only the first record keeps the message."""
        if self._last_rejections.get(rejection.signal) is rejection:
            return replace(rejection, message="")
        self._last_rejections[rejection.signal] = rejection
        return rejection

    def _once(self, why: str) -> str:
        """Returns why a record is pending; empty if the reason is that of the record before it."""
        last, self._last_why = self._last_why, why
        return "" if why == last else why

    def _commit_accounted(self) -> None:
        """Commits the batches whose outcomes are all known, in their order."""
        while self._accounted and not self._accounted[0].suspects:
            batch = self._accounted.popleft()
            self._bytes_accounted -= batch.held_bytes
            batch.result.kept.sort(key=lambda kept: kept.number)
            self._records += batch.result.counts.records
            self._pending += batch.result.counts.pending
            batch.result.accounted = self._accounted_for(batch.read_bytes)
            # A batch that cannot be committed is counted, too: the run ends with an error.
            is_committed = True
            try:
                is_committed = batch.sink.commit(batch.result)
            except LedgerBroken as error:
                self.broken = self.broken or error
            if is_committed:
                self._count_failures(batch.result)
                self.counts.add(batch.result.counts)
                self.progress(batch.result.accounted)
                note_first(self.first_met, batch.result)
                shifted = len(batch.result.shifted)
                self._telemetry.record_outcomes(batch.result.outcomes, batch.result.reasons(), shifted)

    def _count_failures(self, result: BatchResult) -> None:
        if result.changes is not None:
            self._telemetry.record_failures(failure_changes(result.changes))
        try:
            self.take_failures(result.failures)
        except InputError as error:  # a temporary file is not writable
            self.broken = self.broken or LedgerBroken(str(error))

    def _accounted_for(self, read: int) -> Accounted:
        """Divides bytes of input into delivered and pending ones, in proportion to their records.

        Bytes can end behind the batch with the last of their records; the proportion is then that of the
        records before. A batch can hold records of several small files.
        """
        if not read:
            return Accounted()
        if self._records:
            self._share = self._pending, self._records
            self._records = self._pending = 0
        part, all_records = self._share
        pending = read * part // all_records
        return Accounted(read - pending, pending)


def _rejections_text(rejections: Sequence[Rejection]) -> str:
    return "; ".join(
        f"{each.rejected} of {each.records} {each.signal}" + (f": {each.message}" if each.message else "")
        for each in rejections
    )


def failure_changes(changes: Changes) -> FailureChanges:
    """Returns what a commit changed, as metrics take it."""
    return FailureChanges(
        messages=changes.messages,
        attempts=changes.attempts,
        new_groups=[
            NewGroup(
                id=group.id,
                destination=group.destination,
                code=group.code,
                status=group.status,
                reason_class=group.reason_class,
                reason=group.reason,
                first_ns=first_ns,
            )
            for group, first_ns in changes.new_groups
        ],
    )
