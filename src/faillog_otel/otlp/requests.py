"""OTLP's export requests, read back: their message classes, and the records in them."""

from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from faillog_otel.config import Signal

Request = ExportLogsServiceRequest | ExportTraceServiceRequest

REQUESTS: dict[Signal, type[ExportLogsServiceRequest] | type[ExportTraceServiceRequest]] = {
    "logs": ExportLogsServiceRequest,
    "traces": ExportTraceServiceRequest,
}


def records_of(request: Request) -> list[Any]:
    """The LogRecord or Span messages of a request, whatever resources and scopes they stand in."""
    if isinstance(request, ExportLogsServiceRequest):
        return [
            record
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]
    return [
        span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
    ]
