"""Where in a plain text the values of telling names begin and end.

The text may be JSON (also inside a string of another JSON, at any depth), a form or URL query, a dump of
headers, XML, YAML, the repr of a language, a sentence; whole or cut off anywhere. Linear in its length: what
is looked at and not redacted is bounded.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from faillog_otel.events.apart import TAG, after_element, element, in_sentence, member, pair
from faillog_otel.events.names import Kind, kind_of_name, may_tell, phone_number
from faillog_otel.events.plain import WORD, Plain
from faillog_otel.events.spans import Span, TellingName, bare, checked, end_of, string_at, value_at

_LONGEST_NAME = 128


class NamedValue(Struct, frozen=True):
    """A value with a telling name: what it is, and from where to where it stands in the plain text.

    `quote` is what has to stand on both sides of a replacement: the value was no string.
    """

    kind: Kind
    name: str
    start: int
    end: int
    quote: str = ""


_FIRST_WORD = re.compile(
    r"(?<!\w)(?:api|access|secret|private|account|write|signing|license|client)[ ]{1,2}\Z", re.IGNORECASE
)
_QUOTES = re.compile(r"[\"']")


def named_values(plain: Plain) -> Iterator[NamedValue]:
    """The values with telling names. A mark is passed over: it is no name."""
    telling = {word for word in plain.words() if may_tell(word)}
    if not telling:
        return
    done = 0
    for word in WORD.finditer(plain.text):
        if word[0] not in telling or word.start() < done:
            continue
        for name in _names(plain, word):
            span = _phone(plain, name) if name.kind == "phone" else _secret(plain, name)
            if span and plain.text[span[0] : span[1]].strip():
                start, end, quote = span
                yield NamedValue(name.kind, name.name, start, end, quote)
                done = max(done, end)
                break


def _names(plain: Plain, word: re.Match[str]) -> Iterator[TellingName]:
    """What the name may be: all that stands between two quotes, or the word."""
    text = plain.text
    start, end = word.span()
    before = text[max(0, start - _LONGEST_NAME) : start]
    opening = max(before.rfind('"'), before.rfind("'"))
    if opening >= 0 and (closing := _QUOTES.search(text, end, end + _LONGEST_NAME)):
        first = start - len(before) + opening + 1
        name = text[first : closing.start()]
        kind = kind_of_name(name)
        if kind and "\n" not in name and plain.spelled(first - 1) == plain.spelled(closing.start()):
            yield TellingName(kind, name, first, closing.start(), first - 1)
    if found := _FIRST_WORD.search(before[-9:]):
        start -= len(found[0])
    name = text[start:end]
    if kind := kind_of_name(name):
        yield TellingName(kind, name, start, end)


# -- secrets --------------------------------------------------------------------------------------------

_BY = re.compile(r"(?:[\"'`]?\]|\[\w{0,20}\]){0,3}[ \t]*+(?P<by>:=|=>|->|→|==?|:(?![:/])|::(?=[ \t]))[ \t]*+")
_BY_QUOTED = re.compile(r"\s*+(?:(?P<by>:=|=>|==?|:(?!:))|\]\s*+(?P<index>=>?)|;(?P<php>s:\d{1,7}:))\s*+")
_CALL = re.compile(r"\((?=[\"'])")
_OPTION = re.compile(r"[ ]{1,4}(?![-\s])")


def _secret(plain: Plain, name: TellingName) -> Span | None:  # noqa: PLR0911  # one for each way to write it
    text = plain.text
    if name.quote is not None:
        if by := _BY_QUOTED.match(text, name.end + 1):
            return value_at(plain, name, by.end(), by.start("by") if by["by"] else None)
        return pair(plain, name) or member(plain, name) or after_element(plain, name)
    if text[name.start - 1 : name.start] in ("<", ":") and (found := element(plain, name)):
        return found
    if by := _BY.match(text, name.end):
        if found := value_at(plain, name, by.end(), by.start("by")):
            return found
    elif call := _CALL.match(text, name.end):
        return value_at(plain, name, call.end(), None)
    elif name.name.startswith("--") and (option := _OPTION.match(text, name.end)):
        return checked(plain, name, string_at(plain, option.end()) or bare(plain, option.end(), None))
    elif text[name.start - 1 : name.start] == ">" and (found := after_element(plain, name)):
        return found
    return in_sentence(plain, name)


# -- phone numbers ----------------------------------------------------------------------------------------

_BEFORE_PHONE = re.compile(r"[\"']?\s{0,4}")
_ALONE = re.compile(r"\s*+(?:[,}\]]|\Z)")
_LONGEST_LIST = 300
_LONGEST_NUMBER = 64


def _phone(plain: Plain, name: TellingName) -> Span | None:
    """A phone number that stands right behind its name, or the first one in the brackets there."""
    text = plain.text
    opened = TAG.match(text, name.end, name.end + 100) if text[name.start - 1 : name.start] == "<" else None
    pattern, at = (_BY, name.end) if name.quote is None else (_BY_QUOTED, name.end + 1)
    by = opened or pattern.match(text, at)
    if by is None:
        span = pair(plain, name) if name.quote is not None else None
        return span if span and phone_number(text, *span[:2]) else None
    at = by.end()
    if text.startswith(("{", "["), at) and not text.startswith("[redacted:", at):
        window = text[at : at + _LONGEST_LIST]
        end = at + min(
            (place for place in (window.find("}"), window.find("]")) if place >= 0), default=len(window)
        )
        found = phone_number(text, at, end)
    else:
        first = end_of(_BEFORE_PHONE, text, at)
        found = phone_number(text, first, first + _LONGEST_NUMBER)
        found = found if found and found.start() == first else None
    if found is None:
        return None
    start, end = found.span()
    signed = start - text[at:start].endswith("-")
    if text[at:signed].rstrip()[-1:] not in ("", "[", ",", ":") or not _ALONE.match(text, end):
        return start, end, ""
    # A number, and no string: with its sign, or what is left would be no JSON.
    return signed, end, "" if name.quote is None else plain.spelled(name.quote)
