"""In which trace a message's records stand, and how they join the application's own.

The first of these that is there (see the README's section on joining): the context that the messageId
carries, in full or compact; the context that the exchange's request names beside it; none, and the trace id
is computed. What was not sampled is no parent: nobody sends a span for it.
"""

from typing import Literal

from msgspec import Struct

from faillog_otel import propagation
from faillog_otel.config import Join
from faillog_otel.propagation import SAMPLED, TraceContext

TraceOrigin = Literal["message_id", "message_id_compact", "body", "derived"]

LOCAL = 0x100
"""SpanFlags: it is known whether the parent, or what a link leads to, is remote; it is not."""
REMOTE = 0x300
"""SpanFlags: it is known, and it is remote."""


class Origin(Struct, frozen=True, gc=False):
    """Where a message's records stand."""

    name: TraceOrigin
    trace_id: bytes
    parent_span_id: bytes = b""
    """The application's span under which an attempt's span stands."""
    log_span_id: bytes = b""
    """The span of a log record that has no span of its own."""
    span_flags: int = LOCAL | SAMPLED
    log_flags: int = SAMPLED
    linked: TraceContext | None = None
    """The application's context that an attempt's span links to."""


def origin_of(message_id: str, traceparent: str | None, join: Join) -> Origin:
    """Where the records of this message stand. `traceparent`: what its exchange's request names, if any."""
    carried = propagation.context_in(message_id) if join != "off" else None
    if carried and join == "parent":
        return _within(carried)
    linked = carried
    name: TraceOrigin = "message_id"
    if carried is None and traceparent and join != "off":
        linked, name = propagation.parse_traceparent(traceparent), "body"
    derived = propagation.derived_trace_id(message_id)
    if linked is None or not linked.span_id:  # there is nothing to link to
        return Origin("derived", derived)
    return Origin(name, derived, linked=linked)


def _within(app: TraceContext) -> Origin:
    """In the application's own trace."""
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
    """The flags of a link to the application's context: of its own only the sampled bit is kept."""
    return REMOTE | context.flags & SAMPLED
