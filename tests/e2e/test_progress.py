"""The line at the bottom of a terminal, as a user sees it, with a collector that is slow or away."""

import gzip
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from support.events import error, lines
from support.program import run_program
from support.terminal import Terminal, on_terminal

from faillog_otel.config import Signal
from faillog_otel.sandbox.collector import Receiver, Reply

AWAY = "http://127.0.0.1:9"
MESSAGES = ("warning: ", "error: ", "info: ")
MANY = lines(*[error(messageId=f"m{number}", reason="r" * 300) for number in range(10_000)])
"""Twenty batches."""
BATCH_RECORDS = 512
SIZE = f"{len(MANY) / 1e6:.1f} MB"


class Gate:
    """A collector that acknowledges the first batches of the input, as many as it is let.

    Batches travel four at a time and may arrive in any order. The line shows what is delivered up to the
    first batch that is not.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0

    def let(self, batches: int) -> None:
        with self._changed:
            self._open += batches
            self._changed.notify_all()

    def script(self, _signal: Signal, body: bytes) -> Reply | None:
        request = ExportLogsServiceRequest.FromString(body)
        records = [
            each for logs in request.resource_logs for scope in logs.scope_logs for each in scope.log_records
        ]
        numbers = [
            int(value.value.string_value.removeprefix("m"))
            for record in records
            for value in record.attributes
            if value.key == "messaging.message.id"
        ]
        with self._changed:
            self._changed.wait_for(lambda: min(numbers) // BATCH_RECORDS < self._open)
        return None


@contextmanager
def gated() -> Iterator[tuple[Gate, Receiver]]:
    gate = Gate()
    with Receiver(gate.script) as receiver:
        try:
            yield gate, receiver
        finally:
            gate.let(10_000)


def percent(shown: list[str]) -> int | None:
    """The percentage of the progress line; None if it shows none, or while a message replaces the line."""
    lines = [line for line in shown if "delivered" in line]
    assert len(lines) <= 1
    found = re.search(r"(\d+) %", "".join(lines))
    return int(found[1]) if found else None


def messages_are_whole(terminal: Terminal) -> None:
    """No line of the screen ever had both a message and the progress; there was never a second progress."""
    for line in terminal.lines_seen:
        if line.lstrip().startswith(MESSAGES):
            assert not re.search(r"\d+ %|delivered,|━", line), line
        else:
            assert not any(word in line for word in MESSAGES), line


def test_the_line_shows_what_the_collector_acknowledged_not_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(MANY)
    with gated() as (gate, receiver):
        args = ("run", "events", "--endpoint", receiver.http_endpoint, "--workers", "1", "--signals", "logs")
        with on_terminal(*args, cwd=tmp_path) as terminal:
            terminal.wait_for(lambda shown: percent(shown) == 0 if shown else False)
            gate.let(5)
            shown = terminal.wait_for(lambda shown: (percent(shown) or 0) >= 20)
            assert percent(shown) in range(20, 30)  # five of twenty batches
            assert len(shown) == 1
            assert f"of {SIZE}" in shown[0]
            gate.let(10_000)
            shown = terminal.end()
    assert terminal.process.returncode == 0
    assert shown[0] == "10000 records: 10000 exported"  # the line is gone
    assert b"\x1b[?25l" not in terminal.raw  # a killed run leaves the cursor where it was


def test_a_collector_that_is_away_never_makes_100_percent(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(MANY)
    with on_terminal("run", "events", "--endpoint", AWAY, "--wait", "2s", cwd=tmp_path) as terminal:
        shown = terminal.end()
    assert terminal.process.returncode == 4
    messages_are_whole(terminal)
    assert any("retrying" in line for line in shown)
    assert not any("%" in line or "delivered," in line for line in shown)
    progress = [line for line in terminal.lines_seen if "%" in line and "delivered" in line]
    assert progress
    assert all(f" 0 %, 0 bytes of {SIZE}" in line and "left" not in line for line in progress), progress


def test_messages_of_workers_are_above_the_progress_line(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes((MANY[: 1 << 20] + b"\n{\n") * 12)
    with gated() as (gate, receiver):
        args = ("run", "events", "--endpoint", receiver.http_endpoint, "--workers", "2", "-v")
        with on_terminal(*args, cwd=tmp_path, columns=160) as terminal:
            terminal.wait_for(lambda shown: any("0 %" in line for line in shown))
            gate.let(12)
            shown = terminal.wait_for(lambda shown: any("invalid_json" in line for line in shown))
            terminal.wait_for(lambda shown: (percent(shown) or 0) > 0)
            gate.let(10_000)
            shown = terminal.end()
    assert terminal.process.returncode == 3
    assert sum("invalid_json" in line for line in shown) >= 12
    messages_are_whole(terminal)


def test_progress_counts_the_bytes_of_compressed_files(tmp_path: Path) -> None:
    packed = gzip.compress(MANY)
    (tmp_path / "events.gz").write_bytes(packed)
    with gated() as (_gate, receiver):
        args = ("run", "events.gz", "--endpoint", receiver.http_endpoint, "--signals", "logs")
        with on_terminal(*args, cwd=tmp_path) as terminal:
            shown = terminal.wait_for(lambda shown: percent(shown) == 0 if shown else False)
            assert f"of {len(packed) / 1000:.1f} kB" in shown[0]


def test_standard_input_has_no_percentage_before_its_end(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with gated() as (_gate, receiver):
        args = ("run", "-", "--endpoint", receiver.http_endpoint, "--signals", "logs")
        with on_terminal(*args, cwd=tmp_path, stdin=reader) as terminal:
            os.close(reader)
            shown = terminal.wait_for(bool)
            assert "0 bytes delivered" in shown[0]
            assert percent(shown) is None
            with os.fdopen(writer, "wb") as file:
                file.write(MANY)
            shown = terminal.wait_for(lambda shown: percent(shown) == 0)
            assert f"of {SIZE}" in shown[0]


@pytest.mark.thin(3)
@pytest.mark.parametrize("columns", [8, 20, 40, 60, 200])
def test_the_line_fits_into_the_terminal_and_follows_its_size(tmp_path: Path, columns: int) -> None:
    (tmp_path / "events").write_bytes(MANY)
    with gated() as (gate, receiver):
        args = ("run", "events", "--endpoint", receiver.http_endpoint, "--workers", "1", "--signals", "logs")
        with on_terminal(*args, cwd=tmp_path, columns=columns, COLUMNS="500") as terminal:
            shown = terminal.wait_for(lambda shown: bool(shown) and "0 %" in shown[0])
            assert len(shown) == 1
            terminal.resize(24)
            gate.let(10)
            shown = terminal.wait_for(lambda shown: bool(re.fullmatch(r"[45]\d %, about .* left", shown[0])))
            assert len(shown) == 1


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("more", "env"),
    [
        ([], {"TERM": "dumb"}),
        ([], {"TERM": "unknown", "FORCE_COLOR": "1"}),
        ([], {"NO_COLOR": "1"}),
        (["-q"], {}),
        (["--log-format", "json"], {}),
    ],
)
def test_no_progress_line_where_none_is_wanted(tmp_path: Path, more: list[str], env: dict[str, Any]) -> None:
    (tmp_path / "events").write_bytes(lines(error(), b"{"))
    with on_terminal(
        "run", "events", "--endpoint", AWAY, "--wait", "1s", *more, cwd=tmp_path, **env
    ) as terminal:
        terminal.end()
    assert terminal.process.returncode == 4
    assert b"\x1b" not in terminal.raw
    assert b"delivered," not in terminal.raw.replace(b"not delivered", b"")
    assert b"%" not in terminal.raw


def test_an_ascii_terminal_gets_an_ascii_line(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(MANY)
    with gated() as (gate, receiver):
        args = ("run", "events", "--endpoint", receiver.http_endpoint, "--workers", "1", "--signals", "logs")
        with on_terminal(*args, cwd=tmp_path, LC_ALL="C") as terminal:
            gate.let(10)
            terminal.wait_for(lambda shown: bool(shown) and (percent(shown) or 0) > 0)
            gate.let(10_000)
            terminal.end()
    assert terminal.raw.isascii()
    assert any("forwarding -" in line for line in terminal.lines_seen)


def test_a_signal_leaves_no_line_behind(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(MANY)
    with gated() as (_, receiver):
        args = ("run", "events", "--endpoint", receiver.http_endpoint, "--signals", "logs")
        with on_terminal(*args, cwd=tmp_path) as terminal:
            terminal.wait_for(lambda shown: bool(shown) and "0 %" in shown[0])
            terminal.process.send_signal(signal.SIGINT)
            shown = terminal.end()
    assert terminal.process.returncode == 130
    assert not any("%" in line for line in shown)
    messages_are_whole(terminal)


def test_without_a_terminal_rich_is_never_imported(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(lines(error()))
    (tmp_path / "rich.py").write_text("raise RuntimeError('imported')")
    args = ("run", "events", "--endpoint", receiver.http_endpoint)
    done = run_program(*args, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.code == 0, done.stderr
