"""`report --html`, and the page that a polling run serves at `/`."""

import json
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.polled_folder import PolledFolder, polled_folder
from support.program import PROGRAM, Done, environment, run_program
from support.sidecar import TOKEN, segment_simulator, sidecar, sidecar_options

from faillog_otel.sandbox.collector import Receiver

ROWS = re.compile(r'<tr id="g([0-9a-f]{16})">')


@pytest.fixture(scope="module")
def polled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolledFolder]:
    """A state folder that was polled once."""
    with polled_folder(tmp_path_factory.mktemp("polled")) as polled, Receiver() as receiver:
        done = polled.run(receiver.http_endpoint)
        assert done.code in (0, 3), done.stderr
        yield polled


def report(polled: PolledFolder, folder: Path, *args: str) -> Done:
    return run_program("report", "--state-dir", polled.state, *args, cwd=folder)


def test_a_report_is_one_file_with_what_failures_lists(polled: PolledFolder, tmp_path: Path) -> None:
    done = report(polled, tmp_path, "--html", "report.html")
    assert done.code == 0, done.stderr
    found = (tmp_path / "report.html").read_text("utf-8")
    listed = run_program("failures", "--all", "--json", "--state-dir", polled.state, cwd=tmp_path)
    groups = [each["group"] for each in json.loads(listed.stdout)["groups"]]
    assert ROWS.findall(found) == groups
    assert polled.segment.config.world.collections[0] in found
    size = -(-(tmp_path / "report.html").stat().st_size // 1024)
    assert done.stderr == f"wrote report.html ({size} KiB)\n"
    assert done.stdout == b""
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_a_report_can_go_to_standard_output(polled: PolledFolder, tmp_path: Path) -> None:
    done = report(
        polled, tmp_path, "--html", "-", "--until", "2020-01-02T00:00:00Z", "--since", "2020-01-01T00:00:00Z"
    )
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.startswith(b"<!doctype html>")
    assert b"Nothing failed in this window" in done.stdout
    assert [*tmp_path.iterdir()] == []


def test_a_report_replaces_the_last_one_and_its_mode_follows_the_umask(
    polled: PolledFolder, tmp_path: Path
) -> None:
    (tmp_path / "real.html").write_text("old", "utf-8")
    (tmp_path / "report.html").symlink_to("real.html")
    command = 'umask 027; exec "$0" report --html report.html --state-dir "$1"'
    subprocess.run(["sh", "-c", command, PROGRAM, polled.state], cwd=tmp_path, env=environment(), check=True)
    assert (tmp_path / "report.html").is_symlink()
    assert (tmp_path / "real.html").read_bytes().startswith(b"<!doctype html>")
    assert stat.S_IMODE((tmp_path / "real.html").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (".", "--html .: Is a directory; name another file"),
        ("nowhere/report.html", "--html nowhere/report.html: No such file or directory; name another file"),
        ("/dev/full", "--html /dev/full: No space left on device; name another file"),
    ],
)
def test_a_file_that_cannot_be_written_is_named(
    polled: PolledFolder, tmp_path: Path, file: str, why: str
) -> None:
    done = report(polled, tmp_path, "--html", file)
    assert (done.code, done.stderr) == (2, f"Error: {why}\n")
    assert [*tmp_path.iterdir()] == []


def test_a_report_needs_a_file_and_a_ledger(tmp_path: Path) -> None:
    done = run_program("report", cwd=tmp_path)
    assert (done.code, "--html" in done.stderr) == (2, True)
    done = run_program("report", "--html", "report.html", "--state-dir", "nowhere", cwd=tmp_path)
    assert (done.code, "nowhere" in done.stderr) == (5, True)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("shows", [False, True])
def test_a_polling_run_serves_the_page(tmp_path: Path, receiver: Receiver, *, shows: bool) -> None:
    with segment_simulator("mine") as segment:
        args = [*sidecar_options(segment, receiver), "--health-addr", "0"]
        with sidecar([*args, *(["--page-messages"] if shows else [])], tmp_path) as running:
            found = re.search(
                r"the page of failures: (http://127\.0\.0\.1:\d+/)", running.wait_for("/healthz")
            )
            assert found
            running.wait_for("objects")
            answer = httpx.get(found[1], timeout=60)
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            assert "What was read" in answer.text
            assert "mine" in answer.text
            for secret in (TOKEN, segment.url, receiver.http_endpoint, str(tmp_path)):
                assert secret not in answer.text
            listed = run_program("failures", "--messages", "--json", "--state-dir", "state", cwd=tmp_path)
            ids = [json.loads(line)["message_id"] for line in listed.stdout.splitlines()]
            assert shows or [each for each in ids if each in answer.text] == []
            assert running.end() == 143
