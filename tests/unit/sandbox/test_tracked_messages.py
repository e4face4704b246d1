"""Tracked messages: each fails in every collection, and never changes an object that was read before."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import HOUR_NS, SECOND_NS, parse_rfc3339
from faillog_otel.sandbox.bookkeeping import Inbox
from faillog_otel.sandbox.config import GROWTHS, Growth, WorldConfig
from faillog_otel.sandbox.world import World

HOUR = 480_000
NOW = HOUR * HOUR_NS + 17 * 60 * SECOND_NS
MINUTE_NS = 60 * SECOND_NS
COLLECTIONS = ("mixpanel", "braze", "webhooks")
EVENT = {
    "type": "track",
    "messageId": "message-1",
    "userId": "user-1",
    "event": "Order Completed",
    "context": {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
}


def made(**config: Any) -> tuple[World, Inbox]:
    inbox = Inbox(seed=1)
    given = {"collections": COLLECTIONS, "messages": 0.0, **config}
    return World(WorldConfig(**given), inbox), inbox


def story(collection: str) -> list[dict[str, Any]]:
    world, inbox = made()
    inbox.add(EVENT, NOW)
    return [json.loads(record.raw) for record in world.records(collection, HOUR)]


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_a_message_fails_for_hours_and_is_then_discarded(collection: str) -> None:
    events = sorted(story(collection), key=lambda each: str(each["properties"]["occurredAt"]))
    attempts = [e["properties"] for e in events if e["event"] == "Delivery Attempt Logged"]
    exchanges = [e["properties"] for e in events if e["event"] == "Destination Exchange Logged"]
    errors = [e["properties"] for e in events if e["event"] == "Error Logged"]
    assert [each["attempt"] for each in attempts] == list(range(1, len(attempts) + 1))
    assert len(attempts) == 8
    assert {each["outcome"] for each in attempts} == {"failure"}
    assert {each["messageId"] for each in attempts + errors} == {"message-1"}
    assert [each["discarded"] for each in errors] == [False, True]
    assert [e["destinationExchangeId"] for e in attempts] == [e["destinationExchangeId"] for e in exchanges]
    assert {each["responseFromDestination"]["status"] for each in exchanges} == {503}
    first, last = (parse_rfc3339(attempts[at]["occurredAt"]) for at in (0, -1))
    assert first is not None
    assert last is not None
    assert first // HOUR_NS == HOUR
    assert 2 * HOUR_NS < last - first < 5 * HOUR_NS


def test_its_records_appear_one_to_two_hours_after_they_were_logged() -> None:
    world, inbox = made()
    inbox.add(EVENT, NOW)
    for record in world.records("webhooks", HOUR):
        logged_ns = parse_rfc3339(json.loads(record.raw)["properties"]["loggedAt"])
        assert logged_ns is not None
        assert HOUR_NS <= record.available_ns - logged_ns <= 2 * HOUR_NS


def test_webhooks_get_the_event_as_it_is_and_others_a_part_of_it() -> None:
    def bodies(collection: str) -> list[Any]:
        return [
            json.loads(each["properties"]["requestToDestination"]["body"])
            for each in story(collection)
            if each["event"] == "Destination Exchange Logged"
        ]

    for body in bodies("webhooks"):
        assert EVENT.items() <= body.items()
    for body in bodies("mixpanel"):
        assert body == {"batch": [{name: value for name, value in EVENT.items() if name != "context"}]}


def test_the_same_message_at_the_same_time_is_the_same_bytes() -> None:
    assert story("braze") == story("braze")


def test_a_tracked_message_leaves_generated_records_unchanged() -> None:
    alone, _ = made(messages=9.0, damage=0.2, duplicates=0.2)
    world, inbox = made(messages=9.0, damage=0.2, duplicates=0.2)
    inbox.add(EVENT, NOW)
    for collection in COLLECTIONS:
        made_up, records = alone.records(collection, HOUR), world.records(collection, HOUR)
        assert tuple(record for record in records if record in made_up) == made_up
        assert not any(record.damaged for record in records if record not in made_up)


@given(
    st.sampled_from(GROWTHS),
    st.lists(st.tuples(st.integers(-90, 240), st.booleans()), min_size=2, max_size=12),
)
def test_an_object_that_was_read_can_be_generated_again(
    growth: Growth, steps: list[tuple[int, bool]]
) -> None:
    """The clock may move forward or back between tracking a message and reading objects."""
    world, inbox = made(growth=(growth,), messages=3.0, damage=0.2)
    now_ns, seen = NOW, []
    for number, (minutes, tracks) in enumerate(steps):
        now_ns += minutes * MINUTE_NS
        if tracks:
            inbox.add(EVENT | {"messageId": f"message-{number}"}, now_ns)
        seen += [
            (hour, now_ns, world.objects("webhooks", hour, now_ns))
            for hour in range(now_ns // HOUR_NS - 5, now_ns // HOUR_NS + 1)
        ]
    for hour, at_ns, objects in seen:
        assert world.objects("webhooks", hour, at_ns) == objects
        for each in objects:
            assert world.find(each.key, at_ns) == each


def test_a_message_that_is_sent_again_counts_once() -> None:
    _, inbox = made()
    first = inbox.add(EVENT, NOW)
    assert inbox.add(EVENT | {"event": "Other"}, NOW + HOUR_NS) == first
    assert inbox.messages() == [first]


def test_a_message_without_an_id_gets_one() -> None:
    _, inbox = made()
    ids = {inbox.add({"type": "page", "userId": "u"}, NOW).id for _ in range(3)}
    assert len(ids) == 3
    assert all(each.startswith("api-") and len(each) == 31 for each in ids)
