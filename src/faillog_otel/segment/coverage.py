"""Which hours were not read, though they could have been: what is missing so far, and what soon leaves.

A pure function of the time and the ledger's view, by the schedule's own rule of what counts as a reading.
"""

from collections.abc import Mapping

from faillog_otel.clock import DAY_NS, HOUR_NS, RETENTION_NS, hour_of
from faillog_otel.segment.schedule import READ_AFTER_HOURS, HourView, ScheduleConfig

EXPIRES_SOON_NS = DAY_NS
"""With less than this left, an hour that was not read is about to be lost."""


def unread_hours(
    now_ns: int, hours: Mapping[str, Mapping[int, HourView]], config: ScheduleConfig, reads: int
) -> dict[str, list[int]]:
    """Collection → hours that are due and were not read since, ascending; all collections, also without any.

    `reads`: how many readings of each hour the quota covers (`schedule.reads_per_hour`).
    """
    after = READ_AFTER_HOURS[reads][0]
    until = hour_of(now_ns) if config.until_ns is None else -(-config.until_ns // HOUR_NS)
    kept = hour_of(now_ns - RETENTION_NS) + 1
    due = {
        name: range(max(kept, hour_of(config.since_of(name))), min(hour_of(now_ns) - after, until))
        for name in config.collections
    }

    def is_read(view: HourView | None, hour: int) -> bool:
        listed_ns = None if view is None else view.listed_ns
        return listed_ns is not None and listed_ns >= (hour + 1 + after) * HOUR_NS

    return {
        name: [hour for hour in hours_due if not is_read(hours.get(name, {}).get(hour), hour)]
        for name, hours_due in due.items()
    }


def expires_soon(now_ns: int, hour: int) -> bool:
    """Whether Segment keeps the hour for less than a day."""
    return hour * HOUR_NS + RETENTION_NS - now_ns < EXPIRES_SOON_NS
