"""A record's version, the fields of Segment's first draft, and results in the words of its framework."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw
from msgspec.structs import replace
from support.events import TIMES, attempt, error, event, exchange

from faillog_otel.events.decode import answer_of, decode
from faillog_otel.events.model import (
    OTHER,
    AttemptProperties,
    ErrorProperties,
    Event,
    ExchangeAnswer,
    ExchangeProperties,
    OtherProperties,
    Reason,
)
from faillog_otel.pipeline.batch import classify

KNOWN_VERSIONS: list[Any] = [1, 1.0, 1.5, "1", "v1", "V1", "1.0", "v1.0", "v1.12.3", "v1beta", " v1 ", None]
OTHER_VERSIONS: list[Any] = [
    2,
    0,
    -1,
    10,
    1e300,
    "2",
    "v2",
    "v2.1",
    "v10",
    "11",
    "",
    "one",
    True,
    [1],
    {"v": 1},
]
MAKERS = [error, attempt, exchange]
DRAFT_ROUTED = {
    "to": [{"type": "destination", "id": "abc"}, {"type": "subscription", "id": "def"}],
    "from": [{"type": "source", "id": "ghi"}],
}


def understood(raw: bytes) -> Event:
    found = decode(raw)
    assert isinstance(found, Event), found
    return found


def said(raw: bytes) -> Event:
    """The event without how it is written."""
    found = understood(raw)
    properties = replace(found.properties, routed=Raw())
    return replace(found, raw=b"", properties=properties)


def of_version(raw: bytes, version: Any) -> bytes:
    return raw.replace(b'"version":"v1"', b'"version":' + json.dumps(version).encode())


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("version", KNOWN_VERSIONS, ids=repr)
def test_every_spelling_of_version_1_is_the_same_event(version: Any, make: Any) -> None:
    for raw in (make(), make(unknown={"a": "ü"})):  # read by the structs, and leniently
        assert said(of_version(raw, version)) == said(raw)


@pytest.mark.parametrize("version", [1, "1", "v1", "v1.9", None])
def test_every_likely_version_is_read_the_fast_way(version: Any) -> None:
    """The lenient decoder, which writes `routed` anew, is slower, and most records must not need it."""
    spaced = of_version(error(), version).replace(b'"routed":{', b'"routed":{ ')
    assert bytes(understood(spaced).properties.routed).startswith(b"{ ")


@pytest.mark.parametrize("make", MAKERS)
def test_a_record_without_a_version_is_one_of_version_1(make: Any) -> None:
    assert said(make().replace(b'"version":"v1",', b"")) == said(make())


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("version", OTHER_VERSIONS, ids=repr)
def test_another_major_version_is_another_event_that_nobody_judges(version: Any, make: Any) -> None:
    found = understood(of_version(make(), version))
    assert isinstance(found.properties, OtherProperties)
    assert found.extras["version"] == version
    assert classify(found) == (OTHER, "abc", True)


@pytest.mark.parametrize("version", KNOWN_VERSIONS, ids=repr)
def test_an_unknown_name_of_a_known_version_is_another_event_and_no_unknown_version(version: Any) -> None:
    found = understood(of_version(event("Retry Logged", messageId="m", **TIMES), version))
    assert isinstance(found.properties, OtherProperties)
    assert found.extras == {"event": "Retry Logged"} | ({} if version is None else {"version": version})
    assert classify(found) == (OTHER, "", False)


def test_the_fields_of_the_first_draft_have_places_of_their_own() -> None:
    found = understood(
        of_version(
            error(routed=DRAFT_ROUTED, attempt=2, reason="failed insert function", featureName="delivery"), 1
        )
    )
    assert isinstance(found.properties, ErrorProperties)
    assert (found.properties.attempt, found.properties.feature_name) == (2, "delivery")
    assert (found.reason, found.extras) == (Reason("failed insert function"), {})
    found = understood(of_version(attempt(reason="prose", featureName="delivery"), 1))
    assert isinstance(found.properties, AttemptProperties)
    assert (found.properties.feature_name, found.reason, found.extras) == ("delivery", Reason("prose"), {})
    found = understood(of_version(exchange(routed=DRAFT_ROUTED, featureName="delivery"), 1))
    assert isinstance(found.properties, ExchangeProperties)
    assert (found.properties.feature_name, found.extras) == ("delivery", {})


def test_a_draft_field_of_another_type_travels_on() -> None:
    assert understood(error(attempt="2", featureName=7)).extras == {"attempt": "2", "featureName": 7}


@pytest.mark.parametrize("before", [True, False])
def test_a_subscription_is_never_a_destination(before: bool) -> None:
    """Span ids are made from the destination, so a mapping's id must not get into them."""
    subscription, destination = {"type": "subscription", "id": "s"}, {"type": "destination", "id": "d"}
    to = [subscription, destination] if before else [destination, subscription]
    routing = understood(error(routed={"to": to})).routing
    assert (routing.to_id, routing.destination_id, routing.destination_ids) == ("d", "d", ("d",))
    assert (routing.subscription_id, routing.leftover) == ("s", None)


def test_a_subscription_alone_names_no_destination() -> None:
    routing = understood(error(routed={"to": [{"type": "subscription", "id": "s"}]})).routing
    assert (routing.to_id, routing.destination_id, routing.destination_ids) == (None, None, ())
    assert routing.subscription_id == "s"


def test_of_several_subscriptions_none_is_lost() -> None:
    routed = {"to": [{"type": "subscription", "id": "s"}, {"type": "subscription", "id": "t"}]}
    found = understood(error(routed=routed))
    assert (found.routing.subscription_id, found.extras) == ("s", {"routed": routed})


# -- results of Segment's framework ----------------------------------------------------------------------

RESULT = {"errortype": "PAYLOAD_VALIDATION_FAILED", "errormessage": "no id", "errorreporter": "INTEGRATIONS"}
REASON = Reason("no id", "PAYLOAD_VALIDATION_FAILED", "INTEGRATIONS")


def spelled(name: str, how: str) -> str:
    first, second = name[:5], name[5:]
    return {
        "lower": name,
        "camel": first + second.title(),
        "Pascal": first.title() + second.title(),
        "snake": f"{first}_{second}",
        "SNAKE": f"{first}_{second}".upper(),
        "kebab": f"{first}-{second}",
    }[how]


SPELLINGS = ["lower", "camel", "Pascal", "snake", "SNAKE", "kebab"]


@pytest.mark.parametrize("how", SPELLINGS)
@pytest.mark.parametrize("make", MAKERS)
def test_message_type_and_reporter_are_found_however_they_are_cased(how: str, make: Any) -> None:
    fields = {spelled(name, how): value for name, value in RESULT.items()}
    found = understood(make(**fields))
    assert found.reason == REASON
    assert found.extras == {spelled("errortype", how): "PAYLOAD_VALIDATION_FAILED"}


@pytest.mark.parametrize(
    "within",
    [
        lambda result: result,
        lambda result: [{"status": 200, "sent": {}}, {"status": 400, **result}],
        lambda result: {"results": [result, result]},
        lambda result: {"multistatus": {"responses": [{"value": result}]}},
    ],
)
@pytest.mark.parametrize("how", SPELLINGS)
def test_message_type_and_reporter_are_found_in_a_response_and_its_body(within: Any, how: str) -> None:
    inside = within({spelled(name, how): value for name, value in RESULT.items()})
    said = replace(REASON, in_body=True)
    for body in (inside, json.dumps(inside), json.dumps(inside, indent=1)):
        found = understood(exchange(responseFromDestination={"status": 400, "body": body}))
        assert answer_of(found) == ("x", ExchangeAnswer(400, said))
        assert found.extras == {}
    found = understood(exchange(responseFromDestination={"status": 400, "results": inside}))
    assert found.reason == REASON


def test_results_that_disagree_give_no_reason() -> None:
    body = json.dumps([{"errormessage": "no id"}, {"errormessage": "no time"}])
    assert understood(exchange(responseFromDestination={"status": 400, "body": body})).reason is None


@pytest.mark.parametrize("body", ['{"errormessage": "cut o', "errortype: no JSON", "[" * 200 + "errortype"])
def test_a_body_that_cannot_be_read_gives_no_reason(body: str) -> None:
    found = understood(exchange(responseFromDestination={"status": 400, "body": body}))
    assert found.reason is None


def test_the_events_own_reason_overrides_its_body() -> None:
    response = {"status": 400, "body": json.dumps(RESULT)}
    assert understood(exchange(responseFromDestination=response, reason="own")).reason == Reason("own")


def test_a_request_gives_no_reason() -> None:
    request = {"body": json.dumps(RESULT), "results": [RESULT]}
    assert understood(exchange(requestToDestination=request)).reason is None


def test_a_reporter_of_no_name_travels_on() -> None:
    found = understood(error(errorMessage="no", errorReporter="who knows?"))
    assert (found.reason, found.extras) == (Reason("no", None, UNSET), {"errorReporter": "who knows?"})


# -- null ------------------------------------------------------------------------------------------------

OPTIONAL = {
    error: ("routed", "discarded", "loggedAt", "attempt", "reason", "featureName", "errorMessage", "unknown"),
    attempt: ("routed", "outcome", "loggedAt", "destinationExchangeId", "reason", "requestToDestination"),
    exchange: ("routed", "requestToDestination", "responseFromDestination", "loggedAt", "attempt", "x"),
}


@pytest.mark.parametrize(
    ("make", "field"), [(make, field) for make, some in OPTIONAL.items() for field in some]
)
def test_a_field_that_is_null_is_absent(make: Any, field: str) -> None:
    for more in ({}, {"another": 1}):
        whole = json.loads(make(**more))
        whole["properties"].pop(field, None)
        absent = json.dumps(whole).encode()
        whole["properties"][field] = None
        whole["extraneous"] = None
        null = json.dumps(whole).encode()
        assert said(null) == said(absent)


@pytest.mark.parametrize(
    ("routed", "same"),
    [
        (None, {}),
        ({"to": None, "from": None}, {}),
        ({"to": [None], "from": [None]}, {"to": [], "from": []}),
        (
            {"to": [{"type": "destination", "id": "d", "name": None}]},
            {"to": [{"type": "destination", "id": "d"}]},
        ),
        ({"to": [{"type": None, "id": "d"}], "via": None}, {"to": [{"id": "d"}]}),
    ],
)
def test_null_in_a_route_is_absent(routed: Any, same: Any) -> None:
    assert understood(error(routed=routed)).routing == understood(error(routed=same)).routing
    assert "via" not in str(understood(error(routed=routed)).extras)


def test_null_inside_unknown_fields_is_absent_and_a_list_keeps_its_places() -> None:
    found = understood(error(mapping={"id": None, "n": {"a": None, "b": 1}}, list=[1, None, {"c": None}]))
    assert found.extras == {"mapping": {"n": {"b": 1}}, "list": [1, None, {}]}


# -- half a character --------------------------------------------------------------------------------------

HALVES = [r"\ud83d", r"\ude00", r"\uD83D", r"\ud83d\ud83d", r"\ude00\ud83d", r"\ud83dA", r"\ud83d\n"]


@pytest.mark.parametrize("half", HALVES)
def test_half_a_surrogate_pair_becomes_a_replacement_character(half: str) -> None:
    raw = error(messageId="m@@", unknown={"k@@": ["v@@"]}, routed={"to": [{"type": "d@@", "id": "i@@"}]})
    found = understood(raw.replace(b"@@", half.encode()))
    assert isinstance(found.properties, ErrorProperties)
    assert found.raw == raw.replace(b"@@", half.encode())
    shown = json.dumps([found.properties.message_id, found.extras, found.routing.to_id], ensure_ascii=False)
    assert not any("\ud800" <= letter < "\ue000" for letter in shown)
    assert (found.properties.message_id or "").startswith("m\ufffd")


@pytest.mark.parametrize(
    "field", ["messageId", "destinationExchangeId", "outcome", "reason", "featureName", "x"]
)
def test_half_a_surrogate_pair_may_be_in_any_field(field: str) -> None:
    assert understood(attempt(**{field: "@@"}).replace(b"@@", rb"\ud83d"))


def test_a_body_that_was_cut_within_a_character_is_a_body() -> None:
    raw = exchange(responseFromDestination={"status": 500, "body": '{"a":"@@'}).replace(b"@@", rb"\ud83d")
    response = understood(raw).properties.response_from_destination
    assert response is not None
    assert response.body == '{"a":"\ufffd'


def test_a_backslash_that_is_escaped_begins_no_character() -> None:
    found = understood(error(unknown="@@", half="##").replace(b"@@", rb"\\ud83d").replace(b"##", rb"\ud83d"))
    assert found.extras == {"unknown": r"\ud83d", "half": "\ufffd"}


UNITS = st.sampled_from([r"\ud83d", r"\ude00", r"\\", r"\"", "a", r"\u0041", "ü", r"\ud83d\ude00"])


@given(st.lists(UNITS, max_size=12).map("".join))
def test_any_text_of_utf_16_units_is_read_as_javascript_would_write_it_whole(text: str) -> None:
    """Independent of the program: Python keeps halves, and UTF-16 joins and replaces them."""
    units: str = json.loads(f'"{text}"')
    joined = units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    whole = "".join("\ufffd" if "\ud800" <= each < "\ue000" else each for each in joined)
    found = understood(error(a=1, unknown="@@").replace(b"@@", text.encode()))
    assert found.extras == {"a": 1, "unknown": whole}
