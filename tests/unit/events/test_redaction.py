"""What must not leave, does not; what people need to see, stays."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.canaries import CANARIES

from faillog_otel.config import Secret
from faillog_otel.events.names import kind_of_name
from faillog_otel.events.redaction import Finding, findings, redact_text

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


@pytest.mark.parametrize("kind", CANARIES)
@pytest.mark.parametrize(
    "around",
    ["{}", "a {} b", "{}\n{}", '{{"x": 1}} {}', "line one\r\n{}\r\nline three", "'{}", "[redacted:ip] {}"],
)
def test_no_kind_of_secret_leaves_whatever_stands_around_it(kind: str, around: str) -> None:
    text, canary = CANARIES[kind]
    if "cut off" not in kind or around.endswith("}"):
        assert canary not in redact_text(around.format(text, text)), redact_text(around.format(text, text))


@pytest.mark.parametrize("kind", CANARIES)
def test_nor_inside_json_inside_json(kind: str) -> None:
    text, canary = CANARIES[kind]
    for _ in range(4):
        text = json.dumps({"body": text, "other": "x"})
        assert canary not in redact_text(text)


KNOWN_BY_ITS_NAME = [
    kind for kind, (text, _) in CANARIES.items() if findings(text)[0].rule.startswith("the name")
]


@pytest.mark.parametrize("kind", KNOWN_BY_ITS_NAME)
def test_nor_where_a_value_with_a_telling_name_is_cut_off(kind: str) -> None:
    text, canary = CANARIES[kind]
    half_is_none = ("phone", "sentence", "value before", "expired")
    if not any(each in kind for each in half_is_none):
        for length in range(1, len(canary)):
            redacted = redact_text(text[: text.rindex(canary) + length])
            assert canary[: max(length, 4)] not in redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ('{"secret":{"a":[1,"]x"]},"b":2}', '{"secret":"[redacted:secret]","b":2}'),
        ('{"a":"{\\"pin\\":1234,\\"b\\":1}"}', '{"a":"{\\"pin\\":\\"[redacted:secret]\\",\\"b\\":1}"}'),
        ("a=1&token=x&b=2", "a=1&token=[redacted:secret]&b=2"),
        ("Cookie: a=1; b=2\r\nHost: x", "Cookie: [redacted:secret]\r\nHost: x"),
        ("<token>x</token><a>y</a>", "<token>[redacted:secret]</token><a>y</a>"),
        ('{"has_password":true,"token":null}', '{"has_password":true,"token":null}'),
        ('{"password":["is too short"]}', '{"password":["is too short"]}'),
        ("send <token> here", "send <token> here"),
        ("Bearer authentication is needed", "Bearer authentication is needed"),
        ("user@host and x@[redacted:ip]", "[redacted:email] and x@[redacted:ip]"),
    ],
)
def test_a_value_is_replaced_from_its_beginning_to_its_end(text: str, redacted: str) -> None:
    assert redact_text(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "Invalid password: must have 8 characters",
        "token is expired",
        "signature mismatch: expected another",
        "at 2025-03-23T20:00:00+01:00, 12:30:45",
        "400 of 1000, 10.5 %, 1,234,567, -12.5e+10",
        "Chrome 120, build 1.2.3, v10.0.19045",
        "urn:uuid:550e8400-e29b-41d4-a716-446655440000",
        '{"keyboard":"qwerty","monkey":"x","author":"Jane","signal":1}',
        "https://api.example.com:8443/v1/import?strict=1#top",
        "00012345-0000-1111-2222-333344445555",
    ],
)
def test_what_people_need_to_see_stays(text: str) -> None:
    assert redact_text(text) == text


@given(st.uuids() | st.from_regex(r"[0-9a-f]{24}|[0-9a-f]{32}|[A-Za-z0-9]{27}|\d{1,20}", fullmatch=True))
def test_ids_that_a_text_mentions_stay(id_: object) -> None:
    for text in (f"{id_}", f"message {id_} was refused", f'{{"messageId":"{id_}"}}'):
        assert redact_text(text) == text


def test_a_key_makes_equal_values_comparable() -> None:
    key = Secret("a key of sixteen")
    first, second, third = redact_text("a@b.example A@b.example c@b.example", key).split()
    assert first == second != third
    assert redact_text("a@b.example", Secret("another key of sixteen")) != first
    assert redact_text(first, key) == first
    (encoded,) = redact_text("a%40b.example", key).split()
    assert encoded == first


def test_findings_name_the_rules() -> None:
    assert findings('{"apiKey":"x"} to a@b.example') == [
        Finding("secret", "the name apiKey"),
        Finding("email", "email address"),
    ]


@pytest.mark.parametrize(
    "name",
    ["access_token", "Set-Cookie", "X-Api-Key", "clientSecret", "password", "sig", "pwd", "x-auth", "OTP"],
)
def test_some_names_tell_that_they_hold_a_secret(name: str) -> None:
    assert kind_of_name(name) == "secret"


@pytest.mark.parametrize("name", ["messageId", "status", "keyboard", "author", "passed", "key", "opinion"])
def test_others_do_not(name: str) -> None:
    assert kind_of_name(name) is None


PIECES = st.lists(
    st.text(max_size=8)
    | st.sampled_from([text for text, _ in CANARIES.values()])
    | st.sampled_from(
        [
            *(
                '"token":"',
                '\\"secret\\":\\"',
                "a@b.c",
                "1.2.3.4",
                "::1",
                "Bearer ",
                "key=",
                "cookie:",
                '"',
                "://",
            ),
            *(
                "[redacted:",
                "secret]",
                "[redacted:ip]",
                "password",
                "<token>",
                "</",
                "=",
                ":",
                ",",
                "{",
                "[",
                "]",
            ),
            *("}", "\\", "'", "%40", "@", "+1", "555", "-", "(", ")", "eyJ", "-----BEGIN PRIVATE KEY-----"),
        ]
    ),
    max_size=12,
)


@settings(max_examples=1000)
@given(PIECES, st.none() | st.just(Secret("a key of sixteen")))
def test_redacting_twice_is_redacting_once(pieces: list[str], key: Secret | None) -> None:
    once = redact_text("".join(pieces), key)
    assert redact_text(once, key) == once
