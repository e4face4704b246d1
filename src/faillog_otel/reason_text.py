"""Normalises reasons: what two records say for the same cause becomes one text. Pure."""

import re
import string

_MAX_READ_CHARACTERS, _MAX_NORMALISED = 1000, 200
_ASCII_WORD = f"{string.ascii_letters}{string.digits}_-"
_HUMP = re.compile("[A-Z](?<=[a-z][A-Z])")
_MIXED_CASE = re.compile(
    r"(?<![A-Za-z])(?=[A-Za-z]{10})(?=[A-Z]*+[a-z])(?=[a-z]*+[A-Z])"
    r"(?![a-z]*+(?:[A-Z]{1,6}+[a-z]{3,}+)*+[A-Z]{0,6}+(?![A-Za-z]))[A-Za-z]++"
)
"""Letters of an id that happens to have no digit; a CamelCase name has humps of several letters each."""
_JSON = re.compile(r"""\[?\s*\{\s*\\*["']\w+\\*["']\s*:""")
_JSON_MESSAGE = re.compile(
    r"""["']\w*(?:message|error|reason|detail|title|description|code|type)s?["']\s*:\s*(["'])(.*?)(?<!\\)\1"""
)
_MARK = re.compile(r"\[redacted:[^\]\s]{1,64}\]?")
_LETTER = r"[^\W\u2e80-\U0010ffff]"
"""A word character of a script with blanks between words; others touch quotes and addresses: `値'x'は`."""
_QUOTED = re.compile(
    rf"""
    "[^"]*+" | `[^`]*+` | «[^«»]*+» | »[^«»]*+« | ‹[^‹›]*+› | 「[^「」]*+」 | 『[^『』]*+』
    | „[^„“”"]*+[“”"] | “[^“”]*+[“”] | ‚[^‚‘’]*+[‘’] | ‘(?:[^‘’]|’(?={_LETTER}|\*))*+’
    | '(?<!{_LETTER}')(?<!\*')(?:[^']|'(?={_LETTER}|\*))*+'
    """,
    re.VERBOSE,
)
_MAY_BE_QUOTED = re.compile("[\"'`«»‹„“‚‘「『]")
_URL = re.compile(r"""\b[a-z][a-z0-9+.-]*+://[^\s"'`«»‹›„“”‚‘’「」『』]*""")
_MAIL = re.compile(rf"(?<!{_LETTER})(?<![.+%-])(?:{_LETTER}|[.+%-])++@(?:{_LETTER}|[.-])+")
_OTHER_DIGIT = re.compile(r"[^\D0-9]")
_PARTS = "[0-9a-f]{1,4}(?::[0-9a-f]{1,4})"
_MANY_COLONS = re.compile(rf"\b(?:{_PARTS}{{3,7}}|{_PARTS}*::(?:{_PARTS}*)?)", re.ASCII)
"""An IPv6 or a MAC address."""
_VARIES = re.compile(
    r"\b(?:(?<!\w-)(?=[a-z_-]*+\d)[\w-]++(?:[.,:/+]+[a-z_-]*+\d[\w-]*+)*+(?: ?[ap]m\b)?|[a-f]{8,}+\b)",
    re.ASCII,
)
"""A word with a digit, such as a number, an id, an IP address or a time; or hexadecimal letters."""
_MONTHS_AND_DAYS = (
    "jan january feb february mar march apr april may jun june jul july aug august sep sept september"
    " oct october nov november dec december mon monday tue tuesday wed wednesday thu thursday fri friday"
    " sat saturday sun sunday gmt utc"
).split()
_OF_DATES = frozenset(name + end for name in _MONTHS_AND_DAYS for end in ("", ",", "."))
_NAME = rf"\b(?:{'|'.join(_MONTHS_AND_DAYS)})\b"
_DATE = re.compile(rf"{_NAME}[ ,.]*(?:{_NAME}[ ,.]*)?\*|\*[ ,.]*{_NAME}")
_RUN = re.compile(r"(?:[-+](?<![-+][-+])[-+]*+\*|\*)(?:[ ,;:=/.|&+-]*\*)*")


def normalise(reason: str) -> str:
    """Returns a redacted reason with `*` for all that varies, in lower case, at most 200 characters.

    That is: numbers, ids, times, quoted values, URLs, email and IP addresses, marks of redaction; of JSON all
    but its messages. Looks at the first 1,000 characters.
    """
    text = reason[:_MAX_READ_CHARACTERS]
    if len(text) == _MAX_READ_CHARACTERS:  # it was cut, here or before
        text = _without_last_word(text)
    if text.startswith('"') and text.endswith('"') and text.count('"') == 2:
        text = text[1:-1]  # the reason as a JSON string, and not a value in it
    if _HUMP.search(text):
        text = _MIXED_CASE.sub("0", text)  # a digit, so that what it is joined to belongs to the id
    text = _with_placeholders(text.casefold())
    while len(text) > _MAX_NORMALISED:
        text = _with_placeholders(_without_last_word(text[:_MAX_NORMALISED]))
    return text


def _without_last_word(text: str) -> str:
    """Returns a text that was cut without the word that may be incomplete."""
    return text.rstrip(_ASCII_WORD).rstrip() or "*"


def _with_placeholders(text: str) -> str:
    words = text.split()
    text = " ".join(words)
    if "[redacted:" in text:
        text = _MARK.sub("*", text)
    if "{" in text and (found := _JSON.search(text)):
        text = _with_messages_for_json(text, found.start())
    if _MAY_BE_QUOTED.search(text):
        found_quotes = 1
        while found_quotes:  # quotes may be nested
            text, found_quotes = _QUOTED.subn("*", text)
    if "://" in text:
        text = _URL.sub("*", text)
    if "@" in text:
        text = _MAIL.sub("*", text)
    if not text.isascii():
        text = _OTHER_DIGIT.sub("0", text)
    if text.count(":") > 1:
        text = _MANY_COLONS.sub("*", text)
    text = _VARIES.sub("*", text)
    if "*" in text and not _OF_DATES.isdisjoint(words):
        text = _DATE.sub("*", text)
    return _RUN.sub("*", text) if "*" in text else text


def _with_messages_for_json(text: str, start: int) -> str:
    """Returns a text with the first two messages in its JSON instead of the JSON."""
    end = max(text.rfind("}"), text.rfind("]")) + 1
    end = end if end > start else len(text)
    messages = _JSON_MESSAGE.findall(text[start:end].replace('\\"', '"'))
    said = dict.fromkeys(_with_placeholders(message) for _, message in messages) or {"*": None}
    return " ".join(" ".join([text[:start], *list(said)[:2], text[end:]]).split())
