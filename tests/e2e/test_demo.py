"""`faillog-otel demo`, `ids` and the help: what a newcomer meets first."""

import json
import re
from pathlib import Path

import click
import pytest
from support.collector import ROOT
from support.program import run_program

from faillog_otel import __version__
from faillog_otel.cli import cli
from faillog_otel.propagation import trace_id_of


def test_the_demo_shows_traces_with_links_and_error_logs_and_the_summary(tmp_path: Path) -> None:
    done = run_program("demo", "--all", cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    shown = done.stdout.decode()
    for answer in ("HTTP 400", "HTTP 401", "HTTP 418", "HTTP 429", "HTTP 500", "ETIMEDOUT"):
        assert f"failure  {answer}" in shown
    assert re.search(r"attempt 8  failure.*\n.*↳ link: POST .*\n└─ .*log ERROR  discarded: message ", shown)
    records, exported, quarantined = map(
        int, re.findall(r"^(\d+) records: (\d+) exported, (\d+) quarantined$", shown, re.MULTILINE)[0]
    )
    assert (records, quarantined) == (exported + 1, 1)
    assert records > 200
    assert shown.count("↳ link: POST") == shown.count("  deliver ")
    assert "invalid_json" in shown
    assert list(tmp_path.iterdir()) == []


def test_the_demo_shows_one_trace_of_each_destination(tmp_path: Path) -> None:
    shown = run_program("demo", cwd=tmp_path).stdout.decode()
    assert shown.count("message ") > shown.count("\nmessage ") >= 4
    assert "more traces (--all shows them)" in shown


def test_ids_prints_one_json_object(tmp_path: Path) -> None:
    done = run_program("ids", "Grüße", cwd=tmp_path)
    assert json.loads(done.stdout) == {
        "trace_id": trace_id_of("Grüße"),
        "origin": "derived",
        "parent_span_id": None,
    }
    assert run_program("ids", cwd=tmp_path).code == 2


def test_help_and_version(tmp_path: Path) -> None:
    assert run_program("--version", cwd=tmp_path).stdout.decode().strip().endswith(__version__)
    assert run_program("--help", cwd=tmp_path).code == 0
    bare = run_program(cwd=tmp_path)
    assert (bare.code, b"Commands:" in bare.stdout) == (2, True)
    assert run_program("fly", cwd=tmp_path).code == 2


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option_has_help_and_is_documented(name: str) -> None:
    readme = ROOT.joinpath("README.md").read_text("utf-8")
    command = cli.commands[name]
    assert command.help
    assert f"faillog-otel {name}" in readme
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert option.opts[0] in readme, option.name
