"""HTTP/1.1 on loopback: a function from request to answer becomes an origin, with all its bad manners."""

import socket
import struct
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Struct, field

from faillog_otel.clock import SECOND_NS
from faillog_otel.errors import ConfigError
from faillog_otel.network import family_of, loopback_host
from faillog_otel.sandbox.bookkeeping import LimiterState
from faillog_otel.sandbox.config import Refusal

# -- web -----------------------------------------------------------------------------------------------------


_MAX_BODY_BYTES = 16 * 1024 * 1024
_PIECES = 8
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 seconds: close() sends a reset


class Request(Struct, frozen=True):
    """What a client asks; header names are lower-case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Response(Struct, frozen=True):
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


def json_answer(status: int, content: Any, **headers: str) -> Response:
    """An answer in JSON."""
    return Response(status, msgspec.json.encode(content), {"Content-Type": "application/json", **headers})


class Origin:
    """A context manager: answers from entering to leaving. Raises ConfigError when the port is taken."""

    def __init__(self, answer: Callable[[Request], Response], port: int = 0) -> None:
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
    answer: Callable[[Request], Response]
    ending: threading.Event

    def _respond(self) -> None:
        try:
            length = int(self.headers.get("content-length", 0))
        except ValueError:
            length = -1
        if not 0 <= length <= _MAX_BODY_BYTES:
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

    def _send(self, answer: Response) -> None:
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

    def _send_body(self, answer: Response) -> None:
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


# -- answers -------------------------------------------------------------------------------------------------
#
# The words of Segment's API and of S3, and the answers that say nothing about what was asked.


_KINDS = {400: "bad-request", 401: "unauthorized", 403: "forbidden", 404: "not-found", 405: "not-allowed"}
_CONSUMED = 121
_MS_BEFORE_NEXT, _ABSURD_MS = 57_647, 10**16


def segment_error(status: int, message: str, field: str | None = None) -> Response:
    """Segment's shape of errors. [sdk: spec 1]"""
    kind = _KINDS.get(status, "unprocessable" if status < 500 else "internal")
    error = {"type": kind, "message": message, "field": field, "data": None, "status": status}
    return json_answer(status, {"errors": [error]})


def too_many(milliseconds: int, consumed: int = _CONSUMED, **headers: str) -> Response:
    """Segment's 429. [limits: spec 1]"""
    data = {"remainingPoints": 0, "msBeforeNext": milliseconds, "consumedPoints": consumed}
    error = {"type": "RequestError", "message": "Too many requests", "data": data}
    return json_answer(429, {"errors": [error]}, **headers)


def refusal(shape: Refusal, standing: LimiterState, now_ns: int) -> Response:
    """A 429 in one of its shapes."""
    milliseconds = max(1, -(-(standing.reset_ns - now_ns) // 1_000_000))
    seconds = -(-milliseconds // 1000)
    headers = {}
    if shape in ("retry-after", "both"):
        headers["Retry-After"] = str(seconds)
    elif shape == "retry-after-date":
        until = datetime.fromtimestamp(now_ns // SECOND_NS + seconds, UTC)
        headers["Retry-After"] = format_datetime(until, usegmt=True)
    if shape in ("body", "both"):
        return too_many(milliseconds, standing.consumed, **headers)
    return html_page(429) if shape == "html" else Response(429, headers=headers)


def limit_headers(standing: LimiterState) -> dict[str, str]:
    """How the quota stands, as successful answers say it. [limits: spec 1]"""
    reset = datetime.fromtimestamp(-(-standing.reset_ns // SECOND_NS), UTC)
    return {
        "X-RateLimit-Consumed": str(standing.consumed),
        "X-RateLimit-Remaining": str(standing.remaining),
        "X-RateLimit-Reset": format_datetime(reset, usegmt=True),
    }


def s3_error(status: int, code: str, message: str, more: str = "") -> Response:
    """An error as S3 writes it."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>{more}"
        "<RequestId>SIMULATED0000000</RequestId><HostId>simulated</HostId></Error>"
    )
    return Response(status, body.encode(), {"Content-Type": "application/xml", "Server": "AmazonS3"})


def no_such_key() -> Response:
    """S3 has no object of this name."""
    return s3_error(404, "NoSuchKey", "The specified key does not exist.")


def html_page(status: int) -> Response:
    """A page for people, as a proxy in between sends it."""
    page = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Hello</h1></body></html>\n"
    return Response(status, page, {"Content-Type": "text/html; charset=utf-8"})


UNCOUNTED_LISTINGS: dict[str, Response] = {
    "reset": Response(resets=True),
    "401": segment_error(401, "Unauthorized"),
    "403": segment_error(403, "Forbidden"),
    "429-body": too_many(_MS_BEFORE_NEXT),
    "429-retry-after": Response(429, headers={"Retry-After": "30"}),
    "429-html": html_page(429),
    "429-absurd": too_many(_ABSURD_MS),
}
"""By fault: what is said before a listing is counted."""

COUNTED_LISTINGS: dict[str, Response] = {
    "500": segment_error(500, "Something went wrong"),
    "502": html_page(502),
    "503": segment_error(503, "Service unavailable"),
    "504": html_page(504),
    "reset-after": Response(resets=True),
    "html": html_page(200),
    "empty-object": json_answer(200, {}),
    "wrong-shape": json_answer(200, {"data": {"download": {"urls": {"first": 1}}}}),
    "404": segment_error(404, "Collection not found", "collectionId"),
    "422": segment_error(422, "hour is out of range", "hour"),
}
"""By fault: what is said after it was counted."""

DOWNLOADS: dict[str, Response] = {
    "404": no_such_key(),
    "500": s3_error(500, "InternalError", "We encountered an internal error. Please try again."),
    "503": s3_error(503, "SlowDown", "Please reduce your request rate."),
    "html": html_page(200),
}
"""By fault: what is said in place of an object."""
