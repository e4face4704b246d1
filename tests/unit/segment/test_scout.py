"""What Segment's counts say of hours, and what the planner does with it."""

from collections.abc import Mapping
from itertools import pairwise

import pytest

from faillog_otel.clock import HOUR_NS
from faillog_otel.segment.hours import HourView, ScheduleConfig
from faillog_otel.segment.pools import ListingRequest
from faillog_otel.segment.quota import Quota, RequestRecord
from faillog_otel.segment.schedule import Plan, plan
from faillog_otel.segment.scout import (
    MISTRUST_HOURS,
    NO_SCOUT,
    PROBE_EVERY,
    CollectionCounts,
    CountedHour,
    Findings,
    MissingRecords,
    Scout,
    find,
    is_probe,
    probe_rank,
)

HOUR = 490_000  # it is on the stroke of this hour
NOW = HOUR * HOUR_NS
Hours = dict[str, dict[int, HourView]]


def counts(
    besides: Mapping[int, CountedHour] | None = None,
    *,
    read: Mapping[int, int] | None = None,
    with_records: tuple[int, ...] = (),
    hours: range = range(HOUR - 28 * 24, HOUR),
) -> CollectionCounts:
    """All of these hours are counted, as zero but the ones given."""
    counted = dict.fromkeys(hours, CountedHour()) | dict(besides or {})
    return CollectionCounts(counted, read or {}, with_records)


def test_an_hour_with_failures_in_the_next_five_hours_is_not_zero() -> None:
    """A message that failed in an hour can be discarded, or delivered, four and a half hours later."""
    found = find(counts({HOUR - 50: CountedHour(discarded=12), HOUR - 90: CountedHour(retried=3)}))
    assert sorted(found.missing) == [*range(HOUR - 95, HOUR - 89), *range(HOUR - 55, HOUR - 49)]
    assert HOUR - 56 in found.zero
    assert HOUR - 49 in found.zero
    assert not found.zero & found.missing.keys()


def test_what_was_read_is_not_missing() -> None:
    found = find(counts({HOUR - 50: CountedHour(discarded=12)}, read={HOUR - 50: 12}))
    assert not found.missing
    assert sorted(found.explained) == list(range(HOUR - 55, HOUR - 49))
    found = find(counts({HOUR - 50: CountedHour(discarded=12)}, read={HOUR - 50: 8}))
    assert found.missing[HOUR - 50] == MissingRecords(discarded=4)
    assert found.missing[HOUR - 52] == MissingRecords(later_discarded=4)


def test_an_hour_is_known_only_if_the_next_five_hours_are_counted() -> None:
    found = find(counts(hours=range(HOUR - 100, HOUR)))
    assert sorted(found.zero) == list(range(HOUR - 100, HOUR - 5))
    counted = dict(counts().counted)
    del counted[HOUR - 50]
    found = find(CollectionCounts(counted))
    assert not any(found.knows(HOUR - ago) for ago in range(50, 56))
    assert found.knows(HOUR - 49)
    assert found.knows(HOUR - 56)


def test_records_in_an_hour_without_counts_are_mistrusted_for_a_week() -> None:
    wrong = HOUR - 12 * 24
    found = find(counts(with_records=(wrong,)))
    assert found.mistrust is not None
    assert found.mistrust.newest == wrong
    assert not found.knows(wrong - MISTRUST_HOURS)
    assert not found.knows(wrong + MISTRUST_HOURS)
    assert found.knows(wrong - MISTRUST_HOURS - 1)
    assert found.knows(wrong + MISTRUST_HOURS + 1)
    assert found.mistrusts(found.mistrust.until - 1)
    assert not found.mistrusts(found.mistrust.until)
    assert "1 hour has records though Segment counted no failure" in found.mistrust.text


@pytest.mark.parametrize("ago", [-1, 0, 3, 5])
def test_records_near_counted_failures_are_no_reason_for_mistrust(ago: int) -> None:
    """Clocks differ: what fails on the stroke of an hour may be counted in the hour before."""
    found = find(counts({HOUR - 50 + ago: CountedHour(retried=1)}, with_records=(HOUR - 50,)))
    assert found.mistrust is None
    assert find(counts({HOUR - 44: CountedHour(retried=1)}, with_records=(HOUR - 50,))).mistrust


def test_one_in_twenty_hours_is_a_probe_and_the_others_are_evenly_apart() -> None:
    hours = range(HOUR, HOUR + 10 * PROBE_EVERY)
    for count, apart in [(1, 20), (2, 10), (4, 5), (20, 1)]:
        chosen = [hour for hour in hours if probe_rank("c", hour) < count]
        assert {later - hour for hour, later in pairwise(chosen)} == {apart}
    assert sum(is_probe("c", hour) for hour in hours) == 10


def names(count: int) -> tuple[str, ...]:
    return tuple(f"c{number:02}" for number in range(count))


def unread(count: int, *ago: int) -> Hours:
    """All hours were read when they were complete, but these, which began so many hours ago."""
    due = range(HOUR - 28 * 24, HOUR - 8)
    hours = {name: {hour: HourView(listed_ns=(hour + 9) * HOUR_NS) for hour in due} for name in names(count)}
    for views in hours.values():
        for each in ago:
            del views[HOUR - each]
    return hours


def go(hours: Hours, findings: Mapping[str, Findings], quota: Quota | None = None, now_ns: int = NOW) -> Plan:
    return plan(now_ns, hours, quota or Quota(), ScheduleConfig(tuple(hours)), Scout(findings))


def asked(found: Plan) -> list[tuple[str, int]]:
    """Collection, and how many hours ago the hour began; without probes."""
    return [(ask.collection, HOUR - ask.hour) for ask in found.requests if not is_testing(ask)]


def is_testing(ask: ListingRequest) -> bool:
    return ask.why == "fresh" and is_probe(ask.collection, ask.hour)


NOTHING = find(counts())


def failing(**discarded: int) -> dict[str, Findings]:
    """Twenty collections: these have discards in the hour that began 20 hours ago."""
    zero = dict.fromkeys(names(20), NOTHING)
    more = {
        name: find(counts({HOUR - 20: CountedHour(discarded=number)})) for name, number in discarded.items()
    }
    return zero | more


def test_hours_with_failures_come_first_in_the_order_of_what_is_missing() -> None:
    found = go(unread(20, 19, 20), failing(c03=5, c07=500, c11=50))
    assert asked(found)[:3] == [("c07", 20), ("c11", 20), ("c03", 20)]
    assert (
        next(ask for ask in found.requests if not is_testing(ask)).reason
        == "500 discards counted, not read yet"
    )
    assert found.requests[0].why == "fresh"


def test_hours_before_counted_failures_wait_until_those_can_be_read() -> None:
    """They are listed if what was counted later is still missing then."""
    findings = failing(c03=5)
    assert asked(go(unread(20, 15, 16, 20, 21, 22), findings))[0] == ("c03", 20)
    early = {name: find(counts({HOUR - 9: CountedHour(discarded=5)})) for name in ("c03",)}
    found = go(unread(20, 10), dict.fromkeys(names(20), NOTHING) | early)
    assert ("c03", 10) not in asked(found)
    found = go(unread(20, 14), dict.fromkeys(names(20), NOTHING) | early)
    assert asked(found)[0] == ("c03", 14)
    assert (
        next(ask for ask in found.requests if not is_testing(ask)).reason
        == "5 discards counted within 5 hours after it, not read yet"
    )
    read = find(counts({HOUR - 9: CountedHour(discarded=5)}, read={HOUR - 9: 5}))
    assert asked(go(unread(20, 14), dict.fromkeys(names(20), NOTHING) | {"c03": read}))[0] != ("c03", 14)


def test_collections_without_counts_keep_their_share() -> None:
    """Counted failures of ten collections would need the whole quota."""
    hours = unread(20, *range(9, 33))
    many = find(counts({HOUR - ago: CountedHour(discarded=1000) for ago in range(9, 33)}))
    found = go(hours, dict.fromkeys(names(10), many))
    uncounted = [name for name, _ in asked(found) if name >= "c10"]
    assert len(found.requests) == 120
    assert len(uncounted) == 3, "a half of the five in an hour, rounded up"
    assert asked(found)[0][0] < "c10"


def test_hours_without_failures_are_asked_for_last_and_keep_requests_for_coming_failures() -> None:
    hours = unread(20, *range(9, 33))
    found = go(hours, failing())
    probes = [ask for ask in found.requests if is_testing(ask)]
    assert len(probes) == 24, "a fifth of the quota; 27 are due"
    assert found.requests[: len(probes)] == tuple(probes)
    assert "to test the counts" in probes[0].reason
    assert found.zero == 20 * 24 - 24, "the pace of five an hour is used up"
    spent = Quota(debits=[RequestRecord(NOW - 5 * HOUR_NS, "c00", "fresh")] * 91)
    assert asked(go(hours, failing(), spent)) == []


def test_a_fifth_of_the_quota_tests_the_counts() -> None:
    hours = unread(100, *range(9, 33))
    found = go(hours, dict.fromkeys(names(100), NOTHING))
    probes = [ask for ask in found.requests if is_testing(ask)]
    assert len(probes) == 24
    for ask in probes:
        hours[ask.collection][ask.hour] = HourView(listed_ns=NOW - HOUR_NS)
    found = go(hours, dict.fromkeys(names(100), NOTHING))
    assert not any(map(is_testing, found.requests))


def test_where_the_quota_covers_all_hours_nothing_is_left_out() -> None:
    hours = unread(5, 9, 10)
    expected = set(asked(go(hours, {})))
    found = go(hours, dict.fromkeys(names(5), NOTHING))
    assert set(asked(found)) == expected
    assert found.missed_per_day == {}
    one = dict.fromkeys(names(5), NOTHING) | {"c04": find(counts({HOUR - 10: CountedHour(discarded=1)}))}
    assert asked(go(hours, one))[0] == ("c04", 10)
    assert set(asked(go(hours, one))) == expected


def test_without_findings_the_plan_is_the_plain_one() -> None:
    hours = unread(20, *range(9, 33), 200, 27 * 24)
    config = ScheduleConfig(names(20))
    assert plan(NOW, hours, Quota(), config) == plan(NOW, hours, Quota(), config, NO_SCOUT)


def test_a_mistrusted_collection_follows_the_plain_plan() -> None:
    wrong = find(counts(with_records=(HOUR - 30,)))
    found = go(unread(20, 9, 50), dict.fromkeys(names(20), NOTHING) | {"c05": wrong})
    assert ("c05", 9) in asked(found)[:4]
    [reason] = {ask.reason for ask in found.requests if ask.collection == "c05" and ask.reason}
    assert reason == "counts are not trusted here"
    assert set(found.missed_per_day) == {"c05"}


def test_an_expiring_hour_with_failures_comes_before_fresh_ones() -> None:
    old = find(counts({HOUR - 27 * 24: CountedHour(discarded=3)}))
    found = go(unread(20, 9, 27 * 24), dict.fromkeys(names(20), NOTHING) | {"c05": old})
    assert asked(found)[0] == ("c05", 27 * 24)
    assert found.requests[0].why == "leaving"
    assert [ask.why for ask in found.requests[1:]].count("leaving") == 0
