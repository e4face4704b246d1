"""Where in a plain text a value begins and ends, once its name and its place are known.

Linear: what is looked at and is no value is bounded, and of a value each character is looked at once.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from faillog_otel.events.names import MARK_PATTERN, Kind, begins_to_say, is_no_secret
from faillog_otel.events.plain import Plain, Quote

WINDOW = 1000
"""How far around a name is looked for what belongs to it."""


class TellingName(Struct, frozen=True):
    """A telling name, from its first letter to behind its last one. `quote` is the place of its own quote."""

    kind: Kind
    name: str
    start: int
    end: int
    quote: int | None = None


Span = tuple[int, int, str]
"""From where to where a value goes, and the quotes that its replacement needs."""


_WRAPPED = re.compile(r"\+?(?:[bBuUrRfF@]{1,2}|\w{1,20}\(|(?:string\(\d{1,7}\)\s*+)|s:\d{1,7}:)?(?=[\"'`])")
_BLOCK = re.compile(r"(?:[|>][+-]?)?+[ \t]*+\r?\n[ \t]++(?:-[ ])?(?![ \t]*+[\w.-]++[\"']?[ \t]*+[:=])")
_NUMBER = re.compile(r"-?\d[\w.+-]*+")
_TELLS_WHOLE_LINE = re.compile(r"authorization|cookie", re.IGNORECASE)
_DELIMITER = re.compile(rf"{MARK_PATTERN}|[\s&\"'\\,;<>(){{}}\[\]`]")
_FORM = re.compile(r"[^\s\"'`\\]{1,512}")
_SCHEME = re.compile(r"[A-Za-z][\w-]{1,30}[ +](?=\S)")
_LINE_OR_QUOTE = re.compile(r"[\r\n\"']")
_QUOTES = re.compile(r"[\"']")
_BEFORE, _BEHIND = ("", "[", "{", "(", ",", ":", "=", " ", "\n"), (",", ":", "}", "]", ")", ";")
_BEHIND_STRING = re.compile(r"\s{0,8}(?:\Z|[}\]]|,\s{0,8}(?:[\"'{\[\d-]|true|false|null))")
_FOLDED = re.compile(r"\r?\n[ \t]++(?=\S)(?![\w.-]++[ \t]*+[:=]|\[)")


def checked(plain: Plain, name: TellingName, span: Span | None) -> Span | None:
    """The value, unless it is none for all its name."""
    return None if span is None or is_no_secret(name.name, plain.text[span[0] : span[1]]) else span


def value_at(  # noqa: PLR0911  # one for each kind of value
    plain: Plain, name: TellingName, at: int, by: int | None
) -> Span | None:
    """The value that begins here; `by` is the place of the `:` or `=` between it and its name."""
    text = plain.text
    if name.quote is None and text[at : at + 1] == '"' and _BEHIND_STRING.match(text, at + 1):
        return None  # here ends the string that the name stands in
    if string := string_at(plain, at):
        return checked(plain, name, _within(plain, name, string))
    if text.startswith(("{", "["), at) and not text.startswith("[redacted:", at):
        return _structure(plain, name, at)
    if name.quote is not None and (number := _NUMBER.match(text, at)):
        return checked(plain, name, (at, number.end(), plain.spelled(name.quote)))
    if name.quote is None and _TELLS_WHOLE_LINE.search(name.name):
        if by is not None and text[by] == ":":
            return checked(plain, name, (at, line_end(plain, name.start, at), ""))
        if scheme := _SCHEME.match(text, at):
            _, end, _ = bare(plain, scheme.end(), by)
            return at, end, ""
    if by is not None and text[by] == ":" and begins_to_say(text[at : at + 200].split("\n", 1)[0]):
        return None
    if block := _BLOCK.match(text, at):
        at = block.end()
    return checked(plain, name, bare(plain, at, by))


def _within(plain: Plain, name: TellingName, span: Span) -> Span:
    """What has no end, behind a bare name, goes as far as the string that the name stands in."""
    start, end, quote = span
    if name.quote is None and end == len(plain.text):
        end = line_end(plain, name.start, start, one_line=False)
    return start, end, quote


def _structure(plain: Plain, name: TellingName, at: int) -> Span | None:
    """The array or object that begins here, unless all that it holds is said about a secret."""
    text = plain.text
    end = _brackets_end(plain, at, None if name.quote is None else plain.quote(name.quote))
    _, end, _ = _within(plain, name, (at, end, ""))
    if end - at <= WINDOW and all(is_no_secret(name.name, text[s:e]) for s, e in _leaves(plain, at, end)):
        return None
    return at, end, "" if name.quote is None else plain.spelled(name.quote)


def bare(plain: Plain, at: int, by: int | None) -> Span:
    """A value without quotes, to what ends it: that is percent-encoded as often as the `=` at the most."""
    text = plain.text
    encodings = 0 if by is None else plain.encodings(by)
    if by is not None and text[by] == "=" and encodings == 0 and (form := _FORM.match(text, at)):
        for ampersand in re.finditer("&", form[0]):
            if plain.encodings(at + ampersand.start()) == 0:
                return at, at + ampersand.start(), ""
    for found in _DELIMITER.finditer(text, at):
        if not found[0].startswith("[redacted:") and plain.encodings(found.start()) <= encodings:
            return at, found.start(), ""
    return at, len(text), ""


def line_end(plain: Plain, name_at: int, at: int, *, one_line: bool = True) -> int:
    """Where a header's value ends: with its line, or with the string that the header stands in."""
    text = plain.text
    before = text[max(0, name_at - WINDOW) : name_at]
    around = max(before.rfind(each) for each in "\n\"'")
    opening = name_at - len(before) + around if around >= 0 else None
    folded = at
    for found in _LINE_OR_QUOTE.finditer(text, at):
        if found.start() < folded:
            continue
        if found[0] not in "\r\n":
            if opening is not None and _ends_around(plain, opening, found.start()):
                return found.start()
        elif fold := _FOLDED.match(text, found.start()):
            folded = fold.end()
        elif one_line:
            return found.start()
    return len(text)


def _ends_around(plain: Plain, opening: int, at: int) -> bool:
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


# -- strings and brackets -------------------------------------------------------------------------------


def string_at(plain: Plain, at: int) -> Span | None:
    """The string that begins here, perhaps with the prefix or wrapping that some languages write."""
    text = plain.text
    opening = _WRAPPED.match(text, at)
    if opening is None:
        return None
    start = opening.end() + 1
    mark = text[opening.end()]
    if mark == "`" or _is_triple(plain, opening.end()):
        mark = mark if mark == "`" else mark * 3
        start = opening.end() + len(mark)
        end = text.find(mark, start)
        return start, end if end >= 0 else len(text), ""
    return start, _string_end(plain, opening.end())[0], ""


def _is_triple(plain: Plain, at: int) -> bool:
    return plain.text.startswith(plain.text[at] * 3, at) and plain.spelled(at) == plain.spelled(at + 1)


def _string_end(plain: Plain, at: int) -> tuple[int, int]:
    """Where the string ends that the quote opens which stands here, without and with its closing quote."""
    text = plain.text
    opening = plain.quote(at)
    for found in _QUOTES.finditer(text, at + 1):
        if plain.quote(found.start()).ends(opening):
            return found.start(), found.end()
    return len(text), len(text)


_QUOTE_OR_BRACKET = re.compile(r"[\"\[\]{}]")
_LEAF = re.compile(r"[^\s,:\[\]{}\"]++")
_KEY = re.compile(r"\s*+:")


def _brackets_end(plain: Plain, at: int, around: Quote | None) -> int:
    """Where the array or object ends that begins here; the end of the text where it does not.

    `around` is how quotes are written there: one that is escaped less often ends a string around all this.
    """
    depth = 0
    text = plain.text
    while found := _QUOTE_OR_BRACKET.search(text, at):
        at = found.end()
        if found[0] == '"':
            inner, at = _string_end(plain, found.start())
            for quote in (found.start(), inner):
                if around and quote < len(text) and plain.quote(quote).is_less_escaped(around):
                    return quote
        elif found[0] in "[{":
            depth += 1
        else:
            depth -= 1
            if depth <= 0:
                return at
    return len(text)


def _leaves(plain: Plain, at: int, end: int) -> Iterator[tuple[int, int]]:
    """The strings and words inside brackets that are no keys."""
    text = plain.text
    while at < end:
        if text[at] == '"':
            inner, after = _string_end(plain, at)
            span = (at + 1, inner)
        elif word := _LEAF.match(text, at, end):
            span, after = word.span(), word.end()
        else:
            at += 1
            continue
        at = after
        if not _KEY.match(text, after):
            yield span


def end_of(pattern: re.Pattern[str], text: str, at: int, most: int | None = None) -> int:
    """Where the pattern ends that matches here, or here; nothing behind `most` is looked at."""
    found = pattern.match(text, at, len(text) if most is None else most)
    return found.end() if found else at
