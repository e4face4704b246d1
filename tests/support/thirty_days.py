"""Thirty days of asking in a second: a small model of Segment, and of a program that does what the plan says.

The model counts requests by itself. The program's time is Segment's, as `SegmentClock` gives it.
"""

import random
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator
from statistics import quantiles
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, HOUR_NS, RETENTION_NS, SECOND_NS
from faillog_otel.sandbox.generator import RETRY_SECONDS
from faillog_otel.segment.hours import HourView, ScheduleConfig
from faillog_otel.segment.quota import Granted, Quota, RateLimit, RequestRecord
from faillog_otel.segment.schedule import plan

MINUTE_NS = 60 * SECOND_NS
START_NS = 490_000 * HOUR_NS + 7 * MINUTE_NS
KINDS_OF_HOUR = 64


class Trouble(Struct, frozen=True):
    """What goes wrong, all of it by seed."""

    failures: float = 0.0
    """Share of the listings that fail, and cost a request all the same."""
    refusals: float = 0.0
    """Share of the listings that are answered with a 429 though there is quota: it says how long to wait."""
    restarts_a_day: float = 0.0
    """The program is away for up to two hours, and forgets the failures of its run."""


CALM = Trouble()
ROUGH = Trouble(failures=0.02, refusals=0.01, restarts_a_day=1.0)

Words = Literal["headers", "remaining", "none"]
"""What successful answers say: how many requests remain, and until when; only how many; nothing."""


class Result(Struct, frozen=True):
    """What came of it."""

    max_in_24_hours: int
    """By Segment's own count."""
    over_quota: int
    """Requests that Segment had to refuse, though the program could know it."""
    guessed: int
    """Those that followed one without an answer: Segment had counted it, and could not say so."""
    expected: int
    """Hours whose first reading was due a day before the end, or that left before."""
    missed: int
    """Those of them that were not read when they were complete, nor can be within a day."""
    by_collection: dict[str, int]
    """Requests."""
    records: float
    """Share of the records collected, of those that had shown up a day before the end."""
    median_hours: float
    slowest_hours: float
    """From an event to its collection: the median and the 95th percentile."""


class _Hour:
    """When an hour's records were logged, and when they show up: hours from its start."""

    def __init__(self, rng: random.Random) -> None:
        made = []
        for _ in range(30):
            at = rng.uniform(0, 3600)
            tries = rng.choice((0, 0, 0, 1, 3, len(RETRY_SECONDS)))
            for delay in (0, *RETRY_SECONDS[:tries]):
                at += delay * rng.uniform(0.8, 1.2)
                made.append((at + rng.uniform(3600, 7200), at))
        made.sort()
        self.shown_ns = [int(shown * SECOND_NS) for shown, _ in made]
        self.logged_ns = [int(logged * SECOND_NS) for _, logged in made]

    def shows(self, after_ns: int) -> int:
        """How many records it shows so long after its start."""
        return bisect_right(self.shown_ns, after_ns)


class Segment:
    """Grants 120 requests in any 24 hours."""

    def __init__(self, rng: random.Random, trouble: Trouble) -> None:
        self.most, self.refused, self.guessed = 0, 0, 0
        self.asks_to_wait_ns = 0
        """By its last 429."""
        self._failed_last = False
        self._rng = rng
        self._trouble = trouble
        self._granted: deque[int] = deque()
        self._kinds = [_Hour(rng) for _ in range(KINDS_OF_HOUR)]

    def hour(self, collection: str, hour: int) -> _Hour:
        return self._kinds[(hour * 7 + len(collection) * 13 + ord(collection[-1])) % KINDS_OF_HOUR]

    def said(self, now_ns: int, words: Words) -> RateLimit | None:
        """What an answer says of the quota."""
        if words == "none":
            return None
        remaining = 120 - len(self._granted)
        if words == "remaining":
            return RateLimit(now_ns, remaining)
        return RateLimit(now_ns, remaining, self._granted[0] + DAY_NS, 120)

    def list_hour(self, now_ns: int, collection: str, hour: int) -> int | str:
        """Shown records or what went wrong."""
        while self._granted and self._granted[0] <= now_ns - DAY_NS:
            self._granted.popleft()
        if len(self._granted) >= 120:
            self.guessed += self._failed_last
            self.refused += not self._failed_last
            self.asks_to_wait_ns = self._granted[0] + DAY_NS - now_ns
            return "refused"
        chance = self._rng.random()
        if chance < self._trouble.refusals:
            self.asks_to_wait_ns = int(self._rng.uniform(0.1, 10.0) * MINUTE_NS)
            return "refused"
        self._granted.append(now_ns)
        self.most = max(self.most, len(self._granted))
        self._failed_last = chance < self._trouble.refusals + self._trouble.failures
        if self._failed_last:
            return "failed"
        age_ns = now_ns - hour * HOUR_NS
        return self.hour(collection, hour).shows(age_ns) if age_ns < RETENTION_NS else 0


class Program:
    """Does what the plan says, and remembers what the ledger would."""

    def __init__(self, segment: Segment, rng: random.Random, config: ScheduleConfig, words: Words) -> None:
        self.hours: dict[str, dict[int, HourView]] = {name: {} for name in config.collections}
        self.seen: dict[tuple[str, int], list[tuple[int, int]]] = {}
        """(collection, hour) → (time, records) of the listings that succeeded."""
        self.asked: Counter[str] = Counter()
        self._segment = segment
        self._rng = rng
        self._config = config
        self._quota = Quota()
        self._words = words

    def go_on(self, now_ns: int) -> int:
        """Makes the requests of one plan; returns the time of the next one."""
        recent = [each for each in self._quota.debits if each.at_ns > now_ns - 2 * DAY_NS]
        self._quota = replace(self._quota, debits=recent).mended(now_ns)
        planned = plan(now_ns, self.hours, self._quota, self._config)
        assert planned.next_ns > now_ns
        assert len(set(planned.requests)) == len(planned.requests) <= planned.left
        for ask in planned.requests:
            now_ns += int(self._rng.uniform(0.2, 2.0) * SECOND_NS)
            self.asked[ask.collection] += 1
            answer = self._segment.list_hour(now_ns, ask.collection, ask.hour)
            means: Granted = "granted"
            if isinstance(answer, str):
                means = "refused" if answer == "refused" else "none"
            debit = RequestRecord(now_ns, ask.collection, ask.why, means)
            self._quota = replace(self._quota, debits=[*self._quota.debits, debit])
            views = self.hours[ask.collection]
            view = views.get(ask.hour, HourView())
            if isinstance(answer, str):
                views[ask.hour] = replace(view, failures=view.failures + 1, failed_ns=now_ns)
                if answer == "refused":
                    until_ns = now_ns + self._segment.asks_to_wait_ns
                    self._quota = replace(self._quota, not_before_ns=until_ns)
                    break
                continue
            if (said := self._segment.said(now_ns, self._words)) is not None:
                self._quota = replace(self._quota, rate_limit=self._quota.with_window(said))
            self._note(ask.collection, ask.hour, now_ns, answer)
        return now_ns if planned.requests else max(now_ns, planned.next_ns)

    def restart(self) -> None:
        """Failures are counted in a run."""
        for views in self.hours.values():
            for hour, view in views.items():
                if view.failures:
                    views[hour] = replace(view, failures=0)

    def _note(self, collection: str, hour: int, now_ns: int, shown: int) -> None:
        listings = self.seen.setdefault((collection, hour), [])
        view = self.hours[collection].get(hour, HourView())
        is_same = bool(listings) and listings[-1][1] == shown
        self.hours[collection][hour] = HourView(
            listed_ns=now_ns,
            same_since_ns=view.same_since_ns if is_same else now_ns,
        )
        listings.append((now_ns, shown))


def thirty_days(
    collections: int,
    *,
    seed: int = 1,
    trouble: Trouble = CALM,
    backlog_days: int = 0,
    days: int = 30,
    words: Words = "headers",
) -> Result:
    """Runs the program so long; `backlog_days`: it may ask for so many days before its first start."""
    rng = random.Random(seed)
    config = ScheduleConfig(
        tuple(f"collection-{chr(97 + number)}" for number in range(collections)),
        since_ns=START_NS - backlog_days * DAY_NS,
    )
    segment = Segment(rng, trouble)
    program = Program(segment, rng, config, words)
    now_ns, end_ns = START_NS, START_NS + days * DAY_NS
    restarts = _restarts(rng, trouble, end_ns)
    restart_ns = next(restarts)
    while now_ns < end_ns:
        if now_ns < restart_ns:
            now_ns = min(program.go_on(now_ns), max(restart_ns, now_ns + 1))
        else:
            program.restart()
            now_ns += int(rng.uniform(0.001, 2) * HOUR_NS)
            restart_ns = next(restarts)
    return _result(segment, program, config, end_ns)


def _restarts(rng: random.Random, trouble: Trouble, end_ns: int) -> Iterator[int]:
    count = round(trouble.restarts_a_day * (end_ns - START_NS) / DAY_NS)
    yield from sorted(START_NS + int(rng.random() * (end_ns - START_NS)) for _ in range(count))
    yield end_ns


def _result(segment: Segment, program: Program, config: ScheduleConfig, end_ns: int) -> Result:
    expected = missed = records = collected = 0
    ages: list[float] = []
    first = max(config.since_ns, START_NS - RETENTION_NS) // HOUR_NS + 1
    for collection in config.collections:
        for hour in range(first, (end_ns - 33 * HOUR_NS) // HOUR_NS):
            start_ns = hour * HOUR_NS
            listings = program.seen.get((collection, hour), [])
            truth = segment.hour(collection, hour)
            expected += 1
            can_wait = start_ns + RETENTION_NS > end_ns and start_ns < START_NS  # backfill that goes on
            missed += not listings and not can_wait
            shown = truth.shows(end_ns - DAY_NS - start_ns)
            records += shown
            before = 0
            for at_ns, count in listings:
                ages += [(at_ns - start_ns - logged) / HOUR_NS for logged in truth.logged_ns[before:count]]
                before = max(before, count)
            collected += min(before, shown)
    marks = quantiles(ages, n=20)
    return Result(
        max_in_24_hours=segment.most,
        over_quota=segment.refused,
        guessed=segment.guessed,
        expected=expected,
        missed=missed,
        by_collection=dict(program.asked),
        records=collected / records,
        median_hours=marks[9],
        slowest_hours=marks[18],
    )
