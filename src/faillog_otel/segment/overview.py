"""Reads Segment's own counts of received, filtered, failed and delivered events: the Delivery Overview.

They are about 30 seconds fresh, and cost nothing of the listings' quota. Segment answers for limited times
only (`RANGES`). A request is one page. (Segment's generated Public API SDKs; its page "Delivery Overview".)
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct, field

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, parse_rfc3339, time_text
from faillog_otel.segment.answers import CHECK_URL, ApiAnswer, Failed, Outcome, Success
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.workspace import BETA, Pagination, cursor_of, get_list, plain_text
from faillog_otel.text import read_as

Stage = Literal["received", "failed_on_ingest", "filtered_at_source", "filtered", "failed", "delivered"]
"""What happened to the events that are counted. The first three are counted by source, the others by source
and destination. `failed` counts discarded events: final failures, without attempts that Segment retries."""
STAGE_PATHS: dict[Stage, str] = {
    "received": "successfully-received",
    "failed_on_ingest": "failed-on-ingest",
    "filtered_at_source": "filtered-at-source",
    "filtered": "filtered-at-destination",
    "failed": "failed-delivery",
    "delivered": "successful-delivery",
}
SOURCE_STAGES: tuple[Stage, ...] = ("received", "failed_on_ingest", "filtered_at_source")
DESTINATION_STAGES: tuple[Stage, ...] = ("filtered", "failed", "delivered")

Granularity = Literal["MINUTE", "HOUR", "DAY"]
Dimension = Literal["eventName", "eventType", "discardReason", "appVersion", "subscriptionId"]
"""What counts are split and filtered by; `successfully-received` knows no `discardReason`. The reason of a
delivered event is `successes.attempt.1` and so on: the attempt that succeeded."""


class Range(Struct, frozen=True):
    """What Segment answers for one granularity, in nanoseconds."""

    unit_ns: int
    longest_ns: int
    oldest_ns: int
    """How long ago a range may begin."""


RANGES: dict[Granularity, Range] = {
    "MINUTE": Range(60 * SECOND_NS, 4 * HOUR_NS, 48 * HOUR_NS),
    "HOUR": Range(HOUR_NS, 14 * DAY_NS, 30 * DAY_NS),
    "DAY": Range(DAY_NS, 30 * DAY_NS, 30 * DAY_NS),
}


def ranges(since_ns: int, until_ns: int, granularity: Granularity, now_ns: int) -> Iterator[tuple[int, int]]:
    """Yields the start and end of the requests that cover a time, the oldest first, in whole units.

    What Segment no longer answers for, and what has not begun, is left out.
    """
    limits = RANGES[granularity]
    unit_ns = limits.unit_ns
    start_ns = max(since_ns // unit_ns, -(-(now_ns - limits.oldest_ns) // unit_ns)) * unit_ns
    end_ns = -(-min(until_ns, now_ns) // unit_ns) * unit_ns
    while start_ns < end_ns:
        yield start_ns, min(start_ns + limits.longest_ns, end_ns)
        start_ns += limits.longest_ns


class CountsRequest(Struct, frozen=True, kw_only=True):
    """One page of counts. Times are nanoseconds since 1970; the end is exclusive."""

    stage: Stage
    source: str
    destination: str = ""
    """For `DESTINATION_STAGES`."""
    start_ns: int
    end_ns: int
    granularity: Granularity = "HOUR"
    group_by: tuple[Dimension, ...] = ()
    filters: Mapping[Dimension, tuple[str, ...]] = field(default_factory=dict)
    """Only events with one of these values."""
    cursor: str = ""


class Counted(Struct, frozen=True):
    """The events of one unit of time; `retried`: those delivered after the first attempt."""

    at_ns: int
    """The start of the unit, nanoseconds since 1970."""
    count: int
    retried: int = 0


class CountRow(Struct, frozen=True):
    """The counts of one combination of the dimensions of `group_by`; None for the others."""

    series: tuple[Counted, ...]
    """Only times with events, in any order."""
    event_name: str | None = None
    event_type: str | None = None
    reason: str | None = None
    app_version: str | None = None
    subscription: str | None = None

    @property
    def total(self) -> int:
        """The events of all times."""
        return sum(each.count for each in self.series)


class CountsPage(Success, frozen=True):
    """A page of counts, and the cursor of the next page; empty after the last one."""

    rows: tuple[CountRow, ...]
    cursor: str = ""


def get_counts(segment: SegmentApi, asked: CountsRequest, now_ns: int, timeout_seconds: float) -> ApiAnswer:
    """Requests a page; a success has a `CountsPage`.

    The form of lists in the query (`groupBy.0=`) is that of Segment's documentation; its SDKs use two others.
    """
    query = {
        "sourceId": asked.source,
        "startTime": time_text(asked.start_ns),
        "endTime": time_text(asked.end_ns),
        "granularity": asked.granularity,
    }
    if asked.destination:
        query["destinationConfigId"] = asked.destination
    query |= {f"groupBy.{number}": each for number, each in enumerate(asked.group_by)}
    for dimension, values in asked.filters.items():
        query |= {f"filter.{dimension}.{number}": each for number, each in enumerate(values)}
    return get_list(
        segment,
        f"/delivery-overview/{STAGE_PATHS[asked.stage]}",
        read_counts,
        now_ns,
        cursor=asked.cursor,
        media_type=BETA,
        timeout_seconds=timeout_seconds,
        query=query,
    )


class _Point(Struct, rename="camel"):
    time: str = ""
    count: float | None = 0
    retry_count: float | None = 0


class _Dataset(Struct, rename="camel"):
    event_name: str | None = None
    event_type: str | None = None
    discard_reason: str | None = None
    app_version: str | None = None
    subscription_id: str | None = None
    series: list[_Point | None] | None = None


class _Counts(Struct):
    dataset: list[_Dataset | None] | None
    pagination: Pagination | None = None


class _CountsAnswer(Struct):
    data: _Counts


def read_counts(body: bytes) -> Outcome:
    """Returns the counts in an answer."""
    try:
        data = read_as(_CountsAnswer, body).data
    except (ValueError, RecursionError):
        return Failed(f"the answer has no counts of deliveries; {CHECK_URL}")
    rows = [_count_row(each) for each in data.dataset or () if each is not None]
    return CountsPage(tuple(rows), cursor_of(data.pagination))


def _count_row(each: _Dataset) -> CountRow:
    points = [
        Counted(at_ns, _number(point.count), _number(point.retry_count))
        for point in each.series or ()
        if point is not None and (at_ns := parse_rfc3339(point.time)) is not None
    ]
    return CountRow(
        tuple(point for point in points if point.count),
        event_name=_optional(each.event_name),
        event_type=_optional(each.event_type),
        reason=_optional(each.discard_reason),
        app_version=_optional(each.app_version),
        subscription=_optional(each.subscription_id),
    )


_MAX_COUNT = 10**15


def _number(value: float | None) -> int:
    """Returns a count; an impossible one is 0."""
    return int(value) if value is not None and 0 <= value <= _MAX_COUNT else 0


def _optional(text: str | None) -> str | None:
    return None if text is None else plain_text(text)
