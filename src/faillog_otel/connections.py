"""HTTP/1.1 connections to collectors, also through a proxy, with one deadline for each request.

`http.client` writes and parses; redirects are not followed; a proxy is used if one is given. (Segment and S3:
`segment/http_client.py`.)
"""

import io
import math
import re
import select
import socket
import ssl
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, UnknownTransferEncoding
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from faillog_otel.network import Deadline, Proxy, addresses_in_turn, resolve
from faillog_otel.text import truncate
from faillog_otel.tls import client_context

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_IDLE_SECONDS = 30.0
"""An idle connection is not reused after this time: NAT gateways and load balancers drop it silently."""


class NotConnected(TimeoutError):
    """The time for connecting is over, but not the time for the whole request."""


class ProxyDenied(OSError):
    """The proxy requires a user and a password, or refuses the given ones."""

    def __init__(self, proxy: Proxy) -> None:
        remedy = "set them in the proxy's URL: http://USER:PASSWORD@HOST:PORT"
        super().__init__(f"the proxy {proxy.url} requires a user and a password (407); {remedy}")


class HttpResponse(Struct, frozen=True):
    """A server's answer. The names of `headers` are in lower case, their values truncated."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None
    """None: longer than allowed."""


class Connections:
    """A pool of connections to one URL. Safe for use from several threads."""

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = math.inf,
        connect_seconds: float = math.inf,
        context: Callable[[], ssl.SSLContext | None] | None = None,
        proxy: Proxy | None = None,
        proxy_context: Callable[[], ssl.SSLContext] = client_context,
    ) -> None:
        """`timeout_seconds`: for a whole request, including the name look-up. `connect_seconds`: for the
        look-up and connecting, if it is shorter.

        `context` returns the TLS settings of new connections, by default the system's; connections with other
        settings are not reused. It is never called by two threads at once. `proxy_context` returns the TLS
        settings of connections to an https:// proxy.
        """
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._is_tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._authorization = {}
        if parts.username or parts.password:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
            self._authorization["authorization"] = f"Basic {b64encode(pair).decode()}"
        self._proxy = proxy
        if proxy and not self._is_tls:  # RFC 9112, section 3.2.2: the absolute form
            host = f"[{self._host}]" if ":" in self._host else self._host
            self._target = f"http://{host}{f':{self._port}' if self._port != 80 else ''}{self._target}"
            if proxy.authorization:
                self._authorization["proxy-authorization"] = proxy.authorization.reveal()
        self._proxy_context = proxy_context
        self._timeout_seconds, self._connect_seconds = timeout_seconds, connect_seconds
        self._context = context or cache(client_context)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._used: set[Connection] = set()
        self._is_closed = False

    def post(self, body: bytes, headers: Mapping[str, str]) -> HttpResponse:
        """Sends a POST; see `request`."""
        return self.request("POST", body, headers)

    def request(self, method: str, body: bytes | None, headers: Mapping[str, str]) -> HttpResponse:
        """Sends a request to the URL and reads the whole answer.

        Raises TimeoutError after the deadline, else OSError, HTTPException and ValueError.
        """
        connection = self._take()
        deadline = Deadline(self._timeout_seconds)
        is_whole = False
        try:
            connection.ready(deadline, self._connect_seconds)
            if self._is_closed:  # meanwhile
                raise ConnectionAbortedError(_CLOSED)
            # A server can answer "too large" and close before the request is complete: the answer counts.
            with suppress(ConnectionError, ssl.SSLError):
                connection.request(method, self._target, body, {**headers, **self._authorization})
            answer = connection.answer()
            is_whole = answer.body is not None and answer.status >= 200
        except TimeoutError:
            self._close_idle()  # idle connections can be dead as well
            raise
        finally:
            self._give_back(connection, can_reuse=is_whole)
        if self._proxy and not self._is_tls and answer.status == 407:
            raise ProxyDenied(self._proxy)
        return answer

    def close(self) -> None:
        """Closes all connections; requests in flight and new ones fail."""
        with self._lock:
            self._is_closed = True
            used = tuple(self._used)
        self._close_idle()
        for connection in used:
            connection.shut_down()

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> "Connection":
        with self._lock:
            if self._is_closed:
                raise ConnectionAbortedError(_CLOSED)
            context = self._context() if self._is_tls else None
            while self._idle and self._idle[-1].context is not context:
                self._idle.pop().close()
            connection = (
                self._idle.pop()
                if self._idle
                else Connection(self._host, self._port, context, self._proxy, self._proxy_context)
            )
            self._used.add(connection)
        return connection

    def _give_back(self, connection: "Connection", *, can_reuse: bool) -> None:
        with self._lock:
            self._used.discard(connection)
            if can_reuse and connection.sock is not None and not self._is_closed:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
                return
        connection.close()


_CLOSED = "the connections were closed"


class Connection(HTTPConnection):
    """One connection. Each operation ends with the deadline of the last `ready`."""

    sock: socket.socket | None

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        proxy: Proxy | None = None,
        proxy_context: Callable[[], ssl.SSLContext] = client_context,
    ) -> None:
        """`context`: TLS settings, None for plain HTTP; `proxy_context`: those for an https:// proxy."""
        super().__init__(host, port)
        self.default_port = 443 if context else 80  # it is left out of the Host header
        self.context = context
        self._proxy, self._proxy_context = proxy, proxy_context
        self.idle_since = math.inf
        self._deadline = Deadline(math.inf)
        self._connected: socket.socket | None = None
        self._is_shut_down = False

    def ready(self, deadline: Deadline, connect_seconds: float = math.inf) -> None:
        """Connects if necessary, and sets the deadline of the next request.

        Connecting takes at most `connect_seconds`.
        """
        if self.sock is not None:
            idle = select.poll()
            idle.register(self.sock, select.POLLIN)
            is_old = time.monotonic() - self.idle_since > MAX_IDLE_SECONDS
            if is_old or idle.poll(0):  # data without a request: the end, or a protocol error
                self.close()
        if self.sock is None:
            self._deadline = deadline.within(connect_seconds)
            try:
                self.connect()
            except TimeoutError:
                deadline.left()  # raises TimeoutError if the whole request is over
                through = f" through the proxy {self._proxy.url}" if self._proxy else ""
                raise NotConnected(f"no connection{through} within {connect_seconds:g} s") from None
        self._deadline = deadline

    def connect(self) -> None:
        """Connects, through the proxy if there is one. `shut_down` can interrupt it at any time."""
        if self._proxy is None:
            self._connect_to(self.host, self.port)
        else:
            self._connect_to_proxy(self._proxy)
            if self.context is not None:
                self._open_tunnel(self._proxy)
        if self.context is not None:
            self._start_tls(self.context, self.host)

    def _connect_to_proxy(self, proxy: Proxy) -> None:
        """Connects to the proxy; errors name the proxy."""
        try:
            self._connect_to(proxy.host, proxy.port)
            if proxy.scheme == "https":
                self._start_tls(self._proxy_context(), proxy.host)
        except TimeoutError:
            raise
        except ssl.SSLCertVerificationError as error:
            why = f"its certificate is not trusted ({error.verify_message})"
            raise OSError(f"the proxy {proxy.url}: {why}") from None
        except OSError as error:
            raise OSError(f"the proxy {proxy.url}: {error}") from None

    def _connect_to(self, host: str, port: int) -> None:
        """Connects to the first address of the host that answers."""
        failed: OSError | None = None
        found = resolve(host, port, self._deadline)
        for (family, kind, protocol, _, address), seconds in addresses_in_turn(found, self._deadline):
            try:
                self.sock = self._connected = socket.socket(family, kind, protocol)
                self.sock.settimeout(seconds)
                self.sock.connect(address)
                break
            except OSError as error:
                failed = error
                self.close()
        if self.sock is None:
            raise failed or OSError(f"{host} has no address")
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _start_tls(self, context: ssl.SSLContext, host: str) -> None:
        connected = self.sock
        if isinstance(connected, ssl.SSLSocket):  # to a proxy: TLS within TLS
            from urllib3.util.ssltransport import SSLTransport

            connected.settimeout(self._deadline.left())
            tunnel: Any = SSLTransport(connected, context, server_hostname=host)
            self.sock = tunnel
        elif connected is not None:
            self.sock = self._connected = secure = context.wrap_socket(
                connected, server_hostname=host, do_handshake_on_connect=False
            )
            secure.settimeout(self._deadline.left())
            secure.do_handshake()

    def _open_tunnel(self, proxy: Proxy) -> None:
        """Opens a tunnel to the host with CONNECT (RFC 9110, section 9.3.6). Raises OSError."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        head = f"CONNECT {host}:{self.port} HTTP/1.1\r\nHost: {host}:{self.port}\r\n"
        if proxy.authorization:
            head += f"Proxy-Authorization: {proxy.authorization.reveal()}\r\n"
        self.send(f"{head}\r\n".encode())
        assert self.sock is not None  # noqa: S101  # just connected
        response = _Response(self._deadline, self.sock, "CONNECT")
        try:
            response.begin()
        except HTTPException:
            raise OSError(f"the answer of {proxy.url} is not that of an HTTP proxy; check its URL") from None
        finally:
            response.close()
        if response.status == 407:
            raise ProxyDenied(proxy)
        if not 200 <= response.status < 300:
            refused = f"refuses to connect to {host}: HTTP {response.status}"
            raise OSError(f"the proxy {proxy.url} {refused}; allow this host in the proxy")

    def send(self, data: Any) -> None:
        """Sends all data. Overrides `http.client`."""
        left = memoryview(data)
        while left and self.sock is not None:
            self.sock.settimeout(self._deadline.left())
            left = left[self.sock.send(left) :]

    def getresponse(self) -> HTTPResponse:
        """Reads the head of the answer; its body has the same deadline."""
        self.response_class = partial(_Response, self._deadline)  # type: ignore[assignment]  # it is only called
        return super().getresponse()

    def answer(self) -> HttpResponse:
        """Reads the whole answer; the body is None if it is longer than `MAX_ANSWER_BYTES`."""
        response = self.getresponse()
        body: bytes | None = None
        if response.length is None:
            body = response.read(MAX_ANSWER_BYTES + 1)
        elif response.length <= MAX_ANSWER_BYTES:
            body = response.read()
        if self._is_shut_down:  # looks like the end of a body without a length
            raise ConnectionAbortedError(_CLOSED)
        headers = {name.lower(): truncate(value) for name, value in response.getheaders()}
        if body and headers.get("content-encoding", "identity").lower() != "identity":
            body = decompressed(body, MAX_ANSWER_BYTES)  # some proxies compress although it was not requested
        return HttpResponse(response.status, headers, None if body and len(body) > MAX_ANSWER_BYTES else body)

    def shut_down(self) -> None:
        """Makes a request in flight fail. For use from other threads."""
        self._is_shut_down = True
        if (connected := self._connected) is not None:
            with suppress(OSError):  # it is closed already
                socket.socket.shutdown(connected, socket.SHUT_RDWR)


def decompressed(body: bytes, max_bytes: int) -> bytes:
    """Returns gzip or deflate data decompressed, at most `max_bytes` + 1 bytes. Raises HTTPException."""
    try:
        return zlib.decompressobj(wbits=47).decompress(body, max_bytes + 1)
    except zlib.error:
        raise HTTPException("the answer has an unknown content encoding") from None


_LENGTH = re.compile(r"[0-9]{1,18}")


class _Response(HTTPResponse):
    """A response with a deadline."""

    def __init__(self, deadline: Deadline, connected: socket.socket, method: str) -> None:
        super().__init__(connected, method=method)
        self.fp.close()
        self.fp = io.BufferedReader(_Incoming(connected, deadline))

    def begin(self) -> None:
        """Reads the head of the final answer, after interim ones (RFC 9110, section 15.2)."""
        super().begin()
        while 101 < self.status < 200:
            self.headers = None  # type: ignore[assignment]  # as it is before it has begun
            super().begin()
        if self.headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise UnknownTransferEncoding  # http.client would read its frames as content
        if not _LENGTH.fullmatch(self.headers.get("content-length", "0").strip()):
            raise HTTPException("the answer has an invalid Content-Length")  # http.client ignores it


class _Incoming(io.RawIOBase):
    """The data that a socket receives until the deadline; a later read raises TimeoutError."""

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        self._socket = connected
        self._file = connected.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        self._socket.settimeout(self._deadline.left())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
