"""docs/reference/json.md: its tables are those of the schemas, and its examples are valid."""

import json
import re

import pytest
from support.json_page import MARKED, PAGE, with_tables
from support.json_schemas import SCHEMAS, problems

TEXT = PAGE.read_text("utf-8")


def test_the_tables_are_up_to_date() -> None:
    assert with_tables(TEXT) == TEXT, "run: PYTHONPATH=tests .venv/bin/python -m support.json_page"


def test_every_schema_has_a_table_and_a_link() -> None:
    assert sorted(found["name"] for found in MARKED.finditer(TEXT)) == sorted(SCHEMAS)
    assert {name for name in SCHEMAS if f"](schemas/{name}.schema.json)" in TEXT} == SCHEMAS.keys()


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_examples_before_a_table_are_valid(name: str) -> None:
    before = TEXT[: TEXT.index(f"<!-- keys: {name} -->")]
    section = before[before.rindex("\n#") :]
    examples = re.findall(r"```json\n(.*?)```", section, re.DOTALL)
    assert examples
    for example in examples:
        assert problems(name, json.loads(example)) == []
