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
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
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
        self, url: str, *, timeout_seconds: float = math.inf, context: ssl.SSLContext | None = None
    ) -> None:
        """`timeout_seconds`: for a whole exchange, from connecting on. `context`: for TLS."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._authorization = {}
        if parts.username or parts.password:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
            self._authorization["authorization"] = f"Basic {b64encode(pair).decode()}"
        self._timeout_seconds = timeout_seconds
        self._context = context
        self._lock = threading.Lock()
        self._idle: list[HTTPConnection] = []
        self._used: set[HTTPConnection] = set()
        self._is_retired = False

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Sends a request and reads its answer to the end.

        Raises TimeoutError when that is not there in time, else OSError, HTTPException and ValueError.
        """
        ends = time.monotonic() + self._timeout_seconds
        connection = self._take()
        is_whole = False
        try:
            _connect(connection, ends)
            # A server may answer, "too large", and close while it is still sent to: the answer counts.
            with suppress(ConnectionError, ssl.SSLError):
                connection.request("POST", self._path, body, {**headers, **self._authorization})
            answer = _answer(connection, ends)
            is_whole = answer.body is not None
        finally:
            self._give_back(connection, is_of_use=is_whole)
        return answer

    def retire(self) -> None:
        """Keeps no connection open any more; what is under way goes on."""
        with self._lock:
            self._is_retired = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Closes all connections; a request that is under way fails."""
        self.retire()
        with self._lock:
            used = [connection.sock for connection in self._used]
        for each in used:
            if each is not None:
                with suppress(OSError):  # it is closed by now
                    socket.socket.shutdown(each, socket.SHUT_RDWR)

    def _take(self) -> HTTPConnection:
        with self._lock:
            connection = self._idle.pop() if self._idle else self._new()
            self._used.add(connection)
        return connection

    def _give_back(self, connection: HTTPConnection, *, is_of_use: bool) -> None:
        with self._lock:
            self._used.discard(connection)
            if is_of_use and connection.sock is not None and not self._is_retired:
                self._idle.append(connection)
                return
        connection.close()

    def _new(self) -> HTTPConnection:
        if self._context is not None:
            return HTTPSConnection(self._host, self._port, context=self._context)
        return HTTPConnection(self._host, self._port)


def _connect(connection: HTTPConnection, ends: float) -> None:
    """Makes sure that it is connected, with a timeout that ends at `ends`."""
    connection.timeout = _left(ends)
    if connection.sock is not None:
        connection.sock.settimeout(connection.timeout)
        idle = select.poll()
        idle.register(connection.sock, select.POLLIN)
        if idle.poll(0):  # nothing was asked: it is the end, or nothing that could be understood
            connection.close()
    if connection.sock is None:
        connection.connect()


def _answer(connection: HTTPConnection, ends: float) -> Answer:
    connection.response_class = partial(_Response, ends)  # type: ignore[assignment]  # it is only called
    response = connection.getresponse()
    body: bytes | None = None
    if response.length is None:
        body = response.read(LARGEST_ANSWER_BYTES + 1)
        body = body if len(body) <= LARGEST_ANSWER_BYTES else None
    elif response.length <= LARGEST_ANSWER_BYTES:
        body = response.read()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, body)


class _Response(HTTPResponse):
    """A response that is read until `ends`."""

    def __init__(self, ends: float, connected: socket.socket, method: str) -> None:
        super().__init__(connected, method=method)
        self.fp.close()
        self.fp = io.BufferedReader(_Incoming(connected, ends))


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
