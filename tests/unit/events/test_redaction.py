"""What must not leave, does not; what people need to see, stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.events.names import kind_of_name
from faillog_otel.events.redaction import redact_text

CANARY = "c4n4ry0123456789"


@pytest.mark.parametrize(
    "text",
    [
        f'{{"token": "{CANARY}"}}',
        f'{{"token":"ab\\"{CANARY}"}}',
        f'{{"apiKey": "{CANARY}", "x": 1}}',
        f'{{"cookies": ["{CANARY}"]}}',
        f'{{"tokens": ["a]b", "{CANARY}"]}}',
        f'{{"body": "{{\\"api_key\\": \\"{CANARY}\\"}}"}}',
        f'{{"body": "{{\\"password\\": \\"a\\\\\\"{CANARY}\\"}}"}}',
        f'{{"password":"{CANARY}',
        f"https://bucket.example/x?X-Amz-Signature={CANARY}&X-Amz-Date=1",
        f"access_token={CANARY}&a=b",
        f"Authorization: Basic {CANARY}==",
        f"Cookie: a={CANARY}; b=c4n4ry0123456789",
        f"x-api-key: {CANARY}",
        f"sent with Bearer {CANARY}",
        f"postgres://user:{CANARY}@db.example/x",
        f"eyJ{CANARY}.eyJ{CANARY}.{CANARY}",
        f"key sk_live_{CANARY}",
        f"{CANARY}@shop.example was refused",
    ],
)
def test_a_secret_does_not_leave(text: str) -> None:
    assert CANARY not in redact_text(text)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("from 203.0.113.7:443", "from [redacted:ip]:443"),
        ("from 2001:db8::1, to ::1", "from [redacted:ip], to [redacted:ip]"),
        ("call +1 (415) 555-2671", "call [redacted:phone]"),
        ("call 415-555-2671.", "call [redacted:phone]."),
        ("jane.doe+x@shop.example", "[redacted:email]"),
    ],
)
def test_what_tells_who_somebody_is_is_replaced(text: str, redacted: str) -> None:
    assert redact_text(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "550e8400-e29b-41d4-a716-446655440000",
        "5f7dd6d21ad74f3842b1fc47",
        "1234567890123",
        "2025-03-23T20:00:00.123Z",
        "Invalid token: expired",
        "version 1.2.3, 1.2.3.4.5 and 256.1.1.1",
        "std::vector",
        '{"code": 400, "error": "some data points in the request failed validation"}',
        "monkey business",
    ],
)
def test_what_is_neither_stays(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize("name", ["access_token", "Set-Cookie", "X-Api-Key", "clientSecret", "password"])
def test_some_names_tell_that_they_hold_a_secret(name: str) -> None:
    assert kind_of_name(name) == "secret"


@pytest.mark.parametrize("name", ["messageId", "status", "keyboard"])
def test_others_do_not(name: str) -> None:
    assert kind_of_name(name) is None


PIECES = st.lists(
    st.text(max_size=8)
    | st.sampled_from(
        ['"token":"', '\\"secret\\":\\"', "a@b.c", "1.2.3.4", "::1", "Bearer ", "key=", "cookie:", '"']
    )
)


@given(PIECES)
def test_redacting_twice_is_redacting_once(pieces: list[str]) -> None:
    once = redact_text("".join(pieces))
    assert redact_text(once) == once
