"""Thirty days of asking: the quota is never exceeded, and nothing is missed that it covers."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.thirty_days import CALM, ROUGH, Result, Trouble, Words, thirty_days
from support.tiers import slow, slow_case, swept

from faillog_otel.clock import DAY_NS, HOUR_NS, RETENTION_NS, SECOND_NS
from faillog_otel.segment.hours import HourView, ScheduleConfig
from faillog_otel.segment.quota import Quota, RateLimit, RequestRecord
from faillog_otel.segment.schedule import plan

NOW = 490_000 * HOUR_NS + 1234 * SECOND_NS


def over(
    collections: int, trouble: Trouble, *, seed: int = 1, days: int = 30, words: Words = "headers"
) -> Result:
    found = thirty_days(collections, seed=seed, trouble=trouble, days=days, words=words)
    print(collections, trouble, found)  # seen with -s
    assert found.max_in_24_hours <= 120
    assert found.over_quota == 0
    assert found.guessed <= trouble.failures * sum(found.by_collection.values())
    return found


@pytest.mark.parametrize("collections", swept([1, 2, 4, 5], [2]))
def test_no_hour_is_missed_and_all_records_are_collected(collections: int) -> None:
    found = over(collections, CALM)
    assert found.missed == 0
    assert found.records > 0.9999
    assert found.slowest_hours < 10


@pytest.mark.parametrize("words", swept(["remaining", "none"], ["none"]))
def test_a_server_that_reports_less_of_its_quota_is_polled_as_well(words: Words) -> None:
    found = over(4, ROUGH, words=words)
    assert found.missed == 0
    assert found.records > 0.999


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("collections", swept([1, 2, 4], [2]))
def test_restarts_failures_and_429s_cost_no_hour(collections: int, seed: int) -> None:
    found = over(collections, ROUGH, seed=seed)
    assert found.missed == 0
    assert found.records > 0.999
    assert found.slowest_hours < 12


@slow
def test_five_collections_miss_little_when_things_go_wrong() -> None:
    """Five collections need the whole quota, so a request that fails may cost an hour."""
    found = over(5, ROUGH)
    assert found.missed / found.expected < 0.05


@pytest.mark.parametrize(("trouble", "days"), [slow_case(CALM, 30), slow_case(ROUGH, 10), (ROUGH, 5)])
def test_twenty_collections_share_fairly(trouble: Trouble, days: int) -> None:
    found = over(20, trouble, days=days)
    shares = found.by_collection.values()
    assert max(shares) - min(shares) <= 2
    assert sum(shares) > (days - 2) * 120
    assert found.slowest_hours < 12, "what is read is fresh"


def test_a_first_start_reads_the_28_days_before_it() -> None:
    assert thirty_days(1, backlog_days=28).missed == 0


STEPS = st.one_of(
    st.integers(1, 3 * DAY_NS),
    st.integers(-2 * DAY_NS, 0),
    st.sampled_from([1, SECOND_NS, HOUR_NS, DAY_NS - 1, DAY_NS]),
)
SAID = st.none() | st.builds(
    RateLimit, st.just(NOW), st.integers(-5, 130), st.none() | st.integers(0, 2 * NOW)
)
VIEWS = st.builds(
    HourView,
    listed_ns=st.none() | st.integers(NOW - RETENTION_NS, NOW + DAY_NS),
    same_since_ns=st.none() | st.integers(NOW - RETENTION_NS, NOW),
    failures=st.integers(0, 9),
    failed_ns=st.integers(NOW - 2 * DAY_NS, NOW + DAY_NS),
    wanted=st.booleans(),
)


@settings(max_examples=60)
@given(
    st.integers(0, 21),
    st.lists(st.tuples(STEPS, st.integers(0, 120)), max_size=15),
    st.dictionaries(
        st.integers(NOW // HOUR_NS - 700, NOW // HOUR_NS + 30), st.dictionaries(st.just("a"), VIEWS)
    ),
    st.integers(1, 150),
    st.booleans(),
)
def test_without_a_server_limit_never_more_than_the_setting_in_24_hours(
    collections: int,
    steps: list[tuple[int, int]],
    known: dict[int, dict[str, HourView]],
    per_day: int,
    once: bool,
) -> None:
    """Steps back are seen as such, and the true time of what was noted ahead is not later than the step."""
    config = ScheduleConfig(tuple(f"{number}" for number in range(collections)), once=once)
    hours = {"0": {hour: view for hour, views in known.items() for view in views.values()}}
    quota, now_ns = Quota(per_day=per_day), NOW
    true_ns, made = NOW, Counter[int]()
    for step, count in steps:
        now_ns += step
        true_ns += max(step, 0)  # a clock that is set back: no time has passed
        quota = quota.mended(now_ns)
        found = plan(now_ns, hours, quota, config)
        assert found == plan(now_ns, hours, quota, config)
        assert len(found.requests) <= found.left
        assert found.next_ns > now_ns
        made[true_ns] += len(found.requests[:count])
        quota = replace(
            quota,
            debits=[
                *quota.debits,
                *(RequestRecord(now_ns, ask.collection, ask.why) for ask in found.requests[:count]),
            ],
        )
    for at_ns in made:
        assert sum(count for ns, count in made.items() if at_ns - DAY_NS < ns <= at_ns) <= per_day


@settings(max_examples=60)
@given(
    SAID,
    st.integers(0, 130),
    st.integers(0, 2 * DAY_NS),
    st.integers(1, 150),
    st.sampled_from([1, 3, 20]),
    st.booleans(),
)
def test_no_more_is_requested_than_the_server_limit_allows(
    said: RateLimit | None, spent: int, later_ns: int, per_day: int, collections: int, once: bool
) -> None:
    debits = [RequestRecord(NOW - HOUR_NS, "0", "fresh")] * spent
    quota = Quota(debits=debits, rate_limit=said, per_day=per_day)
    config = ScheduleConfig(tuple(f"{number}" for number in range(collections)), once=once)
    found = plan(NOW + later_ns, {}, quota, config)
    assert len(found.requests) <= found.left
    if said is not None and NOW + later_ns < said.ends_ns:
        assert found.left <= max(0, said.remaining + (spent if said.reset_ns is None else 0))
    elif said is None or said.reset_ns is None:
        assert found.left <= per_day


@settings(max_examples=60)
@given(
    st.dictionaries(st.integers(NOW // HOUR_NS - 700, NOW // HOUR_NS + 30), VIEWS),
    st.integers(0, 120),
    st.none() | st.integers(NOW - 40 * DAY_NS, NOW + DAY_NS),
    st.none() | st.integers(NOW - 40 * DAY_NS, NOW + DAY_NS),
)
def test_no_hour_is_requested_twice_or_outside_the_window(
    views: dict[int, HourView], spent: int, since_ns: int | None, until_ns: int | None
) -> None:
    config = ScheduleConfig(("a", "b"), since_ns=since_ns or 0, until_ns=until_ns)
    quota = Quota(debits=[RequestRecord(NOW - 5 * HOUR_NS, "a", "fresh")] * spent)
    found = plan(NOW, {"a": views}, quota, config)
    assert len({(ask.collection, ask.hour) for ask in found.requests}) == len(found.requests)
    for ask in found.requests:
        start_ns = ask.hour * HOUR_NS
        assert NOW - RETENTION_NS < start_ns <= NOW
        assert ask.due_ns <= NOW
        if ask.why != "wanted":
            assert start_ns + 3 * HOUR_NS <= NOW
            assert start_ns + HOUR_NS > (since_ns or 0)
            assert until_ns is None or start_ns < until_ns
