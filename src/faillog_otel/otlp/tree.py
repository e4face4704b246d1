"""Log records and spans as a tree for people: one for each trace, links followed to where they point."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from msgspec import Struct
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


class TraceTree(Struct, frozen=True):
    """One trace: the destination it is about, where one is named, and its lines."""

    destination: str | None
    lines: tuple[str, ...]


def trace_trees(spans: Iterable[Span], logs: Iterable[LogRecord]) -> list[TraceTree]:
    """One tree for each message in each trace, in the order of their first times.

    Under a trace stand its spans, and those logs whose span is not among them. An exchange is shown
    where an attempt links to it; one that nothing links to is a tree of its own.
    """
    by_id = {(span.trace_id, span.span_id): span for span in spans}
    linked = {(link.trace_id, link.span_id) for span in by_id.values() for link in span.links}
    trees: dict[tuple[bytes, str], list[Span | LogRecord]] = defaultdict(list)
    for key, span in by_id.items():
        if key not in linked:
            trees[span.trace_id, _message(span)].append(span)
    for log in logs:
        if (log.trace_id, log.span_id) not in by_id:
            trees[log.trace_id, _message(log)].append(log)
    ordered = sorted(trees.items(), key=lambda tree: min(map(_time_ns, tree[1])))
    return [_tree(trace_id, sorted(nodes, key=_time_ns), by_id) for (trace_id, _), nodes in ordered]


def _tree(
    trace_id: bytes, nodes: Sequence[Span | LogRecord], spans: dict[tuple[bytes, bytes], Span]
) -> TraceTree:
    title = f"{_message(nodes[0]) or 'without a message'}  trace {trace_id.hex() or '-'}"
    parents = {node.parent_span_id.hex() for node in nodes if isinstance(node, Span) and node.parent_span_id}
    under = f"  under the application's span {', '.join(sorted(parents))}" if parents else ""
    lines = (title + under, *_branches(nodes, spans))
    return TraceTree(_attributes(nodes[0].attributes).get("messaging.destination.name"), lines)


def _message(node: Span | LogRecord) -> str:
    message = _attributes(node.attributes).get("messaging.message.id")
    return f"message {message}" if message is not None else ""


def _branches(nodes: Sequence[Span | LogRecord], spans: dict[tuple[bytes, bytes], Span]) -> Iterable[str]:
    for node in nodes:
        is_last = node is nodes[-1]
        yield f"{'└─' if is_last else '├─'} {_clock(node)}  {_line(node)}"
        for link in node.links if isinstance(node, Span) else ():
            if link.span_id != getattr(node, "parent_span_id", b""):  # that stands in the title
                shown = _linked(link, spans.get((link.trace_id, link.span_id)))
                yield f"{'  ' if is_last else '│ '}   ↳ link: {shown}  trace {link.trace_id.hex()}"


def _linked(link: Span.Link, target: Span | None) -> str:
    if target is not None:
        return _line(target)
    if _attributes(link.attributes).get("segment.link.type") == "message":
        return f"the application's span {link.span_id.hex()}"
    return "an exchange that is not here"


def _line(node: Span | LogRecord) -> str:
    if isinstance(node, LogRecord):
        return f"log {node.severity_text}  {node.body.string_value}"
    attributes = _attributes(node.attributes)
    parts = [node.name]
    if "segment.delivery.attempt" in attributes:
        parts.append(f"attempt {attributes['segment.delivery.attempt']}")
        parts.append(attributes.get("segment.delivery.outcome", ""))
    if "http.response.status_code" in attributes:
        parts.append(f"HTTP {attributes['http.response.status_code']}")
    if node.status.code == Status.STATUS_CODE_ERROR and node.status.message not in " ".join(parts):
        parts.append(node.status.message)
    return "  ".join(filter(None, parts))


def _clock(node: Span | LogRecord) -> str:
    return datetime.fromtimestamp(_time_ns(node) / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _time_ns(node: Span | LogRecord) -> int:
    return node.start_time_unix_nano if isinstance(node, Span) else node.time_unix_nano


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, str]:
    return {
        pair.key: str(getattr(pair.value, pair.value.WhichOneof("value") or "string_value")) for pair in pairs
    }
