"""Names that tell what their values hold, and values that, for all their names, are words about it.

`password` tells; `password_policy` and `prompt_tokens` are about something else. Under a name that tells,
`is invalid` and `can't be blank` are what people look for when something failed.
"""

import re
from functools import lru_cache
from itertools import takewhile
from typing import Literal

Kind = Literal["secret", "email", "phone", "ip"]

MARK_PATTERN = r"\[redacted:(?:secret|email|phone|ip)(?::[0-9a-f]{16})?\]"
MARK = re.compile(MARK_PATTERN)
"""What stands in the place of what was redacted."""

_HINT = re.compile(
    "auth|cookie|key|secret|token|pass|pwd|credential|sig|sess|jwt|bearer|verifier|assertion|otp|pin|csrf|xsrf"
    "|hmac|cvv|cvc|sid|ssn|pw|card|phone|mobile|msisdn|tel|fax|cell"
)
"""A name that tells something has one of these, in lower case."""
_SECRET_PARTS = (
    *("authorization", "cookie", "apikey", "accesskey", "privatekey", "writekey", "signingkey", "licensekey"),
    *("encryptionkey", "accountkey", "sharedkey", "secret", "token", "password", "passwd", "passwort"),
    *("passphrase", "passcode", "credential", "signature", "sessionid", "sessid", "jwt", "bearer"),
    *("codeverifier", "clientassertion", "cardnumber", "creditcard"),
    *("appkey", "applicationkey", "integrationkey", "masterkey", "storagekey", "adafruitiokey"),
    "gitlabsession",
)
_SECRET_WORDS = frozenset(
    (
        *(
            "auth",
            "sig",
            "pwd",
            "pass",
            "otp",
            "pin",
            "csrf",
            "xsrf",
            "hmac",
            "cvv",
            "cvc",
            "sid",
            "ssn",
            "pw",
        ),
        *("pins", "otps"),
    )
)
_NUMBERS_ARE_SECRET = frozenset(("pin", "otp", "cvv", "cvc", "ssn"))
_NO_SECRETS = re.compile(
    r"secretar|tokeni[sz]|bypass|compass|passenger|cookieless|(?:prompt|completion|max|min|total|input|output)_?tokens",
    re.IGNORECASE,
)
_ABOUT = frozenset(
    (
        *(
            "algorithm",
            "check",
            "count",
            "days",
            "disabled",
            "enabled",
            "endpoint",
            "error",
            "errors",
            "expired",
        ),
        *(
            "expires",
            "expiration",
            "expiry",
            "in",
            "length",
            "limit",
            "method",
            "name",
            "page",
            "policy",
            "realm",
        ),
        *(
            "remaining",
            "required",
            "scheme",
            "status",
            "strength",
            "ttl",
            "type",
            "types",
            "uri",
            "url",
            "usage",
        ),
        *("used", "valid", "validity", "version"),
    )
)
"""A name that ends in one of these says something about a secret."""
_PHONE_WORD = re.compile(
    r"(?:tele|cell|mobile|home|work|user|smart)?phones?(?:numbers?|no|nr)?|mobile(?:number|no|nr)?|msisdn|tel|fax"
    r"(?:number)?|cell"
)
_NO_PHONE = frozenset(
    (
        *("app", "brand", "carrier", "country", "device", "has", "id", "is", "manufacturer", "model", "name"),
        *("os", "platform", "sdk", "type", "verified", "version"),
    )
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+")
_NO_LETTERS = re.compile(r"[^a-z0-9]+")
_MAX_NAME = 128


def classify_key(name: str) -> Kind | None:
    """What a value of this name holds: `secret`, `phone`, or nothing that the name tells.

    Of a very long name, its beginning and its end tell.
    """
    if len(name) > 2 * _MAX_NAME:
        name = f"{name[:_MAX_NAME]} {name[-_MAX_NAME:]}"
    return _kind_of_name(name)


def maybe_sensitive(word: str) -> bool:
    """Whether the word, which is perhaps a part of a name, is worth a closer look. A mark is not."""
    return _may_tell(word) if len(word) <= _MAX_NAME else _HINT.search(word.lower()) is not None


@lru_cache(maxsize=16_384)
def _may_tell(word: str) -> bool:
    return not word.startswith("[") and _HINT.search(word.lower()) is not None


@lru_cache(maxsize=4096)
def _kind_of_name(name: str) -> Kind | None:
    words = _words(name)
    if not words:
        return None
    plain = _NO_LETTERS.sub("", _NO_SECRETS.sub("", name.lower()))
    if any(part in plain for part in _SECRET_PARTS) or not _SECRET_WORDS.isdisjoint(words):
        return None if words[-1] in _ABOUT or (words[-1] == "type" and len(words) > 1) else "secret"
    if any(_PHONE_WORD.fullmatch(word) for word in words) and _NO_PHONE.isdisjoint(words):
        return "phone"
    return None


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


# -- values ---------------------------------------------------------------------------------------------

_SAID = frozenset(
    (
        *(
            "are",
            "bad",
            "be",
            "blank",
            "cannot",
            "can't",
            "character",
            "characters",
            "denied",
            "did",
            "disabled",
        ),
        *(
            "does",
            "doesn't",
            "empty",
            "enabled",
            "error",
            "exist",
            "expected",
            "expired",
            "failed",
            "failure",
        ),
        *("forbidden", "format", "found", "has", "have", "incorrect", "invalid", "is", "isn't", "malformed"),
        *("mandatory", "maximum", "minimum", "mismatch", "missing", "must", "need", "needed", "no", "not"),
        *(
            "optional",
            "please",
            "provided",
            "rejected",
            "require",
            "required",
            "requires",
            "revoked",
            "should",
        ),
        *(
            "unauthorized",
            "undefined",
            "unexpected",
            "unknown",
            "unsupported",
            "was",
            "were",
            "will",
            "wrong",
        ),
        *("long", "match", "short", "weak"),
    )
)
"""What is said about a secret rather than being one: `Invalid token: expired`."""
_GLUE = frozenset(
    (
        *(
            "a",
            "an",
            "and",
            "as",
            "at",
            "been",
            "but",
            "by",
            "can",
            "could",
            "for",
            "from",
            "header",
            "in",
            "it",
        ),
        *("of", "on", "only", "or", "that", "the", "this", "to", "too", "use", "value", "with", "your"),
    )
)
_LITERALS = frozenset(
    ("true", "false", "null", "none", "undefined", "nil", "basic", "bearer", "digest", "oauth2", "withheld")
)
_PLAIN_WORD = re.compile(r"[^\W\d_]{1,15}(?:['\u2019-][^\W\d_]{1,15})*|\d{1,4}")
_TWILIO_ID = re.compile(r"(?!SK)[A-Z]{2}[0-9a-f]{32}")
_PUNCTUATION = " \t\r\n.,;:!?\"'`()<>[]{}"
_MAX_SAYING = 200


def is_prose(text: str) -> bool:
    """Whether the text consists of plain words only, and says something: `can't be blank`."""
    words = _said_words(text)
    return len(text) <= _MAX_SAYING and all(map(_is_plain, words)) and not _SAID.isdisjoint(words)


def starts_as_prose(text: str) -> bool:
    """Whether a line without quotes says something: `Session has expired on Friday`."""
    words = _said_words(text[:_MAX_SAYING])
    if words and goes_on_to_say(words[0]):
        return True
    is_plain = all(_is_plain(word) or "://" in word for word in words)
    soon = list(takewhile(_is_plain, words[:4]))
    return not _SAID.isdisjoint(soon) or (is_plain and not _GLUE.isdisjoint(words))


def _is_plain(word: str) -> bool:
    return _PLAIN_WORD.fullmatch(word) is not None


def goes_on_to_say(word: str) -> bool:
    """Whether a word goes on with a sentence about a value rather than with the value."""
    word = word.strip(_PUNCTUATION).lower()
    return word in _SAID or word in _GLUE


def _said_words(text: str) -> list[str]:
    return [word.strip(_PUNCTUATION).lower() for word in text.split() if word.strip(_PUNCTUATION)]


def is_no_secret(name: str, value: str) -> bool:
    """Whether a value is none for all its name: a literal, a count, words, or nothing at all."""
    bare = value[:_MAX_SAYING].strip(_PUNCTUATION).lower()
    is_short = len(value) <= _MAX_SAYING
    if is_short and (bare in _LITERALS or _TWILIO_ID.fullmatch(value) or not any(map(str.isalnum, bare))):
        return True
    if value.isascii() and value.isdigit():
        words = _words(name)
        return (len(value) <= 3 and _NUMBERS_ARE_SECRET.isdisjoint(words)) or "tokens" in words
    return is_prose(value)


_PHONE_NUMBER = re.compile(r"(?<![\w.+])[+(]{0,2}\d(?:[\s().+/x–-]{0,3}\d){6,14}(?!\w|\.\d)")  # noqa: RUF001  # people write so


def phone_number(text: str, start: int = 0, end: int | None = None) -> re.Match[str] | None:
    """The first phone number in a text whose name promises one: it has 7 to 15 digits (ITU-T E.164)."""
    return _PHONE_NUMBER.search(text, start, len(text) if end is None else end)


def holds(kind: Kind, name: str, value: str) -> bool:
    """Whether a value of this name is what the name tells."""
    return phone_number(value) is not None if kind == "phone" else not is_no_secret(name, value)


_RUN = re.compile(r"[A-Za-z0-9]{8,}")
_TIME_OR_UUID = re.compile(
    r"\d{4}-\d\d-\d\d.*|.*[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}.*", re.IGNORECASE
)


def is_id(word: str) -> bool:
    """Whether the word is or holds a UUID, or begins with a date."""
    return _TIME_OR_UUID.match(word[:200]) is not None


def looks_random(word: str) -> bool:
    """Whether a word of 12 characters or more mixes letters and digits as keys do; ids as UUIDs are none."""
    if not 12 <= len(word) <= 4096 or is_id(word):
        return False
    return any(re.search(r"\d", run) and re.search(r"[A-Za-z]", run) for run in _RUN.findall(word))
