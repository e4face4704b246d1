"""Long texts: what stands at the end of what is looked at leaves whole and redacted, or not at all."""

from itertools import product

import pytest

from faillog_otel.otlp.attributes import redact_and_truncate

WINDOWS = (16 * 1024, 16 * 1024 + 1024)
"""So many characters are looked at, or so many may leave."""
SECRETS = {
    "password in a URL": ("https://user:hunter2hunter2hunter2@host.example/", "hunter2"),
    "email": ("someone.very.private@example.com", "private"),
    "AWS key": ("AKIAIOSFODNN7EXAMPLE", "AKIAIOS"),
    "Stripe key": ("sk_live_4eC39HqLyjWDarjtT1zdp7dc", "4eC39H"),
    "phone": ("+14155552671", "415555"),
    "IP address": ("203.0.113.195", "203.0"),
    "named": ('{"password": "hunter2hunter2"}', "hunter2"),
}


@pytest.mark.thin(4)
@pytest.mark.parametrize("max_bytes", [2048, 8192, 16384])
@pytest.mark.parametrize("name", SECRETS)
def test_what_the_end_of_the_window_cuts_in_two_does_not_leave(name: str, max_bytes: int) -> None:
    """Wherever the cut goes through it; also where what stands before it shrinks, so that it moves up."""
    secret, telling = SECRETS[name]
    token = "access_token=" + "a" * 14_000 + " "
    for before, window in product(("", token), WINDOWS):
        filler = before + "word " * ((window - len(before)) // 5)
        for back in range(len(secret) + 2):
            text = filler[: window - back - 1] + " " + secret + " and more words" * 300
            shown, is_cut = redact_and_truncate(text, None, max_bytes)
            assert telling not in shown
            assert is_cut


@pytest.mark.parametrize("max_bytes", [2048, 16384])
def test_a_long_text_leaves_as_far_as_the_limit_goes(max_bytes: int) -> None:
    shown, is_cut = redact_and_truncate("word " * 100_000, None, max_bytes)
    assert (len(shown), is_cut) == (max_bytes, True)
    whole = ("word " * max_bytes)[:max_bytes]
    assert redact_and_truncate(whole, None, max_bytes) == (whole, False)
