"""The scout: what Segment's own counts say of a collection's hours, and whether they can be trusted.

Segment stores the records of a message in the hour in which the message first failed, but counts a discard,
or a delivery after retries, in the hour in which it happens: up to `RETRY_HOURS` later. Pure functions.
"""

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from zlib import crc32

import msgspec
from msgspec import Struct

from faillog_otel.clock import hour_text
from faillog_otel.text import counted as number_of

RETRY_HOURS = 5
"""Segment retries for four and a half hours: so much later the outcome of an hour's messages is counted."""
LATER_WEIGHT = 0.1
"""What is counted in later hours is less likely to be of this hour than what is counted in it."""
PROBE_EVERY = 20
"""One in so many hours that are counted as zero is listed to test the counts."""
MISTRUST_HOURS = 7 * 24
"""Before and after an hour that has records though nothing was counted, the counts are not used."""
_SPREAD = (0, 10, 5, 15, 2, 12, 7, 17, 3, 13, 8, 18, 1, 11, 6, 16, 4, 14, 9, 19)
"""Residues of `PROBE_EVERY`: the first so many are evenly apart, so that a long failure is found soon."""
_RANKS = {residue: rank for rank, residue in enumerate(_SPREAD)}


class CountedHour(Struct, frozen=True):
    """What Segment counted in one hour at the destinations of a collection."""

    discarded: int = 0
    retried: int = 0
    """Deliveries after the first attempt."""


class CollectionCounts(Struct, frozen=True):
    """What is known of one collection. Hours are whole hours since 1970."""

    counted: Mapping[int, CountedHour]
    """Other hours are uncounted. An hour of zeros must have been counted after its end."""
    discards_read: Mapping[int, int] = msgspec.field(default_factory=dict)
    """Hour in which they happened → discards in the records that were read."""
    with_records: Collection[int] = ()
    """Listed hours that have failing records."""


class MissingRecords(Struct, frozen=True):
    """What was counted and not read, and may be in the records of an hour."""

    discarded: int = 0
    """Counted in the hour itself."""
    retried: int = 0
    later_discarded: int = 0
    """Counted up to `RETRY_HOURS` later."""
    later_retried: int = 0

    @property
    def own(self) -> int:
        """How much was counted in the hour itself."""
        return self.discarded + self.retried

    @property
    def score(self) -> float:
        """The order: the highest is listed first."""
        return self.own + LATER_WEIGHT * (self.later_discarded + self.later_retried)

    @property
    def text(self) -> str:
        """For people: `12 discards counted, not read yet`."""
        discarded, retried, when = self.discarded, self.retried, ""
        if not self.own:
            discarded, retried = self.later_discarded, self.later_retried
            when = f" within {RETRY_HOURS} hours after it"
        parts = [number_of(discarded, "discard")] if discarded else []
        if retried:
            parts.append("1 retried delivery" if retried == 1 else f"{retried:,} retried deliveries")
        return f"{' and '.join(parts)} counted{when}, not read yet"


class Mistrust(Struct, frozen=True):
    """Why the counts of a collection are not used."""

    hours: int
    """How many hours have records though nothing was counted."""
    newest: int
    """The newest of them."""

    @property
    def until(self) -> int:
        """The first hour whose counts are used again."""
        return self.newest + MISTRUST_HOURS + 1

    @property
    def text(self) -> str:
        """For people."""
        hours = "1 hour has" if self.hours == 1 else f"{self.hours} hours have"
        return (
            f"{hours} records though Segment counted no failure (newest: {hour_text(self.newest)});"
            f" its counts are not used for hours before {hour_text(self.until)}"
        )


class Findings(Struct, frozen=True):
    """What the counts say of one collection. An hour in none of the three is planned without counts."""

    missing: Mapping[int, MissingRecords]
    """Hours that may have records that were not read."""
    explained: Collection[int]
    """Hours near counted discards that were all read."""
    zero: Collection[int]
    """Hours without anything counted, in themselves or up to `RETRY_HOURS` later."""
    mistrust: Mistrust | None = None
    """Set if the counts of some hours were wrong; near those, the hours are in none of the three."""

    def knows(self, hour: int) -> bool:
        """Returns whether the counts say something of an hour."""
        return hour in self.zero or hour in self.missing or hour in self.explained

    def mistrusts(self, hour: int) -> bool:
        """Returns whether the counts of a new hour are not used because others were wrong."""
        return self.mistrust is not None and hour < self.mistrust.until

    def reason(self, collection: str, hour: int) -> str:
        """Returns why an hour that was never read is listed, for people; empty: the counts say nothing."""
        if (missing := self.missing.get(hour)) is not None:
            return missing.text
        if hour in self.explained:
            return "the discards counted near it are read; listed because requests are left"
        if hour in self.zero:
            if is_probe(collection, hour):
                return f"nothing counted; 1 in {PROBE_EVERY} of such hours is listed to test the counts"
            return "nothing counted; listed because requests are left"
        return "counts are not trusted here" if self.mistrusts(hour) else "not counted"


class Scout(Struct, frozen=True):
    """The findings of the collections whose destinations are counted; others are planned without counts."""

    findings: Mapping[str, Findings] = msgspec.field(default_factory=dict)

    def reason(self, collection: str, hour: int) -> str:
        """Returns why an hour that was never read is listed, for people; empty: nothing is counted."""
        found = self.findings.get(collection)
        return found.reason(collection, hour) if found else ""


NO_SCOUT = Scout()


def is_probe(collection: str, hour: int) -> bool:
    """Returns whether an hour counted as zero is listed to test the counts."""
    return (hour + _offset(collection)) % PROBE_EVERY == 0


def probe_rank(collection: str, hour: int) -> int:
    """Returns the order among hours counted as zero: those of the same or a lower rank are evenly apart."""
    return _RANKS[(hour + _offset(collection)) % PROBE_EVERY]


@cache
def _offset(collection: str) -> int:
    """Returns a number that differs between collections, so that their probes are at different times."""
    return crc32(collection.encode()) % PROBE_EVERY


def find(counts: CollectionCounts) -> Findings:
    """Returns what the counts say of a collection's hours."""
    counted = counts.counted
    failing = {hour: each for hour, each in counted.items() if each.discarded or each.retried}
    missing = _missing(failing, counts.discards_read)
    near = _before(failing)
    whole = counted.keys() - _before(hour + 1 for hour in counted if hour + 1 not in counted)
    zero = whole - near
    explained = (whole & near) - missing.keys()
    # The hour before counts as well: a failure on the stroke of the hour may be counted there.
    wrong = [hour for hour in counts.with_records if hour in zero and hour - 1 in zero]
    unused: set[int] = set()
    for hour in wrong:
        unused.update(range(hour - MISTRUST_HOURS, hour + MISTRUST_HOURS + 1))
    return Findings(
        {hour: each for hour, each in missing.items() if hour not in unused},
        explained - unused,
        zero - unused,
        Mistrust(len(wrong), max(wrong)) if wrong else None,
    )


def _missing(failing: Mapping[int, CountedHour], read: Mapping[int, int]) -> dict[int, MissingRecords]:
    sums: dict[int, list[int]] = {}
    for hour, each in failing.items():
        discarded = max(0, each.discarded - read.get(hour, 0))
        if discarded or each.retried:
            for at in range(hour - RETRY_HOURS, hour + 1):
                of_hour = sums.setdefault(at, [0, 0, 0, 0])
                later = 0 if at == hour else 2
                of_hour[later] += discarded
                of_hour[later + 1] += each.retried
    return {hour: MissingRecords(*of_hour) for hour, of_hour in sums.items()}


def _before(hours: Iterable[int]) -> set[int]:
    """Returns these hours and the `RETRY_HOURS` before each."""
    return {at for hour in hours for at in range(hour - RETRY_HOURS, hour + 1)}
