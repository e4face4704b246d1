"""What peers say is cut, and no secret is cut in two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.config import Secret, Target
from faillog_otel.otlp.outcome import Doubtful, read_http_answer
from faillog_otel.segment.api import Denied, read_answer
from faillog_otel.text import MAX_PEER_BYTES, quoted, truncate


@given(st.text(), st.integers(3, 40))
def test_a_text_is_cut_between_characters_and_no_shorter_than_it_must_be(text: str, max_bytes: int) -> None:
    found = truncate(text, max_bytes)
    assert truncate(found, max_bytes) == found
    assert len(found.encode()) <= max_bytes
    if len(text.encode()) <= max_bytes:
        assert found == text
    else:
        assert text.startswith(found[:-1])
        assert found.endswith("…")
        assert len(found.encode()) > max_bytes - 4


def test_a_text_that_is_no_unicode_is_cut_all_the_same() -> None:
    assert len(truncate("\ud800" * 1000).encode()) <= MAX_PEER_BYTES


@pytest.mark.parametrize("before", [*range(MAX_PEER_BYTES - 40, MAX_PEER_BYTES + 3), 3990])
def test_a_header_value_that_lies_across_the_cut_leaves_no_trace(before: int) -> None:
    key = "kQ7zXv93mLpT5wRb8sYc"
    target = Target(url="http://c", headers=(("x-key", Secret(key)),))
    body = ("." * before + key).encode()
    found = read_http_answer("logs", 400, {"content-type": "text/plain"}, body, 0.0, mask=target.masked)
    assert isinstance(found, Doubtful)
    assert key[:8] not in found.why


def test_an_address_that_lies_across_the_cut_leaves_no_trace() -> None:
    body = ("." * (MAX_PEER_BYTES - 10) + " jane.doe@example.com").encode()
    found = read_http_answer("logs", 400, {"content-type": "text/plain"}, body, 0.0)
    assert isinstance(found, Doubtful)
    assert "jane" not in found.why


@pytest.mark.parametrize("times", [1, 10_000])
def test_a_token_that_a_gateway_says_back_leaves_no_trace(times: int) -> None:
    """Also where it says it so often that the text without it is short."""
    token = "kQ7zXv93mLpT5wRb8sYc" * 10
    body = ('{"errors":[{"message":"' + "." * 470 + token * times + '"}]}').encode()
    found = read_answer(401, {}, body, 0, is_listing=True, mask=lambda text: text.replace(token, "***"))
    assert isinstance(found.outcome, Denied)
    assert "kQ7z" not in found.outcome.why


def test_a_quoted_text_is_short_even_where_every_character_is_escaped() -> None:
    assert quoted("short") == "'short'"
    assert len(quoted("\U00018d09" * 100)) < 50
