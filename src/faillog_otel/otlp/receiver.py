"""An OTLP receiver for the demo and the tests: HTTP and gRPC on loopback, everything kept in memory.

It answers as OTLP's specification says, or as a script of the caller says. The system picks the ports.
"""

import gzip
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError
from msgspec import Struct, field
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from faillog_otel.config import Signal
from faillog_otel.otlp.requests import REQUESTS, Request, records_of

_PATHS: dict[str, Signal] = {"/v1/logs": "logs", "/v1/traces": "traces"}
_PROTOBUF = "application/x-protobuf"


class Received(Struct, frozen=True):
    """One request that came in over HTTP or gRPC: `body` is the protobuf message, decompressed."""

    signal: Signal
    body: bytes
    headers: dict[str, str]
    taken: bool
    """Whether the answer was a success: records of other requests were not taken."""

    def request(self) -> Request:
        """The message."""
        return REQUESTS[self.signal].FromString(self.body)


class Reply(Struct, frozen=True):
    """What a script answers to an HTTP request."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Script = Callable[[Signal, bytes], Reply | None]
"""Asked for each HTTP request with its signal and message; None is a success."""


class Receiver:
    """A context manager: receives from entering to leaving."""

    def __init__(self, script: Script = lambda _signal, _body: None) -> None:
        self.received: list[Received] = []
        self._script = script
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._grpc = grpc.server(ThreadPoolExecutor(max_workers=4))
        self._grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(  # type: ignore[no-untyped-call]  # generated code
            _LogsService(self), self._grpc
        )
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]  # generated code
            _TraceService(self), self._grpc
        )

    @property
    def http_endpoint(self) -> str:
        """The base URL for OTLP/HTTP."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def grpc_endpoint(self) -> str:
        """The URL for OTLP/gRPC."""
        return f"http://127.0.0.1:{self._grpc_port}"

    def logs(self) -> list[LogRecord]:
        """All log records of the requests that were taken, in the order in which they came."""
        return [record for each in self._taken("logs") for record in records_of(each)]

    def spans(self) -> list[Span]:
        """All spans of the requests that were taken, in the order in which they came."""
        return [record for each in self._taken("traces") for record in records_of(each)]

    def __enter__(self) -> Self:
        self._thread.start()
        self._grpc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._grpc.stop(None).wait()

    def answer(self, signal: Signal, body: bytes, headers: dict[str, str]) -> Reply:
        """Keeps a request and says what the client gets."""
        reply = self._script(signal, body)
        if reply is None:
            reply = _check(signal, body)
        self.received.append(Received(signal, body, headers, 200 <= reply.status < 300))
        return reply

    def _taken(self, signal: Signal) -> list[Any]:
        return [each.request() for each in self.received if each.taken and each.signal == signal]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                self._reply(self._answer(body))

            def _answer(self, body: bytes) -> Reply:
                signal = _PATHS.get(self.path)
                if signal is None:
                    return Reply(404)
                if self.headers.get("content-type") != _PROTOBUF:
                    return Reply(415)
                if self.headers.get("content-encoding") == "gzip":
                    try:
                        body = gzip.decompress(body)
                    except (OSError, EOFError, zlib.error):
                        return Reply(400)
                headers = {name.lower(): value for name, value in self.headers.items()}
                return receiver.answer(signal, body, headers)

            def _reply(self, reply: Reply) -> None:
                self.send_response(reply.status)
                headers = {"content-type": _PROTOBUF, **reply.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
                """Says nothing: the standard library would write to standard error."""

        return Handler


def _check(signal: Signal, body: bytes) -> Reply:
    try:
        REQUESTS[signal].FromString(body)
    except DecodeError:
        return Reply(400)
    return Reply(200)


class _LogsService(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # the name in the .proto
        self._receiver.answer("logs", request.SerializeToString(), dict(context.invocation_metadata()))
        return logs_service_pb2.ExportLogsServiceResponse()


class _TraceService(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # the name in the .proto
        self._receiver.answer("traces", request.SerializeToString(), dict(context.invocation_metadata()))
        return trace_service_pb2.ExportTraceServiceResponse()
