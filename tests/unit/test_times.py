"""RFC 3339 → nanoseconds, exactly."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import MAX_NS, parse_rfc3339

SECOND = 1_000_000_000
AT = 1742760000 * SECOND  # 2025-03-23T20:00:00Z


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("2025-03-23T20:00:00Z", AT),
        ("2025-03-23T20:00:00", AT),
        ("2025-03-23t20:00:00z", AT),
        ("2025-03-23 20:00:00Z", AT),
        ("2025-03-23T22:30:00+02:30", AT),
        ("2025-03-23T12:00:00-08:00", AT),
        ("2025-03-23T20:00:00.1Z", AT + SECOND // 10),
        ("2025-03-23T20:00:00.123456789Z", AT + 123456789),
        ("2025-03-23T20:00:00.1234567899999Z", AT + 123456789),
        ("2025-03-23T19:59:60Z", AT),
        ("1970-01-01T00:00:00Z", 0),
        ("2262-04-11T23:47:16.854775807Z", MAX_NS),
    ],
)
def test_valid_times(text: str, nanoseconds: int) -> None:
    assert parse_rfc3339(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2025-03-23",
        "2025-02-30T00:00:00Z",
        "2025-03-23T24:00:00Z",
        "2025-03-23T20:00:61Z",
        "2025-03-23T20:00Z",
        "2025-03-23T20:00:00.Z",
        "2025-03-23T20:00:00+24:00",
        "2025-03-23T20:00:00+0200",
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999999Z",
        "1970-01-01T00:00:00+00:01",
        "2262-04-11T23:47:16.854775808Z",
        "9999-12-31T23:59:59Z",
        "٢٠٢٥-03-23T20:00:00Z",
        "2025-03-23T20:00:00Z\n",
    ],
)
def test_invalid_times(text: str) -> None:
    assert parse_rfc3339(text) is None


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2262, 1, 1)),  # noqa: DTZ001  # the zone is added below
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_every_zone_is_converted_to_utc(local: datetime, minutes: int) -> None:
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    text = f"{local.isoformat(timespec='microseconds')}{sign}{hours:02}:{rest:02}"
    since = local.replace(tzinfo=UTC) - timedelta(minutes=minutes) - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_rfc3339(text) == since // timedelta(microseconds=1) * 1000
