"""Peers that drip: each byte comes in time, an end never does. Real sockets, with and without TLS.

A limit must end the exchange, whichever part of it drips; then the same client reaches a peer that answers.
The time-out of these tests is the guard against a client that does not end.
"""

import io
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.raw_server import RawServer, raw_server, read_request
from support.sidecar import segment_simulator, sidecar, sidecar_options
from support.tiers import swept

from faillog_otel.clock import HOUR_NS
from faillog_otel.config import DeliveryConfig, NetworkProtocol, Secret, Target
from faillog_otel.connections import Connections
from faillog_otel.network import Deadline
from faillog_otel.otlp.delivery import network_client
from faillog_otel.otlp.outcome import Acknowledged, RetryLater
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.segment.answers import Failed, Listing
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.download import Downloaded, Downloader, DownloadFailed, Limits
from faillog_otel.segment.http_client import http_client
from faillog_otel.tls import client_context

pytestmark = pytest.mark.timeout(60)

LIMIT = 0.3
Ask = Callable[[], object]
"""Asks the peer once; returns the outcome."""
OK = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIPS = {
    "status line": ("HTTP/1.1 200 ", "x"),
    "header": (f"{OK}X: ", "x"),
    "headers": (OK, "X: y\r\n"),
    "100": ("", "HTTP/1.1 100 Continue\r\n\r\n"),
    "103": ("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
    "body": (f"{OK}Content-Length: 99999\r\n\r\n", " "),
    "body until the end": (f"{OK}\r\n", " "),
    "chunks": (f"{OK}Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n"),
    "chunk length": (f"{OK}Transfer-Encoding: chunked\r\n\r\n", "0"),
    "chunk extension": (f"{OK}Transfer-Encoding: chunked\r\n\r\n1;", "x"),
    "trailer": (f"{OK}Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", "y"),
    "trailers": (f"{OK}Transfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n"),
}
"""What drips → how the answer begins, and what then comes again and again."""
HANDSHAKE = b"\x16\x03\x03\x40\x00"
"""The head of a TLS record of 16 KiB."""


@contextmanager
def dripping(
    start: bytes, unit: bytes, body: bytes, tls: ssl.SSLContext | None = None
) -> Iterator[RawServer]:
    """Drips on its first connection, answers with the body on all others."""

    def treat(connection: socket.socket) -> None:
        read_request(connection)
        if peer.connections == 1:
            connection.sendall(start)
            peer.drip(connection, unit)
        connection.sendall(f"{OK}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    with raw_server(treat, tls) as peer:
        yield peer


every_drip = pytest.mark.parametrize("drip", swept(DRIPS, ["header", "body", "chunks"]))


@contextmanager
def listing(peer: RawServer) -> Iterator[Ask]:
    with closing(SegmentApi(peer.origin, lambda: Secret("token"), "tests", timeout_seconds=LIMIT)) as api:
        yield lambda: api.list_hour("c", 1, "both", HOUR_NS).outcome


@contextmanager
def token_check(peer: RawServer) -> Iterator[Ask]:
    with closing(SegmentApi(peer.origin, lambda: Secret("token"), "tests", timeout_seconds=LIMIT)) as api:
        yield lambda: api.check_token(HOUR_NS).outcome


@contextmanager
def download(peer: RawServer, **limits: Any) -> Iterator[Ask]:
    downloader = Downloader((peer.address,), "tests", Limits(**{"stall_seconds": LIMIT, **limits}))
    url = f"{peer.origin}/object?sig=1"
    yield lambda: downloader.download(url, None, io.BytesIO(), lambda: False)


@contextmanager
def delivery(peer: RawServer, protocol: NetworkProtocol = "http/json") -> Iterator[Ask]:
    target = Target(url=peer.url, protocol=protocol, timeout_seconds=LIMIT)
    config = DeliveryConfig(targets={"logs": target}, signals=("logs",))
    with closing(network_client(config, (), "tests")) as client:
        yield lambda: client.send("logs", [])


CLIENTS: dict[str, tuple[Callable[[RawServer], AbstractContextManager[Ask]], bytes, type, type]] = {
    "listing": (listing, b'{"data":{"download":{"urls":[]}}}', Failed, Listing),
    "token check": (token_check, b"{}", Failed, Listing),
    "download": (download, b"content", DownloadFailed, Downloaded),
    "delivery": (delivery, b"{}", RetryLater, Acknowledged),
}


@every_drip
@pytest.mark.thin(5)
@pytest.mark.parametrize("client", CLIENTS)
def test_an_answer_that_drips_is_given_up_and_the_next_one_counts(
    client: str, drip: str, tls: ssl.SSLContext | None
) -> None:
    connect, body, failed, succeeded = CLIENTS[client]
    start, unit = DRIPS[drip]
    with dripping(start.encode(), unit.encode(), body, tls) as peer, connect(peer) as ask:
        assert isinstance(ask(), failed)
        assert any(isinstance(ask(), succeeded) for _ in range(100))  # a busy machine may miss the limit


@pytest.mark.thin(3)
@every_drip
def test_an_answer_that_drips_on_a_connection_in_use_is_given_up(
    drip: str, tls: ssl.SSLContext | None
) -> None:
    start, unit = DRIPS[drip]

    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(f"{OK}Content-Length: 2\r\n\r\n{{}}".encode())
        read_request(connection)
        connection.sendall(start.encode())
        peer.drip(connection, unit.encode())

    with raw_server(treat, tls) as peer, token_check(peer) as ask:
        for _ in range(2):
            assert any(isinstance(ask(), Listing) for _ in range(100))  # a busy machine may miss the limit
            connections = peer.connections
            assert isinstance(ask(), Failed)
            assert peer.connections == connections


@pytest.mark.parametrize("client", CLIENTS)
def test_a_tls_handshake_that_drips_is_given_up(client: str) -> None:
    def treat(connection: socket.socket) -> None:
        connection.sendall(HANDSHAKE)
        peer.drip(connection, b"x")

    connect, _, failed, _ = CLIENTS[client]
    with raw_server(treat) as peer:
        peer.origin, peer.url = f"https://{peer.address}", f"https://{peer.address}/v1/logs"
        with connect(peer) as ask:
            assert isinstance(ask(), failed)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_name_server_that_is_silent_is_given_up(client: str) -> None:
    answers = threading.Event()

    def look_up(*_: Any, **__: Any) -> list[Any]:
        answers.wait()
        return []

    connect, _, failed, _ = CLIENTS[client]
    with raw_server(lambda _: None) as peer, connect(peer) as ask, pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", look_up)
        try:
            assert isinstance(ask(), failed)
        finally:
            answers.set()


SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
HEADERS = b"\x00\x40\x00\x01\x00\x00\x00\x00\x01"
PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)


@pytest.mark.parametrize(
    ("start", "unit"),
    [
        (b"", SETTINGS),
        (SETTINGS[:4], b"\x00"),
        (SETTINGS, PING),
        (SETTINGS + HEADERS, b"\x00"),
        (HANDSHAKE, b"x"),
    ],
    ids=["settings", "a frame", "pings", "headers", "handshake"],
)
def test_a_grpc_call_that_drips_is_given_up(start: bytes, unit: bytes) -> None:
    """Without TLS, but for the handshake of a server that never ends it."""

    def treat(connection: socket.socket) -> None:
        connection.sendall(start)
        peer.drip(connection, unit)

    with raw_server(treat) as peer:
        if start == HANDSHAKE:
            peer.url = f"https://{peer.address}"
        with delivery(peer, "grpc") as ask:
            assert isinstance(ask(), RetryLater)


def test_a_server_that_reads_byte_by_byte_is_given_up(tls: ssl.SSLContext | None) -> None:
    def treat(connection: socket.socket) -> None:
        while not peer.ending.wait(0.02):
            connection.recv(1)

    with (
        raw_server(treat, tls) as peer,
        closing(Connections(peer.url, timeout_seconds=LIMIT)) as connections,
        pytest.raises(TimeoutError),
    ):
        connections.post(b"x" * 32 * 1024 * 1024, {})


def test_a_server_that_reads_a_request_slowly_is_given_up_by_httpx(tls: ssl.SSLContext | None) -> None:
    """Each send gets on in time."""
    length, read = 32 * 1024 * 1024, 0

    def treat(connection: socket.socket) -> None:
        nonlocal read
        while not peer.ending.wait(0.005) and (piece := connection.recv(65536)):
            read += len(piece)

    with (
        raw_server(treat, tls) as peer,
        http_client({}, client_context()) as client,
        pytest.raises(httpx.TimeoutException),
    ):
        client.post(peer.url, content=b"x" * length, extensions={"deadline": Deadline(LIMIT)})
    assert read < length / 2


def test_a_slow_download_that_gets_on_may_take_longer_than_a_stall() -> None:
    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        for _ in range(100):
            peer.ending.wait(0.02)
            connection.sendall(b"x")

    with raw_server(treat) as peer, download(peer, stall_seconds=1, min_bytes_per_second=1) as ask:
        assert ask() == Downloaded(None, None, 100)


def test_a_download_that_gets_on_ends_before_its_url_does() -> None:
    with (
        dripping(f"{OK}\r\n".encode(), b"x", b"") as peer,
        download(peer, stall_seconds=5, min_bytes_per_second=1, max_seconds=LIMIT) as ask,
    ):
        assert ask() == DownloadFailed("the download is too slow")


@pytest.mark.thin(3)
@pytest.mark.parametrize("drip", ["status line", "103", "chunk extension"])
def test_the_images_health_check_gives_up_what_drips(drip: str) -> None:
    script = Path(__file__).parents[2] / "docker" / "healthy.py"
    start, unit = DRIPS[drip]
    with dripping(start.encode(), unit.encode(), b"") as peer:
        done = subprocess.run(
            [sys.executable, script],
            env={"FAILLOG_HEALTH_ADDR": peer.address},
            capture_output=True,
            check=False,
        )
    assert (done.returncode, done.stderr.startswith(b"FAILLOG_HEALTH_ADDR ")) == (1, True), done


@pytest.mark.parametrize("drip", ["body", "body until the end", "trailers"])
def test_closing_ends_an_answer_that_drips(drip: str) -> None:
    """Also one that has no limit: `timeout = 0` is the user's choice, and a stop is too."""
    start, unit = DRIPS[drip]
    ended: list[BaseException] = []
    begun = threading.Event()

    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(start.encode())
        begun.set()
        peer.drip(connection, unit.encode())

    def post() -> None:
        try:
            connections.post(b"", {})
        except (OSError, HTTPException) as error:
            ended.append(error)

    with raw_server(treat) as peer:
        connections = Connections(peer.url)
        thread = threading.Thread(target=post, daemon=True)
        thread.start()
        assert begun.wait(30)
        connections.close()
        thread.join(30)
        assert len(ended) == 1


@pytest.mark.thin(3)
@pytest.mark.parametrize("drip", ["status line", "100", "chunk extension"])
def test_a_stop_does_not_wait_for_what_drips(drip: str, tmp_path: Path) -> None:
    start, unit = DRIPS[drip]
    asked = threading.Event()

    def treat(connection: socket.socket) -> None:
        read_request(connection)
        asked.set()
        connection.sendall(start.encode())
        peer.drip(connection, unit.encode())

    with raw_server(treat) as peer:
        args = ["run", "--state-dir", "state", "--segment-url", peer.origin, "--collection", "c"]
        with sidecar([*args, "--endpoint", "http://127.0.0.1:1"], tmp_path) as running:
            assert asked.wait(30)
            assert running.end() == 143


def test_our_own_metrics_are_sent_again_after_an_endpoint_that_dripped(
    tmp_path: Path, receiver: Receiver
) -> None:
    again = threading.Event()

    def treat(connection: socket.socket) -> None:
        read_request(connection)
        if peer.connections > 1:
            again.set()
        connection.sendall(f"{OK}X: ".encode())
        peer.drip(connection, b"x")

    with raw_server(treat) as peer, segment_simulator("mine") as segment:
        settings = {"ENDPOINT": peer.origin, "INTERVAL": "100ms", "TIMEOUT": "0.3s"}
        own = {f"FAILLOG_SELF_OTLP_{name}": value for name, value in settings.items()}
        with sidecar(sidecar_options(segment, receiver), tmp_path, **own) as running:
            assert again.wait(50)
            assert running.end() == 143
