"""Made-up secrets of every kind that public rule sets list, in every notation, do not leave; ids do.

`make redaction-figures` counts more of them, and prints what leaks or is changed.
"""

from random import Random

import pytest
from support.generated_secrets import (
    NOTATIONS,
    SHAPES,
    ids_and_words,
    made_up,
    secrets_by_look,
    secrets_by_name,
)

from faillog_otel.redact import redact_text

CARD_LIKE = {"event id of Shopify"}
"""Thirteen digits that a card may have, too: one in ten has a valid checksum."""


def test_there_are_many_kinds_and_notations() -> None:
    assert len(SHAPES["by_look"]) >= 180
    assert len(SHAPES["by_name"]) >= 80
    assert len(NOTATIONS) >= 20


@pytest.mark.parametrize("seed", range(3))
def test_a_secret_with_a_look_of_its_own_does_not_leave(seed: int) -> None:
    assert [case for case in secrets_by_look(Random(seed)) if case.leaks()] == []


@pytest.mark.parametrize("seed", range(3))
def test_a_secret_that_looks_like_an_id_does_not_leave_under_its_name(seed: int) -> None:
    assert [case for case in secrets_by_name(Random(seed)) if case.leaks()] == []


@pytest.mark.parametrize("seed", range(3))
def test_ids_and_words_that_look_like_secrets_stay(seed: int) -> None:
    changed = [case for case in ids_and_words(Random(seed)) if case.is_changed()]
    assert {case.kind for case in changed} <= CARD_LIKE


@pytest.mark.parametrize("kind", SHAPES["by_look"])
def test_of_a_secret_that_is_cut_off_nothing_but_its_beginning_leaves(kind: str) -> None:
    """Segment cuts bodies anywhere. What is not a token any more without its end has to be told by a name."""
    secret = made_up(SHAPES["by_look"][kind], Random(1))
    shown = redact_text(f'{{"access_token": "{secret[: len(secret) * 2 // 3]}')
    assert shown == '{"access_token": "[redacted:secret]'
