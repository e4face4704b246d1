"""Trees of text: one for each message, with its delivery attempts and the exchanges that they link to."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, tzinfo
from typing import Literal

from msgspec import Struct
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

MESSAGE, EXCHANGE = "messaging.message.id", "segment.destination_exchange.id"

Style = Literal["title", "failed", "succeeded", "plain", "detail"]


class TraceTree(Struct, frozen=True):
    """One message as lines of text, and the name of its destination if it has one.

    The lines can hold control characters. `styles` says what each line shows.
    """

    destination: str | None
    lines: tuple[str, ...]
    styles: tuple[Style, ...]


class _Node(Struct, eq=False):
    """What one line shows: a span, or a log record without a span."""

    record: Span | LogRecord
    attributes: dict[str, str]
    answer: str = ""
    """The first line of the destination's answer."""

    @property
    def ids(self) -> tuple[bytes, bytes]:
        return self.record.trace_id, self.record.span_id

    @property
    def message(self) -> str:
        return f"message {self.attributes[MESSAGE]}" if MESSAGE in self.attributes else ""


def trace_trees(
    spans: Iterable[Span], logs: Iterable[LogRecord], zone: tzinfo | None = None
) -> list[TraceTree]:
    """Returns one tree for each message, in the order of their first times.

    A tree shows the spans of a message, and its log records without a span. What occurs twice is shown once:
    records, and the first lines of the destination's answers.
    An exchange is shown below the attempts that link to it. An exchange without links is a tree of its own,
    and so are the records of a trace without a message. `zone`: that of the times; None: the local one.
    """
    nodes = _nodes(spans, logs)
    exchanges = {node.attributes[EXCHANGE]: node for node in nodes if is_exchange(node.attributes)}
    linked = {node.attributes.get(EXCHANGE) for node in nodes if is_attempt(node.attributes)}
    trees: dict[tuple[str, bytes], list[_Node]] = defaultdict(list)
    for node in nodes:
        if not (is_exchange(node.attributes) and node.attributes[EXCHANGE] in linked):
            trees[node.message, b"" if node.message else node.record.trace_id].append(node)
    ordered = [sorted(tree, key=lambda node: time_ns_of(node.record)) for tree in trees.values()]
    ordered.sort(key=lambda tree: time_ns_of(tree[0].record))
    return [_tree(tree, exchanges, zone) for tree in ordered]


def attributes_of(record: Span | LogRecord) -> dict[str, str]:
    """Returns the attributes of a record, as texts."""
    return {pair.key: _text(pair) for pair in record.attributes}


def time_ns_of(record: Span | LogRecord) -> int:
    """Returns its time, in nanoseconds since 1970."""
    return record.start_time_unix_nano if isinstance(record, Span) else record.time_unix_nano


def is_attempt(attributes: dict[str, str]) -> bool:
    """Returns whether a record with these attributes is an attempt to deliver a message."""
    return attributes.get("segment.event") == "segment.attempt"


def is_exchange(attributes: dict[str, str]) -> bool:
    """Returns whether a record with these attributes is an exchange that attempts can link to."""
    return attributes.get("segment.event") == "segment.exchange" and EXCHANGE in attributes


def _text(pair: KeyValue) -> str:
    return str(getattr(pair.value, pair.value.WhichOneof("value") or "string_value"))


def _nodes(spans: Iterable[Span], logs: Iterable[LogRecord]) -> list[_Node]:
    of_spans = {node.ids: node for node in (_Node(span, attributes_of(span)) for span in spans)}
    alone: dict[object, _Node] = {}
    for log in logs:
        own = _Node(log, attributes_of(log))
        node = of_spans.get(own.ids)
        if node is None:
            node = alone.setdefault(own.attributes.get("log.record.uid") or object(), own)
        answer = own.attributes.get("segment.response.body", "").strip()
        node.answer = answer.splitlines()[0] if answer else node.answer
    return [*of_spans.values(), *alone.values()]


def _tree(nodes: Sequence[_Node], exchanges: dict[str, _Node], zone: tzinfo | None) -> TraceTree:
    traces = ", ".join(dict.fromkeys(node.record.trace_id.hex() or "-" for node in nodes))
    title = f"{nodes[0].message or 'without a message'}  trace {traces}"
    parents = {
        node.record.parent_span_id.hex()
        for node in nodes
        if isinstance(node.record, Span) and node.record.parent_span_id
    }
    under = f"  under the application's span {', '.join(sorted(parents))}" if parents else ""
    lines: list[tuple[str, Style]] = [(title + under, "title")]
    answers = {""}
    for node in nodes:
        is_last = node is nodes[-1]
        time = datetime.fromtimestamp(time_ns_of(node.record) / 1e9, zone).strftime("%Y-%m-%d %H:%M:%S")
        lines.append((f"{'└─' if is_last else '├─'} {time}  {_line(node)}", _style(node)))
        below = "  " if is_last else "│ "
        lines += [(f"{below}   {detail}", "detail") for detail in _details(node, exchanges, answers)]
    texts, styles = zip(*lines, strict=True)
    return TraceTree(nodes[0].attributes.get("messaging.destination.name"), texts, styles)


def _details(node: _Node, exchanges: dict[str, _Node], answers: set[str]) -> Iterator[str]:
    """Yields what is shown below a line: the destination's answer, and what an attempt links to.

    `answers`: those that the tree shows already.
    """
    if node.answer not in answers:
        answers.add(node.answer)
        yield f"answer: {node.answer}"
    exchange = exchanges.get(node.attributes.get(EXCHANGE, "")) if is_attempt(node.attributes) else None
    links = node.record.links if isinstance(node.record, Span) else ()
    if exchange is not None:
        yield f"↳ link: {_line(exchange)}  trace {exchange.record.trace_id.hex()}"
        if exchange.answer not in answers:
            answers.add(exchange.answer)
            yield f"  answer: {exchange.answer}"
    for link in links:
        is_parent = link.span_id == getattr(node.record, "parent_span_id", b"")  # it is shown in the title
        if is_parent or (exchange is not None and exchange.ids == (link.trace_id, link.span_id)):
            continue
        is_message = any(
            _text(pair) == "message" for pair in link.attributes if pair.key == "segment.link.type"
        )
        id_ = link.span_id.hex()
        what = f"the application's span {id_}" if is_message else f"exchange {id_} (not among these records)"
        yield f"↳ link: {what}  trace {link.trace_id.hex()}"


def _line(node: _Node) -> str:
    record, attributes = node.record, node.attributes
    if isinstance(record, LogRecord):
        return f"log {record.severity_text}  {record.body.string_value}"
    parts = [record.name]
    if "segment.delivery.attempt" in attributes:
        parts.append(f"attempt {attributes['segment.delivery.attempt']}")
        parts.append(attributes.get("segment.delivery.outcome", ""))
    if "http.response.status_code" in attributes:
        parts.append(f"HTTP {attributes['http.response.status_code']}")
    if record.status.code == Status.STATUS_CODE_ERROR and record.status.message not in " ".join(parts):
        parts.append(record.status.message)
    return "  ".join(filter(None, parts))


def _style(node: _Node) -> Style:
    record = node.record
    if isinstance(record, LogRecord):
        is_bad = record.severity_number >= SeverityNumber.SEVERITY_NUMBER_WARN
    else:
        is_bad = record.status.code == Status.STATUS_CODE_ERROR
    if is_bad:
        return "failed"
    return "succeeded" if node.attributes.get("segment.delivery.outcome") == "success" else "plain"
