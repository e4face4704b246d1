"""Clocks are injected: code that waits or takes timestamps receives a `Clock`, so tests can control time.

An hour of Segment's is a number here: whole hours since 1970-01-01T00:00:00Z.
"""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Protocol

# -- clock ---------------------------------------------------------------------------------------------------


SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
DAY_NS = 24 * HOUR_NS
RETENTION_NS = 28 * DAY_NS
"""Segment keeps an hour for so long, from its start. [Segment's page]"""

AGREES_NS = 300 * SECOND_NS
"""Two clocks that differ by no more agree."""
MIN_TIME_NS = 1_704_067_200 * SECOND_NS
"""2024-01-01, before Segment had failure logs: a clock that shows less was never set."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """What the forwarder asks of time."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""

    def monotonic(self) -> float:
        """Seconds that never run backwards, from an arbitrary start."""

    def wait(self, seconds: float) -> bool:
        """Waits so long; returns True at once when the run was asked to stop."""


class SegmentClock:
    """A Clock that shows Segment's time: its last Date, and the time that has passed since.

    Until the first Date it shows the machine's time as `follow_machine` found it. It does not follow a
    machine's clock that is set while the program runs. One thread sets it, several may read it.
    """

    def __init__(self, machine: Clock, agreed_ns: int = 0) -> None:
        """`agreed_ns`: the last time that an earlier run knew both clocks to agree on, since 1970."""
        self.is_checked = False
        """Whether a Date of Segment's was taken over in this run."""
        self._machine = machine
        self._agreed_ns = agreed_ns
        self.follow_machine()

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""
        return self._offset_ns + self._monotonic_ns()

    def monotonic(self) -> float:
        """The machine's."""
        return self._machine.monotonic()

    def wait(self, seconds: float) -> bool:
        """The machine's."""
        return self._machine.wait(seconds)

    @property
    def ahead_ns(self) -> int:
        """How far the machine's clock is ahead of this one."""
        return self._machine.now_ns() - self.now_ns()

    @property
    def is_agreed(self) -> bool:
        """Whether the machine's clock agrees with Segment's Date."""
        return self.is_checked and abs(self.ahead_ns) <= AGREES_NS

    @property
    def is_plausible(self) -> bool:
        """Whether the time shown can be right: it is not before what was known already."""
        return self.now_ns() >= max(MIN_TIME_NS, self._agreed_ns - AGREES_NS)

    def certain_ns(self) -> int:
        """The earlier of both clocks: what is older by this one is old, unless both are wrong."""
        return min(self.now_ns(), self._machine.now_ns())

    def follow_machine(self) -> None:
        """Takes over the machine's time."""
        self._offset_ns = self._machine.now_ns() - self._monotonic_ns()

    def take_date(self, date_ns: int, sent_ns: int) -> int | None:
        """Takes over an answer's Date; returns by how much that changed the time shown, 0 where it fits.

        `date_ns` is to the second, `sent_ns` what this clock showed when the request was sent: the answer was
        written in between. None: the Date is implausible and was not taken over.
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
    """The hour that a time lies in. `ns`: nanoseconds since 1970."""
    return ns // HOUR_NS


def hour_text(hour: int) -> str:
    """An hour as Segment's API writes it: `2025-05-07T23:00:00Z`."""
    return time_text(hour * HOUR_NS)


def time_text(ns: int) -> str:
    """A time for people and JSON, to the second: `2025-05-07T23:14:47Z`. `ns`: nanoseconds since 1970."""
    at = _EPOCH + timedelta(seconds=ns // SECOND_NS)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def duration_text(seconds: float) -> str:
    """A duration for people: `50 s`, `12 min`, `3 h 05 min`, `4 d 2 h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole // 60 % 60:02} min"
    return f"{whole // 86400} d {whole // 3600 % 24} h"


def date_ns(header: str | None) -> int | None:
    """Nanoseconds since 1970 from a Date header (RFC 9110); None where it is none."""
    try:
        return int(parsedate_to_datetime(header or "").timestamp()) * SECOND_NS
    except (ValueError, OverflowError):
        return None


def retry_after(header: str | None, now_seconds: float, date: str | None = None) -> float | None:
    """Seconds to wait from a Retry-After header, a number or a date (RFC 9110); None where it is neither.

    A date is measured by `date`, the same answer's Date header: the server's clock wrote both. `now_seconds`
    since 1970 counts where there is none.
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


# -- times ---------------------------------------------------------------------------------------------------
#
# RFC 3339 times as nanoseconds since 1970, exactly: no float, no microsecond, is in between.


LATEST_NS = 2**63 - 1
"""2262-04-11T23:47:16.854775807Z: the last instant that an int64 of nanoseconds can hold."""

_LATEST_SECOND_NS = LATEST_NS - LATEST_NS % 1_000_000_000

_RFC3339 = re.compile(
    r"(?P<minute>\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d):(?P<second>\d\d)(?:\.(?P<fraction>\d+))?"
    r"(?P<zone>[Zz]|[+-]\d\d:\d\d)?",
    re.ASCII,
)


_MILLISECONDS = {f".{number:03}Z": number * 1_000_000 for number in range(1000)} | {"Z": 0}
"""What Segment writes behind a second, in nanoseconds."""


def parse_rfc3339(text: str) -> int | None:
    """Nanoseconds since 1970-01-01T00:00:00Z, or None where the text is no such time.

    No zone means UTC. Digits beyond the nanosecond are cut. Second 60 (RFC 3339, section 5.7) is the
    first instant of the next minute. None also for times before 1970 or after `LATEST_NS`, which OTLP's
    readers cannot hold.
    """
    within = _MILLISECONDS.get(text[19:])
    if within is not None:
        second = _seconds.get(text[:19])
        if second is not None:
            return second + within
        return _parse_in_new_second(text, within)
    return _parse(text)


_seconds: dict[str, int] = {}
"""When a second begins that is written as Segment does; a file's events are of one hour."""
_MAX_SECONDS = 4096


def _parse_in_new_second(text: str, within: int) -> int | None:
    second = _parse(f"{text[:19]}Z")
    if second is None or second >= _LATEST_SECOND_NS:
        return _parse(text)
    if len(_seconds) >= _MAX_SECONDS:
        _seconds.clear()
    _seconds[text[:19]] = second
    return second + within


def _parse(text: str) -> int | None:
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    minute, second, fraction, zone = found.groups()
    start = _minute_start(minute, zone or "Z")
    if start is None or int(second) > 60:
        return None
    nanoseconds = (start + int(second)) * 1_000_000_000 + int((fraction or "0").ljust(9, "0")[:9])
    return nanoseconds if 0 <= nanoseconds <= LATEST_NS else None


@lru_cache(maxsize=1024)
def _minute_start(minute: str, zone: str) -> int | None:
    """Seconds since 1970 at the start of a minute; a file's events share few of them."""
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


# -- ksuid ---------------------------------------------------------------------------------------------------
#
# When a collection was made, as its id says: Segment's collection ids are KSUIDs.
#
# A KSUID is 27 base62 digits, a number of 20 bytes; its first four bytes are the seconds since 2014-05-13.
# Only one example is known, so it is a hint.


EPOCH_SECONDS = 1_400_000_000
_DIGITS = {
    digit: value
    for value, digit in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
}
_CHARACTERS, _BITS, _RANDOM_BITS = 27, 160, 128


def created_ns(text: str, now_ns: int) -> int | None:
    """When the id was made, in nanoseconds since 1970; None where it is no KSUID, or made later than now."""
    if len(text) != _CHARACTERS or not all(digit in _DIGITS for digit in text):
        return None
    number = 0
    for digit in text:
        number = number * len(_DIGITS) + _DIGITS[digit]
    if number >> _BITS:
        return None
    at_ns = ((number >> _RANDOM_BITS) + EPOCH_SECONDS) * SECOND_NS
    return at_ns if at_ns <= now_ns else None
