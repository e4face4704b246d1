"""Connections to collectors that hang up, drip, or answer before they have heard everything: real sockets."""

import base64
import gzip
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException

import pytest
from support.raw_server import OK, RawServer, raw_server, read_request

from faillog_otel.connections import MAX_ANSWER_BYTES, Connections
from faillog_otel.network import parse_proxy

LARGE = b"x" * 32 * 1024 * 1024
"""More than the buffers between two processes hold."""


@contextmanager
def connections_to(peer: RawServer, url: str = "", timeout_seconds: float = 30) -> Iterator[Connections]:
    connections = Connections(url or peer.url, timeout_seconds=timeout_seconds)
    try:
        yield connections
    finally:
        connections.close()


def test_requests_reuse_one_connection() -> None:
    def treat(connection: socket.socket) -> None:
        while len(read_request(connection)) > 4:
            connection.sendall(OK)

    with raw_server(treat) as peer, connections_to(peer) as connections:
        for _ in range(3):
            assert connections.post(b"", {}).body == b"ok"
        assert peer.connections == 1


def test_a_closed_connection_is_not_reused() -> None:
    """A request on it would fail, though the server is well."""
    closed = threading.Semaphore(0)

    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_RDWR)
        closed.release()

    with raw_server(treat) as peer, connections_to(peer) as connections:
        for number in range(1, 4):
            assert connections.post(b"x", {}).body == b"ok"
            assert peer.connections == number
            closed.acquire()


@pytest.mark.parametrize("ending", ["Connection: close\r\nContent-Length: 2\r\n\r\nok", "\r\nok"])
def test_a_server_may_say_that_it_closes(ending: str) -> None:
    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(f"HTTP/1.1 200 OK\r\n{ending}".encode())

    with raw_server(treat) as peer, connections_to(peer) as connections:
        for number in range(1, 3):
            assert connections.post(b"x", {}).body == b"ok"
            assert peer.connections == number


def test_an_answer_that_comes_before_the_request_is_over_counts() -> None:
    """As that of a server which sees from the length alone that a request is too large for it."""

    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    with raw_server(treat) as peer, connections_to(peer) as connections:
        assert connections.post(LARGE, {}).status == 413


def test_a_server_that_does_not_read_ends_the_request_in_time() -> None:
    def treat(_: socket.socket) -> None:
        peer.ending.wait()

    with raw_server(treat) as peer, connections_to(peer, timeout_seconds=0.3) as connections:
        with pytest.raises(TimeoutError):
            connections.post(LARGE, {})
        peer.ending.set()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
)
def test_an_incomplete_answer_is_an_error(answer: bytes) -> None:
    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer)

    with raw_server(treat) as peer, connections_to(peer) as connections, pytest.raises(HTTPException):
        connections.post(b"", {})


@pytest.mark.parametrize("length", [f"Content-Length: {MAX_ANSWER_BYTES + 1}\r\n", ""])
def test_an_answer_that_is_too_long_is_not_read_to_its_end(length: str) -> None:
    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode())
        while not peer.ending.is_set():
            connection.sendall(b"x" * 65536)

    with raw_server(treat) as peer, connections_to(peer) as connections:
        assert connections.post(b"x", {}).body is None


def test_interim_answers_are_skipped() -> None:
    """None of them is taken for the answer, and the next request gets its own."""
    interim = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"

    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(interim + OK)
        read_request(connection)
        connection.sendall(interim)
        connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    with raw_server(treat) as peer, connections_to(peer) as connections:
        assert connections.post(b"", {}).body == b"ok"
        assert connections.post(b"", {}).status == 503
        assert peer.connections == 1


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_an_answer_that_a_proxy_has_packed_is_unpacked(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(b"answer")

    def treat(connection: socket.socket) -> None:
        read_request(connection)
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
        connection.sendall(head.encode() + packed)

    with raw_server(treat) as peer, connections_to(peer) as connections:
        assert connections.post(b"", {}).body == b"answer"


@pytest.mark.parametrize("url", ["http://[2001:db8::abcd]", "https://[2001:db8::99]/otlp"])
def test_an_ipv6_address_needs_no_port(url: str) -> None:
    """It is for documentation, and nobody answers; what is no port is none."""
    connections = Connections(url, timeout_seconds=0.3)
    with pytest.raises(OSError):  # noqa: PT011  # whatever the network says of it; InvalidURL is none
        connections.post(b"", {})


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_closing_ends_what_is_under_way(scheme: str) -> None:
    """A request that waits for its answer, or for the other side's part of the handshake."""
    asked = threading.Event()
    ended: list[BaseException] = []

    def treat(connection: socket.socket) -> None:
        connection.recv(1)
        asked.set()
        peer.ending.wait()

    def post() -> None:
        try:
            connections.post(b"x", {})
        except (OSError, HTTPException) as error:
            ended.append(error)

    with raw_server(treat) as peer:
        url = peer.url.replace("http", scheme)
        connections = Connections(url, timeout_seconds=30, context=ssl.create_default_context)
        thread = threading.Thread(target=post)
        thread.start()
        asked.wait()
        connections.close()
        thread.join()
        assert len(ended) == 1
        assert not isinstance(ended[0], TimeoutError)
        with pytest.raises(ConnectionAbortedError):
            connections.post(b"x", {})


def test_user_and_password_of_the_url_and_its_query_are_sent() -> None:
    heads = []

    def treat(connection: socket.socket) -> None:
        heads.append(read_request(connection).decode().splitlines())
        connection.sendall(OK)

    with raw_server(treat) as peer:
        url = peer.url.replace("//", "//me:p%40ss@") + "?api-version=1"
        with connections_to(peer, url) as connections:
            connections.post(b"body", {"x-key": "k"})
    (head,) = heads
    assert head[0] == "POST /v1/logs?api-version=1 HTTP/1.1"
    assert f"authorization: Basic {base64.b64encode(b'me:p@ss').decode()}" in head
    assert {"x-key: k", "Content-Length: 4", f"Host: {peer.url.split('/')[2]}"} <= set(head)


@pytest.mark.parametrize(
    ("url", "first_line", "host"),
    [
        ("http://collector.test/v1/logs", "POST http://collector.test/v1/logs HTTP/1.1", "collector.test"),
        ("http://collector.test:80/", "POST http://collector.test/ HTTP/1.1", "collector.test"),
        ("http://[fd00::1]:4318/", "POST http://[fd00::1]:4318/ HTTP/1.1", "[fd00::1]:4318"),
        ("http://[fd00::1]/", "POST http://[fd00::1]/ HTTP/1.1", "[fd00::1]"),
        ("https://collector.test/", "CONNECT collector.test:443 HTTP/1.1", "collector.test:443"),
        ("https://[fd00::1]/", "CONNECT [fd00::1]:443 HTTP/1.1", "[fd00::1]:443"),
    ],
)
def test_a_request_to_a_proxy(url: str, first_line: str, host: str) -> None:
    """A default port is left out of the Host header, but of CONNECT's (RFC 9110, section 7.2)."""
    heads = []

    def treat(connection: socket.socket) -> None:
        heads.append(read_request(connection).decode())
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with raw_server(treat) as peer:
        connections = Connections(url, timeout_seconds=30, proxy=parse_proxy(peer.origin, "[otlp] proxy"))
        if url.startswith("https:"):
            with pytest.raises(OSError, match="403"):
                connections.post(b"", {})
        else:
            assert connections.post(b"", {}).status == 403
        connections.close()
    (head,) = heads
    assert head.startswith(f"{first_line}\r\n")
    assert f"\r\nhost: {host}\r\n" in head.lower()
