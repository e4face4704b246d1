"""An OTLP receiver for the demo and the tests: HTTP and gRPC on loopback, everything kept in memory.

It answers as OTLP's specification says, or as badly as a script of the caller says. The system picks the
ports.
"""

import base64
import gzip
import ssl
import tempfile
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import grpc
import msgspec
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from msgspec import Struct, field
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from faillog_otel.config import Signal
from faillog_otel.network import family_of, loopback_host
from faillog_otel.otlp.grpc import GRPC_METHODS

# -- requests ------------------------------------------------------------------------------------------------
#
# OTLP's export requests: their methods and message classes, and what is in them, read back.


Request = ExportLogsServiceRequest | ExportTraceServiceRequest

REQUESTS: dict[Signal, type[ExportLogsServiceRequest] | type[ExportTraceServiceRequest]] = {
    "logs": ExportLogsServiceRequest,
    "traces": ExportTraceServiceRequest,
}
_IDS = ("traceId", "spanId", "parentSpanId")


def records_of(request: Request) -> list[Any]:
    """The LogRecord or Span messages of a request, whatever resources and scopes they stand in."""
    if isinstance(request, ExportLogsServiceRequest):
        logs = (scope.log_records for resource in request.resource_logs for scope in resource.scope_logs)
        return [record for records in logs for record in records]
    spans = (scope.spans for resource in request.resource_spans for scope in resource.scope_spans)
    return [record for records in spans for record in records]


def read_json(signal: Signal, body: bytes) -> Request:
    """A request in OTLP's JSON encoding. Raises ValueError or protobuf's ParseError."""
    value = msgspec.json.decode(body)
    _base64_ids(value)
    return ParseDict(value, REQUESTS[signal]())


def _base64_ids(value: Any) -> None:
    """OTLP's ids are hexadecimal, protobuf's own JSON has all bytes as base64."""
    if isinstance(value, list):
        for each in value:
            _base64_ids(each)
    elif isinstance(value, dict):
        for key in _IDS:
            if isinstance(value.get(key), str):
                value[key] = base64.b64encode(bytes.fromhex(value[key])).decode()
        for each in value.values():
            _base64_ids(each)


# -- receiver ------------------------------------------------------------------------------------------------


_PATHS: dict[str, Signal] = {"/v1/logs": "logs", "/v1/traces": "traces"}
_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_MAX_DELAY_SECONDS = 60.0


class Received(Struct, frozen=True):
    """One request that came in; `body` is its protobuf message, decompressed or made from JSON."""

    signal: Signal
    body: bytes
    headers: dict[str, str]
    taken: bool
    """Whether its records count as received."""

    def request(self) -> Request:
        """The message."""
        return REQUESTS[self.signal].FromString(self.body)


class Reply(Struct, frozen=True):
    """What a script answers: an HTTP status, or a gRPC code in its place.

    `taken` says whether the records count as received; by default they do on success. `hangs_up` closes
    the connection instead of answering. `delay_seconds` passes before anything else is said; the end of
    the receiver cuts it short.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    code: str = "OK"
    details: str = ""
    retry_seconds: float | None = None
    taken: bool | None = None
    hangs_up: bool = False
    delay_seconds: float = 0.0

    @property
    def is_success(self) -> bool:
        """Whether client and receiver agree that the records were taken."""
        return 200 <= self.status < 300 and self.code == "OK" and not self.hangs_up


Script = Callable[[Signal, bytes], Reply | None]
"""Asked for each request with its signal and message; None is a success."""

SUCCESS = Reply()


class Identity(Struct, frozen=True):
    """What a receiver shows when it speaks TLS, all PEM; with a client CA, it asks clients for theirs."""

    certificate_chain: bytes
    private_key: bytes
    client_ca: bytes | None = None


class Receiver:
    """A context manager: receives from entering to leaving. With an identity, it speaks TLS only."""

    def __init__(
        self,
        script: Script = lambda _signal, _body: None,
        *,
        max_grpc_bytes: int = 4 * 1024 * 1024,
        identity: Identity | None = None,
    ) -> None:
        self.received: list[Received] = []
        self._script = script
        self._ending = threading.Event()
        self._host = loopback_host()
        server = type("_Server", (ThreadingHTTPServer,), {"address_family": family_of(self._host)})
        self._http: ThreadingHTTPServer = server(
            (self._host.strip("[]"), 0), type("_Handler", (_HttpHandler,), {"receiver": self})
        )
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        options = [("grpc.max_receive_message_length", max_grpc_bytes), ("grpc.so_reuseport", 0)]
        self._grpc = grpc.server(ThreadPoolExecutor(max_workers=16), options=options)
        self._scheme = "https" if identity else "http"
        if identity:
            self._http.socket = _tls_context(identity).wrap_socket(self._http.socket, server_side=True)
            credentials = grpc.ssl_server_credentials(
                [(identity.private_key, identity.certificate_chain)],
                root_certificates=identity.client_ca,
                require_client_auth=identity.client_ca is not None,
            )
            self._grpc_port = self._grpc.add_secure_port(f"{self._host}:0", credentials)
        else:
            self._grpc_port = self._grpc.add_insecure_port(f"{self._host}:0")
        self._grpc.add_generic_rpc_handlers((_GrpcHandler(self),))

    @property
    def http_endpoint(self) -> str:
        """The base URL for OTLP/HTTP."""
        return f"{self._scheme}://{self._host}:{self._http.server_address[1]}"

    @property
    def grpc_endpoint(self) -> str:
        """The URL for OTLP/gRPC."""
        return f"{self._scheme}://{self._host}:{self._grpc_port}"

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
        self._ending.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._grpc.stop(None).wait()

    def answer(self, signal: Signal, body: bytes, headers: dict[str, str]) -> Reply:
        """Keeps a request and says what the client gets."""
        try:
            REQUESTS[signal].FromString(body)
        except DecodeError:
            return Reply(400, code="INVALID_ARGUMENT")
        reply = self._script(signal, body) or SUCCESS
        taken = reply.is_success if reply.taken is None else reply.taken
        self.received.append(Received(signal, body, headers, taken))
        if reply.delay_seconds:
            self._ending.wait(min(reply.delay_seconds, _MAX_DELAY_SECONDS))
        return reply

    def _taken(self, signal: Signal) -> list[Request]:
        return [each.request() for each in self.received if each.taken and each.signal == signal]


def _tls_context(identity: Identity) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory() as folder:  # ssl reads certificates from files only
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        chain.write_bytes(identity.certificate_chain)
        key.write_bytes(identity.private_key)
        context.load_cert_chain(chain, key)
    if identity.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=identity.client_ca.decode())
    return context


class _HttpHandler(BaseHTTPRequestHandler):
    """One connection; `receiver` is set in a subclass for each receiver."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    receiver: Receiver

    def do_POST(self) -> None:
        """Answers one request."""
        self._is_json = self.headers.get("content-type") == _JSON
        reply = self._answer(self.rfile.read(int(self.headers.get("content-length", 0))))
        if reply.hangs_up:
            self.close_connection = True
            return
        content = reply.body or (b"{}" if self._is_json and reply.status == 200 else b"")
        if reply.status == 204:
            content = b""
        self.send_response(reply.status)
        for name, value in {"content-type": _JSON if self._is_json else _PROTOBUF, **reply.headers}.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, body: bytes) -> Reply:
        signal = _PATHS.get(self.path)
        if signal is None:
            return Reply(404)
        try:
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if self._is_json:
                body = read_json(signal, body).SerializeToString()
            elif self.headers.get("content-type") != _PROTOBUF:
                return Reply(415)
        except (OSError, EOFError, zlib.error, ParseError, ValueError):
            return Reply(400)
        return self.receiver.answer(signal, body, {name.lower(): v for name, v in self.headers.items()})

    def handle(self) -> None:
        """Serves the connection; one that the client breaks off is the client's business."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Says nothing: the standard library would write to standard error."""


class _GrpcHandler(grpc.GenericRpcHandler):
    """Both services, on bytes."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._signals: dict[str, Signal] = {method: signal for signal, method in GRPC_METHODS.items()}

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method; None where there is no such method."""
        signal = self._signals.get(handler_call_details.method)
        if signal is None:
            return None
        headers = dict(handler_call_details.invocation_metadata)

        def export(body: bytes, context: Any) -> bytes:
            reply = self._receiver.answer(signal, body, headers)
            if reply.code == "OK" and not reply.hangs_up:
                return reply.body
            status = Status(code=0, message=reply.details)
            if reply.retry_seconds is not None:
                info = RetryInfo()
                info.retry_delay.FromNanoseconds(int(reply.retry_seconds * 1e9))
                status.details.add().Pack(info)
                context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            code = "UNAVAILABLE" if reply.hangs_up else reply.code
            context.abort(getattr(grpc.StatusCode, code), reply.details)
            return b""

        return grpc.unary_unary_rpc_method_handler(export)
