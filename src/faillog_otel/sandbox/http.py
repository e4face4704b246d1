"""The HTTP server of the sandbox: HTTP/1.1 on loopback, from a function that turns a request into a response.

All servers of the sandbox use it: the simulated API, its downloads, and the OTLP receiver. A response may
misbehave on purpose: a wrong length, a body that breaks off, a reset, a slow body.
"""

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Struct, field

from faillog_otel.errors import ConfigError
from faillog_otel.network import family_of, loopback_host

_MAX_BODY_BYTES = 16 * 1024 * 1024
_SLOW_CHUNKS = 8
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 seconds: close() sends a reset
_NO_BODY = (204, 304)


class Request(Struct, frozen=True):
    """A request. Header names are lower-case; the path is decoded and has no query."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Response(Struct, frozen=True):
    """A response, and how its sending goes wrong. Without `breaks_off`, the connection stays open."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    """A header with an empty value is not sent."""
    content_length: int | None = None
    """Overrides the Content-Length header; by default the length of the body."""
    breaks_off: Literal["close", "reset"] | None = None
    """How the connection ends after `sent_bytes`."""
    sent_bytes: int | None = None
    """With `breaks_off`: bytes of the body to send first. None ends the connection before the status line."""
    slow_seconds: float = 0.0
    """Sends the body in chunks over this many seconds of real time; closing the server ends the delays."""

    @property
    def is_sent(self) -> bool:
        """Whether the client gets a status line."""
        return self.breaks_off is None or self.sent_bytes is not None


def json_response(status: int, content: Any, **headers: str) -> Response:
    """A response with a JSON body."""
    return Response(status, msgspec.json.encode(content), {"Content-Type": "application/json", **headers})


def html_page(status: int) -> Response:
    """A response with an HTML page, as a proxy in between sends it."""
    page = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Hello</h1></body></html>\n"
    return Response(status, page, {"Content-Type": "text/html; charset=utf-8"})


class HttpServer:
    """A server on a loopback port, as a context manager.

    It listens from its creation and answers inside the `with` block. `answer` is called from several threads.
    Raises ConfigError if the port is not available.
    """

    def __init__(
        self,
        answer: Callable[[Request], Response],
        port: int = 0,
        *,
        tls: ssl.SSLContext | None = None,
        max_body_bytes: int = _MAX_BODY_BYTES,
    ) -> None:
        """Port 0 lets the system pick one. A larger body than `max_body_bytes` gets 413."""
        self.closing = threading.Event()
        """Set when the server closes; a delay in `answer` can wait for it."""
        attributes = {
            "answer": staticmethod(answer),
            "closing": self.closing,
            "max_body_bytes": max_body_bytes,
        }
        handler = type("_Handler", (_Handler,), attributes)
        self._host = loopback_host()
        server = type("_Server", (_Server,), {"address_family": family_of(self._host)})
        try:
            self._server: _Server = server((self._host.strip("[]"), port), handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"port {port} is not available: {reason}; choose another one") from None
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`, or `[::1]:PORT` on a machine without IPv4."""
        return f"{self._host}:{self._server.server_address[1]}"

    def close(self) -> None:
        """Releases the port of a server that was never entered."""
        self._server.server_close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def shutdown_request(self, request: Any) -> None:
        """Closes without shutdown(), whose FIN would precede a reset and hide it."""
        self.close_request(request)


class _Handler(BaseHTTPRequestHandler):
    """Serves one connection. A subclass for each server sets the annotated attributes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    answer: Callable[[Request], Response]
    closing: threading.Event
    max_body_bytes: int

    def _respond(self) -> None:
        try:
            length = int(self.headers.get("content-length", 0))
        except ValueError:
            length = -1
        if not 0 <= length <= self.max_body_bytes:
            self.close_connection = True
            self._send(Response(413 if length > 0 else 400))
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

    def _send(self, response: Response) -> None:
        if response.is_sent:
            self._send_headers(response)
            if self.command != "HEAD" and response.status not in _NO_BODY:
                self._send_body(response)
        if response.breaks_off:
            self.close_connection = True
        if response.breaks_off == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _send_headers(self, response: Response) -> None:
        self.send_response_only(response.status)
        for name, value in ({"Date": self.date_time_string()} | response.headers).items():
            if value:
                self.send_header(name, value)
        if response.status not in _NO_BODY:
            length = len(response.body) if response.content_length is None else response.content_length
            self.send_header("Content-Length", str(length))
        if response.breaks_off:
            self.send_header("Connection", "close")
        self.end_headers()

    def _send_body(self, response: Response) -> None:
        body = response.body[: response.sent_bytes]
        if not response.slow_seconds:
            self.wfile.write(body)
            return
        size = max(1, -(-len(body) // _SLOW_CHUNKS))
        for begin in range(0, len(body), size):
            self.closing.wait(response.slow_seconds / _SLOW_CHUNKS)
            self.wfile.write(body[begin : begin + size])

    def handle(self) -> None:
        """Serves the connection. A client that breaks it off is not an error of the server."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Logs nothing: http.server writes whole URLs to standard error, and presigned URLs are secrets."""
