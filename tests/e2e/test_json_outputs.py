"""Every JSON output of the real program is as its published JSON Schema says, and the schemas are strict."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from support.json_outputs import SITUATIONS, Output
from support.json_schemas import SCHEMAS, SUFFIX, Key, Location, all_keys, keys_in, problems

pytestmark = [
    pytest.mark.timeout(300),  # the first test runs the program some forty times
    pytest.mark.xdist_group("json outputs"),  # one process does it
]

MAY_BE_DROPPED = {("log" + SUFFIX, "/$defs/redacted/properties/numbers")}
"""Without it, the line is like any other; the test that every key occurs misses it."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[Output]:
    return [
        output for name, run in SITUATIONS.items() for output in run(tmp_path_factory.mktemp(f"json-{name}"))
    ]


def test_what_the_program_prints_is_valid(outputs: list[Output]) -> None:
    found = [(each.schema, each.situation, problems(each.schema, each.value)) for each in outputs]
    assert [each for each in found if each[-1]] == []
    assert {each.schema for each in outputs} == SCHEMAS.keys()


def test_every_key_of_a_schema_occurs_with_a_value(outputs: list[Output]) -> None:
    """So a key that the program drops is missed, also where the schema does not require it."""
    seen = {key.location for each in outputs for key in keys_in(each.schema, each.value) if not key.is_null}
    assert {key for name in SCHEMAS for key in all_keys(name)} - seen == set()


def test_a_renamed_or_dropped_key_is_invalid(outputs: list[Output]) -> None:
    """Key by key, as a changed program would print a real output."""
    unnoticed = []
    for name, value, key in one_of_each_key(outputs):
        if not problems(name, changed(value, key, is_renamed=True)):
            unnoticed.append(("renamed", name, key.path))
        must_stay = key.is_required and key.location not in MAY_BE_DROPPED
        if must_stay and not problems(name, changed(value, key, is_renamed=False)):
            unnoticed.append(("dropped", name, key.path))
    assert unnoticed == []


def one_of_each_key(outputs: list[Output]) -> Iterator[tuple[str, Any, Key]]:
    """The name of the schema, a value with the key, and the key."""
    seen: set[tuple[str, Location]] = set()
    for each in outputs:
        for key in keys_in(each.schema, each.value):
            if (each.schema, key.location) not in seen:
                seen.add((each.schema, key.location))
                yield each.schema, each.value, key


def changed(value: Any, key: Key, *, is_renamed: bool) -> Any:
    """A copy in which the key has another name, or is gone."""
    whole = holder = copy.deepcopy(value)
    for step in key.path[:-1]:
        holder = holder[step]
    item = holder.pop(key.path[-1])
    if is_renamed:
        holder[f"{key.path[-1]}_renamed"] = item
    return whole
