"""Where in a plain text a value begins and ends, once its name and its place are known.

Linear: what is looked at and is no value is bounded, and of a value each character is looked at once.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from faillog_otel.redact.unescape import UnescapedText
from faillog_otel.redact.vocabulary import MARK_PATTERN, Kind, goes_on_to_say, is_no_secret, starts_as_prose

WINDOW = 1000
"""How far around a name is looked for what belongs to it."""


class TellingName(Struct, frozen=True):
    """A telling name, from its first letter to behind its last one. `quote` is the place of its own quote."""

    kind: Kind
    name: str
    start: int
    end: int
    quote: int | None = None

    def quote_around(self, plain: UnescapedText) -> str:
        """How its own quote is written; empty for a bare name."""
        return "" if self.quote is None else plain.spelled(self.quote)


class Place(Struct, frozen=True):
    """From where to where something to be replaced is in a plain text, what it is, and by which rule.

    `quote` is what has to be on both sides of a replacement: the value was no string.
    """

    kind: Kind
    rule: str
    start: int
    end: int
    quote: str = ""


Span = tuple[int, int, str]
"""From where to where a value goes, and the quotes that its replacement needs."""


_WRAPPED = re.compile(r"\+?(?:[bBuUrRfF@]{1,2}|\w{1,20}\(|(?:string\(\d{1,7}\)\s*+)|s:\d{1,7}:)?(?=[\"'`])")
_NUMBER = re.compile(r"-?\d[\w.+-]*+")
_TELLS_WHOLE_LINE = re.compile(r"authorization|cookie", re.IGNORECASE)
_DELIMITER = re.compile(rf"{MARK_PATTERN}|[\s&\"'\\,;<>(){{}}\[\]`]")
_PAIR_NEXT = r"[\w.$-]{1,64}+[\"']?\s*+(?::(?!//)|=)"
_PIECE = rf"(?!{_PAIR_NEXT})(?P<word>[^\s&\"'\\,;<>(){{}}\[\]`#|-][^\s,;&\"'<>`]*+)"
_GOES_ON = (re.compile(rf"[;,]{_PIECE}"), re.compile(rf"(?:[;,]|[;,]?[ \t]++){_PIECE}"))
"""What of a value without quotes is behind a delimiter, which is no other pair of a name and a value; also
behind blanks where all of the line is the value's, for its name is the first thing in it, as in YAML."""
_LINE_BEFORE = re.compile(r"(?:\A|[\n\"'])[\s>*#_~`-]{0,16}(?:(?:export|set|let|var|const)\s)?\Z")
_MARKED_UP = re.compile(r"(?P<markup>[*_~]{1,3})(?P<value>.+)(?P=markup)", re.DOTALL)
_FORM = re.compile(r"[^\s\"'`\\]{1,512}")
_SCHEME = re.compile(r"[A-Za-z][\w-]{1,30}[ +](?=\S)")
_LINE_OR_QUOTE = re.compile(r"[\r\n\"']")
_QUOTES = re.compile(r"[\"']")
_BEFORE, _BEHIND = ("", "[", "{", "(", ",", ":", "=", " ", "\n"), (",", ":", "}", "]", ")", ";")
_BEHIND_STRING = re.compile(r"\s{0,8}(?:\Z|[}\]]|,\s{0,8}(?:[\"'{\[\d-]|true|false|null))")
_FOLDED = re.compile(r"\r?\n[ \t]++(?=\S)(?![\w.-]++[ \t]*+[:=]|\[)")


def is_meant(plain: UnescapedText, name: TellingName, span: Span) -> bool:
    """Whether anything there is meant by the name: of a structure one of its values, of XML a text."""
    text, start, end = plain.text, *span[:2]
    if end - start > WINDOW or text.startswith("[redacted:", start):
        return True
    parts = _leaves(plain, start, end) if text.startswith(("{", "["), start) else [(start, end)]
    return not all(is_no_secret(name.name, _TAGS.sub(" ", text[first:last])) for first, last in parts)


def value_at(plain: UnescapedText, name: TellingName, at: int, by: int | None = None) -> Span | None:
    """The value that begins here; `by` is the place of the `:` or `=` between it and its name."""
    text = plain.text
    is_bare = name.quote is None
    is_line = by is not None and text[by] == ":"
    if is_bare and text[at : at + 1] == '"' and _BEHIND_STRING.match(text, at + 1):
        return None  # here ends the string that the name is in
    is_structure = text.startswith(("{", "["), at) and not text.startswith("[redacted:", at)
    if (
        span := (at, _brackets_end(plain, at, name), name.quote_around(plain))
        if is_structure
        else string_at(plain, at)
    ):
        has_no_end = is_bare and span[1] == len(text)  # it goes as far as the string that the name is in
        return (
            span[0],
            line_end(plain, name.start, span[0], one_line=False) if has_no_end else span[1],
            span[2],
        )
    if not is_bare and (number := _NUMBER.match(text, at)):
        return at, number.end(), name.quote_around(plain)
    if is_bare and _TELLS_WHOLE_LINE.search(name.name):
        if is_line:
            return at, line_end(plain, name.start, at), ""
        if scheme := _SCHEME.match(text, at):
            return at, bare(plain, name, scheme.end(), by)[1], ""
    is_prose = is_line and starts_as_prose(text[at : at + 200].split("\n", 1)[0])
    return None if is_prose else bare(plain, name, at, by)


def bare(plain: UnescapedText, name: TellingName, at: int, by: int | None = None) -> Span:
    """A value without quotes, to what ends it: that is percent-encoded as often as the `=` at the most."""
    text = plain.text
    encodings = 0 if by is None else plain.encodings(by)
    if by is not None and text[by] == "=" and encodings == 0 and (form := _FORM.match(text, at)):
        for ampersand in re.finditer("&", form[0]):
            if plain.encodings(at + ampersand.start()) == 0:
                return at, at + ampersand.start(), ""
    is_spaced = by is not None and (text[by] == ":" or text[by - 1].isspace())
    is_line = bool(is_spaced and _LINE_BEFORE.search(text, max(0, name.start - 32), name.start))
    end, found = at, _DELIMITER.search(text, at)
    while found:
        end = found.start()
        if found[0].startswith("[redacted:") or plain.encodings(end) > encodings:
            end = found.end()
        elif (more := _GOES_ON[is_line].match(text, end)) and not goes_on_to_say(more["word"]):
            end = more.start("word")
        else:
            break
        found = _DELIMITER.search(text, end)
    marked_up = _MARKED_UP.fullmatch(text, at, end if found else len(text))
    return (*marked_up.span("value"), "") if marked_up else (at, end if found else len(text), "")


def line_end(plain: UnescapedText, name_at: int, at: int, *, one_line: bool = True) -> int:
    """Where a header's value ends: with its line, or with the string that the header stands in."""
    text = plain.text
    opening = max(text.rfind(each, max(0, name_at - WINDOW), name_at) for each in "\n\"'")
    folded = at
    for found in _LINE_OR_QUOTE.finditer(text, at):
        if found.start() < folded:
            continue
        if found[0] not in "\r\n":
            if opening >= 0 and _ends_around(plain, opening, found.start()):
                return found.start()
        elif fold := _FOLDED.match(text, found.start()):
            folded = fold.end()
        elif one_line:
            return found.start()
    return len(text)


def _ends_around(plain: UnescapedText, opening: int, at: int) -> bool:
    """Whether the quote here ends the string around; `opening` is its own quote, or a newline inside it."""
    quote, text = plain.quote(at), plain.text
    if text[opening] != "\n":
        is_opening = text[opening + 1 : opening + 2] not in _BEHIND or text[opening - 1 : opening] in _BEFORE
        if is_opening and quote.ends(plain.quote(opening)):
            return True
        is_sure = is_opening and text[opening] == '"'
        return not is_sure and text[at] == '"' and _BEHIND_STRING.match(text, at + 1) is not None
    backslashes = len(plain.spelled(opening)) - 1  # before `n`: one more than before the quotes around it
    return quote.character == '"' and quote.backslashes < backslashes


_JSON_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_BEHIND_NUMBER = re.compile(r"\s{0,64}(?:[,}\]]|\Z)")
_BEFORE_NUMBER = re.compile(r"(?:\A\s*+\[|\"(?=\s*+[:,\]}]))(?:[^\"]*[:\[,])?\s*\Z")
_TAGS = re.compile(r"<[^<>]*+>")


def place_of(plain: UnescapedText, kind: Kind, rule: str, start: int, end: int) -> Place:
    """The place of what is perhaps a number of JSON: what replaces it needs quotes then."""
    text, first = plain.text, max(0, start - WINDOW)
    at = text.rfind('"', first, start)
    is_number = _JSON_NUMBER.fullmatch(text, start, end) and _BEHIND_NUMBER.match(text, end)
    is_json = is_number and (end - start == len(text) or _BEFORE_NUMBER.search(text, max(first, at), start))
    return Place(kind, rule, start, end, "" if not is_json else plain.spelled(at) if at >= 0 else '"')


# -- strings and brackets -------------------------------------------------------------------------------


def string_at(plain: UnescapedText, at: int) -> Span | None:
    """The string that begins here, perhaps with the prefix or wrapping that some languages write."""
    text = plain.text
    if not (opening := _WRAPPED.match(text, at)):
        return None
    at = opening.end()
    is_triple = text.startswith(text[at] * 3, at) and plain.spelled(at) == plain.spelled(at + 1)
    mark = text[at] * (3 if is_triple else 1)
    if mark in ('"', "'"):
        return at + 1, _string_end(plain, at)[0], ""
    end = text.find(mark, at + len(mark))
    return at + len(mark), end if end >= 0 else len(text), ""


def _string_end(plain: UnescapedText, at: int) -> tuple[int, int]:
    """Where the string ends that the quote opens which stands here, without and with its closing quote."""
    text = plain.text
    opening = plain.quote(at)
    for found in _QUOTES.finditer(text, at + 1):
        if plain.quote(found.start()).ends(opening):
            return found.start(), found.end()
    return len(text), len(text)


_QUOTE_OR_BRACKET = re.compile(r"[\"\[\]{}]")
_LEAF = re.compile(r"\"|[^\s,:\[\]{}\"]++")
_KEY = re.compile(r"\s*+:")


def _brackets_end(plain: UnescapedText, at: int, name: TellingName) -> int:
    """Where the array or object ends that begins here; the end of the text where it does not.

    A quote that is escaped less often than that of the name ends a string around all this.
    """
    depth, text = 0, plain.text
    around = None if name.quote is None else plain.quote(name.quote)
    while found := _QUOTE_OR_BRACKET.search(text, at):
        at = found.end()
        if found[0] == '"':
            inner, at = _string_end(plain, found.start())
            for quote in (found.start(), inner):
                if around and quote < len(text) and plain.quote(quote).is_less_escaped(around):
                    return quote
        else:
            depth += 1 if found[0] in "[{" else -1
            if depth <= 0:
                return at
    return len(text)


def _leaves(plain: UnescapedText, at: int, end: int) -> Iterator[tuple[int, int]]:
    """The strings and words inside brackets that are no keys."""
    while found := _LEAF.search(plain.text, at, end):
        is_string = found[0] == '"'
        inner, at = _string_end(plain, found.start()) if is_string else (found.end(), found.end())
        if not _KEY.match(plain.text, at):
            yield found.start() + is_string, inner


def end_of(pattern: re.Pattern[str], text: str, at: int, most: int | None = None) -> int:
    """Where the pattern ends that matches here, or here; nothing behind `most` is looked at."""
    found = pattern.match(text, at, len(text) if most is None else most)
    return found.end() if found else at
