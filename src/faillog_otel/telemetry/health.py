"""The health server: answers `/healthz` and `/readyz` in JSON, and `/` with the page of failures.

A health check contains only our own words and numbers: no id, no address, no foreign text. One thread serves
a bounded number of connections, each for a bounded time, so slow peers use up neither threads nor descriptors
and block no other peer. Another thread makes the page, so that a health check never waits for it.
"""

import io
import ipaddress
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
from urllib.parse import urlsplit

from msgspec import Struct, field

from faillog_otel.errors import ConfigError, FaillogError
from faillog_otel.network import is_loopback
from faillog_otel.telemetry import Checks

_log = logging.getLogger(__name__)

MAX_SECONDS = 5.0
"""For a whole connection."""
MAX_CONNECTIONS = 64
"""A further connection replaces the oldest one."""
MAX_REQUEST_BYTES = 8192
PAGE_SECONDS = 30.0
"""How long a page is served before it is made again; also how long a connection waits for it."""
RELOAD_SECONDS = 60
PAGE_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    # The page itself has a stricter policy; a header alone can forbid frames.
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class _Connection(Struct):
    """What a connection has received and still gets, and its deadline (monotonic)."""

    until: float
    received: bytes = b""
    unsent: list[memoryview] = field(default_factory=list)
    waits: bool = False
    """Whether it waits for the page."""


class _Page:
    """The page as it was made last. `make` runs on a thread of its own, one at a time."""

    def __init__(self, make: Callable[[], str], on_made: Callable[[], None]) -> None:
        self._make = make
        self._on_made = on_made
        self._made: tuple[float, bytes] | None = None
        """When (monotonic), and the page; empty if it could not be made."""
        self._thread: threading.Thread | None = None

    def content(self) -> bytes | None:
        """Returns the page, empty if it could not be made; None if it has to be made first."""
        if self._made is None or time.monotonic() - self._made[0] > PAGE_SECONDS:
            return None
        return self._made[1]

    def start(self) -> None:
        """Makes the page, unless that is under way."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def join(self) -> None:
        """Waits until no page is being made."""
        if self._thread is not None:
            self._thread.join(MAX_SECONDS)

    def _run(self) -> None:
        content = b""
        try:
            content = self._make().encode()
        except FaillogError as error:
            _log.warning("the page of failures could not be made: %s", error)
        except Exception:  # noqa: BLE001  # a bug in the page must not end the server
            _log.exception(
                "a bug in faillog-otel: the page of failures could not be made; report it with the traceback "
                "below"
            )
        self._made = time.monotonic(), content
        self._on_made()


class HealthServer:
    """A context manager that serves the health checks on its own thread. Raises ConfigError."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        alive: Checks,
        ready: Checks,
        page: Callable[[], str] | None = None,
        max_seconds: float = MAX_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        """`host`: `::` means all addresses of this machine, also IPv4, and also without IPv6.

        `page` makes the page; it is called on another thread. None: there is none.
        """
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
        self._is_local = is_loopback(host)
        self._stopped, self._stop = socket.socketpair()
        self._page = None if page is None else _Page(page, self._wake)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()
        if self._page:
            self._page.join()

    def _wake(self) -> None:
        with suppress(OSError):  # the server has ended
            self._stop.send(b"p")

    def _serve(self) -> None:
        with selectors.DefaultSelector() as self._selector, self._listener, self._stopped:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(self._stopped, selectors.EVENT_READ)
            while True:
                for key, _ in self._selector.select(self._drop_late()):
                    if key.fileobj is self._stopped:
                        if not self._stopped.recv(64):
                            self._drop_all()
                            return
                        self._answer_waiting()
                    elif key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._connections:
                        if self._connections[key.fileobj].unsent:
                            self._send(key.fileobj)
                        else:
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
        if b"\r\n\r\n" in state.received or b"\n\n" in state.received:
            self._answer(connection)
        elif not received or len(state.received) > MAX_REQUEST_BYTES:
            self._drop(connection)

    def _answer(self, connection: socket.socket) -> None:
        """Begins to send the answer, or lets the connection wait for the page."""
        state = self._connections[connection]
        try:
            handler = _Handler(state.received, self._checks, self._page, is_local=self._is_local)
        except Exception:  # noqa: BLE001  # a bug in a check must not end the server
            _log.exception("a bug in faillog-otel: a health check failed; report it with the traceback below")
            self._drop(connection)
            return
        if handler.waits and self._page:
            state.waits, state.until = True, time.monotonic() + PAGE_SECONDS
            self._selector.unregister(connection)  # what it sends meanwhile is of no interest
            self._page.start()
            return
        if state.waits:
            state.waits, state.until = False, time.monotonic() + self._max_seconds
            self._selector.register(connection, selectors.EVENT_READ)
        state.unsent = [memoryview(part) for part in (handler.answer, handler.content) if part]
        self._send(connection)

    def _answer_waiting(self) -> None:
        for connection, state in tuple(self._connections.items()):
            if state.waits:
                self._answer(connection)

    def _send(self, connection: socket.socket) -> None:
        """Sends as much as the connection takes, and ends it after the last byte."""
        state = self._connections[connection]
        try:
            while state.unsent:
                state.unsent[0] = state.unsent[0][connection.send(state.unsent[0]) :]
                if not state.unsent[0]:
                    del state.unsent[0]
            connection.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            self._selector.modify(connection, selectors.EVENT_WRITE)
            return
        except OSError:  # the peer has closed the connection
            pass
        self._drop(connection)

    def _drop_late(self) -> float | None:
        """Drops connections past their deadline; returns the seconds until the next deadline, None: never."""
        now = time.monotonic()
        for connection, state in tuple(self._connections.items()):
            if state.until <= now:
                self._drop(connection)
        return min((state.until - now for state in self._connections.values()), default=None)

    def _drop_all(self) -> None:
        for connection in tuple(self._connections):
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        if not self._connections.pop(connection).waits:
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


def _names_this_machine(host: str) -> bool:
    """Returns whether a Host header is `localhost` or an address.

    A page of a stranger whose name leads to 127.0.0.1 has another one: a browser must not show it our page.
    """
    try:
        name = urlsplit(f"//{host}").hostname or "localhost"
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


class _Handler(BaseHTTPRequestHandler):
    """Makes the answer to one complete request."""

    def __init__(
        self, request: bytes, checks: Mapping[str, Checks], page: _Page | None, *, is_local: bool
    ) -> None:
        """`is_local`: the server listens on this machine only."""
        self.answer = b""
        self.content = b""
        """What follows the answer."""
        self.waits = False
        """Whether the page has to be made first."""
        self._checks = checks
        self._page = page
        self._is_local = is_local
        super().__init__(request, ("", 0), None)  # type: ignore[arg-type]  # it is only stored

    def setup(self) -> None:
        """Reads and writes memory."""
        self.rfile = io.BytesIO(self.request)
        self.wfile = self._written = io.BytesIO()

    def finish(self) -> None:
        """Stores the answer."""
        self.answer = self._written.getvalue()

    def do_GET(self) -> None:
        """Answers with 200, 503, 403 or 404."""
        path, _, query = self.path.partition("?")
        checks = self._checks.get(path)
        if path == "/" and self._page:
            self._answer_page(self._page.content(), query)
        elif checks is None:
            known = "/, /healthz or /readyz" if self._page else "/healthz or /readyz"
            self._answer(404, {"error": f"unknown path; use {known}"})
        else:
            found = checks()
            ok = all(check.ok for check in found.values())
            body = {name: {"ok": check.ok, "why": check.why} for name, check in found.items()}
            self._answer(200 if ok else 503, {"ok": ok, "checks": body})

    do_HEAD = do_GET  # noqa: N815  # http.server's name

    def _answer_page(self, page: bytes | None, query: str) -> None:
        if self._is_local and not _names_this_machine(self.headers.get("host", "")):
            self._answer(403, {"error": "open this page as localhost or by address"})
        elif page is None:
            self.waits = True
        elif not page:
            self._answer(503, {"error": "the page could not be made; the log of the run says why"})
        else:
            reload = {} if query == "still" else {"refresh": str(RELOAD_SECONDS)}
            self._begin(200, len(page), PAGE_HEADERS | reload)
            self.content = b"" if self.command == "HEAD" else page

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode() + b"\n"
        self._begin(status, len(content), {"content-type": "application/json"})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(length))
        self.send_header("cache-control", "no-store")
        self.send_header("x-content-type-options", "nosniff")
        self.end_headers()

    def version_string(self) -> str:
        """Returns the Server header, without Python's version."""
        return "faillog-otel"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Does nothing: the standard library would write to standard error."""
