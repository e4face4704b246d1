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
    """All hours from `--since` to `--until` that have ended and that Segment still has."""
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

    window = _window(config, now_ns)
    return {(name, hour) for name in config.collections for hour in window if is_judged(name, hour)}


def judge(
    judged: Collection[CollectionHour],
    judged_before: Collection[CollectionHour],
    config: ScheduleConfig,
    reads: int,
    now_ns: int,
) -> Judged:
    """Counts what is judged at the end of a run; `judged_before` was it at its start."""
    after = READ_AFTER_HOURS[reads][0]
    window = _window(config, now_ns)
    readable = range(window.start, max(window.start, min(window.stop, hour_of(now_ns) - after)))
    size = len(window) * len(config.collections)
    due = [(name, hour) for name in config.collections for hour in readable if (name, hour) not in judged]
    next_hour = max(readable.stop, hour_of(now_ns) - after)
    is_wanted = config.until_ns is None or next_hour * HOUR_NS < config.until_ns
    following = None
    if is_wanted and config.collections:
        at_ns = (next_hour + 1 + after) * HOUR_NS
        following = NextReadable(config.collections[0], time_text(next_hour * HOUR_NS), time_text(at_ns))
    return Judged(
        window=size,
        judged=len(judged),
        judged_now=len(set(judged) - set(judged_before)),
        due=len(due),
        not_readable=size - len(judged) - len(due),
        next_readable=following,
    )


def _window(config: ScheduleConfig, now_ns: int) -> range:
    """The hours that have ended, and that Segment still has."""
    first = max(hour_of(now_ns - RETENTION_NS) + 1, hour_of(config.since_ns))
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
        schedule = ScheduleConfig(
            self._config.collections,
            since_ns=self._config.since.ns(now_ns),
            until_ns=until.ns(now_ns) if until else None,
        )
        reads = reads_per_hour(quota_of(self.database), len(schedule.collections))
        views, unfinished = hour_views(self.database, now_ns), unfinished_hours(self.database, shown)
        return judge(
            judged_hours(views, unfinished, schedule, reads, now_ns),
            judged_hours(self._views_before, self._unfinished_before, schedule, reads, now_ns),
            schedule,
            reads,
            now_ns,
        )
