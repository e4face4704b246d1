"""What a text must have for a pattern to be worth trying: literals, for they are found many times quicker.

They are looked for in the text's lower case, and with a 0 in the place of each digit, so that `000-000-0000`
is a sign of a phone number.
"""

import re
from collections.abc import Iterable
from typing import Self

from msgspec import Struct

from faillog_otel.events.plain import Plain

_DIGITS = str.maketrans("123456789", "000000000")
_IN_A_WORD = re.compile(r"[\w$.-]{2,}")


class Signs(Struct, frozen=True):
    """Of these a text must have one. `words` can only stand within a word, as `Plain.words` has them."""

    words: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    colons: int | None = None
    """Or so many colons that stand neither behind a quote nor before a blank, as those of JSON do."""

    @classmethod
    def of(cls, *signs: str, colons: int | None = None) -> Self:
        """These literals, in lower case."""
        read = [sign.translate(_DIGITS) for sign in signs]
        return cls(
            tuple(sign for sign in read if _IN_A_WORD.fullmatch(sign)),
            tuple(sign for sign in read if not _IN_A_WORD.fullmatch(sign)),
            colons,
        )


class Glance:
    """A text, read as signs are."""

    def __init__(self, plain: Plain) -> None:
        self._words = _read("\n".join(plain.words()))
        self._text = _read(plain.text)
        bare = plain.text.replace('":', "")
        self._colons = bare.count(":") - bare.count(": ")

    def has(self, signs: Signs) -> bool:
        """Whether the text has one of the signs."""
        return (
            _has_one(self._words, signs.words)
            or _has_one(self._text, signs.others)
            or (signs.colons is not None and self._colons >= signs.colons)
        )


def _has_one(text: str, signs: Iterable[str]) -> bool:
    for sign in signs:  # noqa: SIM110  # twice as quick as any()
        if sign in text:
            return True
    return False


def _read(text: str) -> str:
    low = text.lower()  # and other scripts have digits of their own
    return low.translate(_DIGITS) if low.isascii() else re.sub(r"\d", "0", low)
