"""The straightforward way in Python: `python sdk_pipeline.py FILE ENDPOINT`.

What a competent user would write in an hour, with opentelemetry-sdk's tracer and logger, its batch
processors and the stock OTLP exporters, all with their defaults: a log record for each event; a span for each
attempt and exchange, with the ids that make an attempt's link to its exchange work; nearly the attributes
that faillog-otel writes. Nothing is redacted, an attempt does not learn what its exchange said, and nobody
notices what the processors drop. Prints how many records were handed over.
"""

import hashlib
import json
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags


class ChosenIds(IdGenerator):
    """Gives the span that is started next the ids that were chosen for it."""

    chosen: tuple[int, int]

    def generate_trace_id(self) -> int:
        return self.chosen[0]

    def generate_span_id(self) -> int:
        return self.chosen[1]


def ids(*fields: object) -> tuple[int, int]:
    """A trace id and a span id from what names the thing."""
    digest = hashlib.sha256(json.dumps(fields).encode()).digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])


def nanoseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000_000) * 1000


def attributes_of(event: dict[str, Any], occurred_ns: int, logged_ns: int) -> dict[str, Any]:
    properties = event["properties"]
    request = properties.get("requestToDestination", {})
    response = properties.get("responseFromDestination", {})
    destination = properties["routed"]["to"][0]["id"]
    found = {
        "messaging.system": "segment",
        "messaging.operation.name": "deliver",
        "messaging.operation.type": "process",
        "messaging.destination.name": destination,
        "messaging.message.id": properties.get("messageId"),
        "http.request.method": request.get("method"),
        "http.response.status_code": response.get("status"),
        "url.full": request.get("url"),
        "segment.event": event["event"],
        "segment.source.id": properties["routed"]["from"][0]["id"],
        "segment.destination.id": destination,
        "segment.destination_exchange.id": properties.get("destinationExchangeId"),
        "segment.delivery.attempt": properties.get("attempt"),
        "segment.delivery.outcome": properties.get("outcome"),
        "segment.discarded": properties.get("discarded"),
        "segment.occurred_at": properties["occurredAt"],
        "segment.logged_at": properties["loggedAt"],
        "segment.report_lag_ms": (logged_ns - occurred_ns) // 1_000_000,
        "segment.reason": properties.get("reason"),
    }
    return {key: value for key, value in found.items() if value is not None}


def main() -> None:
    file, endpoint = Path(sys.argv[1]), sys.argv[2]
    resource, chosen, handed_over = Resource({"service.name": "segment"}), ChosenIds(), Counter[str]()
    traces, logs = TracerProvider(resource=resource, id_generator=chosen), LoggerProvider(resource)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))
    logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(f"{endpoint}/v1/logs")))
    tracer, logger = traces.get_tracer("sdk-pipeline"), logs.get_logger("sdk-pipeline")
    with file.open("rb") as lines:
        for line in lines:
            event = json.loads(line)
            properties = event["properties"]
            time_ns, logged_ns = nanoseconds(properties["occurredAt"]), nanoseconds(properties["loggedAt"])
            attributes = attributes_of(event, time_ns, logged_ns)
            more = {"log.record.uid": hashlib.sha256(line).hexdigest()[:32]}
            if body := properties.get("responseFromDestination", {}).get("body"):
                more["segment.response.body"] = body[:2048]
            failed = properties.get("outcome") == "failure" or event["event"] == "Error Logged"
            trace_id, span_id = ids("message", properties.get("messageId")), 0
            exchange = ids("exchange", properties.get("destinationExchangeId"))
            if event["event"] == "Destination Exchange Logged":
                chosen.chosen, kind, links = exchange, SpanKind.CLIENT, []
                failed = attributes.get("http.response.status_code", 500) >= 400
            else:
                span_id = ids("attempt", properties.get("messageId"), properties.get("attempt"))[1]
                chosen.chosen, kind = (trace_id[0], span_id), SpanKind.CONSUMER
                links = [Link(SpanContext(*exchange, is_remote=False, trace_flags=TraceFlags(1)))]
            context = SpanContext(*chosen.chosen, is_remote=False, trace_flags=TraceFlags(1))
            if event["event"] != "Error Logged":
                span = tracer.start_span(
                    "deliver", kind=kind, attributes=attributes, links=links, start_time=time_ns
                )
                span.set_status(Status(StatusCode.ERROR if failed else StatusCode.UNSET))
                span.end(time_ns)
                handed_over["spans"] += 1
            logger.emit(
                LogRecord(
                    timestamp=time_ns,
                    observed_timestamp=logged_ns,
                    context=trace.set_span_in_context(trace.NonRecordingSpan(context)),
                    severity_number=SeverityNumber.WARN if failed else SeverityNumber.INFO,
                    body=f"{event['event']}: {properties.get('messageId')}",
                    attributes=attributes | more,
                )
            )
            handed_over["logs"] += 1
    traces.shutdown()
    logs.shutdown()
    print(json.dumps(handed_over))


if __name__ == "__main__":
    main()
