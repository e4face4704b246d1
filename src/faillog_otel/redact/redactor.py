"""Where in a plain text the values of telling names begin and end.

The text may be JSON (also inside a string of another JSON, at any depth), a form or URL query, a dump of
headers, XML, YAML, the repr of a language, a sentence; whole or cut off anywhere. Linear in its length: what
is looked at and not redacted is bounded.
"""

import hashlib
import hmac
import re
from collections.abc import Iterator
from itertools import chain
from operator import attrgetter

from msgspec import Struct

from faillog_otel.config import Secret
from faillog_otel.redact.key_values import OF_BARE_NAMES, OF_QUOTED_NAMES, table_at
from faillog_otel.redact.patterns import looks
from faillog_otel.redact.unescape import WORD, UnescapedText
from faillog_otel.redact.value_spans import Place, Span, TellingName, end_of, is_meant, place_of
from faillog_otel.redact.vocabulary import MARK, Kind, classify_key, maybe_sensitive, phone_number

# -- named ---------------------------------------------------------------------------------------------------


_MAX_NAME = 128


_FIRST_WORD = re.compile(
    r"(?<!\w)(?:api|access|secret|private|account|write|signing|license|client)[ ]{1,2}\Z", re.IGNORECASE
)
_QUOTES = re.compile(r"[\"']")


def find_sensitive_values(plain: UnescapedText) -> Iterator[Place]:
    """The values with telling names. A mark is passed over: it is no name."""
    telling = {word for word in plain.words if maybe_sensitive(word)}
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


def _names(plain: UnescapedText, word: re.Match[str]) -> Iterator[TellingName]:
    """What the name may be: all that stands between two quotes, or the word."""
    text = plain.text
    start, end = word.span()
    before = text[max(0, start - _MAX_NAME) : start]
    opening = max(before.rfind('"'), before.rfind("'"))
    if opening >= 0 and (closing := _QUOTES.search(text, end, end + _MAX_NAME)):
        first = start - len(before) + opening + 1
        name = text[first : closing.start()]
        kind = classify_key(name)
        if kind and "\n" not in name and plain.spelled(first - 1) == plain.spelled(closing.start()):
            yield TellingName(kind, name, first, closing.start(), first - 1)
    if found := _FIRST_WORD.search(before[-9:]):
        start -= len(found[0])
    name = text[start:end]
    if kind := classify_key(name):
        yield TellingName(kind, name, start, end)


def _places(plain: UnescapedText, name: TellingName) -> Iterator[Place]:
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
_MAX_NUMBER = 64


def _phone(plain: UnescapedText, name: TellingName, found: re.Match[str]) -> Span | None:
    """A phone number that begins there, or the first one in the brackets there."""
    text, at = plain.text, found.end()
    brackets = _IN_BRACKETS.match(text, at)
    first = at if brackets else end_of(_BEFORE_PHONE, text, at)
    number = phone_number(text, first, brackets.end() if brackets else first + _MAX_NUMBER)
    if number is None or not (brackets or number.start() == first):
        return None
    start, end = number.span()
    place = place_of(plain, name.kind, "", start - text.startswith("-", start - 1), end)
    return (place.start if place.quote else start), end, place.quote


# -- redaction -----------------------------------------------------------------------------------------------
#
# What must not leave: secrets and people's data, replaced in bodies, reasons, URLs and unknown fields.
#
# By name (`named.py`: a key, parameter or header that by its name holds a secret) and by pattern
# (`patterns.py`: what looks like a token, an email address, an IP address, a phone number), both in the text
# without its escapes (`plain.py`). It works on any text, JSON or not, also on one that Segment cut off in the
# middle: a value without its end goes as far as the text. Linear in the length of the text, and the same when
# done twice. Ids are never handed to it.


_MAX_ROUNDS = 5


class Finding(Struct, frozen=True):
    """One thing that was redacted: what it is, and by which rule."""

    kind: Kind
    rule: str


def redact_text(text: str, key: Secret | None = None) -> str:
    """The text without secrets and people's data; `[redacted:KIND]` stands in their places.

    With a key, `[redacted:KIND:HASH]`: equal values have equal hashes (HMAC-SHA256 under the key, 16 hex
    digits), however they are escaped, and who has no key cannot try values.
    """
    return _redact(text, key, [])


def findings(text: str) -> list[Finding]:
    """What `redact_text` finds in the text, in no order."""
    found: list[Finding] = []
    _redact(text, None, found)
    return found


def mark(kind: Kind, value: str, key: Secret | None = None) -> str:
    """What stands in the place of the value. One that is redacted already stays as it is."""
    if MARK.fullmatch(value):
        return value
    if key is None:
        return f"[redacted:{kind}]"
    same = value.lower() if kind == "email" else value
    digest = hmac.new(key.reveal().encode(), f"{kind}\n{same}".encode(), hashlib.sha256)
    return f"[redacted:{kind}:{digest.hexdigest()[:16]}]"


def _redact(text: str, key: Secret | None, found: list[Finding]) -> str:
    """Applies all rules until nothing changes: what one has replaced may show another one something."""
    for _ in range(_MAX_ROUNDS):
        before, text = text, _replaced(UnescapedText(text), key, found)
        if text == before:
            return text
    return mark("secret", text, key)  # a text made to keep the rules busy


def _replaced(plain: UnescapedText, key: Secret | None, found: list[Finding]) -> str:
    parts: list[str] = []
    done = 0
    for place in _without_overlaps(plain):
        value = plain.text[place.start : place.end]
        shown = mark(place.kind, value, key)
        if shown != value:
            found.append(Finding(place.kind, place.rule))
            parts += [plain.source[done : plain.place(place.start)], place.quote, shown, place.quote]
            done = plain.place(place.end)
    return "".join([*parts, plain.source[done:]]) if parts else plain.source


def _without_overlaps(plain: UnescapedText) -> list[Place]:
    """What the rules find, in the order of the text; of overlapping places, that of the most telling rule."""
    kept = []
    is_taken = bytearray(len(plain.text))
    for place in chain(
        find_sensitive_values(plain), (place for look in looks(plain) for place in look.places(plain))
    ):
        if is_taken.find(1, place.start, place.end) < 0 and place.start < place.end:
            is_taken[place.start : place.end] = b"\1" * (place.end - place.start)
            kept.append(place)
    return sorted(kept, key=attrgetter("start"))
