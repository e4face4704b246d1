"""The example configuration that is shipped: complete, and true."""

import re
import tomllib

import pytest
from msgspec.structs import replace
from support.reference_pages import EXAMPLE, example_file

from faillog_otel.settings import BY_PATH, VARIABLES
from faillog_otel.sources import read_file, resolve

TEXT = EXAMPLE.read_text("utf-8")
SETTING = re.compile(r"^#(?=[a-z_]+ = )", re.MULTILINE)


def test_it_is_up_to_date() -> None:
    """If this fails: `PYTHONPATH=tests python -m support.reference_pages`."""
    assert example_file() == TEXT


def test_as_it_is_shipped_it_changes_nothing() -> None:
    assert read_file(TEXT, "example").values == {}


def test_it_names_every_setting_and_no_other() -> None:
    found = set()
    for name, table in tomllib.loads(SETTING.sub("", TEXT)).items():
        for key, value in table.items():
            inner = value if (name, key) in {("otlp", "logs"), ("otlp", "traces")} else {}
            found |= {f"{name}.{key}.{each}" for each in inner} or {f"{name}.{key}"}
    assert found == BY_PATH.keys() - {""}


def test_what_it_calls_a_default_is_the_default() -> None:
    told = "\n".join(line for line in SETTING.sub("", TEXT).splitlines() if '= "<' not in line)
    shown, default = resolve([read_file(told, "example")]), resolve([])
    # It warns of metrics without an endpoint, and names a --since.
    assert replace(shown, warnings=(), segment=replace(shown.segment, is_since_given=False)) == default


@pytest.mark.parametrize("name", [name for name in VARIABLES if not re.search("_(LOGS|TRACES)_", name)])
def test_it_names_every_variable(name: str) -> None:
    assert name in TEXT
