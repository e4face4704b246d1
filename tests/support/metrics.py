"""A receiver of our own metrics and log events: HTTP and gRPC on loopback; metrics as plain numbers."""

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import grpc
from msgspec import Struct
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

Attributes = frozenset[tuple[str, str]]


class Sent(Struct, frozen=True):
    """One request."""

    body: bytes
    headers: dict[str, str]

    def request(self) -> ExportMetricsServiceRequest:
        return ExportMetricsServiceRequest.FromString(self.body)


def plain_attributes(event: LogRecord) -> dict[str, Any]:
    """The attributes of a log event."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in event.attributes}


class MetricsReceiver:
    """A context manager; every request is answered with `status` (gRPC: UNAVAILABLE where it is no 200).

    Without `takes_logs`, it is a backend for metrics alone, as Prometheus is.
    """

    def __init__(self, status: int = 200, *, takes_logs: bool = True) -> None:
        self.sent: list[Sent] = []
        """Requests with metrics."""
        self.logs_sent: list[Sent] = []
        self.takes_logs = takes_logs
        self.status = status
        self.headers: dict[str, str] = {}
        self.came = threading.Condition()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("_Handler", (_Handler,), {"receiver": self}))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._grpc = grpc.server(ThreadPoolExecutor(max_workers=2), options=[("grpc.so_reuseport", 0)])
        self._grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.add_generic_rpc_handlers((_GrpcHandler(self),))

    @property
    def http_endpoint(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def grpc_endpoint(self) -> str:
        return f"http://127.0.0.1:{self._grpc_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._grpc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._grpc.stop(None).wait()

    def take(self, sent: Sent, *, is_logs: bool) -> None:
        with self.came:
            (self.logs_sent if is_logs else self.sent).append(sent)
            self.came.notify_all()

    def wait_for(self, requests: int = 0, *, log_requests: int = 0) -> None:
        with self.came:
            assert self.came.wait_for(
                lambda: len(self.sent) >= requests and len(self.logs_sent) >= log_requests, 60
            )

    def resource(self) -> dict[str, str]:
        """Of the last request."""
        (found,) = self.sent[-1].request().resource_metrics
        return {pair.key: pair.value.string_value for pair in found.resource.attributes}

    def events(self) -> list[LogRecord]:
        """The log events of all requests."""
        requests = [ExportLogsServiceRequest.FromString(each.body) for each in self.logs_sent]
        resources = [resource for request in requests for resource in request.resource_logs]
        return [log for each in resources for scope in each.scope_logs for log in scope.log_records]

    def metrics(self) -> dict[str, Metric]:
        """Of the last request: all are cumulative."""
        (found,) = self.sent[-1].request().resource_metrics
        return {metric.name: metric for scope in found.scope_metrics for metric in scope.metrics}

    def numbers(self, name: str) -> dict[Attributes, float]:
        """A metric's attributes → its number, of the last request; a histogram's number is its count."""
        metric = self.metrics()[name]
        points: Any = getattr(metric, metric.WhichOneof("data") or "gauge").data_points
        return {
            frozenset((pair.key, pair.value.string_value) for pair in point.attributes): (
                point.count if metric.HasField("histogram") else point.as_double or point.as_int
            )
            for point in points
        }


class _Handler(BaseHTTPRequestHandler):
    receiver: MetricsReceiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        headers = {name.lower(): value for name, value in self.headers.items()} | {"path": self.path}
        is_logs = self.path == "/v1/logs"
        self.receiver.take(Sent(body, headers), is_logs=is_logs)
        is_known = self.receiver.takes_logs or not is_logs
        self.send_response(self.receiver.status if is_known else 404, self.receiver.headers.get("reason"))
        for name, value in self.receiver.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        pass


class _GrpcHandler(grpc.GenericRpcHandler):
    def __init__(self, receiver: MetricsReceiver) -> None:
        self._receiver = receiver

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if method not in ([METRICS, LOGS] if self._receiver.takes_logs else [METRICS]):
            return None

        def export(body: bytes, context: Any) -> bytes:
            sent = Sent(body, dict(handler_call_details.invocation_metadata))
            self._receiver.take(sent, is_logs=method == LOGS)
            if self._receiver.status != 200:
                context.abort(grpc.StatusCode.UNAVAILABLE, "away")
            return b""

        return grpc.unary_unary_rpc_method_handler(export)
