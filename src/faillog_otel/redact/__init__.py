"""Redacts secrets and personal data in bodies, reasons, URLs and unknown fields. Ids are not redacted.

A value is found by its key (`key_values`: a key, parameter or header with a sensitive name) or by its form
(`patterns`: a token, an email address, an IP address, a phone number), both in the text without escapes
(`UnescapedText`). The text can be JSON (also nested in strings at any depth), a form, a URL, headers, XML,
YAML, the repr of a language or a sentence, complete or truncated anywhere: a value without an end goes on to
the end of the text. The cost is linear in the length of the text, and redaction is idempotent.
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
from faillog_otel.redact.patterns import candidate_patterns
from faillog_otel.redact.value_spans import (
    WORD,
    Match,
    SensitiveKey,
    UnescapedText,
    ValueSpan,
    end_of,
    has_sensitive_value,
    match_of,
)
from faillog_otel.redact.vocabulary import MARK, Kind, classify_key, find_phone_number, maybe_sensitive

# -- sensitive keys ------------------------------------------------------------------------------------------

_MAX_NAME = 128
_FIRST_WORD = re.compile(
    r"(?<!\w)(?:api|access|secret|private|account|write|signing|license|client)[ ]{1,2}\Z", re.IGNORECASE
)
_QUOTES = re.compile(r"[\"']")


def find_sensitive_values(plain: UnescapedText) -> Iterator[Match]:
    """Yields the values of sensitive keys."""
    sensitive = {word for word in plain.words if maybe_sensitive(word)}
    if not sensitive:
        return
    done = end_of_table = 0
    for word in WORD.finditer(plain.text):
        if word[0] not in sensitive:
            continue
        if word.start() >= end_of_table:
            matches, end_of_table = table_at(plain, *word.span())
            yield from matches
        if word.start() < done:
            continue
        for name in _names(plain, word):
            if match := next(_matches(plain, name), None):
                yield match
                done = max(done, match.end)
                break


def _names(plain: UnescapedText, word: re.Match[str]) -> Iterator[SensitiveKey]:
    """Yields the possible keys around a word: the text between two quotes, then the word itself."""
    text = plain.text
    start, end = word.span()
    before = text[max(0, start - _MAX_NAME) : start]
    opening = max(before.rfind('"'), before.rfind("'"))
    if opening >= 0 and (closing := _QUOTES.search(text, end, end + _MAX_NAME)):
        first = start - len(before) + opening + 1
        name = text[first : closing.start()]
        kind = classify_key(name)
        if kind and "\n" not in name and plain.source_of(first - 1) == plain.source_of(closing.start()):
            yield SensitiveKey(kind, name, first, closing.start(), first - 1)
    if found := _FIRST_WORD.search(before[-9:]):
        start -= len(found[0])
    name = text[start:end]
    if kind := classify_key(name):
        yield SensitiveKey(kind, name, start, end)


def _matches(plain: UnescapedText, name: SensitiveKey) -> Iterator[Match]:
    """Yields the values that the notations find, the best match first."""
    for notation in OF_BARE_NAMES if name.quote is None else OF_QUOTED_NAMES:
        if name.kind == "phone" and not notation.has_phones:
            continue
        found = list(notation.find(plain, name))
        for each in found:
            read = _read_phone if name.kind == "phone" else notation.read
            if (span := read(plain, name, each)) and has_sensitive_value(plain, name, span):
                start, end, quote = span
                yield Match(name.kind, f"the name {name.name}", start, end, quote)
        if found and notation.is_final:
            return


_IN_BRACKETS = re.compile(r"(?!\[redacted:)[{\[][^}\]]{0,300}+")
_BEFORE_PHONE = re.compile(r"[\"']?\s{0,4}-?")
_MAX_NUMBER = 64


def _read_phone(plain: UnescapedText, name: SensitiveKey, found: re.Match[str]) -> ValueSpan | None:
    """Returns the phone number that begins there, or the first one inside the brackets there."""
    text, at = plain.text, found.end()
    brackets = _IN_BRACKETS.match(text, at)
    first = at if brackets else end_of(_BEFORE_PHONE, text, at)
    number = find_phone_number(text, first, brackets.end() if brackets else first + _MAX_NUMBER)
    if number is None or not (brackets or number.start() == first):
        return None
    start, end = number.span()
    match = match_of(plain, name.kind, "", start - text.startswith("-", start - 1), end)
    return (match.start if match.quote else start), end, match.quote


# -- redaction -----------------------------------------------------------------------------------------------

_MAX_ROUNDS = 5


class Finding(Struct, frozen=True):
    """One redacted value: its kind, and the rule that found it."""

    kind: Kind
    rule: str


def redact_text(text: str, key: Secret | None = None) -> str:
    """Returns the text with secrets and personal data replaced by `[redacted:KIND]`.

    With a key, by `[redacted:KIND:HASH]`: equal values have equal hashes (HMAC-SHA256 under the key, 16 hex
    digits), however they are escaped, and values cannot be guessed without the key.
    """
    return _redact(text, key, [])


def findings(text: str) -> list[Finding]:
    """Returns what `redact_text` finds in the text, in no particular order."""
    found: list[Finding] = []
    _redact(text, None, found)
    return found


def mark(kind: Kind, value: str, key: Secret | None = None) -> str:
    """Returns the mark that replaces a value; a mark is returned unchanged."""
    if MARK.fullmatch(value):
        return value
    if key is None:
        return f"[redacted:{kind}]"
    same = value.lower() if kind == "email" else value
    digest = hmac.new(key.reveal().encode(), f"{kind}\n{same}".encode(), hashlib.sha256)
    return f"[redacted:{kind}:{digest.hexdigest()[:16]}]"


def _redact(text: str, key: Secret | None, found: list[Finding]) -> str:
    """Applies all rules until the text stays the same: a replacement can make another rule match."""
    for _ in range(_MAX_ROUNDS):
        before, text = text, _replaced(UnescapedText(text), key, found)
        if text == before:
            return text
    return mark("secret", text, key)  # a text crafted to keep the rules busy


def _replaced(plain: UnescapedText, key: Secret | None, found: list[Finding]) -> str:
    parts: list[str] = []
    done = 0
    for match in _without_overlaps(plain):
        value = plain.text[match.start : match.end]
        shown = mark(match.kind, value, key)
        if shown != value:
            found.append(Finding(match.kind, match.rule))
            parts += [plain.source[done : plain.source_offset(match.start)], match.quote, shown, match.quote]
            done = plain.source_offset(match.end)
    return "".join([*parts, plain.source[done:]]) if parts else plain.source


def _without_overlaps(plain: UnescapedText) -> list[Match]:
    """Returns the matches in text order; of overlapping matches, that of the most specific rule."""
    kept = []
    is_covered = bytearray(len(plain.text))
    for match in chain(
        find_sensitive_values(plain),
        (match for pattern in candidate_patterns(plain) for match in pattern.matches(plain)),
    ):
        if is_covered.find(1, match.start, match.end) < 0 and match.start < match.end:
            is_covered[match.start : match.end] = b"\1" * (match.end - match.start)
            kept.append(match)
    return sorted(kept, key=attrgetter("start"))
