"""Segment's own counts of events in the ledger: what `LedgerReader` and `Ledger` offer for them.

Hours are whole hours since 1970, in which the events occurred. Other times are nanoseconds since 1970.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from msgspec import Struct

Pair = tuple[str, str]
"""The ids of a source and of a destination; an empty destination means counts by source only."""
DestinationHour = tuple[int, str]


class EventCount(Struct, frozen=True, gc=False):
    """Events of one hour, as Segment counts them."""

    hour: int
    source: str
    destination: str
    """Empty for stages that are counted by source: received, failed_on_ingest and filtered_at_source."""
    stage: str
    """One of `segment.overview.Stage`."""
    reason: str
    """Why they were discarded, or `successes.attempt.N`; empty: none."""
    events: int
    retried: int = 0
    """Of the delivered ones: after the first attempt."""


class CountSizes(Struct, frozen=True):
    """How much is kept."""

    hours: int
    """Different hours that were counted, at least for a part of the pairs."""
    rows: int


class CountsReader(Protocol):
    """Reads counts. All methods raise as those of `LedgerReader`."""

    def event_counts(self, since_ns: int, until_ns: int) -> list[EventCount]:
        """Returns the counts of the hours that begin in the window."""

    def counted_hours(self, since_ns: int, until_ns: int) -> dict[DestinationHour, int]:
        """Returns hour and destination → when the counts of all its sources were read, the oldest of them.

        Hours of which only some sources were read are left out.
        """

    def count_readings(self, since_ns: int) -> dict[Pair, dict[int, int]]:
        """Returns pair → hour → when it was read, of the hours that begin at this time or later."""

    def connections(self) -> list[Pair]:
        """Returns which sources send to which destinations."""

    def discards_read(self, since_ns: int, until_ns: int) -> dict[DestinationHour, int]:
        """Returns hour and destination → discards in the records that were read."""

    def learned_destinations(self) -> dict[str, tuple[str, ...]]:
        """Returns collection → the destinations of its newest failures, the most frequent first."""

    def hours_with_failures(self, after: int) -> set[tuple[str, int]]:
        """Returns collection and hour of the hours later than `after` that have failing records."""

    def count_sizes(self) -> CountSizes:
        """Returns how much is kept."""


class CountsLedger(Protocol):
    """Stores counts. All methods raise as those of `Ledger`."""

    def note_counts(
        self, pair: Pair, hours: Collection[int], counts: Iterable[EventCount], now_ns: int
    ) -> list[EventCount]:
        """Replaces the counts of a pair in these hours; returns by how much events and retried grew.

        `counts` are all of the pair's counts in these hours. Hours that are counted for the first time long
        after they ended do not grow: they are history, not news.
        """

    def note_connections(self, pairs: Iterable[Pair]) -> None:
        """Replaces the connections."""


def destinations_of(
    learned: Mapping[str, tuple[str, ...]], settings: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Returns collection → its destinations: that of the settings, or else the learned ones."""
    return {**learned, **{name: (destination,) for name, destination in settings.items()}}
