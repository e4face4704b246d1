"""OTLP's export requests: their methods and message classes, and what is in them, read back."""

import base64
from typing import Any

import msgspec
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from faillog_otel.config import Signal

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
