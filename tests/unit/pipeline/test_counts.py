"""When Segment's counts are read, and what a refusal costs: nothing but the counts."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from support.overview_server import OverviewServer, overview_server

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS
from faillog_otel.config import Secret
from faillog_otel.ledger.counts import EventCount
from faillog_otel.ledger.facts import counts_state
from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.pipeline.counts import CountsRefresh, events_counted
from faillog_otel.sandbox.config import SimulatedClock
from faillog_otel.segment.answers import Name
from faillog_otel.segment.api import SegmentApi

NOW_NS = 20_000 * DAY_NS + 30 * 60 * SECOND_NS
HOUR = NOW_NS // HOUR_NS
PAIRS = [("s1", "d1"), ("s1", "d2"), ("s2", "d1")]
MINUTE_NS = 60 * SECOND_NS


class Counting:
    """The part of the program that reads counts, on a standing clock."""

    def __init__(self, ledger: SqliteLedger, server: OverviewServer) -> None:
        self.ledger, self.server = ledger, server
        self.clock = SimulatedClock(NOW_NS, standing=True)
        self.api = SegmentApi(server.url, lambda: Secret("t" * 20), "tests")
        self.grown: Counter[tuple[str, str]] = Counter()
        self.start()

    def start(self, since_ns: int = NOW_NS - 7 * DAY_NS) -> None:
        """The next run."""
        self.refresh = CountsRefresh(
            ledger=self.ledger,
            segment=self.api,
            clock=self.clock,
            is_stopping=lambda: False,
            take=self._take,
            since_ns=lambda _: since_ns,
        )

    def _take(self, grown: object) -> None:
        assert isinstance(grown, list)
        for each in grown:
            assert isinstance(each, EventCount)
            self.grown[each.destination, each.stage] += each.events

    def step(self, after_ns: int = 0) -> int:
        """What the fetcher does at each step while no hour is due; returns the number of requests."""
        before = len(self.server.requests)
        self.clock.forward(after_ns / SECOND_NS)
        self.server.now_ns = self.clock.now_ns()
        self.refresh.read_if_due(self.clock.now_ns())
        self.refresh.go_on()
        return len(self.server.requests) - before

    def stored(self) -> dict[tuple[int, str, str, str, str], int]:
        return {
            (each.hour, each.source, each.destination, each.stage, each.reason): each.events
            for each in self.ledger.event_counts(0, NOW_NS + 90 * DAY_NS)
        }


@pytest.fixture
def counting(ledger: SqliteLedger) -> Iterator[Counting]:
    with counting_of(ledger, PAIRS) as found:
        yield found


@contextmanager
def counting_of(ledger: SqliteLedger, pairs: list[tuple[str, str]]) -> Iterator[Counting]:
    with overview_server(pairs) as server, closing((found := Counting(ledger, server)).api):
        yield found


def test_a_first_run_reads_the_window_of_all_pairs_and_sources(counting: Counting) -> None:
    truth = {
        (HOUR, "s1", "d1", "failed", "400"): 3,
        (HOUR - 100, "s1", "d1", "failed", "401"): 4,
        (HOUR - 100, "s1", "d1", "delivered", "successes.attempt.2"): 9,
        (HOUR - 2, "s2", "d1", "filtered", "rule"): 5,
        (HOUR - 1, "s2", "", "received", ""): 70,
        (HOUR - 1, "s2", "", "failed_on_ingest", "bad"): 7,
    }
    counting.server.counts.update(truth)
    counting.server.counts[HOUR - 300, "s1", "d1", "failed", "400"] = 1  # before the window
    assert counting.step() == 1 + 2 + 3 * len(PAIRS) + 3 * 2
    assert counting.stored() == truth
    assert counting.ledger.connections() == PAIRS
    counted = counting.ledger.counted_hours(0, NOW_NS)
    assert {hour for hour, _ in counted} == set(range(HOUR - 167, HOUR + 1))
    assert counting.grown == {("d1", "failed"): 3, ("d1", "filtered"): 5, ("", "received"): 70} | {
        ("", "failed_on_ingest"): 7
    }


def test_a_range_of_thirty_days_takes_three_requests_for_each_stage(ledger: SqliteLedger) -> None:
    with counting_of(ledger, [("s1", "d1")]) as counting:
        counting.start(NOW_NS - 90 * DAY_NS)
        assert counting.step() == 1 + 1 + 3 * (3 + 3)
        hours = {hour for hour, _ in ledger.counted_hours(0, NOW_NS + DAY_NS)}
        assert hours == set(range(HOUR - 30 * 24 + 2, HOUR + 1))


def test_recent_hours_are_read_again_and_grow_once(counting: Counting) -> None:
    counting.server.counts[HOUR, "s1", "d1", "failed", "400"] = 3
    counting.step()
    assert counting.step(5 * MINUTE_NS) == 0
    counting.server.counts[HOUR, "s1", "d1", "failed", "400"] = 8
    assert counting.step(5 * MINUTE_NS) == 15  # one for each stage, without sources
    counting.start()  # a restart counts nothing twice
    assert counting.step(10 * MINUTE_NS) == 15
    assert counting.grown["d1", "failed"] == 8


def test_late_events_are_found_until_an_hour_is_a_day_old(counting: Counting) -> None:
    key = HOUR, "s1", "d1", "failed", "400"
    for hours in range(26):
        counting.server.counts[key] = hours + 1
        counting.step(HOUR_NS)
        if hours < 7 or hours == 24:
            assert counting.stored()[key] == hours + 1
    assert counting.grown["d1", "failed"] == counting.stored()[key]


def test_an_outage_of_the_program_leaves_no_hour_out(counting: Counting) -> None:
    counting.step()
    counting.start()
    counting.server.counts[HOUR + 20, "s1", "d2", "failed", "400"] = 6
    counting.step(45 * HOUR_NS)
    assert counting.stored()[HOUR + 20, "s1", "d2", "failed", "400"] == 6
    assert (HOUR + 45, "d2") in counting.ledger.counted_hours(0, NOW_NS + 90 * DAY_NS)


def test_pages_are_put_together(counting: Counting) -> None:
    counting.server.page_rows = 2
    for number in range(7):
        counting.server.counts[HOUR, "s1", "d1", "failed", f"reason_{number}"] = number + 1
    counting.step()
    assert counting.stored() == dict(counting.server.counts)


def test_a_disabled_destination_is_not_asked_for(counting: Counting) -> None:
    counting.server.disabled = {"d1"}
    counting.step()
    assert counting.ledger.connections() == [("s1", "d2")]


@pytest.mark.parametrize("status", [403, 404])
def test_a_workspace_without_counts_costs_one_warning_a_run_and_one_attempt_a_day(
    counting: Counting, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.INFO)
    counting.server.refuses = {"/delivery-overview": status}
    assert counting.step() == 1 + 2 + 3
    assert counting.step(23 * HOUR_NS) == 0
    assert counting.step(2 * HOUR_NS) > 0
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "set [segment] counts = false" in warnings[0].message
    assert f"(HTTP {status}" in counts_state(counting.ledger).problem
    counting.server.refuses = {}
    counting.step(25 * HOUR_NS)
    assert counts_state(counting.ledger).problem == ""


def test_a_destination_that_is_gone_costs_only_its_own_counts(
    counting: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    counting.server.refuses = {"d1": 404}
    counting.server.counts[HOUR, "s1", "d2", "failed", "400"] = 6
    counting.step()
    assert counting.stored() == {(HOUR, "s1", "d2", "failed", "400"): 6}
    assert counts_state(counting.ledger).problem == ""
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
    assert counting.step(10 * MINUTE_NS) == 3 + 2 * 3


def test_without_connections_a_destination_names_one_of_its_sources(counting: Counting) -> None:
    counting.ledger.note_names([Name("source", "s1", "Shop"), Name("destination", "d1", "", source="s1")], 1)
    counting.server.refuses = {"/sources/s1/connected": 404}
    counting.step()
    assert counting.ledger.connections() == [("s1", "d1")]


def test_a_rate_limit_pauses_the_reading_and_loses_nothing(counting: Counting) -> None:
    counting.server.refuses = {"d2": 429}
    counting.server.counts[HOUR, "s1", "d2", "failed", "400"] = 6
    first = counting.step()
    assert counting.step(30 * SECOND_NS) == 0
    counting.server.refuses = {}
    assert first + counting.step(31 * SECOND_NS) == 1 + 2 + 15 + 1
    assert counting.stored() == dict(counting.server.counts)


def test_a_failure_ends_the_reading_until_the_next_one_is_due(counting: Counting) -> None:
    counting.server.refuses = {"d2": 503}
    counting.step()
    assert "HTTP 503" in counts_state(counting.ledger).problem
    assert counting.step(5 * MINUTE_NS) == 0
    counting.server.refuses = {}
    assert counting.step(5 * MINUTE_NS) > 0
    assert counts_state(counting.ledger).problem == ""


def test_metrics_get_the_class_of_a_discards_reason() -> None:
    grown = [
        EventCount(HOUR, "s1", "d1", "failed", "401", 3),
        EventCount(HOUR, "s1", "d1", "failed", "errors.discarded.403", 2),
        EventCount(HOUR, "s1", "d1", "delivered", "successes.attempt.2", 7, 7),
        EventCount(HOUR, "s1", "", "received", "", 12),
    ]
    found = events_counted(grown)
    assert found.events == {
        ("s1", "d1", "failed"): 5,
        ("s1", "d1", "delivered"): 7,
        ("s1", "", "received"): 12,
    }
    assert found.discards == {("d1", "credentials"): 5}
