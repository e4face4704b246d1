"""What becomes of records, counted; and the law that the counts keep.

`records = exported + rejected + quarantined + pending + duplicate`; for JSON Lines `lines = records + blank`,
for other forms `lines` and `blank` are 0.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Literal, Protocol

from msgspec import Struct, field

from faillog_otel.config import FailOn
from faillog_otel.events.decode import decode
from faillog_otel.events.kept_record import KeptContext, read_entry
from faillog_otel.events.model import BadRecord, Event
from faillog_otel.redact.redactor import redact_text
from faillog_otel.text import peer_text

# -- counts --------------------------------------------------------------------------------------------------


class EventCounts(Struct):
    """Events that were understood, by kind."""

    error: int = 0
    attempt: int = 0
    exchange: int = 0
    other: int = 0


class Counts(Struct):
    """What became of the records of a run, or of a part of it. `bytes_in` is content read, decompressed."""

    lines: int = 0
    """Of JSON Lines, like `blank`."""
    blank: int = 0
    records: int = 0
    events: EventCounts = field(default_factory=EventCounts)
    exported: int = 0
    rejected: int = 0
    quarantined: int = 0
    pending: int = 0
    duplicate: int = 0
    bytes_in: int = 0
    discarded: int = 0
    """Error Logged events whose message was discarded, or may have been: `discarded` is no boolean."""
    failures: int = 0
    """Delivery attempts with outcome `failure`, or with one that is not `success` either."""
    unknown_version: int = 0
    """Events of a version that is not understood: nobody knows whether they are discards or failures."""
    time_shifted: int = 0
    """Exported records that carry another time than their own."""

    def add(self, more: "Counts") -> None:
        """Adds what another part came to."""
        for into, part in ((self, more), (self.events, more.events)):
            for name in into.__struct_fields__:
                if name != "events":
                    setattr(into, name, getattr(into, name) + getattr(part, name))


class Kept(Struct, frozen=True):
    """A record that is kept, as the line that `events.entry` writes. `reason` is a code.

    `number` is its place among the records of its book, from 0.
    """

    number: int
    where: Literal["quarantine", "pending"]
    reason: str
    entry: bytes


class Accounted(Struct, frozen=True):
    """Bytes of input files, as they are (compressed or not), whose records need no more work in this run."""

    delivered: int = 0
    """Of records that were acknowledged, or that no collector has to take: duplicates, the quarantine."""
    pending: int = 0

    def plus(self, more: "Accounted") -> "Accounted":
        """Returns both together."""
        return Accounted(self.delivered + more.delivered, self.pending + more.pending)

    def at_most(self, total: int) -> "Accounted":
        """Returns the part of it that `total` bytes have room for."""
        delivered = min(self.delivered, total)
        return Accounted(delivered, min(self.pending, total - delivered))


class Met(Struct, frozen=True):
    """A record that met a condition of `--fail-on`; what is not known of it is empty."""

    file: str
    """The file or the object."""
    line: int
    message_id: str = ""
    destination: str = ""
    why: str = ""


class BatchResult(Struct):
    """Records that stand one after the other in a file, and what became of every one of them."""

    counts: Counts = field(default_factory=Counts)
    kept: list[Kept] = field(default_factory=list)
    became: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(event, outcome, destination id) → records; what is not known of them is empty."""
    shifted: set[int] = field(default_factory=set)
    """The exported records that carry another time than their own, by their number in the file, from 0."""
    met: dict[FailOn, Met] = field(default_factory=dict)
    """The first record of those that were sent that met each of the conditions `failure` and `discarded`."""
    newest_ns: int = 0
    """When Segment logged the newest of those that were exported, nanoseconds since 1970."""
    accounted: Accounted = Accounted()
    """The bytes of input that end with it."""
    is_last: bool = False
    """Whether nothing more comes of its book; said only to books that ask for their end."""

    def add(self, more: "BatchResult") -> None:
        """Adds the stretch that follows."""
        self.counts.add(more.counts)
        self.kept += more.kept
        self.became.update(more.became)
        self.shifted |= more.shifted
        self.met = more.met | self.met
        self.newest_ns = max(self.newest_ns, more.newest_ns)
        self.accounted = self.accounted.plus(more.accounted)
        self.is_last = more.is_last

    def reasons(self) -> Counter[str]:
        """Why records went to the quarantine; those that were rejected lie there, too, and are none."""
        return Counter(
            kept.reason for kept in self.kept if kept.where == "quarantine" and kept.reason != "rejected"
        )


class ResultSink(Protocol):
    """Where it is written down what became of records."""

    reference_ns: int
    """The "now" of the time policy, nanoseconds since 1970."""
    position: int
    """So many of the file's records are written down already."""
    holds_entries: bool
    """Whether the records may be entries of kept files, to be sent again."""

    def check_and_add(self, raw: bytes) -> bool:
        """Whether a record of these bytes is known; from now on it is. Of no bytes, none is."""

    def commit(self, stretch: BatchResult) -> bool:
        """Stores what became of a stretch, in their order; False where it was not. Raises LedgerBroken."""


# -- first met -----------------------------------------------------------------------------------------------
#
# The first record that met each condition of `--fail-on`, in words that a log line can show.


FirstMet = dict[FailOn, Met]


def note_first(first: FirstMet, stretch: BatchResult) -> None:
    """Adds what a stretch met, where nothing before it did. Stretches come in the order of their records."""
    for condition, met in stretch.met.items():
        first.setdefault(condition, met)
    if "quarantined" not in first and (met_kept := _met_by_kept(stretch.kept)):
        first["quarantined"] = met_kept


def met_by(raw: bytes, file: str, line: int, learned: KeptContext | None) -> Met:
    """What is said of a record that met a condition: its message, its destination, and why it failed."""
    event = decode(raw)
    if isinstance(event, BadRecord):
        return Met(file, line, why=f"{event.reason}: {event.detail}")
    return Met(
        file,
        line,
        message_id=peer_text(getattr(event.properties, "message_id", None) or "", str),
        destination=event.routing.destination_id or "",
        why=_why(event, learned),
    )


def _why(event: Event, learned: KeptContext | None) -> str:
    answer = learned.answer if learned else None
    reason = event.reason or (answer.reason if answer else None)
    parts = [f"HTTP {answer.status}"] if answer and answer.status else []
    parts += [peer_text(reason.text, redact_text)] if reason else []
    return ": ".join(parts)


def _met_by_kept(kept: Iterable[Kept]) -> Met | None:
    """The first record that went to the quarantine; None where no record did."""
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
