"""Completeness: how many of the discards that Segment counted are in the failure logs that were read.

Hours are those of occurrence. Only settled hours count, and only those whose counts were read.
"""

from collections.abc import Collection, Iterator
from math import floor

from msgspec import Struct

from faillog_otel.clock import DAY_NS, HOUR_NS, hour_of, hour_text, time_text
from faillog_otel.config import SegmentConfig
from faillog_otel.ledger import LedgerReader
from faillog_otel.ledger.counts import DestinationHour, destinations_of
from faillog_otel.ledger.facts import counts_state
from faillog_otel.text import counted

SETTLED_NS = 8 * HOUR_NS
"""An hour is settled so long after its end: its failure logs are complete by then."""
SHORT_SHARE = 0.05
"""An hour is short if more of its discards were not read, and at least one."""
MAX_NS = 30 * DAY_NS
"""Segment counts no further back."""
UNNAMED = (
    "completeness unknown: no failure of this collection says its destination yet; name it in "
    "[segment.collection_destinations]"
)


class Discards(Struct, frozen=True):
    """What Segment counted and what was read."""

    counted: dict[DestinationHour, int]
    """Hours that were counted, also those without discards."""
    read: dict[DestinationHour, int]


class ShortHour(Struct, frozen=True):
    """An hour of which discards are missing."""

    hour: str
    counted: int
    """Discards by Segment's count."""
    read: int


class Completeness(Struct, frozen=True):
    """The discards of a window of hours at one or more destinations."""

    destinations: tuple[str, ...]
    """Ids; empty if no failure said them yet."""
    hours: int
    """Settled hours whose counts were read: the others are in no sum."""
    unknown: int
    """Settled hours whose counts were not read."""
    counted: int
    """Discards by Segment's count."""
    read: int
    """Discards in the failure logs that were read."""
    share: float | None
    """Read of counted; null if none were counted. It can be more than 1."""
    short: list[ShortHour]
    """Hours that lack more than 5 % of their discards, and at least one."""


def completeness(
    destinations: Collection[str],
    discards: Discards,
    since_ns: int,
    until_ns: int,
    now_ns: int,
    *,
    settled_ns: int = SETTLED_NS,
    short_share: float = SHORT_SHARE,
) -> Completeness:
    """Returns the completeness of the hours that begin in the window, at these destinations together.

    `settled_ns`: how long after its end an hour counts. `short_share`: an hour that lacks more is short.
    """
    end = min(-(-until_ns // HOUR_NS), hour_of(now_ns - settled_ns))
    known = number = read = 0
    short, hours = [], range(-(-since_ns // HOUR_NS), end)
    for hour in hours:
        keys = [(hour, each) for each in destinations]
        if not keys or any(key not in discards.counted for key in keys):
            continue
        of_hour = sum(discards.counted[key] for key in keys)
        of_read = sum(discards.read.get(key, 0) for key in keys)
        known, number, read = known + 1, number + of_hour, read + of_read
        if of_hour - of_read >= 1 and of_hour - of_read > short_share * of_hour:
            short.append(ShortHour(hour_text(hour), of_hour, of_read))
    return Completeness(
        destinations=tuple(destinations),
        hours=known,
        unknown=len(hours) - known,
        counted=number,
        read=read,
        share=read / number if number else None,
        short=short,
    )


def by_collection(
    ledger: LedgerReader, config: SegmentConfig, since_ns: int, until_ns: int, now_ns: int
) -> dict[str, Completeness]:
    """Returns collection → completeness, of the polled collections and of those with failures."""
    found = destinations_of(ledger.learned_destinations(), config.collection_destinations)
    since_ns = max(since_ns, now_ns - MAX_NS)
    discards = discards_of(ledger, since_ns, until_ns)
    return {
        name: completeness(found.get(name, ()), discards, since_ns, until_ns, now_ns)
        for name in dict.fromkeys((*config.collections, *found))
    }


class ByDestination(Struct, frozen=True):
    """Destination id → completeness, of the destinations of all collections."""

    settled: dict[str, Completeness]
    unread: dict[str, Completeness]
    """Of all hours, also those that are not settled; an hour is short if one discard was not read."""


NOT_COUNTED = ByDestination({}, {})


def by_destination(
    ledger: LedgerReader, config: SegmentConfig, since_ns: int, until_ns: int, now_ns: int
) -> ByDestination:
    """Returns the completeness of each destination; nothing if Segment's counts were not read."""
    if not counts_state(ledger).read_ns:
        return NOT_COUNTED
    found = destinations_of(ledger.learned_destinations(), config.collection_destinations)
    names = sorted({each for known in found.values() for each in known})
    window = max(since_ns, now_ns - MAX_NS), until_ns, now_ns
    discards = discards_of(ledger, *window[:2])
    return ByDestination(
        {each: completeness([each], discards, *window) for each in names},
        {each: completeness([each], discards, *window, settled_ns=0, short_share=0.0) for each in names},
    )


def together(parts: Collection[Completeness]) -> Completeness | None:
    """Returns the sum of several destinations; None without any."""
    if not parts:
        return None
    number, read = sum(each.counted for each in parts), sum(each.read for each in parts)
    return Completeness(
        destinations=tuple(name for each in parts for name in each.destinations),
        hours=sum(each.hours for each in parts),
        unknown=sum(each.unknown for each in parts),
        counted=number,
        read=read,
        share=read / number if number else None,
        short=_together([each for part in parts for each in part.short]),
    )


def _together(hours: list[ShortHour]) -> list[ShortHour]:
    """Returns the hours with equal ones added up."""
    sums: dict[str, tuple[int, int]] = {}
    for each in hours:
        number, read = sums.get(each.hour, (0, 0))
        sums[each.hour] = number + each.counted, read + each.read
    return [ShortHour(hour, *both) for hour, both in sorted(sums.items())]


def discards_of(ledger: LedgerReader, since_ns: int, until_ns: int) -> Discards:
    """Reads the discards of a window."""
    number: dict[DestinationHour, int] = dict.fromkeys(ledger.counted_hours(since_ns, until_ns), 0)
    for each in ledger.event_counts(since_ns, until_ns):
        if each.stage == "failed" and (each.hour, each.destination) in number:
            number[each.hour, each.destination] += each.events
    return Discards(number, ledger.discards_read(since_ns, until_ns))


# -- as text ---


class CountsSeen(Struct, frozen=True):
    """The reading of Segment's own counts."""

    read: str | None
    """When they were read last; null: never."""
    problem: str
    """Why they are not available, and what to do; empty if they are."""
    hours: int
    """Hours that were counted, at least for a part of the sources and destinations."""
    rows: int
    """Numbers that are kept."""


def counts_seen(ledger: LedgerReader, *, are_read: bool) -> CountsSeen:
    """Returns the state of the counts. `are_read`: whether the settings allow it. Raises LedgerBroken."""
    state, sizes = counts_state(ledger), ledger.count_sizes()
    return CountsSeen(
        read=time_text(state.read_ns) if state.read_ns else None,
        problem=state.problem if are_read else "[segment] counts = false: counts are not read",
        hours=sizes.hours,
        rows=sizes.rows,
    )


def counts_lines(seen: CountsSeen) -> Iterator[tuple[str, str, str | None]]:
    """Yields label, text and colour of each line of `status` about counts."""
    when = f", read at {seen.read}" if seen.read else ", not read yet"
    yield "counts", f"Segment's counts of {counted(seen.hours, 'hour')}{when}", None
    if seen.problem:
        yield "", seen.problem, "yellow"


def percent(share: float) -> str:
    """Returns a share as text, rounded down: only what is complete is 100 %."""
    return f"{floor(share * 1000) / 10:g} %"


def sentence(found: Completeness) -> str:
    """Returns what is known, as a sentence without its full stop."""
    if not found.destinations:
        return UNNAMED
    if not found.hours:
        return "completeness unknown: Segment's counts of settled hours are not read yet"
    if found.share is None:
        return f"Segment counted no discards in {counted(found.hours, 'settled hour')}"
    were = "was" if found.counted == 1 else "were"
    text = f"{percent(found.share)} of the {found.counted:,} discards that Segment counted {were} read"
    if found.counted == 1:
        text = f"{found.read} of the 1 discard that Segment counted was read"
    if found.short:
        text += f"; {counted(len(found.short), 'hour')} {'is' if len(found.short) == 1 else 'are'} short"
    return text


def shares_of_last_day(ledger: LedgerReader, config: SegmentConfig, now_ns: int) -> dict[str, float]:
    """Returns collection → share of the discards of the newest 24 settled hours; 1 if none were counted."""
    since_ns = now_ns - SETTLED_NS - DAY_NS
    found = by_collection(ledger, config, since_ns, now_ns, now_ns)
    return {
        name: 1.0 if each.share is None else each.share
        for name, each in found.items()
        if each.destinations and each.hours
    }
