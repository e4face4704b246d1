"""What is asked of the Delivery Overview, and what its answers mean."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS
from faillog_otel.segment.answers import Failed
from faillog_otel.segment.overview import (
    RANGES,
    Counted,
    CountRow,
    CountsPage,
    Granularity,
    ranges,
    read_counts,
)

NOW = 1_746_662_400 * SECOND_NS + 1234  # Thu, 08 May 2025 00:00:00 GMT
HOUR = NOW // HOUR_NS * HOUR_NS


def answer(*dataset: object, **more: object) -> bytes:
    return json.dumps({"data": {"total": 0, "dataset": dataset, **more}}).encode()


def test_counts_have_their_dimensions_and_times() -> None:
    row = {
        "eventName": "Order Completed",
        "eventType": "track",
        "discardReason": "HTTP_401",
        "appVersion": "1.2.3",
        "subscriptionId": "m1",
        "total": 7,
        "totalRetryCount": 2,
        "series": [
            {"time": "2025-05-08T00:00:00.000Z", "count": 5, "retryCount": 2},
            {"time": "2025-05-08T01:00:00Z", "count": 2},
            {"time": "2025-05-08T02:00:00Z", "count": 0},
        ],
    }
    found = read_counts(answer(row, pagination={"current": "a", "next": "b", "totalEntries": 2}))
    series = (Counted(HOUR, 5, 2), Counted(HOUR + HOUR_NS, 2))
    assert found == CountsPage(
        (CountRow(series, "Order Completed", "track", "HTTP_401", "1.2.3", "m1"),), "b"
    )
    assert found.rows[0].total == 7


def test_counts_without_events_are_an_empty_page() -> None:
    assert read_counts(answer()) == CountsPage(())
    assert read_counts(b'{"data": {"dataset": null, "pagination": null}}') == CountsPage(())
    assert read_counts(answer({"series": None}, None)) == CountsPage((CountRow(()),))


def test_impossible_counts_and_times_are_left_out() -> None:
    points = [{"time": "yesterday", "count": 1}, {"time": "2025-05-08T00:00:00Z", "count": -1}, None]
    assert read_counts(answer({"series": points})) == CountsPage((CountRow(()),))


@given(
    st.binary()
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps).map(str.encode)
)
def test_an_answer_without_counts_is_a_failure_that_quotes_nothing(body: bytes) -> None:
    assert read_counts(body) == Failed(
        "the answer has no counts of deliveries; check that --segment-url is Segment's API"
    )


@given(
    since=st.integers(NOW - 40 * DAY_NS, NOW + DAY_NS),
    length=st.integers(0, 40 * DAY_NS),
    granularity=st.sampled_from(["MINUTE", "HOUR", "DAY"]),
)
def test_ranges_are_what_segment_answers_for(since: int, length: int, granularity: Granularity) -> None:
    limits, until = RANGES[granularity], since + length
    found = [*ranges(since, until, granularity, NOW)]
    for start, end in found:
        assert start % limits.unit_ns == end % limits.unit_ns == 0
        assert 0 < end - start <= limits.longest_ns
        assert start >= NOW - limits.oldest_ns
    assert all(first[1] == second[0] for first, second in pairwise(found))
    for at in {since, until - 1} if length else set():
        if NOW - limits.oldest_ns + limits.unit_ns <= at < NOW:
            assert any(start <= at < end for start, end in found)
