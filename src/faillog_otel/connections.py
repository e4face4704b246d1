"""HTTP/1.1 connections to collectors that several threads use, with one deadline for each exchange.

`http.client` writes and parses; redirects are not followed, a proxy is used where one is given. (Segment and
S3: `segment/http_client.py`.)
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
"""An idle connection is not used after this time: NAT gateways and load balancers forget it silently."""


class NotConnected(TimeoutError):
    """The time for connecting is over, that for the exchange is not."""


class ProxyDenied(OSError):
    """The proxy asks for a user and a password, or does not take those that it got."""

    def __init__(self, proxy: Proxy) -> None:
        remedy = "set them in the proxy's URL: http://USER:PASSWORD@HOST:PORT"
        super().__init__(f"the proxy {proxy.url} asks for a user and a password (407); {remedy}")


class HttpResponse(Struct, frozen=True):
    """What a server answered. The names of `headers` are lower case, their values are cut."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None
    """None: it is longer than allowed."""


class Connections:
    """Connections to one URL, kept open between requests, for use from several threads at once."""

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
        """`timeout_seconds`: for a whole exchange, from the look-up of the host's name on.
        `connect_seconds`: for that and for connecting, where it is shorter.

        `context` returns the TLS settings of new connections, by default the system's; connections that
        were made with another one are not used again. It is never called by two threads at once.
        `proxy_context` returns those of connections to an https:// proxy.
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
        """POSTs, as `request` does."""
        return self.request("POST", body, headers)

    def request(self, method: str, body: bytes | None, headers: Mapping[str, str]) -> HttpResponse:
        """Sends a request to the URL itself, and reads its answer to the end.

        Raises TimeoutError when that is not there in time, else OSError, HTTPException and ValueError.
        """
        connection = self._take()
        deadline = Deadline(self._timeout_seconds)
        is_whole = False
        try:
            connection.ready(deadline, self._connect_seconds)
            if self._is_closed:  # meanwhile
                raise ConnectionAbortedError(_CLOSED)
            # A server may answer, "too large", and close while it is still sent to: the answer counts.
            with suppress(ConnectionError, ssl.SSLError):
                connection.request(method, self._target, body, {**headers, **self._authorization})
            answer = connection.answer()
            is_whole = answer.body is not None and answer.status >= 200
        except TimeoutError:
            self._close_idle()  # the way to the server may have gone silent for all of them
            raise
        finally:
            self._give_back(connection, is_of_use=is_whole)
        if self._proxy and not self._is_tls and answer.status == 407:
            raise ProxyDenied(self._proxy)
        return answer

    def close(self) -> None:
        """Closes all connections; a request that is under way fails, and so does each new one."""
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

    def _give_back(self, connection: "Connection", *, is_of_use: bool) -> None:
        with self._lock:
            self._used.discard(connection)
            if is_of_use and connection.sock is not None and not self._is_closed:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
                return
        connection.close()


_CLOSED = "the connections were closed"


class Connection(HTTPConnection):
    """One connection. Everything that it does ends with the deadline that it is ready for."""

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
        """Makes sure that it is connected, for an exchange that ends with this deadline.

        A connection that is not there yet has `connect_seconds`, where that is less.
        """
        if self.sock is not None:
            idle = select.poll()
            idle.register(self.sock, select.POLLIN)
            is_old = time.monotonic() - self.idle_since > MAX_IDLE_SECONDS
            if is_old or idle.poll(0):  # nothing was asked: it is the end, or cannot be understood
                self.close()
        if self.sock is None:
            self._deadline = deadline.within(connect_seconds)
            try:
                self.connect()
            except TimeoutError:
                deadline.left()  # raises it where the whole exchange is over
                through = f" through the proxy {self._proxy.url}" if self._proxy else ""
                raise NotConnected(f"no connection{through} within {connect_seconds:g} s") from None
        self._deadline = deadline

    def connect(self) -> None:
        """Connects, through the proxy where there is one. What is under way can be shut down at any time."""
        if self._proxy is None:
            self._connect_to(self.host, self.port)
        else:
            self._connect_to_proxy(self._proxy)
            if self.context is not None:
                self._ask_for_tunnel(self._proxy)
        if self.context is not None:
            self._start_tls(self.context, self.host)

    def _connect_to_proxy(self, proxy: Proxy) -> None:
        """Connects to the proxy. Errors say that it is the proxy, and not the host."""
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

    def _ask_for_tunnel(self, proxy: Proxy) -> None:
        """Lets the proxy connect to the host (RFC 9110, section 9.3.6). Raises OSError where it does not."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        head = f"CONNECT {host}:{self.port} HTTP/1.1\r\nHost: {host}:{self.port}\r\n"
        if proxy.authorization:
            head += f"Proxy-Authorization: {proxy.authorization.reveal()}\r\n"
        self.send(f"{head}\r\n".encode())
        assert self.sock is not None  # noqa: S101  # it was connected just now
        response = _Response(self._deadline, self.sock, "CONNECT")
        try:
            response.begin()
        except HTTPException:
            raise OSError(f"the proxy {proxy.url} does not answer as one") from None
        finally:
            response.close()
        if response.status == 407:
            raise ProxyDenied(proxy)
        if not 200 <= response.status < 300:
            raise OSError(f"the proxy {proxy.url} does not connect to {host}: HTTP {response.status}")

    def send(self, data: Any) -> None:
        """Sends all of it. For `http.client`."""
        left = memoryview(data)
        while left and self.sock is not None:
            self.sock.settimeout(self._deadline.left())
            left = left[self.sock.send(left) :]

    def getresponse(self) -> HTTPResponse:
        """Reads the head of the answer; its body is read under the same deadline."""
        self.response_class = partial(_Response, self._deadline)  # type: ignore[assignment]  # it is only called
        return super().getresponse()

    def answer(self) -> HttpResponse:
        """Reads the answer to its end, where its body is no longer than `MAX_ANSWER_BYTES`."""
        response = self.getresponse()
        body: bytes | None = None
        if response.length is None:
            body = response.read(MAX_ANSWER_BYTES + 1)
        elif response.length <= MAX_ANSWER_BYTES:
            body = response.read()
        if self._is_shut_down:  # to a body without a length, that looks like its end
            raise ConnectionAbortedError(_CLOSED)
        headers = {name.lower(): truncate(value) for name, value in response.getheaders()}
        if body and headers.get("content-encoding", "identity").lower() != "identity":
            body = unpacked(body, MAX_ANSWER_BYTES)  # it was not asked for; proxies do so all the same
        return HttpResponse(response.status, headers, None if body and len(body) > MAX_ANSWER_BYTES else body)

    def shut_down(self) -> None:
        """Makes fail what is under way. For other threads than the one that uses the connection."""
        self._is_shut_down = True
        if (connected := self._connected) is not None:
            with suppress(OSError):  # it is closed by now
                socket.socket.shutdown(connected, socket.SHUT_RDWR)


def unpacked(body: bytes, max_bytes: int) -> bytes:
    """What gzip or deflate packed, no more than is of use. Raises HTTPException."""
    try:
        return zlib.decompressobj(wbits=47).decompress(body, max_bytes + 1)
    except zlib.error:
        raise HTTPException("the answer is packed in a way that was not asked for") from None


_LENGTH = re.compile(r"[0-9]{1,18}")


class _Response(HTTPResponse):
    """A response that is read until the deadline."""

    def __init__(self, deadline: Deadline, connected: socket.socket, method: str) -> None:
        super().__init__(connected, method=method)
        self.fp.close()
        self.fp = io.BufferedReader(_Incoming(connected, deadline))

    def begin(self) -> None:
        """Reads the head of the final answer: interim ones (RFC 9110, section 15.2) come before it."""
        super().begin()
        while 101 < self.status < 200:
            self.headers = None  # type: ignore[assignment]  # as it is before it has begun
            super().begin()
        if self.headers.get("transfer-encoding", "chunked").lower() != "chunked":
            raise UnknownTransferEncoding  # http.client would take its frames for content
        if not _LENGTH.fullmatch(self.headers.get("content-length", "0").strip()):
            raise HTTPException("the answer's length cannot be read")  # http.client would read to the end


class _Incoming(io.RawIOBase):
    """What a socket receives until the deadline; reading then raises TimeoutError."""

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
