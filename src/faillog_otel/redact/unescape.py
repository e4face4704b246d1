r"""Unescapes a text and maps each offset of the plain text back to the source.

JSON inside JSON, forms, URLs, XML and HTML write the same character in many ways: `"` is also `\"`, `%22`,
`&quot;` and `\u0022`. The redaction rules read the plain text and ignore escapes; matches are replaced in the
source, and the rest of the source stays unchanged. The cost is linear in the length of the source.
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
"""Characters that read as another one: blanks of any width, and full-width signs."""
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
_ASCII_STARTS = ("\\", "%", "&", "\x1b")
_STARTS = (*_ASCII_STARTS, *_LOOK_ALIKES)
"""First characters of escapes, in ASCII and in any text."""
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": " "}
_SOME_LETTER = "ÿ"
"""Replaces a percent-encoded byte of UTF-8, a part of some letter."""

_HALF = "\ufffd"
"""Replaces a surrogate: JSON writes an emoji as two of them."""


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
    """The source of a quote: the character, its encoding (empty: none), the backslashes before it."""

    character: str
    encoded: str
    backslashes: int

    def is_less_escaped(self, other: "Quote") -> bool:
        """Returns whether this quote belongs to a text around that of the other quote."""
        return (len(self.encoded), self.backslashes) < (len(other.encoded), other.backslashes)

    def ends(self, opening: "Quote") -> bool:
        """Returns whether this quote ends the string that the other one opens."""
        if self.character == opening.character and self.encoded == opening.encoded:
            return _closes(self.backslashes, opening.backslashes)
        return self.character == '"' and len(self.encoded) < len(opening.encoded)  # an outer string ends


WORD = re.compile(rf"{MARK_PATTERN}|[\w$.-]{{2,}}+")
_NO_WORD = {number: " " for number in range(128) if not re.match(r"[\w$.-]", chr(number))}
"""For ASCII: splitting at blanks takes a quarter of the time."""

_ID = re.compile(r"[0-9a-f-]{8,}")
"""No sensitive name and no vendor's token begins in such a word."""


class UnescapedText:
    """A text without its escapes: `text` is the plain text, `source` the original.

    `brief` holds each distinct piece between quotes once, in no order: enough for a prefilter. `words` holds
    the distinct matches of WORD in it except numbers and ids; words of one character can be among them.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._at: list[int] = []  # offsets of the escaped characters in the plain text
        self._ahead: list[int] = []  # offset in the source minus that in the plain text, after each of them
        is_escaped = any(map(source.__contains__, _ASCII_STARTS if source.isascii() else _STARTS))
        self.text = self._unescaped() if is_escaped else source
        self.brief = brief = '"' + '"'.join(set(self.text.split('"')))
        is_simple = brief.isascii() and "[redacted:" not in brief
        words = brief.translate(_NO_WORD).split() if is_simple else WORD.findall(brief)
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

    def source_offset(self, at: int) -> int:
        """Returns the offset in the source of a character of the plain text."""
        escapes = bisect_left(self._at, at)
        return at + (self._ahead[escapes - 1] if escapes else 0)

    def source_of(self, at: int) -> str:
        """Returns the source of this character."""
        return self.source[self.source_offset(at) : self.source_offset(at + 1)]

    def quote(self, at: int) -> Quote:
        """Returns the quote that is here."""
        source = self.source_of(at)
        if len(source) == 1:
            return Quote(source, "", 0)
        backslashes = len(source) - len(source.lstrip("\\"))
        encoded = source[backslashes:].lower()
        while (shorter := re.sub(r"^%(?:25)*5c", "", encoded)) != encoded:
            backslashes, encoded = backslashes + 1, shorter
        return Quote(self.text[at], "" if encoded == self.text[at] else encoded, backslashes)

    def encodings(self, at: int) -> int:
        """Returns how many times this character is percent-encoded."""
        source = self.source_of(at)
        return 1 + source.count("25") if source.startswith("%") else 0


def _closes(run: int, level: int) -> bool:
    """Returns whether a quote after `run` backslashes ends a string whose opening quote has `level` of them.

    Inside a string that is JSON inside a string, quotes are written with 1, then 3, 7, ... backslashes.
    """
    while level > 0:
        if run % 2 == 0:
            return True  # an outer string ends here, and all inside it
        run, level = (run - 1) // 2, (level - 1) // 2
    return run % 2 == 0
