"""`faillog-otel demo`, `ids` and the help: what a newcomer meets first."""

import json
import re
from pathlib import Path

import click
import pytest
from support.collector import ROOT
from support.demo_answers import demo_share
from support.program import run_program

from faillog_otel import __version__
from faillog_otel.cli import cli
from faillog_otel.propagation import trace_id_of


def test_the_demo_polls_through_trouble_and_shows_traces_and_audit(tmp_path: Path) -> None:
    done = run_program("demo", "--all", cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    shown = done.stdout.decode()
    for trouble in (
        r"HTTP 429; next request at 2025-05-08T02:00:3\dZ \(in 3\d s\)",
        "a download failed: the connection broke",
        "HTTP 503; retrying",
    ):
        assert len(re.findall(trouble, shown)) == 1
    assert re.search(r"attempt 7  success  HTTP 200\n +↳ link: POST Mixpanel \(prod\)  HTTP 200", shown)
    for name, status in {"Mixpanel": 503, "Braze": 401, "Webhooks": 400}.items():
        assert f"↳ link: POST {name} (prod)  HTTP {status}" in shown
    assert len(re.findall(r"log ERROR  .*message discarded", shown)) > 30
    runs = re.findall(r"^(\d+) records: (\d+) exported(?:, (\d+) quarantined)?$", shown, re.MULTILINE)
    records, exported, quarantined = (sum(int(run[n] or 0) for run in runs) for n in range(3))
    assert records == exported + quarantined > 500
    assert quarantined > 0
    assert len(runs) == 2, "the hours grew after the first poll, and not after the second"
    assert "\nNothing due\n" in shown
    assert re.search(r"^— audit\nresult +no problems found$", shown, re.MULTILINE)
    trees = len(re.findall(r"^\w.*  trace [0-9a-f]{32}$", shown, re.MULTILINE))
    assert f"3 runs read {records} records, and sent {exported} of them as" in shown
    assert f"{quarantined} records are in the quarantine" in shown
    assert f"The records form {trees} trees" in shown
    assert list(tmp_path.iterdir()) == []


def test_nearly_all_attempts_of_the_demo_carry_the_status_of_their_exchange(tmp_path: Path) -> None:
    found = demo_share(run_program("demo", "--all", cwd=tmp_path).stdout.decode())
    assert found.shown.keys() == found.true.keys()
    wrong = {attempt: status for attempt, status in found.shown.items() if status != found.true[attempt]}
    assert set(wrong.values()) <= {None}
    assert len(found.due) > 300
    assert found.share >= 0.99


def test_the_demo_fits_on_two_screens_with_two_traces(tmp_path: Path) -> None:
    shown = run_program("demo", cwd=tmp_path).stdout.decode()
    assert len(shown.splitlines()) <= 100
    assert max(map(len, shown.splitlines())) <= 100
    recovered, lost = re.findall(r"^message (?:.+\n)+", shown, re.MULTILINE)
    assert re.search(r"attempt 1  failure  HTTP 503\n(.*\n)+.*attempt 7  success  HTTP 200\n", recovered)
    assert "log ERROR" in lost
    assert "more traces (--all shows them)" in shown


def test_the_demo_begins_with_what_it_does_and_ends_with_commands_to_try(tmp_path: Path) -> None:
    shown = run_program("demo", cwd=tmp_path).stdout.decode()
    assert shown.startswith("This demo polls a simulated Segment")
    next_steps = shown.split("— what to do next\n")[1].splitlines()
    commands = [step.split("faillog-otel ")[1].split() for step in next_steps]
    for name, *args in commands:
        options = {name for option in cli.commands[name].params for name in option.opts}
        assert {arg for arg in args if arg.startswith("--")} <= options | {"--help"}
    assert len(commands) == 5


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
    pages = "".join(page.read_text("utf-8") for page in ROOT.joinpath("docs").rglob("*.md"))
    command = cli.commands[name]
    assert command.help
    assert f"faillog-otel {name}" in pages
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert option.opts[0] in pages, option.name
