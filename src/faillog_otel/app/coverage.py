"""Which hours of a collection were read: a calendar. Pure: what is remembered and the time go in.

An hour has one state; where several apply, the first in this order: partial, expired, failed, waiting, empty,
closed, settled, read.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from faillog_otel.clock import HOUR_NS, RETENTION_NS, hour_of, hour_text, time_text
from faillog_otel.ledger.upkeep import HOURS_KEPT_NS
from faillog_otel.ledger.views import SeenHour
from faillog_otel.segment.schedule import LAST_CALL_NS, SETTLED_AFTER_NS

State = Literal["waiting", "partial", "read", "settled", "closed", "empty", "failed", "expired"]

MARKS: dict[State, str] = {
    "waiting": ".",
    "partial": "~",
    "read": "+",
    "settled": "#",
    "closed": "=",
    "empty": "o",
    "failed": "!",
    "expired": "x",
}
"""Each state's character in the calendar; a blank is an hour that nobody wants, or one to come."""

_LASTING: tuple[State, ...] = ("partial", "failed", "expired")
"""These are shown for longer than Segment keeps an hour."""


class FailedHour(Struct, frozen=True):
    """An hour whose last reading failed."""

    hour: str
    why: str
    times: int
    """In a row."""
    at: str


class Coverage(Struct, frozen=True):
    """One collection's hours."""

    polled: bool
    """Whether it is one of the collections that are configured."""
    hours: dict[State, int]
    """How many hours are in each state."""
    days: dict[str, str]
    """`2025-05-07` → 24 characters, one for each hour (UTC)."""
    failed: list[FailedHour]


def coverage(
    seen: Mapping[int, SeenHour], *, now_ns: int, since_ns: int, until_ns: int | None, polled: bool
) -> Coverage:
    """The calendar of one collection. Nobody wants hours that ended by `since_ns` or begin at `until_ns`."""
    states = dict(_states(seen, now_ns, since_ns, until_ns, polled=polled))
    counts: dict[State, int] = dict.fromkeys(MARKS, 0)
    days: dict[str, list[str]] = {}
    for hour, state in sorted(states.items()):
        counts[state] += 1
        date, at = divmod(hour, 24)
        days.setdefault(hour_text(date * 24)[:10], [" "] * 24)[at] = MARKS[state]
    return Coverage(
        polled=polled,
        hours=counts,
        days={day: "".join(marks) for day, marks in days.items()},
        failed=[
            FailedHour(
                hour_text(hour), seen[hour].failed_why, seen[hour].failures, time_text(seen[hour].failed_ns)
            )
            for hour, state in sorted(states.items())
            if state == "failed"
        ],
    )


def _states(
    seen: Mapping[int, SeenHour], now_ns: int, since_ns: int, until_ns: int | None, *, polled: bool
) -> Iterable[tuple[int, State]]:
    kept = range(hour_of(now_ns - RETENTION_NS) + 1, hour_of(now_ns))
    wanted = range(
        max(hour_of(since_ns), _first_obtainable(seen, kept.start), hour_of(now_ns - HOURS_KEPT_NS)),
        min(kept.stop, kept.stop if until_ns is None else -(-until_ns // HOUR_NS)),
    )
    for hour in {*(wanted if polled else ()), *seen}:
        state = _state(hour, seen.get(hour), is_gone=hour < kept.start)
        if hour in kept or state in _LASTING:
            yield hour, state


def _first_obtainable(seen: Mapping[int, SeenHour], first_kept: int) -> int:
    """The first hour that Segment still had when the collection was polled first, as far as is known."""
    times = [at for each in seen.values() if (at := each.first_listed_ns or each.failed_ns)]
    return min(first_kept, hour_of(min(times) - RETENTION_NS) + 1) if times else first_kept


def _state(hour: int, seen: SeenHour | None, *, is_gone: bool) -> State:
    if seen is not None and seen.under_way:
        return "partial"
    if (is_gone and (seen is None or seen.listed_ns is None)) or (seen is not None and seen.lost):
        return "expired"
    if seen is not None and seen.failures:
        return "failed"
    if seen is None or seen.listed_ns is None:
        return "waiting"
    return _state_of_read(hour, seen, seen.listed_ns)


def _state_of_read(hour: int, seen: SeenHour, listed_ns: int) -> State:
    if not seen.objects:
        return "empty"
    if listed_ns >= hour * HOUR_NS + LAST_CALL_NS:
        return "closed"
    is_settled = seen.same_since_ns is not None and listed_ns - seen.same_since_ns >= SETTLED_AFTER_NS
    return "settled" if is_settled else "read"
