"""The rooms and their doors: imports go one way, and deciding parts do no I/O."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import faillog_otel

ROOT = Path(faillog_otel.__file__).parent
LEAVES = {
    "config",
    "errors",
    "clock",
    "files",
    "text",
    "hosts",
    "proxies",
    "addresses",
    "connections",
    "durable",
    "propagation",
    "tls",
    "grpc_channels",
    "ports",
}
MAY_IMPORT = {
    "propagation": set[str](),
    "config": set[str](),
    "errors": set[str](),
    "clock": set[str](),
    "text": set[str](),
    "hosts": set[str](),
    "proxies": {"config", "errors", "hosts"},
    "addresses": set[str](),
    "connections": {"addresses", "text", "tls", "proxies"},
    "tls": {"errors", "files"},
    "ports": {"addresses", "connections", "grpc_channels", "config"},
    "grpc_channels": {"tls", "proxies", "config", "errors"},
    "durable": set[str](),
    "backends": {"config"},
    "files": {"errors"},
    "diagnosis": set[str](),
    "setting_values": {"events", "config", "errors"},
    "settings": {"setting_values", "diagnosis", "config", "errors"},
    "setting_urls": {"config", "errors", "hosts"},
    "resolve": {
        "settings",
        "setting_urls",
        "setting_values",
        "backends",
        "config",
        "errors",
        "hosts",
        "proxies",
    },
    "events": LEAVES,
    "segment": {"events", *LEAVES},
    "ledger": {"events", *LEAVES},
    "otlp": {"events", *LEAVES},
    "telemetry": {"events", *LEAVES},
    "preview": {"segment", "ledger", "otlp", "events", *LEAVES},
    "app": {"segment", "ledger", "otlp", "telemetry", "events", "backends", *LEAVES},
}
IO_MODULES = {"os", "pathlib", "io", "socket", "ssl", "time", "random", "sqlite3", "tempfile", "subprocess"}
PURE = sorted(
    [
        *ROOT.glob("events/*.py"),
        *(
            ROOT / "otlp" / f"{name}.py"
            for name in (
                *("parts", "mapping", "origin", "extras", "explain", "records", "outcome", "packing"),
                *("wire", "messages", "layout", "stencils", "encoder", "encoding"),
            )
        ),
        *(ROOT / "segment" / f"{name}.py" for name in ("quota", "schedule")),
        *(
            ROOT / f"{name}.py"
            for name in (
                "backends",
                "config",
                "diagnosis",
                "setting_values",
                "settings",
                "resolve",
                "errors",
                "clock",
                "text",
                "hosts",
                "proxies",
                "propagation",
            )
        ),
    ]
)


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "faillog_otel" and len(parts) > 1 else None


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_lies_below_it(name: str) -> None:
    files = [ROOT / f"{name}.py"] if (ROOT / f"{name}.py").exists() else list((ROOT / name).rglob("*.py"))
    assert files
    for file in files:
        rooms = {found for module in imports(file) if (found := room(module))}
        assert rooms - {name, "__version__"} <= MAY_IMPORT[name], file


def test_the_simulator_shares_only_the_made_up_failures_with_what_it_tests() -> None:
    for file in (ROOT / "segment" / "simulator").glob("*.py"):
        shared = {module for module in imports(file) if module.startswith("faillog_otel.segment.")}
        own = ("faillog_otel.segment.simulator.", "faillog_otel.segment.generator.")
        assert all(module.startswith(own) for module in shared), file


def test_every_room_has_a_rule() -> None:
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__", "__main__", "cli"} == set(MAY_IMPORT)


@pytest.mark.parametrize("file", PURE, ids=lambda file: str(file.relative_to(ROOT)))
def test_deciding_parts_do_no_io(file: Path) -> None:
    assert {module.split(".")[0] for module in imports(file)} & IO_MODULES == set()
