"""Settings that no retry mends, on Segment's side: named at once, with what to do. Real sockets."""

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.program import run_program
from support.proxy import HttpProxy
from support.raw_server import identity_for_tls, raw_server, read_request

from faillog_otel.clock import HOUR_NS
from faillog_otel.config import SEGMENT_URLS, Secret, SegmentConfig, token_problem
from faillog_otel.errors import ConfigError
from faillog_otel.segment.answers import Denied, Failed
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.http_client import network_of
from faillog_otel.sources import read_environment, read_flags, resolve

pytestmark = pytest.mark.timeout(100)

TOKEN = "sgp_c4n4ry0123456789"  # noqa: S105  # made up


def answering(answer: bytes) -> Callable[[socket.socket], None]:
    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer)

    return treat


def plain(status: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("api.segmentapis.com", "has no scheme; write us, eu, or https://"),
        ("localhost:8080", "has no scheme; write us, eu, or https://"),
        ("US", "has no scheme; write us, eu, or https://"),
        ("ftp://api.segmentapis.com", "write us, eu, or https://HOST"),
        ("https://", "write us, eu, or https://HOST"),
        ("https://a:b", "write us, eu, or https://HOST"),
        ("https://a:99999", "write us, eu, or https://HOST"),
        ("https://[::1", "write us, eu, or https://HOST"),
        ("https://me:gehe-im@a", "write https://HOST, and set SEGMENT_TOKEN"),
        ("me:gehe-im@a", "has no scheme"),
        ("https://a?token=gehe-im", "write https://HOST, and set SEGMENT_TOKEN"),
        ("http://api.segmentapis.com", "write https://"),
        ("https://eu1.api.segmentapis.com/v1", "write https://eu1.api.segmentapis.com"),
        ("https://api.segmentapis.com/customer-insights/download", "write https://api.segmentapis.com"),
        ("https://gateway.example/segment/customer-insights", "write https://gateway.example/segment"),
    ],
)
def test_a_url_that_cannot_be_segments_is_a_usage_error_with_the_remedy(url: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match="--segment-url") as raised:
        read_flags({"segment_url": url})
    assert str(raised.value).removeprefix("--segment-url").count(remedy) == 1
    assert "gehe-im" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["https://gateway.example/segment", "https://api.segmentapis.com/", "http://[::1]:8"]
)
def test_a_gateway_may_have_a_path(url: str) -> None:
    assert resolve([read_flags({"segment_url": url})]).segment.url == url


@pytest.mark.parametrize(
    "text", ["Bearer x", "bearer: x", "Authorization: Bearer x", "'x'", '"x"', "x y", "ü"]
)
def test_an_invalid_token_is_named_with_the_remedy(text: str) -> None:
    assert "; " in token_problem(text)
    with pytest.raises(ConfigError, match="SEGMENT_TOKEN: the token ") as raised:
        read_environment({"SEGMENT_TOKEN": text})
    assert text not in str(raised.value)


@pytest.mark.parametrize("text", [TOKEN, "bearerless", "x"])
def test_a_valid_token_is_used_unchanged(text: str) -> None:
    assert token_problem(text) == ""


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
@pytest.mark.parametrize(("region", "other"), [("us", "eu"), ("eu", "us")])
def test_a_token_that_is_refused_names_the_other_region(
    status: str, region: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = SEGMENT_URLS[region].removeprefix("https://")
    context, authority = identity_for_tls(tmp_path, host)
    monkeypatch.setenv("SSL_CERT_FILE", authority)
    treat = answering(plain(status, b'{"errors":[{"message":"no"}]}'))
    with raw_server(treat, context) as peer, HttpProxy({f"{host}:443": peer.port}) as proxy:
        network = network_of(SegmentConfig(proxy=Secret(proxy.url)), {})
        with closing(SegmentApi(f"https://{host}/", lambda: Secret(TOKEN), "t", network=network)) as api:
            for answered in (api.check_token(HOUR_NS), api.list_hour("c", 1, "both", HOUR_NS)):
                assert isinstance(answered.outcome, Denied)
                assert f"this is the {region.upper()} region" in answered.outcome.why
                assert answered.outcome.why.endswith(f"--segment-url {other}")


def test_an_error_from_another_host_names_no_region() -> None:
    with (
        raw_server(answering(plain("401 Unauthorized"))) as peer,
        closing(SegmentApi(peer.origin, lambda: Secret(TOKEN), "t")) as api,
    ):
        outcome = api.check_token(HOUR_NS).outcome
        assert isinstance(outcome, Denied)
        assert "region" not in outcome.why


@pytest.mark.parametrize("body", [b"<html><title>Log in</title></html>", b"ok", b"[]", b""])
@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_an_html_page_does_not_confirm_the_token(status: str, body: bytes) -> None:
    """A proxy's login page comes with 200."""
    with (
        raw_server(answering(plain(status, body))) as peer,
        closing(SegmentApi(peer.origin, lambda: Secret(TOKEN), "t")) as api,
    ):
        outcome = api.check_token(HOUR_NS).outcome
        assert isinstance(outcome, Failed)
        assert "check that --segment-url is Segment's API" in outcome.why


def run(url: str, cwd: Path, *args: str, command: str = "run", **env: str) -> tuple[int, str]:
    done = run_program(
        *(command, "--segment-url", url, "--collection", "c", "--state-dir", "state", *args),
        cwd=cwd,
        SEGMENT_TOKEN=TOKEN,
        timeout=60,
        SSL_CERT_FILE=env.get("SSL_CERT_FILE", ""),
    )
    return done.code, done.stderr + done.stdout.decode()


@pytest.mark.parametrize("once", [("--once",), ()])
def test_https_to_a_plain_port_ends_the_run_with_the_remedy(once: tuple[str, ...], tmp_path: Path) -> None:
    def treat(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(plain("400 Bad Request"))

    with raw_server(treat) as peer:
        code, said = run(f"https://{peer.address}", tmp_path, *once)
    assert code == 6
    assert "the server does not speak TLS at this port; write http:// or another port" in said
    assert "Traceback" not in said
    assert peer.connections == 1


@pytest.mark.parametrize("once", [("--once",), ()])
def test_an_unknown_authority_ends_the_run_with_the_remedy(once: tuple[str, ...], tmp_path: Path) -> None:
    context, _ = identity_for_tls(tmp_path)
    with raw_server(answering(plain("200 OK", b"{}")), context) as peer:
        code, said = run(f"https://{peer.address}", tmp_path, *once)
    assert code == 6
    assert "name the file of its authority: [segment] certificate or SSL_CERT_FILE" in said
    assert peer.connections == 1


def test_plain_http_to_a_tls_port_says_so(tmp_path: Path) -> None:
    context, _ = identity_for_tls(tmp_path)
    with raw_server(answering(plain("200 OK", b"{}")), context) as peer:
        _, said = run(f"http://{peer.address}", tmp_path, command="doctor")
    assert "if the port speaks TLS, write https://" in said
