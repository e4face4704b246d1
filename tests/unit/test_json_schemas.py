"""The published JSON Schemas are sound, and their enumerations are those of the program."""

from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from support.json_schemas import SCHEMAS, all_keys, resolve

from faillog_otel.config import Signal
from faillog_otel.events.failure import MessageState
from faillog_otel.otlp.origin import TraceOrigin
from faillog_otel.reasons import ReasonClass
from faillog_otel.reports.doctor import Health
from faillog_otel.reports.status import State
from faillog_otel.segment.quota import Why


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one_of_2020_12_and_describes_every_key_in_a_sentence(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    for file, pointer in all_keys(name):
        holder, _, key = pointer.rpartition("/properties/")
        described = resolve(file, holder)[2]["properties"][key]
        assert described["description"].endswith("."), pointer


def choices(schema: Any) -> set[str]:
    return set(schema.get("enum", ())) or {each["const"] for each in schema["oneOf"]}


@pytest.mark.parametrize(
    ("name", "pointer", "literal"),
    [
        ("plan", "/$defs/why", Why),
        ("doctor", "/properties/findings/items/properties/state", Health),
        ("failures", "/$defs/group/properties/class", ReasonClass),
        ("failures-message", "/properties/state", MessageState),
        ("kept-record", "/$defs/context/properties/signals/items", Signal),
    ],
)
def test_an_enumeration_is_complete(name: str, pointer: str, literal: Any) -> None:
    assert choices(resolve(f"{name}.schema.json", pointer)[2]) == set(get_args(literal))


def test_every_state_of_an_hour_has_a_count_and_a_mark() -> None:
    for pointer in ("/properties/marks", "/$defs/coverage/properties/hours"):
        assert set(resolve("status.schema.json", pointer)[2]["properties"]) == set(get_args(State))


def test_ids_names_each_origin_but_that_of_a_request_body() -> None:
    """`ids` sees no request."""
    named = choices(SCHEMAS["ids"]["properties"]["origin"])
    assert named == set(get_args(TraceOrigin)) - {"body"}
