"""The reference pages of the documentation say what the code does."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from support.reference_pages import GENERATED, PAGES, SOURCES, ledger_tables, rows, tables, updated

from faillog_otel.cli import cli
from faillog_otel.events.kept_record import REASONS
from faillog_otel.events.model import ReasonCode


def first_cells(page: str) -> set[str]:
    """The code words in the first column of a page's tables."""
    text = PAGES.joinpath(page).read_text("utf-8")
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


def calls() -> Iterator[ast.Call]:
    for path in SOURCES.rglob("*.py"):
        yield from (
            node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)
        )


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.stem)
def test_generated_parts_are_up_to_date(path: Path) -> None:
    """If this fails: `PYTHONPATH=tests python -m support.reference_pages`, then write the missing prose."""
    page = path.read_text("utf-8")
    assert updated(page) == page


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.stem)
def test_every_row_of_a_generated_table_has_a_meaning(path: Path) -> None:
    for name, (header, *lines) in tables(path.read_text("utf-8")).items():
        assert lines, name
        assert {line[0] for line in lines} == set(rows(name))
        meaning = header.index("Meaning")
        assert [line[0] for line in lines if not line[meaning]] == []


def test_every_command_shows_its_help() -> None:
    page = PAGES.joinpath("cli.md").read_text("utf-8")
    assert set(re.findall(r"<!-- help: (\S+) -->", page)) == set(cli.commands)


def test_every_table_of_the_ledger_is_documented() -> None:
    documented = tables(PAGES.joinpath("ledger.md").read_text("utf-8"))
    assert set(documented) == {f"ledger:{table}" for table in ledger_tables()}


def test_reason_codes_are_those_that_records_are_kept_with() -> None:
    """Codes are given by literals: to `BadRecord`, `DamagedFile`, `Unacceptable` and `write_entry`."""
    makers = {"BadRecord", "DamagedFile", "Unacceptable", "write_entry"}
    given = {
        str(call.args[0].value)
        for call in calls()
        if call.args
        and isinstance(call.func, ast.Name)
        and call.func.id in makers
        and isinstance(call.args[0], ast.Constant)
    }
    given.add("rejected")  # the only one that a variable holds
    assert given == set(REASONS) == set(get_args(ReasonCode))
    assert first_cells("reason-codes.md") == given


def test_every_attribute_of_a_record_is_documented() -> None:
    """Attribute names are literals of the package `otlp`; so is what the hash of a group begins with."""
    name = re.compile(r"(?:segment|messaging|http|url|server|error|log)\.[a-z_.]+[a-z]")
    events = {"segment.attempt", "segment.error", "segment.exchange", "segment.other"}
    written = {
        node.value
        for path in SOURCES.glob("otlp/**/*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and name.fullmatch(node.value)
    }
    documented = first_cells("attributes.md")
    assert "segment.delivery.outcome" in written
    assert written - events - {"segment.extra", "segment.failure"} <= documented
    assert {each for each in documented if not each.endswith(".*")} <= written


def test_exit_codes_are_those_of_the_help() -> None:
    help_text = cli.commands["run"].help or ""
    told = re.findall(r"^ +(\d+(?:, \d+)*)  ", help_text, re.MULTILINE)
    codes = {code for codes in told for code in codes.split(", ")}
    page = PAGES.joinpath("exit-codes.md").read_text("utf-8").partition("## Fail conditions")[0]
    documented = {
        code
        for cell in re.findall(r"^\| (`\d.*?) \|", page, re.MULTILINE)
        for code in re.findall(r"\d+", cell)
    }
    assert documented == codes | {"70"}  # a bug
