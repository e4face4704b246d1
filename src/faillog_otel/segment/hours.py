"""What the planner knows of an hour, and the collections and the time range that a run asks for."""

import string
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS
from faillog_otel.segment.quota import Quota

LAST_CALL_NS = 27 * DAY_NS + 12 * HOUR_NS
"""After the start of an hour; half a day is left for failures."""
READ_AFTER_HOURS: Mapping[int, tuple[int, ...]] = {1: (8,), 2: (6, 26), 3: (2, 6, 26), 4: (2, 6, 26)}
"""Number of listings of an hour that the quota covers → their times in whole hours after the end of the hour;
the fourth is the last call. Segment retries for four and a half hours, and records appear at most two hours
later, so a single listing, and the last one before the last call, must come after that."""
SETTLED_AFTER_NS = 20 * HOUR_NS

KSUID_EPOCH_SECONDS = 1_400_000_000
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def collection_created_ns(collection: str, now_ns: int) -> int | None:
    """Returns when a collection was created, from its id; None if the id is no KSUID, or later than now.

    A KSUID has 27 base62 digits, a number of 20 bytes whose first four are the seconds since 2014-05-13. Only
    one collection id is known, so this is a hint.
    """
    if len(collection) != 27 or not set(collection) <= set(_BASE62):
        return None
    number = 0
    for digit in collection:
        number = 62 * number + _BASE62.index(digit)
    at_ns = ((number >> 128) + KSUID_EPOCH_SECONDS) * SECOND_NS
    return at_ns if number < 1 << 160 and at_ns <= now_ns else None


class HourView(Struct, frozen=True):
    """The ledger's state of one hour of a collection. All times: nanoseconds since 1970."""

    listed_ns: int | None = None
    """The last listing that succeeded."""
    same_since_ns: int | None = None
    """The first of the consecutive listings with the same objects as the last one."""
    failures: int = 0
    """Consecutive listings in this run that failed or that a crash left unanswered."""
    failed_ns: int = 0
    """When the last of them was recorded."""
    wanted: bool = False
    """A person asked for it: it is due now."""
    missing: int = 0
    """Objects of the last listing that could not be downloaded so far."""
    missing_due_ns: int | None = None
    """When the hour may be listed again for new URLs of the missing objects."""

    @property
    def is_settled(self) -> bool:
        """Whether two listings at least 20 hours apart had the same objects, and all were downloaded."""
        if self.listed_ns is None or self.same_since_ns is None or self.missing:
            return False
        return self.listed_ns - self.same_since_ns >= SETTLED_AFTER_NS


class ScheduleConfig(Struct, frozen=True):
    """The collections and the time range to list."""

    collections: tuple[str, ...]
    since_ns: int = 0
    """Hours that ended by then are not listed."""
    until_ns: int | None = None
    """Hours that begin then or later are not listed."""
    created_ns: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Collection → its creation time, from its id. Hours that ended by then are empty."""
    asked_since_ns: int | None = None
    """Overrides a later `created_ns`: a person named that time."""
    once: bool = False
    """A single pass (`--once`): no requests are kept for coming hours."""

    def since_of(self, collection: str) -> int:
        """Returns the time by which an hour of this collection must have ended not to be listed."""
        created_ns = self.created_ns.get(collection, 0)
        if self.asked_since_ns is not None:
            created_ns = min(created_ns, self.asked_since_ns)
        return max(self.since_ns, created_ns)


class ObjectVersion(Struct, frozen=True):
    """The version of a downloaded object: unchanged if S3 answers with the same values."""

    etag: str | None
    last_modified: str | None
    length: int | None


def reads_per_hour(quota: Quota, collections: int) -> int:
    """Returns how many of the four listings of each hour the quota covers."""
    return min(4, max(1, (quota.size - quota.reserve) // (24 * max(1, collections))))
