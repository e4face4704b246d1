"""The window of `--since` and `--until`: refused windows, and those that an earlier run makes valid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import DAY_NS, HOUR_NS, MIN_TIME_NS
from faillog_otel.config import Moment, SegmentConfig
from faillog_otel.errors import ConfigError
from faillog_otel.ledger.facts import check_window

NOW_NS = MIN_TIME_NS + 700 * DAY_NS
moments = st.builds(Moment, at_ns=st.integers(MIN_TIME_NS, NOW_NS + 9 * DAY_NS)) | st.builds(
    Moment, ago_seconds=st.floats(0, 60 * 86400)
)


@given(moments, moments)
def test_a_window_without_an_hour_is_refused_and_no_other(since: Moment, until: Moment) -> None:
    """If the machine's clock decides, which can be wrong, it is only a warning."""
    config = SegmentConfig(since=since, until=until, is_since_given=True)
    is_empty = since.ns(NOW_NS) >= until.ns(NOW_NS)
    if is_empty and (since.at_ns is None) == (until.at_ns is None):
        with pytest.raises(ConfigError, match="is not before --until"):
            check_window(config, NOW_NS)
    else:
        said = [each for each in check_window(config, NOW_NS) if "is not before --until" in each]
        assert len(said) == is_empty


def test_the_start_of_an_earlier_run_makes_an_absolute_until_valid() -> None:
    """The same command a day later: `--since -10h --until 2026-...`."""
    config = SegmentConfig(
        since=Moment(ago_seconds=36000), until=Moment(at_ns=NOW_NS - DAY_NS), is_since_given=True
    )
    assert check_window(config, NOW_NS, NOW_NS - DAY_NS - 10 * HOUR_NS) == []
    [warning] = check_window(config, NOW_NS, NOW_NS - 10 * HOUR_NS)
    assert "is not before --until" in warning


def test_a_clock_that_was_never_set_refuses_no_window() -> None:
    config = SegmentConfig(since=Moment(at_ns=NOW_NS), until=Moment(ago_seconds=3600), is_since_given=True)
    [warning] = check_window(config, now_ns=HOUR_NS)
    assert "no hour is between them" in warning


def test_a_default_since_without_hours_is_a_warning() -> None:
    config = SegmentConfig(until=Moment(at_ns=NOW_NS - 9 * DAY_NS))
    [warning] = check_window(config, NOW_NS)
    assert "set another --since" in warning
