"""The health server: answers `/healthz` and `/readyz` in JSON.

An answer contains only our own words and numbers: no id, no address, no foreign text. One thread serves a
bounded number of connections, each for a bounded time, so slow peers use up neither threads nor descriptors
and block no other peer.
"""

import io
import json
import logging
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

from msgspec import Struct

from faillog_otel.errors import ConfigError
from faillog_otel.telemetry import Checks

_log = logging.getLogger(__name__)

MAX_SECONDS = 5.0
"""For a whole connection."""
MAX_CONNECTIONS = 64
"""A further connection replaces the oldest one."""
MAX_REQUEST_BYTES = 8192


class _Connection(Struct):
    """What a connection has received, and its deadline (monotonic)."""

    until: float
    received: bytes = b""


class HealthServer:
    """A context manager that serves the health checks on its own thread. Raises ConfigError."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        alive: Checks,
        ready: Checks,
        max_seconds: float = MAX_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        """`host`: `::` means all addresses of this machine, also IPv4, and also without IPv6."""
        self._checks = {"/healthz": alive, "/readyz": ready}
        self._max_seconds = max_seconds
        self._max_connections = max_connections
        self._connections: dict[socket.socket, _Connection] = {}
        """The oldest one first."""
        try:
            self._listener = _listener(host, port)
        except OSError as error:
            shown = f"[{host}]" if ":" in host else host
            raise ConfigError(f"--health-addr {shown}:{port}: {error.strerror}") from None
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        """The port it listens on, also if the system chose it."""
        self._stopped, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as self._selector, self._listener, self._stopped:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(self._stopped, selectors.EVENT_READ)
            while True:
                for key, _ in self._selector.select(self._drop_late()):
                    if key.fileobj is self._stopped:
                        self._drop_all()
                        return
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._connections:
                        self._read(key.fileobj)

    def _accept(self) -> None:
        if len(self._connections) >= self._max_connections:
            self._drop(next(iter(self._connections)))
        try:
            connection, _ = self._listener.accept()
        except OSError:  # closed already, or no descriptors: avoid a busy loop
            time.sleep(0.01)
            return
        connection.setblocking(False)
        self._connections[connection] = _Connection(time.monotonic() + self._max_seconds)
        self._selector.register(connection, selectors.EVENT_READ)
        self._read(connection)  # an early request is answered before others are dropped

    def _read(self, connection: socket.socket) -> None:
        state = self._connections[connection]
        try:
            received = connection.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        state.received += received
        is_whole = b"\r\n\r\n" in state.received or b"\n\n" in state.received
        if is_whole:
            self._answer(connection, state.received)
        if is_whole or not received or len(state.received) > MAX_REQUEST_BYTES:
            self._drop(connection)

    def _answer(self, connection: socket.socket, request: bytes) -> None:
        try:
            answer = _Handler(request, self._checks).answer
        except Exception:  # noqa: BLE001  # a bug in a check must not end the server
            _log.exception("a bug in faillog-otel: a health check failed; report it with the traceback below")
            return
        with suppress(OSError):  # the peer has closed the connection
            connection.send(answer)  # shorter than any buffer
            connection.shutdown(socket.SHUT_WR)

    def _drop_late(self) -> float | None:
        """Drops connections past their deadline; returns the seconds until the next deadline, None: never."""
        now = time.monotonic()
        for connection, state in tuple(self._connections.items()):
            if state.until > now:
                return state.until - now
            self._drop(connection)
        return None

    def _drop_all(self) -> None:
        for connection in tuple(self._connections):
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        del self._connections[connection]
        self._selector.unregister(connection)
        connection.close()


def _listener(host: str, port: int) -> socket.socket:
    """Returns a listening socket. Raises OSError."""
    if host == "::":
        if socket.has_dualstack_ipv6():
            return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
        host = "0.0.0.0"  # noqa: S104  # :: means all addresses
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family)


class _Handler(BaseHTTPRequestHandler):
    """Makes the answer to one complete request."""

    def __init__(self, request: bytes, checks: Mapping[str, Checks]) -> None:
        self.answer = b""
        self._checks = checks
        super().__init__(request, ("", 0), None)  # type: ignore[arg-type]  # it is only stored

    def setup(self) -> None:
        """Reads and writes memory."""
        self.rfile = io.BytesIO(self.request)
        self.wfile = self._written = io.BytesIO()

    def finish(self) -> None:
        """Stores the answer."""
        self.answer = self._written.getvalue()

    def do_GET(self) -> None:
        """Answers with 200, 503 or 404."""
        checks = self._checks.get(self.path.partition("?")[0])
        if checks is None:
            self._answer(404, {"error": "unknown path; use /healthz or /readyz"})
            return
        found = checks()
        ok = all(check.ok for check in found.values())
        body = {name: {"ok": check.ok, "why": check.why} for name, check in found.items()}
        self._answer(200 if ok else 503, {"ok": ok, "checks": body})

    do_HEAD = do_GET  # noqa: N815  # http.server's name

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """Returns the Server header, without Python's version."""
        return "faillog-otel"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Does nothing: the standard library would write to standard error."""
