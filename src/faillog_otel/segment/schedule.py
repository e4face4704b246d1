"""The planner: which hours to list next, and when; a pure function of time, hours and quota.

The guarantee: every hour is listed once it can be complete, and again while it can grow, as far as the quota
allows; a shortage is shared fairly among the collections and reported. Requests that coming hours need are
not spent on other hours. (Issue 5, "The planner"; specification 1 and 3.)

With Segment's counts, hours with failures that were not read come first. If the quota is too small for all
hours, those without any come last. (Specification 8, "Counts".)
"""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, hour_of
from faillog_otel.segment.hours import READ_AFTER_HOURS, HourView, ScheduleConfig, reads_per_hour
from faillog_otel.segment.pools import ListingRequest, Turns
from faillog_otel.segment.quota import Quota, Why
from faillog_otel.segment.scout import NO_SCOUT, Scout
from faillog_otel.segment.survey import MAX_DELAY_NS, Survey

SLACK_NS = HOUR_NS // 4
"""Yesterday's requests were made some time after the full hour, and become available again as much later."""
PROBES_SHARE = 5
"""At most a fifth of the quota tests the counts in hours that are counted as zero."""
KEPT_SHARE = 4
"""A quarter of the quota is kept for coming failures from hours that are counted as zero."""
MISSING_SHARE = 10
"""At most a tenth of the quota lists hours only because objects could not be downloaded."""


class Plan(Struct, frozen=True):
    """The listings to make now, and what the quota covers."""

    requests: tuple[ListingRequest, ...]
    """In this order, all within the quota. The caller records each with its `why`."""
    next_ns: int
    """When to plan again at the latest: later than now."""
    left: int
    """Requests left now, including the reserve."""
    waiting: dict[Why, int]
    """Number of due hours that wait for the quota; only purposes that have some."""
    reads_per_hour: int
    """How many of the four listings of each hour the quota covers: 1 to 4."""
    covered: int
    """Number of collections for which the quota covers one listing of each hour."""
    missed_per_day: dict[str, float]
    """Collection → hours missed each day; empty if the quota covers all. Without those whose hours are chosen
    by Segment's counts."""
    zero: int = 0
    """How many of the waiting hours have no failures by Segment's counts."""


def plan(
    now_ns: int,
    hours: Mapping[str, Mapping[int, HourView]],
    quota: Quota,
    config: ScheduleConfig,
    scout: Scout = NO_SCOUT,
) -> Plan:
    """Returns the listings to make now. `hours`: collection → hour → state; other hours were never listed."""
    quota = quota.mended(now_ns)
    needed_a_day = 24 * len(config.collections)
    if needed_a_day > quota.size - quota.reserve:
        quota = replace(quota, reserve=0)  # the reserve is given up before an hour is missed
    reads = reads_per_hour(quota, len(config.collections))
    survey = Survey(now_ns, hours, config, reads, scout, is_short=needed_a_day > quota.size)
    requests = _spend(now_ns, quota, config, survey)
    waiting = survey.counted.waiting()
    for pool in survey.pools():
        waiting[pool.why] += pool.size
    changes = [(hour_of(now_ns) + 1) * HOUR_NS, *survey.retries_ns]
    if any(waiting.values()):
        changes.append(quota.next_ns(now_ns))
    missed = max(0.0, 24 - quota.size / len(config.collections)) if config.collections else 0.0
    return Plan(
        requests=tuple(requests),
        next_ns=min(changes),
        left=quota.left(now_ns, with_reserve=True),
        waiting=dict(+waiting),
        reads_per_hour=reads,
        covered=quota.size // 24,
        missed_per_day=dict.fromkeys(survey.plain, missed) if missed else {},
        zero=survey.probes.size + survey.zero.size,
    )


def _spend(now_ns: int, quota: Quota, config: ScheduleConfig, survey: Survey) -> list[ListingRequest]:
    """Returns as many of the due hours as the quota allows, by priority."""
    turns = Turns(quota, now_ns)
    needed = [] if config.once else _needed(now_ns, quota, config, survey)
    left = quota.left(now_ns, with_reserve=True)
    requests = list(survey.wanted.take(left, turns))

    # Expiring hours come first, but fresh hours keep what they need: otherwise, once all hours are late, each
    # would be listed on its last day only.
    on_time = min(survey.counted.size + survey.fresh.size, left)
    spare = quota.spare(now_ns, needed, max_delay_ns=SLACK_NS, with_reserve=True)
    requests += survey.leaving.take(min(left - on_time, spare - on_time) - len(requests), turns)

    kept = max(0, quota.reserve_left(now_ns) - len(requests))
    reserve_used = quota.reserve_left(now_ns) - kept
    most = left - kept
    probes = max(1, quota.size // PROBES_SHARE) - survey.probed
    requests += survey.probes.take(min(most - len(requests), probes), turns)
    share = _plain_share(now_ns, quota, config, survey)
    requests += survey.counted.take(most - share - len(requests), turns)
    if survey.is_short:  # evenly over the day, not all collections at once
        evenly = quota.spare(now_ns, needed, max_delay_ns=MAX_DELAY_NS) + reserve_used
        most = min(left, max(evenly, min(most, len(requests) + share)))
    requests += survey.fresh.take(most - len(requests), turns)

    spare = quota.spare(now_ns, needed, max_delay_ns=SLACK_NS) + reserve_used
    spare = min(left, max(spare, quota.probe_allowance(now_ns)))
    pace = -(-(quota.size - quota.reserve) // 24) - quota.used_since(now_ns - HOUR_NS)
    is_guided = survey.is_short and len(survey.plain) < len(set(config.collections))
    paced = (survey.backfill, survey.zero, *([survey.last_call] if is_guided else []))
    for pool in survey.rest():
        most = spare - len(requests)
        if pool in paced and not config.once:
            # Evenly, because backfill takes days: later requests then find the quota available again.
            most = min(spare, max(pace, quota.probe_allowance(now_ns))) - len(requests)
        elif pool is survey.missing:
            used = sum(each.why == "missing" for each in quota.last_day(now_ns))
            most = min(most, max(1, quota.size // MISSING_SHARE) - used)
        if is_guided and pool in (survey.zero, survey.last_call) and not config.once:
            most = min(most, left - quota.size // KEPT_SHARE - len(requests))
        requests += pool.take(most, turns)
    return requests


def _plain_share(now_ns: int, quota: Quota, config: ScheduleConfig, survey: Survey) -> int:
    """Returns how many requests counted hours leave to the collections without counts: their fair share."""
    collections = len(set(config.collections))
    if not survey.is_short or len(survey.plain) == collections:
        return 0
    share = quota.size * len(survey.plain) // collections
    plain = set(survey.plain)
    used = sum(each.collection in plain for each in quota.last_day(now_ns))
    an_hour = -(-share // 24)
    return min(an_hour, max(0, share - used), survey.fresh.size + survey.late.size + survey.backfill.size)


def _needed(now_ns: int, quota: Quota, config: ScheduleConfig, survey: Survey) -> list[int]:
    """Returns when the first listings of the next 24 hours are due, at most as many as the quota covers."""
    share = min(len(config.collections), quota.size / 24)
    if survey.is_short:
        share *= len(survey.plain) / len(set(config.collections))
    count = 0.0
    found = survey.coming_ns[: quota.size]
    for ahead in range(1, 25):
        due = hour_of(now_ns) + ahead
        hour = due - READ_AFTER_HOURS[survey.reads][0] - 1
        if hour < hour_of(config.since_ns):
            continue
        if config.until_ns is not None and hour * HOUR_NS >= config.until_ns:
            break
        whole = int(count + share + 1e-9) - int(count + 1e-9)
        count += share
        found += [due * HOUR_NS] * whole
    return sorted(found)
