"""A collector that keeps the bytes of all requests, and splits them into records."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
from msgspec import Struct

AWAY = "http://127.0.0.1:9"  # the port for discarding
"""Nobody listens there."""
LOG_BODY = 5
"""The number of `body` in LogRecord (opentelemetry/proto/logs/v1/logs.proto)."""


class Record(Struct, frozen=True, order=True):
    """A log record or a span, as it is in the request; `without_body` is the same for a span."""

    is_log: bool
    whole: bytes
    without_body: bytes


class Collector:
    """A context manager: OTLP over HTTP and gRPC on loopback.

    `answer`: signal and body of a request over HTTP → status and body of the answer.
    """

    def __init__(self, answer: Callable[[str, bytes], tuple[int, bytes]] = lambda *_: (200, b"")) -> None:
        self.requests: list[tuple[str, bytes]] = []
        """The signal (logs, traces or metrics) and the body, decompressed."""
        self.answer = answer
        handler = type("_Handler", (_Handler,), {"collector": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._grpc = grpc.server(ThreadPoolExecutor(2), [_Export(self)])
        self._grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Self:
        self._thread.start()
        self._grpc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(None)

    @property
    def url(self) -> str:
        """The base URL of OTLP over HTTP."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def grpc_url(self) -> str:
        """The URL of OTLP over gRPC."""
        return f"http://127.0.0.1:{self._grpc_port}"

    def bodies(self, signal: str) -> list[bytes]:
        """The requests of a signal; those without records only test the connection."""
        return [body for found, body in self.requests if found == signal and body not in {b"", b"{}"}]

    def records(self) -> list[Record]:
        """All records, in the order of the requests."""
        return [record for body in self.bodies("logs") + self.bodies("traces") for record in records(body)]


def records(body: bytes) -> Iterator[Record]:
    """The records of one request, protobuf or JSON."""
    if body.startswith(b"{"):
        yield from _json_records(json.loads(body))
        return
    for number, _, resource in _fields(body):
        for inner, _, scope in _fields(resource) if number == 1 else ():
            for innermost, _, record in _fields(scope) if inner == 2 else ():
                if innermost == 2:
                    # Field 1 of a span is its trace id, 16 bytes; of a log record, its time, a fixed64.
                    is_log = not any(field == 1 and content for field, _, content in _fields(record))
                    kept = [raw for field, raw, _ in _fields(record) if not is_log or field != LOG_BODY]
                    yield Record(is_log, record, b"".join(kept))


def _json_records(request: dict[str, Any]) -> Iterator[Record]:
    for signal, scopes, name in (
        ("resourceLogs", "scopeLogs", "logRecords"),
        ("resourceSpans", "scopeSpans", "spans"),
    ):
        for resource in request.get(signal, ()):
            for scope in resource[scopes]:
                for record in scope[name]:
                    bodiless = {key: value for key, value in record.items() if key != "body"}
                    yield Record(
                        name == "logRecords", *(json.dumps(each).encode() for each in (record, bodiless))
                    )


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Of each field of a protobuf message its number, its bytes, and its content where it has a length."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        content = at
        if tag & 7 == 2:
            length, content = _varint(message, at)
            at = content + length
        elif tag & 7 == 0:
            at = content = _varint(message, at)[1]
        else:
            at = content = at + {1: 8, 5: 4}[tag & 7]
        yield tag >> 3, message[start:at], message[content:at]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


class _Handler(BaseHTTPRequestHandler):
    collector: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers["content-encoding"] == "gzip":
            body = gzip.decompress(body)
        signal = self.path.removeprefix("/v1/")
        status, content = self.collector.answer(signal, body)
        if status == 200:
            self.collector.requests.append((signal, body))
        self.send_response(status)
        self.send_header("content-type", self.headers["content-type"])
        is_json = "json" in self.headers["content-type"]
        content = content or (b"{}" if is_json else b"")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class _Export(grpc.GenericRpcHandler):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        signal = {"Logs": "logs", "Trac": "traces", "Metr": "metrics"}[details.method.split(".")[-1][:4]]

        def export(body: bytes, _: grpc.ServicerContext) -> bytes:
            self._collector.requests.append((signal, body))
            return b""

        return grpc.unary_unary_rpc_method_handler(export)
