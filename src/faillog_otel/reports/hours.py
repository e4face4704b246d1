"""One line an hour, and one at the end: what a polling run has done since the line before."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import (
    HOUR_NS,
    RETENTION_NS,
    SECOND_NS,
    Clock,
    duration_text,
    hour_of,
    time_text,
)
from faillog_otel.config import SegmentConfig
from faillog_otel.errors import FaillogError
from faillog_otel.ledger import CollectionHour, Hour, LedgerReader
from faillog_otel.ledger.results import Counts
from faillog_otel.otlp.sender import Sent
from faillog_otel.reports.status import quota_seen
from faillog_otel.segment.schedule import (
    READ_AFTER_HOURS,
    HourView,
    ScheduleConfig,
    collection_created_ns,
    reads_per_hour,
)

# -- judging -------------------------------------------------------------------------------------------------
#
# How much of its window a polling run judged.
#
# A collection-hour is judged if it was listed after it became readable, and every record of its objects was
# forwarded. It is readable when it can be complete: when its first reading is due by the schedule.


class NextReadable(Struct, frozen=True):
    """The next collection-hour that becomes readable."""

    collection: str
    hour: str
    at: str


class Judged(Struct, frozen=True):
    """`window = judged + due + not_readable`, all of them collection-hours."""

    window: int
    """All hours from `--since` to `--until` that have ended and that Segment still has.

    By default not those before a collection was made.
    """
    judged: int
    judged_now: int
    """Those that were judged by this run, not by an earlier one on the same state folder."""
    due: int
    """Readable, and not read or not forwarded to their end."""
    not_readable: int
    next_readable: NextReadable | None
    """Null where no hour of the window will become readable."""


def judged_hours(
    hours: Mapping[str, Mapping[int, HourView]],
    unfinished: Collection[CollectionHour],
    config: ScheduleConfig,
    reads: int,
    now_ns: int,
) -> set[CollectionHour]:
    """The collection-hours of the window that are judged.

    `unfinished`: those with objects that were not forwarded to their end. `reads`: how many readings of each
    hour the quota covers (`schedule.reads_per_hour`).
    """
    after = READ_AFTER_HOURS[reads][0]

    def is_judged(collection: str, hour: int) -> bool:
        view = hours.get(collection, {}).get(hour)
        if view is None or view.wanted or view.listed_ns is None or (collection, hour) in unfinished:
            return False
        return view.listed_ns >= (hour + 1 + after) * HOUR_NS

    windows = {name: _window(config, name, now_ns) for name in config.collections}
    return {(name, hour) for name, window in windows.items() for hour in window if is_judged(name, hour)}


def judge(
    judged: Collection[CollectionHour],
    judged_before: Collection[CollectionHour],
    config: ScheduleConfig,
    reads: int,
    now_ns: int,
) -> Judged:
    """Counts what is judged at the end of a run; `judged_before` was it at its start."""
    after = READ_AFTER_HOURS[reads][0]
    end = hour_of(now_ns) - after  # of the hours that are readable
    windows = {name: _window(config, name, now_ns) for name in config.collections}
    size = sum(map(len, windows.values()))
    due = [
        (name, hour)
        for name, window in windows.items()
        for hour in range(window.start, min(window.stop, end))
        if (name, hour) not in judged
    ]
    following = None
    if windows:
        name = min(windows, key=lambda name: windows[name].start)
        hour = max(windows[name].start, end)
        if config.until_ns is None or hour * HOUR_NS < config.until_ns:
            at_ns = (hour + 1 + after) * HOUR_NS
            following = NextReadable(name, time_text(hour * HOUR_NS), time_text(at_ns))
    return Judged(
        window=size,
        judged=len(judged),
        judged_now=len(set(judged) - set(judged_before)),
        due=len(due),
        not_readable=size - len(judged) - len(due),
        next_readable=following,
    )


def _window(config: ScheduleConfig, collection: str, now_ns: int) -> range:
    """The hours of a collection that have ended, and that Segment still has."""
    first = max(hour_of(now_ns - RETENTION_NS) + 1, hour_of(config.since_of(collection)))
    now = hour_of(now_ns)
    return range(first, now if config.until_ns is None else min(now, -(-config.until_ns // HOUR_NS)))


class Judging:
    """What a polling run judges, by its ledger. Made at the start of the run. Raises NoRoom, LedgerBroken."""

    def __init__(self, ledger: LedgerReader, config: SegmentConfig, clock: Clock) -> None:
        """`clock` is the one that the hours go by."""
        self.ledger = ledger
        self._config = config
        self._clock = clock
        self._views_before = self._hours(clock.now_ns())
        self._unfinished_before = ledger.unfinished_hours()

    def _hours(self, now_ns: int) -> dict[str, dict[int, Hour]]:
        """The hours that Segment still has."""
        return self.ledger.hours(after=hour_of(now_ns - RETENTION_NS))

    def judge(self, shown: Collection[int]) -> Judged:
        """What is judged now. `shown`: objects that count as forwarded, for the run only shows records."""
        now_ns = self._clock.now_ns()
        until = self._config.until
        since_ns = self._config.since.ns(now_ns)
        schedule = ScheduleConfig(
            self._config.collections,
            since_ns=since_ns,
            until_ns=until.ns(now_ns) if until else None,
            created_ns={name: collection_created_ns(name, now_ns) or 0 for name in self._config.collections},
            asked_since_ns=since_ns if self._config.is_since_given else None,
        )
        reads = reads_per_hour(self.ledger.quota(self._config.requests_per_day), len(schedule.collections))
        views, unfinished = self._hours(now_ns), self.ledger.unfinished_hours(shown)
        return judge(
            judged_hours(views, unfinished, schedule, reads, now_ns),
            judged_hours(self._views_before, self._unfinished_before, schedule, reads, now_ns),
            schedule,
            reads,
            now_ns,
        )


# -- hourly --------------------------------------------------------------------------------------------------


HOUR_SECONDS = 3600.0
ABOUT_AN_HOUR_SECONDS = 3900.0
"""A line may wait for a listing or a download that is under way."""


class _State(Struct, frozen=True):
    """What only grows, at one moment; but for `listings`, which loses hours that Segment has no more."""

    at_seconds: float
    listings: Mapping[tuple[str, int], int]
    records: int
    sent: Sent
    rejected: int
    quarantined: int
    objects_lost: int


class HourlyReport:
    """Says what was read, sent and lost, and what is left of the quota. Used by one thread at a time."""

    def __init__(
        self,
        *,
        ledger: LedgerReader,
        counts: Counts,
        sent: Callable[[], Sent],
        schedule: Callable[[], ScheduleConfig],
        clock: Clock,
        requests_per_day: int,
        say: Callable[[str, Mapping[str, Any]], object],
        shows_only: bool = False,
    ) -> None:
        """`counts` are those of the run so far. `say` takes a sentence and the same as numbers.

        `shows_only`: what was sent was only shown.

        Raises LedgerBroken, NoRoom.
        """
        self._ledger = ledger
        self._counts = counts
        self._sent = sent
        self._schedule = schedule
        self._clock = clock
        self._requests_per_day = requests_per_day
        self._say = say
        self._verb = "showed" if shows_only else "sent"
        self._last = self._state()

    def seconds_left(self) -> float:
        """Returns how long it is until the next line is due."""
        return max(0.0, self._last.at_seconds + HOUR_SECONDS - self._clock.monotonic())

    def say_if_due(self) -> None:
        """Says what the last hour brought, when it is over."""
        if not self.seconds_left():
            self.say()

    def say(self) -> None:
        """Says what was done since the last time. Where the ledger cannot be read, others say so."""
        try:
            last, now = self._last, self._state()
            told = self._told(last, now)
        except FaillogError:
            return
        self._last = now
        self._say(_text(told, self._verb), told)

    def _state(self) -> _State:
        hours = [(name, *each) for name, known in self._ledger.hours().items() for each in known.items()]
        return _State(
            at_seconds=self._clock.monotonic(),
            listings={(name, hour): known.listings for name, hour, known in hours},
            records=self._ledger.totals().records,
            sent=replace(self._sent()),
            rejected=self._counts.rejected,
            quarantined=self._counts.quarantined,
            objects_lost=sum(known.lost for _, _, known in hours),
        )

    def _told(self, last: _State, now: _State) -> dict[str, Any]:
        seconds, now_ns = now.at_seconds - last.at_seconds, self._clock.now_ns()
        quota = replace(self._ledger.quota(self._requests_per_day), not_before_ns=0)  # also in a pause
        seen = quota_seen(quota, now_ns)
        return {
            "seconds": round(seconds),
            "hours_read": sum(number > last.listings.get(hour, 0) for hour, number in now.listings.items()),
            "records_read": max(0, now.records - last.records),  # a damaged object takes its records back
            "sent": {"logs": now.sent.logs - last.sent.logs, "spans": now.sent.traces - last.sent.traces},
            "rejected": now.rejected - last.rejected,
            "quarantined": now.quarantined - last.quarantined,
            "hours_expired": self._expired(now, now_ns, round(seconds * SECOND_NS)),
            "objects_lost": max(0, now.objects_lost - last.objects_lost),  # pruned hours take theirs along
            "objects_missing": len(self._ledger.missing_objects()),
            "pending": self._ledger.totals().pending,
            "requests_left": seen.left,
            "requests_per_day": seen.per_day,
        }

    def _expired(self, now: _State, now_ns: int, passed_ns: int) -> int:
        """How many hours that are wanted left Segment in this time, and were never read."""
        schedule, gone_ns = self._schedule(), now_ns - RETENTION_NS
        first = max(hour_of(gone_ns - passed_ns) + 1, hour_of(schedule.since_ns))
        end = hour_of(gone_ns) + 1
        if schedule.until_ns is not None:
            end = min(end, -(-schedule.until_ns // HOUR_NS))
        return sum(
            not now.listings.get((collection, hour))
            for collection in schedule.collections
            for hour in range(first, end)
        )


def _text(told: Mapping[str, Any], verb: str) -> str:
    seconds, sent = told["seconds"], told["sent"]
    is_hour = HOUR_SECONDS <= seconds < ABOUT_AN_HOUR_SECONDS
    lost = [f"{told[name]:,} {name}" for name in ("rejected", "quarantined") if told[name]]
    if told["hours_expired"]:
        lost.append(f"{_counted(told['hours_expired'], 'collection-hour')} expired unread")
    if told["objects_lost"]:
        lost.append(f"{_counted(told['objects_lost'], 'object')} never downloaded")
    missing = _counted(told["objects_missing"], "object")
    parts = [
        f"read {_counted(told['hours_read'], 'collection-hour')}, {_counted(told['records_read'], 'record')}",
        f"{verb} {_counted(sent['logs'], 'log record')} and {_counted(sent['spans'], 'span')}",
        f"lost: {', '.join(lost)}" if lost else "0 lost",
        *([f"{missing} not downloaded so far"] if told["objects_missing"] else []),
        *([f"{_counted(told['pending'], 'record')} pending"] if told["pending"] else []),
        f"{told['requests_left']} of {told['requests_per_day']} requests left",
    ]
    return f"in the last {'hour' if is_hour else duration_text(seconds)}: {'; '.join(parts)}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
