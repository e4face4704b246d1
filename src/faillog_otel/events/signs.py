"""What a text must have for a pattern to be worth trying: literals, for they are found many times quicker.

They are looked for in the text's lower case, and with a 0 in the place of each digit, so that `000-000-0000`
is a sign of a phone number.
"""

import re
from collections.abc import Collection
from typing import Self

from msgspec import Struct

from faillog_otel.events.plain import Plain

_DIGITS = str.maketrans("123456789", "000000000")
_ANY_DIGIT = re.compile(r"\d")  # other scripts have their own, and patterns know them
_FOLDED = str.maketrans("\u0130\u0131\u017f", "iis")  # patterns that ignore case take them for these letters
_IN_A_WORD = re.compile(r"(?=.*[a-z])[\w$.-]{2,}")  # of digits alone, it may be in an id
_RARE = re.compile(r"[^\w\s:.-]")

_SHORTEST_SHAPED = 12

_MOST_DULL = 4096
_LONGEST_DULL = 64


class Signs(Struct, frozen=True):
    """Of these a text must have one. `words` can only stand within a word, as `Plain.words` has them."""

    words: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    """Each behind the character of it that is the rarest."""
    shape: re.Pattern[str] | None = None
    """Or a word that begins so; of words of digits, or that may be hexadecimal ids, none is looked at."""
    colons: int | None = None
    """Or `::`, or so many colons that stand neither behind a quote nor before a blank, as JSON's do."""

    @classmethod
    def of(cls, *signs: str, colons: int | None = None) -> Self:
        """These literals, in lower case."""
        words, others = [], []
        for sign in signs:
            read = sign.translate(_DIGITS)
            if _IN_A_WORD.fullmatch(read):
                words.append(read)
            else:
                rare = _RARE.search(read)
                others.append((rare[0] if rare else read, read))
        return cls(tuple(words), tuple(others), colons=colons)


class Glance:
    """A text, read as signs are."""

    def __init__(self, plain: Plain, all_words: Collection[str], all_shapes: re.Pattern[str]) -> None:
        """`all_words` and `all_shapes` are the signs within words that anybody will ask for."""
        words = plain.words - _dull
        self._words = _read("\n".join(words))
        self._shaped = [word for word in words if len(word) >= _SHORTEST_SHAPED and all_shapes.match(word)]
        if not _has_one(self._words, all_words):
            self._words = ""
            if not self._shaped:
                _remember(words)
        self._text = _read(plain.brief)
        bare = self._text.replace('":', "")
        self._colons = bare.count(":") - bare.count(": ")

    def has(self, signs: Signs) -> bool:
        """Whether the text has one of the signs."""
        if signs.shape is not None:
            return any(map(signs.shape.match, self._shaped))
        if self._words and _has_one(self._words, signs.words):
            return True
        for rare, sign in signs.others:
            if rare in self._text and sign in self._text:
                return True
        return signs.colons is not None and (self._colons >= signs.colons or "::" in self._text)


def _has_one(text: str, signs: Collection[str]) -> bool:
    for sign in signs:  # noqa: SIM110  # twice as quick as any()
        if sign in text:
            return True
    return False


def _read(text: str) -> str:
    if text.isascii():
        return text.lower().translate(_DIGITS)
    return _ANY_DIGIT.sub("0", text.translate(_FOLDED).lower())


_dull: set[str] = set()
"""Words of texts without any sign, so that those which come again and again are not searched again. They may
be anything that stood in a body: nothing but Glance is to see them."""


def _remember(words: Collection[str]) -> None:
    if len(_dull) + len(words) > _MOST_DULL:
        _dull.clear()
    _dull.update([word for word in words if len(word) <= _LONGEST_DULL][:_MOST_DULL])
