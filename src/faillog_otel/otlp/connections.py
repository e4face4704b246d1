"""HTTP/1.1 connections to one URL, kept open between requests, for use from several threads at once.

They are the standard library's: for large requests httpx takes twice the time, and it keeps their bodies
until the garbage collector comes by. Added here are a deadline for a whole exchange, a bound for answers,
and that nothing is sent on a connection that the server has closed meanwhile.
"""

import io
import math
import select
import socket
import ssl
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from msgspec import Struct

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LARGEST_ANSWER_BYTES = 4 * 1024 * 1024


class Answer(Struct, frozen=True):
    """What a server answered. The names of `headers` are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None
    """None: it is longer than `LARGEST_ANSWER_BYTES`."""


class Connections:
    """All that lead to one URL. Redirects are not followed, proxies of the environment are not used."""

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = math.inf,
        context: Callable[[], ssl.SSLContext | None] = lambda: None,
    ) -> None:
        """`timeout_seconds`: for a whole exchange, from connecting on.

        `context` gives what new connections speak TLS with; those that were made with another one are
        used no more. It is never asked by two threads at once.
        """
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._is_tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._authorization = {}
        if parts.username or parts.password:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
            self._authorization["authorization"] = f"Basic {b64encode(pair).decode()}"
        self._timeout_seconds = timeout_seconds
        self._context = context
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._used: set[_Connection] = set()
        self._is_closed = False

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Sends a request and reads its answer to the end.

        Raises TimeoutError when that is not there in time, else OSError, HTTPException and ValueError.
        """
        ends = time.monotonic() + self._timeout_seconds
        connection = self._take()
        is_whole = False
        try:
            connection.ready(ends)
            if self._is_closed:  # meanwhile
                raise ConnectionAbortedError(_CLOSED)
            # A server may answer, "too large", and close while it is still sent to: the answer counts.
            with suppress(ConnectionError, ssl.SSLError):
                connection.request("POST", self._path, body, {**headers, **self._authorization})
            answer = connection.answer()
            is_whole = answer.body is not None and answer.status >= 200
        finally:
            self._give_back(connection, is_of_use=is_whole)
        return answer

    def close(self) -> None:
        """Closes all connections; a request that is under way fails, and so does each new one."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            used = tuple(self._used)
        for connection in idle:
            connection.close()
        for connection in used:
            connection.shut_down()

    def _take(self) -> "_Connection":
        with self._lock:
            if self._is_closed:
                raise ConnectionAbortedError(_CLOSED)
            context = self._context() if self._is_tls else None
            while self._idle and self._idle[-1].context is not context:
                self._idle.pop().close()
            connection = self._idle.pop() if self._idle else _Connection(self._host, self._port, context)
            self._used.add(connection)
        return connection

    def _give_back(self, connection: "_Connection", *, is_of_use: bool) -> None:
        with self._lock:
            self._used.discard(connection)
            if is_of_use and connection.sock is not None and not self._is_closed:
                self._idle.append(connection)
                return
        connection.close()


_CLOSED = "the connections were closed"


class _Connection(HTTPConnection):
    """One of them; all that it does ends with the exchange that it is ready for."""

    sock: socket.socket | None

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port)
        self.default_port = 443 if context else 80  # it is left out of the Host header
        self.context = context
        self._ends = math.inf

    def ready(self, ends: float) -> None:
        """Makes sure that it is connected, for an exchange until `ends`."""
        self._ends = ends
        if self.sock is not None:
            idle = select.poll()
            idle.register(self.sock, select.POLLIN)
            if idle.poll(0):  # nothing was asked: it is the end, or nothing that could be understood
                self.close()
        if self.sock is None:
            self.connect()
        if self.sock is not None:
            self.sock.settimeout(_left(ends))

    def connect(self) -> None:
        """Connects to the first address that answers. What is under way can be shut down at any time."""
        failed: OSError | None = None
        addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses:
            try:
                self.sock = socket.socket(family, kind, protocol)
                self.sock.settimeout(_left(self._ends))
                self.sock.connect(address)
                break
            except OSError as error:
                failed = error
                self.close()
        if self.sock is None:
            raise failed or OSError(f"{self.host} has no address")
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context is not None:
            self.sock = secure = self.context.wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            secure.settimeout(_left(self._ends))
            secure.do_handshake()

    def answer(self) -> Answer:
        """Reads it to its end."""
        self.response_class = partial(_Response, self._ends)  # type: ignore[assignment]  # it is only called
        response = self.getresponse()
        body: bytes | None = None
        if response.length is None:
            body = response.read(LARGEST_ANSWER_BYTES + 1)
        elif response.length <= LARGEST_ANSWER_BYTES:
            body = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        if body and headers.get("content-encoding", "identity").lower() != "identity":
            body = _unpacked(body)  # it was not asked for; proxies do so all the same
        return Answer(response.status, headers, None if body and len(body) > LARGEST_ANSWER_BYTES else body)

    def shut_down(self) -> None:
        """Whatever is under way fails. For other threads than the one that uses it."""
        if (connected := self.sock) is not None:
            with suppress(OSError):  # it is closed by now
                socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _unpacked(body: bytes) -> bytes:
    """What gzip or deflate packed, no more than is of use. Raises HTTPException."""
    try:
        return zlib.decompressobj(wbits=47).decompress(body, LARGEST_ANSWER_BYTES + 1)
    except zlib.error:
        raise HTTPException("the answer is packed in a way that was not asked for") from None


class _Response(HTTPResponse):
    """A response that is read until `ends`."""

    def __init__(self, ends: float, connected: socket.socket, method: str) -> None:
        super().__init__(connected, method=method)
        self.fp.close()
        self.fp = io.BufferedReader(_Incoming(connected, ends))

    def begin(self) -> None:
        """Reads the head of the final answer: interim ones (RFC 9110, section 15.2) come before it."""
        super().begin()
        while 101 < self.status < 200:
            self.headers = None  # type: ignore[assignment]  # as it is before it has begun
            super().begin()


class _Incoming(io.RawIOBase):
    """What a socket receives until `ends`; reading then raises TimeoutError."""

    def __init__(self, connected: socket.socket, ends: float) -> None:
        self._socket = connected
        self._file = connected.makefile("rb", buffering=0)
        self._ends = ends

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        self._socket.settimeout(_left(self._ends))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _left(ends: float) -> float | None:
    """Seconds until then; None: forever. Raises TimeoutError when it is past."""
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left if math.isfinite(left) else None
