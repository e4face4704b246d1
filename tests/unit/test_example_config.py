"""The example configuration that is shipped: complete, and true."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.settings import VARIABLES, Layer, read_file
from faillog_otel.sources import resolve

TEXT = Path(__file__).parents[2].joinpath("collector-config", "faillog-otel.toml").read_text("utf-8")
SETTING = re.compile(r"^#(?=[a-z_]+ = )", re.MULTILINE)


def keys(settings: Struct, within: str = "") -> Iterator[str]:
    for field, name in zip(settings.__struct_fields__, settings.__struct_encode_fields__, strict=True):
        value = getattr(settings, field)
        if isinstance(value, Struct):
            yield from keys(value, f"{within}{name}.")
        else:
            yield f"{within}{name}"


def test_as_it_is_shipped_it_changes_nothing() -> None:
    assert msgspec.to_builtins(read_file(TEXT, "example")) == msgspec.to_builtins(Layer())


def test_it_names_every_setting_and_no_other() -> None:
    told = tomllib.loads(SETTING.sub("", TEXT))

    def named(table: dict[str, object], within: str = "") -> Iterator[str]:
        for name, value in table.items():
            if isinstance(value, dict) and (within, name) in {
                ("", name),
                ("otlp.", "logs"),
                ("otlp.", "traces"),
            }:
                yield from named(value, f"{within}{name}.")
            else:
                yield f"{within}{name}"

    assert set(named(told)) == set(keys(Layer()))


def test_what_it_calls_a_default_is_the_default() -> None:
    told = "\n".join(line for line in SETTING.sub("", TEXT).splitlines() if "<" not in line.partition("#")[0])
    shown, default = resolve([read_file(told, "example")]), resolve([])
    # It warns of metrics without an endpoint, and names a --since.
    assert replace(shown, warnings=(), segment=replace(shown.segment, is_since_given=False)) == default


@pytest.mark.parametrize(
    "name",
    [name for name in VARIABLES if not re.search("_(LOGS|TRACES)_", name) and "OTLP_PROTOCOL" not in name],
)
def test_it_names_every_variable(name: str) -> None:
    assert name in TEXT
