"""Names that tell that their value is a secret, and where in a text such a value begins and ends.

The text may be JSON (also inside a string of another JSON, at any depth), a form or URL query, a dump of
headers, XML, YAML, the repr of a language; whole or cut off anywhere.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from msgspec import Struct

Kind = Literal["secret", "email", "phone", "ip"]

_SECRET_PARTS = (
    "authorization",
    "cookie",
    "apikey",
    "accesskey",
    "privatekey",
    "writekey",
    "signingkey",
    "encryptionkey",
    "accountkey",
    "sharedkey",
    "secret",
    "token",
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "credential",
    "signature",
    "sessionid",
    "sessid",
    "jwt",
    "bearer",
    "codeverifier",
    "clientassertion",
)
_SECRET_WORDS = frozenset(("auth", "sig", "pwd", "pass", "otp", "pin", "csrf", "xsrf", "hmac", "cvv", "cvc"))
_PHONE_PARTS = ("phone", "mobile", "msisdn")
FEWEST_DIGITS = 7
"""What has fewer is no phone number."""
_MARK = r"\[redacted:(?:secret|email|phone|ip)(?::[0-9a-f]{16})?\]"
MARK = re.compile(_MARK)
"""What stands in the place of what was redacted."""
_HINT = re.compile(
    _MARK + "|auth|cookie|key|secret|token|pass|pwd|credential|sig|sess|jwt|bearer|verifier|assertion|otp|pin"
    "|csrf|xsrf|hmac|cvv|cvc|phone|mobile|msisdn",
    re.IGNORECASE,
)
"""In every telling name: only around these is looked for names. A mark is passed over: it is no name."""
_LONGEST_NAME = 128

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+")
_NO_LETTERS = re.compile(r"[^a-z0-9]+")


class NamedValue(Struct, frozen=True):
    """A value with a telling name: what it is, and from where to where it stands in the text.

    `quote` is what has to stand on both sides of a replacement: the value was no string.
    """

    kind: Kind
    name: str
    start: int
    end: int
    quote: str = ""


@lru_cache(maxsize=4096)
def kind_of_name(name: str) -> Kind | None:
    """What a value of this name holds: `secret`, `phone`, or nothing that the name tells."""
    plain = _NO_LETTERS.sub("", name.lower())
    if any(part in plain for part in _SECRET_PARTS):
        return "secret"
    if any(word.lower() in _SECRET_WORDS for word in _WORDS.findall(name)):
        return "secret"
    return "phone" if any(part in plain for part in _PHONE_PARTS) else None


class _Name(Struct, frozen=True):
    """A name with what separates it from its value, which begins `at`."""

    name: str
    start: int
    at: int
    by: str
    quote: str = ""
    """The name's own opening quote, with the backslashes before it."""


_TO_BARE_START = re.compile(r"[\w$.-]*+")  # on the reversed text
_TO_QUOTE = re.compile(r"""[^"'\\\r\n]*+(?P<quote>["']\\*+)?""")  # on the reversed text
_FIRST_WORDS = "(?:api|access|secret|private|account|write|signing|session|auth)[ ]"
_FIRST_WORD = re.compile(rf"\b{_FIRST_WORDS}\Z", re.IGNORECASE)
_QUOTED = re.compile(
    r"""(?P<quote>\\*+["'])(?P<name>[^"'\\\r\n]++)(?P=quote)
        (?P<by>\s*+(?:=>|[:=]|,?+\s*+(?:\\*+["'])?+value(?:\\*+["'])?+\s*+[:=]|,(?=\s*+\\*+["'])))\s*+""",
    re.VERBOSE,
)
_BARE = re.compile(
    rf"(?P<name>(?:{_FIRST_WORDS})?+[\w$.-]++)(?P<by>\s*+(?:=>|[:=])\s*+|%(?:25)*3D)", re.IGNORECASE
)
_TAG = re.compile(r"(?P<name>[\w:.-]++)(?:\s[^<>]{0,256}+)?+>")
_QUOTE = re.compile(r"""[^"'\\\r\n]*+(?P<quote>["']\\*+)?""")  # on the reversed text
_FIRST_WORDS = "(?:api|access|secret|private|account|write|signing|session|auth)[ ]"
_FIRST_WORD = re.compile(rf"\b{_FIRST_WORDS}\Z", re.IGNORECASE)
_QUOTED = re.compile(
    r"""(?P<quote>\\*+["'])(?P<name>[^"'\\\r\n]++)(?P=quote)
        (?P<by>\s*+(?:=>|[:=]|,?+\s*+(?:\\*+["'])?+value(?:\\*+["'])?+\s*+[:=]|,(?=\s*+\\*+["'])))\s*+""",
    re.VERBOSE,
)
_BARE = re.compile(
    rf"(?P<name>(?:{_FIRST_WORDS})?+[\w$.-]++)(?P<by>\s*+(?:=>|[:=])\s*+|%(?:25)*3D)", re.IGNORECASE
)
_TAG = re.compile(r"(?P<name>[\w:.-]++)(?:\s[^<>]{0,256}+)?+>")
_HOLDS_A_NAME = frozenset(("name", "key", "header", "field", "param", "parameter"))
_SIBLING = re.compile(r"""\s*+[,;]?+\s*+(?:\\*+["'])?+value(?:\\*+["'])?+\s*+[:=]\s*+""", re.IGNORECASE)
_QUOTE = re.compile(r"""\\*+["']""")
_QUOTE_OR_BRACKET = re.compile(r"""\\*+["']|[\[\]{}]""")
_LITERAL = re.compile(r"(?:true|false|null|none|undefined|nil)\b", re.IGNORECASE)
_NUMBER = re.compile(r"-?[\d.e+-]++", re.IGNORECASE)
_TO_DELIMITER = re.compile(rf"(?:{_MARK}|[^\s&\"'\\,;<>%(){{}}\[\]]|%(?!(?:25)*26))++")
_TO_LINE_END = re.compile(rf"(?:{_MARK}|[^\r\n\"'\\<>])++")
_TO_TAG = re.compile(r"[^<]*+")
_WORD = re.compile(r"[a-z]{1,15}(?![\w/+=])")
_PLAIN_WORDS = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "bad", "be", "been", "but", "by", "can", "cannot", "could"),
        *("denied", "did", "does", "empty", "error", "expired", "failed", "for", "format", "found", "from"),
        *("has", "have", "header", "in", "incorrect", "invalid", "is", "it", "malformed", "mismatch"),
        *("missing", "must", "no", "not", "of", "on", "only", "or", "please", "provided", "rejected"),
        *("required", "revoked", "should", "that", "the", "this", "to", "too", "unauthorized", "undefined"),
        *("unexpected", "unknown", "use", "value", "was", "were", "will", "with", "wrong", "your"),
    )
)
"""What is said about a secret rather than being one: `Invalid token: expired`."""


def named_values(text: str) -> Iterator[NamedValue]:
    """The values with telling names, from left to right, none inside another."""
    done = 0
    reversed_text = ""
    for hint in _HINT.finditer(text):
        if hint.start() < done or hint[0].startswith("["):
            continue
        reversed_text = reversed_text or text[::-1]
        for name in _names_around(text, reversed_text, hint.start()):
            value = _value_of(text, name) if name.start >= done else None
            if value is not None:
                done = value.end
                yield value
                break
        done = max(done, hint.end())


def _names_around(text: str, reversed_text: str, at: int) -> Iterator[_Name]:
    """The names that have a hint at this position: as a quoted text, as an XML element, as a bare word."""
    back = len(text) - at
    earliest = back + _LONGEST_NAME
    quote = _TO_QUOTE.match(reversed_text, back, earliest)
    if quote and quote["quote"] and (found := _QUOTED.match(text, len(text) - quote.end())):
        yield _Name(found["name"], found.start(), found.end(), found["by"].strip(), found["quote"])
    start = len(text) - _end(_TO_BARE_START, reversed_text, back, earliest)
    if text[start - 1 : start] == "<" and (found := _TAG.match(text, start, start + 2 * _LONGEST_NAME)):
        yield _Name(found["name"], start, found.end(), ">")
    if before := _FIRST_WORD.search(text, max(0, start - 8), start):
        start = before.start()
    if found := _BARE.match(text, start, start + 2 * _LONGEST_NAME):
        yield _Name(found["name"], start, found.end(), found["by"].strip())


def _value_of(text: str, name: _Name) -> NamedValue | None:
    """The value that this name has, where the name tells something."""
    kind = kind_of_name(name.name)
    if kind is None or (name.by == "," and not _is_pair(text, name)):
        return None
    start, end, quote = _span(text, name)
    raw = text[start:end]
    if not raw.strip() or (kind == "phone" and sum(map(str.isdigit, raw)) < FEWEST_DIGITS):
        return None
    return NamedValue(kind, name.name, start, end, quote)


def _is_pair(text: str, name: _Name) -> bool:
    """Whether `"name", "value"` is all that stands in its brackets, and the name is one word."""
    value = _QUOTE.match(text, name.at)
    before = text[max(0, name.start - 8) : name.start].rstrip()
    if " " in name.name or value is None or not before.endswith(("[", "(")):
        return False
    rest = text[_string_end(text, value)[1] :][:8].lstrip()
    return not rest or rest.startswith(("]", ")"))


def _span(text: str, name: _Name) -> tuple[int, int, str]:
    """From where to where the value goes, and the quotes that a replacement needs. Empty: there is none."""
    at = name.at
    if name.by == ">":
        end = _end(_TO_TAG, text, at)
        is_cut_off = end == len(text) and not text[at : at + 1].isspace()
        is_value = is_cut_off or text.startswith("</", end)  # `<token>` is a word for a place as well
        return at, end if is_value else at, ""
    if quote := _QUOTE.match(text, at):
        return quote.end(), _string_end(text, quote)[0], ""
    if text.startswith(("{", "["), at) and not text.startswith("[redacted:", at):
        return at, _brackets_end(text, at), name.quote
    if name.quote and (number := _NUMBER.match(text, at)):
        return at, number.end(), name.quote
    word = _WORD.match(text, at)
    if _LITERAL.match(text, at) or (name.by == ":" and word and word[0] in _PLAIN_WORDS):
        return at, at, ""
    takes_line = name.by == ":" and any(part in name.name.lower() for part in ("authorization", "cookie"))
    return at, _end(_TO_LINE_END if takes_line else _TO_DELIMITER, text, at), ""


def _string_end(text: str, quote: re.Match[str]) -> tuple[int, int]:
    """Where the string that this quote opens ends, without and with its closing quote."""
    level = len(quote[0]) - 1
    for found in _QUOTE.finditer(text, quote.end()):
        run = len(found[0]) - 1
        if found[0][-1] == quote[0][-1] and _closes(run, level):
            return max(found.end() - 1 - level, found.start()), found.end()
    return len(text), len(text)


def _closes(run: int, level: int) -> bool:
    """Whether a quote behind so many backslashes ends a string whose opening quote has `level` of them.

    Inside a string that is JSON inside a string, quotes are written with 1, then 3, 7, ... backslashes.
    """
    while level > 0:
        if run % 2 == 0:
            return True  # an outer string ends here, and all inside it
        run, level = (run - 1) // 2, (level - 1) // 2
    return run % 2 == 0


def _brackets_end(text: str, at: int) -> int:
    """Where the array or object ends that begins here; the end of the text where it does not."""
    depth = 0
    while found := _QUOTE_OR_BRACKET.search(text, at):
        at = found.end()
        if found[0][-1] == '"':
            at = _string_end(text, found)[1]
        elif found[0] in ("[", "{"):
            depth += 1
        elif found[0] in ("]", "}"):
            depth -= 1
            if depth == 0:
                return at
    return len(text)


def _end(pattern: re.Pattern[str], text: str, at: int, most: int | None = None) -> int:
    found = pattern.match(text, at, len(text) if most is None else most)
    return found.end() if found else at
