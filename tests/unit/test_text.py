"""Text of peers is truncated, without the rest of a secret at the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.config import Secret, Target
from faillog_otel.otlp.outcome import Doubtful, read_http_answer
from faillog_otel.segment.answers import LISTING, Denied, read_answer
from faillog_otel.text import MAX_PEER_BYTES, quoted, truncate


@given(st.text(), st.integers(3, 40))
def test_text_is_truncated_between_characters_to_the_longest_possible_start(
    text: str, max_bytes: int
) -> None:
    found = truncate(text, max_bytes)
    assert truncate(found, max_bytes) == found
    assert len(found.encode()) <= max_bytes
    if len(text.encode()) <= max_bytes:
        assert found == text
    else:
        assert text.startswith(found[:-1])
        assert found.endswith("…")
        assert len(found.encode()) > max_bytes - 4


def test_text_with_a_lone_surrogate_is_truncated_too() -> None:
    assert len(truncate("\ud800" * 1000).encode()) <= MAX_PEER_BYTES


@pytest.mark.parametrize("before", [*range(MAX_PEER_BYTES - 40, MAX_PEER_BYTES + 3), 3990])
def test_a_header_value_across_the_limit_is_removed(before: int) -> None:
    key = "kQ7zXv93mLpT5wRb8sYc"
    target = Target(url="http://c", headers=(("x-key", Secret(key)),))
    body = ("." * before + key).encode()
    found = read_http_answer("logs", 400, {"content-type": "text/plain"}, body, 0.0, mask=target.masked)
    assert isinstance(found, Doubtful)
    assert key[:8] not in found.why


def test_an_email_address_across_the_limit_is_removed() -> None:
    body = ("." * (MAX_PEER_BYTES - 10) + " jane.doe@example.com").encode()
    found = read_http_answer("logs", 400, {"content-type": "text/plain"}, body, 0.0)
    assert isinstance(found, Doubtful)
    assert "jane" not in found.why


@pytest.mark.parametrize("times", [1, 10_000])
def test_a_token_that_a_gateway_echoes_is_removed(times: int) -> None:
    """Even if it is repeated so often that the rest of the text is short."""
    token = "kQ7zXv93mLpT5wRb8sYc" * 10
    body = ('{"errors":[{"message":"' + "." * 470 + token * times + '"}]}').encode()
    found = read_answer(401, {}, body, 0, expected=LISTING, mask=lambda text: text.replace(token, "***"))
    assert isinstance(found.outcome, Denied)
    assert "kQ7z" not in found.outcome.why


def test_a_quoted_text_is_short_even_where_every_character_is_escaped() -> None:
    assert quoted("short") == "'short'"
    assert len(quoted("\U00018d09" * 100)) < 50
