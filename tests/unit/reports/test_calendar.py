"""The calendar, state by state."""

from typing import Any

import pytest
from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, HOUR_NS, hour_text
from faillog_otel.ledger import Hour
from faillog_otel.reports.status import MARKS, State, coverage

NOW_HOUR = 490_000
NOW = NOW_HOUR * HOUR_NS + HOUR_NS // 2
READ = Hour(
    first_listed_ns=NOW - 30 * DAY_NS,
    listed_ns=NOW - DAY_NS,
    same_since_ns=NOW - DAY_NS,
    failures=0,
    failed_ns=0,
    failed_why="",
    unfinished=0,
)
UNREAD: dict[str, Any] = {"first_listed_ns": None, "listed_ns": None, "same_since_ns": None}


def state_of(seen: Hour | None, hours_ago: int = 48, *, is_empty: bool = False) -> State:
    hour = NOW_HOUR - hours_ago
    others = {NOW_HOUR - 3: READ}
    covered = coverage(
        others if seen is None else {**others, hour: seen},
        () if is_empty else (hour,),
        now_ns=NOW,
        since_ns=NOW - 50 * DAY_NS,
        until_ns=None,
        polled=True,
    )
    [day] = [marks for day, marks in covered.days.items() if day == hour_text(hour)[:10]]
    return {mark: state for state, mark in MARKS.items()}[day[hour % 24]]


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (None, "waiting"),
        (replace(READ, **UNREAD), "waiting"),
        (replace(READ, **UNREAD, unfinished=1), "partial"),
        (replace(READ, unfinished=1, failures=2), "partial"),
        (replace(READ, **UNREAD, failures=1), "failed"),
        (replace(READ, failures=1), "failed"),
        (READ, "read"),
        (replace(READ, same_since_ns=NOW - DAY_NS - 20 * HOUR_NS), "settled"),
        (replace(READ, same_since_ns=NOW - DAY_NS - 20 * HOUR_NS + 1), "read"),
    ],
)
def test_an_hour_that_segment_still_has(seen: Hour | None, state: State) -> None:
    assert state_of(seen) == state


@pytest.mark.parametrize(
    ("seen", "hours_ago", "state"),
    [
        (replace(READ, listed_ns=NOW), 27 * 24 + 12, "closed"),
        (replace(READ, listed_ns=NOW), 27 * 24 + 11, "settled"),
        (replace(READ, listed_ns=NOW - HOUR_NS), 27 * 24 + 12, "settled"),
    ],
)
def test_an_hour_that_was_read_at_its_last_call_is_closed(seen: Hour, hours_ago: int, state: State) -> None:
    assert state_of(seen, hours_ago) == state


def test_an_hour_that_was_read_and_has_no_object_is_empty() -> None:
    assert state_of(READ, is_empty=True) == "empty"
    assert state_of(replace(READ, listed_ns=NOW), 27 * 24 + 12, is_empty=True) == "empty"
    assert state_of(replace(READ, **UNREAD), is_empty=True) == "waiting"


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (None, "expired"),
        (replace(READ, **UNREAD, failures=1), "expired"),
        (replace(READ, failures=1), "failed"),
        (replace(READ, **UNREAD, unfinished=1), "partial"),
    ],
)
def test_an_hour_that_segment_deleted(seen: Hour | None, state: State) -> None:
    assert state_of(seen, hours_ago=28 * 24) == state


def covered(**more: Any) -> dict[State, int]:
    settings = {"now_ns": NOW, "since_ns": 0, "until_ns": None, "polled": True, **more}
    return {state: number for state, number in coverage({}, (), **settings).hours.items() if number}


def test_only_hours_that_are_wanted_and_over_are_waited_for() -> None:
    assert covered() == {"waiting": 28 * 24 - 1}
    assert covered(since_ns=NOW - 10 * HOUR_NS) == {"waiting": 10}
    assert covered(since_ns=NOW - 10 * HOUR_NS, until_ns=NOW - 5 * HOUR_NS) == {"waiting": 6}
    assert covered(polled=False) == {}


def test_an_hour_that_expired_before_the_first_poll_was_never_available() -> None:
    seen = {NOW_HOUR - 30: replace(READ, first_listed_ns=NOW - DAY_NS)}
    found = coverage(seen, (), now_ns=NOW, since_ns=0, until_ns=None, polled=True)
    assert found.hours["expired"] == 24
    assert all(len(marks) == 24 for marks in found.days.values())
    assert len(found.days) <= 30
