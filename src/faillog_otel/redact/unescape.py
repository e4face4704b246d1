r"""A text as it reads without its escapes, each character with its place in the text as it came.

JSON inside JSON, forms, URLs, XML and HTML write the same character in many ways: `"` is also `\"`, `%22`,
`&quot;` and `\u0022`. The rules of redaction read the plain text, and so need to know none of this; what
they find is replaced in the text as it came, and the rest of it stays as it was. Linear in its length.
"""

import re
from bisect import bisect_left
from collections.abc import Callable

from msgspec import Struct

from faillog_otel.redact.vocabulary import MARK_PATTERN

_BACKSLASH = r"(?:\\|%(?:25)*+5C)"
_LOOK_ALIKES = {
    **dict.fromkeys(
        "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "
    ),
    "\uff1a": ":",
    "\uff1d": "=",
}
"""What reads as another character: blanks of any width, and signs as wide as Chinese letters."""
_LOOK_ALIKE = f"[{''.join(_LOOK_ALIKES)}]"
_ESCAPE = re.compile(
    rf"""
    (?P<blank>(?:\x1b|{_BACKSLASH}++(?:u001b|x1b|033)|%(?:25)*+1b|&(?:amp;)*+\#(?:27|x1b);)\[[0-9;]*+[a-z]
             |%(?:25)*+c2%(?:25)*+a0)
    |(?P<alike>{_LOOK_ALIKE})
    |{_BACKSLASH}++(?:(?P<quote>["'])|%(?:25)*+(?P<coded_quote>2[27])|(?P<control>[nrtbf])|(?P<slash>/)
                    |(?:u(?P<unit>[0-9a-f]{{4}})|x(?P<byte>[0-9a-f]{{2}})))?+
    |%(?:u00|(?:25)*+)(?P<percent>[0-9a-f]{{2}})
    |&(?:amp;)*+(?:(?P<entity>amp|lt|gt|quot|apos|nbsp)|\#(?:(?P<number>\d{{2,4}})|x(?P<hex>[0-9a-f]{{2,4}})));
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BEGINS = ("\\", "%", "&", "\x1b")
_BEGINS_OF_ANY = (*_BEGINS, *_LOOK_ALIKES)
"""What escapes begin with, in ASCII and in any text."""
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": " "}
_SOME_LETTER = "ÿ"
"""For a byte of UTF-8 that is percent-encoded: it is a part of a letter, and which one tells nothing."""

_HALF = "\ufffd"
"""For half of a character that JSON writes as two: an emoji, say."""


def _of_code(code: int) -> str:
    return _HALF if 0xD800 <= code < 0xE000 else _LOOK_ALIKES.get(chr(code), chr(code))


_MEANINGS: dict[str, Callable[[str], str]] = {
    "blank": lambda _: "\v",
    "alike": _LOOK_ALIKES.__getitem__,
    "quote": str,
    "slash": str,
    "backslash": lambda _: "\\",
    "control": lambda letter: _CONTROLS[letter.lower()],
    "entity": lambda name: _ENTITIES[name.lower()],
    "number": lambda digits: _of_code(int(digits)),
    "percent": lambda digits: _SOME_LETTER if digits[0] in "89abcdefABCDEF" else chr(int(digits, 16)),
    **dict.fromkeys(("coded_quote", "unit", "byte", "hex"), lambda digits: _of_code(int(digits, 16))),
}


class Quote(Struct, frozen=True):
    """How a quote is written: the character, how that is coded (empty: not), the backslashes before it."""

    character: str
    coded: str
    backslashes: int

    def is_less_escaped(self, other: "Quote") -> bool:
        """Whether it stands in a text around the one with the other quote."""
        return (len(self.coded), self.backslashes) < (len(other.coded), other.backslashes)

    def ends(self, opening: "Quote") -> bool:
        """Whether this quote ends the string that the other one opens."""
        if self.character == opening.character and self.coded == opening.coded:
            return _closes(self.backslashes, opening.backslashes)
        return self.character == '"' and len(self.coded) < len(opening.coded)  # an outer string ends


WORD = re.compile(rf"{MARK_PATTERN}|[\w$.-]{{2,}}+")
_NO_WORD = {number: " " for number in range(128) if not re.match(r"[\w$.-]", chr(number))}
"""For ASCII: to split at blanks then takes a quarter of the time."""

_ID = re.compile(r"[0-9a-f-]{8,}")
"""Nothing is told by such a word, and no token of a vendor begins in one."""


class UnescapedText:
    """`text` is the plain text; `source` the text as it came.

    `brief` is what is between quotes, each piece once and in no order: enough to see what may be there.
    `words` is all that WORD finds, each once, but for numbers and ids; perhaps also what has one character.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._at: list[int] = []  # where in the plain text the characters stand that are escaped
        self._ahead: list[int] = []  # how far the source is ahead behind each of them
        is_escaped = any(map(source.__contains__, _BEGINS if source.isascii() else _BEGINS_OF_ANY))
        self.text = self._unescaped() if is_escaped else source
        self.brief = brief = '"' + '"'.join(set(self.text.split('"')))
        is_easy = brief.isascii() and "[redacted:" not in brief
        words = brief.translate(_NO_WORD).split() if is_easy else WORD.findall(brief)
        self.words = {word for word in set(words) if not (word.isdigit() or _ID.fullmatch(word))}

    def _unescaped(self) -> str:
        parts: list[str] = []
        done = ahead = 0
        for escape in _ESCAPE.finditer(self.source):
            start, end = escape.span()
            kind = escape.lastgroup
            parts += (self.source[done:start], _MEANINGS[kind or "backslash"](escape[kind or 0]))
            self._at.append(start - ahead)
            ahead += end - start - 1
            self._ahead.append(ahead)
            done = end
        return "".join([*parts, self.source[done:]])

    def place(self, at: int) -> int:
        """Where in the source the character stands that is here in the plain text."""
        passed = bisect_left(self._at, at)
        return at + (self._ahead[passed - 1] if passed else 0)

    def spelled(self, at: int) -> str:
        """How the source writes this character."""
        return self.source[self.place(at) : self.place(at + 1)]

    def quote(self, at: int) -> Quote:
        """The quote that stands here."""
        spelled = self.spelled(at)
        if len(spelled) == 1:
            return Quote(spelled, "", 0)
        backslashes = len(spelled) - len(spelled.lstrip("\\"))
        coded = spelled[backslashes:].lower()
        while (rest := re.sub(r"^%(?:25)*5c", "", coded)) != coded:
            backslashes, coded = backslashes + 1, rest
        return Quote(self.text[at], "" if coded == self.text[at] else coded, backslashes)

    def encodings(self, at: int) -> int:
        """How many times this character is percent-encoded."""
        spelled = self.spelled(at)
        return 1 + spelled.count("25") if spelled.startswith("%") else 0


def _closes(run: int, level: int) -> bool:
    """Whether a quote behind so many backslashes ends a string whose opening quote has `level` of them.

    Inside a string that is JSON inside a string, quotes are written with 1, then 3, 7, ... backslashes.
    """
    while level > 0:
        if run % 2 == 0:
            return True  # an outer string ends here, and all inside it
        run, level = (run - 1) // 2, (level - 1) // 2
    return run % 2 == 0
