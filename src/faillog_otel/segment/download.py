"""Downloads objects from presigned URLs: only from hosts that are allowed, never from inside the network.

A presigned URL is a secret: no message, log or error shows more of it than its host. It is signed for GET,
so what tells an object from others (its ETag, its length) comes with the download itself. Hosts are S3's by
default; private, loopback and link-local addresses are refused, also behind a name, unless the host was
named. The addresses that were checked are those that are connected to. Through a proxy, which looks names up
by itself, the name alone is checked.
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
from faillog_otel.segment.http_client import Network, direct_network, explain, http_client
from faillog_otel.segment.schedule import ObjectVersion
from faillog_otel.text import MAX_PEER_BYTES, truncate

S3_HOST = re.compile(
    r"([a-z0-9][a-z0-9.-]*\.)?s3[.-]([a-z0-9-]+\.)?(dualstack\.)?([a-z0-9-]+\.)?amazonaws\.com(\.cn)?"
)

HASHED = "sha256:"
"""Before the hash of an ETag: a server's own begins with a quote (RFC 9110, section 8.8.3)."""


class Limits(Struct, frozen=True):
    """How slow a download may be. URLs work for two hours, and the other objects of the hour wait."""

    stall_seconds: float = 30.0
    """The answer's head must be there within this time. From then on, each such period must bring some
    content: `min_bytes_per_second`, on average."""
    min_bytes_per_second: int = 1024
    max_seconds: float = 6600.0
    """For the whole of an object."""


LIMITS = Limits()


class Downloaded(Struct, frozen=True):
    """The object was written whole. `length` is in bytes."""

    etag: str | None
    last_modified: str | None
    length: int


class NotModified(Struct, frozen=True):
    """The object is the known one: nothing was written."""


class Expired(Struct, frozen=True):
    """The URL does not work: another listing gives another one."""

    why: str


class DownloadFailed(Struct, frozen=True):
    """The download broke off: another try may succeed."""

    why: str


class DownloadRefused(Struct, frozen=True):
    """The URL points to where nothing is downloaded from: our settings, or Segment, would have to change."""

    why: str


DownloadOutcome = Downloaded | NotModified | Expired | DownloadFailed | DownloadRefused


class Downloader:
    """Makes a connection for each object: they come from different hosts, and few of them at a time."""

    def __init__(
        self,
        hosts: Collection[str],
        user_agent: str,
        limits: Limits = LIMITS,
        network: Network | None = None,
    ) -> None:
        """`hosts`: HOST or HOST:PORT that URLs may point to besides S3; private ones and plain http, too.

        Raises ValueError for other texts. `network`: by default the system's authorities, and no proxy.
        """
        self._hosts = frozenset(map(parse_host_port, hosts))
        self._headers = {"user-agent": user_agent, "connection": "close"}
        self._limits = limits
        self._network = network or direct_network()

    def download(
        self, url: str, known: ObjectVersion | None, file: BinaryIO, is_stopping: Callable[[], bool]
    ) -> DownloadOutcome:
        """Writes the object into the file, unless it is the known one. OSError is the file's."""
        deadline = Deadline(self._limits.stall_seconds, self._limits.max_seconds)
        try:
            target = self._target(url, deadline)
        except (ValueError, UnicodeError):
            return DownloadRefused("a URL that cannot be read")
        if not isinstance(target, _Target):
            return target
        headers = {"host": target.host_header}
        if known and known.etag and not known.etag.startswith(HASHED):
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
                return DownloadFailed(f"{target.host}: {type(error).__name__}")  # its words may quote the URL
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
        got: Downloaded,
        file: BinaryIO,
        is_stopping: Callable[[], bool],
        deadline: Deadline,
    ) -> DownloadOutcome:
        """Writes the content. One that comes too slowly is given up: its URL expires meanwhile."""
        limits, length, since_moved = self._limits, 0, 0
        pieces = response.iter_raw()
        while True:
            try:
                piece = next(pieces, b"")
            except httpx.TimeoutException:
                return DownloadFailed("it comes too slowly")
            except httpx.HTTPError as error:
                return DownloadFailed(f"it broke off: {type(error).__name__}")
            if not piece:
                break
            file.write(piece)
            length += len(piece)
            since_moved += len(piece)
            if since_moved >= limits.stall_seconds * limits.min_bytes_per_second:
                deadline.move_to(limits.stall_seconds)
                since_moved = 0
            if is_stopping():
                return DownloadFailed("the run was stopped")
        if got.length not in (-1, length):
            return DownloadFailed(f"{length} of {got.length} bytes came")
        return Downloaded(got.etag, got.last_modified, length)

    def _target(self, url: str, deadline: Deadline) -> "_Target | DownloadRefused | DownloadFailed":
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return DownloadRefused("a URL of another kind than https")
        scheme, host, port = origin_of(url)
        is_tls, default_port = scheme == "https", DEFAULT_PORTS[scheme]
        is_named = not self._hosts.isdisjoint((HostPort(host), HostPort(host, port)))
        if not is_named and not S3_HOST.fullmatch(host):
            return DownloadRefused(
                f"{truncate(host)}: is no host of S3; name it by --download-host if it is right"
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
                    f"{truncate(host)}: {error.strerror or 'its address was not found in time'}"
                )
            if why := _why_not(addresses, is_tls=is_tls, is_named=is_named):
                return DownloadRefused(f"{truncate(host)}: {why}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return _Target(
            scheme=scheme,
            host=host,
            port=port,
            proxy=proxy,
            addresses=() if proxy else addresses,
            path=quote(path, safe=_AS_IT_IS),
            host_header=_host_header(parts.hostname, host, port if port != default_port else None),
        )


def _host_header(written: str, host: str, port: int | None) -> str:
    """The Host that the URL's signature covers: a signer leaves the scheme's default port out (botocore)."""
    shown = f"[{written}]" if ":" in host else host + "." * written.endswith(".")
    return f"{shown}:{port}" if port else shown


_PLAIN_HTTP = "plain http is for loopback hosts that --download-host names"


def _why_not(addresses: Sequence[Address], *, is_tls: bool, is_named: bool) -> str:
    """Why nothing is downloaded from these addresses; empty where it is."""
    found = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in addresses]
    if not is_tls and not all(each.is_loopback for each in found):
        return _PLAIN_HTTP
    if not is_named and not all(map(_is_public, found)):
        return "has an address inside a network; name it by --download-host if it is right"
    return ""


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses as a network without IPv4 reaches them (RFC 6052)."""


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether the address is the internet's, and so is the IPv4 address that an IPv6 address may hold."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global
    held = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        held = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.is_global and (held is None or held.is_global)


_AS_IT_IS = "".join(set(string.punctuation) - set('"<>\\^`{|}'))
"""Of a URL that is signed nothing is escaped twice; what no URL may hold is escaped all the same."""


class _Target(Struct, frozen=True):
    """Where a URL leads."""

    scheme: str
    host: str
    port: int
    proxy: Proxy | None
    addresses: Sequence[Address]
    """All of them were checked. Through a proxy there are none."""
    path: str
    host_header: str


def _head(response: httpx.Response, known: ObjectVersion | None) -> DownloadOutcome:
    """What the answer's head says; Got with a length of -1 where the length is not said."""
    headers, status = response.headers, response.status_code
    if status == 304 and known:
        return NotModified()
    if status in (408, 429) or status >= 500:
        return DownloadFailed(f"HTTP {status}")
    if status != 200:
        return Expired(f"HTTP {status}" + (" (expired?)" if status == 403 else ""))
    etag, modified = _version(headers.get("etag")), _version(headers.get("last-modified"))
    got = Downloaded(etag, modified, int(headers.get("content-length", "-1")))
    if etag is None and "text/html" in headers.get("content-type", ""):
        return DownloadFailed(f"an HTML page {truncate(headers.get('server', ''))}".strip())
    is_told = etag is not None or modified is not None
    if (
        known
        and is_told
        and known == ObjectVersion(etag, modified if etag is None else known.last_modified, got.length)
    ):
        return NotModified()
    return got


def _version(header: str | None) -> str | None:
    """A value that tells versions of an object apart.

    One that is too long to be kept is hashed: cut, two of them could become equal.
    """
    if header is None or len(header) <= MAX_PEER_BYTES:
        return header
    return HASHED + hashlib.sha256(header.encode()).hexdigest()
