"""`--log-format json`: whatever is said on standard error, and however the program ends."""

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.events import error, lines
from support.program import run_program, start_program

from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.config import SimulatorConfig, WorldConfig

AWAY = "http://127.0.0.1:9"
TOKEN = "s3gment-t0ken"  # noqa: S105  # the simulator's


def entries(stderr: str) -> list[dict[str, Any]]:
    """All lines of standard error: each is one object with a time of today, a level and a message."""
    found = [json.loads(line) for line in stderr.splitlines()]
    for entry in found:
        at = datetime.fromisoformat(entry["time"])
        assert abs(datetime.now(UTC) - at) < timedelta(hours=1)
        assert entry["level"] in {"debug", "info", "warning", "error"}
        assert entry["message"]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "events").write_bytes(lines(error()))
    (tmp_path / "broken").write_bytes(lines(error(), b"{"))
    (tmp_path / "unknown.toml").write_text(
        '[run]\nlog_format = "json"\nstate_dir = ""\n[segment]\nurl = "x"\n'
    )
    (tmp_path / "no.toml").write_text("[run\n")
    return tmp_path


@pytest.mark.thin(3)
@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["run", "--no-such-option"], 2, "--no-such-option"),
        (["no-such-command"], 2, "no-such-command"),
        (["run", "events", "--wait", "soon"], 2, "soon"),
        (["run", "events", "--config", "missing.toml"], 2, "missing.toml"),
        (["run", "events", "--config", "no.toml"], 2, "no.toml"),
        (["run"], 2, "collection"),
        (["run", "missing", "events", "--endpoint", "RECEIVER"], 2, "missing: no such file"),
        (["run", "events", "--endpoint", "RECEIVER"], 0, "ended"),
        (["run", "events", "--endpoint", "RECEIVER", "-vv"], 0, "ended"),
        (["run", "broken", "--endpoint", "RECEIVER"], 3, "ended"),
        (["run", "events", "--endpoint", AWAY, "--wait", "0s"], 4, "not delivered"),
        (["run", "--once", "--collection", "c", "--state-dir", "events"], 5, "events"),
        (["run", "--once", "--collection", "c", "--segment-url", AWAY], 6, "refused"),
        (["replay", "missing"], 2, "missing"),
        (["redact", "broken", "missing"], 2, "missing"),
        (["status", "--state-dir", "missing"], 5, "holds no ledger"),
    ],
)
def test_every_line_of_standard_error_is_an_object(
    receiver: Receiver, folder: Path, args: list[str], code: int, says: str
) -> None:
    args = [receiver.http_endpoint if arg == "RECEIVER" else arg for arg in args]
    env: dict[str, Any] = {
        "FAILLOG_LOG_FORMAT": "json",
        "SEGMENT_TOKEN": TOKEN,
        "XDG_STATE_HOME": str(folder / "home"),
    }
    done = run_program(*args, cwd=folder, **env)
    assert done.code == code, done.stderr
    assert any(says in entry["message"] for entry in entries(done.stderr)), done.stderr


def test_the_flag_counts_for_errors_of_usage_too(folder: Path) -> None:
    for flag in (["--log-format", "json"], ["--log-format=json"]):
        done = run_program("run", *flag, "--no-such-option", cwd=folder, FAILLOG_LOG_FORMAT="text")
        [entry] = entries(done.stderr)
        assert (done.code, entry["level"]) == (2, "error")
    done = run_program("run", "--log-format", "text", "--nothing", cwd=folder, FAILLOG_LOG_FORMAT="json")
    assert done.stderr.startswith("Usage: ")


def test_the_config_file_counts_for_what_is_wrong_in_it(folder: Path) -> None:
    done = run_program("run", "events", "--config", "unknown.toml", cwd=folder)
    assert done.code == 2
    assert entries(done.stderr)


def test_the_last_line_has_the_summary_as_fields(receiver: Receiver, folder: Path) -> None:
    done = run_program(
        "run", "broken", "--endpoint", receiver.http_endpoint, "--log-format", "json", cwd=folder
    )
    last = entries(done.stderr)[-1]
    assert list(last)[:4] == ["time", "level", "logger", "message"]
    assert (last["level"], last["exported"], last["quarantined"], last["exit"]) == ("info", 1, 1, 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_objects_only(folder: Path, number: int) -> None:
    process = start_program("run", "-", "--endpoint", AWAY, "-v", "--log-format", "json", cwd=folder)
    assert process.stderr
    first = process.stderr.readline()
    process.send_signal(number)
    _, rest = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert entries((first + rest).decode())[-1]["exit"] == 128 + number


def test_workers_say_objects_too(receiver: Receiver, folder: Path) -> None:
    (folder / "large").write_bytes((lines(*[error()] * 400) + b"{\n") * 40)
    args = ("run", "large", "--endpoint", receiver.http_endpoint, "--workers", "2", "--log-format", "json")
    done = run_program(*args, "-v", cwd=folder)
    assert done.code == 3
    assert sum("invalid_json" in entry["message"] for entry in entries(done.stderr)) >= 40


def test_a_sidecar_says_objects_only(receiver: Receiver, folder: Path) -> None:
    world = WorldConfig(collections=("shop",), damage=0.05, seed=2)
    with Simulator(SimulatorConfig(world=world, token=TOKEN)) as segment:
        args = ["run", "--once", "--since", "-10h", "--collection", "shop", "--segment-url", segment.url]
        args += ["--download-host", segment.download_host, "--endpoint", receiver.http_endpoint, "-v"]
        done = run_program(*args, "--log-format", "json", "--state-dir", "s", cwd=folder, SEGMENT_TOKEN=TOKEN)
    assert done.code in (0, 3)
    assert "exported" in entries(done.stderr)[-1]


_BROKEN_LIBRARY = """
import logging, threading, warnings

class Strange:
    def __del__(self):
        raise KeyError("in a destructor")

warnings.warn("old\\x1b[31m ways")
logging.getLogger("of.a.library").warning("it is\\x1b[31m late")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
strange = Strange()
del strange
raise RuntimeError("broken\\x1b[31m library")
"""


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_warnings_and_tracebacks_of_libraries_are_log_lines(folder: Path, log_format: str) -> None:
    (folder / "httpx.py").write_text(_BROKEN_LIBRARY)
    args = ("run", "--once", "--collection", "c", "--log-format", log_format)
    done = run_program(*args, cwd=folder, PYTHONPATH=str(folder), SEGMENT_TOKEN=TOKEN)
    assert done.code == 70
    assert "\x1b" not in done.stderr
    for said in ("old", "it is", "ZeroDivisionError", "in a destructor", "broken"):
        assert said in done.stderr, said
    if log_format == "json":
        last = entries(done.stderr)[-1]
        assert last["level"] == "error"
        assert "RuntimeError: broken" in last["message"]
        assert "httpx.py" in last["traceback"]
