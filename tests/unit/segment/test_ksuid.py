"""The creation time in a collection's id: a first run skips earlier hours, which are empty."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import HOUR_NS, SECOND_NS, parse_rfc3339
from faillog_otel.segment.hours import ScheduleConfig, collection_created_ns
from faillog_otel.segment.quota import Quota
from faillog_otel.segment.schedule import plan

SAMPLE = "2wmpXTGB69A8BwGJ4hD5XvQ03aD"
"""The only one that Segment's documentation shows."""
SAMPLE_NS = parse_rfc3339("2025-05-07T22:24:02Z") or 0
NOW = SAMPLE_NS + 90 * HOUR_NS


def test_the_sample_was_made_before_the_hour_that_is_shown_with_it() -> None:
    assert collection_created_ns(SAMPLE, NOW) == SAMPLE_NS


def test_an_id_from_the_future_gives_no_hint() -> None:
    assert collection_created_ns(SAMPLE, SAMPLE_NS - SECOND_NS) is None


@pytest.mark.parametrize("text", ["", "shop-mixpanel", SAMPLE[:-1], SAMPLE + "0", "z" * 27, "٣" * 27])
def test_an_id_of_another_kind_gives_no_hint(text: str) -> None:
    assert collection_created_ns(text, NOW) is None


@given(st.text(max_size=30), st.integers(0, 2**62))
def test_a_hint_is_never_later_than_now(text: str, now_ns: int) -> None:
    at_ns = collection_created_ns(text, now_ns)
    assert at_ns is None or 0 < at_ns <= now_ns


@pytest.mark.parametrize(("asked_hours", "expected"), [(None, 88), (100, 98), (50, 88)])
def test_hours_before_it_are_skipped_unless_a_person_named_the_time(
    asked_hours: int | None, expected: int
) -> None:
    config = ScheduleConfig(
        (SAMPLE,),
        since_ns=NOW - 168 * HOUR_NS if asked_hours is None else NOW - max(asked_hours, 168) * HOUR_NS,
        created_ns={SAMPLE: SAMPLE_NS},
        asked_since_ns=None if asked_hours is None else NOW - asked_hours * HOUR_NS,
        once=True,
    )
    found = plan(NOW, {}, Quota(), config)
    assert len(found.requests) == expected
    fresh = [ask.hour for ask in found.requests if ask.why == "fresh"]
    backfill = [ask.hour for ask in found.requests if ask.why == "backfill"]
    assert backfill == sorted(backfill, reverse=True), "the newest first"
    assert min(fresh) > max(backfill)
