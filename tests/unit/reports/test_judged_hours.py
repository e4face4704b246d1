"""How much of its window a run judged: the counts add up, whatever the ledger holds."""

from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import HOUR_NS, hour_text
from faillog_otel.reports.hours import judge, judged_hours
from faillog_otel.segment.hours import READ_AFTER_HOURS, HourView, ScheduleConfig

NOW = 500_000
NAMES = ("a", "b", "c")

views = st.builds(
    HourView,
    listed_ns=st.none() | st.integers(NOW - 60, NOW).map(lambda hour: hour * HOUR_NS),
    wanted=st.booleans(),
)
hours = st.integers(NOW - 60, NOW + 5)
ledgers = st.dictionaries(st.sampled_from(NAMES), st.dictionaries(hours, views, max_size=20))
schedules = st.builds(
    ScheduleConfig,
    collections=st.sampled_from((NAMES, NAMES[:1])),
    since_ns=hours.map(lambda hour: hour * HOUR_NS + 1),
    until_ns=st.none() | hours.map(lambda hour: hour * HOUR_NS),
)


@given(ledgers, st.sets(st.tuples(st.sampled_from(NAMES), hours)), schedules, st.integers(1, 4))
def test_every_hour_of_the_window_is_judged_due_or_not_readable(
    ledger: dict[str, dict[int, HourView]],
    unfinished: set[tuple[str, int]],
    schedule: ScheduleConfig,
    reads: int,
) -> None:
    now_ns, after = NOW * HOUR_NS + HOUR_NS // 2, READ_AFTER_HOURS[reads][0]
    judged = judged_hours(ledger, unfinished, schedule, reads, now_ns)
    found = judge(judged, (), schedule, reads, now_ns)
    assert found.window == found.judged + found.due + found.not_readable
    assert min(found.judged, found.due, found.not_readable) >= 0
    assert found.judged == found.judged_now == len(judged)
    for name, hour in judged:
        view = ledger[name][hour]
        assert not view.wanted
        assert (name, hour) not in unfinished
        assert (view.listed_ns or 0) >= (hour + 1 + after) * HOUR_NS
    if found.next_readable is not None:
        assert hour_text(NOW) < found.next_readable.at <= hour_text(NOW + 1 + after + 60)


def test_what_was_judged_before_is_not_judged_now() -> None:
    schedule = ScheduleConfig(NAMES[:1], since_ns=(NOW - 12) * HOUR_NS)
    ledger = {"a": {hour: HourView(listed_ns=NOW * HOUR_NS) for hour in range(NOW - 12, NOW)}}
    judged = judged_hours(ledger, (), schedule, 4, NOW * HOUR_NS)
    found = judge(judged, {("a", NOW - 12), ("a", NOW - 11)}, schedule, 4, NOW * HOUR_NS)
    assert (found.window, found.judged, found.judged_now, found.not_readable) == (12, 10, 8, 2)
    assert found.next_readable is not None
    assert found.next_readable.hour == hour_text(NOW - 2)
    assert found.next_readable.at == hour_text(NOW + 1)
