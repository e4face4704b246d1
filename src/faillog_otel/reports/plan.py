"""Which requests a run would make next, and why: the fetcher's own plan. Makes no request.

`plan --json` prints a `PlanReport` as it is.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext

from msgspec import Struct

from faillog_otel.clock import RETENTION_NS, hour_of, hour_text, time_text
from faillog_otel.config import SegmentConfig
from faillog_otel.errors import ConfigError
from faillog_otel.ledger import LedgerReader
from faillog_otel.ledger.facts import as_last_run, schedule_of
from faillog_otel.ledger.scouting import scout_of
from faillog_otel.reports.scout import ScoutSeen, scout_seen
from faillog_otel.reports.status import QuotaSeen, quota_seen
from faillog_otel.segment.hours import READ_AFTER_HOURS, HourView
from faillog_otel.segment.quota import Quota, Why
from faillog_otel.segment.schedule import Plan, plan
from faillog_otel.segment.scout import NO_SCOUT

MAX_STEPS = 100
"""How often the plan is computed to find the next request: two days of hours, and twice as many changes."""

REASONS: dict[Why, str] = {
    "wanted": "`replay` wants it again",
    "leaving": "never read, and Segment deletes it soon",
    "fresh": "probably complete by now",
    "again": "may have grown since the last reading",
    "missing": "an object could not be downloaded; its URL expired",
    "last_call": "last reading before Segment deletes it",
    "backfill": "never read",
}


class Request(Struct, frozen=True):
    """A request that would be made now."""

    collection: str
    hour: str
    why: Why
    due: str
    """When it became due."""
    reason: str
    """What Segment's counts say of the hour; empty: nothing, or it was read before."""


class PlanReport(Struct, frozen=True):
    """The requests that would be made now, in order, and what the quota allows."""

    now: str
    since: str
    """The first hour that is wanted."""
    until: str | None
    """Hours that begin at this time or later are not wanted; null: no limit."""
    collections: tuple[str, ...]
    requests: list[Request]
    next_request: str | None
    """When the next request would be made; null: none within two days."""
    to_download: int
    """Listed objects, which are downloaded first."""
    quota: QuotaSeen
    waiting: dict[Why, int]
    """Hours that are due but wait for the quota."""
    failed: int
    """Hours whose last reading failed; they are retried after a pause."""
    missing: int
    """Objects that could not be downloaded yet; `status` lists them."""
    reads_per_hour: int
    reads_after_hours: tuple[int, ...]
    """When an hour is read, in hours after its end; a fourth reading is before Segment deletes it."""
    collections_covered: int
    missed_per_day: dict[str, float]
    """Collection → hours missed each day, if the quota is too small."""
    waiting_zero: int
    """How many of the waiting hours have no failures by Segment's counts."""
    scout: dict[str, ScoutSeen]
    """Collection → what Segment's counts say of its hours; without those that are not counted."""


def plan_report(ledger: LedgerReader | None, config: SegmentConfig, now_ns: int, *, once: bool) -> PlanReport:
    """Returns the plan of the next run; without a ledger, that of a first run.

    What is not set is as in the last run. Raises LedgerBroken; ConfigError without a collection.
    """
    hours: Mapping[str, Mapping[int, HourView]] = {}
    quota, to_download, missing = Quota(per_day=config.requests_per_day), 0, 0
    scout = NO_SCOUT
    with nullcontext() if ledger is None else ledger.at_one_moment():
        if ledger is not None:
            config = as_last_run(ledger, config)
            hours = ledger.hours(after=hour_of(now_ns - RETENTION_NS))
            quota = ledger.quota(config.requests_per_day)
            to_download = ledger.unfinished_objects().to_download
            missing = len(ledger.missing_objects())
            scout = scout_of(ledger, config, now_ns)
        schedule = schedule_of(ledger, config, now_ns, once=once)
    if not config.collections:
        raise ConfigError("no collection is known; name one with --collection or FAILLOG_COLLECTIONS")

    def plan_at(at_ns: int) -> Plan:
        return plan(at_ns, hours, quota, schedule, scout)

    found = plan_at(now_ns)
    next_ns = _next_request_ns(now_ns, found, plan_at)
    return PlanReport(
        now=time_text(now_ns),
        since=time_text(schedule.since_ns),
        until=None if schedule.until_ns is None else time_text(schedule.until_ns),
        collections=config.collections,
        requests=[
            Request(ask.collection, hour_text(ask.hour), ask.why, time_text(ask.due_ns), ask.reason)
            for ask in found.requests
        ],
        next_request=None if next_ns is None else time_text(next_ns),
        to_download=to_download,
        quota=quota_seen(quota, now_ns),
        waiting=found.waiting,
        failed=sum(view.failures > 0 for known in hours.values() for view in known.values()),
        missing=missing,
        reads_per_hour=found.reads_per_hour,
        reads_after_hours=READ_AFTER_HOURS[found.reads_per_hour],
        collections_covered=found.covered,
        missed_per_day=found.missed_per_day,
        waiting_zero=found.zero,
        scout=scout_seen(scout, hours, config.collections, now_ns),
    )


def _next_request_ns(now_ns: int, found: Plan, plan_at: Callable[[int], Plan]) -> int | None:
    """Returns when the next request would be made, if nothing else happens; None: not within two days."""
    for _ in range(MAX_STEPS):
        if found.requests:
            return now_ns
        now_ns = found.next_ns
        found = plan_at(now_ns)
    return None
