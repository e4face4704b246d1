"""`--bodies keys`: the structure of JSON, and what some keys say of a failure."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from faillog_otel.otlp.attributes import ALLOWED_KEYS, WITHHELD, withhold_in_body, withhold_values
from faillog_otel.redact import redact_text


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"error": "no", "user": "Jane"}, {"error": "no", "user": WITHHELD}),
        (
            {"code": 4, "ok": False, "age": 3, "new": True},
            {"code": 4, "ok": False, "age": WITHHELD, "new": WITHHELD},
        ),
        (
            {"error": {"message": "no", "who": {"name": "J"}}},
            {"error": {"message": "no", "who": {"name": WITHHELD}}},
        ),
        ({"errors": ["a", ["b", 1], {"id": 1}]}, {"errors": ["a", ["b", 1], {"id": WITHHELD}]}),
        ({"ids": ["a", ["b"], {"code": 2}]}, {"ids": [WITHHELD, [WITHHELD], {"code": 2}]}),
        (
            {"Error-Code": 1, "error_code": 2, "errorCode": 3},
            {"Error-Code": 1, "error_code": 2, "errorCode": 3},
        ),
        ({"a": None, "b": {}, "c": [], "d": ""}, {"a": None, "b": {}, "c": [], "d": WITHHELD}),
        ([1, "a", None, {"reason": "b"}], [WITHHELD, WITHHELD, None, {"reason": "b"}]),
    ],
)
def test_the_structure_stays_and_the_values_of_allowed_keys(body: Any, shown: Any) -> None:
    assert withhold_values(body) == shown
    assert json.loads(withhold_in_body(body)) == shown
    assert json.loads(withhold_in_body(json.dumps(body))) == shown


@pytest.mark.parametrize(
    "body",
    [
        "Bad request of Jane",
        "<error>Jane</error>",
        '{"error": "Jane',
        '{"error": "Jane"} Jane',
        '"Jane"',
        "12345",
        "",
        "[" * 200 + '"Jane"' + "]" * 200,
        "[" * 1_000_000,
        "[" + "{}," * 300_000 + "{}]",
        12345,
        True,
        "NaN",
    ],
    ids=lambda body: str(body)[:20],
)
def test_what_is_no_json_object_or_array_is_withheld_as_a_whole(body: Any) -> None:
    assert withhold_in_body(body) == WITHHELD


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ('{"name":"Jane","code":1}', '{"name":"[withheld]","code":1}'),
        ('["Jane",{"code":1}]', '["[withheld]",{"code":1}]'),
        ('{"message":"{\\"name\\":\\"Jane\\"}"}', '{"message":"{\\"name\\":\\"[withheld]\\"}"}'),
        ('no user: {"name":"Jane","code":1}', "no user: [withheld]"),
        ('no user: [ {"name":"Ja', "no user: [ [withheld]"),
        ("no user: {'name': 'Jane'}", "no user: [withheld]"),
        ('{"name":"Jane', "[withheld]"),
        ("[400] {field} is missing (a.b[0])", "[400] {field} is missing (a.b[0])"),
    ],
)
def test_json_inside_an_allowed_text_is_under_the_same_rules(message: str, shown: str) -> None:
    assert withhold_values({"message": message}) == {"message": shown}


def test_nested_json_is_parsed_to_a_depth_and_then_withheld() -> None:
    text = '{"name":"Jane"}'
    for _ in range(12):
        text = json.dumps({"message": text})
    shown = withhold_in_body(text)
    assert "Jane" not in shown
    assert WITHHELD in shown


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["{", "[", "{ ", '{"', "[\\", '["a",', "\\"])
def test_an_adversarial_message_is_not_slow(unit: str) -> None:
    """Text of 200,000 repeated units; the timeout of the tests is the bound."""
    withhold_in_body(json.dumps({"message": unit * 200_000}))


def test_a_withheld_value_is_not_redacted_again() -> None:
    """The mark stays `[withheld]`: it says which rule left the value out."""
    shown = withhold_in_body({"password": "x", "tokens": ["y"], "jane@shop.example": 1})
    assert (
        redact_text(shown)
        == '{"password":"[withheld]","tokens":["[withheld]"],"[redacted:email]":"[withheld]"}'
    )


KEYS = st.sampled_from(sorted(ALLOWED_KEYS)) | st.sampled_from(
    ["name", "user", "email", "id", "error_", "Error Code", "my_error", "messageId", "typeName", "x"]
)
SECRETS = st.integers(10**9, 10**10).map(lambda number: f"c4n4ry{number}")
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | SECRETS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4) | inner.map(json.dumps)
    ),
    max_leaves=20,
)


def _pairs(before: Any, after: Any, *, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each value that is no structure with its key, before and after; raises where structures differ."""
    if isinstance(before, dict):
        assert list(before) == list(after)
        for name in before:
            yield from _pairs(before[name], after[name], key=name)
    elif isinstance(before, list):
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            yield from _pairs(one, other, key=key)
    else:
        yield key, before, after


@given(BODIES)
@example({"errors": [{"user": ["c4n4ry1234567890"]}]})
@example({"attribute": json.dumps(json.dumps({"attribute": None}))})
def test_no_value_of_another_key_survives_and_the_structure_does(body: Any) -> None:
    allowed = {"".join(key.lower().split("_")) for key in ALLOWED_KEYS}
    for key, before, after in _pairs(body, withhold_values(body)):
        if before is None:
            assert after is None
        elif key.lower().replace("_", "").replace(" ", "") not in allowed:
            assert after == WITHHELD
        elif not (isinstance(before, str) and {"{", "["} & set(before)):  # else there is JSON in the text
            assert after == before


@given(BODIES)
def test_the_body_is_json_or_withheld(body: Any) -> None:
    for form in (body, json.dumps(body)):
        shown = redact_text(withhold_in_body(form))
        assert shown == WITHHELD or isinstance(json.loads(shown), dict | list)


@given(st.text() | st.dictionaries(KEYS, st.text()).map(json.dumps).map(lambda text: text[:-1]))
def test_any_text_that_is_no_json_is_withheld(text: str) -> None:
    try:
        json.loads(text)
    except ValueError:
        assert withhold_in_body(text) == WITHHELD
