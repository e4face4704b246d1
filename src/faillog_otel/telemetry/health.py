"""`/healthz` and `/readyz`, for whoever watches over the program: two questions, answered in JSON.

An answer says nothing but our own words and numbers: no id, no address, no text of anybody else's. One thread
serves a bounded number of connections, each for a bounded time: a peer that drips, or many of them, cost
neither threads nor descriptors, and keep no other one from its answer.
"""

import io
import json
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

from msgspec import Struct

from faillog_otel.errors import ConfigError

# -- check ---------------------------------------------------------------------------------------------------
#
# One thing that should be so, and how it stands: our own words and numbers only, for anybody may ask.


class Check(Struct, frozen=True):
    """`why` says what is wrong, or how it stands."""

    ok: bool
    why: str


Checks = Callable[[], Mapping[str, Check]]
"""Name → check."""


# -- health --------------------------------------------------------------------------------------------------


_log = logging.getLogger(__name__)

MAX_SECONDS = 5.0
"""From a connection's first moment to its last one."""
MAX_CONNECTIONS = 64
"""One more takes the place of the oldest one."""
MAX_REQUEST_BYTES = 8192


class _Asking(Struct):
    """What a connection has asked so far, and until when it may (monotonic)."""

    until: float
    received: bytes = b""


class HealthServer:
    """A context manager: answers from entering to leaving, on a thread of its own. Raises ConfigError."""

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
        """`host`: `::` is every address of this machine, of IPv4 too, also where there is no IPv6."""
        self._checks = {"/healthz": alive, "/readyz": ready}
        self._max_seconds = max_seconds
        self._max_connections = max_connections
        self._asking: dict[socket.socket, _Asking] = {}
        """The oldest one first."""
        try:
            self._listening = _listening(host, port)
        except OSError as error:
            shown = f"[{host}]" if ":" in host else host
            raise ConfigError(f"--health-addr {shown}:{port}: {error.strerror}") from None
        self._listening.setblocking(False)
        self.port: int = self._listening.getsockname()[1]
        """Where it listens; the system picked it when it was 0."""
        self._ending, self._end = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self._thread.join()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as self._selector, self._listening, self._ending:
            self._selector.register(self._listening, selectors.EVENT_READ)
            self._selector.register(self._ending, selectors.EVENT_READ)
            while True:
                for key, _ in self._selector.select(self._drop_late()):
                    if key.fileobj is self._ending:
                        self._drop_all()
                        return
                    if key.fileobj is self._listening:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._asking:
                        self._read(key.fileobj)

    def _accept(self) -> None:
        if len(self._asking) >= self._max_connections:
            self._drop(next(iter(self._asking)))
        try:
            connection, _ = self._listening.accept()
        except OSError:  # it has gone again, or there are no descriptors: no reason for a busy loop
            time.sleep(0.01)
            return
        connection.setblocking(False)
        self._asking[connection] = _Asking(time.monotonic() + self._max_seconds)
        self._selector.register(connection, selectors.EVENT_READ)
        self._read(connection)  # who has asked already is not the next one to be dropped

    def _read(self, connection: socket.socket) -> None:
        asking = self._asking[connection]
        try:
            received = connection.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        asking.received += received
        is_whole = b"\r\n\r\n" in asking.received or b"\n\n" in asking.received
        if is_whole:
            self._answer(connection, asking.received)
        if is_whole or not received or len(asking.received) > MAX_REQUEST_BYTES:
            self._drop(connection)

    def _answer(self, connection: socket.socket, request: bytes) -> None:
        try:
            answer = _Handler(request, self._checks).answer
        except Exception:  # noqa: BLE001  # a bug in a check must not end the server
            _log.exception("a question about our health could not be answered")
            return
        with suppress(OSError):  # who asks and goes away is no news
            connection.send(answer)  # it is shorter than any buffer
            connection.shutdown(socket.SHUT_WR)

    def _drop_late(self) -> float | None:
        """Drops those whose time is over. Returns the seconds until the next one's is; None: never."""
        now = time.monotonic()
        for connection, asking in tuple(self._asking.items()):
            if asking.until > now:
                return asking.until - now
            self._drop(connection)
        return None

    def _drop_all(self) -> None:
        for connection in tuple(self._asking):
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        del self._asking[connection]
        self._selector.unregister(connection)
        connection.close()


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises OSError."""
    if host == "::":
        if socket.has_dualstack_ipv6():
            return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
        host = "0.0.0.0"  # noqa: S104  # who asks for :: asks for all
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family)


class _Handler(BaseHTTPRequestHandler):
    """Makes the answer to one whole request."""

    def __init__(self, request: bytes, checks: Mapping[str, Checks]) -> None:
        self.answer = b""
        self._checks = checks
        super().__init__(request, ("", 0), None)  # type: ignore[arg-type]  # it is passed on only

    def setup(self) -> None:
        """Reads from memory, and writes there."""
        self.rfile = io.BytesIO(self.request)
        self.wfile = self._written = io.BytesIO()

    def finish(self) -> None:
        """Ends the answer."""
        self.answer = self._written.getvalue()

    def do_GET(self) -> None:
        """Answers one question: 200, 503 or 404."""
        checks = self._checks.get(self.path.partition("?")[0])
        if checks is None:
            self._answer(404, {"error": "ask for /healthz or /readyz"})
            return
        found = checks()
        ok = all(check.ok for check in found.values())
        told = {name: {"ok": check.ok, "why": check.why} for name, check in found.items()}
        self._answer(200 if ok else 503, {"ok": ok, "checks": told})

    do_HEAD = do_GET  # noqa: N815  # http.server's name

    def _answer(self, status: int, told: dict[str, Any]) -> None:
        content = json.dumps(told).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """Who answers; not which Python."""
        return "faillog-otel"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Says nothing: the standard library would write to standard error."""
