"""The hourly line, by a real ledger and a clock that is moved."""

from collections.abc import Mapping
from typing import Any

import pytest
from support.clock import MovedClock

from faillog_otel.clock import DAY_NS, HOUR_NS, hour_of
from faillog_otel.events.model import JSON_LINES, Survey
from faillog_otel.ledger import Content, Ledger
from faillog_otel.ledger.results import Counts
from faillog_otel.otlp.sender import Sent
from faillog_otel.reports.hours import HourlyReport
from faillog_otel.segment.hours import ObjectVersion, ScheduleConfig

HOUR, DAY = 3600.0, 86_400.0


class Run:
    """A polling run as the report sees it."""

    def __init__(self, ledger: Ledger) -> None:
        self.clock = MovedClock()
        self.clock.wait(60 * DAY)
        self.ledger, self.counts, self.sent = ledger, Counts(), Sent()
        self.schedule = ScheduleConfig(("a", "b"), since_ns=self.clock.now_ns() - 7 * DAY_NS)
        self.said: list[tuple[str, Mapping[str, Any]]] = []
        self.report = HourlyReport(
            ledger=ledger,
            counts=self.counts,
            sent=lambda: self.sent,
            schedule=lambda: self.schedule,
            clock=self.clock,
            requests_per_day=120,
            say=lambda text, numbers: self.said.append((text, numbers)),
        )

    def read(self, collection: str, hour: int, records: int, path: str = "x") -> None:
        """Lists and downloads an hour with one object."""
        now_ns = self.clock.now_ns()
        request = self.ledger.debit(collection, hour, "fresh", now_ns)
        self.ledger.listed(request, collection, hour, [f"https://h/{path}?sig=1"], now_ns)
        listed = self.ledger.next_listed(now_ns)
        assert listed
        content = Content(records, 0, records, "", Survey(JSON_LINES, None))
        self.ledger.spooled(listed, ObjectVersion("e", None, 9), content, now_ns)


@pytest.fixture
def run(ledger: Ledger) -> Run:
    return Run(ledger)


def test_a_line_is_due_once_an_hour_also_when_nothing_happens(run: Run) -> None:
    for _ in range(3 * 60):
        run.clock.wait(60)
        run.report.say_if_due()
    nothing = (
        "read 0 collection-hours, 0 records; sent 0 log records and 0 spans; 0 lost; 120 of 120 requests left"
    )
    assert [text for text, _ in run.said] == [f"in the last hour: {nothing}"] * 3


def test_the_line_covers_this_hour_only(run: Run) -> None:
    now = hour_of(run.clock.now_ns())
    run.read("a", now - 5, 1000)
    run.sent.logs, run.sent.traces = 900, 300
    run.clock.wait(HOUR)
    run.report.say_if_due()
    run.read("a", now - 5, 400, path="more")  # the same hour, which grew
    run.read("b", now - 5, 2012)
    run.sent.logs, run.sent.traces, run.counts.quarantined = 4300, 1500, 2
    run.clock.wait(HOUR)
    run.report.say_if_due()
    first, (text, numbers) = run.said
    assert first[0].startswith(
        "in the last hour: read 1 collection-hour, 1000 records; sent 900 log records and 300 "
    )
    assert text == (
        "in the last hour: read 2 collection-hours, 2412 records; sent 3400 log records and 1200 spans; "
        "2 quarantined; 3412 records pending; 117 of 120 requests left"
    )
    assert numbers == {
        "seconds": 3600,
        "hours_read": 2,
        "records_read": 2412,
        "sent": {"logs": 3400, "spans": 1200},
        "rejected": 0,
        "quarantined": 2,
        "hours_expired": 0,
        "objects_lost": 0,
        "objects_missing": 0,
        "pending": 3412,
        "requests_left": 117,
        "requests_per_day": 120,
    }


def test_a_pause_uses_no_request(run: Run) -> None:
    now_ns = run.clock.now_ns()
    run.ledger.pause(now_ns + HOUR_NS, "3 downloads in a row failed", now_ns)
    run.report.say()
    assert run.said[-1][0].endswith("; 120 of 120 requests left")


def test_hours_that_leave_segment_unread_are_lost(run: Run) -> None:
    """Of two collections, over one hour each; one of the two hours was read in time."""
    run.clock.wait(21 * DAY)
    first = hour_of(run.clock.now_ns() - 28 * DAY_NS)
    run.read("a", first + 1, 1)
    run.report.say()
    run.clock.wait(HOUR)
    run.counts.rejected = 1
    run.report.say_if_due()
    assert run.said[-1][1]["hours_expired"] == 1
    assert "; 1 rejected, 1 collection-hour expired unread;" in run.said[-1][0]


def test_an_object_that_could_not_be_downloaded_is_said_and_lost_when_it_leaves(run: Run) -> None:
    hour, now_ns = hour_of(run.clock.now_ns()) - 5, run.clock.now_ns()
    request = run.ledger.debit("a", hour, "fresh", now_ns)
    run.ledger.listed(request, "a", hour, ["https://h/dead?sig=1"], now_ns)
    listed = run.ledger.next_listed(now_ns)
    assert listed
    run.ledger.download_failed(listed, "HTTP 404", now_ns)
    run.report.say()
    assert "; 0 lost; 1 object not downloaded yet; 119 of 120 requests left" in run.said[-1][0]
    assert (run.said[-1][1]["objects_missing"], run.said[-1][1]["objects_lost"]) == (1, 0)
    run.ledger.lose(now_ns + 28 * DAY_NS)
    run.report.say()
    assert "; 1 object never downloaded; 119 of" in run.said[-1][0]
    assert (run.said[-1][1]["objects_missing"], run.said[-1][1]["objects_lost"]) == (0, 1)


def test_hours_that_nobody_wants_do_not_expire(run: Run) -> None:
    now_ns = run.clock.now_ns()
    run.schedule = ScheduleConfig(
        ("a",), since_ns=now_ns - 7 * DAY_NS, until_ns=now_ns - 7 * DAY_NS + 2 * HOUR_NS
    )
    for _ in range(30 * 24):
        run.clock.wait(HOUR)
        run.report.say_if_due()
    assert sum(numbers["hours_expired"] for _, numbers in run.said) in (2, 3)  # an hour begins anywhere


def test_the_last_line_has_its_duration(run: Run) -> None:
    run.clock.wait(12 * 60 + 5)
    run.report.say()
    [(text, numbers)] = run.said
    assert text.startswith("in the last 12 min: ")
    assert numbers["seconds"] == 725
