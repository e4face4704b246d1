"""Placeholders stand for what varies in a reason, and for nothing else."""

import pytest

from faillog_otel.reason_text import normalise


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("Invalid  value\n5", "invalid value *"),
        ("ids 1, 2 and 3", "ids * and *"),
        ("ids 1, 2, 3, 4", "ids *"),
        ("-5 is less than +1,234.50", "* is less than *"),
        ("10.0.0.1:443 and fe80::1ff:fe23:4567:890a", "* and *"),
        ("at 2025-05-07T14:17:00.123Z", "at *"),
        ("at Wed, 07 May 2025 14:17:00 GMT", "at *"),
        ("at May 7, 2025, 2:17 PM", "at *"),
        ("You may go to the market", "you may go to the market"),
        ("user 9f86d081-884c-4d63-a159-2e1a1e0b7a3c", "user *"),
        ("abcdefab and feedback", "* and feedback"),
        ("2wmpXTGB69A8BwGJ4hD5XvQ03aD", "*"),
        ("cus_NffrFeUfNVHibqX", "*"),
        ("InvalidAuthenticationTokenException", "invalidauthenticationtokenexception"),
        ("don't take 'jane' for the users' list", "don't take * for the users' list"),
        ("«один» „zwei“ “three” 「四」 `five`", "*"),
        ("write to a.b+c@shop.example.", "write to *"),
        ("see <https://shop.example/a?b=c>", "see <*"),
        ("[redacted:email] and [redacted:email:0123456789abcdef]", "* and *"),
        ("items[0].price", "items[*].price"),
        ('"Invalid API key"', "invalid api key"),
        ("{'error': {'message': 'Bad key', 'id': 12}}", "bad key"),
        ('Oops: {"a": [1, 2, {"b": null}]}, sorry', "oops: * , sorry"),
        ('[{"message": "no mailbox 1"}, {"message": "no mailbox 2"}] (2)', "no mailbox * (*)"),
        ("السعر ٣٤٥ غير صالح", "السعر * غير صالح"),
        ("STRASSE Straße", "strasse strasse"),
        ("", ""),
    ],
)
def test_a_reason_without_what_varies(reason: str, text: str) -> None:
    assert normalise(reason) == text


def test_a_long_reason_ends_with_a_whole_word() -> None:
    text = normalise("The property is unknown. " * 100)
    assert 180 < len(text) <= 200
    assert text.split()[-1] in {"the", "property", "is", "unknown."}


def test_a_very_long_word_is_a_placeholder() -> None:
    assert normalise("x" * 5000) == normalise("y" * 300) == "*"
