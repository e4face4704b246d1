"""Segment's API and S3 through HTTP proxies, good and bad ones: real sockets, and TLS through them."""

import io
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme
from msgspec import Struct
from support.proxy import HttpProxy
from support.raw_server import RawServer, raw_server, read_request

from faillog_otel.clock import HOUR_NS
from faillog_otel.config import Secret, SegmentConfig
from faillog_otel.segment.answers import Failed, Listing
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.download import (
    Downloaded,
    Downloader,
    DownloadFailed,
    DownloadOutcome,
    DownloadRefused,
    Limits,
)
from faillog_otel.segment.http_client import Network, network_of

pytestmark = pytest.mark.timeout(60)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HOST = "bucket.example"
SIGNED = "/a%2Fb/../c?X-Amz-Credential=A%2F1&x=a+b~'"
PASSWORD = "gehe:im/@"  # noqa: S105  # made up
LOGIN = "me:gehe%3Aim%2F%40@"


class Site(Struct, frozen=True):
    """A server with TLS that is known by its name to the proxy alone; the heads of what it was asked."""

    peer: RawServer
    heads: list[str]
    tls: ssl.SSLContext
    """For more servers with a certificate of the same authority: for 127.0.0.1."""
    asked_names: list[str]
    """What this side looked up."""

    @property
    def names(self) -> dict[str, int]:
        return dict.fromkeys((f"{HOST}:443", "[2001:db8::1]:443"), self.peer.port)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context, own = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
    authority.issue_cert(HOST, "2001:db8::1").configure_cert(context)
    authority.issue_cert("127.0.0.1").configure_cert(own)
    heads, looked_up, real = list[str](), list[str](), socket.getaddrinfo

    def look_up(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        looked_up.append(host)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    def treat(connection: socket.socket) -> None:
        while len(head := read_request(connection)) > 4:
            heads.append(head.decode())
            connection.sendall(OK)

    with raw_server(treat, context) as peer:
        yield Site(peer, heads, own, looked_up)


def through(proxy: str, **environ: str) -> Network:
    """The settings of a proxy's URL; or `environment`."""
    return network_of(SegmentConfig(proxy=Secret(proxy)), environ)


def check(network: Network, host: str = HOST, seconds: float = 5) -> object:
    api = SegmentApi(
        f"https://{host}", lambda: Secret("token-12345"), "tests", timeout_seconds=seconds, network=network
    )
    with closing(api):
        assert api.check_token(HOUR_NS) is not None
        return api.list_hour("c", 1, "both", HOUR_NS).outcome


def download(network: Network, host: str = HOST, seconds: float = 5) -> DownloadOutcome:
    downloader = Downloader((host,), "tests", Limits(stall_seconds=seconds), network)
    return downloader.download(f"https://{host}{SIGNED}", None, io.BytesIO(), lambda: False)


CLIENTS = [check, download]
Ask = Callable[..., object]


def is_good(found: object) -> bool:
    """A listing that is none came from the server itself."""
    return isinstance(found, Downloaded) or found == Failed(
        "the answer is not a list of URLs; check that --segment-url is Segment's API"
    )


@pytest.mark.parametrize("ask", CLIENTS)
@pytest.mark.parametrize("kind", ["plain", "login", "tls", "tls, login"])
def test_a_server_is_reached_through_a_proxy(site: Site, ask: Ask, kind: str) -> None:
    login = f"me:{PASSWORD}" if "login" in kind else ""
    with HttpProxy(site.names, login=login, tls=site.tls if "tls" in kind else None) as proxy:
        url = proxy.url.replace("://", f"://{LOGIN}") if login else proxy.url
        assert is_good(ask(through(url)))
    assert proxy.asked == [f"CONNECT {HOST}:443 HTTP/1.1"]
    assert f"\r\nhost: {HOST}\r\n" in site.heads[0].lower()
    assert "proxy-authorization" not in "".join(site.heads).lower()
    assert not {"token-12345", "X-Amz", "authorization: bearer"} & set("".join(proxy.heads).split())
    assert HOST not in site.asked_names
    if ask is download:
        assert site.heads[0].startswith(f"GET {SIGNED} HTTP/1.1\r\n")


@pytest.mark.parametrize("ask", CLIENTS)
def test_an_ipv6_address_is_named_to_a_proxy_in_brackets(site: Site, ask: Ask) -> None:
    with HttpProxy(site.names) as proxy:
        assert is_good(ask(through(proxy.url), "[2001:db8::1]"))
    assert proxy.asked == ["CONNECT [2001:db8::1]:443 HTTP/1.1"]


@pytest.mark.parametrize("ask", CLIENTS)
@pytest.mark.parametrize("user", ["", "me:wrong-secret@"])
def test_a_proxy_that_wants_a_password_says_what_to_do(site: Site, ask: Ask, user: str) -> None:
    with HttpProxy(site.names, login=f"me:{PASSWORD}") as proxy:
        found = ask(through(proxy.url.replace("://", f"://{user}")))
    assert isinstance(found, Failed | DownloadFailed | DownloadRefused)
    assert "through the proxy" in found.why
    assert "407" in found.why
    assert "http://USER:PASSWORD@HOST:PORT" in found.why
    assert "wrong-secret" not in found.why


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_proxy_that_does_not_allow_a_host_is_named(ask: Ask) -> None:
    with HttpProxy({}) as proxy:
        found = ask(through(proxy.url))
    assert isinstance(found, Failed | DownloadFailed | DownloadRefused)
    assert (
        f"through the proxy {proxy.url}: it answered 403 Forbidden; allow this host in the proxy" in found.why
    )


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_proxy_that_is_away_is_named(ask: Ask) -> None:
    found = ask(through("http://me:geheim@127.0.0.1:9"))
    assert isinstance(found, Failed | DownloadFailed | DownloadRefused)
    assert "through the proxy http://127.0.0.1:9" in found.why
    assert "geheim" not in found.why


def silent(connection: socket.socket, ending: threading.Event) -> None:
    read_request(connection)
    ending.wait()


def dripping(connection: socket.socket, ending: threading.Event) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while not ending.wait(0.02):
        connection.sendall(b"x")


def silent_in_tls(connection: socket.socket, ending: threading.Event) -> None:
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n\x16\x03\x03\x40\x00")
    while not ending.wait(0.02):
        connection.sendall(b"x")


@pytest.mark.thin(4)
@pytest.mark.parametrize("ask", CLIENTS)
@pytest.mark.parametrize("treat", [silent, dripping, silent_in_tls])
@pytest.mark.parametrize("is_tls", [False, True])
def test_a_proxy_that_does_not_get_on_is_given_up(
    site: Site, ask: Ask, treat: Callable[[socket.socket, threading.Event], None], *, is_tls: bool
) -> None:
    with HttpProxy({}, treat=treat, tls=site.tls if is_tls else None) as proxy:
        found = ask(through(proxy.url), seconds=0.3)
    assert isinstance(found, Failed | DownloadFailed | DownloadRefused)
    assert f"through the proxy {proxy.url}" in found.why


@pytest.mark.parametrize("ask", CLIENTS)
@pytest.mark.parametrize("status", ["200 OK", "302 Found", "503 Busy"])
def test_a_proxy_that_answers_a_page_is_named(ask: Ask, status: str) -> None:
    def treat(connection: socket.socket, _: threading.Event) -> None:
        read_request(connection)
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\n\r\n<html>{'x' * 9999}".encode())

    with HttpProxy({}, treat=treat) as proxy:
        found = ask(through(proxy.url))
    assert isinstance(found, Failed | DownloadFailed | DownloadRefused)
    assert f"through the proxy {proxy.url}" in found.why


@pytest.mark.parametrize("ask", CLIENTS)
def test_the_environments_proxy_is_used_where_the_setting_says_so(site: Site, ask: Ask) -> None:
    with HttpProxy(site.names) as proxy:
        assert is_good(ask(through("environment", HTTPS_PROXY=proxy.address, NO_PROXY="other.example")))
        assert len(proxy.asked) == 1
        assert not is_good(ask(through("environment", HTTPS_PROXY=proxy.url, NO_PROXY=HOST)))
        assert not is_good(ask(network_of(SegmentConfig(), {"HTTPS_PROXY": proxy.url})))
        assert len(proxy.asked) == 1
    assert HOST in site.asked_names


def test_through_a_proxy_the_hosts_name_is_checked(site: Site) -> None:
    with HttpProxy(site.names) as proxy:
        downloader = Downloader((), "tests", network=through(proxy.url))
        for url in (
            f"https://{HOST}/a",
            "https://10.0.0.1/a",
            "https://localhost/a",
            "http://s3.amazonaws.com/a",
        ):
            assert isinstance(downloader.download(url, None, io.BytesIO(), lambda: False), DownloadRefused)
    assert proxy.asked == []


def test_plain_http_goes_to_a_proxy_of_this_machine_only() -> None:
    """The token would cross the network unencrypted."""
    heads = []

    def treat(connection: socket.socket) -> None:
        heads.append(read_request(connection).decode())
        connection.sendall(OK)

    with raw_server(treat) as peer, HttpProxy({peer.address: peer.port}) as proxy:
        for each in (proxy.url, "http://proxy.example:3128"):
            api = SegmentApi(peer.origin, lambda: Secret("token"), "tests", network=through(each))
            with closing(api):
                assert api.check_token(HOUR_NS).outcome == Listing(())
            found = Downloader((peer.address,), "tests", network=through(each)).download(
                f"{peer.origin}{SIGNED}", None, io.BytesIO(), lambda: False
            )
            assert isinstance(found, Downloaded)
    assert proxy.asked == [f"GET {peer.origin}/ HTTP/1.1", f"GET {peer.origin}{SIGNED} HTTP/1.1"]
    assert len(heads) == 4
    assert heads[1].startswith(heads[3].partition("\r\n")[0])


@pytest.mark.parametrize("ask", CLIENTS)
def test_no_library_logs_a_proxys_password(site: Site, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), HttpProxy(site.names, login=f"me:{PASSWORD}") as proxy:
        assert is_good(ask(through(proxy.url.replace("://", f"://{LOGIN}"))))
    assert "CONNECT" in caplog.text
    assert not any(secret in caplog.text for secret in (PASSWORD, LOGIN, "X-Amz", "bWU6"))
