"""Where in a plain text the values of telling names begin and end.

The text may be JSON (also inside a string of another JSON, at any depth), a form or URL query, a dump of
headers, XML, YAML, the repr of a language, a sentence; whole or cut off anywhere. Linear in its length: what
is looked at and not redacted is bounded.
"""

import re
from collections.abc import Iterator

from faillog_otel.events.columns import table_at
from faillog_otel.events.names import kind_of_name, may_tell, phone_number
from faillog_otel.events.notations import OF_BARE_NAMES, OF_QUOTED_NAMES
from faillog_otel.events.plain import WORD, Plain
from faillog_otel.events.spans import Place, Span, TellingName, end_of, is_meant, place_of

_LONGEST_NAME = 128


_FIRST_WORD = re.compile(
    r"(?<!\w)(?:api|access|secret|private|account|write|signing|license|client)[ ]{1,2}\Z", re.IGNORECASE
)
_QUOTES = re.compile(r"[\"']")


def named_values(plain: Plain) -> Iterator[Place]:
    """The values with telling names. A mark is passed over: it is no name."""
    telling = {word for word in plain.words if may_tell(word)}
    if not telling:
        return
    done = end_of_table = 0
    for word in WORD.finditer(plain.text):
        if word[0] not in telling:
            continue
        if word.start() >= end_of_table:
            places, end_of_table = table_at(plain, *word.span())
            yield from places
        if word.start() < done:
            continue
        for name in _names(plain, word):
            if place := next(_places(plain, name), None):
                yield place
                done = max(done, place.end)
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


def _places(plain: Plain, name: TellingName) -> Iterator[Place]:
    """The values that any notation finds, the best one first."""
    for notation in OF_BARE_NAMES if name.quote is None else OF_QUOTED_NAMES:
        if name.kind == "phone" and not notation.has_phones:
            continue
        found = list(notation.find(plain, name))
        for each in found:
            read = _phone if name.kind == "phone" else notation.read
            if (span := read(plain, name, each)) and is_meant(plain, name, span):
                start, end, quote = span
                yield Place(name.kind, f"the name {name.name}", start, end, quote)
        if found and notation.decides:
            return


_IN_BRACKETS = re.compile(r"(?!\[redacted:)[{\[][^}\]]{0,300}+")
_BEFORE_PHONE = re.compile(r"[\"']?\s{0,4}-?")
_LONGEST_NUMBER = 64


def _phone(plain: Plain, name: TellingName, found: re.Match[str]) -> Span | None:
    """A phone number that begins there, or the first one in the brackets there."""
    text, at = plain.text, found.end()
    brackets = _IN_BRACKETS.match(text, at)
    first = at if brackets else end_of(_BEFORE_PHONE, text, at)
    number = phone_number(text, first, brackets.end() if brackets else first + _LONGEST_NUMBER)
    if number is None or not (brackets or number.start() == first):
        return None
    start, end = number.span()
    place = place_of(plain, name.kind, "", start - text.startswith("-", start - 1), end)
    return (place.start if place.quote else start), end, place.quote
