"""Clocks, and the text forms of times and durations: RFC 3339, HTTP dates, durations for people.

Clocks are injected: code that waits or takes timestamps receives a `Clock`, so tests can control time. Times
are nanoseconds since 1970; an hour is a number of whole hours since 1970-01-01T00:00:00Z.
"""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Protocol

SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
DAY_NS = 24 * HOUR_NS
RETENTION_NS = 28 * DAY_NS
"""Segment keeps an hour for this time after its start. [Segment's page]"""

AGREES_NS = 300 * SECOND_NS
"""Maximum difference of two clocks that agree."""
MIN_TIME_NS = 1_704_067_200 * SECOND_NS
"""2024-01-01, before Segment had failure logs: a clock with an earlier time was never set."""

MAX_NS = 2**63 - 1
"""2262-04-11T23:47:16.854775807Z: the last time that fits into an int64 of nanoseconds."""

_MAX_SECOND_NS = MAX_NS - MAX_NS % SECOND_NS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """A source of time."""

    def now_ns(self) -> int:
        """Returns nanoseconds since 1970-01-01T00:00:00Z."""

    def monotonic(self) -> float:
        """Returns seconds since an arbitrary start, which never decrease."""

    def wait(self, seconds: float) -> bool:
        """Waits; returns True, and at once, if the run is to stop."""


class SegmentClock:
    """A Clock with Segment's time: its last Date plus the monotonic time since.

    Before the first Date it has the machine's time of the last `follow_machine`. It ignores changes of the
    machine's clock. One thread sets it, several can read it.
    """

    def __init__(self, machine: Clock, agreed_ns: int = 0) -> None:
        """`agreed_ns`: the last time at which an earlier run found that both clocks agreed."""
        self.is_checked = False
        """Whether this run has accepted a Date of Segment's."""
        self._machine = machine
        self._agreed_ns = agreed_ns
        self.follow_machine()

    def now_ns(self) -> int:
        """Returns nanoseconds since 1970-01-01T00:00:00Z."""
        return self._offset_ns + self._monotonic_ns()

    def monotonic(self) -> float:
        """Returns the machine's monotonic time."""
        return self._machine.monotonic()

    def wait(self, seconds: float) -> bool:
        """Waits on the machine's clock."""
        return self._machine.wait(seconds)

    @property
    def ahead_ns(self) -> int:
        """The machine's time minus this one."""
        return self._machine.now_ns() - self.now_ns()

    @property
    def is_agreed(self) -> bool:
        """Whether the machine's clock agrees with Segment's Date."""
        return self.is_checked and abs(self.ahead_ns) <= AGREES_NS

    @property
    def is_plausible(self) -> bool:
        """Whether the time can be right: not before an earlier known time."""
        return self.now_ns() >= max(MIN_TIME_NS, self._agreed_ns - AGREES_NS)

    def certain_ns(self) -> int:
        """Returns the earlier time of both clocks: an hour that is old by it is old unless both are wrong."""
        return min(self.now_ns(), self._machine.now_ns())

    def follow_machine(self) -> None:
        """Sets this clock to the machine's time."""
        self._offset_ns = self._machine.now_ns() - self._monotonic_ns()

    def take_date(self, date_ns: int, sent_ns: int) -> int | None:
        """Sets this clock by an answer's Date; returns the change: 0 if it fits, None if it is implausible.

        `date_ns` is in whole seconds. `sent_ns` is this clock's time when the request was sent: the answer
        was written after that.
        """
        machine_ns, now_ns = self._machine.now_ns(), self.now_ns()
        goes_back = date_ns < self._agreed_ns - AGREES_NS and abs(date_ns - machine_ns) > AGREES_NS
        if date_ns < MIN_TIME_NS or goes_back:
            return None
        by_ns = max(date_ns - now_ns, 0) or min(date_ns + SECOND_NS - sent_ns, 0)
        self._offset_ns += by_ns
        self.is_checked = True
        if self.is_agreed:
            self._agreed_ns = date_ns
        return by_ns

    def _monotonic_ns(self) -> int:
        return round(self._machine.monotonic() * SECOND_NS)


def hour_of(ns: int) -> int:
    """Returns the hour that contains a time."""
    return ns // HOUR_NS


def hour_text(hour: int) -> str:
    """Returns an hour as Segment's API writes it: `2025-05-07T23:00:00Z`."""
    return time_text(hour * HOUR_NS)


def time_text(ns: int) -> str:
    """Returns a time for people and JSON, to the second: `2025-05-07T23:14:47Z`."""
    at = _EPOCH + timedelta(seconds=ns // SECOND_NS)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def duration_text(seconds: float) -> str:
    """Returns a duration for people: `50 s`, `12 min`, `3 h 05 min`, `4 d 2 h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole // 60 % 60:02} min"
    return f"{whole // 86400} d {whole // 3600 % 24} h"


def date_ns(header: str | None) -> int | None:
    """Returns the time of a Date header (RFC 9110); None if it is invalid."""
    try:
        return int(parsedate_to_datetime(header or "").timestamp()) * SECOND_NS
    except (ValueError, OverflowError):
        return None


def retry_after(header: str | None, now_seconds: float, date: str | None = None) -> float | None:
    """Returns the seconds of a Retry-After header, a number or a date (RFC 9110); None if it is neither.

    A date counts from `date`, the Date header of the same answer, by the server's clock; without one, from
    `now_seconds` (since 1970).
    """
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return float(header)
    try:
        until = parsedate_to_datetime(header).timestamp()
    except (ValueError, OverflowError):
        return None
    from_ns = date_ns(date)
    return max(0.0, until - (now_seconds if from_ns is None else from_ns / SECOND_NS))


_RFC3339 = re.compile(
    r"(?P<minute>\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d):(?P<second>\d\d)(?:\.(?P<fraction>\d+))?"
    r"(?P<zone>[Zz]|[+-]\d\d:\d\d)?",
    re.ASCII,
)

_MILLISECONDS = {f".{number:03}Z": number * 1_000_000 for number in range(1000)} | {"Z": 0}
"""The end of Segment's times, after the seconds → nanoseconds."""


def parse_rfc3339(text: str) -> int | None:
    """Returns nanoseconds since 1970-01-01T00:00:00Z, exactly; None for an invalid text.

    No zone means UTC. Digits beyond the nanosecond are dropped. Second 60 (RFC 3339, section 5.7) is the
    start of the next minute. None also for times before 1970 or after `MAX_NS`, which OTLP cannot represent.
    """
    fraction_ns = _MILLISECONDS.get(text[19:])
    if fraction_ns is not None:
        second = _seconds.get(text[:19])
        if second is not None:
            return second + fraction_ns
        return _parse_in_new_second(text, fraction_ns)
    return _parse(text)


_seconds: dict[str, int] = {}
"""Cache: text of a second → its start; the events of a file share one hour."""
_MAX_SECONDS = 4096


def _parse_in_new_second(text: str, fraction_ns: int) -> int | None:
    second = _parse(f"{text[:19]}Z")
    if second is None or second >= _MAX_SECOND_NS:
        return _parse(text)
    if len(_seconds) >= _MAX_SECONDS:
        _seconds.clear()
    _seconds[text[:19]] = second
    return second + fraction_ns


def _parse(text: str) -> int | None:
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    minute, second, fraction, zone = found.groups()
    start = _minute_start(minute, zone or "Z")
    if start is None or int(second) > 60:
        return None
    nanoseconds = (start + int(second)) * 1_000_000_000 + int((fraction or "0").ljust(9, "0")[:9])
    return nanoseconds if 0 <= nanoseconds <= MAX_NS else None


@lru_cache(maxsize=1024)
def _minute_start(minute: str, zone: str) -> int | None:
    """Returns the start of a minute in seconds since 1970; the events of a file share few minutes."""
    try:
        local = datetime.fromisoformat(minute.upper().replace(" ", "T"))
    except ValueError:
        return None
    seconds = int(local.replace(tzinfo=UTC).timestamp())
    if zone in "Zz":
        return seconds
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours > 23 or minutes > 59:
        return None
    offset = hours * 3600 + minutes * 60
    return seconds - offset if zone[0] == "+" else seconds + offset
