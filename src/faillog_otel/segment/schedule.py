"""The planner: which hours to list next, and when; a pure function of time, hours and quota.

The guarantee: every hour is listed once it can be complete, and again while it can grow, as far as the quota
allows; a shortage is shared fairly among the collections and reported. Requests that coming hours need are
not spent on other hours. (Issue 5, "The planner"; specification 1 and 3.)
"""

import heapq
import string
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, HOUR_NS, RETENTION_NS, SECOND_NS, hour_of
from faillog_otel.segment.quota import Quota, Why

LAST_CALL_NS = 27 * DAY_NS + 12 * HOUR_NS
"""After the start of an hour; half a day is left for failures."""
LEAVING_NS = 36 * HOUR_NS
"""An hour that was never listed is about to expire if Segment deletes it within this time."""
READ_AFTER_HOURS: Mapping[int, tuple[int, ...]] = {1: (8,), 2: (6, 26), 3: (2, 6, 26), 4: (2, 6, 26)}
"""Number of listings of an hour that the quota covers → their times in whole hours after the end of the hour;
the fourth is the last call. Segment retries for four and a half hours, and records appear at most two hours
later, so a single listing, and the last one before the last call, must come after that."""
SETTLED_AFTER_NS = 20 * HOUR_NS
FRESH_NS = DAY_NS
"""An hour is fresh for this time after its first listing is due; then it is backfill."""
MAX_DELAY_NS = 2 * HOUR_NS
"""A fresh hour can be listed this much later without loss: a run makes up for pauses."""
SLACK_NS = HOUR_NS // 4
"""Yesterday's requests were made some time after the full hour, and become available again as much later."""
RETRY_AFTER_NS = (10 * SECOND_NS, 60 * SECOND_NS)
"""After the first and the second consecutive failure: three tries (specification 3, T0)."""
MISSING_SHARE = 10
"""At most a tenth of the quota lists hours only because objects could not be downloaded."""
PAUSE_NS = tuple(hours * HOUR_NS for hours in (1, 2, 4, 8, 12))
"""After the third and later failures: a broken API must not use up the quota."""

KSUID_EPOCH_SECONDS = 1_400_000_000
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def collection_created_ns(collection: str, now_ns: int) -> int | None:
    """Returns when a collection was created, from its id; None if the id is no KSUID, or later than now.

    A KSUID has 27 base62 digits, a number of 20 bytes whose first four are the seconds since 2014-05-13. Only
    one collection id is known, so this is a hint.
    """
    if len(collection) != 27 or not set(collection) <= set(_BASE62):
        return None
    number = 0
    for digit in collection:
        number = 62 * number + _BASE62.index(digit)
    at_ns = ((number >> 128) + KSUID_EPOCH_SECONDS) * SECOND_NS
    return at_ns if number < 1 << 160 and at_ns <= now_ns else None


class HourView(Struct, frozen=True):
    """The ledger's state of one hour of a collection. All times: nanoseconds since 1970."""

    listed_ns: int | None = None
    """The last listing that succeeded."""
    same_since_ns: int | None = None
    """The first of the consecutive listings with the same objects as the last one."""
    failures: int = 0
    """Consecutive listings in this run that failed or that a crash left unanswered."""
    failed_ns: int = 0
    """When the last of them was recorded."""
    wanted: bool = False
    """A person asked for it: it is due now."""
    missing: int = 0
    """Objects of the last listing that could not be downloaded so far."""
    missing_due_ns: int | None = None
    """When the hour may be listed again for new URLs of the missing objects."""

    @property
    def is_settled(self) -> bool:
        """Whether two listings at least 20 hours apart had the same objects, and all were downloaded."""
        if self.listed_ns is None or self.same_since_ns is None or self.missing:
            return False
        return self.listed_ns - self.same_since_ns >= SETTLED_AFTER_NS


class ScheduleConfig(Struct, frozen=True):
    """The collections and the time range to list."""

    collections: tuple[str, ...]
    since_ns: int = 0
    """Hours that ended by then are not listed."""
    until_ns: int | None = None
    """Hours that begin then or later are not listed."""
    created_ns: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Collection → its creation time, from its id. Hours that ended by then are empty."""
    asked_since_ns: int | None = None
    """Overrides a later `created_ns`: a person named that time."""
    once: bool = False
    """A single pass (`--once`): no requests are kept for coming hours."""

    def since_of(self, collection: str) -> int:
        """Returns the time by which an hour of this collection must have ended not to be listed."""
        created_ns = self.created_ns.get(collection, 0)
        if self.asked_since_ns is not None:
            created_ns = min(created_ns, self.asked_since_ns)
        return max(self.since_ns, created_ns)


class ObjectVersion(Struct, frozen=True):
    """The version of a downloaded object: unchanged if S3 answers with the same values."""

    etag: str | None
    last_modified: str | None
    length: int | None


class ListingRequest(Struct, frozen=True):
    """One listing to make."""

    collection: str
    hour: int
    why: Why
    due_ns: int


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
    """Collection → hours missed each day; empty if the quota covers all."""


class _Pool:
    """The hours that are due for one purpose, by collection, the newest or the oldest first."""

    def __init__(self, why: Why, due_ns: Callable[[str, int], int], *, newest_first: bool) -> None:
        self.why = why
        self.size = 0
        self._due_ns = due_ns
        self._newest_first = newest_first
        self._hours: dict[str, list[int]] = {}

    def add(self, collection: str, hours: Sequence[int]) -> None:
        if hours:
            self._hours.setdefault(collection, []).extend(hours)
            self.size += len(hours)

    def take(self, count: int, turns: "_Turns") -> Iterator[ListingRequest]:
        """Yields at most `count` requests, each for the collection that is next in turn."""
        if count <= 0:
            return
        queue = [(turns.key(name), name) for name in self._hours]
        heapq.heapify(queue)
        for hours in self._hours.values():
            hours.sort(reverse=not self._newest_first)  # the next one is the last
        while queue and count:
            _, name = heapq.heappop(queue)
            hour = self._hours[name].pop()
            yield ListingRequest(name, hour, self.why, self._due_ns(name, hour))
            count -= 1
            self.size -= 1
            turns.took(name)
            if self._hours[name]:
                heapq.heappush(queue, (turns.key(name), name))


class _Turns:
    """Turns of the collections: the fewest requests in 24 hours first, then the longest ago."""

    def __init__(self, quota: Quota, now_ns: int) -> None:
        self._now_ns = now_ns
        self._counts = Counter(each.collection for each in quota.last_day(now_ns))
        self._last = {each.collection: each.at_ns for each in quota.debits}

    def key(self, name: str) -> tuple[int, int]:
        return self._counts[name], self._last.get(name, 0)

    def took(self, name: str) -> None:
        self._counts[name] += 1
        self._last[name] = self._now_ns


def plan(
    now_ns: int, hours: Mapping[str, Mapping[int, HourView]], quota: Quota, config: ScheduleConfig
) -> Plan:
    """Returns the listings to make now. `hours`: collection → hour → state; other hours were never listed."""
    quota = quota.mended(now_ns)
    needed_a_day = 24 * len(config.collections)
    if needed_a_day > quota.size - quota.reserve:
        quota = replace(quota, reserve=0)  # the reserve is given up before an hour is missed
    reads = reads_per_hour(quota, len(config.collections))
    survey = _Survey(now_ns, hours, config, reads)
    requests = _spend(now_ns, quota, config, survey)
    waiting: Counter[Why] = Counter()
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
        missed_per_day=dict.fromkeys(config.collections, missed) if missed else {},
    )


def reads_per_hour(quota: Quota, collections: int) -> int:
    """Returns how many of the four listings of each hour the quota covers."""
    return min(4, max(1, (quota.size - quota.reserve) // (24 * max(1, collections))))


class _Survey:
    """All hours of the window, sorted into pools by purpose."""

    def __init__(
        self, now_ns: int, hours: Mapping[str, Mapping[int, HourView]], config: ScheduleConfig, reads: int
    ) -> None:
        self.wanted = _Pool("wanted", lambda _name, _hour: now_ns, newest_first=False)
        self.leaving = _Pool("leaving", self._first_ns, newest_first=False)
        self.fresh, self.late = (_Pool("fresh", self._first_ns, newest_first=True) for _ in range(2))
        self.again = _Pool("again", self._again_ns, newest_first=True)
        self.missing = _Pool("missing", self._missing_ns, newest_first=False)
        self.last_call = _Pool("last_call", self._last_call_ns, newest_first=False)
        self.backfill = _Pool("backfill", self._first_ns, newest_first=True)
        self.retries_ns: list[int] = []
        """Future times at which hours with failures or missing objects are due again."""
        self.reads = reads
        self._now_ns = now_ns
        self._hours = hours
        self._after = tuple(hours * HOUR_NS for hours in READ_AFTER_HOURS[reads])
        self._all_read_ns = HOUR_NS + self._after[-1]
        """After the start of an hour; a listing then or later is the last one before the last call."""
        now = hour_of(now_ns)
        self._last_call_before = hour_of(now_ns - LAST_CALL_NS) + 1
        self._begun = range(hour_of(now_ns - RETENTION_NS) + 1, now + 1)
        first_read = READ_AFTER_HOURS[reads][0]
        until = now if config.until_ns is None else -(-config.until_ns // HOUR_NS)
        self._due = range(
            max(self._begun.start, hour_of(config.since_ns)),
            min(now - first_read, until),
        )
        self._since = {each: hour_of(config.since_of(each)) for each in config.collections}
        self._leaving_before = -(-(now_ns + LEAVING_NS - RETENTION_NS) // HOUR_NS)
        self._late_before = hour_of(now_ns - MAX_DELAY_NS) - first_read
        self._backfill_before = hour_of(now_ns - FRESH_NS) - first_read
        for collection in dict.fromkeys(config.collections):
            self._sort(collection, hours.get(collection, {}))
        for collection, views in hours.items():
            for hour, view in views.items():
                if view.wanted and hour in self._begun and self._is_due(hour, view):
                    self.wanted.add(collection, [hour])

    def pools(self) -> tuple[_Pool, ...]:
        """Returns the pools by priority. Last calls follow hours never listed if the quota is too small."""
        rest = (self.last_call, self.backfill) if self.reads == 4 else (self.backfill, self.last_call)
        return self.wanted, self.leaving, self.fresh, self.late, self.again, self.missing, *rest

    def _sort(self, collection: str, views: Mapping[int, HourView]) -> None:
        due = range(max(self._due.start, self._since[collection]), self._due.stop)
        never_read = [hour for hour in due if hour not in views]
        for hour, view in views.items():
            listed_ns = view.listed_ns
            is_last_call = hour < self._last_call_before
            if listed_ns is not None and not is_last_call and listed_ns >= hour * HOUR_NS + self._all_read_ns:
                if view.missing_due_ns is not None:
                    self._add_missing(collection, hour, view, view.missing_due_ns)
                continue  # nearly all hours
            if view.wanted or hour not in due or not self._is_due(hour, view):
                continue
            if listed_ns is None or listed_ns < self._first_ns(collection, hour):
                never_read.append(hour)
            elif is_last_call and listed_ns < self._last_call_ns(collection, hour):
                self.last_call.add(collection, [hour])
            elif (
                not is_last_call and not view.is_settled and self._again_ns(collection, hour) <= self._now_ns
            ):
                self.again.add(collection, [hour])
            elif view.missing_due_ns is not None:
                self._add_missing(collection, hour, view, view.missing_due_ns)
        never_read.sort()
        old, late, on_time = (
            bisect_left(never_read, bound)
            for bound in (self._leaving_before, self._backfill_before, self._late_before)
        )
        self.leaving.add(collection, never_read[:old])
        self.backfill.add(collection, never_read[old:late])
        self.late.add(collection, never_read[max(old, late) : on_time])
        self.fresh.add(collection, never_read[max(old, on_time) :])

    def _add_missing(self, collection: str, hour: int, view: HourView, due_ns: int) -> None:
        """Adds an hour that only lacks objects. An empty window admits only hours that a person asked for."""
        if view.wanted or hour not in self._begun or not self._due:
            return
        if due_ns > self._now_ns:
            self.retries_ns.append(due_ns)
        elif self._is_due(hour, view):
            self.missing.add(collection, [hour])

    def _missing_ns(self, collection: str, hour: int) -> int:
        return self._hours[collection][hour].missing_due_ns or self._now_ns

    def _first_ns(self, _collection: str, hour: int) -> int:
        """Returns when an hour can be complete: earlier listings do not count."""
        return (hour + 1) * HOUR_NS + self._after[0]

    def _last_call_ns(self, _collection: str, hour: int) -> int:
        return hour * HOUR_NS + LAST_CALL_NS

    def _again_ns(self, collection: str, hour: int) -> int:
        """Returns the time of the first listing after the last one; the far future if there is none."""
        listed_ns = self._hours[collection][hour].listed_ns or 0
        end_ns = (hour + 1) * HOUR_NS
        later = (end_ns + after for after in self._after if end_ns + after > listed_ns)
        return next(later, end_ns + RETENTION_NS)

    def _is_due(self, hour: int, view: HourView) -> bool:
        """Returns whether the pause after its failures is over."""
        if not view.failures:
            return True
        pauses_ns = RETRY_AFTER_NS + PAUSE_NS
        pause_ns = pauses_ns[min(view.failures, len(pauses_ns)) - 1]
        if hour < self._leaving_before:
            pause_ns = min(pause_ns, HOUR_NS)
        due_ns = min(view.failed_ns, self._now_ns) + pause_ns
        if due_ns > self._now_ns:
            self.retries_ns.append(due_ns)
        return due_ns <= self._now_ns


def _spend(now_ns: int, quota: Quota, config: ScheduleConfig, survey: _Survey) -> list[ListingRequest]:
    """Returns as many of the due hours as the quota allows, by priority."""
    turns = _Turns(quota, now_ns)
    needed = [] if config.once else list(_needed(now_ns, quota, config, survey.reads))
    left = quota.left(now_ns, with_reserve=True)
    requests = list(survey.wanted.take(left, turns))

    # Expiring hours come first, but fresh hours keep what they need: otherwise, once all hours are late, each
    # would be listed on its last day only.
    on_time = min(survey.fresh.size, left)
    spare = quota.spare(now_ns, needed, max_delay_ns=SLACK_NS, with_reserve=True)
    requests += survey.leaving.take(min(left - on_time, spare - on_time) - len(requests), turns)

    kept = max(0, quota.reserve_left(now_ns) - len(requests))
    reserve_used = quota.reserve_left(now_ns) - kept
    if 24 * len(config.collections) <= quota.size:
        most = left - kept
    else:  # evenly over the day, not all collections at once
        most = min(left, quota.spare(now_ns, needed, max_delay_ns=MAX_DELAY_NS) + reserve_used)
    requests += survey.fresh.take(most - len(requests), turns)

    spare = quota.spare(now_ns, needed, max_delay_ns=SLACK_NS) + reserve_used
    spare = min(left, max(spare, quota.probe_allowance(now_ns)))
    pace = -(-(quota.size - quota.reserve) // 24) - quota.used_since(now_ns - HOUR_NS)
    for pool in survey.pools()[3:]:
        most = spare - len(requests)
        if pool is survey.backfill and not config.once:
            # Evenly, because backfill takes days: later requests then find the quota available again.
            most = min(spare, max(pace, quota.probe_allowance(now_ns))) - len(requests)
        elif pool is survey.missing:
            used = sum(each.why == "missing" for each in quota.last_day(now_ns))
            most = min(most, max(1, quota.size // MISSING_SHARE) - used)
        requests += pool.take(most, turns)
    return requests


def _needed(now_ns: int, quota: Quota, config: ScheduleConfig, reads: int) -> Iterator[int]:
    """Yields when the first listings of the next 24 hours are due, at most as many as the quota covers."""
    share = min(len(config.collections), quota.size / 24)
    count = 0.0
    for ahead in range(1, 25):
        due = hour_of(now_ns) + ahead
        hour = due - READ_AFTER_HOURS[reads][0] - 1
        if hour < hour_of(config.since_ns):
            continue
        if config.until_ns is not None and hour * HOUR_NS >= config.until_ns:
            return
        whole = int(count + share + 1e-9) - int(count + 1e-9)
        count += share
        yield from [due * HOUR_NS] * whole
