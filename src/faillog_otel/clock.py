"""Time, as an argument: whoever waits or stamps is handed a clock, so tests can move it.

An hour of Segment's is a number here: whole hours since 1970-01-01T00:00:00Z.
"""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Protocol

SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
DAY_NS = 24 * HOUR_NS
RETENTION_NS = 28 * DAY_NS
"""Segment keeps an hour for so long, from its start. [Segment's page]"""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """What the forwarder asks of time."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""

    def monotonic(self) -> float:
        """Seconds that never run backwards, from an arbitrary start."""

    def wait(self, seconds: float) -> bool:
        """Waits so long; returns True at once when the run was asked to stop."""


def hour_of(ns: int) -> int:
    """The hour that a time lies in. `ns`: nanoseconds since 1970."""
    return ns // HOUR_NS


def hour_text(hour: int) -> str:
    """An hour as Segment's API writes it: `2025-05-07T23:00:00Z`."""
    return time_text(hour * HOUR_NS)


def time_text(ns: int) -> str:
    """A time for people and JSON, to the second: `2025-05-07T23:14:47Z`. `ns`: nanoseconds since 1970."""
    at = _EPOCH + timedelta(seconds=ns // SECOND_NS)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def date_ns(header: str | None) -> int | None:
    """Nanoseconds since 1970 from a Date header (RFC 9110); None where it is none."""
    try:
        return int(parsedate_to_datetime(header or "").timestamp()) * SECOND_NS
    except (ValueError, OverflowError):
        return None


def retry_after(header: str | None, now_seconds: float) -> float | None:
    """Seconds to wait from a Retry-After header, a number or a date (RFC 9110); None where it is neither."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now_seconds)
    except (ValueError, OverflowError):
        return None
