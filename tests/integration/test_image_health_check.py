"""docker/healthy.py, the image's health check, against our own answers to /healthz."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from faillog_otel.telemetry import Check
from faillog_otel.telemetry.health import HealthServer

HEALTHY = Path(__file__).parents[2] / "docker" / "healthy.py"


def ask(address: str | None) -> tuple[int, str]:
    env = {"http_proxy": "http://127.0.0.1:1"}
    if address is not None:
        env["FAILLOG_HEALTH_ADDR"] = address
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
def test_a_live_sidecar_is_healthy_at_any_address(listens: str, address: str) -> None:
    alive = {"loops": Check(ok=True, why="running")}
    with HealthServer(listens, 0, alive=lambda: alive, ready=dict) as server:
        assert ask(address.format(server.port)) == (0, "")


def test_an_unhealthy_sidecar_says_why() -> None:
    late = {"loops": Check(ok=False, why="fetching: 700 s late")}
    with HealthServer("127.0.0.1", 0, alive=lambda: late, ready=dict) as server:
        code, said = ask(f"127.0.0.1:{server.port}")
    assert (code, "fetching: 700 s late" in said) == (1, True)
    code, said = ask(f"127.0.0.1:{server.port}")
    assert (code, "Connection refused" in said) == (1, True)


class _Refuses(BaseHTTPRequestHandler):
    """Somebody else, who says nothing more."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.send_header("content-length", "0")
        self.end_headers()


def test_an_empty_refusal_is_unhealthy() -> None:
    with HTTPServer(("127.0.0.1", 0), _Refuses) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        assert ask(f"127.0.0.1:{server.server_port}") == (1, "HTTP 503 \n")
        answering.join()


@pytest.mark.parametrize(
    "address", [None, "", "localhost:http", "127.0.0.1:99999", "a..b:80", "a b:80", "x:-1"]
)
def test_a_wrong_address_is_not_healthy_and_named(address: str | None) -> None:
    code, said = ask(address)
    assert (code, "Traceback" in said) == (1, False), said
    assert said.startswith("FAILLOG_HEALTH_ADDR ")
    assert (address or "") in said
