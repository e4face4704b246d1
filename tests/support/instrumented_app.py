"""A small instrumented application: it makes a trace, and tracks what its customers do."""

from msgspec import Struct
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import use_span
from segment.analytics.client import Client

from faillog_otel.clock import SECOND_NS
from faillog_otel.propagation import message_id


class Order(Struct, frozen=True):
    """What the application did: ids in hex."""

    trace_id: str
    span_id: str
    """Of the span that called track()."""
    message_id: str


def complete_order(otlp_endpoint: str, segment_url: str, at_ns: int) -> Order:
    """One request of a customer, at a time in nanoseconds since 1970: a span that tracks.

    The messageId is made as docs/guides/join-traces.md says. OpenTelemetry's own exporter sends the span to
    `otlp_endpoint`, Segment's own SDK sends the event.
    """
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{otlp_endpoint}/v1/traces")))
    analytics = Client("any-write-key", host=segment_url, sync_mode=True)
    tracer = provider.get_tracer("shop")
    request = tracer.start_span("POST /orders", start_time=at_ns)
    with use_span(request):
        span = tracer.start_span("complete order", start_time=at_ns)
    with use_span(span):
        message = message_id()
        analytics.track("user-1", "Order Completed", {"total": 27.5}, message_id=message)
    for each in (span, request):
        each.end(at_ns + SECOND_NS)
    provider.shutdown()
    context = span.get_span_context()
    return Order(f"{context.trace_id:032x}", f"{context.span_id:016x}", message)
