"""The results of records: their counts, those of a batch, and the Protocol of the sinks that commit them.

The law of the counts: `records = exported + rejected + quarantined + pending + duplicate`; for JSON Lines
`lines = records + blank`, for other forms `lines` and `blank` are 0.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Literal, Protocol

from msgspec import Struct, field

from faillog_otel.config import FailOn
from faillog_otel.events.decode import decode
from faillog_otel.events.failure_counts import BatchFailures
from faillog_otel.events.kept_record import KeptContext, read_entry
from faillog_otel.events.model import KINDS, BadRecord, Event, Kind
from faillog_otel.ledger.failures import Changes
from faillog_otel.ledger.spool import SeenRecords
from faillog_otel.redact import redact_text
from faillog_otel.text import peer_text


def _no_events() -> dict[str, int]:
    return {kind.name: 0 for kind in KINDS}


class Counts(Struct):
    """Counts of a run or a part of it. `bytes_in` is the size of the decompressed content that was read."""

    lines: int = 0
    """For JSON Lines, like `blank`."""
    blank: int = 0
    records: int = 0
    events: dict[str, int] = field(default_factory=_no_events)
    """Decoded events, by kind."""
    exported: int = 0
    rejected: int = 0
    quarantined: int = 0
    pending: int = 0
    duplicate: int = 0
    bytes_in: int = 0
    discarded: int = 0
    """Error Logged events whose message was discarded, or may have been (`discarded` is no boolean)."""
    failures: int = 0
    """Delivery attempts with any outcome but `success`."""
    unknown_version: int = 0
    """Events of an unknown version, which count neither as discards nor as failures."""
    time_shifted: int = 0
    """Exported records whose time the time policy changed."""

    def add(self, more: "Counts") -> None:
        """Adds the counts of another part."""
        for name in self.__struct_fields__:
            if name != "events":
                setattr(self, name, getattr(self, name) + getattr(more, name))
        for name, count in more.events.items():
            self.events[name] += count

    def count_events(self, kind: Kind, count: int, *, are_bad: bool) -> None:
        """Counts decoded events of one kind."""
        self.events[kind.name] += count
        if are_bad and kind.bad_count:
            setattr(self, kind.bad_count, getattr(self, kind.bad_count) + count)


class Kept(Struct, frozen=True):
    """A kept record, as the line that `events.kept_record` writes. `reason` is a reason code.

    `number` is its place among the records of its sink, from 0.
    """

    number: int
    where: Literal["quarantine", "pending"]
    reason: str
    entry: bytes


class KeptEntry(Struct, frozen=True):
    """An entry of the quarantine, as `events.kept_record` writes it."""

    id: int
    collection: str
    entry: bytes


class ReplayedEntry(Struct, frozen=True):
    """The result of an entry of the quarantine that was sent again: exported, or `kept` again."""

    id: int
    kept: Kept | None
    is_shifted: bool
    """Whether it was exported with a time that the time policy changed."""


class Accounted(Struct, frozen=True):
    """Bytes of input files (compressed or not) whose records need no more work in this run."""

    delivered: int = 0
    """Of records that were acknowledged or are not sent (duplicates, the quarantine)."""
    pending: int = 0

    def plus(self, more: "Accounted") -> "Accounted":
        """Returns the sum of both."""
        return Accounted(self.delivered + more.delivered, self.pending + more.pending)

    def at_most(self, total: int) -> "Accounted":
        """Returns at most `total` bytes of it, delivered ones first."""
        delivered = min(self.delivered, total)
        return Accounted(delivered, min(self.pending, total - delivered))


class Met(Struct, frozen=True):
    """A record that met a condition of `--fail-on`; unknown fields are empty."""

    file: str
    """The file or the object."""
    line: int
    message_id: str = ""
    destination: str = ""
    why: str = ""


class BatchResult(Struct):
    """The results of consecutive records of a file."""

    counts: Counts = field(default_factory=Counts)
    kept: list[Kept] = field(default_factory=list)
    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(kind of event, outcome, destination id) → records; unknown fields are empty."""
    shifted: set[int] = field(default_factory=set)
    """The exported records whose time was changed, by their number in the file, from 0."""
    met: dict[FailOn, Met] = field(default_factory=dict)
    """The first record sent that met the condition, for `failure` and `discarded`."""
    newest_ns: int = 0
    """When Segment logged the newest exported record, nanoseconds since 1970."""
    accounted: Accounted = Accounted()
    """The bytes of input that end with this batch."""
    failures: BatchFailures = field(default_factory=BatchFailures)
    changes: Changes | None = None
    """What the commit changed about failing messages; the sink sets it."""
    is_last: bool = False
    """Whether this is the last result of its sink; only `Forwarder.end` sets it."""

    def add(self, more: "BatchResult") -> None:
        """Adds the results of the records that follow."""
        self.counts.add(more.counts)
        self.kept += more.kept
        self.outcomes.update(more.outcomes)
        self.shifted |= more.shifted
        self.met = more.met | self.met
        self.newest_ns = max(self.newest_ns, more.newest_ns)
        self.accounted = self.accounted.plus(more.accounted)
        self.failures.add(more.failures)
        self.is_last = more.is_last

    def reasons(self) -> Counter[str]:
        """Counts the quarantined records by reason, without the rejected ones in the quarantine."""
        return Counter(
            kept.reason for kept in self.kept if kept.where == "quarantine" and kept.reason != "rejected"
        )


class ResultSink(Protocol):
    """Where the results of a file's records are committed."""

    reference_ns: int
    """The "now" of the time policy, nanoseconds since 1970."""
    position: int
    """Number of the file's records that are committed."""
    holds_entries: bool
    """Whether the records may be entries of kept files, for a replay."""

    @property
    def seen(self) -> SeenRecords | None:
        """The records of which a second one is a duplicate; None if the sink detects no duplicates."""

    def commit(self, result: BatchResult) -> bool:
        """Stores the results of a batch, in the order of the batches; returns whether it did.

        Raises LedgerBroken.
        """


FirstMet = dict[FailOn, Met]
"""Condition of `--fail-on` → the first record that met it."""


def note_first(first: FirstMet, result: BatchResult) -> None:
    """Adds the records of a batch that met a condition first. Call it in the order of the batches."""
    for condition, met in result.met.items():
        first.setdefault(condition, met)
    if "quarantined" not in first and (met_kept := _met_by_kept(result.kept)):
        first["quarantined"] = met_kept


def met_by(raw: bytes, file: str, line: int, context: KeptContext | None) -> Met:
    """Describes a record that met a condition: its message, its destination, and why it failed."""
    event = decode(raw)
    if isinstance(event, BadRecord):
        return Met(file, line, why=f"{event.reason}: {event.detail}")
    return Met(
        file,
        line,
        message_id=peer_text(event.properties.message_id or "", str),
        destination=event.routing.destination_id or "",
        why=_why(event, context),
    )


def _why(event: Event, context: KeptContext | None) -> str:
    answer = context.answer if context else None
    reason = event.reason or (answer.reason if answer else None)
    parts = [f"HTTP {answer.status}"] if answer and answer.status else []
    parts += [peer_text(reason.text, redact_text)] if reason else []
    return ": ".join(parts)


def _met_by_kept(kept: Iterable[Kept]) -> Met | None:
    """Returns the first record that went to the quarantine; None if no record did."""
    for each in kept:
        if each.where == "quarantine":
            entry = read_entry(each.entry)
            if entry is None:
                return Met("", 0, why=each.reason)
            record = entry.record()
            met = met_by(record, entry.file, entry.line or 0, entry.context) if record else None
            why = f"{each.reason}: {entry.detail}" if entry.detail else each.reason
            return Met(
                entry.file,
                entry.line or 0,
                message_id=met.message_id if met else "",
                destination=met.destination if met else "",
                why=why,
            )
    return None
