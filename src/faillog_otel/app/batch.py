"""Records that are sent together: what is held of each until its fate is known, and what they come to."""

from collections import Counter

from msgspec import Struct, field

from faillog_otel.app.first_met import met_by
from faillog_otel.config import Signal
from faillog_otel.events.entry import Learned
from faillog_otel.events.model import AttemptProperties, ErrorProperties, Event, ExchangeProperties, Place
from faillog_otel.events.version import is_version_1
from faillog_otel.ledger.counts import Book, Kept, Met, Stretch
from faillog_otel.otlp.delivery import Ticket
from faillog_otel.otlp.encoding import Item

Sort = tuple[str, str, bool]
"""What counts tell apart: the kind of event, its destination, and whether it is a failure, a discard or, of
another kind, an event of an unknown version."""


class Sending(Struct, frozen=True, gc=False):
    """A record that is mapped: where it stands, what it learned, and what is sent of it."""

    number: int
    file: str
    line: int
    offset: int
    raw: bytes
    learned: Learned
    item: Item
    sort: Sort
    logged_ns: int
    unsendable: tuple[Signal, ...] = ()
    """Signals that a kept record is still owed, and that this run does not send."""

    def place(self) -> Place:
        """Where it stands: asked only where something is wrong with it."""
        return Place(self.file, self.line, self.offset)


class Batch(Struct):
    """Records that are sent together, and those between them that are not sent."""

    book: Book
    stretch: Stretch = field(default_factory=Stretch)
    sendings: list[Sending] = field(default_factory=list)
    ticket: Ticket | None = None
    held_bytes: int = 0
    read_bytes: int = 0
    """Bytes of its file, as it is, that end with it: a chunk ends when all its records are in batches."""
    suspects: int = 0
    """So many of its records are not cleared up yet."""
    largest_request: int = 0
    is_plain: bool = True
    """Whether none of its records was kept before: none of them owes or has suffered anything."""
    sorts: Counter[Sort] = field(default_factory=Counter)
    """How many records of each sort are sent."""

    def add(self, sending: Sending) -> None:
        """Adds a record that is sent."""
        self.sendings.append(sending)
        item = sending.item
        log_bytes, span_bytes = len(item.log), len(item.span)
        self.largest_request += max(log_bytes, span_bytes)
        self.held_bytes += len(sending.raw) + log_bytes + span_bytes  # roughly

    def keep(self, kept: Kept) -> None:
        """Notes a record that is kept, and why."""
        self.stretch.kept.append(kept)
        self.held_bytes += len(kept.entry)

    def count(self) -> None:
        """Counts the events that are sent, all at once."""
        self.sorts = Counter([sending.sort for sending in self.sendings])
        counts = self.stretch.counts
        for (kind, _, is_bad), count in self.sorts.items():
            setattr(counts.events, kind, getattr(counts.events, kind) + count)
            counts.failures += count if is_bad and kind == "attempt" else 0
            counts.discarded += count if is_bad and kind == "error" else 0
            counts.unknown_version += count if is_bad and kind == "other" else 0
        if counts.failures:
            self.stretch.met["failure"] = self._first_bad("attempt")
        if counts.discarded:
            self.stretch.met["discarded"] = self._first_bad("error")

    def _first_bad(self, kind: str) -> Met:
        first = next(each for each in self.sendings if each.sort[0] == kind and each.sort[2])
        return met_by(first.raw, first.file, first.line, first.learned)

    def account(self, sending: Sending, outcome: str) -> None:
        """Notes what became of a record that was sent."""
        kind, destination, _ = sending.sort
        self.stretch.became[kind, outcome, destination] += 1

    def account_all(self) -> None:
        """All records are exported: the ordinary case, without a look at each fate."""
        sendings, stretch = self.sendings, self.stretch
        stretch.counts.exported += len(sendings)
        for (kind, destination, _), count in self.sorts.items():
            stretch.became[kind, "exported", destination] += count
        if shifted := [sending.number for sending in sendings if sending.item.is_shifted]:
            stretch.counts.time_shifted += len(shifted)
            stretch.shifted.update(shifted)
        stretch.newest_ns = max([stretch.newest_ns, *[sending.logged_ns for sending in sendings]])


def sort_of(event: Event) -> Sort:
    """What sort of event it is, and whether it is bad, or may be: no other value than these is a good one."""
    properties, destination = event.properties, event.routing.destination_id or ""
    if type(properties) is AttemptProperties:
        outcome = properties.outcome or event.extras.get("outcome")
        return "attempt", destination, outcome is not None and str(outcome).lower() != "success"
    if type(properties) is ErrorProperties:
        discarded = properties.discarded or event.extras.get("discarded")
        return "error", destination, bool(discarded) and str(discarded).lower() != "false"
    if type(properties) is ExchangeProperties:
        return "exchange", destination, False
    return "other", destination, not is_version_1(event.extras.get("version"))
