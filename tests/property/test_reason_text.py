"""Reasons with one cause become one text, and those with different causes stay apart."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reasons import DIFFERENT, TEMPLATES, variant

from faillog_otel.reason_text import normalise
from faillog_otel.reasons import all_rows, classify, code_of_text

REASONS = st.one_of(
    st.text(max_size=1200),
    st.text("ab1fF9 '\"«»„“‘’`*-+@:/.{}[]redact,maysſß٣", max_size=300),
    st.lists(
        st.sampled_from(
            (*DIFFERENT, "'", '"', "5", "x@y", "https://a", '{"message":"', '"}', "-", "[redacted:", "May")
        ),
        max_size=12,
    ).map(" ".join),
    st.builds(variant, st.sampled_from(TEMPLATES), st.randoms(use_true_random=False)),
)
CODES = st.one_of(st.none(), st.text(max_size=150), st.sampled_from([row.code for row in all_rows()]))
KNOWN = {row.code for row in all_rows()} | {str(status) for status in range(400, 1000)}


@pytest.mark.parametrize("template", TEMPLATES)
def test_variants_of_one_reason_are_one_text(template: str) -> None:
    chance = random.Random(template)
    texts = {normalise(variant(template, chance)) for _ in range(10_000)}
    assert len(texts) == 1, sorted(texts)[:5]


def test_different_reasons_stay_different() -> None:
    assert len({*DIFFERENT}) >= 300
    assert len({normalise(reason) for reason in DIFFERENT}) >= len(DIFFERENT) * 290 // 300


@given(REASONS)
def test_a_normalised_reason_is_short_and_stays_as_it_is(reason: str) -> None:
    text = normalise(reason)
    assert len(text) <= 200
    assert normalise(text) == text


@settings(max_examples=20)
@given(st.sampled_from(TEMPLATES), st.randoms(use_true_random=False), st.integers(1000, 4096))
def test_a_long_reason_that_was_cut_is_the_same_text(
    template: str, chance: random.Random, length: int
) -> None:
    reason = " and ".join(f"{number} {variant(template, chance)}" for number in range(40))
    assert normalise(reason[:length]) == normalise(reason)


@given(CODES, st.one_of(st.none(), st.integers()), CODES, CODES, REASONS)
def test_any_failure_has_one_of_few_codes(
    code: str | None, status: int | None, text_code: str | None, feature: str | None, text: str
) -> None:
    found = classify(code, status, text_code, feature)
    assert found.code is None or found.code in KNOWN
    assert code_of_text(text) in {None, *KNOWN}
