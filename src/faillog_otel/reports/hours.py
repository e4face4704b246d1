"""What a polling run did with its hours: how many it judged, and what it read and sent since the last report.

A collection-hour is judged if it was listed after it became readable, and every record of its objects was
forwarded. It is readable once its first reading is due by the schedule, when it can be complete.
"""

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
from faillog_otel.segment.hours import (
    READ_AFTER_HOURS,
    HourView,
    ScheduleConfig,
    collection_created_ns,
    reads_per_hour,
)
from faillog_otel.text import counted


class NextReadable(Struct, frozen=True):
    """The collection-hour that becomes readable next."""

    collection: str
    hour: str
    at: str


class Judged(Struct, frozen=True):
    """How many collection-hours were judged: `window = judged + due + not_readable`."""

    window: int
    """Hours from `--since` to `--until` that have ended and that Segment still has.

    Unless `--since` is set, without those before the collection was created.
    """
    judged: int
    judged_now: int
    """Judged by this run, not by an earlier one on the same state folder."""
    due: int
    """Readable, but not read or not forwarded completely."""
    not_readable: int
    next_readable: NextReadable | None
    """Null if no hour of the window will become readable."""


def judged_hours(
    hours: Mapping[str, Mapping[int, HourView]],
    unfinished: Collection[CollectionHour],
    config: ScheduleConfig,
    reads: int,
    now_ns: int,
) -> set[CollectionHour]:
    """Returns the collection-hours of the window that are judged.

    `unfinished`: those with objects that were not forwarded completely. `reads`: how many readings of each
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
    """Counts the hours that are judged at the end of a run, and those already judged at its start."""
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
    """Returns the hours of a collection that have ended, and that Segment still has."""
    first = max(hour_of(now_ns - RETENTION_NS) + 1, hour_of(config.since_of(collection)))
    now = hour_of(now_ns)
    return range(first, now if config.until_ns is None else min(now, -(-config.until_ns // HOUR_NS)))


class Judging:
    """Compares the ledger at the end of a run with that at its start. Raises NoRoom, LedgerBroken."""

    def __init__(self, ledger: LedgerReader, config: SegmentConfig, clock: Clock) -> None:
        """`clock` is the one that hours are computed with."""
        self.ledger = ledger
        self._config = config
        self._clock = clock
        self._views_before = self._hours(clock.now_ns())
        self._unfinished_before = ledger.unfinished_hours()

    def _hours(self, now_ns: int) -> dict[str, dict[int, Hour]]:
        """Returns the hours that Segment still has."""
        return self.ledger.hours(after=hour_of(now_ns - RETENTION_NS))

    def judge(self, shown: Collection[int]) -> Judged:
        """Returns what is judged now. `shown`: objects that were only shown, which count as forwarded."""
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


HOUR_SECONDS = 3600.0
ABOUT_AN_HOUR_SECONDS = 3900.0
"""A report may wait for a listing or a download in progress."""


class _State(Struct, frozen=True):
    """The totals at one moment. Only `listings` shrinks, by the hours that Segment no longer has."""

    at_seconds: float
    listings: Mapping[tuple[str, int], int]
    records: int
    sent: Sent
    rejected: int
    quarantined: int
    objects_lost: int


class HourlyReport:
    """Reports what was read, sent and lost since its last report, and the remaining quota. For one thread."""

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
        """`counts` are those of the run so far. `say` receives a sentence and its numbers.

        `shows_only`: records are shown, not sent. Raises LedgerBroken, NoRoom.
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
        """Returns the time until the next report is due."""
        return max(0.0, self._last.at_seconds + HOUR_SECONDS - self._clock.monotonic())

    def say_if_due(self) -> None:
        """Reports once an hour has passed since the last report."""
        if not self.seconds_left():
            self.say()

    def say(self) -> None:
        """Reports what was done since the last report, unless the ledger cannot be read."""
        try:
            last, now = self._last, self._state()
            numbers = self._numbers(last, now)
        except FaillogError:  # the loops report it
            return
        self._last = now
        self._say(_text(numbers, self._verb), numbers)

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

    def _numbers(self, last: _State, now: _State) -> dict[str, Any]:
        seconds, now_ns = now.at_seconds - last.at_seconds, self._clock.now_ns()
        quota = replace(self._ledger.quota(self._requests_per_day), not_before_ns=0)  # even in a pause
        seen = quota_seen(quota, now_ns)
        return {
            "seconds": round(seconds),
            "hours_read": sum(number > last.listings.get(hour, 0) for hour, number in now.listings.items()),
            "records_read": max(0, now.records - last.records),  # less if an object was damaged
            "sent": {"logs": now.sent.logs - last.sent.logs, "spans": now.sent.traces - last.sent.traces},
            "rejected": now.rejected - last.rejected,
            "quarantined": now.quarantined - last.quarantined,
            "hours_expired": self._expired(now, now_ns, round(seconds * SECOND_NS)),
            "objects_lost": max(0, now.objects_lost - last.objects_lost),  # less if hours were pruned
            "objects_missing": len(self._ledger.missing_objects()),
            "pending": self._ledger.totals().pending,
            "requests_left": seen.left,
            "requests_per_day": seen.per_day,
        }

    def _expired(self, now: _State, now_ns: int, passed_ns: int) -> int:
        """Returns how many wanted hours Segment deleted in this time, before they were read."""
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


def _text(numbers: Mapping[str, Any], verb: str) -> str:
    seconds, sent, read = numbers["seconds"], numbers["sent"], numbers["records_read"]
    is_hour = HOUR_SECONDS <= seconds < ABOUT_AN_HOUR_SECONDS
    lost = [f"{numbers[name]} {name}" for name in ("rejected", "quarantined") if numbers[name]]
    if numbers["hours_expired"]:
        lost.append(f"{counted(numbers['hours_expired'], 'collection-hour')} expired unread")
    if numbers["objects_lost"]:
        lost.append(f"{counted(numbers['objects_lost'], 'object')} never downloaded")
    missing = counted(numbers["objects_missing"], "object")
    parts = [
        f"read {counted(numbers['hours_read'], 'collection-hour')}, {counted(read, 'record')}",
        f"{verb} {counted(sent['logs'], 'log record')} and {counted(sent['spans'], 'span')}",
        ", ".join(lost) or "0 lost",
        *([f"{missing} not downloaded yet"] if numbers["objects_missing"] else []),
        *([f"{counted(numbers['pending'], 'record')} pending"] if numbers["pending"] else []),
        f"{numbers['requests_left']} of {numbers['requests_per_day']} requests left",
    ]
    return f"in the last {'hour' if is_hour else duration_text(seconds)}: {'; '.join(parts)}"
