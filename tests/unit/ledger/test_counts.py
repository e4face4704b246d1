"""Segment's own counts in the ledger: they are replaced, not added up, and growth is counted once."""

from collections import Counter
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import DAY_NS, HOUR_NS
from faillog_otel.events.failure import FailureGroup, group_number
from faillog_otel.events.failure_counts import DISCARDED, FAILED, BatchFailures, message_key
from faillog_otel.events.model import JSON_LINES, Survey
from faillog_otel.ledger import Content
from faillog_otel.ledger.audit import audit
from faillog_otel.ledger.counts import CountSizes, EventCount, destinations_of
from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.ledger.results import BatchResult, Counts
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.segment.hours import ObjectVersion

NOW_NS = 20_000 * DAY_NS
HOUR = NOW_NS // HOUR_NS
PAIR = ("s1", "d1")


def count(hour: int, events: int, stage: str = "failed", reason: str = "400", retried: int = 0) -> EventCount:
    return EventCount(hour, *PAIR, stage, reason, events, retried)


def test_counts_of_an_hour_are_replaced(ledger: SqliteLedger) -> None:
    ledger.note_counts(PAIR, [HOUR - 1, HOUR], [count(HOUR - 1, 3), count(HOUR, 2)], NOW_NS)
    ledger.note_counts(PAIR, [HOUR], [count(HOUR, 5, reason="401")], NOW_NS + 1)
    assert ledger.event_counts(NOW_NS - DAY_NS, NOW_NS + DAY_NS) == [
        count(HOUR - 1, 3),
        count(HOUR, 5, reason="401"),
    ]
    assert ledger.event_counts(NOW_NS, NOW_NS + 1) == [count(HOUR, 5, reason="401")]
    assert ledger.count_readings(NOW_NS - DAY_NS) == {PAIR: {HOUR - 1: NOW_NS, HOUR: NOW_NS + 1}}
    assert ledger.count_sizes() == CountSizes(hours=2, rows=2)


def test_an_hour_is_counted_once_all_sources_of_its_destination_are(ledger: SqliteLedger) -> None:
    ledger.note_connections([("s1", "d1"), ("s2", "d1"), ("s2", "d2")])
    ledger.note_counts(("s1", "d1"), [HOUR - 1, HOUR], [], NOW_NS)
    ledger.note_counts(("s2", "d1"), [HOUR], [], NOW_NS + 5)
    ledger.note_counts(("s2", ""), [HOUR], [], NOW_NS)
    assert ledger.counted_hours(NOW_NS - DAY_NS, NOW_NS + DAY_NS) == {(HOUR, "d1"): NOW_NS}
    ledger.note_connections([("s1", "d1")])
    assert ledger.connections() == [("s1", "d1")]
    assert set(ledger.counted_hours(0, NOW_NS + DAY_NS)) == {(HOUR - 1, "d1"), (HOUR, "d1")}


def test_only_news_grows(ledger: SqliteLedger) -> None:
    """A first run reads 30 days: rates must not show them as events of now."""
    old, recent = count(HOUR - 50, 7), count(HOUR, 2)
    assert ledger.note_counts(PAIR, [HOUR - 50, HOUR], [old, recent], NOW_NS) == [recent]
    late = count(HOUR - 50, 9)
    assert ledger.note_counts(PAIR, [HOUR - 50], [late], NOW_NS) == [count(HOUR - 50, 2)]


@given(st.lists(st.dictionaries(st.sampled_from(["400", "401", ""]), st.integers(1, 50)), max_size=6))
def test_growth_adds_up_to_the_highest_counts(readings: list[dict[str, int]]) -> None:
    """For counts that only grow, growth is their sum, in however many readings they came."""
    highest: Counter[str] = Counter()
    grown: Counter[str] = Counter()
    with TemporaryDirectory() as path, StateFolder(path) as folder:
        ledger = SqliteLedger(folder)
        for reading in readings:
            highest |= Counter(reading)
            counts = [count(HOUR, events, reason=reason) for reason, events in highest.items()]
            for each in ledger.note_counts(PAIR, [HOUR], counts, NOW_NS):
                grown[each.reason] += each.events
        ledger.close()
    assert grown == highest


def test_old_counts_are_removed_and_a_clock_that_was_ahead_costs_a_reading(ledger: SqliteLedger) -> None:
    ledger.note_counts(PAIR, [HOUR - 1], [count(HOUR - 1, 3)], NOW_NS)
    ledger.note_counts(PAIR, [HOUR], [count(HOUR, 3)], NOW_NS + 400 * DAY_NS)
    ledger.prune(NOW_NS - 100 * DAY_NS)
    assert ledger.count_readings(0) == {PAIR: {HOUR - 1: 0, HOUR: 0}}
    assert ledger.count_sizes().rows == 2
    ledger.prune(NOW_NS + 36 * DAY_NS)
    assert ledger.count_sizes() == CountSizes(hours=0, rows=0)


def read_failures(ledger: SqliteLedger, collection: str, destination: str, hours: list[int]) -> None:
    """Reads an object with a failed attempt and a discard in each of these hours."""
    group = FailureGroup("0" * 15 + destination[-1], destination, None, "400", 400, None, "payload", False)
    number = group_number(group.id)
    notes = [
        (message_key(destination, f"m{at}"), number, what, 1, hour * 3600, f"m{at}", 0)
        for at, hour in enumerate(hours)
        for what in (FAILED, DISCARDED)
    ]
    request = ledger.debit(collection, HOUR - 3, "first", NOW_NS)
    ledger.listed(request, collection, HOUR - 3, [f"https://h/{collection}"], NOW_NS)
    listed = ledger.next_listed(NOW_NS)
    assert listed
    content = Content(len(notes), 0, len(notes), "", Survey(JSON_LINES, None))
    ledger.spooled(listed, ObjectVersion("x", None, 9), content, NOW_NS)
    spooled = ledger.spooled_object(listed.id)
    assert spooled
    result = BatchResult(
        counts=Counts(records=len(notes), exported=len(notes)),
        failures=BatchFailures(notes=notes, groups={number: group}),
    )
    ledger.advance(spooled, 0, result, NOW_NS)
    ledger.done(spooled, len(notes), ledger.seen_records(spooled))


def test_the_discards_that_were_read_are_those_of_their_hour(ledger: SqliteLedger) -> None:
    read_failures(ledger, "c1", "d1", [HOUR - 5, HOUR - 5, HOUR - 4])
    read_failures(ledger, "c2", "d2", [HOUR - 4])
    assert ledger.discards_read(NOW_NS - DAY_NS, NOW_NS) == {
        (HOUR - 5, "d1"): 2,
        (HOUR - 4, "d1"): 1,
        (HOUR - 4, "d2"): 1,
    }
    assert ledger.discards_read(NOW_NS - 4 * HOUR_NS, NOW_NS) == {(HOUR - 4, "d1"): 1, (HOUR - 4, "d2"): 1}
    assert ledger.learned_destinations() == {"c1": ("d1",), "c2": ("d2",)}


def test_the_settings_name_a_collections_destination_before_its_records_do() -> None:
    learned: dict[str, tuple[str, ...]] = {"c1": ("d1", "d9"), "c2": ("d2",)}
    assert destinations_of(learned, {"c1": "d3", "c4": "d4"}) == {
        "c1": ("d3",),
        "c2": ("d2",),
        "c4": ("d4",),
    }


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("DELETE FROM counted_hours", "is counted, but not noted as read"),
        ("UPDATE event_counts SET stage = 'lost'", "has the unknown stage 'lost'"),
        ("UPDATE event_counts SET retried = events + 1", "has 3 events, of which 4 were retried"),
    ],
)
def test_the_audit_finds_impossible_counts(ledger: SqliteLedger, damage: str, what: str) -> None:
    ledger.note_counts(PAIR, [HOUR], [count(HOUR, 3)], NOW_NS)
    assert audit(ledger.folder).holds
    ledger.transact(lambda db: db.execute(damage))
    [problem] = audit(ledger.folder).problems
    assert (problem.check, problem.what) == ("counts", what)
