"""The server of health questions, on a real socket."""

import logging
import socket

import httpx
import pytest

from faillog_otel.telemetry.check import Check
from faillog_otel.telemetry.health import HealthServer


def test_it_answers_503_when_a_check_fails_and_says_which() -> None:
    found = {"a": Check(ok=True, why="fine"), "b": Check(ok=False, why="2 hours late")}
    with HealthServer("127.0.0.1", 0, alive=dict, ready=lambda: found) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert httpx.get(f"{url}/healthz").status_code == 200
        answer = httpx.get(f"{url}/readyz")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "ok": False,
        "checks": {"a": {"ok": True, "why": "fine"}, "b": {"ok": False, "why": "2 hours late"}},
    }


def test_one_that_connects_and_says_nothing_holds_nobody_up() -> None:
    with (
        HealthServer("127.0.0.1", 0, alive=dict, ready=dict) as server,
        socket.create_connection(("127.0.0.1", server.port)),
        socket.create_connection(("127.0.0.1", server.port)),
    ):
        assert httpx.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200


def test_a_check_that_fails_by_a_bug_is_logged_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> dict[str, Check]:
        raise ZeroDivisionError

    with HealthServer("127.0.0.1", 0, alive=dict, ready=broken) as server:
        with caplog.at_level(logging.ERROR), pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://127.0.0.1:{server.port}/readyz")
        assert httpx.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200
    assert "our health" in caplog.text
