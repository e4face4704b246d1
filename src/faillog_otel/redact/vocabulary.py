"""Sensitive names of keys, and values that are harmless in spite of their name.

`password` is sensitive; `password_policy` and `prompt_tokens` are not. Under a sensitive name, prose such as
`is invalid` and `can't be blank` is kept: people search for it when a delivery failed.
"""

import re
from functools import lru_cache
from itertools import takewhile
from typing import Literal

Kind = Literal["secret", "email", "phone", "ip"]

MARK_PATTERN = r"\[redacted:(?:secret|email|phone|ip)(?::[0-9a-f]{16})?\]"
MARK = re.compile(MARK_PATTERN)
"""The replacement of a redacted value."""

_HINT = re.compile(
    "auth|cookie|key|secret|token|pass|pwd|credential|sig|sess|jwt|bearer|verifier|assertion|otp|pin|csrf|xsrf"
    "|hmac|cvv|cvc|sid|ssn|pw|card|phone|mobile|msisdn|tel|fax|cell"
)
"""Every sensitive name contains one of these, in lower case."""
_SECRET_PARTS = tuple(
    """
    authorization cookie apikey accesskey privatekey writekey signingkey licensekey encryptionkey accountkey
    sharedkey secret token password passwd passwort passphrase passcode credential signature sessionid sessid
    jwt bearer codeverifier clientassertion cardnumber creditcard appkey applicationkey integrationkey
    masterkey storagekey adafruitiokey gitlabsession
    """.split()
)
_SECRET_WORDS = frozenset("auth sig pwd pass otp otps pin pins csrf xsrf hmac cvv cvc sid ssn pw".split())
_SECRET_NUMBERS = frozenset("pin otp cvv cvc ssn".split())
_NO_SECRETS = re.compile(
    r"secretar|tokeni[sz]|bypass|compass|passenger|cookieless|(?:prompt|completion|max|min|total|input|output)_?tokens",
    re.IGNORECASE,
)
_METADATA_WORDS = frozenset(
    """
    algorithm check count days disabled enabled endpoint error errors expired expires expiration expiry in
    length limit method name page policy realm remaining required scheme status strength ttl type types uri
    url usage used valid validity version
    """.split()
)
"""A name that ends in one of these describes a secret and does not hold it."""
_PHONE_WORD = re.compile(
    r"(?:tele|cell|mobile|home|work|user|smart)?phones?(?:numbers?|no|nr)?|mobile(?:number|no|nr)?|msisdn|tel|fax"
    r"(?:number)?|cell"
)
_NO_PHONE = frozenset(
    """
    app brand carrier country device has id is manufacturer model name os platform sdk type verified version
    """.split()
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+")
_NO_LETTERS = re.compile(r"[^a-z0-9]+")
_MAX_NAME = 128


def classify_key(name: str) -> Kind | None:
    """Returns the kind of value that a key of this name holds: `secret`, `phone`, or None.

    Only the beginning and the end of a very long name count.
    """
    if len(name) > 2 * _MAX_NAME:
        name = f"{name[:_MAX_NAME]} {name[-_MAX_NAME:]}"
    return _classify(name)


def maybe_sensitive(word: str) -> bool:
    """Returns whether a word can be a part of a sensitive name; False for a redaction mark."""
    return _has_hint(word) if len(word) <= _MAX_NAME else _HINT.search(word.lower()) is not None


@lru_cache(maxsize=16_384)
def _has_hint(word: str) -> bool:
    return not word.startswith("[") and _HINT.search(word.lower()) is not None


@lru_cache(maxsize=4096)
def _classify(name: str) -> Kind | None:
    words = _words(name)
    if not words:
        return None
    letters = _NO_LETTERS.sub("", _NO_SECRETS.sub("", name.lower()))
    if any(part in letters for part in _SECRET_PARTS) or not _SECRET_WORDS.isdisjoint(words):
        return None if words[-1] in _METADATA_WORDS or (words[-1] == "type" and len(words) > 1) else "secret"
    if any(_PHONE_WORD.fullmatch(word) for word in words) and _NO_PHONE.isdisjoint(words):
        return "phone"
    return None


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


# -- values ---------------------------------------------------------------------------------------------

_PROSE_WORDS = frozenset(
    """
    are bad be blank cannot can't character characters denied did disabled does doesn't empty enabled error
    exist expected expired failed failure forbidden format found has have incorrect invalid is isn't long
    malformed mandatory match maximum minimum mismatch missing must need needed no not optional please
    provided rejected require required requires revoked short should unauthorized undefined unexpected
    unknown unsupported was weak were will wrong
    """.split()
)
"""Words of a statement about a secret: `Invalid token: expired`."""
_FUNCTION_WORDS = frozenset(
    """
    a an and as at been but by can could for from header in it of on only or that the this to too use value
    with your
    """.split()
)
_LITERALS = frozenset("true false null none undefined nil basic bearer digest oauth2 withheld".split())
_ORDINARY_WORD = re.compile(r"[^\W\d_]{1,15}(?:['\u2019-][^\W\d_]{1,15})*|\d{1,4}")
_TWILIO_ID = re.compile(r"(?!SK)[A-Z]{2}[0-9a-f]{32}")
_PUNCTUATION = " \t\r\n.,;:!?\"'`()<>[]{}"
_MAX_PROSE = 200


def is_prose(text: str) -> bool:
    """Returns whether the text consists of ordinary words and has a prose word: `can't be blank`."""
    words = _prose_words(text)
    return len(text) <= _MAX_PROSE and all(map(_is_ordinary, words)) and not _PROSE_WORDS.isdisjoint(words)


def starts_as_prose(text: str) -> bool:
    """Returns whether an unquoted line begins as a sentence: `Session has expired on Friday`."""
    words = _prose_words(text[:_MAX_PROSE])
    if words and is_prose_word(words[0]):
        return True
    are_all_ordinary = all(_is_ordinary(word) or "://" in word for word in words)
    first = list(takewhile(_is_ordinary, words[:4]))
    return not _PROSE_WORDS.isdisjoint(first) or (are_all_ordinary and not _FUNCTION_WORDS.isdisjoint(words))


def _is_ordinary(word: str) -> bool:
    return _ORDINARY_WORD.fullmatch(word) is not None


def is_prose_word(word: str) -> bool:
    """Returns whether a word continues a sentence about a value rather than the value itself."""
    word = word.strip(_PUNCTUATION).lower()
    return word in _PROSE_WORDS or word in _FUNCTION_WORDS


def _prose_words(text: str) -> list[str]:
    return [word.strip(_PUNCTUATION).lower() for word in text.split() if word.strip(_PUNCTUATION)]


def is_harmless(name: str, value: str) -> bool:
    """Returns whether a value under a sensitive name is no secret: a literal, a count, prose, or empty."""
    bare = value[:_MAX_PROSE].strip(_PUNCTUATION).lower()
    is_short = len(value) <= _MAX_PROSE
    if is_short and (bare in _LITERALS or _TWILIO_ID.fullmatch(value) or not any(map(str.isalnum, bare))):
        return True
    if value.isascii() and value.isdigit():
        words = _words(name)
        return (len(value) <= 3 and _SECRET_NUMBERS.isdisjoint(words)) or "tokens" in words
    return is_prose(value)


_PHONE_NUMBER = re.compile(r"(?<![\w.+])[+(]{0,2}\d(?:[\s().+/x–-]{0,3}\d){6,14}(?!\w|\.\d)")  # noqa: RUF001  # people write so


def find_phone_number(text: str, start: int = 0, end: int | None = None) -> re.Match[str] | None:
    """Returns the first phone number in a text: 7 to 15 digits (ITU-T E.164)."""
    return _PHONE_NUMBER.search(text, start, len(text) if end is None else end)


def is_sensitive(kind: Kind, name: str, value: str) -> bool:
    """Returns whether the value of a key of this kind and name must be redacted."""
    return find_phone_number(value) is not None if kind == "phone" else not is_harmless(name, value)


_RUN = re.compile(r"[A-Za-z0-9]{8,}")
_TIME_OR_UUID = re.compile(
    r"\d{4}-\d\d-\d\d.*|.*[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}.*", re.IGNORECASE
)


def is_id(word: str) -> bool:
    """Returns whether the word contains a UUID or begins with a date."""
    return _TIME_OR_UUID.match(word[:200]) is not None


def looks_random(word: str) -> bool:
    """Returns whether a word of at least 12 characters mixes letters and digits as keys do; no UUID does."""
    if not 12 <= len(word) <= 4096 or is_id(word):
        return False
    return any(re.search(r"\d", run) and re.search(r"[A-Za-z]", run) for run in _RUN.findall(word))
