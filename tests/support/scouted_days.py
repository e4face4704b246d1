"""Thirty days of listing with Segment's counts: a small model of failures, counts and restarts.

Most hours are empty. An incident takes 1 to 30 hours: its messages are refused at once, or retried for up
to four and a half hours and then discarded or delivered. Records show up one to two hours later. The model
counts requests by itself, without the planner's code.
"""

import random
from bisect import bisect_right
from collections import Counter, defaultdict, deque

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, HOUR_NS, RETENTION_NS, SECOND_NS
from faillog_otel.segment.hours import HourView, ScheduleConfig
from faillog_otel.segment.quota import Granted, Quota, RateLimit, RequestRecord
from faillog_otel.segment.schedule import plan
from faillog_otel.segment.scout import CollectionCounts, CountedHour, Findings, Scout, find

START = 490_000
MINUTE_NS = 60 * SECOND_NS
START_NS = START * HOUR_NS + 7 * MINUTE_NS
FAULTS = 0.02
"""Share of the listings that fail, and cost a request all the same."""
RETRIES_END_SECONDS = 4.5 * 3600
PER_DAY = 120


class World(Struct, frozen=True):
    """What fails, all of it by seed."""

    collections: int
    seed: int
    incidents_a_week: float = 1.0
    """Of each collection."""
    lying: str | None = None
    """The collection whose failures are counted as zero. It has four times as many incidents."""
    always_failing: str | None = None
    """A collection with failures in every hour."""
    days: int = 30


class Result(Struct, frozen=True):
    """What came of it."""

    max_in_24_hours: int
    refused: int
    """Requests that Segment had to refuse, though the program could know it."""
    records: int
    """Failing records that were complete a day before the end."""
    collected: float
    """Share of them."""
    within_a_day: float
    """Share of the collected ones that were collected within 24 hours of being complete."""
    by_collection: dict[str, float]
    """Share of each collection's records."""
    mistrusted_ns: dict[str, int]
    """When the counts of a collection were found to be wrong first."""
    long_failure_ns: dict[str, int]
    """The end of the sixth hour of each collection's first incident of at least so many hours."""
    requests: int


class _Failures:
    """The records of one collection and what is counted of them."""

    def __init__(self) -> None:
        self.shown_ns: defaultdict[int, list[int]] = defaultdict(list)
        """Hour of the first failure → when each of its records shows up."""
        self.counted: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        """Hour → discards and deliveries after retries."""
        self.discards: defaultdict[int, list[int]] = defaultdict(list)
        """Hour of the first failure → the hours of its discards."""

    def fail(self, rng: random.Random, at_seconds: float, *, is_final: bool, ends_seconds: float) -> None:
        """Adds a message that fails, until it is discarded or delivered."""
        hour, tries = int(at_seconds // 3600), [at_seconds]
        while not is_final:
            later = tries[-1] + rng.uniform(0.7, 1.3) * 120 * 3 ** len(tries)
            if later > at_seconds + RETRIES_END_SECONDS or later > ends_seconds:
                break
            tries.append(later)
        end = tries[-1] if is_final else min(at_seconds + RETRIES_END_SECONDS, max(ends_seconds, tries[-1]))
        is_discarded = is_final or ends_seconds >= at_seconds + RETRIES_END_SECONDS
        if is_discarded and end > tries[-1]:
            tries.append(end)
        self.counted[int(end // 3600)][0 if is_discarded else 1] += 1
        if is_discarded:
            self.discards[hour].append(int(end // 3600))
        shown = self.shown_ns[hour]
        shown += [int((at + rng.uniform(3600, 7200)) * SECOND_NS) for at in tries]

    def close(self) -> None:
        """Sorts what is shown."""
        for shown in self.shown_ns.values():
            shown.sort()


def _failures(world: World, name: str, rng: random.Random) -> _Failures:
    found = _Failures()
    if name == world.always_failing:
        for hour in range(START, START + 24 * world.days):
            for _ in range(rng.randint(2, 8)):
                at = (hour + rng.random()) * 3600
                found.fail(rng, at, is_final=True, ends_seconds=at)
    incidents = world.incidents_a_week * world.days / 7 * (4 if name == world.lying else 1)
    for _ in range(sum(rng.random() < 0.5 for _ in range(round(2 * incidents)))):
        start = (START + rng.uniform(0, 24 * world.days)) * 3600
        length = rng.choice((rng.uniform(1, 5), rng.uniform(1, 30))) * 3600
        is_final, a_hour = rng.random() < 0.5, rng.choice((3, 10, 40))
        for _ in range(max(1, round(a_hour * length / 3600))):
            at = rng.uniform(start, start + length)
            found.fail(rng, at, is_final=is_final, ends_seconds=start + length)
    found.close()
    return found


class _Segment:
    """Grants 120 requests in any 24 hours."""

    def __init__(self, world: World, names: tuple[str, ...]) -> None:
        self.failures = {
            name: _failures(world, name, random.Random(f"{world.seed} {name}")) for name in names
        }
        self.most = self.refused = self.requests = 0
        self._rng = random.Random(f"{world.seed} faults")
        self._granted: deque[int] = deque()
        self._failed_last = False

    def list_hour(self, now_ns: int, collection: str, hour: int) -> int | Granted:
        """Returns how many records the hour shows, or what went wrong."""
        while self._granted and self._granted[0] <= now_ns - DAY_NS:
            self._granted.popleft()
        if len(self._granted) >= PER_DAY:
            self.refused += not self._failed_last
            return "refused"
        self._granted.append(now_ns)
        self.requests += 1
        self.most = max(self.most, len(self._granted))
        self._failed_last = self._rng.random() < FAULTS
        if self._failed_last:
            return "none"
        if now_ns - hour * HOUR_NS >= RETENTION_NS:
            return 0
        return bisect_right(self.failures[collection].shown_ns.get(hour, []), now_ns)

    @property
    def available_ns(self) -> int:
        """When a refused request would be granted."""
        return self._granted[0] + DAY_NS

    def limit(self, now_ns: int) -> RateLimit:
        """Returns what the headers say."""
        return RateLimit(now_ns, PER_DAY - len(self._granted), self._granted[0] + DAY_NS, PER_DAY)


class _Program:
    """Does what the plan says, and remembers what the ledger would."""

    def __init__(self, world: World, segment: _Segment, names: tuple[str, ...], *, counts: bool) -> None:
        self.hours: dict[str, dict[int, HourView]] = {name: {} for name in names}
        self.seen: dict[str, dict[int, list[tuple[int, int]]]] = {name: {} for name in names}
        """Collection → hour → time and records of each listing that succeeded."""
        self.mistrusted_ns: dict[str, int] = {}
        self._world = world
        self._segment = segment
        self._counts = counts
        self._quota = Quota()
        self._config = ScheduleConfig(names, since_ns=START_NS)
        self._rng = random.Random(f"{world.seed} program")
        self._findings: dict[str, tuple[int, Findings]] = {}
        self._discards_read: dict[str, Counter[int]] = {name: Counter() for name in names}

    def go_on(self, now_ns: int) -> int:
        """Makes the requests of one plan; returns the time of the next one."""
        recent = [each for each in self._quota.debits if each.at_ns > now_ns - 2 * DAY_NS]
        self._quota = replace(self._quota, debits=recent).mended(now_ns)
        planned = plan(now_ns, self.hours, self._quota, self._config, self._scout(now_ns))
        assert planned.next_ns > now_ns
        for ask in planned.requests:
            now_ns += int(self._rng.uniform(0.2, 2.0) * SECOND_NS)
            shown = self._segment.list_hour(now_ns, ask.collection, ask.hour)
            answer: Granted = "granted" if isinstance(shown, int) else shown
            debit = RequestRecord(now_ns, ask.collection, ask.why, answer)
            self._quota = replace(self._quota, debits=[*self._quota.debits, debit])
            if not isinstance(shown, int):
                view = self.hours[ask.collection].get(ask.hour, HourView())
                failed = replace(view, failures=view.failures + 1, failed_ns=now_ns)
                self.hours[ask.collection][ask.hour] = failed
                if shown == "refused":
                    self._quota = replace(self._quota, not_before_ns=self._segment.available_ns)
                    break
                continue
            limit = self._quota.with_window(self._segment.limit(now_ns))
            self._quota = replace(self._quota, rate_limit=limit)
            self._note(ask.collection, ask.hour, now_ns, shown)
        return now_ns if planned.requests else max(now_ns, planned.next_ns)

    def restart(self) -> None:
        """Forgets what only the run knows."""
        self._findings.clear()
        for views in self.hours.values():
            for hour, view in views.items():
                if view.failures:
                    views[hour] = replace(view, failures=0)

    def _note(self, collection: str, hour: int, now_ns: int, shown: int) -> None:
        view = self.hours[collection].get(hour, HourView())
        listings = self.seen[collection].setdefault(hour, [])
        is_same = bool(listings) and listings[-1][1] == shown
        same_since_ns = view.same_since_ns if is_same else now_ns
        self.hours[collection][hour] = HourView(listed_ns=now_ns, same_since_ns=same_since_ns)
        listings.append((now_ns, shown))
        failures = self._segment.failures[collection]
        if shown == len(failures.shown_ns.get(hour, [])) and len(listings) == 1:
            self._discards_read[collection].update(failures.discards.get(hour, []))
        if shown:
            self._findings.pop(collection, None)

    def _scout(self, now_ns: int) -> Scout:
        if not self._counts:
            return Scout()
        hour = (now_ns - 5 * MINUTE_NS) // HOUR_NS
        for name in self.hours:
            if name not in self._findings or self._findings[name][0] != hour:
                self._findings[name] = hour, self._find(name, hour)
                if self._findings[name][1].mistrust is not None:
                    self.mistrusted_ns.setdefault(name, now_ns)
        return Scout({name: found for name, (_, found) in self._findings.items()})

    def _find(self, name: str, before: int) -> Findings:
        counted = self._segment.failures[name].counted
        lies = name == self._world.lying
        return find(
            CollectionCounts(
                {
                    hour: CountedHour() if lies or hour not in counted else CountedHour(*counted[hour])
                    for hour in range(max(START - 12, before - 28 * 24), before)
                },
                self._discards_read[name],
                {hour for hour, listings in self.seen[name].items() if listings[-1][1]},
            )
        )


def scouted_days(world: World, *, counts: bool = True) -> Result:
    """Runs the program; without `counts`, by the plain plan."""
    names = tuple(f"collection-{number:02}" for number in range(world.collections))
    segment = _Segment(world, names)
    program = _Program(world, segment, names, counts=counts)
    rng = random.Random(f"{world.seed} restarts")
    now_ns, end_ns = START_NS, START_NS + world.days * DAY_NS
    restarts = [START_NS + int((day + rng.random()) * DAY_NS) for day in range(world.days)]
    for restart_ns in (*restarts, end_ns):
        while now_ns < restart_ns:
            now_ns = min(program.go_on(now_ns), max(restart_ns, now_ns + 1))
        program.restart()
        now_ns += int(rng.uniform(0.001, 1) * HOUR_NS)
    return _result(segment, program, end_ns)


def _result(segment: _Segment, program: _Program, end_ns: int) -> Result:
    ages: list[float] = []
    complete: Counter[str] = Counter()
    collected: Counter[str] = Counter()
    first: dict[str, int] = {}
    for name, failures in segment.failures.items():
        for hour, shown_ns in failures.shown_ns.items():
            if all(hour - ago in failures.shown_ns for ago in range(6)):
                first[name] = min(first.get(name, end_ns), (hour + 1) * HOUR_NS)
            complete_ns = (hour + 9) * HOUR_NS
            if complete_ns > end_ns - DAY_NS or hour < START:
                continue
            complete[name] += len(shown_ns)
            before = 0
            for at_ns, count in program.seen[name].get(hour, []):
                ages += [(at_ns - complete_ns) / HOUR_NS] * (count - before)
                before = max(before, count)
            collected[name] += before
    return Result(
        max_in_24_hours=segment.most,
        refused=segment.refused,
        records=complete.total(),
        collected=collected.total() / complete.total(),
        within_a_day=sum(age <= 24 for age in ages) / len(ages),
        by_collection={name: collected[name] / number for name, number in complete.items()},
        mistrusted_ns=program.mistrusted_ns,
        long_failure_ns=first,
        requests=segment.requests,
    )
