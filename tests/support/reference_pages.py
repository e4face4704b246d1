"""Updates the example configuration, and what is generated in docs/reference and in the architecture page.

    PYTHONPATH=tests python -m support.reference_pages

A generated table lies between `<!-- table: NAME -->` and `<!-- end of table -->`. The code decides which rows
there are and fills the columns that it knows: of settings, all. The other columns are prose: they are kept
row by row, and so is the order of the rows. A new row comes last, with empty prose. `<!-- help: COMMAND -->`
is followed by the command's `--help`, `<!-- example configuration -->` by the example file. (mkdocs-click
would lose the line breaks of exit codes and examples in the help.)
"""

import ast
import json
import re
import sqlite3
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click

import faillog_otel
from faillog_otel.cli import cli
from faillog_otel.events.kept_record import REASONS
from faillog_otel.ledger.database import MIGRATIONS
from faillog_otel.reasons import all_rows
from faillog_otel.settings import SETTINGS, TABLES, Setting

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "reference"
ARCHITECTURE = ROOT / "docs" / "contributing" / "architecture.md"
GENERATED = (*sorted(PAGES.glob("*.md")), ARCHITECTURE)
"""The pages with generated parts."""
EXAMPLE = ROOT / "collector-config" / "faillog-otel.toml"
SOURCES = Path(faillog_otel.__file__).parent

Rows = dict[str, dict[str, str]]
"""First cell → column → cell."""

_MARKED = re.compile(
    r"(?P<before><!-- table: (?P<name>\S+) -->\n\n)(?P<table>.*?)(?P<after>\n<!-- end of table -->)",
    re.DOTALL,
)
_HELP = re.compile(
    r"(?P<before><!-- help: (?P<command>\S+) -->\n\n)```text\n.*?```(?P<after>\n\n<!-- end of help -->)",
    re.DOTALL,
)
_EXAMPLE = re.compile(
    r"(?<=<!-- example configuration -->\n\n)```toml\n.*?```(?=\n\n<!-- end of example -->)", re.DOTALL
)
_HELP_COLUMNS = 100
_CELL = re.compile(r"(?<!\\)\|")


def updated(page: str) -> str:
    """Returns a page with its generated parts as the code wants them."""
    page = _HELP.sub(
        lambda found: f"{found['before']}```text\n{help_of(found['command'])}\n```{found['after']}", page
    )
    page = _EXAMPLE.sub(lambda _: f"```toml\n{example_file()}```", page)
    return _MARKED.sub(lambda found: found["before"] + _merged(found) + found["after"], page)


def tables(page: str) -> dict[str, list[list[str]]]:
    """Returns the generated tables of a page by name: the header, then the rows, as cells."""
    return {found["name"]: _read(found["table"]) for found in _MARKED.finditer(page)}


def help_of(name: str) -> str:
    """Returns what `faillog-otel NAME --help` prints on a wide terminal."""
    group = click.Context(cli, info_name="faillog-otel", terminal_width=_HELP_COLUMNS, **cli.context_settings)
    command = cli.commands[name]
    return command.get_help(click.Context(command, group, name, terminal_width=_HELP_COLUMNS))


def rows(name: str) -> Rows:
    """Returns what the code says.

    Names: `modules`, `metrics`, `event:KIND`, `settings:PATH`,
    `ledger:TABLE`, `reasons:ABOUT`, `failures:CLASS`.
    """
    kind, _, what = name.partition(":")
    if kind == "modules":
        return _modules()
    if kind == "event":
        return {f"`{name}`": {} for name in _event_attributes(what)}
    if kind == "reasons":
        return _reasons(what)
    if kind == "failures":
        return _failures(what)
    if kind == "settings":
        return _settings(what)
    return _ledger(what) if kind == "ledger" else _metrics()


def _read(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in _CELL.split(line)[1:-1]] for line in lines]
    return cells[:1] + cells[2:]


def _merged(found: re.Match[str]) -> str:
    header, *old = _read(found["table"])
    wanted = rows(found["name"])
    prose = {row[0]: dict(zip(header, row, strict=True)) for row in old}
    order = [key for key in prose if key in wanted] + [key for key in wanted if key not in prose]
    if found["name"].startswith(("settings:", "failures:", "modules")):
        order = [*wanted]
    lines = [header, ["---"] * len(header)]
    for key in order:
        cells = {header[0]: key, **prose.get(key, {}), **wanted[key]}
        lines.append([cells.get(column, "") for column in header])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# -- what the code says ------------------------------------------------------------------------------------


def _settings(table: str) -> Rows:
    found: Rows = {}
    for row in rows_of(table):
        names = "<br>".join(f"`{name}`" for name in names_of(row))
        default = re.sub(r"(--|\$|http:)[^ ,]+", r"`\g<0>`", row.default_text)
        if default_of(row) and not default:
            default = f"`{default_of(row)}`"
        example = f"Example: `{row.example}`." if row.example else ""
        meaning = " ".join(filter(None, [row.help, choices_of(row), row.details, example]))
        cells = {"Option, variable": names, "Default": default, "Meaning": meaning}
        found[f"`{row.key}`"] = {name: text.replace("|", "\\|") for name, text in cells.items()}
    return found


def rows_of(table: str) -> list[Setting]:
    """Returns the settings of a table of the config file."""
    return [row for row in SETTINGS if row.path and row.table == table]


def names_of(row: Setting) -> list[str]:
    """Returns what sets a setting: the option, then the variables."""
    return [*([row.flag] if row.flag else []), *row.variables]


def default_of(row: Setting) -> str:
    """Returns a setting's default as TOML; empty if it has none, or none that is a value."""
    return "" if row.default is None else json.dumps(row.kind.show(row.default))


def choices_of(row: Setting) -> str:
    """Returns the values that a setting may have."""
    return f"Values: {', '.join(f'`{each}`' for each in row.kind.choices)}." if row.kind.choices else ""


def example_file() -> str:
    """Returns the example configuration: each setting, with its default, commented out."""
    lines = [_EXAMPLE_HEAD]
    for table, about in TABLES.items():
        lines += [*_comment(about), f"[{table}]"]
        for row in rows_of(table):
            if "." not in table:
                default = f"Default: {row.default_text}." if row.default_text else ""
                example = f"Example: {row.key} = {row.example}" if row.example else ""
                lines += ["#", *_comment(f"{', '.join(names_of(row))}"), *_comment(row.help)]
                lines += [line for text in (choices_of(row), default, example) for line in _comment(text)]
            lines.append(f"#{row.key} = {default_of(row) or json.dumps(f'<{row.key}>')}")
        lines.append("")
    return "\n".join(lines)


_EXAMPLE_HEAD = """\
# Settings of faillog-otel: all of them, with their defaults. This file is generated.
#
# To change a setting, remove the "#" before it; "<...>" means that there is no default. The program reads
# ./faillog-otel.toml, or the file that --config or FAILLOG_CONFIG names. Options and variables override it; a
# line above each setting names them. Check the file with
#
#   faillog-otel doctor --config collector-config/faillog-otel.toml
"""


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 108, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _ledger(table: str) -> Rows:
    columns = "SELECT name, type FROM pragma_table_info(?)"
    return {f"`{name}`": {"Type": kind} for name, kind in _schema(columns, table)}


def ledger_tables() -> set[str]:
    """Returns the tables of the ledger, without SQLite's own."""
    found = _schema("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return {name for (name,) in found}


def _schema(query: str, *values: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as database:
        for script in MIGRATIONS:
            database.executescript(script)
        return database.execute(query, values).fetchall()


def _metrics() -> Rows:
    return {f"`{name}`": {"Kind": kind, "Unit": f"`{unit}`"} for name, kind, unit in sorted(_instruments())}


def _reasons(about: str) -> Rows:
    return {
        f"`{code}`": {"Meaning": each.meaning, "What to do": each.action}
        for code, each in REASONS.items()
        if each.about == about
    }


def _failures(reason_class: str) -> Rows:
    return {
        "<br>".join(f"`{name}`" for name in (row.code, *row.names)): {
            "From": row.where,
            "Retried": "yes" if row.retryable else "no",
            "Meaning": row.meaning,
            "What to do": row.remedy,
        }
        for row in all_rows()
        if row.reason_class == reason_class
    }


def _modules() -> Rows:
    """Module → the first sentence of its docstring; packages and modules at the top first."""
    found: Rows = {}
    for path in sorted(SOURCES.rglob("*.py"), key=lambda path: (path.parent != SOURCES, path)):
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        first, *_ = docstring.split("\n")
        name = path.relative_to(SOURCES).as_posix()
        if name != "__init__.py":
            found[f"`{name}`"] = {"Meaning": first.replace("|", "\\|")}
    return found


_KINDS = {"create_counter": "counter", "create_histogram": "histogram", "Gauge": "gauge"}


def _instruments() -> Iterator[tuple[str, str, str]]:
    """Name, kind and unit of each instrument that the sources make."""
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            name, unit = node.args[:2]
            kind = _KINDS.get(getattr(node.func, "attr", getattr(node.func, "id", "")))
            if kind and isinstance(name, ast.Constant) and isinstance(unit, ast.Constant):
                grows = any(each.arg == "is_counter" for each in node.keywords)
                yield str(name.value), "counter" if grows else kind, str(unit.value)


def _event_attributes(kind: str) -> Iterator[str]:
    """The attributes of the log events of a kind: `group` or `change`."""
    module = ast.parse(SOURCES.joinpath("telemetry", "logs.py").read_text("utf-8"))
    [function] = [each for each in module.body if getattr(each, "name", "") == f"_{kind}_attributes"]
    for node in ast.walk(function):
        if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
            name = node.value.elts[0]
            yield str(name.value) if isinstance(name, ast.Constant) else ""


def main() -> None:
    """Rewrites the files that are out of date, and names them."""
    if EXAMPLE.read_text("utf-8") != example_file():
        EXAMPLE.write_text(example_file(), "utf-8")
        print(EXAMPLE.relative_to(ROOT))
    for path in GENERATED:
        before = path.read_text("utf-8")
        if (after := updated(before)) != before:
            path.write_text(after, "utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
