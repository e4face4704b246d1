"""One record's bytes → an event, or a reason why not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.events import ABSENT, ROUTED, TIMES, attempt, error, event, exchange

from faillog_otel.events.decode import answer_of, decode, read_heads
from faillog_otel.events.model import (
    ATTEMPT,
    AttemptProperties,
    BadRecord,
    ErrorProperties,
    Event,
    ExchangeAnswer,
    ExchangeProperties,
    OtherProperties,
    Reason,
    Request,
    Response,
)
from faillog_otel.text import MAX_DEPTH

AT = 1742760000 * 1_000_000_000


def understood(raw: bytes) -> Event:
    found = decode(raw)
    assert isinstance(found, Event), found
    return found


def refused(raw: bytes) -> str:
    found = decode(raw)
    assert isinstance(found, BadRecord), found
    assert found.raw == raw
    return found.reason


def test_the_three_events_of_segments_page() -> None:
    found = understood(error())
    assert isinstance(found.properties, ErrorProperties)
    assert (found.properties.message_id, found.properties.discarded) == ("m", True)
    found = understood(attempt())
    assert isinstance(found.properties, AttemptProperties)
    assert (found.properties.attempt, found.properties.outcome) == (4, "failure")
    assert found.properties.destination_exchange_id == "x"
    found = understood(exchange())
    assert isinstance(found.properties, ExchangeProperties)
    assert answer_of(found) == ("x", ExchangeAnswer(418, None))
    assert found.extras == {}
    assert (found.occurred_ns, found.logged_ns, found.raw) == (AT, AT, exchange())
    assert (found.routing.destination_id, found.routing.from_id) == ("abc", "ghi")


def test_delivery_exchange_logged_is_an_alias() -> None:
    found = understood(exchange().replace(b"Destination Exchange Logged", b"Delivery Exchange Logged"))
    assert isinstance(found.properties, ExchangeProperties)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "invalid_json"),
        (b'{"a": NaN}', "invalid_json"),
        (b'{"a": 1e400}', "missing_field"),
        (b'{"a": "\\ud800', "invalid_json"),
        (b'{"a": "\\ud800"}', "missing_field"),
        (error()[:-20], "invalid_json"),
        (error() + b"{}", "invalid_json"),
        (error(messageId="\xff").replace("\xff".encode(), b"\xff"), "invalid_utf8"),
        (error(unknown="\xff").replace("\xff".encode(), b"\xff"), "invalid_utf8"),
        (b"[" * 100_000, "too_deep"),
        (error(unknown=json.loads("[" * 99 + "]" * 99)), "too_deep"),
        (error(routed=json.loads("[" * 99 + "]" * 99)), "too_deep"),
        (b"7", "not_an_object"),
        (b'"Error Logged"', "not_an_object"),
        (b"[{}]", "not_an_object"),
        (b"null", "not_an_object"),
        (b"{}", "missing_field"),
        (b'{"event": "Error Logged"}', "missing_field"),
        (b'{"event": "Error Logged", "properties": 7}', "missing_field"),
        (error(messageId=ABSENT), "missing_field"),
        (error(messageId=None), "missing_field"),
        (error(messageId=7), "missing_field"),
        (error(occurredAt=ABSENT), "missing_field"),
        (attempt(messageId=ABSENT), "missing_field"),
        (attempt(attempt=ABSENT), "missing_field"),
        (attempt(attempt="4"), "missing_field"),
        (attempt(attempt=2**63), "missing_field"),
        (exchange(destinationExchangeId=ABSENT), "missing_field"),
        (error(occurredAt="yesterday"), "bad_time"),
        (error(occurredAt=1742760000), "missing_field"),
        (
            error(occurredAt=ABSENT).replace(b'"type"', b'"occurredAt":"2025-03-23T20:00:00Z","type"', 1),
            "missing_field",
        ),
        (error(occurredAt="9999-01-01T00:00:00Z"), "bad_time"),
        (error(loggedAt="yesterday"), "bad_time"),
    ],
    ids=repr,
)
def test_an_invalid_record_has_a_reason(raw: bytes, reason: str) -> None:
    assert refused(raw) == reason


def test_nesting_up_to_the_limit_is_fine_and_brackets_in_texts_do_not_count() -> None:
    """The limit guards the parser's stack: one deep record must not end the run."""
    deep = json.loads("[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2))
    assert understood(error(unknown=deep)).extras == {"unknown": deep}
    assert understood(exchange(responseFromDestination={"body": '{"[' * 500 + '\\"'}))


def test_no_logged_at_means_observed_when_it_occurred() -> None:
    found = understood(error(loggedAt=ABSENT))
    assert (found.logged_ns, found.properties.logged_at) == (AT, None)


def test_unknown_fields_travel_on_and_known_ones_stay_typed() -> None:
    found = understood(
        attempt(mapping={"id": 7}, errorCode=None, responseFromDestination={"status": 500, "url": "u"})
    )
    assert isinstance(found.properties, AttemptProperties)
    assert found.properties.response_from_destination is not None
    assert found.properties.response_from_destination.status == 500
    assert found.extras == {"mapping": {"id": 7}, "responseFromDestination": {"url": "u"}}


@pytest.mark.parametrize("wrong", [{"outcome": 7}, {"loggedAt": 7}, {"destinationExchangeId": [1]}])
def test_wrong_typed_optional_fields_travel_on_as_extras(wrong: dict[str, Any]) -> None:
    assert understood(attempt(**wrong)).extras == wrong


@pytest.mark.parametrize("status", [0, 99, 1000, -1, "418", 418.5, True])
def test_an_invalid_http_status_is_ignored(status: object) -> None:
    """It stays an extra, so that no value is lost."""
    found = understood(exchange(responseFromDestination={"status": status}))
    assert answer_of(found) == ("x", ExchangeAnswer(None, None))
    assert found.extras == {"responseFromDestination": {"status": status}}


def test_requests_and_responses_stay_under_their_rules_in_every_event_and_shape() -> None:
    for raw in (error(), error().replace(b'"v1"', b'"v2"'), event("Retry Logged", **TIMES)):
        inside = (
            b'"requestToDestination":"text","responseFromDestination":{"body":1,"headers":[["a","b"]],"x":1},'
        )
        found = understood(raw.replace(b'"properties":{', b'"properties":{' + inside))
        assert found.properties.request_to_destination == Request(body="text")
        assert found.properties.response_from_destination == Response(body=1, headers=[["a", "b"]])
        assert found.extras["responseFromDestination"] == {"x": 1}
        assert "requestToDestination" not in found.extras


def test_an_unknown_event_or_version_is_other_and_keeps_its_name() -> None:
    found = understood(event("Retry Logged", messageId="m", **TIMES))
    assert isinstance(found.properties, OtherProperties)
    assert found.properties.message_id == "m"
    assert found.extras == {"event": "Retry Logged", "version": "v1"}
    found = understood(error().replace(b'"v1"', b'"v2"'))
    assert isinstance(found.properties, OtherProperties)
    assert found.extras == {"event": "Error Logged", "version": "v2", "discarded": True}


def test_an_unknown_event_may_take_its_time_from_logged_at() -> None:
    assert understood(event("Retry Logged", loggedAt=TIMES["loggedAt"])).occurred_ns == AT
    assert refused(error(occurredAt=ABSENT)) == "missing_field"


def test_fields_beside_properties_travel_on_without_hiding_those_inside() -> None:
    raw = error(sentAt="inside").replace(b'"type"', b'"sentAt":"outside","type"', 1)
    assert understood(raw).extras == {"sentAt": "outside", "properties.sentAt": "inside"}
    raw = error(a=3).replace(b'"type"', b'"a":1,"properties.a":2,"type"', 1)
    assert understood(raw).extras == {"a": 1, "properties.a": 2, "properties.properties.a": 3}


def test_duplicate_keys_the_last_one_counts() -> None:
    """As in JavaScript and Python."""
    found = understood(error().replace(b'"messageId":"m"', b'"messageId":"a","messageId":"b"'))
    assert isinstance(found.properties, ErrorProperties)
    assert found.properties.message_id == "b"


def test_several_destinations_the_first_names_ids_and_the_first_destination_names_spans() -> None:
    to = [{"type": "warehouse", "id": "w"}, {"type": "destination", "id": "d"}]
    routing = understood(error(routed={"to": to, "from": []})).routing
    assert (routing.to_id, routing.destination_id, routing.destination_ids) == ("w", "d", ("w", "d"))
    assert (routing.from_id, routing.leftover) == (None, None)


@pytest.mark.parametrize("routed", [7, [], {"to": "abc"}, {"to": [{"type": "destination"}]}, {"via": 1}])
def test_a_route_of_another_shape_travels_on(routed: object) -> None:
    assert understood(error(routed=routed)).extras == {"routed": routed}


@pytest.mark.parametrize(
    ("fields", "reason", "rest"),
    [
        ({"reason": "Bad key"}, Reason("Bad key"), {}),
        ({"discardReason": "FILTERED_BY_RULES"}, Reason("FILTERED_BY_RULES", "FILTERED_BY_RULES"), {}),
        ({"error_message": "no", "errorCode": "E_NO"}, Reason("no", "E_NO"), {"errorCode": "E_NO"}),
        ({"errorCode": 17}, Reason("17", "17"), {"errorCode": 17}),
        (
            {"error": {"message": "no", "code": "E_NO"}},
            Reason("no", "E_NO"),
            {"error": {"message": "no", "code": "E_NO"}},
        ),
        ({"reason": " "}, None, {"reason": " "}),
        ({"reason": 7}, None, {"reason": 7}),
        ({"unreasonable": "x"}, None, {"unreasonable": "x"}),
    ],
)
def test_the_reason_comes_from_any_field_that_by_its_name_holds_one(
    fields: dict[str, Any], reason: Reason | None, rest: dict[str, Any]
) -> None:
    found = understood(error(**fields))
    assert (found.reason, found.extras) == (reason, rest)


def test_a_reason_inside_the_response_is_found_and_stays_where_it_is() -> None:
    found = understood(exchange(responseFromDestination={"error": "ETIMEDOUT"}))
    assert answer_of(found) == ("x", ExchangeAnswer(None, Reason("ETIMEDOUT", "ETIMEDOUT")))
    assert found.extras == {"responseFromDestination": {"error": "ETIMEDOUT"}}


ORDINARY = (
    attempt(destinationExchangeId="x"),
    attempt(),
    exchange(),
    exchange().replace(b"Destination Exchange Logged", b"Delivery Exchange Logged"),
    exchange().replace(b"Logged", b"\\u004cogged"),
    error(),
    attempt().replace(b'"v1"', b'"v2"'),
    b'{"reason":"invalid_json","raw":"Delivery Attempt Logged"}',
)
UNUSUAL = (
    attempt(destinationExchangeId=5),
    attempt().replace(b'"properties":{', b'"properties":[],"x":{'),
    b'{"event":5}',
    b"5",
    b"{}{}",
    b'{"event":',
    b'"Delivery Attempt Logged"}',
    b'{"event":"Delivery Attempt Logged","x":"\xff"}',
    b"[" * 2000,
    b"",
)


@given(st.lists(st.sampled_from(ORDINARY) | st.sampled_from(UNUSUAL), max_size=6))
def test_the_head_of_a_record_tells_its_kind_and_its_exchange(raws: list[bytes]) -> None:
    """Of an unusual record it tells nothing; what `decode` refuses has no kind to compare."""
    for raw, head in zip(raws, read_heads(raws), strict=True):
        event = decode(raw)
        if head is not None and isinstance(event, Event):
            assert head.kind is event.kind
            if event.kind is ATTEMPT:
                assert head.exchange_id == event.properties.destination_exchange_id
        assert head is not None or raw in UNUSUAL


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text() | st.sampled_from(["routed", "loggedAt", "messageId", "outcome", "name"]), JSON)
)
def test_any_json_object_is_an_event_or_has_a_reason_why_not(properties: dict[str, Any]) -> None:
    for name in ("Error Logged", "Delivery Attempt Logged", "Destination Exchange Logged", "Other"):
        assert isinstance(decode(event(name, **properties)), Event | BadRecord)


@given(st.binary())
def test_any_bytes_are_an_event_or_have_a_reason_why_not(raw: bytes) -> None:
    assert isinstance(decode(raw), Event | BadRecord)


@given(
    st.fixed_dictionaries(
        {"messageId": st.text(), "attempt": st.integers(-(2**63), 2**63 - 1)},
        optional={
            "outcome": st.text(),
            "destinationExchangeId": st.text(),
            "routed": st.just(ROUTED) | JSON,
            "reason": st.text() | JSON,
            "loggedAt": st.just("2025-03-23T20:00:01Z"),
            "responseFromDestination": st.fixed_dictionaries(
                {}, optional={"status": st.integers(100, 999), "body": JSON}
            ),
        },
    )
)
def test_both_ways_of_reading_make_the_same_event(properties: dict[str, Any]) -> None:
    """An unknown field makes a record take the lenient way; but for that field nothing may differ."""
    whole = {
        "routed": ABSENT,
        "loggedAt": ABSENT,
        "destinationExchangeId": ABSENT,
        "outcome": ABSENT,
    } | properties
    strict = understood(attempt(**whole))
    lenient = understood(attempt(**whole, unknown=1))
    assert lenient.extras.pop("unknown") == 1
    for name in AttemptProperties.__struct_fields__:
        if name not in {"routed", "reason"}:
            assert getattr(strict.properties, name) == getattr(lenient.properties, name)
    assert (strict.extras, strict.reason) == (lenient.extras, lenient.reason)
    assert (strict.routing, strict.occurred_ns) == (lenient.routing, lenient.occurred_ns)
    assert strict.logged_ns == lenient.logged_ns
