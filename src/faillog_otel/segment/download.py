"""Downloads objects from presigned URLs: only from hosts that are allowed, never from inside the network.

A presigned URL is a secret: no message, log or error shows more of it than its host. It is signed for GET,
so what tells an object from others (its ETag, its length) comes with the download itself. Hosts are S3's by
default; private, loopback and link-local addresses are refused, also behind a name, unless the host was
named. The address that was checked is the one that is connected to.
"""

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Collection
from typing import BinaryIO, Literal
from urllib.parse import urlsplit

import httpx
from msgspec import Struct

S3_HOST = re.compile(
    r"([a-z0-9][a-z0-9.-]*\.)?s3[.-]([a-z0-9-]+\.)?(dualstack\.)?([a-z0-9-]+\.)?amazonaws\.com(\.cn)?"
)
TIMEOUT_SECONDS = 30.0
SLOWEST_BYTES_PER_SECOND = 1024
"""A download that is slower on the whole is given up; URLs expire."""


class Got(Struct, frozen=True):
    """The object was written whole. `length` is in bytes."""

    etag: str | None
    last_modified: str | None
    length: int


class Same(Struct, frozen=True):
    """The object is the known one: nothing was written."""


class Gone(Struct, frozen=True):
    """The URL does not work: another listing gives another one."""

    why: str


class Broken(Struct, frozen=True):
    """The download broke off: another try may succeed."""

    why: str


class Forbidden(Struct, frozen=True):
    """The URL points to where nothing is downloaded from: our settings, or Segment, would have to change."""

    why: str


Downloaded = Got | Same | Gone | Broken | Forbidden


class Known(Struct, frozen=True):
    """The object that was read from the same path before."""

    etag: str | None
    last_modified: str | None
    length: int | None


class Downloader:
    """Used by one thread at a time."""

    def __init__(self, hosts: Collection[str], user_agent: str) -> None:
        """`hosts`: HOST or HOST:PORT that URLs may point to besides S3; private ones and plain http, too."""
        self._hosts = {host.lower() for host in hosts}
        self._client = httpx.Client(
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            follow_redirects=False,
            headers={"user-agent": user_agent, "accept-encoding": "identity"},
        )

    def download(
        self, url: str, known: Known | None, file: BinaryIO, is_stopping: Callable[[], bool]
    ) -> Downloaded:
        """Writes the object into the file, unless it is the known one. OSError is the file's."""
        try:
            target = self._target(url)
        except (ValueError, UnicodeError):
            return Forbidden("a URL that cannot be read")
        if not isinstance(target, _Target):
            return target
        headers = {"host": target.host_header}
        if known and known.etag:
            headers["if-none-match"] = known.etag
        extensions = {"sni_hostname": target.host} if target.scheme == "https" else {}
        try:
            with self._client.stream("GET", target.url, headers=headers, extensions=extensions) as response:
                found = _head(response, known)
                if isinstance(found, Got):
                    found = _write(response, found, file, is_stopping)
                return found
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, RuntimeError) as error:
            return Broken(f"{target.host}: {type(error).__name__}")  # its words may quote the URL

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _target(self, url: str) -> "_Target | Forbidden | Broken":
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower().rstrip("."), parts.port
        scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
        is_named = bool({host, f"{host}:{port or (443 if scheme == 'https' else 80)}"} & self._hosts)
        if parts.scheme not in ("http", "https") or not host:
            return Forbidden("a URL of another kind than https")
        if not is_named and not S3_HOST.fullmatch(host):
            return Forbidden(f"{host}: is no host of S3; name it by --download-host if it is right")
        try:
            found = socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
        except OSError as error:
            return Broken(f"{host}: {error.strerror}")
        addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
        if scheme == "http" and not (is_named and all(each.is_loopback for each in addresses)):
            return Forbidden(f"{host}: plain http is for loopback hosts that --download-host names")
        if not is_named and not all(each.is_global for each in addresses):
            return Forbidden(
                f"{host}: has an address inside a network; name it by --download-host if it is right"
            )
        address = addresses[0]
        shown = f"[{address}]" if address.version == 6 else str(address)
        netloc = f"{shown}:{port}" if port else shown
        return _Target(
            url=parts._replace(netloc=netloc, fragment="").geturl(),
            host=host,
            host_header=parts.netloc.rpartition("@")[2],
            scheme=scheme,
        )


class _Target(Struct, frozen=True):
    """Where a URL leads: `url` has the address in its host's place."""

    url: str
    host: str
    host_header: str
    scheme: Literal["http", "https"]


def _head(response: httpx.Response, known: Known | None) -> Downloaded:
    """What the answer's head says; Got with a length of -1 where the length is not said."""
    host, status = response.headers.get("server", ""), response.status_code
    if status == 304 and known:
        return Same()
    if status in (408, 429) or status >= 500:
        return Broken(f"HTTP {status}")
    if status != 200:
        return Gone(f"HTTP {status}" + (" (expired?)" if status == 403 else ""))
    length = response.headers.get("content-length", "")
    etag, modified = response.headers.get("etag"), response.headers.get("last-modified")
    got = Got(etag, modified, int(length) if length.isascii() and length.isdigit() else -1)
    if etag is None and "text/html" in response.headers.get("content-type", ""):
        return Broken(f"an HTML page {host}".strip())
    is_told = etag is not None or modified is not None
    if (
        known
        and is_told
        and known == Known(etag, modified if etag is None else known.last_modified, got.length)
    ):
        return Same()
    return got


def _write(response: httpx.Response, got: Got, file: BinaryIO, is_stopping: Callable[[], bool]) -> Downloaded:
    """Writes the content. One that comes too slowly is given up: its URL expires meanwhile."""
    deadline, length = time.monotonic() + TIMEOUT_SECONDS, 0
    for piece in response.iter_raw():
        file.write(piece)
        length += len(piece)
        if is_stopping():
            return Broken("the run was stopped")
        if time.monotonic() > deadline + length / SLOWEST_BYTES_PER_SECOND:
            return Broken("it comes too slowly")
    if got.length not in (-1, length):
        return Broken(f"{length} of {got.length} bytes came")
    return Got(got.etag, got.last_modified, length)
