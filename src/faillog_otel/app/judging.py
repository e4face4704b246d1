"""How much of its window a polling run judged.

A collection-hour is judged if it was listed after it became readable, and every record of its objects was
forwarded. It is readable when it can be complete: when its first reading is due by the schedule.
"""

from collections.abc import Collection, Mapping

from msgspec import Struct

from faillog_otel.app.ledger_view import hour_views, quota_of
from faillog_otel.clock import HOUR_NS, RETENTION_NS, Clock, hour_of, time_text
from faillog_otel.config import SegmentConfig
from faillog_otel.ledger.database import Database
from faillog_otel.ledger.views import unfinished_hours
from faillog_otel.segment.ksuid import created_ns
from faillog_otel.segment.schedule import READ_AFTER_HOURS, HourView, ScheduleConfig, reads_per_hour

CollectionHour = tuple[str, int]


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

    def __init__(self, database: Database, config: SegmentConfig, clock: Clock) -> None:
        """`clock` is the one that the hours go by."""
        self.database = database
        self._config = config
        self._clock = clock
        self._views_before = hour_views(database, clock.now_ns())
        self._unfinished_before = unfinished_hours(database, ())

    def judge(self, shown: Collection[int]) -> Judged:
        """What is judged now. `shown`: objects that count as forwarded, for the run only shows records."""
        now_ns = self._clock.now_ns()
        until = self._config.until
        since_ns = self._config.since.ns(now_ns)
        schedule = ScheduleConfig(
            self._config.collections,
            since_ns=since_ns,
            until_ns=until.ns(now_ns) if until else None,
            born_ns={name: created_ns(name, now_ns) or 0 for name in self._config.collections},
            asked_since_ns=since_ns if self._config.is_since_given else None,
        )
        reads = reads_per_hour(
            quota_of(self.database, self._config.requests_per_day), len(schedule.collections)
        )
        views, unfinished = hour_views(self.database, now_ns), unfinished_hours(self.database, shown)
        return judge(
            judged_hours(views, unfinished, schedule, reads, now_ns),
            judged_hours(self._views_before, self._unfinished_before, schedule, reads, now_ns),
            schedule,
            reads,
            now_ns,
        )
