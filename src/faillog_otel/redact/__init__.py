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
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from operator import attrgetter

from ahocorasick_rs import BytesAhoCorasick, Implementation
from msgspec import Struct

from faillog_otel.config import Secret
from faillog_otel.redact.key_values import OF_BARE_NAMES, OF_QUOTED_NAMES, table_at
from faillog_otel.redact.patterns import ALL_SHAPES, PATTERNS, candidate_patterns, fold
from faillog_otel.redact.value_spans import (
    WORD,
    Match,
    SensitiveKey,
    UnescapedText,
    ValueSpan,
    end_of,
    has_sensitive_value,
    is_id,
    match_of,
)
from faillog_otel.redact.vocabulary import (
    HINTS,
    INNER_LITERALS,
    MARK,
    MAYBE_LITERALS,
    TOKEN_LITERALS,
    Kind,
    classify_key,
    find_phone_number,
    maybe_sensitive,
)

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
        for name in _names(plain, *word.span()):
            if match := next(_matches(plain, name), None):
                yield match
                done = max(done, match.end)
                break


def _names(plain: UnescapedText, start: int, end: int) -> Iterator[SensitiveKey]:
    """Yields the sensitive keys around a word: the text between two quotes, then the word itself."""
    text = plain.text
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


# -- a first look -------------------------------------------------------------------------------------------

_FOLD = bytes(
    ord("0") if 0x30 <= byte <= 0x39 else byte + 32 if 0x41 <= byte <= 0x5A else byte for byte in range(256)
)
_WORD_AS_A = bytes(
    ord("a") if chr(byte).isascii() and re.match(r"[\w$.-]", chr(byte)) else ord(" ") for byte in range(256)
)
_OTHER_SCRIPT = re.compile(r"[^\x00-\x7f\u00c0-\u012f\u0132-\u017e]")
"""Neither ASCII nor a Latin letter: other digits and blanks, look-alikes, letters that fold to ASCII ones."""
_ADDRESSES = ("0.0.0", "0.00.0", "0.000.0")
_NUMBERS = (
    "000-00-0000",  # social security numbers
    "0000000000000",
    *("0000 0000 0000 0", "0000-0000-0000-0", "0000+0000+0000+0"),  # card numbers
    *("0000 000000 0000", "0000-000000-0000", "0000+000000+0000"),
    *("000 000 0000", "000.000.0000", "000-000-0000"),  # phone numbers
)
"""Each match of a pattern for numbers contains one of these, or is a phone number with +, 00 or brackets.
Those of `_NUMBERS` follow no letter or digit there."""
_PLUS, _WITH_PLUS = "+0", re.compile(rb"\+0(?:[ .()/+-]{0,2}0){7}")
_INTERNATIONAL = re.compile(rb"00[1-9](?:[ .()/+-]{0,2}\d){7}")
"""A phone number with 00, in a text that is not folded."""
_GROUPS, _IBAN_STARTS = (b"0000 0000", b"0000-0000"), (b"aa00 ", b"aa00-")
"""An account number in groups has one of each: in a folded text, and in that with `a` for each letter."""
_LETTER_AS_A = bytes(ord("a") if 0x61 <= byte <= 0x7A else byte for byte in range(256))
_NUMBER_CHARACTERS = re.compile(r"[0 .()+-]*")
_MAX_COLONS = 5
"""An IPv6 address has more, or `::`."""
_LONG_WORD = re.compile(r"[\w$.-]{12,}+")
_LONG = b"a" * 12
_LETTERS_AND_DIGITS = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_WORD_END = re.compile(r"[\w$.-]*+")
_NOT_IN_WORD = re.compile(r"[^\w$.-]")


class FirstLook:
    """An Aho-Corasick automaton over the signs of all rules."""

    def __init__(
        self,
        literals: Iterable[str],
        *,
        hints: Iterable[str],
        starts: Collection[str],
        inner: Collection[str],
        shapes: re.Pattern[str],
    ) -> None:
        """`literals`: a match of a pattern contains one of them, or is a number, or a word of `shapes`.

        `hints`: each sensitive name contains one. `starts`: literals that follow no letter or digit, where
        they belong to a match, except those in `inner`.
        """
        hints, literals = sorted(set(hints)), set(literals) | {"[redacted:", "::"}
        literals = {each for each in literals if each.isascii() and not _NUMBER_CHARACTERS.fullmatch(each)}
        signs = sorted(literals | {_PLUS, "(000)", *_ADDRESSES, *_NUMBERS})
        self._hints_end = len(hints)
        at_start = {fold(each) for each in starts} - {fold(each) for each in inner} | {*_NUMBERS}
        self._is_start = [False] * len(hints) + [sign in at_start for sign in signs]
        self._plus = len(hints) + signs.index(_PLUS)
        automaton = BytesAhoCorasick(
            [each.encode() for each in (*hints, *signs)], implementation=Implementation.DFA
        )
        self._find = automaton.find_matches_as_indexes
        self._shapes = shapes

    def is_clean(self, text: str, is_sensitive_at: Callable[[int, int], bool]) -> bool:
        """Returns True only if no rule matches the text.

        `is_sensitive_at` is asked for each word with a hint, from its first character to behind its last one:
        whether a key there has a sensitive name.
        """
        if not text.isascii() and _OTHER_SCRIPT.search(text):
            return False
        plain = text.encode("ascii", "replace")  # one byte for each character
        folded = plain.translate(_FOLD)
        if folded.count(b":") > _MAX_COLONS or _has_number(plain, folded):
            return False
        done = 0
        for sign, start, end in self._find(folded, overlapping=True):
            if sign >= self._hints_end:
                if self._is_start[sign] and start and plain[start - 1] in _LETTERS_AND_DIGITS:
                    continue
                if sign == self._plus and not _WITH_PLUS.match(folded, start):
                    continue
                return False
            if end > done:
                first = start
                while first and (text[first - 1].isalnum() or text[first - 1] in "_$.-"):
                    first -= 1
                done = _WORD_END.match(text, end).end()  # type: ignore[union-attr]  # it matches anything
                if is_sensitive_at(first, done):
                    return False
        return _LONG not in plain.translate(_WORD_AS_A) or not self._has_shape(text)

    def _has_shape(self, text: str) -> bool:
        return any(self._shapes.match(word) for word in _LONG_WORD.findall(text) if not is_id(word))


def _has_number(plain: bytes, folded: bytes) -> bool:
    """Returns whether there may be a phone number with 00, or an account number in groups."""
    if _INTERNATIONAL.search(plain):
        return True
    first, second = _GROUPS
    if first not in folded and second not in folded:
        return False
    letters = folded.translate(_LETTER_AS_A)  # a quarter of the time of a regular expression
    return any(start in letters for start in _IBAN_STARTS)


_IMPLIED = {
    "://": "",  # and "@", which is a sign, too
    "0.0": "",  # a number with dots is looked for
    "tel": "tel:",
    "ip-": "ip-0",
}
"""Literals that are too frequent for a first look → what each match contains as well; empty: nothing more."""
FIRST_LOOK = FirstLook(
    [
        _IMPLIED.get(literal, literal)
        for pattern in PATTERNS
        for literal in (*pattern.required.words, *(each for _, each in pattern.required.others))
    ],
    hints=HINTS,
    starts=[*TOKEN_LITERALS, *MAYBE_LITERALS, "bearer", "basic", "tel:", "ip-0", "eyj", "ewog"],
    inner=INNER_LITERALS,
    shapes=ALL_SHAPES,
)


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
    return text if finds_nothing(text) else _redact(text, key, [])


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


_CLEAN_HEADER = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4}"
    r" \d\d:\d\d:\d\d GMT"
)
"""A UUID or an HTTP date, which most responses have in their headers: ten times as fast as a first look."""


def finds_nothing(text: str) -> bool:
    """Returns True only if no rule matches the text, after a first look; False if a rule may match."""
    if _CLEAN_HEADER.fullmatch(text):
        return True
    plain = UnescapedText(text)
    has_lines = "\n" in plain.text  # then there may be a table

    def is_sensitive_at(start: int, end: int) -> bool:
        return has_lines or next(_names(plain, start, end), None) is not None

    return FIRST_LOOK.is_clean(plain.text, is_sensitive_at)


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
