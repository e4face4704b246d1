"""What to ask of Segment next, and when: a pure function of the time, the ledger's view and the quota.

The promise: every hour is read once it can be complete and again while it may grow, as far as the quota
goes; what the quota cannot give is shared fairly and named. The requests that the coming hours need are not
spent on others: an hour that is fresh now is never paid for with one that will be. (Issue 5, "The planner";
specification 1 and 3.)
"""

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, HOUR_NS, RETENTION_NS, SECOND_NS, hour_of
from faillog_otel.segment.quota import Quota, Why

LAST_CALL_NS = 27 * DAY_NS + 12 * HOUR_NS
"""From the start of an hour: half a day is left for failures."""
LEAVING_NS = 36 * HOUR_NS
"""With less than this left, an hour that was never read is about to leave."""
READ_AFTER_HOURS: Mapping[int, tuple[int, ...]] = {1: (8,), 2: (6, 26), 3: (2, 6, 26), 4: (2, 6, 26)}
"""How many readings the quota covers → when, in whole hours after the end of the hour; the fourth is the
last call. Segment retries for four hours and a half, and records show up two hours later at the latest: a
single reading, and the last one but the last call, must come after that."""
SETTLED_AFTER_NS = 20 * HOUR_NS
FRESH_NS = DAY_NS
"""So long after its first reading is due an hour is fresh; then it is backfill."""
PATIENCE_NS = 2 * HOUR_NS
"""A fresh hour may wait so long for its turn: pauses are made up for, and nothing is lost."""
SLACK_NS = HOUR_NS // 4
"""Requests of yesterday were made some time after the hour struck, and come back as much later."""
TRY_AGAIN_NS = (10 * SECOND_NS, 60 * SECOND_NS)
"""After the first and the second failure in a row: three tries (specification 3, T0)."""
MISSING_SHARE = 10
"""A tenth of the quota at most lists hours only for objects that could not be downloaded."""
PAUSE_NS = tuple(hours * HOUR_NS for hours in (1, 2, 4, 8, 12))
"""After the third failure and the next ones: an API that is broken must not cost the whole quota."""


class HourView(Struct, frozen=True):
    """What the ledger knows of one collection's hour. All times: nanoseconds since 1970."""

    listed_ns: int | None = None
    """The last listing that succeeded."""
    same_since_ns: int | None = None
    """The first of the listings in a row that showed the same identities as the last one."""
    failures: int = 0
    """Listings in a row, in this run, that failed or that a crash left unanswered."""
    failed_ns: int = 0
    """When the last of them was debited."""
    wanted: bool = False
    """A person asked to read it again: it is due now."""
    missing: int = 0
    """Objects of the last listing that could not be downloaded so far."""
    missing_due_ns: int | None = None
    """When the hour may be listed again for their sake: their URLs do not work any more."""

    @property
    def is_settled(self) -> bool:
        """Whether two listings at least 20 hours apart showed the same identities, and all objects came."""
        if self.listed_ns is None or self.same_since_ns is None or self.missing:
            return False
        return self.listed_ns - self.same_since_ns >= SETTLED_AFTER_NS


class ScheduleConfig(Struct, frozen=True):
    """What is asked for."""

    collections: tuple[str, ...]
    since_ns: int = 0
    """Hours that ended by then are not asked for."""
    until_ns: int | None = None
    """Nor are hours that begin then or later."""
    born_ns: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Collection → when it was made, as its id says. Hours that ended by then hold nothing."""
    asked_since_ns: int | None = None
    """Hours since then are asked for whatever `born_ns` says: a person named that time."""
    once: bool = False
    """Nobody will ask later (`--once`): nothing is put by for the hours to come."""

    def since_of(self, collection: str) -> int:
        """Hours of this collection that ended by then are not asked for."""
        born_ns = self.born_ns.get(collection, 0)
        if self.asked_since_ns is not None:
            born_ns = min(born_ns, self.asked_since_ns)
        return max(self.since_ns, born_ns)


class ObjectVersion(Struct, frozen=True):
    """The version of an object that was downloaded: it is the same if S3 answers with the same values."""

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
    """What to ask now, and what follows from the quota."""

    asks: tuple[ListingRequest, ...]
    """In this order; the quota covers all of them. Each is to be debited with its `why`."""
    next_ns: int
    """When to plan again, if nothing else happens before: later than now."""
    left: int
    """Requests left now, the reserve included."""
    waiting: dict[Why, int]
    """How many hours are due and have to wait for the quota; only the kinds that have some."""
    reads_per_hour: int
    """How many of the four readings the quota covers for each hour: 1 to 4."""
    covered: int
    """For how many collections the quota is enough with one reading an hour."""
    missed_per_day: dict[str, float]
    """Collection → hours that will be missed each day; empty when the quota covers all."""


class _Pool:
    """The hours that are due for the same reason, by collection; first come the newest, or the oldest."""

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
        """At most so many, each from the collection whose turn it is."""
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
    """Whose turn it is: the one with the fewest requests in 24 hours, then the least recently asked."""

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
    """What to ask now. `hours`: collection → hour → what is known; unknown hours were never asked for."""
    quota = quota.mended(now_ns)
    needed_a_day = 24 * len(config.collections)
    if needed_a_day > quota.size - quota.reserve:
        quota = replace(quota, reserve=0)  # it yields before an hour is missed
    reads = reads_per_hour(quota, len(config.collections))
    survey = _Survey(now_ns, hours, config, reads)
    asks = _spend(now_ns, quota, config, survey)
    waiting: dict[Why, int] = {}
    for pool in survey.pools():
        if pool.size:
            waiting[pool.why] = waiting.get(pool.why, 0) + pool.size
    changes = [(hour_of(now_ns) + 1) * HOUR_NS, *survey.retries_ns]
    if waiting:
        changes.append(quota.next_ns(now_ns))
    missed = max(0.0, 24 - quota.size / len(config.collections)) if config.collections else 0.0
    return Plan(
        asks=tuple(asks),
        next_ns=min(changes),
        left=quota.left(now_ns, with_reserve=True),
        waiting=waiting,
        reads_per_hour=reads,
        covered=quota.size // 24,
        missed_per_day=dict.fromkeys(config.collections, missed) if missed else {},
    )


def reads_per_hour(quota: Quota, collections: int) -> int:
    """How many of the four readings of each hour the quota covers."""
    return min(4, max(1, (quota.size - quota.reserve) // (24 * max(1, collections))))


class _Survey:
    """All hours of the window, sorted into pools by what they are due for."""

    def __init__(
        self,
        now_ns: int,
        hours: Mapping[str, Mapping[int, HourView]],
        config: ScheduleConfig,
        reads: int,
    ) -> None:
        self.wanted = _Pool("wanted", lambda _name, _hour: now_ns, newest_first=False)
        self.leaving = _Pool("leaving", self._first_ns, newest_first=False)
        self.fresh, self.late = (_Pool("fresh", self._first_ns, newest_first=True) for _ in range(2))
        self.again = _Pool("again", self._again_ns, newest_first=True)
        self.missing = _Pool("missing", self._missing_ns, newest_first=False)
        self.last_call = _Pool("last_call", self._last_call_ns, newest_first=False)
        self.backfill = _Pool("backfill", self._first_ns, newest_first=True)
        self.retries_ns: list[int] = []
        """When hours that failed, or that miss objects, are due again, as far as that is later."""
        self.reads = reads
        self._now_ns = now_ns
        self._hours = hours
        self._after = tuple(hours * HOUR_NS for hours in READ_AFTER_HOURS[reads])
        self._all_read_ns = HOUR_NS + self._after[-1]
        """From the start of an hour: a listing then or later leaves nothing to do before the last call."""
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
        self._late_before = hour_of(now_ns - PATIENCE_NS) - first_read
        self._backfill_before = hour_of(now_ns - FRESH_NS) - first_read
        for collection in dict.fromkeys(config.collections):
            self._sort(collection, hours.get(collection, {}))
        for collection, views in hours.items():
            for hour, view in views.items():
                if view.wanted and hour in self._begun and self._is_due(hour, view):
                    self.wanted.add(collection, [hour])

    def pools(self) -> tuple[_Pool, ...]:
        """In the order of worth. Last calls that the quota does not cover come after hours never read."""
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
        """An hour of which everything else was read. An empty window means: only what a person asked for."""
        if view.wanted or hour not in self._begun or not self._due:
            return
        if due_ns > self._now_ns:
            self.retries_ns.append(due_ns)
        elif self._is_due(hour, view):
            self.missing.add(collection, [hour])

    def _missing_ns(self, collection: str, hour: int) -> int:
        return self._hours[collection][hour].missing_due_ns or self._now_ns

    def _first_ns(self, _collection: str, hour: int) -> int:
        """When an hour can be complete: what was read before does not count."""
        return (hour + 1) * HOUR_NS + self._after[0]

    def _last_call_ns(self, _collection: str, hour: int) -> int:
        return hour * HOUR_NS + LAST_CALL_NS

    def _again_ns(self, collection: str, hour: int) -> int:
        """When the first of the readings is due that the last listing did not serve; else never."""
        listed_ns = self._hours[collection][hour].listed_ns or 0
        end_ns = (hour + 1) * HOUR_NS
        later = (end_ns + after for after in self._after if end_ns + after > listed_ns)
        return next(later, end_ns + RETENTION_NS)

    def _is_due(self, hour: int, view: HourView) -> bool:
        """Whether its failures allow to ask for it now."""
        if not view.failures:
            return True
        try_again = TRY_AGAIN_NS + PAUSE_NS
        pause_ns = try_again[min(view.failures, len(try_again)) - 1]
        if hour < self._leaving_before:
            pause_ns = min(pause_ns, HOUR_NS)
        due_ns = min(view.failed_ns, self._now_ns) + pause_ns
        if due_ns > self._now_ns:
            self.retries_ns.append(due_ns)
        return due_ns <= self._now_ns


def _spend(now_ns: int, quota: Quota, config: ScheduleConfig, survey: _Survey) -> list[ListingRequest]:
    """As many of the due hours as the quota allows, in the order of worth."""
    turns = _Turns(quota, now_ns)
    needed = [] if config.once else list(_needed(now_ns, quota, config, survey.reads))
    left = quota.left(now_ns, with_reserve=True)
    asks = list(survey.wanted.take(left, turns))

    # Hours that leave come first, but not before the fresh ones have what they need: else, once all hours
    # are late, each would be read on its last day only.
    on_time = min(survey.fresh.size, left)
    spare = quota.spare(now_ns, needed, patience_ns=SLACK_NS, with_reserve=True)
    asks += survey.leaving.take(min(left - on_time, spare - on_time) - len(asks), turns)

    kept = max(0, quota.kept(now_ns) - len(asks))
    reserve_used = quota.kept(now_ns) - kept
    if 24 * len(config.collections) <= quota.size:
        most = left - kept
    else:  # evenly over the day, not all collections' at once
        most = min(left, quota.spare(now_ns, needed, patience_ns=PATIENCE_NS) + reserve_used)
    asks += survey.fresh.take(most - len(asks), turns)

    spare = quota.spare(now_ns, needed, patience_ns=SLACK_NS) + reserve_used
    spare = min(left, max(spare, quota.probes(now_ns)))
    pace = -(-(quota.size - quota.reserve) // 24) - quota.since(now_ns - HOUR_NS)
    for pool in survey.pools()[3:]:
        most = spare - len(asks)
        if pool is survey.backfill and not config.once:
            # It goes on evenly, for it takes days: what comes after it finds requests that come back.
            most = min(spare, max(pace, quota.probes(now_ns))) - len(asks)
        elif pool is survey.missing:
            used = sum(each.why == "missing" for each in quota.last_day(now_ns))
            most = min(most, max(1, quota.size // MISSING_SHARE) - used)
        asks += pool.take(most, turns)
    return asks


def _needed(now_ns: int, quota: Quota, config: ScheduleConfig, reads: int) -> Iterator[int]:
    """When the first readings of the next 24 hours are due: as many as there will be, or as there can be."""
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
