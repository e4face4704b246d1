"""Which addresses of a host are tried, and which hosts a download may come from: real sockets."""

import io
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.raw_server import RawServer, raw_server, read_request

from faillog_otel.clock import HOUR_NS
from faillog_otel.config import Secret
from faillog_otel.connections import Connections
from faillog_otel.segment.answers import Listing
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.download import (
    Downloaded,
    Downloader,
    DownloadFailed,
    DownloadOutcome,
    DownloadRefused,
    Limits,
)

pytestmark = pytest.mark.timeout(60)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
SECONDS = 4.0


def download(url: str, *hosts: str) -> DownloadOutcome:
    downloader = Downloader(hosts, "tests", Limits(stall_seconds=SECONDS))
    return downloader.download(url, None, io.BytesIO(), lambda: False)


def is_downloaded(origin: str) -> bool:
    return isinstance(download(f"{origin}/a", origin.removeprefix("http://")), Downloaded)


def is_token_checked(origin: str) -> bool:
    api = SegmentApi(origin, lambda: Secret("token"), "tests", timeout_seconds=SECONDS)
    with closing(api):
        return api.check_token(HOUR_NS).outcome == Listing(())


def is_collector_reached(origin: str) -> bool:
    with closing(Connections(f"{origin}/healthz", timeout_seconds=SECONDS)) as connections:
        return connections.request("GET", None, {}).status == 200


CLIENTS = [is_downloaded, is_token_checked, is_collector_reached]


def answer(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(OK)


def noting(heads: list[str]) -> Callable[[socket.socket], None]:
    def treat(connection: socket.socket) -> None:
        heads.append(read_request(connection).decode())
        connection.sendall(OK)

    return treat


@pytest.fixture
def look_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
    """What a name server says: name → addresses. Others are looked up as ever."""
    real, names = socket.getaddrinfo, dict[str, tuple[str, ...]]()

    def answers(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        return [row for each in names.get(host, (host,)) for row in real(each, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    return names


@contextmanager
def silent(address: str, port: int) -> Iterator[None]:
    """Nothing at this address and port takes a connection, or refuses one: the queue is full."""
    with ExitStack() as stack:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server = stack.enter_context(socket.create_server((address, port), family=family, backlog=0))
        for _ in range(8):
            client = stack.enter_context(socket.socket(family))
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield


@pytest.mark.parametrize("reaches", CLIENTS)
def test_an_address_where_nobody_listens_is_followed_by_the_next(
    reaches: Callable[[str], bool], look_up: dict[str, tuple[str, ...]]
) -> None:
    look_up["localhost"] = ("::1", "127.0.0.1")
    with raw_server(answer) as peer:
        assert reaches(f"http://localhost:{peer.port}")


@pytest.mark.parametrize("reaches", CLIENTS)
def test_an_address_that_is_silent_leaves_time_for_the_next(
    reaches: Callable[[str], bool], look_up: dict[str, tuple[str, ...]]
) -> None:
    """A host may have an IPv6 address that a firewall swallows."""
    look_up["localhost"] = ("::1", "127.0.0.1")
    with raw_server(answer) as peer, silent("::1", peer.port):
        assert reaches(f"http://localhost:{peer.port}")


@pytest.mark.parametrize("reaches", CLIENTS)
def test_a_family_that_leads_nowhere_takes_turns_with_the_other(
    reaches: Callable[[str], bool], look_up: dict[str, tuple[str, ...]]
) -> None:
    """Eight silent IPv6 addresses cost the time of one."""
    look_up["localhost"] = (*["::1"] * 8, "127.0.0.1")
    with raw_server(answer) as peer, silent("::1", peer.port):
        assert reaches(f"http://localhost:{peer.port}")


def test_no_address_is_tried_where_one_of_them_is_refused(look_up: dict[str, tuple[str, ...]]) -> None:
    """A name server that also names a private address is not trusted with the others."""
    look_up["bucket.s3.amazonaws.com"] = ("203.0.113.1", "127.0.0.1")
    found = download("https://bucket.s3.amazonaws.com/a")
    assert isinstance(found, DownloadRefused)
    assert "private address" in found.why


@pytest.mark.parametrize(
    "address",
    ["::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::ffff:169.254.169.254", "::", "fd00::1"],
)
def test_a_private_address_in_an_ipv6_address_is_refused(
    address: str, look_up: dict[str, tuple[str, ...]]
) -> None:
    """Else a presigned URL could reach a cloud's metadata service."""
    look_up["bucket.s3.amazonaws.com"] = (address,)
    assert isinstance(download("https://bucket.s3.amazonaws.com/a"), DownloadRefused)


HOSTS = [
    ("[::1]", "[::1]"),
    ("[::1]:PORT", "[::1]"),
    ("::1", "[::1]"),
    ("[0:0:0:0:0:0:0:1]:PORT", "[::1]"),
    ("[::1]:PORT", "[0:0::0:1]"),
    ("localhost", "LOCALHOST"),
    ("LocalHost:PORT", "localhost."),
    ("localhost.:PORT", "localhost"),
    ("xn--bcher-kva.example", "bücher.example"),
    ("BÜCHER.example:PORT", "xn--bcher-kva.example"),
]


@pytest.mark.parametrize(("named", "written"), HOSTS)
def test_a_host_is_the_same_however_it_is_written(
    named: str, written: str, look_up: dict[str, tuple[str, ...]]
) -> None:
    address = "::1" if ":" in written else "127.0.0.1"
    look_up |= {"xn--bcher-kva.example": (address,), "localhost": (address,)}
    with raw_server(answer, host=address) as peer:
        url = f"http://{written}:{peer.port}/a"
        assert isinstance(download(url, named.replace("PORT", str(peer.port))), Downloaded)
        assert isinstance(
            download(url, named.replace("PORT", "1") if "PORT" in named else "b"), DownloadRefused
        )


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://localhost:80/a", "localhost"),
        ("http://LocalHost/a", "localhost"),
        ("http://user@localhost:80/a", "localhost"),
        ("http://localhost.:80/a", "localhost."),
        ("http://[::1]:80/a", "[::1]"),
        ("http://[::1]:443/a", "[::1]:443"),
        ("http://localhost:443/a", "localhost:443"),
        ("http://bücher.example:80/a", "xn--bcher-kva.example"),
    ],
)
def test_the_host_is_sent_as_a_signer_signs_it_without_the_default_port(
    url: str, host: str, look_up: dict[str, tuple[str, ...]], redirected: Callable[[RawServer], None]
) -> None:
    heads: list[str] = []
    look_up |= dict.fromkeys(("localhost", "xn--bcher-kva.example"), ("127.0.0.1",))
    with raw_server(noting(heads)) as peer:
        redirected(peer)
        assert isinstance(download(url, "localhost", "[::1]", "bücher.example"), Downloaded)
    assert f"\r\nhost: {host}\r\n" in heads[0].lower()


@pytest.fixture
def redirected(monkeypatch: pytest.MonkeyPatch) -> Callable[[RawServer], None]:
    """Has every new connection end at a peer, as a router may: no test listens on ports 80 and 443."""

    def to(peer: RawServer) -> None:
        real = socket.create_connection
        monkeypatch.setattr(
            socket,
            "create_connection",
            lambda _, *args, **more: real(("127.0.0.1", peer.port), *args, **more),
        )

    return to


URL_BYTES = st.text(st.sampled_from("abzAZ019-._~:/@!$&'()*+,;=%25%2F%zz[]"), max_size=40)


def test_path_and_query_are_sent_byte_for_byte() -> None:
    """A signature covers them as they are written: nothing is escaped, unescaped or put in order."""
    heads: list[str] = []
    with raw_server(noting(heads)) as peer:
        downloader = Downloader((peer.address,), "tests")  # for all examples: it takes long to make

        @given(URL_BYTES.map("/{}".format), URL_BYTES.filter(bool))
        def check(path: str, query: str) -> None:
            url = f"{peer.origin}{path}?{query}"
            assert isinstance(downloader.download(url, None, io.BytesIO(), lambda: False), Downloaded)
            assert heads.pop().partition("\r\n")[0] == f"GET {path}?{query} HTTP/1.1"

        check()


@pytest.mark.parametrize(
    "url", ["http://[fe80::1%25lo]/a", "http://[::1/a", "http://a_ü..b/a", "https://%/a"]
)
def test_an_invalid_host_is_refused(url: str) -> None:
    assert isinstance(download(url, "localhost"), DownloadRefused)


def test_an_unreachable_host_is_tried_again_later(look_up: dict[str, tuple[str, ...]]) -> None:
    """A failure of the network is no refusal."""
    look_up["localhost"] = ("::1", "127.0.0.1")
    assert isinstance(download("http://localhost:1/a", "localhost"), DownloadFailed)
