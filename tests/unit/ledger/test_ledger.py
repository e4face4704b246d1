"""Results are recorded only from the position that was read, and a broken disk costs no quota for ever."""

import pytest

from faillog_otel.clock import DAY_NS, HOUR_NS, hour_of
from faillog_otel.errors import LedgerBroken
from faillog_otel.events.model import JSON_LINES, Survey
from faillog_otel.ledger.ledger import Ledger, Spooled
from faillog_otel.ledger.objects import Content
from faillog_otel.ledger.planner_state import hour_views, quota_of
from faillog_otel.ledger.results import BatchResult
from faillog_otel.segment.schedule import ObjectVersion, ScheduleConfig, plan

NOW_NS = 20_000 * DAY_NS
HOUR = hour_of(NOW_NS) - 10


def content(records: int) -> Content:
    return Content(records, 0, records, "", Survey(JSON_LINES, None))


def spool(ledger: Ledger, records: int, listed_ns: int = NOW_NS) -> Spooled:
    """An object of the hour, as a download leaves it."""
    request = ledger.debit("c", HOUR, "fresh", listed_ns)
    ledger.listed(request, "c", HOUR, ["https://h/x"], listed_ns)
    listed = ledger.next_listed(NOW_NS)
    assert listed
    ledger.spooled(listed, ObjectVersion("e", None, 9), content(records), listed_ns)
    spooled = ledger.next_spooled()
    assert spooled
    return spooled


def exported(records: int) -> BatchResult:
    stretch = BatchResult()
    stretch.counts.records = stretch.counts.exported = records
    return stretch


def counts(ledger: Ledger) -> tuple[int, ...]:
    [row] = ledger.database.rows("SELECT position, records, exported, lines FROM objects")
    return tuple(row)


def test_results_from_another_position_are_refused_and_change_nothing(ledger: Ledger) -> None:
    spooled = spool(ledger, 5)
    ledger.advance(spooled, 0, exported(2), NOW_NS)
    for position in (0, 1, 3, 5):
        with pytest.raises(LedgerBroken, match="another process writes to this ledger"):
            ledger.advance(spooled, position, exported(1), NOW_NS)
        with pytest.raises(LedgerBroken, match="another process writes to this ledger"):
            ledger.done(spooled, position)
    assert counts(ledger) == (2, 5, 2, 5)


def test_an_object_that_is_done_takes_no_results(ledger: Ledger) -> None:
    spooled = spool(ledger, 5)
    ledger.advance(spooled, 0, exported(5), NOW_NS)
    ledger.done(spooled, 5)
    with pytest.raises(LedgerBroken, match="another process"):
        ledger.advance(spooled, 5, exported(1), NOW_NS)
    assert counts(ledger) == (5, 5, 5, 5)


@pytest.mark.parametrize("found", [3, 9])
def test_the_records_that_were_found_count_and_not_those_of_the_download(ledger: Ledger, found: int) -> None:
    spooled = spool(ledger, 5)
    ledger.advance(spooled, 0, exported(found), NOW_NS)
    ledger.done(spooled, found)
    assert counts(ledger) == (found, found, found, found)


def test_several_damaged_objects_of_one_listing_are_one_failure(ledger: Ledger) -> None:
    request = ledger.debit("c", HOUR, "fresh", NOW_NS)
    ledger.listed(request, "c", HOUR, [f"https://h/{name}" for name in "xyz"], NOW_NS)
    while listed := ledger.next_listed(NOW_NS):
        ledger.spooled(listed, ObjectVersion("e", None, 9), content(5), NOW_NS)
    while spooled := ledger.next_spooled():
        ledger.not_whole(spooled, "its spool file is gone", NOW_NS)
    [row] = ledger.database.rows("SELECT failures, wanted FROM hours")
    assert tuple(row) == (1, 1)


def test_an_object_that_was_damaged_does_not_hold_back_the_others_of_its_hour(ledger: Ledger) -> None:
    """It is given up while the next one comes: that one is taken in, and the hour is listed again."""
    request = ledger.debit("c", HOUR, "fresh", NOW_NS)
    ledger.listed(request, "c", HOUR, ["https://h/x", "https://h/y"], NOW_NS)
    first = ledger.next_listed(NOW_NS)
    assert first
    ledger.spooled(first, ObjectVersion("e", None, 9), content(5), NOW_NS)
    coming, spooled = ledger.next_listed(NOW_NS), ledger.next_spooled()
    assert coming
    assert spooled
    ledger.not_whole(spooled, "its spool file is gone", NOW_NS)
    ledger.spooled(coming, ObjectVersion("e", None, 9), content(5), NOW_NS)
    taken = ledger.next_spooled()
    assert taken
    assert taken.path == "/y"
    assert hour_views(ledger.database, NOW_NS)["c"][HOUR].wanted


def test_an_hour_whose_objects_are_damaged_again_and_again_is_listed_less_and_less_often(
    ledger: Ledger,
) -> None:
    """Though each listing and download succeeds: a broken disk must not cost the whole quota."""
    config = ScheduleConfig(("c",), since_ns=HOUR * HOUR_NS, until_ns=(HOUR + 1) * HOUR_NS)
    now_ns, times = NOW_NS, []
    for _ in range(8):
        ledger.not_whole(spool(ledger, 5, now_ns), "its spool file is gone", now_ns)
        damaged_ns = now_ns
        while not (
            found := plan(now_ns, hour_views(ledger.database, now_ns), quota_of(ledger.database, 120), config)
        ).asks:
            now_ns = found.next_ns
        assert [(ask.hour, ask.why) for ask in found.asks] == [(HOUR, "wanted")]
        times.append(now_ns - damaged_ns)
    assert times == sorted(times)
    assert sum(times) > DAY_NS
