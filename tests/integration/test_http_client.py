"""What Segment's API and the downloads make of httpx: connections that are kept, addresses that were checked,
requests that are sent as they were signed, answers that are bounded. Real sockets, with and without TLS.
"""

import gzip
import io
import logging
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.raw_server import RawServer, identity_for_tls, raw_server, read_request

from faillog_otel.clock import HOUR_NS
from faillog_otel.config import Secret
from faillog_otel.segment.answers import Failed, Listing, Outcome
from faillog_otel.segment.api import MAX_ANSWER_BYTES, SegmentApi
from faillog_otel.segment.download import (
    Downloaded,
    Downloader,
    DownloadFailed,
    DownloadOutcome,
    DownloadRefused,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HOST = "bucket.example"


@contextmanager
def api_of(peer: RawServer, token: str = "token") -> Iterator[SegmentApi]:  # noqa: S107  # made up
    with closing(SegmentApi(peer.origin, lambda: Secret(token), "tests")) as api:
        yield api


def check_token(api: SegmentApi) -> Outcome:
    return api.check_token(HOUR_NS).outcome


def list_hour(api: SegmentApi) -> Outcome:
    return api.list_hour("c", 1, "both", HOUR_NS).outcome


def download(url: str, *hosts: str) -> DownloadOutcome:
    return Downloader(hosts, "tests").download(url, None, io.BytesIO(), lambda: False)


def test_requests_reuse_one_connection(tls: ssl.SSLContext | None) -> None:
    def treat(connection: socket.socket) -> None:
        while len(read_request(connection)) > 4:
            connection.sendall(OK)

    with raw_server(treat, tls) as peer, api_of(peer) as api:
        for _ in range(3):
            assert check_token(api) == Listing(())
        assert peer.connections == 1


def test_a_connection_that_was_closed_while_idle_fails_no_request(tls: ssl.SSLContext | None) -> None:
    closed = threading.Semaphore(0)

    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_RDWR)
        closed.release()

    with raw_server(treat, tls) as peer, api_of(peer) as api:
        for number in range(1, 4):
            assert check_token(api) == Listing(())
            assert peer.connections == number
            closed.acquire()


def test_a_cookie_is_not_sent_back() -> None:
    heads = []

    def treat(connection: socket.socket) -> None:
        while len(head := read_request(connection)) > 4:
            heads.append(head)
            connection.sendall(OK.replace(b"\r\n", b"\r\nSet-Cookie: a=b; Path=/\r\n", 1))

    with raw_server(treat) as peer, api_of(peer) as api:
        for _ in range(2):
            assert check_token(api) == Listing(())
    assert len(heads) == 2
    assert b"cookie" not in b"".join(heads).lower()


ENDLESS = b"x" * 65536
PACKED = gzip.compress(bytes(8 * MAX_ANSWER_BYTES), 1, mtime=0)


@pytest.mark.parametrize(
    ("encoding", "piece"),
    [("identity", ENDLESS), ("gzip", PACKED), ("gzip, gzip", gzip.compress(PACKED, mtime=0))],
    ids=["without an end", "packed", "packed twice"],
)
def test_an_answer_that_is_too_long_is_neither_read_nor_unpacked_to_its_end(
    encoding: str, piece: bytes
) -> None:
    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n\r\n".encode() + piece)
        while piece is ENDLESS and not peer.ending.is_set():
            connection.sendall(piece)

    with raw_server(treat) as peer, api_of(peer) as api:
        tracemalloc.start()
        try:
            assert isinstance(list_hour(api), Failed)
            assert tracemalloc.get_traced_memory()[1] < 3 * MAX_ANSWER_BYTES
        finally:
            tracemalloc.stop()


def test_an_answer_that_a_proxy_has_packed_is_read() -> None:
    packed = gzip.compress(b'{"data":{"download":{"urls":["https://s3.amazonaws.com/a"]}}}')

    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + packed)

    with raw_server(treat) as peer, api_of(peer) as api:
        assert list_hour(api) == Listing(("https://s3.amazonaws.com/a",))


@pytest.mark.parametrize("token", ["gehe\nim-token", "geheim-tökén"])
def test_a_token_that_no_header_can_carry_is_not_shown(token: str) -> None:
    with raw_server(lambda _: None) as peer, api_of(peer, token) as api:
        outcome = check_token(api)
        assert isinstance(outcome, Failed)
        assert "check --segment-url and the token" in outcome.why
        assert "gehe" not in outcome.why


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A name server that knows HOST: where nobody listens, and here. Returns what was looked up."""
    real, names = socket.getaddrinfo, list[str]()

    def look_up(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        names.append(host)
        hosts = ("127.0.0.2", "127.0.0.1") if host == HOST else (host,)
        return [row for each in hosts for row in real(each, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


def test_a_download_tries_the_addresses_that_were_checked_while_tls_and_host_name_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_up: list[str]
) -> None:
    context, authority = identity_for_tls(tmp_path, HOST)
    monkeypatch.setenv("SSL_CERT_FILE", authority)
    asked_for, heads = [], []
    context.sni_callback = lambda _, name, __: asked_for.append(name)

    def treat(connection: socket.socket) -> None:
        heads.append(read_request(connection).decode())
        connection.sendall(OK)

    with raw_server(treat, context) as peer:
        netloc = peer.address.replace("127.0.0.1", HOST)
        assert isinstance(download(f"https://{netloc}/a", HOST), Downloaded)
    assert asked_for == [HOST]
    assert f"\r\nhost: {netloc}\r\n" in heads[0].lower()
    assert looked_up.count(HOST) == 1


def test_a_certificate_of_another_host_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_up: list[str]
) -> None:
    context, authority = identity_for_tls(tmp_path)  # for the address, not for the name
    monkeypatch.setenv("SSL_CERT_FILE", authority)
    with raw_server(lambda connection: connection.sendall(OK), context) as peer:
        url = f"https://{peer.address.replace('127.0.0.1', HOST)}/a"
        assert isinstance(download(url, HOST), DownloadRefused)
    assert HOST in looked_up


@pytest.mark.parametrize(
    ("signed", "sent"),
    [
        ("/a/../b//./c%2Fd?X-Amz-Credential=A%2F1&x=a+b~'", None),
        ("/a%zz?x=[]&y", None),
        ("//a?x=1", None),
        ("/a b?x=ä|", "/a%20b?x=%C3%A4%7C"),
        ("?x=1", "/?x=1"),
        ("/a?", "/a"),
        ("", "/"),
    ],
)
def test_a_url_is_sent_as_it_was_signed(signed: str, sent: str | None) -> None:
    heads = []

    def treat(connection: socket.socket) -> None:
        heads.append(read_request(connection).decode())
        connection.sendall(OK)

    with raw_server(treat) as peer:
        assert isinstance(download(f"{peer.origin}{signed}", peer.address), Downloaded)
    assert heads[0].splitlines()[0] == f"GET {sent or signed} HTTP/1.1"


def listing_of(peer: RawServer) -> object:
    with api_of(peer, "geheim-token") as api:
        return list_hour(api)


@pytest.mark.parametrize(
    "ask", [listing_of, lambda peer: download(f"{peer.origin}/a?X-Amz-Signature=geheim", peer.address)]
)
def test_no_library_logs_a_secret(
    ask: Callable[[RawServer], object], caplog: pytest.LogCaptureFixture
) -> None:
    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)

    with caplog.at_level(logging.DEBUG), raw_server(treat) as peer:
        assert not isinstance(ask(peer), DownloadFailed | DownloadRefused)
    assert "geheim" not in caplog.text
