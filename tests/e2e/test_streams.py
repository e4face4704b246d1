"""Closed pipes and full disks behind standard output and standard error: real processes, real pipes."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.events import attempt, error, exchange, lines
from support.polled_folder import PolledFolder, polled_folder
from support.program import PROGRAM, environment
from support.tiers import swept

from faillog_otel.sandbox.collector import Receiver

CLOSED = 141


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`many`: more than a pipe holds, and a broken line; `three`: a failure, and what belongs to it."""
    many = [error(messageId=str(number)) for number in range(5000)]
    (tmp_path / "many").write_bytes(lines(b"{", *many))
    (tmp_path / "three").write_bytes(lines(error(), attempt(), exchange()))
    return tmp_path


@pytest.fixture(scope="module")
def polled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolledFolder]:
    with polled_folder(tmp_path_factory.mktemp("streams")) as polled, Receiver() as receiver:
        assert polled.run(receiver.http_endpoint).code == 3
        yield polled


def shell(command: str, folder: Path, **env: str) -> tuple[list[int], str, str]:
    """The exit codes of a pipeline in bash, standard output, standard error; `$F` is the program."""
    script = f'{command}; echo "${{PIPESTATUS[@]}}" >&3'
    reader, writer = os.pipe()
    done = subprocess.run(
        ["bash", "-c", script.replace("$F", PROGRAM).replace(">&3", f">&{writer}")],
        cwd=folder,
        env=environment(**env),
        capture_output=True,
        pass_fds=[writer],
        check=False,
        timeout=100,
    )
    os.close(writer)
    with os.fdopen(reader, encoding="ascii") as codes:
        return list(map(int, codes.read().split())), done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("protocol", ["console", "file"])
def test_a_closed_pipe_ends_a_run_quietly_and_nothing_is_kept(folder: Path, protocol: str) -> None:
    before = sorted(folder.iterdir())
    codes, shown, said = shell(f"$F run three many --protocol {protocol} 2>err | head -c 100", folder)
    assert (codes, len(shown.encode()), said) == ([CLOSED, 0], 100, "")
    said = (folder / "err").read_text()
    assert all(line.startswith("warning: many, line 1: invalid_json") for line in said.splitlines()), said
    assert {path.name for path in folder.iterdir()} - {path.name for path in before} <= {
        "err",
        *(["faillog-quarantine.jsonl"] if protocol == "file" else []),
    }


def test_a_closed_pipe_is_seen_while_standard_input_is_read(folder: Path) -> None:
    codes, _, _ = shell("cat many | $F run - --protocol console | head -1", folder)
    assert codes[1:] == [CLOSED, 0]
    assert not (folder / "faillog-pending.jsonl").exists()


def test_the_demo_ends_quietly(folder: Path) -> None:
    codes, shown, said = shell("$F demo | head -1", folder)
    assert (codes, shown.count("\n"), said) == ([CLOSED, 0], 1, "")


def test_redact_ends_quietly_when_its_reader_does(folder: Path) -> None:
    codes, shown, said = shell("$F redact many | head -1", folder)
    assert (codes, shown.count("\n"), said) == ([CLOSED, 0], 1, "")


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("status --state-dir state", 0),
        ("explain", 0),
        ("audit --state-dir state", 0),
        ("plan --collection shop-mixpanel --state-dir state", 0),
        ("doctor --state-dir state --endpoint http://127.0.0.1:9", 1),
        ("ids --new", 0),
        ("--help", 0),
        ("run three --endpoint http://127.0.0.1:9 --wait 0 --summary json", 4),
        ("run missing --summary json", 2),
        ("nonsense", 2),
    ],
)
@pytest.mark.parametrize(
    "where", swept(["| true", "2>&1 | true", "> /dev/full", "> /dev/full 2>&1"], ["> /dev/full"])
)
def test_a_report_that_cannot_be_written_changes_no_exit_code(
    polled: PolledFolder, folder: Path, command: str, code: int, where: str
) -> None:
    folder.joinpath("state").symlink_to(polled.state)
    command = command.replace("--state-dir state", f"--state-dir {polled.state}")
    codes, _, said = shell(f"$F {command} {where}", folder)
    assert codes[0] == code
    assert "Traceback" not in said
    assert "Broken pipe" not in said
    if where == "> /dev/full" and code == 0:
        assert said == "Error: standard output cannot be written: No space left on device\n"


def test_a_run_to_a_collector_goes_on_when_nobody_reads_what_it_says(folder: Path) -> None:
    with Receiver() as receiver:
        codes, _, _ = shell(
            f"$F run many three -vv --endpoint {receiver.http_endpoint} 2>&1 | head -1", folder
        )
        assert codes[0] == 3
        assert len(receiver.logs()) == 5003


def test_results_that_cannot_be_written_are_an_error(folder: Path) -> None:
    """A full disk is no closed pipe: the records are not delivered."""
    codes, _, said = shell("$F run three --protocol console > /dev/full", folder)
    assert codes == [4]
    assert "the output cannot be written: No space left on device" in said
    assert "3 records: 0 shown, 3 not delivered and not kept" in said
    assert not (folder / "faillog-pending.jsonl").exists()
    codes, _, said = shell("$F run three --protocol file > /dev/full", folder)
    assert codes == [4]
    assert "Traceback" not in said  # a device may seek, and cannot be cut
    assert "the output cannot be written: No space left on device" in said
    entries = (folder / "faillog-pending.jsonl").read_text().splitlines()
    assert len([json.loads(entry) for entry in entries]) == 3


def test_a_pipe_that_does_not_block_gets_all_of_it(folder: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen(
        [PROGRAM, "redact", "many"], cwd=folder, env=environment(), stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as shown:
        assert len(shown.readlines()) == 5001
    _, stderr = process.communicate()
    assert (process.returncode, b"Traceback" in stderr) == (3, False)


@pytest.mark.parametrize("kind", ["--log-format json", "-vv", "-q"])
def test_the_log_may_be_a_closed_pipe(folder: Path, kind: str) -> None:
    codes, _, _ = shell(
        f"$F run many {kind} --endpoint http://127.0.0.1:9 --wait 0 2>&1 >/dev/null | true", folder
    )
    assert codes[0] == 4
