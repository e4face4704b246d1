"""The listings to make, their order, and those that wait."""

import pytest

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS
from faillog_otel.segment.hours import HourView, ScheduleConfig
from faillog_otel.segment.quota import REQUEST_COUNTS_NS, Quota, RateLimit, RequestRecord
from faillog_otel.segment.schedule import Plan, plan

HOUR = 490_000  # it is on the stroke of this hour
NOW = HOUR * HOUR_NS
READ = HourView(listed_ns=NOW)
Hours = dict[str, dict[int, HourView]]


def names(count: int) -> tuple[str, ...]:
    return tuple(f"c{number:02}" for number in range(count))


def known(collections: int = 1, besides: dict[int, HourView] | None = None) -> Hours:
    """All hours were just read but these of the first collection: how many hours ago each began → view."""
    hours = {name: dict.fromkeys(range(HOUR - 28 * 24, HOUR + 3), READ) for name in names(collections)}
    for ago, view in (besides or {}).items():
        hours["c00"][HOUR - ago] = view
    return hours


def unknown(collections: int, *ago: int) -> Hours:
    """All hours were just read but these, which are unknown in each collection."""
    hours = known(collections)
    for views in hours.values():
        for each in ago:
            del views[HOUR - each]
    return hours


def spent(count: int, ago_ns: int = 2 * HOUR_NS) -> Quota:
    return Quota(debits=[RequestRecord(NOW - ago_ns, "other", "fresh")] * count)


def asked(found: Plan) -> list[tuple[str, int, str]]:
    """Collection, how many hours ago the hour began, and why."""
    return [(ask.collection, HOUR - ask.hour, ask.why) for ask in found.requests]


def go(hours: Hours, quota: Quota | None = None, collections: int | None = None, now_ns: int = NOW) -> Plan:
    config = ScheduleConfig(names(collections or len(hours)))
    return plan(now_ns, hours, quota or Quota(), config)


@pytest.mark.parametrize(
    ("collections", "reads", "first"), [(1, 4, 2), (2, 2, 6), (3, 1, 8), (4, 1, 8), (20, 1, 8)]
)
def test_the_first_reading_is_as_early_as_the_quota_allows(collections: int, reads: int, first: int) -> None:
    hours: Hours = unknown(collections, first + 1)
    found = go(hours)
    assert found.reads_per_hour == reads
    assert {(ago, why) for _, ago, why in asked(found)} == {(first + 1, "fresh")}
    assert {ask.due_ns for ask in found.requests} == {NOW}
    assert asked(go(hours, now_ns=NOW - 1)) == []
    assert go(hours, now_ns=NOW - 1).next_ns == NOW


@pytest.mark.parametrize("after", [2, 6, 26])
def test_an_hour_is_read_again_after_2_6_and_26_hours(after: int) -> None:
    end_ns = NOW - after * HOUR_NS
    last = {2: None, 6: end_ns + 2 * HOUR_NS, 26: end_ns + 6 * HOUR_NS}[after]
    hours = known(1, {after + 1: HourView(listed_ns=last, same_since_ns=last)})
    assert asked(go(hours)) == [("c00", after + 1, "again" if last else "fresh")]
    assert asked(go(hours, now_ns=NOW - 1)) == []
    hours["c00"][HOUR - after - 1] = HourView(listed_ns=NOW, same_since_ns=NOW)
    assert asked(go(hours)) == []


def test_one_listing_serves_all_readings_that_were_missed() -> None:
    listed = NOW - 40 * HOUR_NS
    hours = known(1, {43: HourView(listed_ns=listed, same_since_ns=listed)})
    assert asked(go(hours)) == [("c00", 43, "again")]
    hours["c00"][HOUR - 43] = HourView(listed_ns=NOW, same_since_ns=NOW)
    assert asked(go(hours, now_ns=NOW + 1)) == []


def test_a_reading_before_the_hour_can_be_complete_does_not_count() -> None:
    listed = NOW - 7 * HOUR_NS
    assert asked(go(known(4, {9: HourView(listed_ns=listed, same_since_ns=listed)}))) == [("c00", 9, "fresh")]


def test_a_settled_hour_is_read_again_only_at_the_last_call() -> None:
    ago = 27 * 24 + 12
    listed = NOW - 20 * DAY_NS
    settled = HourView(listed_ns=listed, same_since_ns=listed - 20 * HOUR_NS)
    assert settled.is_settled
    assert not HourView(listed_ns=listed, same_since_ns=listed - 20 * HOUR_NS + 1).is_settled
    hours = known(1, {ago: settled, 26 * 24: settled})
    assert asked(go(hours)) == [("c00", ago, "last_call")]
    assert asked(go(hours, now_ns=NOW - 1)) == []
    hours["c00"][HOUR - ago] = READ
    assert asked(go(hours)) == []


def test_purposes_are_served_by_priority() -> None:
    """What people asked for, what is about to leave, fresh hours, further readings, backfill."""
    last_call = HourView(listed_ns=NOW - 20 * DAY_NS, same_since_ns=NOW - 27 * DAY_NS)
    again = HourView(listed_ns=NOW - 20 * HOUR_NS, same_since_ns=NOW - 20 * HOUR_NS)
    hours = unknown(1, 27 * 24 - 10, 27 * 24 - 2, 5, 3, 100, 200)
    hours["c00"] |= {
        HOUR - 27 * 24 - 13: last_call,
        HOUR - 27: again,
        HOUR - 90: HourView(wanted=True),
    }
    assert asked(go(hours)) == [
        ("c00", 90, "wanted"),
        ("c00", 27 * 24 - 2, "leaving"),
        ("c00", 27 * 24 - 10, "leaving"),
        ("c00", 3, "fresh"),
        ("c00", 5, "fresh"),
        ("c00", 27, "again"),
        ("c00", 27 * 24 + 13, "last_call"),
    ]
    assert go(hours).waiting == {"backfill": 2}, "it keeps its pace of five an hour"
    for each in (90, 3, 5, 27):
        hours["c00"][HOUR - each] = READ
    assert asked(go(hours))[-2:] == [("c00", 100, "backfill"), ("c00", 200, "backfill")]


def test_last_calls_that_the_quota_does_not_cover_come_after_hours_never_read() -> None:
    last_call = HourView(listed_ns=NOW - 20 * DAY_NS, same_since_ns=NOW - 27 * DAY_NS)
    hours = known(4, {27 * 24 + 13: last_call})
    del hours["c00"][HOUR - 100]
    assert asked(go(hours)) == [("c00", 100, "backfill"), ("c00", 27 * 24 + 13, "last_call")]


def test_the_reserve_is_for_people_and_for_hours_about_to_expire() -> None:
    hours = unknown(1, 3, 100, 27 * 24 - 2)
    hours["c00"][HOUR - 50] = HourView(listed_ns=NOW - DAY_NS, wanted=True)
    quota = spent(116, ago_ns=23 * HOUR_NS)
    found = go(hours, quota)
    assert [why for *_, why in asked(found)] == ["wanted", "leaving"]
    assert found.waiting == {"fresh": 1, "backfill": 1}
    assert found.next_ns == NOW + HOUR_NS


def test_the_reserve_yields_when_fresh_hours_need_the_whole_quota() -> None:
    found = go(unknown(5, 9), spent(115, ago_ns=HOUR_NS))
    assert [why for *_, why in asked(found)] == ["fresh"] * 5


def test_backfill_leaves_what_the_fresh_hours_of_the_next_day_need() -> None:
    config = ScheduleConfig(names(4))
    debits: list[RequestRecord] = []
    hours: Hours = {name: {} for name in names(4)}
    for hour in range(HOUR, HOUR + 48):
        now = hour * HOUR_NS + (REQUEST_COUNTS_NS - DAY_NS) * ((hour - HOUR) // 24)
        found = plan(now, hours, Quota(debits=debits), config)
        for ask in found.requests:
            debits.append(RequestRecord(now, ask.collection, ask.why))
            hours[ask.collection][ask.hour] = HourView(listed_ns=now, same_since_ns=now)
        on_time = [ask for ask in found.requests if ask.why == "fresh" and ask.due_ns == hour * HOUR_NS]
        assert len(on_time) == 4, hour - HOUR


def test_backfill_is_spread_evenly_unless_the_run_is_a_single_pass() -> None:
    hours = unknown(1, *range(100, 400))
    assert len(go(hours).requests) == 5
    once = plan(NOW, hours, Quota(), ScheduleConfig(names(1), once=True))
    assert len(once.requests) == 116
    assert asked(once)[0] == ("c00", 100, "backfill")
    assert once.waiting == {"backfill": 300 - 116}


def test_requests_that_fresh_hours_will_not_need_are_used() -> None:
    """`--until` in the past: there will be no fresh hours."""
    hours: Hours = {name: {} for name in names(5)}
    config = ScheduleConfig(names(5), since_ns=NOW - 20 * DAY_NS, until_ns=NOW - 10 * DAY_NS)
    assert {why for *_, why in asked(plan(NOW, hours, Quota(), config))} == {"backfill"}


def test_collections_beyond_the_quota_share_it_and_the_plan_says_so() -> None:
    found = go({}, collections=20)
    assert found.covered == 5
    assert found.missed_per_day == dict.fromkeys(names(20), 18.0)
    assert {why for *_, why in asked(found)} == {"fresh"}, "nothing is read only on its last day"
    assert go({}, collections=5).missed_per_day == {}


def test_the_collection_with_the_fewest_requests_is_next() -> None:
    debits = [RequestRecord(NOW - 3 * HOUR_NS, name, "fresh") for name in names(19)]
    found = go(unknown(20, 9), Quota(debits=debits))
    assert found.requests[0].collection == "c19"
    shares = [ask.collection for ask in found.requests]
    assert len(set(shares)) == len(shares)


@pytest.mark.parametrize(
    ("failures", "pause_ns"),
    [(1, 10 * SECOND_NS), (2, 60 * SECOND_NS), (3, HOUR_NS), (4, 2 * HOUR_NS), (99, 12 * HOUR_NS)],
)
def test_after_three_tries_pauses_grow(failures: int, pause_ns: int) -> None:
    """An hour that always fails must not use up the quota of the others."""
    hours = known(1, {16: HourView(failures=failures, failed_ns=NOW - pause_ns)})
    assert asked(go(hours)) == [("c00", 16, "fresh")]
    early = known(1, {16: HourView(failures=failures, failed_ns=NOW - pause_ns + 5)})
    assert asked(go(early)) == []
    assert go(early).next_ns == NOW + 5


def test_an_hour_about_to_expire_is_not_paused_for_half_a_day() -> None:
    hours = known(1, {28 * 24 - 30: HourView(failures=9, failed_ns=NOW - HOUR_NS)})
    assert asked(go(hours)) == [("c00", 28 * 24 - 30, "leaving")]


def test_a_wanted_hour_is_due_whatever_since_until_and_the_ledger_say() -> None:
    hours = {"gone": {HOUR - 400: HourView(wanted=True)}}
    config = ScheduleConfig(("c00",), since_ns=NOW, until_ns=NOW)
    assert asked(plan(NOW, hours, Quota(), config)) == [("gone", 400, "wanted")]
    hours = {"gone": {HOUR - 28 * 24: HourView(wanted=True)}}
    assert asked(plan(NOW, hours, Quota(), config)) == []


def test_since_and_until() -> None:
    config = ScheduleConfig(("c00",), since_ns=NOW - 12 * HOUR_NS, until_ns=NOW - 9 * HOUR_NS)
    found = plan(NOW, {}, Quota(), config)
    assert [ago for _, ago, _ in asked(found)] == [10, 11, 12]


def test_requests_of_others_are_not_spent_on_backfill() -> None:
    hours = unknown(1, 3, *range(100, 400))
    found = go(hours, Quota(rate_limit=RateLimit(NOW - 1, 6)))
    assert [why for *_, why in asked(found)] == ["fresh"]


def test_without_collections_there_is_nothing_to_do() -> None:
    found = plan(NOW, {}, Quota(), ScheduleConfig(()))
    assert (found.requests, found.missed_per_day, found.next_ns) == ((), {}, NOW + HOUR_NS)
