"""The program where the name server says nothing: how long each command waits, and how a signal ends it."""

import signal
import subprocess
from pathlib import Path

import pytest
from support.program import Done, run_program, start_program

SILENT = """
import socket, sys, threading

def look_up(*_, **__):
    sys.stderr.write("looking up\\n")
    sys.stderr.flush()
    threading.Event().wait()

socket.getaddrinfo = look_up
"""
"""Takes the place of the system's resolver in a started program: it cannot be told to ask another server."""
POLLING = ("--segment-url", "https://api.silent.example", "--collection", "c", "--state-dir", "state")
TOKEN = "sgp_c4n4ry"  # noqa: S105  # made up

COMMANDS = {
    "run --once": ("run", "--once", *POLLING, "--protocol", "file", "--output", "out.jsonl"),
    "run": ("run", *POLLING, "--protocol", "file", "--output", "out.jsonl"),
    "doctor": ("doctor", *POLLING, "--protocol", "console"),
    "replay": ("replay", *POLLING, "--since", "-3h", "--endpoint", "http://127.0.0.1:9"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sitecustomize.py").write_text(SILENT)
    return tmp_path


def run(command: str, folder: Path) -> Done:
    """Ends within `--wait` and a little, or the test fails."""
    args = (*COMMANDS[command], "--wait", "2s")
    return run_program(*args, cwd=folder, timeout=30, SEGMENT_TOKEN=TOKEN, PYTHONPATH=str(folder))


def test_a_run_waits_for_segments_name_as_long_as_it_was_told(folder: Path) -> None:
    done = run("run --once", folder)
    assert done.code == 6
    assert "no complete answer within 2 s" in done.stderr


def test_doctor_waits_as_long(folder: Path) -> None:
    done = run("doctor", folder)
    assert done.code == 1
    assert "no complete answer within 2 s" in done.stdout.decode()


@pytest.mark.thin(4)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_ends_a_name_lookup(command: str, number: int, folder: Path) -> None:
    """Within the ten seconds that are promised."""
    process = start_program(*COMMANDS[command], cwd=folder, SEGMENT_TOKEN=TOKEN, PYTHONPATH=str(folder))
    with process:
        try:
            for line in process.stderr or ():
                if b"looking up" in line:
                    break
            process.send_signal(number)
            code = process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert code in (128 + number, -number)
