"""The ids are public: the golden vectors are made in another language, from the formula alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

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
