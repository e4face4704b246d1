"""In which trace a message's records stand, by where its context comes from and by `--join`."""

import hashlib
from typing import Any

import pytest
from support.events import attempt, error, event

from faillog_otel import propagation
from faillog_otel.config import MappingConfig
from faillog_otel.events.decode import decode
from faillog_otel.events.model import Event, RecordContext
from faillog_otel.otlp.mapping import Mapped, map_event
from faillog_otel.otlp.wire import Link, Span

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
SAMPLED, UNSAMPLED = f"{TRACEPARENT}-x", f"00-{TRACE}-{SPAN}-00-x"
COMPACT = propagation.message_id_for(TRACEPARENT, compact=True)
APP = (bytes.fromhex(TRACE), bytes.fromhex(SPAN))


def mapped(raw: bytes, traceparent: str | None = None, **config: Any) -> Mapped:
    found = decode(raw)
    assert isinstance(found, Event), found
    return map_event(found, RecordContext(0, None, traceparent), MappingConfig(**config))


def span_of(message_id: str, traceparent: str | None = None, **config: Any) -> Span:
    span = mapped(attempt(messageId=message_id), traceparent, **config).span
    assert span is not None
    return span


def origin_of(mapped: Mapped) -> Any:
    return dict(mapped.log.attributes).get("segment.trace.origin")


def links_to_app(span: Span) -> list[Link]:
    return [link for link in span.links if ("segment.link.type", "message") in link.attributes]


def derived(message_id: str) -> bytes:
    return hashlib.sha256(f'["segment.message","{message_id}"]'.encode()).digest()[:16]


def test_joined_attempts_are_children_of_the_apps_span_and_link_to_it() -> None:
    span = span_of(SAMPLED)
    assert (span.trace_id, span.parent_span_id, span.flags) == (*APP, 0x301)
    assert links_to_app(span) == [Link(*APP, [("segment.link.type", "message")], 0x301)]
    assert len(span.links) == 2, "the link to the exchange stays"


def test_the_span_id_of_an_attempt_is_the_same_wherever_it_stands() -> None:
    ids = {span_of(SAMPLED, join=join).span_id for join in ("parent", "link", "off")}
    assert len(ids) == 1


def test_an_unsampled_span_is_linked_and_no_parent() -> None:
    both = mapped(attempt(messageId=UNSAMPLED))
    assert both.span is not None
    assert (both.span.trace_id, both.span.parent_span_id, both.span.flags) == (APP[0], b"", 0x101)
    assert [link.flags for link in links_to_app(both.span)] == [0x300]
    assert both.log.flags == 0


def test_of_the_apps_flags_only_sampled_is_kept() -> None:
    both = mapped(attempt(messageId=f"00-{TRACE}-{SPAN}-ff"))
    assert both.span is not None
    assert (both.span.flags, both.log.flags) == (0x301, 0x01)
    assert [link.flags for link in links_to_app(both.span)] == [0x301]


def test_the_compact_form_gives_the_trace_and_neither_parent_nor_link() -> None:
    both = mapped(attempt(messageId=COMPACT))
    assert both.span is not None
    assert (both.span.trace_id, both.span.parent_span_id, both.span.flags) == (APP[0], b"", 0x101)
    assert links_to_app(both.span) == []
    assert (both.log.flags, origin_of(both)) == (0x01, "message_id_compact")


def test_the_log_of_an_attempt_points_at_its_own_span() -> None:
    both = mapped(attempt(messageId=SAMPLED))
    assert both.span is not None
    assert (both.log.trace_id, both.log.span_id) == (both.span.trace_id, both.span.span_id)


@pytest.mark.parametrize(
    "raw", [error(messageId=SAMPLED), event("New", messageId=SAMPLED, occurredAt="1970-01-01T00:00:00Z")]
)
def test_a_log_without_a_span_of_its_own_points_at_the_apps(raw: bytes) -> None:
    both = mapped(raw)
    assert both.span is None
    assert (both.log.trace_id, both.log.span_id, both.log.flags) == (*APP, 0x01)
    assert origin_of(both) == "message_id"


def test_a_log_of_a_compact_id_has_a_trace_and_no_span() -> None:
    log = mapped(error(messageId=COMPACT)).log
    assert (log.trace_id, log.span_id) == (APP[0], b"")


@pytest.mark.parametrize("message_id", [SAMPLED, UNSAMPLED])
def test_join_link_keeps_the_own_trace_and_links(message_id: str) -> None:
    both = mapped(attempt(messageId=message_id), join="link")
    assert both.span is not None
    assert (both.span.trace_id, both.span.parent_span_id, both.span.flags) == (
        derived(message_id),
        b"",
        0x101,
    )
    assert [(link.trace_id, link.span_id) for link in links_to_app(both.span)] == [APP]
    assert (both.log.trace_id, both.log.flags) == (derived(message_id), 0x01)
    assert origin_of(both) == "message_id"
    log = mapped(error(messageId=message_id), join="link").log
    assert (log.trace_id, log.span_id) == (derived(message_id), b"")


def test_join_link_of_a_compact_id_has_nothing_to_link_to() -> None:
    both = mapped(attempt(messageId=COMPACT), join="link")
    assert both.span is not None
    assert (both.span.trace_id, links_to_app(both.span)) == (derived(COMPACT), [])
    assert origin_of(both) == "derived"


@pytest.mark.parametrize(
    "message_id", [SAMPLED, UNSAMPLED, COMPACT, "m"], ids=["sampled", "unsampled", "compact", "plain"]
)
def test_join_off_knows_no_application(message_id: str) -> None:
    both = mapped(attempt(messageId=message_id), TRACEPARENT, join="off")
    assert both.span is not None
    assert (both.span.trace_id, both.span.parent_span_id) == (derived(message_id), b"")
    assert links_to_app(both.span) == []
    assert origin_of(both) == "derived"


@pytest.mark.parametrize("join", ["parent", "link"])
def test_a_context_beside_the_message_adds_a_link_and_leaves_the_trace(join: str) -> None:
    both = mapped(attempt(), TRACEPARENT, join=join)
    assert both.span is not None
    assert (both.span.trace_id, both.span.parent_span_id, both.span.flags) == (derived("m"), b"", 0x101)
    assert [(link.trace_id, link.span_id, link.flags) for link in links_to_app(both.span)] == [(*APP, 0x301)]
    assert (both.log.trace_id, both.log.flags, origin_of(both)) == (derived("m"), 0x01, "body")


def test_the_message_id_comes_before_what_stands_beside_it() -> None:
    other = f"00-{'1' * 32}-{'2' * 16}-01"
    span = span_of(SAMPLED, other)
    assert span.trace_id == APP[0]
    assert [link.span_id for link in links_to_app(span)] == [APP[1]]


def test_an_exchange_has_no_origin() -> None:
    found = mapped(
        event("Destination Exchange Logged", destinationExchangeId="x", occurredAt="1970-01-01T00:00:00Z")
    )
    assert origin_of(found) is None
