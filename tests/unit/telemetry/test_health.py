"""The health server, on a real socket."""

import contextlib
import logging
import socket
import threading
from pathlib import Path

import httpx
import pytest

from faillog_otel.telemetry import Check
from faillog_otel.telemetry.health import MAX_CONNECTIONS, HealthServer


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


def test_many_slow_peers_cost_little_and_block_no_other() -> None:
    """They use no threads and a bounded number of descriptors, and are closed when the server ends."""
    threads, descriptors = threading.active_count(), len(list(Path("/dev/fd").iterdir()))
    with contextlib.ExitStack() as stack:
        with HealthServer("127.0.0.1", 0, alive=dict, ready=dict) as server:
            address = ("127.0.0.1", server.port)
            peers = [stack.enter_context(socket.create_connection(address)) for _ in range(200)]
            for _ in range(3):
                for peer in peers:
                    with contextlib.suppress(OSError):  # another one has taken its place
                        peer.send(b"G")
                assert httpx.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200
            assert threading.active_count() <= threads + 1
            assert len(list(Path("/dev/fd").iterdir())) <= descriptors + len(peers) + MAX_CONNECTIONS + 8
        for peer in peers:
            with contextlib.suppress(ConnectionError):
                assert peer.recv(1) == b""


def test_fewer_connections_are_kept_where_few_descriptors_are_allowed() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(HealthServer("127.0.0.1", 0, alive=dict, ready=dict, max_connections=3))
        address = ("127.0.0.1", server.port)
        peers = [stack.enter_context(socket.create_connection(address)) for _ in range(10)]
        assert httpx.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200
        for peer in peers[:7]:
            assert peer.recv(1) == b""


@pytest.mark.timeout(30)
@pytest.mark.parametrize("start", [b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nX: "])
def test_a_slow_peer_is_closed_in_time(start: bytes) -> None:
    """The time-out fails a server that waits as long as data arrives."""
    with (
        HealthServer("127.0.0.1", 0, alive=dict, ready=dict, max_seconds=0.3) as server,
        socket.create_connection(("127.0.0.1", server.port)) as peer,
    ):
        peer.sendall(start)
        peer.settimeout(0.02)
        closed = False
        while not closed:
            try:
                peer.send(b"x")
                closed = peer.recv(1) == b""
            except TimeoutError:
                pass
            except ConnectionError:
                closed = True
        assert httpx.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200


def test_a_request_without_an_end_is_not_kept() -> None:
    with (
        HealthServer("127.0.0.1", 0, alive=dict, ready=dict) as server,
        socket.create_connection(("127.0.0.1", server.port)) as peer,
        contextlib.suppress(ConnectionError),
    ):
        peer.sendall(b"x" * 1024 * 1024)
        assert peer.recv(1) == b""


def test_a_check_that_raises_is_logged_and_the_server_continues(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> dict[str, Check]:
        raise ZeroDivisionError

    with HealthServer("127.0.0.1", 0, alive=dict, ready=broken) as server:
        with caplog.at_level(logging.ERROR), pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://127.0.0.1:{server.port}/readyz")
        assert httpx.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200
    assert "a health check failed" in caplog.text
