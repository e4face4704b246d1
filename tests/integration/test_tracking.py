"""The simulated Tracking API over real sockets, and Segment's own SDKs against it."""

import gzip
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from segment.analytics.client import Client
from support.node import run_node

from faillog_otel.clock import HOUR_NS, SECOND_NS, hour_text
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.config import SimulatedClock, SimulatorConfig, WorldConfig

HOUR = 480_000
NOW = HOUR * HOUR_NS + 17 * 60 * SECOND_NS
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FULL = f"{TRACEPARENT}-5f0c6a51-33b2-4a3e-a7a5-2d4b1c9f0e77"
COMPACT = "tr1-0Kgywt6S99MKiCkM5FLT48q7Yx03LmZt"
EVENT = {"userId": "user-1", "event": "Order Completed", "messageId": "message-1"}
WORLD = WorldConfig(collections=("a", "b", "c"), messages=0.0, growth=("append",), formats=("jsonl",))
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no connection uses TLS; a context takes long to make


@pytest.fixture
def segment() -> Iterator[Simulator]:
    with Simulator(SimulatorConfig(world=WORLD), SimulatedClock(NOW, standing=True)) as segment:
        yield segment


@pytest.fixture
def client(segment: Simulator) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=segment.url, auth=("simulated", ""), verify=NO_TLS) as client:
        yield client


def ids(segment: Simulator) -> list[str]:
    return [message.id for message in segment.tracked()]


def failures(segment: Simulator, collection: str) -> list[dict[str, Any]]:
    """The events of the hour in which the messages were tracked, downloaded seven hours later."""
    with httpx.Client(verify=NO_TLS) as client:
        control = segment.control_url
        assert client.post(control + "clock", json={"forward_seconds": 7 * 3600}).status_code == 200
        listing = client.post(
            segment.url + "/customer-insights/download",
            headers={"Authorization": f"Bearer {segment.token}"},
            params={"collectionId": collection, "hour": hour_text(HOUR)},
        )
        urls = listing.json()["data"]["download"]["urls"]
        lines = [line for url in urls for line in client.get(url).content.splitlines()]
        promised = client.get(control + "manifest").text.splitlines()
    assert len(promised) == len(lines)
    return [json.loads(line) for line in lines]


def named(events: list[dict[str, Any]]) -> set[str]:
    return {each["properties"]["messageId"] for each in events if "messageId" in each["properties"]}


# -- the API -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collection", ["a", "b", "c"])
def test_a_tracked_message_fails_hours_later_in_every_collection(
    segment: Simulator, client: httpx.Client, collection: str
) -> None:
    response = client.post("/v1/track", json=EVENT)
    assert (response.status_code, response.json()) == (200, {"success": True})
    events = failures(segment, collection)
    assert named(events) == {"message-1"}
    assert sum(each["properties"].get("discarded", False) for each in events) == 1


@pytest.mark.parametrize(
    ("path", "kind", "more"),
    [
        ("/v1/identify", "identify", {}),
        ("/v1/page", "page", {}),
        ("/v1/screen", "screen", {}),
        ("/v1/group", "group", {"groupId": "g"}),
        ("/v1/alias", "alias", {"previousId": "p"}),
        ("/v1/t", "track", {"event": "Order Completed"}),
        ("/v1/i", "identify", {}),
        ("/v1/p", "page", {}),
        ("/v1/s", "screen", {}),
        ("/v1/g", "group", {"groupId": "g"}),
        ("/v1/a", "alias", {"previousId": "p"}),
    ],
)
def test_each_call_becomes_a_message_of_its_type(
    segment: Simulator, client: httpx.Client, path: str, kind: str, more: dict[str, str]
) -> None:
    assert client.post(path, json={"anonymousId": "a", **more}).status_code == 200
    (message,) = segment.tracked()
    assert message.event["type"] == kind
    assert {"anonymousId": "a", **more}.items() <= message.event.items()
    assert message.event["receivedAt"] == message.event["timestamp"] == "2024-10-04T00:17:00Z"


@pytest.mark.parametrize("path", ["/v1/batch", "/v1/b", "/v1/import"])
def test_a_batch_shares_its_context(segment: Simulator, client: httpx.Client, path: str) -> None:
    messages = [
        {"type": "track", "userId": "u", "event": "e", "messageId": "1", "context": {"ip": "192.0.2.1"}},
        {"type": "page", "userId": "u", "anonymousId": None, "messageId": "2", "timestamp": "2024-10-01"},
    ]
    batch = {"batch": messages, "context": {"locale": "de", "ip": "192.0.2.9"}}
    assert client.post(path, json=batch).status_code == 200
    first, second = (message.event for message in segment.tracked())
    assert first["context"] == {"locale": "de", "ip": "192.0.2.1"}
    assert second["context"] == batch["context"]
    assert second["timestamp"] == "2024-10-01"
    assert "anonymousId" not in second


def test_a_body_may_be_gzip(segment: Simulator, client: httpx.Client) -> None:
    content = gzip.compress(json.dumps(EVENT).encode())
    response = client.post("/v1/track", content=content, headers={"Content-Encoding": "gzip"})
    assert (response.status_code, ids(segment)) == (200, ["message-1"])


def test_a_write_key_is_required_and_not_stored(segment: Simulator) -> None:
    with httpx.Client(base_url=segment.url, verify=NO_TLS) as client:
        for headers in ({}, {"Authorization": "Bearer token"}, {"Authorization": "Basic Og=="}):
            assert client.post("/v1/track", json=EVENT, headers=headers).status_code == 401
        assert client.post("/v1/track", json=EVENT | {"writeKey": "key"}).status_code == 200
    (message,) = segment.tracked()
    assert "writeKey" not in message.event


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/track", b"{", "not JSON"),
        ("/v1/track", b"[" * 5000, "not JSON"),
        ("/v1/track", b'{"userId": "\xff"}', "not JSON"),
        ("/v1/track", b"[]", "not a JSON object"),
        ("/v1/track", b"{}", "userId or anonymousId"),
        ("/v1/track", b'{"userId": ""}', "userId or anonymousId"),
        ("/v1/track", b'{"userId": true}', "userId or anonymousId"),
        ("/v1/track", b'{"userId": "u"}', "track requires event"),
        ("/v1/group", b'{"userId": "u"}', "group requires groupId"),
        ("/v1/alias", b'{"userId": "u"}', "alias requires previousId"),
        ("/v1/page", b'{"userId": "u", "messageId": 7}', "messageId"),
        ("/v1/page", b'{"userId": "u", "messageId": "%s"}' % (b"x" * 101), "at most 100 characters"),
        ("/v1/page", b'{"userId": "%s"}' % (b"x" * 32_768), "32 KB"),
        ("/v1/batch", b'{"userId": "%s"}' % (b"x" * 512_000), "500 KB"),
        ("/v1/batch", b'{"userId": "u"}', "batch must be a list"),
        ("/v1/batch", b'{"batch": [1]}', "batch[0] is not a JSON object"),
        ("/v1/batch", b'{"batch": [{"userId": "u"}]}', "batch[0]: type must be one of track,"),
        ("/v1/batch", b'{"batch": [{"type": "page", "userId": "%s"}]}' % (b"x" * 32_768), "32 KB"),
        (
            "/v1/batch",
            b'{"batch": [{"type": "page", "userId": "u"}, {"type": "track", "userId": "u"}]}',
            "batch[1]: track requires event",
        ),
    ],
)
def test_an_invalid_message_is_400_and_the_error_is_named(
    segment: Simulator, client: httpx.Client, path: str, body: bytes, says: str
) -> None:
    response = client.post(path, content=body)
    assert response.status_code == 400
    assert response.json()["success"] is False
    assert says in response.json()["message"]
    assert segment.tracked() == []


def test_a_broken_gzip_body_is_400(client: httpx.Client) -> None:
    for content in (b"no gzip", gzip.compress(b"x" * 10**7), gzip.compress(json.dumps(EVENT).encode())[:-20]):
        response = client.post("/v1/batch", content=content, headers={"Content-Encoding": "gzip"})
        assert response.status_code == 400


def test_a_page_of_another_origin_may_send(client: httpx.Client) -> None:
    asked = client.options("/v1/t", headers={"Origin": "http://shop.example"})
    assert asked.status_code == 204
    assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
    assert client.post("/v1/t", json=EVENT).headers["Access-Control-Allow-Origin"] == "*"
    assert client.get("/v1/t").status_code == 405


def test_the_control_api_returns_tracked_messages(segment: Simulator, client: httpx.Client) -> None:
    client.post("/v1/track", json=EVENT)
    client.post("/v1/track", json=EVENT)
    (told,) = client.get(segment.control_url + "tracked").text.splitlines()
    assert EVENT.items() <= json.loads(told).items()
    assert [(each.path, each.status) for each in segment.requests()] == [("/v1/track", 200)] * 2
    assert segment.quota.max_in_24_hours == 0


# -- the real SDKs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_segments_python_sdk(segment: Simulator, zipped: bool) -> None:
    wrong: list[Exception] = []
    client = Client(
        "simulated",
        host=segment.url,
        gzip=zipped,
        on_error=lambda error, _: wrong.append(error),
        max_retries=0,
    )
    context = {"traceparent": TRACEPARENT}
    client.track("user-1", "Order Completed", {"total": 27.5}, context=context, message_id=FULL)
    client.track("user-1", "Order Completed", message_id=COMPACT)
    client.identify("user-1", {"plan": "free"})
    client.group("user-1", "group-1")
    client.alias("user-0", "user-1")
    client.page("user-1", name="Home")
    client.screen("user-1", name="Home")
    client.shutdown()
    assert wrong == []
    assert ids(segment)[:2] == [FULL, COMPACT]
    events = failures(segment, "c")
    assert named(events) == {*ids(segment)}
    assert len(named(events)) == 7
    bodies = [
        json.loads(each["properties"]["requestToDestination"]["body"])
        for each in events
        if each["event"] == "Destination Exchange Logged"
    ]
    assert {body["context"]["traceparent"] for body in bodies if body["messageId"] == FULL} == {TRACEPARENT}


def test_segments_node_sdk(segment: Simulator, node_modules: Path) -> None:
    run_node("track.cjs", segment.url, FULL, COMPACT, node_modules=node_modules)
    assert ids(segment) == [FULL, COMPACT]
    assert named(failures(segment, "a")) == {FULL, COMPACT}
