"""Kept records, as people mend them by hand."""

import json
from typing import Any

import pytest
from support.events import error

from faillog_otel.events.kept_record import KeptContext, read_entry, write_entry
from faillog_otel.events.model import ExchangeAnswer, Place, Reason


def written(learned: KeptContext | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(write_entry("refused", "so", Place("f", 1, 0), error(), learned))
    return entry


@pytest.mark.parametrize(
    "field", ["reason", "detail", "file", "line", "offset", "raw_base64", "sha256", "context", "replayable"]
)
def test_a_field_that_is_null_is_absent(field: str) -> None:
    """Editors and scripts write null for fields that they leave empty."""
    found = read_entry(json.dumps(written() | {field: None}).encode())
    assert found is not None
    assert (found.record(), found.replayable) == (error(), True)


def test_half_a_surrogate_pair_costs_no_entry() -> None:
    """JSON may hold one half of a surrogate pair, where a text was cut."""
    found = read_entry(json.dumps(written() | {"detail": "cut: @@"}).encode().replace(b"@@", rb"\ud83d"))
    assert found is not None
    assert (found.record(), found.detail) == (error(), "cut: \ufffd")


def test_a_record_context_reads_back_and_is_written_unchanged() -> None:
    plain = KeptContext(7, ExchangeAnswer(400, Reason("no", "BAD_KEY")))
    assert written(plain)["context"] == {
        "reference_ns": 7,
        "answer": {"status": 400, "reason": {"text": "no", "code": "BAD_KEY"}},
    }
    for learned in (
        plain,
        KeptContext(7, ExchangeAnswer(400, Reason("no", None, "DESTINATION", in_body=True))),
        KeptContext(7, destination_name="Mixpanel (prod)"),
    ):
        found = read_entry(json.dumps(written(learned)).encode())
        assert found is not None
        assert found.context == learned
