"""RFC 3339 times as nanoseconds since 1970, exactly: no float, no microsecond, is in between."""

import re
from datetime import UTC, datetime
from functools import lru_cache

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
_MOST_SECONDS = 4096


def _parse_in_new_second(text: str, within: int) -> int | None:
    second = _parse(f"{text[:19]}Z")
    if second is None or second >= _LATEST_SECOND_NS:
        return _parse(text)
    if len(_seconds) >= _MOST_SECONDS:
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
