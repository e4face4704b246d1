"""Which context a request's body names beside which messageId."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.events.kept_record import traceparents

A = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
B = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203332-00"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"messageId": "m", "traceparent": A}, {"m": A}),
        ({"messageId": "m", "context": {"traceparent": A}}, {"m": A}),
        ({"messageId": "m", "properties": {"deep": [{"traceparent": A}]}}, {"m": A}),
        ({"event": {"messageId": "m"}, "traceparent": A}, {"m": A}),
        ({"batch": [{"messageId": "m", "context": {"traceparent": A}}, {"messageId": "n"}]}, {"m": A}),
        (
            [{"messageId": "m", "traceparent": A}, {"messageId": "n", "context": {"traceparent": B}}],
            {"m": A, "n": B},
        ),
        ({"batch": [{"messageId": "m"}, {"messageId": "n"}], "traceparent": A}, {}),
        ([{"messageId": "m"}, {"traceparent": A}], {}),
        ({"messageId": "m", "inner": {"messageId": "n", "traceparent": A}}, {"n": A}),
        ({"messageId": "m", "context": {"traceparent": A}, "other": {"messageId": "n"}}, {}),
        ({"messageId": "m", "traceparent": A, "other": {"messageId": "n"}}, {"m": A}),
        ({"messageId": "m", "copy": {"messageId": "m"}, "context": {"traceparent": A}}, {"m": A}),
        ({"messageId": "m", "first": {"traceparent": A}, "second": {"traceparent": B}}, {"m": A}),
        ({"messageId": "m", "traceparent": A.upper()}, {}),
        ({"messageId": "m", "traceparent": A + "-more"}, {}),
        ({"messageId": "m", "traceparent": "00-" + "0" * 32 + "-b7ad6b7169203331-01"}, {}),
        ({"messageId": "m", "traceparent": 1}, {}),
        ({"messageId": 1, "traceparent": A}, {}),
        ({"batch": [{"messageId": 5, "traceparent": A}, {"messageId": "m"}]}, {}),
        ({"batch": [{"messageId": None, "context": {"traceparent": A}}, {"messageId": "m"}]}, {}),
        ({"messageId": "m"}, {}),
        ({"traceparent": A}, {}),
        (A, {}),
        (None, {}),
    ],
)
def test_a_context_belongs_to_the_only_message_of_its_object(body: Any, found: dict[str, str]) -> None:
    assert traceparents(body) == found
    assert traceparents(json.dumps(body)) == found


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"messageId": "m", "traceparent": A})[:-1],
        '{"messageId": "m", "traceparent": "' + A + '"}' + "]" * 200,
        "[" * 200 + '{"messageId": "m", "traceparent": "' + A + '"}' + "]" * 200,
        '"traceparent"',
        f"messageId=m&traceparent={A}",
    ],
)
def test_a_body_that_cannot_be_read_names_none(body: str) -> None:
    assert traceparents(body) == {}


def test_half_a_surrogate_pair_in_a_body_costs_nothing_of_it() -> None:
    assert traceparents('{"messageId": "m\\ud800", "traceparent": "' + A + '"}') == {"m\ufffd": A}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(["m", "n", A, B, "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["messageId", "traceparent", "a", "b"]), inner, max_size=4)
    ),
)


def objects(value: Any) -> list[dict[str, Any]]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [each for one in inner for each in objects(one)]
    return [*found, value] if isinstance(value, dict) else found


@given(JSON)
def test_what_is_found_stands_together(body: Any) -> None:
    """The rule itself, read the other way round and without care for speed."""
    for message, context in traceparents(body).items():
        assert any(
            {each["messageId"] for each in objects(one) if isinstance(each.get("messageId"), str)}
            == {message}
            and any(each.get("traceparent") == context for each in objects(one))
            for one in objects(body)
        ) or any(
            one.get("messageId") == message and one.get("traceparent") == context for one in objects(body)
        )
