"""A text that the first look finds clean holds nothing that any rule redacts."""

import random
from collections.abc import Iterator

import pytest
from support.canaries import CANARIES
from support.generated_secrets import ids_and_words, secrets_by_look, secrets_by_name
from support.tiers import slow_case

from faillog_otel.redact import findings, finds_nothing, redact_text

GLUE = (
    *(
        "",
        " ",
        "\n",
        '"',
        "'",
        "=",
        ": ",
        ":",
        "&",
        "\\",
        "\\n",
        "%20",
        "%40",
        "+",
        "::",
        "(",
        "#",
        "@",
        "00",
    ),
    *("tel:", "ip-", "-u ", "key", "token", "pin", "basic ", "Bearer ", '{"', '":"', "é", "\u017f", "\u0131"),
    *("x", "7", "_", "\u00a0", "\u0661", "\u212a", "\U0001f389"),
)
"""What is put between texts: ends of words, escapes, signs, letters that fold to ASCII, other digits."""
WORDS = "the request field was rejected: mapping value discarded inside hotel 12.5 s at 10:00 größer".split()


def made_up_texts(seed: int, count: int) -> Iterator[str]:
    """Secrets, ids and sentences, cut, joined and damaged at random."""
    rng = random.Random(seed)
    whole = [case.text for cases in (secrets_by_look, secrets_by_name, ids_and_words) for case in cases(rng)]
    whole += [text for text, _ in CANARIES.values()]

    def number() -> str:
        return "".join(rng.choices("0123456789" * 3 + " .()/+-:", k=rng.randint(4, 24)))

    def piece() -> str:
        kind = rng.randrange(4)
        if kind == 0:
            text = rng.choice(whole)
            start = rng.choice((0, 0, rng.randrange(len(text))))
            return text[start : rng.choice((len(text), start + rng.randint(1, 60)))]
        return (number(), " ".join(rng.choices(WORDS, k=rng.randint(1, 9))), rng.choice(GLUE))[kind - 1]

    for _ in range(count):
        yield "".join(part for _ in range(rng.randint(1, 4)) for part in (piece(), rng.choice(GLUE)))


@pytest.mark.parametrize(("seed", "count"), [(1, 20_000), slow_case(2, 200_000)])
def test_what_the_first_look_finds_clean_holds_nothing_to_redact(seed: int, count: int) -> None:
    clean = [text for text in made_up_texts(seed, count) if finds_nothing(text)]
    assert len(clean) > count / 10
    assert [text for text in clean if findings(text)] == []


def test_ordinary_texts_are_clean_at_first_sight() -> None:
    """Otherwise it would be of no use: these words contain hints of sensitive names, and numbers."""
    for text in (
        "the mapping for this destination was discarded inside of 12.5 s",
        "Thu, 07 May 2026 23:00:00 GMT",
        "ef4686b5-d555-45dd-af09-d6e0ae31ea47",
        '{"code": 400, "error": "some data points in the request failed validation"}',
        "hotel bookings: 3 of 25 were größer than expected",
    ):
        assert finds_nothing(text)
        assert redact_text(text) == text


def test_a_uuid_holds_nothing_to_redact() -> None:
    rng = random.Random(2)
    digits = "0123456789" * 4 + "abcdef"
    for _ in range(5_000):
        uuid = "-".join("".join(rng.choices(digits, k=length)) for length in (8, 4, 4, 4, 12))
        assert finds_nothing(uuid)
        assert findings(uuid) == []
