"""Files and variables that are faulty: what a user sees, and what goes on all the same."""

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from support.polled_folder import AWAY
from support.program import Done, run_program
from support.sidecar import TOKEN, segment_simulator, sidecar, sidecar_options
from support.tiers import swept

from faillog_otel.sandbox.collector import Receiver

SECRET = "s3gment-t0ken"  # noqa: S105  # made up, to be looked for


def made(folder: Path, kind: str) -> str:
    """A file of this kind; its path."""
    file = folder / "named"
    contents = {
        "UTF-16": f"{SECRET}\r\n".encode("utf-16"),
        "not UTF-8": f"{SECRET}\xe9".encode("latin-1"),
        "empty": b"",
        "1 MiB": SECRET.encode() * 100_000,
    }
    if kind == "a folder":
        file.mkdir()
    elif kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(file))
    elif kind == "a device":
        return "/dev/zero"
    elif kind in contents:
        file.write_bytes(contents[kind])
    return str(file)


KINDS = ["UTF-16", "not UTF-8", "empty", "1 MiB", "a folder", "a pipe", "a device", "No such file"]


def refused(done: Done, *says: str) -> None:
    assert done.code == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for words in says:
        assert words in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_file_that_cannot_be_used_is_exit_2(tmp_path: Path, kind: str) -> None:
    file = made(tmp_path, kind)
    args = ("run", "--once", "--collection", "c", "--segment-url", AWAY, "--state-dir", "state")
    refused(run_program(*args, cwd=tmp_path, SEGMENT_TOKEN_FILE=file), f"SEGMENT_TOKEN_FILE: {file}", kind)
    assert not tmp_path.joinpath("state").exists()


@pytest.mark.parametrize("content", [f"\ufeff{TOKEN}\r\n", f"  {TOKEN}\n\n"])
def test_a_token_file_may_have_a_byte_order_mark_and_line_ends(tmp_path: Path, content: str) -> None:
    tmp_path.joinpath("token").write_bytes(content.encode())
    with segment_simulator("shop") as segment:
        env: dict[str, Any] = {"SEGMENT_TOKEN_FILE": "token", "FAILLOG_SEGMENT_URL": segment.url}
        done = run_program("doctor", "--json", "--state-dir", "state", cwd=tmp_path, **env)
    [token] = [each for each in json.loads(done.stdout)["findings"] if each["check"] == "token"]
    assert token["state"] == "ok"


def test_a_token_file_that_is_spoilt_while_it_polls_is_said_and_costs_nothing_until_it_is_mended(
    tmp_path: Path,
) -> None:
    """Many hours are due; the file is spoilt when the first records arrive."""

    def write(content: bytes) -> None:
        tmp_path.joinpath("new").write_bytes(content)
        tmp_path.joinpath("new").rename(tmp_path / "token")

    came = threading.Event()

    def spoil(_signal: str, _body: bytes) -> None:
        if not came.is_set():
            came.set()
            write(TOKEN.encode("utf-16"))

    write(TOKEN.encode())
    with segment_simulator("shop") as segment, Receiver(spoil) as receiver:
        args = sidecar_options(segment, receiver, "-90h")
        env = {"SEGMENT_TOKEN": "", "SEGMENT_TOKEN_FILE": "token"}
        with sidecar(args, tmp_path, **env) as running:
            said = running.wait_for("error: SEGMENT_TOKEN_FILE: token: is UTF-16; save it as UTF-8")
            before = running.said.index(said)
            status = run_program("status", "--json", "--state-dir", "state", cwd=tmp_path)
            asked = sum(each.counted for each in segment.requests())
            write(TOKEN.encode())
            running.wait_for("the token is readable again")
            with running.news:
                assert running.news.wait_for(
                    lambda: any(" objects" in line for line in running.said[before:]), 60
                ), running.said
            assert running.end() == 143
        logged = [line for line in running.said if line.startswith(("error: ", "warning: ", "Traceback"))]
        assert not any("Traceback" in line or "HTTP 4" in line for line in logged)
    found = json.loads(status.stdout)
    assert found["quota"]["used"] == asked > 0
    assert found["collections"]["shop"]["failed"] == []


@pytest.mark.parametrize("kind", ["UTF-16", "not UTF-8", "a folder", "a device", "No such file"])
def test_a_config_file_that_cannot_be_read_is_exit_2(tmp_path: Path, kind: str) -> None:
    file = made(tmp_path, kind)
    tmp_path.joinpath("events.jsonl").write_text("{}")
    says = "is longer than 1 MiB" if kind == "a device" else kind
    refused(run_program("run", "events.jsonl", "--config", file, cwd=tmp_path), f"{file}: ", says)
    refused(run_program("plan", cwd=tmp_path, FAILLOG_CONFIG=file), f"{file}: ", says)


def test_a_config_file_may_have_a_byte_order_mark_and_crlf_and_come_from_a_pipe(tmp_path: Path) -> None:
    text = "\ufeff[segment]\r\ncollections = ['of-the-file']\r\n".encode()
    tmp_path.joinpath("faillog-otel.toml").write_bytes(text)
    done = run_program("plan", "--state-dir", "state", cwd=tmp_path)
    assert (done.code, b"of-the-file" in done.stdout) == (0, True), done.stderr
    tmp_path.joinpath("faillog-otel.toml").unlink()
    done = run_program("plan", "--config", "/dev/stdin", "--state-dir", "state", cwd=tmp_path, stdin=text)
    assert (done.code, b"of-the-file" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    "kind",
    swept(["UTF-16", "empty", "a folder", "a pipe", "a device", "No such file"], ["UTF-16", "No such file"]),
)
@pytest.mark.parametrize("setting", ["certificate", "client_certificate"])
def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path, kind: str, setting: str) -> None:
    file = made(tmp_path, kind)
    tmp_path.joinpath("events.jsonl").write_text("{}")
    name = f"OTEL_EXPORTER_OTLP_{setting.upper()}"
    env: dict[str, Any] = {name: file, "OTEL_EXPORTER_OTLP_ENDPOINT": "https://localhost:1"}
    for protocol in ("http/protobuf", "grpc"):
        done = run_program("run", "events.jsonl", "--protocol", protocol, cwd=tmp_path, **env)
        refused(done, f"{setting} {file}: ", "not PEM" if kind in ("UTF-16", "empty") else kind)


@pytest.mark.parametrize(("kind", "says"), [("a pipe", "no process reads"), ("a folder", "Is a directory")])
def test_an_output_that_cannot_be_written_is_exit_2(tmp_path: Path, kind: str, says: str) -> None:
    file = made(tmp_path, kind)
    tmp_path.joinpath("events.jsonl").write_text("{}")
    args = ("run", "events.jsonl", "--protocol", "file", "--output", file)
    refused(run_program(*args, cwd=tmp_path), f"--output {file}: ", says)


FAULTY: dict[str, Any] = {
    "FAILLOG_WAIT": "soon",
    "FAILLOG_COLLECTIONS": "...",
    "FAILLOG_SIGNALS": "smoke",
    "FAILLOG_UNTIL": "yesterday",
    "FAILLOG_PROTOCOL": "pigeon",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318",
    "OTEL_EXPORTER_OTLP_HEADERS": SECRET,
    "OTEL_RESOURCE_ATTRIBUTES": "a",
    "FAILLOG_SELF_OTLP_ENDPOINT": "?",
    "FAILLOG_STATE_DIR": "/dev/null/state",
}


@pytest.mark.parametrize(
    "args", [("demo",), ("ids", "m"), ("ids", "--new"), ("--help",), ("--version",), ("run", "--help")]
)
def test_commands_that_take_no_settings_ignore_faulty_ones(tmp_path: Path, args: tuple[str, ...]) -> None:
    tmp_path.joinpath("faillog-otel.toml").write_text("[otlp")
    done = run_program(*args, cwd=tmp_path, **FAULTY)
    assert (done.code, done.stderr) == (0, "")


def test_the_simulator_takes_no_settings(tmp_path: Path) -> None:
    tmp_path.joinpath("faillog-otel.toml").write_text("[otlp")
    with sidecar(["simulate", "-v"], tmp_path, **FAULTY) as running:
        assert running.process.stdout
        assert "segment_url" in json.loads(running.process.stdout.readline())


def test_redact_reads_only_settings_of_what_it_shows(tmp_path: Path) -> None:
    tmp_path.joinpath("events.jsonl").write_text("{}")
    done = run_program("redact", "events.jsonl", cwd=tmp_path, **FAULTY)
    assert (done.code, done.stderr) == (3, "1 not understood\n")
    refused(
        run_program("redact", "events.jsonl", cwd=tmp_path, FAILLOG_BODIES="al"), "FAILLOG_BODIES", '"all"'
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("rnu",), "Did you mean 'run'?"),
        (("run", "--endpont", "x"), "'--endpoint'"),
        (("run", "--protocol", "htp", "x"), "'http/json'"),
        (("run", "--signals", "logs,trace", "x"), 'found "trace"; did you mean "traces"?'),
        (("run", "--header", "a=1", "--header", SECRET, "x"), 'pair 2 of 2 (after "a") has no "="'),
        (("run", "--header", f"a: {SECRET}", "x"), 'with "=" instead of ":"'),
        (("run", "--wait", "1w", "x"), "--wait: '1w' is not a duration"),
        (
            ("run", "--since", "2025-05-07"),
            "--since: '2025-05-07' has no time zone; write 2025-05-07T00:00:00Z",
        ),
        (("run", "--collection", "<id>"), "--collection: '<id>' has a character"),
        (("replay", "--since", "2025-05-07"), "--since: '2025-05-07' has no time zone"),
        (("simulate", "--start", "2025-05-07T23:00:00"), "has no time zone; write 2025-05-07T23:00:00Z"),
    ],
)
def test_wrong_usage_is_told_with_the_right_one(tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    done = run_program(*args, cwd=tmp_path)
    assert (done.code, done.stdout) == (2, b"")
    assert says in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("command", swept(["run", "plan", "replay"], ["plan"]))
@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("-1h", "-2h"),
        ("-1h", "-1h"),
        ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"),
    ],
)
def test_a_since_that_is_not_before_until_is_refused(
    tmp_path: Path, command: str, since: str, until: str
) -> None:
    args = ("--since", since, "--until", until, "--collection", "c", "--state-dir", "state")
    done = run_program(command, *args, cwd=tmp_path, SEGMENT_TOKEN=SECRET, FAILLOG_SEGMENT_URL=AWAY)
    refused(done, "is not before --until", "swap them")


@pytest.mark.parametrize(
    ("since", "until"),
    [("2026-01-02T00:00:00Z", "-300000h"), ("-1h", "2025-01-01T00:00:00+02:00")],
)
def test_it_is_warned_about_where_the_machines_clock_decides(tmp_path: Path, since: str, until: str) -> None:
    """The clock may be wrong: Segment's time decides later."""
    args = ("--since", since, "--until", until, "--collection", "c", "--state-dir", "state")
    done = run_program("plan", *args, cwd=tmp_path)
    assert (done.code, "is not before --until" in done.stderr) == (0, True), done.stderr


def test_a_since_that_brings_less_than_it_says_is_warned_about(tmp_path: Path) -> None:
    args = ("plan", "--collection", "c", "--state-dir", "state", "--since")
    assert "more than 28 days ago" in run_program(*args, "-29d", cwd=tmp_path).stderr
    assert "in the future" in run_program(*args, "2199-01-01T00:00:00Z", cwd=tmp_path).stderr
    assert run_program(*args, "-27d", cwd=tmp_path).stderr == ""
    until = ("plan", "--collection", "c", "--state-dir", "state", "--until", "2025-01-01T00:00:00Z")
    assert "set another --since" in run_program(*until, cwd=tmp_path).stderr


@pytest.mark.parametrize("args", [("run",), ("status",), ("plan",), ("audit",)])
def test_a_misspelt_variable_is_said_before_what_is_missing(tmp_path: Path, args: tuple[str, ...]) -> None:
    done = run_program(*args, "--state-dir", "state", cwd=tmp_path, FAILLOG_COLECTIONS="c")
    first, *_ = done.stderr.splitlines()
    assert first == (
        'warning: FAILLOG_COLECTIONS: unknown variable, ignored; did you mean "FAILLOG_COLLECTIONS"?'
    )
    assert done.code in (2, 5)


def test_a_timeout_of_weeks_is_refused_and_none_at_all_works(tmp_path: Path, receiver: Receiver) -> None:
    tmp_path.joinpath("events.jsonl").write_text("{}")
    for timeout, code in (("40d", 2), ("1d", 3), ("forever", 3)):
        tmp_path.joinpath("faillog-otel.toml").write_text(f"[otlp]\ntimeout = '{timeout}'\n")
        args = ("run", "events.jsonl", "--endpoint", receiver.http_endpoint)
        assert run_program(*args, cwd=tmp_path).code == code, timeout
