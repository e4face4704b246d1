"""The ids are public: the golden vectors are made in another language, from the formula alone."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from faillog_otel import propagation

GOLDEN: dict[str, Any] = json.loads(
    Path(__file__).parents[1].joinpath("golden", "ids.json").read_text("utf-8")
)


@pytest.mark.parametrize("vector", GOLDEN["messages"], ids=lambda vector: repr(vector["messageId"]))
def test_trace_of_a_message(vector: dict[str, str]) -> None:
    assert propagation.trace_id_of(vector["messageId"]) == vector["traceId"]


@pytest.mark.parametrize("vector", GOLDEN["exchanges"], ids=lambda vector: repr(vector["exchangeId"]))
def test_trace_and_span_of_an_exchange(vector: dict[str, str]) -> None:
    digest = propagation.digest("segment.exchange", vector["exchangeId"])
    assert propagation.part(digest, 0, 16).hex() == vector["traceId"]
    assert propagation.part(digest, 16, 24).hex() == vector["spanId"]


@pytest.mark.parametrize("vector", GOLDEN["attempts"], ids=lambda vector: vector["spanId"])
def test_span_of_an_attempt(vector: dict[str, Any]) -> None:
    names = ("messageId", "destinationId", "sourceId", "attempt", "occurredAt")
    digest = propagation.digest("segment.attempt", *(vector[name] for name in names))
    assert propagation.part(digest, 0, 8).hex() == vector["spanId"]


@pytest.mark.parametrize(
    "digest",
    [
        bytes(16) + b"\1" * 16,
        bytes(8) + b"\1" * 24,
        b"\1" * 8 + bytes(8) + b"\1" * 16,
    ],
)
def test_a_trace_id_with_a_zero_half_is_taken_from_the_digest_of_the_digest(digest: bytes) -> None:
    assert propagation.part(digest, 0, 16) == hashlib.sha256(digest).digest()[:16]


def test_only_the_eight_bytes_of_a_span_id_decide_whether_it_is_zero() -> None:
    digest = bytes(16) + b"\1" * 16
    assert propagation.part(digest, 16, 24) == b"\1" * 8
    assert propagation.part(digest, 0, 8) == hashlib.sha256(digest).digest()[:8]


@pytest.mark.parametrize("vector", GOLDEN["contexts"], ids=lambda vector: vector["messageId"])
def test_the_context_that_a_message_id_carries(vector: dict[str, Any]) -> None:
    context = propagation.context_in(vector["messageId"])
    assert context is not None
    assert (context.trace_id.hex(), context.span_id.hex(), context.flags) == (
        vector["traceId"],
        vector["spanId"],
        vector["flags"],
    )
    assert propagation.trace_id_of(vector["messageId"]) == vector["traceId"]


@pytest.mark.parametrize("vector", GOLDEN["noContexts"], ids=lambda vector: vector["messageId"])
def test_an_invalid_context_is_never_used_in_part(vector: dict[str, Any]) -> None:
    assert propagation.context_in(vector["messageId"]) is None
    assert propagation.trace_id_of(vector["messageId"]) == vector["traceId"]


def test_a_fresh_message_id_carries_the_current_span() -> None:
    with TracerProvider().get_tracer("app").start_as_current_span("checkout") as span:
        full, compact = propagation.message_id(), propagation.message_id(compact=True)
    context = span.get_span_context()
    ids = f"{context.trace_id:032x}-{context.span_id:016x}"
    assert re.fullmatch(rf"00-{ids}-{int(context.trace_flags):02x}-[0-9a-f]{{32}}", full)
    assert re.fullmatch(r"[0-9A-Za-z-]{36}", compact)
    for message_id in (full, compact):
        assert propagation.trace_id_of(message_id) == f"{context.trace_id:032x}"


def test_a_fresh_message_id_carries_the_context_that_is_given() -> None:
    span = TracerProvider().get_tracer("app").start_span("checkout")
    given = trace.set_span_in_context(span, otel.Context())
    assert (
        propagation.trace_id_of(propagation.message_id(given)) == f"{span.get_span_context().trace_id:032x}"
    )


def test_a_span_that_is_not_sampled_says_so_in_the_message_id() -> None:
    with TracerProvider(sampler=ALWAYS_OFF).get_tracer("app").start_as_current_span("checkout"):
        context = propagation.context_in(propagation.message_id())
    assert context is not None
    assert not context.is_sampled


@pytest.mark.parametrize("compact", [False, True])
def test_without_a_span_each_message_id_has_a_fresh_trace_and_no_parent(*, compact: bool) -> None:
    made = [propagation.message_id(compact=compact) for _ in range(100)]
    assert len(set(map(propagation.trace_id_of, made))) == 100
    contexts = [propagation.context_in(message_id) for message_id in made]
    assert all(context and not (context.span_id and context.is_sampled) for context in contexts)


def test_message_ids_made_under_one_span_differ() -> None:
    with TracerProvider().get_tracer("app").start_as_current_span("checkout"):
        assert len({propagation.message_id() for _ in range(100)}) == 100
        assert len({propagation.message_id(compact=True) for _ in range(100)}) == 100


@pytest.mark.parametrize("wrong", ["", "nonsense", "00-" + "0" * 32 + "-" + "1" * 16 + "-01"])
def test_a_traceparent_that_is_not_valid_makes_no_message_id(wrong: str) -> None:
    with pytest.raises(ValueError, match="traceparent"):
        propagation.message_id_for(wrong)


def test_a_link_leads_to_the_trace_of_a_message_with_an_id_of_its_own() -> None:
    link = propagation.span_link("m")
    digest = hashlib.sha256(b'["segment.message","m"]').digest()
    assert link.context.trace_id == int.from_bytes(digest[:16], "big")
    assert link.context.span_id == int.from_bytes(digest[16:24], "big")
    assert link.context.is_valid
    assert link.context.is_remote
    span = TracerProvider().get_tracer("app").start_span("checkout", links=[link])
    assert span.is_recording()


ALONE = """
import sys
before = set(sys.modules)
import propagation
outside = {name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
assert outside == {"propagation"}, outside
message_id = propagation.message_id()
print(message_id, propagation.trace_id_of(message_id), propagation.trace_id_of("m"))
"""


def test_the_module_alone_needs_the_standard_library_only(tmp_path: Path) -> None:
    shutil.copy(Path(propagation.__file__), tmp_path)
    done = subprocess.run(
        [sys.executable, "-S", "-c", ALONE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    message_id, trace_id, of_m = done.stdout.split()
    assert propagation.trace_id_of(message_id) == trace_id
    assert propagation.trace_id_of("m") == of_m


def test_it_is_imported_without_the_rest_of_the_package_and_of_the_sdk() -> None:
    code = (
        "import sys, faillog_otel.propagation as p; p.message_id();"
        "ours = ('faillog_otel', 'opentelemetry.sdk', 'msgspec');"
        "print(*sorted(name for name in sys.modules if name.startswith(ours)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["faillog_otel", "faillog_otel.propagation"]
