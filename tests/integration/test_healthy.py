"""docker/healthy.py, the image's health check, against our own answers to /healthz."""

import subprocess
import sys
from pathlib import Path

import pytest

from faillog_otel.telemetry.check import Check
from faillog_otel.telemetry.health import HealthServer

HEALTHY = Path(__file__).parents[2] / "docker" / "healthy.py"


def ask(address: str) -> tuple[int, str]:
    env = {"FAILLOG_HEALTH_ADDR": address, "http_proxy": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, HEALTHY], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("listens", "address"),
    [
        ("127.0.0.1", "127.0.0.1:{}"),
        ("127.0.0.1", "{}"),
        ("0.0.0.0", "0.0.0.0:{}"),  # noqa: S104  # as a pod has it, for the probes
        ("::1", "[::1]:{}"),
        ("::", "[::]:{}"),
    ],
)
def test_who_is_alive_is_healthy_wherever_it_listens(listens: str, address: str) -> None:
    alive = {"loops": Check(ok=True, why="turning")}
    with HealthServer(listens, 0, alive=lambda: alive, ready=dict) as server:
        assert ask(address.format(server.port)) == (0, "")


def test_who_is_not_alive_is_not_healthy_and_it_says_why() -> None:
    late = {"loops": Check(ok=False, why="fetching: 700 s late")}
    with HealthServer("127.0.0.1", 0, alive=lambda: late, ready=dict) as server:
        code, said = ask(f"127.0.0.1:{server.port}")
    assert (code, "fetching: 700 s late" in said) == (1, True)
    code, said = ask(f"127.0.0.1:{server.port}")
    assert (code, "Connection refused" in said) == (1, True)
