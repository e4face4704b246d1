"""The health server, on a real socket."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from faillog_otel.errors import LedgerBroken
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


def with_page(make: Callable[[], str], host: str = "127.0.0.1", seconds: float = 60.0) -> HealthServer:
    return HealthServer(host, 0, alive=dict, ready=dict, page=make, max_seconds=seconds)


client = httpx.Client(verify=False, timeout=60)  # noqa: S501  # reading the system's certificates takes long


LONG = "<p>" + "x" * 8 * 1024 * 1024
"""Longer than all buffers of a connection together."""


@contextlib.contextmanager
def asks_for_the_page(server: HealthServer) -> Iterator[socket.socket]:
    """A peer with a small buffer that has not read anything yet."""
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        peer.connect(("127.0.0.1", server.port))
        peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield peer


def test_a_long_page_arrives_whole_and_others_are_answered_meanwhile() -> None:
    with with_page(lambda: LONG) as server, asks_for_the_page(server) as peer:
        read = peer.recv(1000)
        assert client.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200
        while part := peer.recv(1024 * 1024):
            read += part
    head, _, content = read.partition(b"\r\n\r\n")
    assert content == LONG.encode()
    assert f"content-length: {len(LONG)}".encode() in head


@pytest.mark.timeout(60)
def test_a_peer_that_does_not_read_the_page_is_closed_in_time() -> None:
    """What a connection's buffers hold arrives all the same, so the page is longer than any system's."""
    page = "x" * 64 * 1024 * 1024
    with with_page(lambda: page, seconds=0.3) as server, asks_for_the_page(server) as peer:
        read = len(peer.recv(1000))
        late = time.monotonic() + 0.3
        while time.monotonic() <= late:
            assert client.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200
        for _ in range(2):  # the server closes late connections before it answers the second one
            assert client.get(f"http://127.0.0.1:{server.port}/healthz").status_code == 200
        while part := peer.recv(1024 * 1024):
            read += len(part)
    assert read < len(page)


def test_a_page_protects_itself_and_is_loaded_again_unless_it_is_still() -> None:
    with with_page(lambda: "<p>ä") as server:
        url = f"http://127.0.0.1:{server.port}/"
        answer, still, head = client.get(url), client.get(f"{url}?still"), client.head(url)
    assert (answer.status_code, answer.text) == (200, "<p>ä")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy
    assert answer.headers["refresh"] == "60"
    assert "refresh" not in still.headers
    assert (head.content, head.headers["content-length"]) == (b"", "5")


def test_the_page_is_made_once_for_all_who_ask_and_health_does_not_wait_for_it() -> None:
    """The page is made only after the health check was answered, or never."""
    made, begun, may_be_made = [], threading.Event(), threading.Event()

    def make() -> str:
        begun.set()
        assert may_be_made.wait(30)
        made.append(1)
        return "<p>made"

    with with_page(make) as server, ThreadPoolExecutor(4) as pool:
        url = f"http://127.0.0.1:{server.port}"
        asked = [pool.submit(client.get, f"{url}/") for _ in range(4)]
        assert begun.wait(30)
        assert client.get(f"{url}/healthz").status_code == 200
        may_be_made.set()
        assert [each.result().text for each in asked] == ["<p>made"] * 4
        assert client.get(f"{url}/").text == "<p>made"
    assert len(made) == 1


@pytest.mark.parametrize(
    ("error", "logged"),
    [(LedgerBroken("/state: damaged"), "/state: damaged"), (ZeroDivisionError(), "a bug in faillog-otel")],
)
def test_a_page_that_cannot_be_made_is_503_with_a_sentence(
    caplog: pytest.LogCaptureFixture, error: Exception, logged: str
) -> None:
    def broken() -> str:
        raise error

    with with_page(broken) as server, caplog.at_level(logging.WARNING):
        url = f"http://127.0.0.1:{server.port}"
        answer = client.get(f"{url}/")
        assert client.get(f"{url}/healthz").status_code == 200
    assert answer.status_code == 503
    assert answer.json() == {"error": "the page could not be made; the log of the run says why"}
    assert logged in caplog.text


@pytest.mark.parametrize(
    ("listens", "host", "status"),
    [
        ("127.0.0.1", "localhost:8080", 200),
        ("127.0.0.1", "127.0.0.1", 200),
        ("127.0.0.1", "[::1]:8080", 200),
        ("127.0.0.1", "attacker.example", 403),
        ("127.0.0.1", "[", 403),
        ("0.0.0.0", "faillog:8080", 200),  # noqa: S104
    ],
)
def test_a_page_of_this_machine_is_not_for_a_name_that_leads_here(
    listens: str, host: str, status: int
) -> None:
    """The page of a stranger could read it otherwise, by a name that it controls (DNS rebinding)."""
    with with_page(lambda: "<p>", listens) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert client.get(f"{url}/", headers={"host": host}).status_code == status
        assert client.get(f"{url}/healthz", headers={"host": host}).status_code == 200


def test_without_a_page_its_path_is_unknown() -> None:
    with HealthServer("127.0.0.1", 0, alive=dict, ready=dict) as server:
        answer = client.get(f"http://127.0.0.1:{server.port}/")
    assert (answer.status_code, answer.json()) == (404, {"error": "unknown path; use /healthz or /readyz"})
