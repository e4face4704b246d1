"""The packages and what each may import; deciding modules do no I/O; no module is long, none is a stub."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import faillog_otel

ROOT = Path(faillog_otel.__file__).parent
NAME = "faillog_otel"

LEVELS = [
    {"cli"},
    {"app"},
    {"pipeline", "reports", "sandbox"},
    {"inputs", "otlp", "ledger", "telemetry", "sources"},
    {"events", "segment", "redact", "backends"},
]
"""From the top. A package imports only from lower levels, never from its own. The leaf modules are below."""

LEAVES: dict[str, set[str]] = {
    "errors": set(),
    "clock": set(),
    "text": set(),
    "config": set(),
    "propagation": set(),
    "reasons": set(),
    "reason_text": set(),
    "files": {"errors"},
    "hash_table": {"errors"},
    "setting_values": {"clock", "config", "errors", "network", "text"},
    "links": {"clock", "config", "errors", "text"},
    "settings": {"config", "links", "setting_values", "errors"},
    "unknown_settings": {"setting_values", "settings", "text"},
    "network": {"config", "errors"},
    "tls": {"config", "errors", "files"},
    "connections": {"network", "text", "tls"},
}
"""Leaf modules, and which other ones each imports."""

PURE = {
    *("config", "errors", "clock", "text", "propagation", "backends"),
    *("reasons", "reason_text"),
    *("settings", "setting_values", "sources"),
    *("settings", "setting_values", "unknown_settings", "sources", "links", "reports.failures"),
    "reports.changes",
    *("events", "redact"),
    *("segment.answers", "segment.hours", "segment.pools", "segment.quota", "segment.schedule"),
    *("segment.scout", "segment.survey"),
    *("otlp.mapping", "otlp.rules", "otlp.attributes", "otlp.wire", "otlp.parts", "otlp.encoder"),
    "otlp.outcome",
    *("inputs.formats", "inputs.json_stream"),
}
"""Packages and modules that decide and calculate: no files, sockets, clocks, environment or randomness."""
IO_MODULES = {"os", "pathlib", "io", "socket", "ssl", "time", "random", "sqlite3", "tempfile", "subprocess"}

MAX_PACKAGES, MAX_FILES, MAX_LINES = 12, 190, 400
MAX_MODULES = defaultdict(
    lambda: 10,
    {"app": 18, "otlp": 16, "ledger": 23, "pipeline": 16, "reports": 27, "sandbox": 17, "segment": 12},
)

BOUNDARIES = {
    "app.limits": "the limits of failures of a run, for its exit code and its log",
    "app.check": "the smoke test for CI",
    "app.run_files": "one of the three kinds of run",
    "app.worker_process": "the command of a worker's process",
    "app.readings": "the composition of what is read besides listings",
    "app.run_replay": "one of the three kinds of run",
    "cli": "the entry point",
    "cli.check": "commands",
    "cli.report": "commands",
    "cli.sandbox": "commands",
    "cli.simulator": "commands",
    "cli.tools": "commands",
    "events.reason": "what a record's reason is: a set of rules of its own",
    "ledger.changes": "what another store would offer for changes",
    "ledger.counted_files": "failures of files, for reports",
    "ledger.quarantine": "the SQL of a replay",
    "ledger.requests": "the SQL of Segment's answers",
    "ledger.objects": "the SQL of hours and objects",
    "otlp.console": "what `--protocol console` keeps and prints, without JSON",
    "otlp.parts": "what events share: the encoder's caches",
    "pipeline.collection_index": "the exchange indexes that count for a spooled object",
    "pipeline.changes": "one of the readings besides listings",
    "pipeline.counts": "one of the readings besides listings",
    "pipeline.failure_tally": "failures of files, in bounded memory",
    "pipeline.sidecar": "the two loops of a polling run",
    "reports.check_outputs": "the forms that CI reads",
    "reports.check_logs": "what failure logs prove",
    "reports.readings": "what `doctor` says of readings, without requests",
    "reports.charts": "the page's charts as numbers",
    "reports.replay": "what to send again, by failure logs and counts",
    "reports.page": "the page as text, without reading anything",
    "reports.failure_rows": "groups with the records of one failure, as one row",
    "redact.key_values": "keys and their values in all notations",
    "redact.patterns": "secrets by their look",
    "sandbox.collector": "the OTLP receiver of the demo and the tests",
    "sandbox.counted_events": "what the simulated Segment counts, without its API",
    "sandbox.listing_api": "one of the simulated services",
    "telemetry.logs": "one of the two signals that the OpenTelemetry SDK sends",
    "telemetry.metrics": "with `logs` and `exporters` the only user of the SDK, imported where it is wanted",
    "segment.survey": "what is due, apart from what the quota allows",
    "sandbox.names": "one of the simulated services",
    "unknown_settings": "hints for wrong names, apart from the table of settings",
}
"""Modules that only one other module imports, and why they are modules nevertheless."""


SQL = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE FROM|PRAGMA)\b|\ABEGIN\b")
"""Words of SQL in a string. Elsewhere `BEGIN` is a part of PEM."""
SQLITE = {
    f"ledger.{name}"
    for name in (
        *("database", "objects", "ledger", "audit", "name_rows", "change_rows", "count_rows"),
        *("quarantine", "requests"),
        *("counted_files", "failure_queries", "failure_store"),
    )
}
"""What belongs to the SQLite ledger; the rest of the package would serve another store, too."""


def modules() -> dict[str, Path]:
    """Each module's name below the package (`otlp.encoder`, `cli`), and its file."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def all_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix(f"{NAME}.") in MODULES else node.module


@cache
def imported(module: str) -> set[str]:
    """The program's own modules that a module imports, anywhere in it."""
    found = all_imports(MODULES[module])
    return {name.removeprefix(f"{NAME}.") for name in found if name.startswith(f"{NAME}.")} - {module}


def top(module: str) -> str:
    return module.partition(".")[0]


PACKAGED = [module for module in MODULES if module and module != "__main__"]


@pytest.mark.parametrize("module", [module for module in PACKAGED if top(module) not in LEAVES])
def test_a_package_imports_only_from_lower_levels(module: str) -> None:
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    for other in imported(module):
        own, its = top(module), top(other)
        assert own == its or its in LEAVES or level[its] > level[own], other


@pytest.mark.parametrize("module", sorted(LEAVES))
def test_a_leaf_module_imports_only_what_is_listed(module: str) -> None:
    assert imported(module) == LEAVES[module]


def test_no_imports_go_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in imported(module):
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_every_package_and_leaf_has_a_level() -> None:
    assert {top(module) for module in PACKAGED} == {*LEAVES, *(name for names in LEVELS for name in names)}


@pytest.mark.parametrize("module", [m for m in PACKAGED if m in PURE or top(m) in PURE])
def test_deciding_modules_do_no_io(module: str) -> None:
    assert {name.partition(".")[0] for name in all_imports(MODULES[module])} & IO_MODULES == set()


def test_there_are_few_packages_and_files() -> None:
    packages = {top(module) for module in MODULES if "." in module}
    assert len(packages) <= MAX_PACKAGES
    assert len(MODULES) <= MAX_FILES
    for package in packages:
        inside = [module for module in MODULES if module.startswith(f"{package}.")]
        assert len(inside) <= MAX_MODULES[package], package


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_long(module: str) -> None:
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= MAX_LINES


def test_a_module_with_one_importer_is_a_named_boundary() -> None:
    importers = defaultdict(set)
    for module in MODULES:
        for other in imported(module):
            importers[other].add(module)
    alone = {module for module in importers if len(importers[module]) == 1}
    assert alone == set(BOUNDARIES)


@pytest.mark.parametrize("module", [module for module in MODULES if top(module) != "ledger"])
def test_only_the_ledger_speaks_sql(module: str) -> None:
    assert "sqlite3" not in set(all_imports(MODULES[module]))
    nodes = ast.walk(ast.parse(MODULES[module].read_text("utf-8")))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert [text for text in texts if SQL.search(text)] == []


@pytest.mark.parametrize("module", [m for m in MODULES if top(m) == "ledger" and m not in SQLITE])
def test_the_ledgers_protocol_knows_no_sqlite(module: str) -> None:
    """Another store can implement it, and what is built on it stays."""
    assert imported(module) & SQLITE == set()


def test_the_simulator_shares_no_code_with_what_it_tests() -> None:
    """Else a fault in the program's idea of Segment would be in the simulator's idea as well."""
    allowed = {"clock", "config", "errors", "network", "text"}
    for module in MODULES:
        if top(module) == "sandbox":
            shared = {other for other in imported(module) if top(other) != "sandbox"}
            assert shared <= allowed | {"otlp.grpc"}, module
