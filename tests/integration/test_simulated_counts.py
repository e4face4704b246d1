"""The simulated Segment's own counts: those of its records, within the limits of the real ones."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, hour_of, parse_rfc3339, time_text
from faillog_otel.config import Secret
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.config import SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.sandbox.destinations import DESTINATIONS, SOURCE_ID, destination_of
from faillog_otel.sandbox.incidents import Incident
from faillog_otel.sandbox.outcomes import Outcome
from faillog_otel.segment.answers import ChangesPage, Denied, NamesPage, RateLimited
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.overview import CountRow, CountsPage, CountsRequest, Dimension, Stage, get_counts
from faillog_otel.segment.workspace import get_changes, get_connections

NOW = 486_000 * HOUR_NS + 10 * 60 * SECOND_NS
MINUTE = 60 * SECOND_NS
MIXPANEL, BRAZE, WEBHOOKS, AMPLITUDE, *_ = DESTINATIONS
DOWN = Incident("shop-webhooks", "down", NOW - 10 * HOUR_NS, NOW - 8 * HOUR_NS)
WRONG_KEY = Incident("shop-braze", "wrong-key", NOW - 20 * HOUR_NS)


class Counts:
    """The client of the program, at a simulated Segment whose clock stands."""

    def __init__(self, segment: Simulator) -> None:
        self.segment = segment
        self.api = SegmentApi(segment.url, lambda: Secret(segment.token), "test")

    def answer(self, **asked: Any) -> Any:
        now = self.segment.clock.now_ns()
        given = {"source": SOURCE_ID, "start_ns": now - DAY_NS, "end_ns": now, **asked}
        return get_counts(self.api, CountsRequest(**given), now, 30.0).outcome

    def rows(self, stage: Stage, destination: str = "", **asked: Any) -> tuple[CountRow, ...]:
        found = self.answer(stage=stage, destination=destination, **asked)
        assert isinstance(found, CountsPage)
        return found.rows

    def total(self, stage: Stage, destination: str = "", **asked: Any) -> int:
        return sum(each.total for each in self.rows(stage, destination, **asked))

    def track(self, *names: str, version: str = "9.0.0") -> None:
        for number, name in enumerate(names):
            body = {"userId": "u", "event": name, "messageId": f"{name}-{number}"}
            body["context"] = {"app": {"version": version}}  # type: ignore[assignment]
            found = httpx.post(f"{self.segment.url}/v1/track", json=body, auth=("key", ""), trust_env=False)
            assert found.status_code == 200


def simulated(**config: Any) -> Simulator:
    world = {name: config.pop(name) for name in [*config] if name in WorldConfig.__struct_fields__}
    return Simulator(
        SimulatorConfig(world=WorldConfig(**world), **config), SimulatedClock(NOW, standing=True)
    )


@pytest.fixture(scope="module")
def world() -> Iterator[Counts]:
    with simulated(messages=8.0, incidents=(DOWN, WRONG_KEY)) as segment:
        counts = Counts(segment)
        yield counts
        counts.api.close()


@pytest.fixture
def quiet() -> Iterator[Counts]:
    with simulated(messages=0.0) as segment:
        counts = Counts(segment)
        yield counts
        counts.api.close()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_discards_and_deliveries_are_those_of_the_records(world: Counts, number: int) -> None:
    """By hour of occurrence, over all records that there are, also those that are not available yet."""
    collection = world.segment.config.world.collections[number]
    destination = world.segment.world.destination(collection).id
    discarded, recovered = Counter[int](), Counter[int]()
    for hour in range(hour_of(NOW - 30 * HOUR_NS), hour_of(NOW) + 1):
        for record in world.segment.world.records(collection, hour):
            own = json.loads(record.raw)["properties"]
            at_ns = parse_rfc3339(own["occurredAt"]) or 0
            if NOW - DAY_NS <= at_ns < NOW - 30 * SECOND_NS:
                discarded[hour_of(at_ns)] += own.get("discarded", False)
                recovered[hour_of(at_ns)] += own.get("outcome") == "success" and own["attempt"] > 1
    failed, retried = Counter[int](), Counter[int]()
    for row in world.rows("failed", destination):
        failed.update({hour_of(each.at_ns): each.count for each in row.series})
    for row in world.rows("delivered", destination):
        retried.update({hour_of(each.at_ns): each.retried for each in row.series})
    assert +failed == +discarded
    assert +retried == +recovered
    assert failed.total()


def test_reasons_of_discards_are_codes(world: Counts) -> None:
    group_by: tuple[Dimension, ...] = ("discardReason",)
    assert {each.reason for each in world.rows("failed", BRAZE.id, group_by=group_by)} == {"401"}
    found = {each.reason for each in world.rows("delivered", WEBHOOKS.id, group_by=group_by)}
    assert "successes.attempt.1" in found
    assert all(str(each).startswith("successes.attempt.") for each in found)


def test_all_granularities_have_the_same_sums(world: Counts) -> None:
    end = NOW // DAY_NS * DAY_NS
    asked: dict[str, Any] = {"start_ns": end - 2 * HOUR_NS, "end_ns": end}
    by_minute, by_hour = (
        world.rows("failed", BRAZE.id, **asked, granularity=unit) for unit in ("MINUTE", "HOUR")
    )
    assert sum(each.total for each in by_minute) == sum(each.total for each in by_hour) > 0
    assert len(by_minute[0].series) > len(by_hour[0].series) == 2
    day = world.total("failed", BRAZE.id, start_ns=end - DAY_NS, end_ns=end, granularity="DAY")
    assert day == world.total("failed", BRAZE.id, start_ns=end - DAY_NS, end_ns=end)


def test_counts_add_up_once_all_messages_have_ended() -> None:
    """What a source received is delivered, filtered or discarded at each of its destinations."""
    with simulated(messages=0.0, traffic=90, incidents=(DOWN,)) as segment:
        counts = Counts(segment)
        window: dict[str, Any] = {"start_ns": DOWN.start_ns // HOUR_NS * HOUR_NS, "end_ns": NOW - HOUR_NS}
        received = counts.total("received", **window)
        for each in (MIXPANEL, BRAZE, WEBHOOKS, AMPLITUDE):
            ends = [counts.total(stage, each.id, **window) for stage in ("filtered", "failed", "delivered")]
            assert sum(ends) == received > 90 * 8
        counts.api.close()


@pytest.mark.parametrize(
    ("outcome", "ends"),
    [
        ("deliver", [(0, 0, 0, 1), (0, 0, 0, 1)]),
        ("filter", [(0, 1, 0, 0), (0, 1, 0, 0)]),
        ("discard:401", [(0, 0, 1, 0), (0, 0, 1, 0)]),
        ("recover:3", [(1, 0, 0, 0), (0, 0, 0, 1)]),
        ("lose", [(1, 0, 0, 0), (0, 0, 1, 0)]),
    ],
)
def test_a_message_that_was_sent_ends_as_its_rule_says(
    quiet: Counts, outcome: str, ends: list[tuple[int, ...]]
) -> None:
    """Two minutes and five hours later: waiting, filtered, failed, delivered."""
    quiet.segment.set_outcomes(Outcome(outcome=outcome, event="Checkout"))
    quiet.track("Checkout", "Other")
    asked: dict[str, Any] = {"filters": {"eventName": ("Checkout",), "appVersion": ("9.0.0",)}}
    found = []
    for seconds in (120, 5 * 3600):
        quiet.segment.clock.forward(seconds)
        received = quiet.total("received", **asked)
        assert received == 1
        done = [quiet.total(stage, BRAZE.id, **asked) for stage in ("filtered", "failed", "delivered")]
        found.append((received - sum(done), *done))
    assert found == ends
    hour = hour_of(NOW)
    records = [json.loads(each.raw) for each in quiet.segment.world.records("shop-braze", hour)]
    ids = {each["properties"].get("messageId") for each in records}
    assert ("Checkout-0" in ids) == (outcome not in ("deliver", "filter"))


def test_an_event_counts_after_thirty_seconds(quiet: Counts) -> None:
    quiet.segment.set_outcomes(Outcome(outcome="deliver"))
    quiet.track("Checkout")
    quiet.segment.clock.forward(29)
    assert quiet.total("received") == 0
    quiet.segment.clock.forward(2)
    assert quiet.total("received") == 1


def test_destinations_of_several_sources_are_counted_apart() -> None:
    names = tuple(f"c{number}" for number in range(12))
    with simulated(messages=6.0, collections=names, sources=3) as segment:
        counts = Counts(segment)
        found = set()
        for number in range(12):
            destination = destination_of(number, 3)
            found.add(destination.id)
            own = counts.total("failed", destination.id, source=destination.source)
            other = next(each for each in ("x", SOURCE_ID) if each != destination.source)
            assert counts.answer(stage="failed", destination=destination.id, source=destination.source)
            if other == SOURCE_ID:
                assert counts.total("failed", destination.id) == 0
            assert own > 0 or number % 5 == 0  # the first kind recovers often
            page = get_connections(counts.api, destination.source, NOW, 30.0).outcome
            assert isinstance(page, NamesPage)
            assert destination.id in {each.id for each in page.names}
        assert len(found) == 12
        counts.api.close()


def test_lies_hide_failed_and_retried_deliveries_of_a_destination() -> None:
    with simulated(messages=8.0, incidents=(DOWN,), lies=(WEBHOOKS.id,)) as segment:
        counts = Counts(segment)
        assert counts.total("failed", WEBHOOKS.id) == 0
        rows = counts.rows("delivered", WEBHOOKS.id)
        assert sum(point.retried for row in rows for point in row.series) == 0
        assert counts.total("failed", MIXPANEL.id) > 0
        counts.api.close()


def test_a_workspace_without_counts_and_changes_refuses_them() -> None:
    with simulated(lacks=("counts", "changes")) as segment:
        counts = Counts(segment)
        assert isinstance(counts.answer(stage="received"), Denied)
        found = get_changes(counts.api, NOW - DAY_NS, NOW, NOW, timeout_seconds=30.0).outcome
        assert isinstance(found, Denied)
        counts.api.close()


def test_counts_have_a_rate_limit_of_their_own_and_cost_no_listing() -> None:
    with simulated(counts_per_minute=2) as segment:
        counts = Counts(segment)
        outcomes = [type(counts.answer(stage="received")) for _ in range(3)]
        assert outcomes == [CountsPage, CountsPage, RateLimited]
        segment.clock.forward(60)
        assert isinstance(counts.answer(stage="received"), CountsPage)
        assert segment.quota.max_in_24_hours == 0
        counts.api.close()


def raw(segment: Simulator, path: str, **query: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {segment.token}", "Accept": "application/vnd.segment.v1beta+json"}
    asked = {
        "sourceId": SOURCE_ID,
        "destinationConfigId": BRAZE.id,
        "startTime": time_text(NOW - HOUR_NS),
        "endTime": time_text(NOW),
        "granularity": "HOUR",
        "pagination.count": "1000",
        **query,
    }
    given = {name: value for name, value in asked.items() if value}
    return httpx.get(segment.url + path, params=given, headers=headers, trust_env=False)


@pytest.mark.parametrize(
    "query",
    [
        {"sourceId": ""},
        {"sourceId": "none"},
        {"destinationConfigId": ""},
        {"destinationConfigId": "none"},
        {"startTime": ""},
        {"startTime": "yesterday"},
        {"endTime": time_text(NOW - 2 * HOUR_NS)},
        {"granularity": "WEEK"},
        {"granularity": "MINUTE", "startTime": time_text(NOW - 4 * HOUR_NS - MINUTE)},
        {
            "granularity": "MINUTE",
            "startTime": time_text(NOW - 49 * HOUR_NS),
            "endTime": time_text(NOW - 47 * HOUR_NS),
        },
        {"startTime": time_text(NOW - 14 * DAY_NS - HOUR_NS)},
        {"startTime": time_text(NOW - 31 * DAY_NS), "endTime": time_text(NOW - 20 * DAY_NS)},
        {"groupBy.0": "colour"},
        {"filter.colour.0": "red"},
        {"pagination.count": "1001"},
    ],
)
def test_what_segment_does_not_answer_is_refused(quiet: Counts, query: dict[str, str]) -> None:
    found = raw(quiet.segment, "/delivery-overview/failed-delivery", **query)
    assert (found.status_code, len(found.json()["errors"])) == (422, 1)


def test_received_events_have_no_reason(quiet: Counts) -> None:
    path = "/delivery-overview/successfully-received"
    assert raw(quiet.segment, path, **{"groupBy.0": "discardReason"}).status_code == 422
    assert (
        raw(quiet.segment, path, **{"groupBy.0": "eventName", "groupBy.1": "appVersion"}).status_code == 200
    )


def test_a_change_comes_four_minutes_before_the_failures_that_it_causes(world: Counts) -> None:
    found = get_changes(world.api, NOW - 2 * DAY_NS, NOW, NOW, timeout_seconds=30.0).outcome
    assert isinstance(found, ChangesPage)
    [change] = found.changes
    assert (change.kind, change.resource_id) == ("Destination Modified", BRAZE.id)
    assert change.at_ns == WRONG_KEY.start_ns - 4 * MINUTE


def test_outcomes_and_changes_are_set_by_the_control_api(quiet: Counts) -> None:
    control = quiet.segment.control_url
    rules = [{"outcome": "discard:404", "event": "Checkout", "destination": BRAZE.id}]
    assert httpx.post(f"{control}outcomes", json=rules, trust_env=False).status_code == 200
    refused = httpx.post(f"{control}outcomes", json=[{"outcome": "vanish"}], trust_env=False)
    assert (refused.status_code, "unknown outcome" in refused.text) == (400, True)
    event = {"id": "a", "timestamp": time_text(NOW), "type": "Source Disabled", "resourceId": SOURCE_ID}
    assert httpx.post(f"{control}changes", json=[event], trust_env=False).status_code == 200
    quiet.track("Checkout")
    quiet.segment.clock.forward(60)
    [row] = quiet.rows("failed", BRAZE.id, group_by=("eventName", "discardReason"))
    assert (row.event_name, row.reason, row.total) == ("Checkout", "404", 1)
    now = quiet.segment.clock.now_ns()
    found = get_changes(quiet.api, NOW - DAY_NS, now, now, timeout_seconds=30.0).outcome
    assert isinstance(found, ChangesPage)
    assert [each.kind for each in found.changes] == ["Source Disabled"]
