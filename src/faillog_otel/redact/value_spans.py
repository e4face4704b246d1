"""Finds the start and the end of a value in plain text, given its key and position.

The cost is linear: the text examined around a value is bounded, and each character of a value is read once.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from faillog_otel.redact.unescape import UnescapedText
from faillog_otel.redact.vocabulary import MARK_PATTERN, Kind, is_harmless, is_prose_word, starts_as_prose

WINDOW = 1000
"""Characters around a key that are examined for what belongs to it."""


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

    `quote` must surround the replacement if the value is no string.
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


# -- strings and brackets -------------------------------------------------------------------------------


def string_at(plain: UnescapedText, at: int) -> ValueSpan | None:
    """Returns the string that begins here, also with the prefix or wrapper of a language; None: no string."""
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
