"""The trace of a message's records, and how they join the application's own trace."""

from typing import Literal

from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.config import Join
from faillog_otel.propagation import SAMPLED, TraceContext

TraceOrigin = Literal["message_id", "message_id_compact", "body", "derived"]

LOCAL = 0x100
"""SpanFlags: the parent, or the target of a link, is known not to be remote."""
REMOTE = 0x300
"""SpanFlags: the parent, or the target of a link, is known to be remote."""


class Origin(Struct, frozen=True, gc=False):
    """The trace of a message's records, and how they join the application's own trace."""

    name: TraceOrigin
    trace_id: bytes
    parent_span_id: bytes = b""
    """The application's span that is the parent of an attempt's span."""
    log_span_id: bytes = b""
    """The span of a log record whose event does not become a span."""
    span_flags: int = LOCAL | SAMPLED
    log_flags: int = SAMPLED
    linked: TraceContext | None = None
    """The application's context that an attempt's span links to."""


def origin_of(message_id: str, traceparent: str | None, join: Join) -> Origin:
    """Returns the trace of a message's records.

    The first of these that exists is used (docs/guides/join-traces.md): the context in the messageId, full or
    compact; `traceparent`, the context in the exchange's request; a trace id computed from the messageId. A
    span that was not sampled is not a parent, because no backend receives it.
    """
    carried = propagation.context_in(message_id) if join != "off" else None
    if carried and join == "parent":
        return _within(carried)
    linked = carried
    name: TraceOrigin = "message_id"
    if carried is None and traceparent and join != "off":
        linked, name = propagation.parse_traceparent(traceparent), "body"
    derived = propagation.derived_trace_id(message_id)
    if linked is None or not linked.span_id:  # no link without a span id
        return Origin("derived", derived)
    return Origin(name, derived, linked=linked)


def _within(app: TraceContext) -> Origin:
    """Returns the application's own trace."""
    is_child = bool(app.span_id) and app.is_sampled
    return Origin(
        "message_id" if app.span_id else "message_id_compact",
        app.trace_id,
        parent_span_id=app.span_id if is_child else b"",
        log_span_id=app.span_id,
        span_flags=(REMOTE if is_child else LOCAL) | SAMPLED,
        log_flags=app.flags & SAMPLED,
        linked=app if app.span_id else None,
    )


def link_flags(context: TraceContext) -> int:
    """Returns the flags of a link to the application's context, which keep only its sampled bit."""
    return REMOTE | context.flags & SAMPLED
