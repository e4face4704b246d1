"""The simulated quota never grants more than its refill rule allows."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS
from faillog_otel.errors import ConfigError
from faillog_otel.sandbox.bookkeeping import ServerQuota
from faillog_otel.sandbox.config import REPLENISHES, QuotaConfig

NOW = 20_000 * DAY_NS
steps = st.lists(st.integers(0, 5 * 3600), max_size=150)  # seconds between requests


def granted(replenish: Any, seconds: list[int], per_day: int = 12) -> list[int]:
    quota, now_ns, times = ServerQuota(QuotaConfig(per_day=per_day, replenish=replenish)), NOW, []
    for step in seconds:
        now_ns += step * SECOND_NS
        standing = quota.take(now_ns)
        assert 0 <= standing.remaining <= per_day
        assert standing.reset_ns > now_ns
        if standing.granted:
            times.append(now_ns)
        else:
            assert (standing.remaining, standing.consumed) == (0, per_day + 1)
    return times


@given(steps)
def test_rolling_never_grants_more_than_the_quota_in_24_hours(seconds: list[int]) -> None:
    times = granted("rolling", seconds)
    assert all(later - first >= DAY_NS for first, later in zip(times, times[12:], strict=False))


@given(steps)
def test_midnight_never_grants_more_than_the_quota_in_a_day(seconds: list[int]) -> None:
    days = [at // DAY_NS for at in granted("midnight", seconds)]
    assert all(days.count(day) <= 12 for day in days)


@given(steps)
def test_hourly_never_grants_more_than_the_quota_and_its_refills(seconds: list[int]) -> None:
    times = granted("hourly", seconds, per_day=48)
    for n, first in enumerate(times):
        for m, last in enumerate(times[n:], 1):
            assert m <= 48 + 2 * (last // HOUR_NS - first // HOUR_NS)


@pytest.mark.parametrize("replenish", REPLENISHES)
def test_a_request_is_granted_at_the_reset_time(replenish: Any) -> None:
    quota = ServerQuota(QuotaConfig(replenish=replenish, window_seconds=3600))
    for step in range(120):
        assert quota.take(NOW + step * SECOND_NS).granted
    refused = quota.take(NOW + 200 * SECOND_NS)
    assert not refused.granted
    assert not quota.take(refused.reset_ns - 1).granted
    assert quota.take(refused.reset_ns).granted


def test_hourly_refills_five_of_120() -> None:
    quota = ServerQuota(QuotaConfig())
    assert [quota.take(NOW).remaining for _ in range(120)] == list(range(119, -1, -1))
    assert quota.take(NOW + HOUR_NS).remaining == 4
    assert quota.take(NOW + 3 * HOUR_NS).remaining == 13
    assert quota.take(NOW + 99 * HOUR_NS).remaining == 119


@given(
    st.lists(st.integers(-3600, 4 * 3600), max_size=100), st.sampled_from(["hourly", "midnight", "rolling"])
)
def test_a_clock_that_steps_back_refills_nothing(seconds: list[int], replenish: Any) -> None:
    """Tests move the clock both ways."""
    config = QuotaConfig(per_day=12, replenish=replenish)
    quota, now_ns, count = ServerQuota(config), NOW, 0
    latest = now_ns
    for step in seconds:
        now_ns += step * SECOND_NS
        latest = max(latest, now_ns)
        count += quota.take(now_ns).granted
    first = NOW + sum(seconds[:1]) * SECOND_NS  # hours are counted from the first request on
    hours, days = latest // HOUR_NS - first // HOUR_NS, latest // DAY_NS - NOW // DAY_NS
    came_back = hours * config.per_hour if replenish == "hourly" else 12 * (days + 1)
    assert count <= 12 + came_back


@given(st.lists(st.integers(0, 6 * 3600), min_size=1, max_size=80))
def test_it_reports_the_most_requests_in_24_hours(seconds: list[int]) -> None:
    quota, now_ns, times = ServerQuota(QuotaConfig()), NOW, []
    for step in seconds:
        now_ns += step * SECOND_NS
        quota.note_request(now_ns)
        times.append(now_ns)
    assert quota.max_in_24_hours == max(sum(at - DAY_NS < each <= at for each in times) for at in times)


def test_a_quota_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError):
        QuotaConfig(per_day=0)


@given(steps, st.sampled_from([60.0, 3600.0]))
def test_window_never_grants_more_than_the_quota_in_a_window(seconds: list[int], window: float) -> None:
    quota, now_ns, times = (
        ServerQuota(QuotaConfig(per_day=3, replenish="window", window_seconds=window)),
        NOW,
        [],
    )
    for step in seconds:
        now_ns += step * SECOND_NS
        standing = quota.take(now_ns)
        assert now_ns < standing.reset_ns <= now_ns + window * SECOND_NS
        times += [now_ns] if standing.granted else []
    for first, later in zip(times, times[3:], strict=False):
        assert later > first
    assert all(sum(at <= each < at + window * SECOND_NS for each in times) <= 6 for at in times), (
        "two windows at most"
    )


def test_it_reports_requests_before_the_time_that_it_asked_to_wait_for() -> None:
    quota = ServerQuota(QuotaConfig())
    quota.note_wait_until(NOW, NOW + 10 * SECOND_NS)
    quota.note_wait_until(NOW + SECOND_NS, NOW + 15 * SECOND_NS)
    for at_ns in (NOW + SECOND_NS, NOW + 14 * SECOND_NS, NOW + 15 * SECOND_NS):
        quota.note_request(at_ns)
    assert quota.too_early == 2
    assert quota.asked_to_wait_seconds == 15
