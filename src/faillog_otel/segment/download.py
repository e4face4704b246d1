"""Downloads objects from presigned URLs of allowed hosts.

A presigned URL is a secret: messages, logs and errors show only its host. It is signed for GET, so an
object's ETag and length come with the download. Only S3's hosts are allowed by default; private, loopback and
link-local addresses are refused, also behind a name, unless --download-host names the host. Connections use
the addresses that were checked. A proxy resolves names itself, so only the name is checked then.
"""

import hashlib
import ipaddress
import re
import string
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from typing import BinaryIO
from urllib.parse import quote, urlsplit

import httpx
from msgspec import Struct

from faillog_otel.network import (
    DEFAULT_PORTS,
    Address,
    Deadline,
    HostPort,
    Proxy,
    origin_of,
    parse_host_port,
    resolve,
)
from faillog_otel.segment.hours import ObjectVersion
from faillog_otel.segment.http_client import Network, direct_network, explain, http_client
from faillog_otel.text import MAX_PEER_BYTES, truncate

S3_HOST = re.compile(
    r"([a-z0-9][a-z0-9.-]*\.)?s3[.-]([a-z0-9-]+\.)?(dualstack\.)?([a-z0-9-]+\.)?amazonaws\.com(\.cn)?"
)

HASH_PREFIX = "sha256:"
"""Prefix of a hashed ETag; a server's ETag begins with a quote (RFC 9110, section 8.8.3)."""


class Limits(Struct, frozen=True):
    """Time limits of a download: URLs expire after two hours, and the other objects of the hour wait."""

    stall_seconds: float = 30.0
    """The head of the answer must arrive within this time; then each such period must bring
    `min_bytes_per_second` on average."""
    min_bytes_per_second: int = 1024
    max_seconds: float = 6600.0
    """For a whole object."""


DEFAULT_LIMITS = Limits()


class Downloaded(Struct, frozen=True):
    """The whole object was written. `length` is in bytes."""

    etag: str | None
    last_modified: str | None
    length: int


class NotModified(Struct, frozen=True):
    """The object has the known version: nothing was written."""


class Expired(Struct, frozen=True):
    """The URL no longer works: a new listing returns a new one."""

    why: str


class DownloadFailed(Struct, frozen=True):
    """The download failed; a retry can succeed."""

    why: str


class DownloadRefused(Struct, frozen=True):
    """The URL is not allowed: the settings, or Segment, would have to change."""

    why: str


DownloadOutcome = Downloaded | NotModified | Expired | DownloadFailed | DownloadRefused


class Downloader:
    """Downloads objects, each over its own connection: few at a time come from the same host."""

    def __init__(
        self,
        hosts: Collection[str],
        user_agent: str,
        limits: Limits = DEFAULT_LIMITS,
        network: Network | None = None,
    ) -> None:
        """`hosts`: allowed HOST or HOST:PORT besides S3, also with private addresses or plain http.

        Raises ValueError for an invalid one. `network`: by default the system's authorities, and no proxy.
        """
        self._hosts = frozenset(map(parse_host_port, hosts))
        self._headers = {"user-agent": user_agent, "connection": "close"}
        self._limits = limits
        self._network = network or direct_network()

    def download(
        self, url: str, known: ObjectVersion | None, file: BinaryIO, is_stopping: Callable[[], bool]
    ) -> DownloadOutcome:
        """Writes the object to the file unless it has the known version. Raises the file's OSError."""
        deadline = Deadline(self._limits.stall_seconds, self._limits.max_seconds)
        try:
            target = self._target(url, deadline)
        except (ValueError, UnicodeError):
            return DownloadRefused("the URL is invalid")
        if not isinstance(target, _Target):
            return target
        headers = {"host": target.host_header}
        if known and known.etag and not known.etag.startswith(HASH_PREFIX):
            headers["if-none-match"] = known.etag
        extensions = {"deadline": deadline, "addresses": target.addresses, "target": target.path.encode()}
        with http_client(self._headers, self._network.context, target.proxy) as client:
            try:
                origin = httpx.URL(scheme=target.scheme, host=target.host, port=target.port)
                request = client.build_request("GET", origin, headers=headers, extensions=extensions)
                response = client.send(request, stream=True)
            except httpx.TimeoutException:
                through = f" through the proxy {target.proxy.url}" if target.proxy else ""
                return DownloadFailed(f"{target.host}: no answer{through} in time")
            except (httpx.ProxyError, httpx.ConnectError) as error:
                failure = explain(error, target.scheme, target.proxy)
                why = truncate(f"{target.host}: {failure.why}")
                return DownloadRefused(why) if failure.is_permanent else DownloadFailed(why)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                return DownloadFailed(f"{target.host}: {type(error).__name__}")  # the text can quote the URL
            with closing(response):
                found = _head(response, known)
                return (
                    self._write(response, found, file, is_stopping, deadline)
                    if isinstance(found, Downloaded)
                    else found
                )

    def _write(
        self,
        response: httpx.Response,
        answered: Downloaded,
        file: BinaryIO,
        is_stopping: Callable[[], bool],
        deadline: Deadline,
    ) -> DownloadOutcome:
        """Writes the content. Gives up a slow download, because its URL expires."""
        limits, length, since_deadline_moved = self._limits, 0, 0
        pieces = response.iter_raw()
        while True:
            try:
                piece = next(pieces, b"")
            except httpx.TimeoutException:
                return DownloadFailed("the download is too slow")
            except httpx.HTTPError as error:
                return DownloadFailed(f"the connection broke: {type(error).__name__}")
            if not piece:
                break
            file.write(piece)
            length += len(piece)
            since_deadline_moved += len(piece)
            if since_deadline_moved >= limits.stall_seconds * limits.min_bytes_per_second:
                deadline.move_to(limits.stall_seconds)
                since_deadline_moved = 0
            if is_stopping():
                return DownloadFailed("the run is ending")
        if answered.length not in (-1, length):
            return DownloadFailed(f"only {length} of {answered.length} bytes arrived")
        return Downloaded(answered.etag, answered.last_modified, length)

    def _target(self, url: str, deadline: Deadline) -> "_Target | DownloadRefused | DownloadFailed":
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return DownloadRefused("the URL is not an https URL")
        scheme, host, port = origin_of(url)
        is_tls, default_port = scheme == "https", DEFAULT_PORTS[scheme]
        is_named = not self._hosts.isdisjoint((HostPort(host), HostPort(host, port)))
        if not is_named and not S3_HOST.fullmatch(host):
            return DownloadRefused(
                f"{truncate(host)} is not a host of S3; allow it with --download-host if it is right"
            )
        if not is_tls and not is_named:
            return DownloadRefused(f"{truncate(host)}: {_PLAIN_HTTP}")
        proxy = self._network.proxies.proxy_of(scheme, host, port)
        addresses: Sequence[Address] = ()
        if proxy is None or not is_tls:
            try:
                addresses = resolve(host, port, deadline)
            except OSError as error:
                return DownloadFailed(
                    f"{truncate(host)}: {error.strerror or 'the name server did not answer in time'}"
                )
            if why := _why_refused(addresses, is_tls=is_tls, is_named=is_named):
                return DownloadRefused(f"{truncate(host)}: {why}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return _Target(
            scheme=scheme,
            host=host,
            port=port,
            proxy=proxy,
            addresses=() if proxy else addresses,
            path=quote(path, safe=_UNESCAPED),
            host_header=_host_header(parts.hostname, host, port if port != default_port else None),
        )


def _host_header(written: str, host: str, port: int | None) -> str:
    """Returns the Host that the URL's signature covers: without the scheme's default port (botocore)."""
    shown = f"[{written}]" if ":" in host else host + "." * written.endswith(".")
    return f"{shown}:{port}" if port else shown


_PLAIN_HTTP = "plain http is allowed only for loopback hosts that --download-host names"


def _why_refused(addresses: Sequence[Address], *, is_tls: bool, is_named: bool) -> str:
    """Returns why these addresses are refused; empty if they are allowed."""
    found = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in addresses]
    if not is_tls and not all(each.is_loopback for each in found):
        return _PLAIN_HTTP
    if not is_named and not all(map(_is_public, found)):
        return "the host has a private address; allow it with --download-host if it is right"
    return ""


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses in networks without IPv4 (RFC 6052)."""


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Returns whether the address, and the IPv4 address that an IPv6 address can embed, are public."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global
    embedded = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.is_global and (embedded is None or embedded.is_global)


_UNESCAPED = "".join(set(string.punctuation) - set('"<>\\^`{|}'))
"""A signed URL is not escaped twice; only characters that no URL may contain are escaped."""


class _Target(Struct, frozen=True):
    """The target of a URL."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None
    addresses: Sequence[Address]
    """Checked addresses; empty through a proxy."""
    path: str
    host_header: str


def _head(response: httpx.Response, known: ObjectVersion | None) -> DownloadOutcome:
    """Returns what the head of the answer says; Downloaded has a length of -1 without Content-Length."""
    headers, status = response.headers, response.status_code
    if status == 304 and known:
        return NotModified()
    if status in (408, 429) or status >= 500:
        return DownloadFailed(f"HTTP {status}")
    if status != 200:
        return Expired(f"HTTP {status}" + (" (the URL has probably expired)" if status == 403 else ""))
    etag, modified = _version(headers.get("etag")), _version(headers.get("last-modified"))
    answered = Downloaded(etag, modified, int(headers.get("content-length", "-1")))
    if etag is None and "text/html" in headers.get("content-type", ""):
        return DownloadFailed(f"the answer is an HTML page {truncate(headers.get('server', ''))}".strip())
    has_version = etag is not None or modified is not None
    if (
        known
        and has_version
        and known == ObjectVersion(etag, modified if etag is None else known.last_modified, answered.length)
    ):
        return NotModified()
    return answered


def _version(header: str | None) -> str | None:
    """Returns the ETag or date of an object. A long one is hashed: truncated ones could be equal."""
    if header is None or len(header) <= MAX_PEER_BYTES:
        return header
    return HASH_PREFIX + hashlib.sha256(header.encode()).hexdigest()
