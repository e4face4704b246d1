"""What is missing: the same hours as the plan would ask for, were there no quota."""

from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.app.readiness import expires_soon, unread_hours
from faillog_otel.clock import HOUR_NS, RETENTION_NS
from faillog_otel.segment.hours import HourView, ScheduleConfig, reads_per_hour
from faillog_otel.segment.quota import Quota
from faillog_otel.segment.schedule import plan

HOUR = 490_000
QUOTA = Quota(per_day=1_000_000, reserve=0)


@given(
    minute=st.integers(0, 59),
    since=st.integers(0, 900),
    until=st.none() | st.integers(-2, 900),
    collections=st.integers(1, 5),
    read=st.dictionaries(
        st.integers(-2, 700),
        st.builds(lambda ago: HourView(listed_ns=(HOUR - ago) * HOUR_NS), st.integers(0, 700)),
    ),
)
def test_unread_is_what_the_plan_asks_for_the_first_time(
    minute: int, since: int, until: int | None, collections: int, read: dict[int, HourView]
) -> None:
    now_ns = HOUR * HOUR_NS + minute * HOUR_NS // 60
    config = ScheduleConfig(
        tuple(f"c{number}" for number in range(collections)),
        since_ns=(HOUR - since) * HOUR_NS,
        until_ns=None if until is None else (HOUR - until) * HOUR_NS,
        once=True,
    )
    hours = {"c0": {HOUR - ago: view for ago, view in read.items()}}
    asks = plan(now_ns, hours, QUOTA, config).requests
    first = {(ask.collection, ask.hour) for ask in asks if ask.why in ("leaving", "fresh", "backfill")}
    unread = unread_hours(now_ns, hours, config, reads_per_hour(QUOTA, collections))
    assert {(name, hour) for name, found in unread.items() for hour in found} == first
    assert all(found == sorted(found) for found in unread.values())


def test_a_day_before_it_leaves_an_hour_expires_soon() -> None:
    leaves_ns = HOUR * HOUR_NS + RETENTION_NS
    assert not expires_soon(leaves_ns - 24 * HOUR_NS, HOUR)
    assert expires_soon(leaves_ns - 24 * HOUR_NS + 1, HOUR)
