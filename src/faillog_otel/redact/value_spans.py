r"""Values in texts with escapes: the text without them, and where the value of a key begins and ends.

JSON inside JSON, forms, URLs, XML and HTML write the same character in many ways: `"` is also `\"`, `%22`,
`&quot;` and `\u0022`. The redaction rules read the plain text and ignore escapes; matches are replaced in the
source, and the rest of the source stays unchanged. The cost is linear in the length of the source: the text
examined around a value is bounded, and each character of a value is read once.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import cached_property

from msgspec import Struct

from faillog_otel.redact.vocabulary import MARK_PATTERN, Kind, is_harmless, is_prose_word, starts_as_prose

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
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "nbsp": " "}
_SOME_LETTER = "ÿ"
"""Replaces a percent-encoded byte of UTF-8, which is part of some letter."""

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
"""Makes ASCII text splittable at blanks, which takes a quarter of the time of WORD."""

_ID = re.compile(r"[0-9a-f-]{8,}")
"""Words in which no sensitive name and no vendor's token can begin."""


def is_id(word: str) -> bool:
    """Returns whether a word consists of digits, or of eight or more hexadecimal digits and dashes."""
    return word.isdigit() or _ID.fullmatch(word) is not None


class UnescapedText:
    """A text without its escapes: `text` is the plain text, `source` the original."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._at: list[int] = []  # offsets of the escaped characters in the plain text
        self._ahead: list[int] = []  # offset in the source minus that in the plain text, after each of them
        # Without a loop, which takes 0.3 us: most texts are short, and have no escapes.
        is_escaped = "\\" in source or "%" in source or "&" in source or "\x1b" in source
        if not is_escaped and not source.isascii():
            is_escaped = any(map(source.__contains__, _LOOK_ALIKES))
        self.text = self._unescaped() if is_escaped else source

    @cached_property
    def brief(self) -> str:
        """Each distinct piece between quotes once, in no order, for the prefilter."""
        return '"' + '"'.join(set(self.text.split('"')))

    @cached_property
    def words(self) -> set[str]:
        """The distinct matches of WORD in `brief`, except numbers and ids; perhaps words of one character."""
        brief = self.brief
        is_simple = brief.isascii() and "[redacted:" not in brief
        words = brief.translate(_NO_WORD).split() if is_simple else WORD.findall(brief)
        return {word for word in set(words) if not is_id(word)}

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
        """Returns the quote at this offset."""
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


WINDOW = 1000
"""Characters around a key that are searched for its value."""


class SensitiveKey(Struct, frozen=True):
    """A key with a sensitive name: the offsets of the name, and of its opening quote if it has one."""

    kind: Kind
    name: str
    start: int
    end: int
    quote: int | None = None

    def quote_around(self, plain: UnescapedText) -> str:
        """Returns the source of its quote; empty for a bare name."""
        return "" if self.quote is None else plain.source_of(self.quote)


class Match(Struct, frozen=True):
    """A part of the plain text to replace, its kind, and the rule that found it.

    `quote` surrounds the replacement if the value is not a string.
    """

    kind: Kind
    rule: str
    start: int
    end: int
    quote: str = ""


ValueSpan = tuple[int, int, str]
"""Start and end of a value, and the quote that its replacement needs."""

_WRAPPED = re.compile(r"\+?(?:[bBuUrRfF@]{1,2}|\w{1,20}\(|(?:string\(\d{1,7}\)\s*+)|s:\d{1,7}:)?(?=[\"'`])")
_NUMBER = re.compile(r"-?\d[\w.+-]*+")
_WHOLE_LINE_NAMES = re.compile(r"authorization|cookie", re.IGNORECASE)
_DELIMITER = re.compile(rf"{MARK_PATTERN}|[\s&\"'\\,;<>(){{}}\[\]`]")
_PAIR_NEXT = r"[\w.$-]{1,64}+[\"']?\s*+(?::(?!//)|=)"
_PIECE = rf"(?!{_PAIR_NEXT})(?P<word>[^\s&\"'\\,;<>(){{}}\[\]`#|-][^\s,;&\"'<>`]*+)"
_CONTINUATIONS = (re.compile(rf"[;,]{_PIECE}"), re.compile(rf"(?:[;,]|[;,]?[ \t]++){_PIECE}"))
"""The continuation of an unquoted value after a delimiter, unless it is another key with a value; the second
pattern also allows blanks, for a line that begins with the key, as in YAML."""
_LINE_BEFORE = re.compile(r"(?:\A|[\n\"'])[\s>*#_~`-]{0,16}(?:(?:export|set|let|var|const)\s)?\Z")
_MARKED_UP = re.compile(r"(?P<markup>[*_~]{1,3})(?P<value>.+)(?P=markup)", re.DOTALL)
_FORM = re.compile(r"[^\s\"'`\\]{1,512}")
_SCHEME = re.compile(r"[A-Za-z][\w-]{1,30}[ +](?=\S)")
_LINE_OR_QUOTE = re.compile(r"[\r\n\"']")
_QUOTES = re.compile(r"[\"']")
_BEFORE, _AFTER = ("", "[", "{", "(", ",", ":", "=", " ", "\n"), (",", ":", "}", "]", ")", ";")
_AFTER_STRING = re.compile(r"\s{0,8}(?:\Z|[}\]]|,\s{0,8}(?:[\"'{\[\d-]|true|false|null))")
_FOLDED = re.compile(r"\r?\n[ \t]++(?=\S)(?![\w.-]++[ \t]*+[:=]|\[)")


def has_sensitive_value(plain: UnescapedText, name: SensitiveKey, span: ValueSpan) -> bool:
    """Returns whether the value, a value inside the structure, or a text inside the XML is sensitive."""
    text, start, end = plain.text, *span[:2]
    if end - start > WINDOW or text.startswith("[redacted:", start):
        return True
    parts = _leaves(plain, start, end) if text.startswith(("{", "["), start) else [(start, end)]
    return not all(is_harmless(name.name, _TAGS.sub(" ", text[first:last])) for first, last in parts)


def value_at(plain: UnescapedText, name: SensitiveKey, at: int, sep: int | None = None) -> ValueSpan | None:
    """Returns the value that begins here; `sep` is the offset of the `:` or `=` before it."""
    text = plain.text
    is_bare = name.quote is None
    is_line = sep is not None and text[sep] == ":"
    if is_bare and text[at : at + 1] == '"' and _AFTER_STRING.match(text, at + 1):
        return None  # the end of the string that contains the key
    is_structure = text.startswith(("{", "["), at) and not text.startswith("[redacted:", at)
    if (
        span := (at, _brackets_end(plain, at, name), name.quote_around(plain))
        if is_structure
        else string_at(plain, at)
    ):
        has_no_end = is_bare and span[1] == len(text)  # it ends with the string that contains the key
        return (
            span[0],
            line_end(plain, name.start, span[0], one_line=False) if has_no_end else span[1],
            span[2],
        )
    if not is_bare and (number := _NUMBER.match(text, at)):
        return at, number.end(), name.quote_around(plain)
    if is_bare and _WHOLE_LINE_NAMES.search(name.name):
        if is_line:
            return at, line_end(plain, name.start, at), ""
        if scheme := _SCHEME.match(text, at):
            return at, bare(plain, name, scheme.end(), sep)[1], ""
    is_prose = is_line and starts_as_prose(text[at : at + 200].split("\n", 1)[0])
    return None if is_prose else bare(plain, name, at, sep)


def bare(plain: UnescapedText, name: SensitiveKey, at: int, sep: int | None = None) -> ValueSpan:
    """Returns an unquoted value up to a delimiter that is percent-encoded at most as often as the `=`."""
    text = plain.text
    encodings = 0 if sep is None else plain.encodings(sep)
    if sep is not None and text[sep] == "=" and encodings == 0 and (form := _FORM.match(text, at)):
        for ampersand in re.finditer("&", form[0]):
            if plain.encodings(at + ampersand.start()) == 0:
                return at, at + ampersand.start(), ""
    is_spaced = sep is not None and (text[sep] == ":" or text[sep - 1].isspace())
    is_line = bool(is_spaced and _LINE_BEFORE.search(text, max(0, name.start - 32), name.start))
    end, match = at, _DELIMITER.search(text, at)
    while match:
        end = match.start()
        if match[0].startswith("[redacted:") or plain.encodings(end) > encodings:
            end = match.end()
        elif (rest := _CONTINUATIONS[is_line].match(text, end)) and not is_prose_word(rest["word"]):
            end = rest.start("word")
        else:
            break
        match = _DELIMITER.search(text, end)
    marked_up = _MARKED_UP.fullmatch(text, at, end if match else len(text))
    return (*marked_up.span("value"), "") if marked_up else (at, end if match else len(text), "")


def line_end(plain: UnescapedText, name_at: int, at: int, *, one_line: bool = True) -> int:
    """Returns the end of a header's value: that of its line, or of the string that contains the header."""
    text = plain.text
    opening = max(text.rfind(each, max(0, name_at - WINDOW), name_at) for each in "\n\"'")
    folded = at
    for match in _LINE_OR_QUOTE.finditer(text, at):
        if match.start() < folded:
            continue
        if match[0] not in "\r\n":
            if opening >= 0 and _ends_around(plain, opening, match.start()):
                return match.start()
        elif fold := _FOLDED.match(text, match.start()):
            folded = fold.end()
        elif one_line:
            return match.start()
    return len(text)


def _ends_around(plain: UnescapedText, opening: int, at: int) -> bool:
    """Returns whether the quote ends the string around; `opening` is its quote, or a newline inside it."""
    quote, text = plain.quote(at), plain.text
    if text[opening] != "\n":
        is_opening = text[opening + 1 : opening + 2] not in _AFTER or text[opening - 1 : opening] in _BEFORE
        if is_opening and quote.ends(plain.quote(opening)):
            return True
        is_sure = is_opening and text[opening] == '"'
        return not is_sure and text[at] == '"' and _AFTER_STRING.match(text, at + 1) is not None
    backslashes = len(plain.source_of(opening)) - 1  # before `n`: one more than before the quotes around it
    return quote.character == '"' and quote.backslashes < backslashes


_JSON_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_AFTER_NUMBER = re.compile(r"\s{0,64}(?:[,}\]]|\Z)")
_BEFORE_NUMBER = re.compile(r"(?:\A\s*+\[|\"(?=\s*+[:,\]}]))(?:[^\"]*[:\[,])?\s*\Z")
_TAGS = re.compile(r"<[^<>]*+>")


def match_of(plain: UnescapedText, kind: Kind, rule: str, start: int, end: int) -> Match:
    """Returns a match; its replacement gets quotes if the value is a JSON number."""
    text, first = plain.text, max(0, start - WINDOW)
    at = text.rfind('"', first, start)
    is_number = _JSON_NUMBER.fullmatch(text, start, end) and _AFTER_NUMBER.match(text, end)
    is_json = is_number and (end - start == len(text) or _BEFORE_NUMBER.search(text, max(first, at), start))
    return Match(kind, rule, start, end, "" if not is_json else plain.source_of(at) if at >= 0 else '"')


def string_at(plain: UnescapedText, at: int) -> ValueSpan | None:
    """Returns the string that begins here, also with a prefix or wrapper; None if there is none."""
    text = plain.text
    if not (opening := _WRAPPED.match(text, at)):
        return None
    at = opening.end()
    is_triple = text.startswith(text[at] * 3, at) and plain.source_of(at) == plain.source_of(at + 1)
    mark = text[at] * (3 if is_triple else 1)
    if mark in ('"', "'"):
        return at + 1, _string_end(plain, at)[0], ""
    end = text.find(mark, at + len(mark))
    return at + len(mark), end if end >= 0 else len(text), ""


def _string_end(plain: UnescapedText, at: int) -> tuple[int, int]:
    """Returns the end of the string that opens here, without and with its closing quote."""
    text = plain.text
    opening = plain.quote(at)
    for match in _QUOTES.finditer(text, at + 1):
        if plain.quote(match.start()).ends(opening):
            return match.start(), match.end()
    return len(text), len(text)


_QUOTE_OR_BRACKET = re.compile(r"[\"\[\]{}]")
_LEAF = re.compile(r"\"|[^\s,:\[\]{}\"]++")
_KEY = re.compile(r"\s*+:")


def _brackets_end(plain: UnescapedText, at: int, name: SensitiveKey) -> int:
    """Returns the end of the array or object that begins here, or the end of the text.

    A quote that is escaped less often than that of the key ends a string around the value.
    """
    depth, text = 0, plain.text
    around = None if name.quote is None else plain.quote(name.quote)
    while match := _QUOTE_OR_BRACKET.search(text, at):
        at = match.end()
        if match[0] == '"':
            inner, at = _string_end(plain, match.start())
            for quote in (match.start(), inner):
                if around and quote < len(text) and plain.quote(quote).is_less_escaped(around):
                    return quote
        else:
            depth += 1 if match[0] in "[{" else -1
            if depth <= 0:
                return at
    return len(text)


def _leaves(plain: UnescapedText, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Yields the strings and words inside brackets that are not keys."""
    while match := _LEAF.search(plain.text, at, end):
        is_string = match[0] == '"'
        inner, at = _string_end(plain, match.start()) if is_string else (match.end(), match.end())
        if not _KEY.match(plain.text, at):
            yield match.start() + is_string, inner


def end_of(pattern: re.Pattern[str], text: str, at: int, limit: int | None = None) -> int:
    """Returns the end of the match at this offset, or the offset; reads nothing after `limit`."""
    match = pattern.match(text, at, len(text) if limit is None else limit)
    return match.end() if match else at
