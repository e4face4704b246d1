"""HTTP/1.1 on loopback: a function from request to answer becomes an origin, with all its bad manners."""

import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Struct, field

from faillog_otel.addresses import family_of, loopback_host
from faillog_otel.errors import ConfigError

_MOST_BODY_BYTES = 16 * 1024 * 1024
_PIECES = 8
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 seconds: close() sends a reset


class Request(Struct, frozen=True):
    """What a client asks; header names are lower-case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Answer(Struct, frozen=True):
    """What it gets. The connection is kept open, unless the answer breaks off."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    """One that is empty is left out."""
    told_bytes: int | None = None
    """What Content-Length says; by default the truth."""
    sent_bytes: int | None = None
    """So much of the body is sent, then the connection is closed."""
    resets: bool = False
    """Closed by a reset; without `sent_bytes` before anything is answered."""
    slow_seconds: float = 0.0
    """The body comes in pieces, over so much real time; the end of the origin cuts it short."""


def json_answer(status: int, content: Any, **headers: str) -> Answer:
    """An answer in JSON."""
    return Answer(status, msgspec.json.encode(content), {"Content-Type": "application/json", **headers})


class Origin:
    """A context manager: answers from entering to leaving. Raises ConfigError when the port is taken."""

    def __init__(self, answer: Callable[[Request], Answer], port: int = 0) -> None:
        self.ending = threading.Event()
        attributes = {"answer": staticmethod(answer), "ending": self.ending}
        try:
            self._host = loopback_host()
            server = type("_Server", (_Server,), {"address_family": family_of(self._host)})
            self._server: _Server = server(
                (self._host.strip("[]"), port), type("_Handler", (_Handler,), attributes)
            )
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port {port}: {getattr(error, 'strerror', None) or error}") from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`, or `[::1]:PORT` where there is no IPv4."""
        return f"{self._host}:{self._server.server_address[1]}"

    def close(self) -> None:
        """Gives the port back, of an origin that was never entered."""
        self._server.server_close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def shutdown_request(self, request: Any) -> None:
        """Closes without a farewell: one would come before a reset and hide it."""
        self.close_request(request)


class _Handler(BaseHTTPRequestHandler):
    """One connection; `answer` and `ending` are set in a subclass for each origin."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    answer: Callable[[Request], Answer]
    ending: threading.Event

    def _respond(self) -> None:
        try:
            length = int(self.headers.get("content-length", 0))
        except ValueError:
            length = -1
        if not 0 <= length <= _MOST_BODY_BYTES:
            self.close_connection = True
            self._send(Answer(413 if length > 0 else 400))
            return
        parts = urlsplit(self.path)
        request = Request(
            self.command,
            unquote(parts.path),
            dict(parse_qsl(parts.query, keep_blank_values=True)),
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(length),
        )
        self._send(type(self).answer(request))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _respond  # noqa: N815  # http.server's names

    def _send(self, answer: Answer) -> None:
        if answer.resets and answer.sent_bytes is None:
            self._reset()
            return
        self.send_response_only(answer.status)
        for name, value in ({"Date": self.date_time_string()} | answer.headers).items():
            if value:
                self.send_header(name, value)
        told = len(answer.body) if answer.told_bytes is None else answer.told_bytes
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(told))
        if answer.sent_bytes is not None:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD" and answer.status not in (204, 304):
            self._send_body(answer)
        if answer.sent_bytes is not None:
            self.close_connection = True
            if answer.resets:
                self._reset()

    def _send_body(self, answer: Answer) -> None:
        body = answer.body[: answer.sent_bytes]
        if not answer.slow_seconds:
            self.wfile.write(body)
            return
        size = max(1, -(-len(body) // _PIECES))
        for begin in range(0, len(body), size):
            self.ending.wait(answer.slow_seconds / _PIECES)
            self.wfile.write(body[begin : begin + size])

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def handle(self) -> None:
        """Serves the connection; one that the client breaks off is the client's business."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Says nothing: it would write whole URLs to standard error, and presigned ones are secrets."""
