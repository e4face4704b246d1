"""How many of the discards that Segment counted were read: of settled hours that were counted."""

from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import HOUR_NS, hour_text
from faillog_otel.reports.completeness import (
    Completeness,
    Discards,
    ShortHour,
    completeness,
    percent,
    sentence,
    together,
)

HOUR = 480_000
NOW_NS = HOUR * HOUR_NS


def complete(counted: dict[int, int], read: dict[int, int], destination: str = "d1") -> Completeness:
    found = Discards(
        {(HOUR - ago, destination): number for ago, number in counted.items()},
        {(HOUR - ago, destination): number for ago, number in read.items()},
    )
    return completeness([destination], found, NOW_NS - 48 * HOUR_NS, NOW_NS, NOW_NS)


def test_an_hour_is_short_if_it_lacks_more_than_a_twentieth() -> None:
    found = complete({20: 100, 21: 100, 22: 1, 23: 10, 24: 0}, {20: 95, 21: 94, 23: 12})
    assert found.short == [
        ShortHour(hour_text(HOUR - 22), 1, 0),
        ShortHour(hour_text(HOUR - 21), 100, 94),
    ]
    assert (found.counted, found.read, found.hours) == (211, 201, 5)
    assert sentence(found) == "95.2 % of the 211 discards that Segment counted were read; 2 hours are short"


def test_hours_that_are_not_settled_or_not_counted_are_in_no_sum() -> None:
    found = complete({5: 9, 8: 9, 9: 3}, {5: 1, 9: 3, 30: 70})
    assert (found.counted, found.read, found.share, found.short) == (3, 3, 1.0, [])
    assert (found.hours, found.unknown) == (1, 39)


def test_what_is_not_known_is_not_complete() -> None:
    assert sentence(complete({}, {20: 3})) == (
        "completeness unknown: Segment's counts of settled hours are not read yet"
    )
    assert sentence(complete({20: 0}, {})) == "Segment counted no discards in 1 settled hour"
    nameless = completeness([], Discards({}, {}), 0, NOW_NS, NOW_NS)
    assert "[segment.collection_destinations]" in sentence(nameless)


def test_one_discard_is_one() -> None:
    assert sentence(complete({20: 1}, {20: 1})) == "1 of the 1 discard that Segment counted was read"


@given(st.integers(1, 10**6), st.data())
def test_only_what_is_complete_is_100_percent(number: int, data: st.DataObject) -> None:
    read = data.draw(st.integers(0, number))
    assert (percent(read / number) == "100 %") == (read == number)


numbers = st.dictionaries(st.integers(0, 47), st.integers(0, 50))


@given(numbers, numbers, numbers, numbers)
def test_sums_are_those_of_their_parts(
    counted: dict[int, int], read: dict[int, int], more: dict[int, int], more_read: dict[int, int]
) -> None:
    parts = [complete(counted, read), complete(more, more_read, "d2")]
    found = together(parts)
    assert found
    settled = {ago: number for ago, number in counted.items() if ago >= 9}
    assert parts[0].counted == sum(settled.values())
    assert parts[0].read == sum(read.get(ago, 0) for ago in settled)
    assert found.counted == parts[0].counted + parts[1].counted
    assert found.read == parts[0].read + parts[1].read
    assert {each.hour for each in found.short} == {each.hour for part in parts for each in part.short}


def test_without_counts_there_is_no_sum() -> None:
    assert together([]) is None
