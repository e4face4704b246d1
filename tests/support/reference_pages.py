"""Updates what is generated in docs/reference: `PYTHONPATH=tests python -m support.reference_pages`.

A generated table lies between `<!-- table: NAME -->` and `<!-- end of table -->`. The code decides which rows
there are and fills the columns that it knows. All other columns are prose: they are kept row by row, and so
is the order of the rows. A new row comes last, with empty prose. `<!-- help: COMMAND -->` is followed by the
command's `--help`. (mkdocs-click would lose the line breaks of exit codes and examples in it.)
"""

import ast
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import click
from msgspec import Struct

import faillog_otel
from faillog_otel.cli import cli
from faillog_otel.ledger.schema import MIGRATIONS
from faillog_otel.settings import VARIABLES, Layer

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "reference"
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
_HELP_COLUMNS = 100
_CELL = re.compile(r"(?<!\\)\|")


def updated(page: str) -> str:
    """Returns a page with its generated parts as the code wants them."""
    page = _HELP.sub(
        lambda found: f"{found['before']}```text\n{help_of(found['command'])}\n```{found['after']}", page
    )
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
    """Returns what the code says about a table: `settings:PATH`, `ledger:TABLE` or `metrics`."""
    kind, _, what = name.partition(":")
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
    lines = [header, ["---"] * len(header)]
    for key in order:
        cells = {header[0]: key, **prose.get(key, {}), **wanted[key]}
        lines.append([cells.get(column, "") for column in header])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# -- what the code says ------------------------------------------------------------------------------------


def _settings(section: str) -> Rows:
    table: Struct = Layer()
    for name in section.split("."):
        table = getattr(table, {"self": "own"}.get(name, name))
    keys = [
        key
        for name, key in zip(table.__struct_fields__, table.__struct_encode_fields__, strict=True)
        if not isinstance(getattr(table, name), Struct)
    ]
    defaults = _defaults()
    options = _options() if section in {"otlp", "mapping", "segment", "run"} else {}
    found: Rows = {}
    for key in keys:
        path = f"{section}.{key}"
        variables = [name for name, (set_path, _) in VARIABLES.items() if set_path == path]
        option = options.get({"segment.url": "segment_url"}.get(path, key))
        if path in {"segment.certificate", "segment.proxy"}:
            option = None
        default = defaults[path]
        set_by = "<br>".join(f"`{each}`" for each in (option, *variables) if each)
        found[f"`{key}`"] = {"Option, variable": set_by, "Default": "" if "<" in default else f"`{default}`"}
    return found


def _options() -> Mapping[str, str]:
    """Parameter → option of `run`."""
    return {
        option.name or "": option.opts[-1]
        for option in cli.commands["run"].params
        if isinstance(option, click.Option)
    }


def _defaults() -> Mapping[str, str]:
    """Path of a setting → its default, from the example file. A `<placeholder>` means that there is none."""
    found: dict[str, str] = {}
    section = ""
    for line in ROOT.joinpath("collector-config", "faillog-otel.toml").read_text("utf-8").splitlines():
        if table := re.fullmatch(r"\[(\S+)\]", line):
            section = table[1]
        elif setting := re.fullmatch(r"#([a-z_]+) = (.*?)(?:\s+#.*)?", line):
            found[f"{section}.{setting[1]}"] = setting[2]
    return found


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
                grows = any(each.arg == "only_grows" for each in node.keywords)
                yield str(name.value), "counter" if grows else kind, str(unit.value)


def main() -> None:
    """Rewrites the pages whose tables are out of date, and names them."""
    for path in sorted(PAGES.glob("*.md")):
        before = path.read_text("utf-8")
        if (after := updated(before)) != before:
            path.write_text(after, "utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
