"""An OTLP receiver for the demo and the tests: HTTP and gRPC on loopback ports, with all requests in memory.

It answers as OTLP's specification says, or as the caller's script says, errors and delays included.
"""

import base64
import gzip
import ssl
import tempfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from faillog_otel.network import loopback_host
from faillog_otel.otlp.grpc import GRPC_METHODS
from faillog_otel.sandbox.http import HttpServer, Request, Response

ExportRequest = ExportLogsServiceRequest | ExportTraceServiceRequest

REQUESTS: dict[Signal, type[ExportLogsServiceRequest] | type[ExportTraceServiceRequest]] = {
    "logs": ExportLogsServiceRequest,
    "traces": ExportTraceServiceRequest,
}
_PATHS: dict[str, Signal] = {"/v1/logs": "logs", "/v1/traces": "traces"}
_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_MAX_DELAY_SECONDS = 60.0
_MAX_HTTP_BODY_BYTES = 256 * 1024 * 1024
_ID_FIELDS = ("traceId", "spanId", "parentSpanId")


class Received(Struct, frozen=True):
    """One request. `body` is its protobuf message, decompressed, and converted if it was JSON."""

    signal: Signal
    body: bytes
    headers: dict[str, str]
    taken: bool
    """Whether the receiver keeps its records."""

    def request(self) -> ExportRequest:
        """The decoded message."""
        return REQUESTS[self.signal].FromString(self.body)


class Reply(Struct, frozen=True):
    """A script's reply: `status`, `body`, `headers` over HTTP; `code`, `details`, `retry_seconds` over gRPC.

    `taken`: whether the receiver keeps the records; by default it does on success. `hangs_up`: close the
    connection without a response. `delay_seconds`: wait first; closing the receiver ends the wait.
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
        """Whether the reply tells the client that the records were accepted."""
        return 200 <= self.status < 300 and self.code == "OK" and not self.hangs_up


Script = Callable[[Signal, bytes], Reply | None]
"""Returns the reply to a request, given its signal and message; None is a success."""

SUCCESS = Reply()


class Identity(Struct, frozen=True):
    """A receiver's TLS certificate and key, in PEM. With a client CA, clients need a certificate too."""

    certificate_chain: bytes
    private_key: bytes
    client_ca: bytes | None = None


class Receiver:
    """An OTLP receiver, as a context manager: it answers inside the `with` block.

    With an identity it accepts TLS only.
    """

    def __init__(
        self,
        script: Script = lambda _signal, _body: None,
        *,
        max_grpc_bytes: int = 4 * 1024 * 1024,
        identity: Identity | None = None,
    ) -> None:
        self.received: list[Received] = []
        """All valid requests, oldest first."""
        self._script = script
        self._scheme = "https" if identity else "http"
        self._http = HttpServer(
            self._answer_http,
            tls=_tls_context(identity) if identity else None,
            max_body_bytes=_MAX_HTTP_BODY_BYTES,
        )
        options = [("grpc.max_receive_message_length", max_grpc_bytes), ("grpc.so_reuseport", 0)]
        self._grpc = grpc.server(ThreadPoolExecutor(max_workers=16), options=options)
        self._grpc_host = loopback_host()
        if identity:
            credentials = grpc.ssl_server_credentials(
                [(identity.private_key, identity.certificate_chain)],
                root_certificates=identity.client_ca,
                require_client_auth=identity.client_ca is not None,
            )
            self._grpc_port = self._grpc.add_secure_port(f"{self._grpc_host}:0", credentials)
        else:
            self._grpc_port = self._grpc.add_insecure_port(f"{self._grpc_host}:0")
        self._grpc.add_generic_rpc_handlers((_GrpcHandler(self._answer),))

    @property
    def http_endpoint(self) -> str:
        """The base URL for OTLP/HTTP."""
        return f"{self._scheme}://{self._http.host}"

    @property
    def grpc_endpoint(self) -> str:
        """The URL for OTLP/gRPC."""
        return f"{self._scheme}://{self._grpc_host}:{self._grpc_port}"

    def logs(self) -> list[LogRecord]:
        """All log records that it kept, in the order of arrival."""
        return [record for each in self._taken("logs") for record in records_of(each)]

    def spans(self) -> list[Span]:
        """All spans that it kept, in the order of arrival."""
        return [record for each in self._taken("traces") for record in records_of(each)]

    def _taken(self, signal: Signal) -> list[ExportRequest]:
        return [each.request() for each in self.received if each.taken and each.signal == signal]

    def __enter__(self) -> Self:
        self._http.__enter__()
        self._grpc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.__exit__()
        self._grpc.stop(None).wait()

    def _answer(self, signal: Signal, body: bytes, headers: dict[str, str]) -> Reply:
        """Keeps a request and returns the script's reply."""
        try:
            REQUESTS[signal].FromString(body)
        except DecodeError:
            return Reply(400, code="INVALID_ARGUMENT")
        reply = self._script(signal, body) or SUCCESS
        taken = reply.is_success if reply.taken is None else reply.taken
        self.received.append(Received(signal, body, headers, taken))
        if reply.delay_seconds:
            self._http.closing.wait(min(reply.delay_seconds, _MAX_DELAY_SECONDS))
        return reply

    def _answer_http(self, request: Request) -> Response:
        is_json = request.headers.get("content-type") == _JSON
        reply = self._reply_to(request, is_json=is_json)
        if reply.hangs_up:
            return Response(breaks_off="close")
        body = reply.body or (b"{}" if is_json and reply.status == 200 else b"")
        content_type = _JSON if is_json else _PROTOBUF
        return Response(reply.status, body, {"content-type": content_type, **reply.headers})

    def _reply_to(self, request: Request, *, is_json: bool) -> Reply:
        signal = _PATHS.get(request.path)
        if signal is None:
            return Reply(404)
        if request.method != "POST":
            return Reply(405)
        body = request.body
        try:
            if request.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if is_json:
                body = _read_json(signal, body).SerializeToString()
            elif request.headers.get("content-type") != _PROTOBUF:
                return Reply(415)
        except (OSError, EOFError, zlib.error, ParseError, ValueError):
            return Reply(400)
        return self._answer(signal, body, request.headers)


def records_of(request: ExportRequest) -> list[Any]:
    """The LogRecord or Span messages of a request, in all its resources and scopes."""
    if isinstance(request, ExportLogsServiceRequest):
        logs = (scope.log_records for resource in request.resource_logs for scope in resource.scope_logs)
        return [record for records in logs for record in records]
    spans = (scope.spans for resource in request.resource_spans for scope in resource.scope_spans)
    return [record for records in spans for record in records]


def _read_json(signal: Signal, body: bytes) -> ExportRequest:
    """Decodes a request in OTLP's JSON encoding. Raises ValueError or protobuf's ParseError."""
    value = msgspec.json.decode(body)
    _convert_ids(value)
    return ParseDict(value, REQUESTS[signal]())


def _convert_ids(value: Any) -> None:
    """Converts ids in place: OTLP writes them in hex, protobuf's own JSON has all bytes in base64."""
    if isinstance(value, list):
        for each in value:
            _convert_ids(each)
    elif isinstance(value, dict):
        for key in _ID_FIELDS:
            if isinstance(value.get(key), str):
                value[key] = base64.b64encode(bytes.fromhex(value[key])).decode()
        for each in value.values():
            _convert_ids(each)


def _tls_context(identity: Identity) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory() as folder:  # load_cert_chain reads files only
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        chain.write_bytes(identity.certificate_chain)
        key.write_bytes(identity.private_key)
        context.load_cert_chain(chain, key)
    if identity.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=identity.client_ca.decode())
    return context


class _GrpcHandler(grpc.GenericRpcHandler):
    """The services of both signals, with messages as bytes."""

    def __init__(self, answer: Callable[[Signal, bytes, dict[str, str]], Reply]) -> None:
        self._answer = answer
        self._signals: dict[str, Signal] = {method: signal for signal, method in GRPC_METHODS.items()}

    def service(self, handler_call_details: Any) -> Any:
        """Returns the handler of a method; None for an unknown method."""
        signal = self._signals.get(handler_call_details.method)
        if signal is None:
            return None
        headers = dict(handler_call_details.invocation_metadata)

        def export(body: bytes, context: Any) -> bytes:
            reply = self._answer(signal, body, headers)
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
