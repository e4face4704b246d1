"""A context survives Segment in both forms of a messageId, and nothing else is taken for one."""

import re
import uuid

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace

from faillog_otel import propagation

TRACE_IDS = st.integers(1, 2**128 - 1)
SPAN_IDS = st.integers(1, 2**64 - 1)
FLAGS = st.integers(0, 255)
UUIDS = st.uuids().map(str)
FULL = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.DOTALL)
"""Written here once more, from the rules of W3C's Trace Context and docs/guides/join-traces.md."""


@given(TRACE_IDS, SPAN_IDS, FLAGS)
def test_any_valid_context_survives_both_forms(trace_id: int, span_id: int, flags: int) -> None:
    span = trace.NonRecordingSpan(
        trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=trace.TraceFlags(flags))
    )
    context = trace.set_span_in_context(span)
    full = propagation.message_id(context)
    compact = propagation.message_id(context, compact=True)
    assert len(full) <= 100
    assert re.fullmatch(r"[0-9A-Za-z-]{36}", compact)
    ids = (trace_id.to_bytes(16, "big"), span_id.to_bytes(8, "big"))
    assert propagation.context_in(full) == (*ids, flags)
    carried = propagation.context_in(compact)
    assert carried is not None
    assert (carried.trace_id, carried.span_id) == (ids[0], b"")
    assert propagation.trace_id_of(full) == propagation.trace_id_of(compact) == f"{trace_id:032x}"


@given(TRACE_IDS, SPAN_IDS, FLAGS)
def test_a_traceparent_gives_the_same_as_the_current_span(trace_id: int, span_id: int, flags: int) -> None:
    traceparent = f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
    assert propagation.message_id_for(traceparent).startswith(f"{traceparent}-")
    assert (
        propagation.trace_id_of(propagation.message_id_for(traceparent, compact=True)) == f"{trace_id:032x}"
    )


@given(st.one_of(UUIDS, UUIDS.map(lambda each: f"ajs-next-1746662400000-{each}"), st.text(max_size=100)))
def test_other_ids_are_never_taken_for_one(message_id: str) -> None:
    """A wrong guess would put a message into a stranger's trace."""
    if not FULL.fullmatch(message_id) and not message_id.startswith("tr1-"):
        assert propagation.context_in(message_id) is None


@given(TRACE_IDS, SPAN_IDS, FLAGS, st.integers(0, 54))
def test_a_truncated_full_form_is_invalid(trace_id: int, span_id: int, flags: int, length: int) -> None:
    """Half of a span id would lead to a span that never was."""
    whole = f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}-{uuid.UUID(int=0)}"
    assert propagation.context_in(whole[:length]) is None
    assert propagation.context_in(whole[: 55 + length % 2]) is not None


@given(TRACE_IDS, st.integers(0, 35))
def test_a_compact_form_of_another_length_is_invalid(trace_id: int, length: int) -> None:
    whole = propagation.message_id_for(f"00-{trace_id:032x}-{1:016x}-01", compact=True)
    assert propagation.context_in(whole[:length]) is None
    assert propagation.context_in(whole + "0") is None


@given(TRACE_IDS, SPAN_IDS, st.integers(0, 54), st.characters(codec="utf-8"))
def test_one_character_changed_is_another_valid_context_or_none(
    trace_id: int, span_id: int, at: int, character: str
) -> None:
    whole = f"00-{trace_id:032x}-{span_id:016x}-01"
    changed = whole[:at] + character + whole[at + 1 :]
    assert (propagation.context_in(changed) is not None) == bool(FULL.fullmatch(changed))


@given(TRACE_IDS, SPAN_IDS)
def test_upper_case_hex_is_invalid(trace_id: int, span_id: int) -> None:
    """W3C's traceparent has lower-case hex only."""
    whole = f"00-{trace_id:032X}-{span_id:016x}-01-x"
    assert propagation.context_in(whole) is None or whole == whole.lower()
    whole = f"00-{trace_id:032x}-{span_id:016X}-01-x"
    assert propagation.context_in(whole) is None or whole == whole.lower()
