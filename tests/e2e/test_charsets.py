"""What terminals can show: charsets other than UTF-8, colours, and control characters."""

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.events import error, lines
from support.polled_folder import COLLECTION, PolledFolder, polled_folder
from support.program import PROGRAM, environment, run_program
from support.tiers import slow, slow_case, swept

from faillog_otel.sandbox.collector import Receiver

NAME = "café→\U0001f600"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202eevil\u2066\x9b31m"
CHARSETS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C"},
    "POSIX": {"LANG": "POSIX"},
    "none": {"LANG": ""},
}


@pytest.fixture(scope="module")
def polled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolledFolder]:
    with polled_folder(tmp_path_factory.mktemp("polled")) as polled, Receiver() as receiver:
        (polled.folder / NAME).write_bytes(
            lines(error(messageId=NAME, reason=f"{NAME} — …"), b"{" + NAME.encode())
        )
        (polled.folder / "escapes").write_bytes(lines(error(messageId=ESCAPES), b"{" + ESCAPES.encode()))
        polled.run(receiver.http_endpoint)
        for name, collection in ((NAME, 490000), (ESCAPES, 490001)):
            polled.sql(
                "INSERT INTO hours (collection, hour, failures, failed_why) VALUES (?, ?, 1, ?)",
                *(name, collection, name),
            )
        yield polled


def commands(polled: PolledFolder, text: str, file: str) -> list[list[str]]:
    """Every command, with this text wherever a name may be given."""
    state = ["--state-dir", str(polled.state)]
    return [
        ["status", *state],
        ["status", "--json", *state],
        ["plan", "--collection", text, "--collection", COLLECTION, *state],
        ["plan", "--json", "--collection", text, *state],
        ["audit", *state],
        ["doctor", "--collection", text, "--endpoint", "http://127.0.0.1:9", *state],
        ["doctor", "--json", "--collection", text, "--endpoint", "http://127.0.0.1:9", *state],
        ["run", file, "--protocol", "console"],
        ["run", file, "--protocol", "console", "-v", "--log-format", "json"],
        ["run", file, "missing" + text, "--protocol", "console"],
        ["redact", file],
        ["redact", "--explain", file],
        ["replay", text],
        ["ids", text],
        ["ids", "--new", "--traceparent", text],
        ["simulate", "--growth", text],
        ["run", "--since", text],
        ["run", text + "/" + text],
        [text],
        ["run", "--" + text],
        ["run", file, "--config", text],
    ]


@slow
@pytest.mark.parametrize("charset", CHARSETS)
def test_a_charset_that_lacks_characters_is_no_error_and_no_garbage(
    polled: PolledFolder, charset: str
) -> None:
    encoding = "latin-1" if charset == "latin-1" else "ascii"
    for command in commands(polled, NAME, NAME):
        done = subprocess.run(
            [PROGRAM, *command],
            cwd=polled.folder,
            env=environment(**CHARSETS[charset]),
            capture_output=True,
            check=False,
        )
        assert done.returncode != 70, (command, done.stderr)
        shown = (done.stdout + done.stderr).decode(encoding)  # ASCII has no other bytes
        assert "Traceback" not in shown
        assert "Ã" not in shown, command  # so UTF-8 looks where Latin-1 is expected
        assert not done.stdout.startswith(b"{") or json.loads(done.stdout.splitlines()[0])


@pytest.mark.parametrize("charset", swept(CHARSETS, ["latin-1"]))
def test_the_trees_of_the_demo_are_ascii_art(tmp_path: Path, charset: str) -> None:
    env = environment(**CHARSETS[charset])
    done = subprocess.run([PROGRAM, "demo"], cwd=tmp_path, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode("ascii")
    assert "-- run --once, 1 of 3; simulated time: 2025-05-08T02:00:00Z" in shown
    assert "|- 2025-05-0" in shown
    assert "> link: POST" in shown


def test_json_output_is_the_same_in_every_charset(polled: PolledFolder) -> None:
    def told(**env: Any) -> object:
        return json.loads(run_program("redact", NAME, cwd=polled.folder, **env).stdout.splitlines()[0])

    assert told() == told(PYTHONIOENCODING="ascii") == told(PYTHONIOENCODING="latin-1") == told(LC_ALL="C")


def test_escape_sequences_in_data_never_reach_the_terminal(polled: PolledFolder) -> None:
    for command in commands(polled, ESCAPES, "escapes"):
        done = run_program(*command, cwd=polled.folder)
        shown = done.stdout.decode() + done.stderr
        assert [c for c in shown if not c.isprintable() and c != "\n"] == [], command
    done = run_program("ids", "--new", cwd=polled.folder, TRACEPARENT=ESCAPES)
    assert [c for c in done.stderr if not c.isprintable() and c != "\n"] == []


def on_a_terminal(command: list[str], folder: Path, **env: str) -> bytes:
    reader, writer = pty.openpty()
    with subprocess.Popen(command, cwd=folder, env=environment(**env), stdout=writer, stderr=writer):
        os.close(writer)
        shown = b""
        with suppress(OSError):  # so Linux says that the other end is closed
            while piece := os.read(reader, 1 << 16):
                shown += piece
    os.close(reader)
    return shown


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("env", "is_coloured"),
    [
        ({"TERM": "xterm"}, True),
        slow_case({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        slow_case({"TERM": "xterm", "NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        slow_case({"TERM": "dumb", "FORCE_COLOR": "1"}, False),
        slow_case({}, True),
    ],
)
def test_colours_are_for_terminals_that_take_them(
    polled: PolledFolder, env: dict[str, Any], *, is_coloured: bool
) -> None:
    state = ["--state-dir", str(polled.state)]
    for command in (["status", *state], ["audit", *state], ["doctor", *state, "--collection", "c"]):
        shown = on_a_terminal([PROGRAM, *command], polled.folder, **env)
        assert (b"\x1b" in shown) == is_coloured, command
        assert b"\x1b" not in run_program(*command, cwd=polled.folder, **env).stdout
