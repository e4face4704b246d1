"""Whom Segment's API and the downloads trust: the system's authorities and a setting's, nobody else."""

import io
import os
import re
import socket
import ssl
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import certifi
import pytest
from support.raw_server import RawServer, identity_for_tls, raw_server, read_request

from faillog_otel.clock import HOUR_NS
from faillog_otel.config import Secret, SegmentConfig
from faillog_otel.errors import ConfigError
from faillog_otel.segment.answers import Failed, Listing
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.download import Downloaded, Downloader, DownloadFailed, DownloadRefused
from faillog_otel.segment.http_client import Network, network_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def check(peer: RawServer, network: Network) -> object:
    with closing(SegmentApi(peer.origin, lambda: Secret("token"), "tests", network=network)) as api:
        return api.check_token(HOUR_NS).outcome


def download(peer: RawServer, network: Network) -> object:
    downloader = Downloader((peer.address,), "tests", network=network)
    return downloader.download(f"{peer.origin}/a", None, io.BytesIO(), lambda: False)


CLIENTS = pytest.mark.parametrize("ask", [check, download])
Ask = Callable[[RawServer, Network], object]


def network(certificate: str | None = None) -> Network:
    return network_of(SegmentConfig(certificate=certificate), os.environ)


@pytest.fixture
def identity(tmp_path: Path) -> tuple[ssl.SSLContext, str]:
    return identity_for_tls(tmp_path)


def asked(ask: Ask, identity: tuple[ssl.SSLContext, str], network: Network) -> object:
    def treat(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK)

    with raw_server(treat, identity[0]) as peer:
        return ask(peer, network)


@CLIENTS
def test_the_systems_authorities_are_trusted(
    ask: Ask, identity: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", identity[1])
    assert isinstance(asked(ask, identity, network()), Listing | Downloaded)


@CLIENTS
def test_a_folder_of_authorities_is_trusted(
    ask: Ask, identity: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    authority = Path(identity[1]).read_bytes()
    folder.joinpath(f"{subject_hash(identity[1])}.0").write_bytes(authority)
    monkeypatch.setenv("SSL_CERT_DIR", f"/nowhere{os.pathsep}{folder}")
    assert isinstance(asked(ask, identity, network()), Listing | Downloaded)


def subject_hash(file: str) -> str:
    """The name by which OpenSSL looks for an authority in a folder."""
    done = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", file], capture_output=True, check=True
    )
    return done.stdout.decode().strip()


@CLIENTS
def test_a_companys_authority_is_trusted_beside_the_systems(
    ask: Ask, identity: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", identity[1])
    company = identity_for_tls(other)
    both = network(company[1])
    assert isinstance(asked(ask, company, both), Listing | Downloaded)
    assert isinstance(asked(ask, identity, both), Listing | Downloaded)


@CLIENTS
def test_certifis_authorities_are_not_trusted(
    ask: Ask, identity: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A company that removes an authority from its system means all programs."""
    monkeypatch.setattr(certifi, "where", lambda: identity[1])
    found = asked(ask, identity, network())
    assert isinstance(found, Failed | DownloadFailed | DownloadRefused)
    assert "name the file of its authority: [segment] certificate or SSL_CERT_FILE" in found.why


@CLIENTS
def test_a_certificate_of_another_host_says_so(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = identity_for_tls(tmp_path, "other.example")
    monkeypatch.setenv("SSL_CERT_FILE", other[1])
    found = asked(ask, other, network())
    assert isinstance(found, Failed | DownloadFailed | DownloadRefused)
    assert "its certificate is not trusted" in found.why
    assert "check the URL" in found.why


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\xfe\x00"])
@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "[segment] certificate"])
def test_a_file_that_is_missing_or_no_pem_is_a_usage_error(
    name: str, content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    if name == "SSL_CERT_FILE":
        monkeypatch.setenv(name, str(file))
    with pytest.raises(ConfigError, match=re.escape(f"{name}: {file}: ")) as raised:
        network(None if name == "SSL_CERT_FILE" else str(file))
    assert "name a file of certificates in PEM form" in str(raised.value)


def test_a_folder_that_is_missing_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    with pytest.raises(ConfigError, match="SSL_CERT_DIR: /nowhere is not a folder"):
        network()


def test_a_system_without_authorities_is_a_usage_error_where_one_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setenv("SSL_CERT_DIR", "")
    with pytest.raises(ConfigError, match=r"install the package ca-certificates"):
        network()
    assert network_of(SegmentConfig(url="http://127.0.0.1:8080"), os.environ)


@pytest.mark.parametrize("reason", ["authority", "name", "no TLS"])
def test_a_download_that_no_try_mends_waits_for_a_change_of_the_settings(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To list its hour again would only cost requests of the quota."""
    context, authority = identity_for_tls(tmp_path, "127.0.0.1" if reason == "authority" else "a.example")
    if reason == "name":
        monkeypatch.setenv("SSL_CERT_FILE", authority)

    def treat(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with raw_server(treat, None if reason == "no TLS" else context) as peer:
        downloader = Downloader((peer.address,), "tests", network=network())
        found = downloader.download(f"https://{peer.address}/a?sig=geheim", None, io.BytesIO(), lambda: False)
    assert isinstance(found, DownloadRefused)
    assert "geheim" not in found.why
