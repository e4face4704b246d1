"""The simulated Delivery Overview, and the audit events of the workspace.

An event counts 30 seconds after it happened. (Segment's page "Delivery Overview", its Public API SDKs.)
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, parse_rfc3339, time_text
from faillog_otel.sandbox.bookkeeping import Served, SimulatorState
from faillog_otel.sandbox.counted_events import CountedEvent, CountedEvents, Stage
from faillog_otel.sandbox.free_requests import BETA_JSON, STABLE_JSON, ErrorMaker, FreeRequests
from faillog_otel.sandbox.http import Request, Response

PREFIX = "/delivery-overview/"
FRESH_NS = 30 * SECOND_NS
AUDIT_KEPT_NS = 90 * DAY_NS
ACTOR_EMAIL = "c4n4ry.jane@shop.example"
"""Personal data in the audit events: a canary."""

_OF_SOURCE: tuple[Stage, ...] = ("successfully-received", "failed-on-ingest", "filtered-at-source")
_OF_DESTINATION: tuple[Stage, ...] = ("filtered-at-destination", "failed-delivery", "successful-delivery")
_STAGES: dict[str, Stage] = {each: each for each in (*_OF_SOURCE, *_OF_DESTINATION)}
_RANGES = {
    "MINUTE": (60 * SECOND_NS, 4 * HOUR_NS, 48 * HOUR_NS),
    "HOUR": (HOUR_NS, 14 * DAY_NS, 30 * DAY_NS),
    "DAY": (DAY_NS, 30 * DAY_NS, 30 * DAY_NS),
}
"""Granularity → its unit, the longest range, how long ago a range may begin."""
_DIMENSIONS: dict[str, Callable[[CountedEvent], str | None]] = {
    "eventName": lambda each: each.event,
    "eventType": lambda each: each.event_type,
    "appVersion": lambda each: each.version,
    "discardReason": lambda each: each.reason,
    "subscriptionId": lambda each: each.subscription,
}
_OF_RECEIVED = ("eventName", "eventType", "appVersion")


class AuditEvent(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A change of the workspace."""

    id: str
    timestamp: str
    type: str
    resource_id: str
    resource_type: str = "destination"
    resource_name: str = ""
    actor: str = "9ChMQzRrCVDNmvU4mYcQxj"
    actor_email: str = ACTOR_EMAIL


class _Refused(Exception):
    """A request that Segment refuses; the text says why."""


class _Query(Struct, frozen=True):
    stage: Stage
    source: str
    destination: str
    start_ns: int
    end_ns: int
    unit_ns: int
    group_by: tuple[str, ...]
    filters: dict[str, set[str]]


class OverviewApi:
    """Answers `GET /delivery-overview/…` and `/audit-events`. Safe for several threads."""

    def __init__(self, state: SimulatorState, error: ErrorMaker) -> None:
        config = state.config
        self._state = state
        self._events = CountedEvents(state.world)
        self._counts = FreeRequests("counts", config.counts_per_minute, state, error)
        self._changes = FreeRequests("changes", config.counts_per_minute, state, error)
        self._audit_events = [*_changes_before_incidents(state)]

    def add_change(self, event: AuditEvent) -> None:
        """Adds a change of the workspace."""
        self._audit_events.append(event)

    def answer(self, request: Request, now_ns: int) -> Served | None:
        """Answers one request; None for a path of another service."""
        if request.method != "GET":
            return None
        if request.path == "/audit-events":
            return self._changes.answer(now_ns, lambda: self._answer_changes(request, now_ns))
        stage = _STAGES.get(request.path.removeprefix(PREFIX))
        if stage is None or not request.path.startswith(PREFIX):
            return None
        return self._counts.answer(now_ns, lambda: self._answer_counts(stage, request, now_ns))

    def _answer_counts(self, stage: Stage, request: Request, now_ns: int) -> Response:
        if "counts" in self._state.config.lacks:
            return self._counts.error(403, "Delivery Overview is not enabled")
        try:
            asked = _query(stage, request.query, now_ns)
            events = self._counted(asked, min(asked.end_ns, now_ns - FRESH_NS))
        except _Refused as refused:
            return self._counts.error(422, str(refused))
        rows = _rows(asked, events)
        total = sum(each["total"] for each in rows)
        return self._counts.page("dataset", rows, request, BETA_JSON, total=total)

    def _counted(self, asked: _Query, end_ns: int) -> Iterable[CountedEvent]:
        events, stage = self._events, asked.stage
        if asked.source not in events.sources:
            raise _Refused("sourceId is unknown")
        if stage in _OF_SOURCE:
            return events.of_source(asked.source, stage, asked.start_ns, end_ns)
        destination = events.destination(asked.destination)
        if destination is None:
            raise _Refused("destinationConfigId is unknown")
        if destination.source != asked.source or (
            stage == "failed-delivery" and destination.id in self._state.config.lies
        ):
            return ()
        found = events.of_destination(destination, stage, asked.start_ns, end_ns)
        if destination.id in self._state.config.lies:
            return (each for each in found if not each.retried)
        return found

    def _answer_changes(self, request: Request, now_ns: int) -> Response:
        if "changes" in self._state.config.lacks:
            return self._changes.error(403, "Audit trail is not enabled")
        query = request.query
        start_ns, end_ns = (parse_rfc3339(query.get(name, "")) for name in ("startTime", "endTime"))
        if start_ns is None or end_ns is None:
            return self._changes.error(422, "startTime and endTime are required")
        start_ns, end_ns = max(start_ns, now_ns - AUDIT_KEPT_NS), min(end_ns, now_ns)
        found = [
            each
            for each in self._audit_events
            if start_ns <= (parse_rfc3339(each.timestamp) or 0) < end_ns
            and query.get("resourceId") in (None, each.resource_id)
            and query.get("resourceType") in (None, each.resource_type)
        ]
        found.sort(key=lambda each: each.timestamp, reverse=True)
        return self._changes.page("events", found, request, STABLE_JSON)


def _changes_before_incidents(state: SimulatorState) -> Iterable[AuditEvent]:
    """Yields the changes that cause incidents, four minutes before each."""
    for number, incident in enumerate(state.world.config.incidents):
        destination = state.world.destination(incident.collection)
        at = time_text(max(0, incident.start_ns - 240 * SECOND_NS))
        if incident.kind == "wrong-key":
            yield AuditEvent(
                id=f"change-{number}",
                timestamp=at,
                type="Destination Modified",
                resource_id=destination.id,
                resource_name=destination.name,
            )
        elif incident.kind == "bad-mapping" and destination.subscription_id:
            yield AuditEvent(
                id=f"change-{number}",
                timestamp=at,
                type="Destination Subscription Modified",
                resource_id=destination.subscription_id,
                resource_type="subscription",
                resource_name=f"Track orders in {destination.name}",
            )


def _range(query: dict[str, str], now_ns: int) -> tuple[int, int, int]:
    """Returns the start and the end that a request asks for, and the unit of its series. Raises _Refused."""
    if (limits := _RANGES.get(query["granularity"])) is None:
        raise _Refused(f"granularity must be one of {', '.join(_RANGES)}")
    unit_ns, longest_ns, oldest_ns = limits
    start_ns, end_ns = parse_rfc3339(query["startTime"]), parse_rfc3339(query["endTime"])
    if start_ns is None or end_ns is None or start_ns >= end_ns:
        raise _Refused("startTime must be a time before endTime")
    if end_ns - start_ns > longest_ns:
        raise _Refused(f"the range is longer than {query['granularity']} allows")
    if start_ns < now_ns - oldest_ns:
        raise _Refused(f"startTime is older than {query['granularity']} allows")
    return start_ns, end_ns, unit_ns


def _query(stage: Stage, query: dict[str, str], now_ns: int) -> _Query:
    """Returns what a request asks for. Raises _Refused."""
    required = ["sourceId", "startTime", "endTime", "granularity"]
    if stage in _OF_DESTINATION:
        required.append("destinationConfigId")
    for name in required:
        if not query.get(name):
            raise _Refused(f"{name} is required")
    start_ns, end_ns, unit_ns = _range(query, now_ns)
    known = _OF_RECEIVED if stage == "successfully-received" else tuple(_DIMENSIONS)
    group_by, filters = [], defaultdict(set)
    for name, value in sorted(query.items()):
        if name.startswith("groupBy"):
            group_by.append(value)
        elif found := re.fullmatch(r"filter\.([A-Za-z]+)\.\d+", name):
            filters[found[1]].add(value)
    if unknown := {*group_by, *filters} - {*known}:
        raise _Refused(f"unknown dimension {min(unknown)}")
    return _Query(
        stage,
        query["sourceId"],
        query.get("destinationConfigId", ""),
        start_ns,
        end_ns,
        unit_ns,
        tuple(group_by),
        dict(filters),
    )


def _rows(asked: _Query, events: Iterable[CountedEvent]) -> list[dict[str, Any]]:
    """The dataset: a row for each combination of the dimensions, the largest first."""
    counts: defaultdict[tuple[str | None, ...], Counter[int]] = defaultdict(Counter)
    retries: defaultdict[tuple[str | None, ...], Counter[int]] = defaultdict(Counter)
    for each in events:
        if all(_DIMENSIONS[name](each) in values for name, values in asked.filters.items()):
            key = tuple(_DIMENSIONS[name](each) for name in asked.group_by)
            unit = each.at_ns // asked.unit_ns
            counts[key][unit] += each.count
            retries[key][unit] += each.count * each.retried
    rows = []
    for key, series in counts.items():
        row = {name: value for name, value in zip(asked.group_by, key, strict=True) if value is not None}
        points = [
            {"time": time_text(unit * asked.unit_ns), "count": count, "retryCount": retries[key][unit]}
            for unit, count in sorted(series.items())
        ]
        rows.append(
            {**row, "total": series.total(), "totalRetryCount": retries[key].total(), "series": points}
        )
    return sorted(rows, key=lambda row: (-row["total"], str(row)))
