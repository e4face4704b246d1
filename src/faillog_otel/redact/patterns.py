"""Patterns of secrets and personal data over plain text.

`PATTERNS` is the table. A pattern is tried only if the text has one of its required literals: a search for a
literal is many times faster than a regular expression.
"""

import binascii
import contextlib
import ipaddress
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, Self

from msgspec import Struct

from faillog_otel.redact.value_spans import Match, UnescapedText, match_of
from faillog_otel.redact.vocabulary import (
    IBANS,
    MAYBE_LITERALS,
    MAYBE_TOKENS,
    SHAPES,
    START,
    TOKEN_LITERALS,
    TOKENS,
    Kind,
    is_card,
    is_iban,
    is_token,
    looks_random,
)

# -- prefilter -----------------------------------------------------------------------------------------------

_DIGITS_AS_ZERO = str.maketrans("123456789", "000000000")
_ANY_DIGIT = re.compile(r"\d")  # also digits of other scripts, which patterns match
_FOLDED = str.maketrans("\u0130\u0131\u017f", "iis")  # case-insensitive patterns match these letters
_IN_A_WORD = re.compile(r"(?=.*[a-z])[\w$.-]{2,}")  # digits alone can be in an id
_RARE = re.compile(r"[^\w\s:.-]")

_MIN_SHAPED = 12

_MAX_CLEAN_WORDS = 4096
_MAX_CLEAN_WORD_CHARS = 64


class RequiredLiterals(Struct, frozen=True):
    """Literals of which a text must have at least one. `words` occur within `UnescapedText.words` only."""

    words: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    """Pairs: the rarest character of a literal, and the literal."""
    shape: re.Pattern[str] | None = None
    """Or: a word that matches this; numbers and possible hexadecimal ids are not tested."""
    colons: int | None = None
    """Or: `::`, or this many colons that neither follow a quote nor precede a blank, as those of JSON do."""

    @classmethod
    def of(cls, *literals: str, colons: int | None = None) -> Self:
        """Takes literals in lower case."""
        words, others = [], []
        for literal in literals:
            folded = literal.translate(_DIGITS_AS_ZERO)
            if _IN_A_WORD.fullmatch(folded):
                words.append(folded)
            else:
                rare = _RARE.search(folded)
                others.append((rare[0] if rare else folded, folded))
        return cls(tuple(words), tuple(others), colons=colons)


class Prefilter:
    """A text, folded for the search for literals."""

    def __init__(self, plain: UnescapedText, all_words: Collection[str], all_shapes: re.Pattern[str]) -> None:
        """`all_words` and `all_shapes` are the word literals and the shapes of all patterns."""
        words = plain.words - _known_clean_words
        self._words = _folded("\n".join(words))
        self._shaped = [word for word in words if len(word) >= _MIN_SHAPED and all_shapes.match(word)]
        if not _has_any(self._words, all_words):
            self._words = ""
            if not self._shaped:
                _remember_clean(words)
        self._text = _folded(plain.brief)
        outside_json = self._text.replace('":', "")
        self._colons = outside_json.count(":") - outside_json.count(": ")

    def has_any(self, literals: RequiredLiterals) -> bool:
        """Returns whether the text has one of the literals."""
        if literals.shape is not None:
            return any(map(literals.shape.match, self._shaped))
        if self._words and _has_any(self._words, literals.words):
            return True
        for rare, literal in literals.others:
            if rare in self._text and literal in self._text:
                return True
        return literals.colons is not None and (self._colons >= literals.colons or "::" in self._text)


def _has_any(text: str, literals: Collection[str]) -> bool:
    for literal in literals:  # noqa: SIM110  # twice as fast as any()
        if literal in text:
            return True
    return False


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower().translate(_DIGITS_AS_ZERO)
    return _ANY_DIGIT.sub("0", text.translate(_FOLDED).lower())


_known_clean_words: set[str] = set()
"""Words of texts without any literal, so that frequent words are not searched again. They can hold anything
from a body: only Prefilter may read them."""


def _remember_clean(words: Collection[str]) -> None:
    if len(_known_clean_words) + len(words) > _MAX_CLEAN_WORDS:
        _known_clean_words.clear()
    _known_clean_words.update(
        [word for word in words if len(word) <= _MAX_CLEAN_WORD_CHARS][:_MAX_CLEAN_WORDS]
    )


def fold(literal: str) -> str:
    """Returns a literal as it is searched: in lower case, with 0 for each digit."""
    return literal.lower().translate(_DIGITS_AS_ZERO)


# -- patterns ------------------------------------------------------------------------------------------------

Validator = Callable[[str], bool]
"""Returns whether a match of the regular expression is of its kind, for example by a check digit."""


class Pattern(Struct, frozen=True):
    """One kind of secret or personal data. The group `value`, if there is one, is what is replaced."""

    kind: Kind
    rule: str
    required: RequiredLiterals
    regex: re.Pattern[str]
    is_valid: Validator = bool
    not_after: re.Pattern[str] | None = None
    """Text that precedes other data of the same form."""
    near: re.Pattern[str] | None = None
    """Text that must occur within 400 characters of the match."""

    def matches(self, plain: UnescapedText) -> Iterator[Match]:
        """Yields the matches in a text."""
        text = plain.text
        group = "value" if "value" in self.regex.groupindex else 0
        for match in self.regex.finditer(text):
            start, end = match.span(group)
            if not self.is_valid(text[start:end]):
                continue
            follows_other = self.not_after and self.not_after.search(text, max(0, start - 40), start)
            lacks_neighbour = self.near and not self.near.search(text, max(0, start - 400), end + 400)
            closing = text.rfind('"', start, end) if text[start] == '"' else start
            if (
                not follows_other
                and not lacks_neighbour
                and plain.source_of(start) == plain.source_of(closing)
            ):
                yield match_of(plain, self.kind, self.rule, start, end)


def candidate_patterns(plain: UnescapedText) -> Iterator[Pattern]:
    """Yields the patterns that can match the text, the most specific ones first."""
    prefilter = Prefilter(plain, _ALL_WORDS, ALL_SHAPES)
    return (pattern for pattern in PATTERNS if prefilter.has_any(pattern.required))


_WORD_START = r"(?<![\w.$-])"

_PLAIN_SCHEME = re.compile(r"[A-Z]?[a-z]+(?:[-_/][A-Za-z]?[a-z]+)*")


def _is_credential(value: str) -> bool:
    """Returns whether the text after `Bearer` or `Basic` is a credential, not an ordinary word."""
    return not (len(value) < 32 and _PLAIN_SCHEME.fullmatch(value.rstrip(".")))


_USER_AND_PASSWORD = re.compile(rb"(?!\d+:)[\w.@+-]{1,64}:(?!\d+\Z|[0-9a-f]{8}-|//)[!-~]{4,}")
"""A number on either side means an id, such as GraphQL's `User:12345`; URLs do not match either."""
_ASCII_IN_BASE64 = (
    r"(?:[I-Za-f][C-HS-Xi-nyz0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/])",
    r"(?:[I-Za-f][AQgw](?:==)?|[I-Za-f][C-HS-Xi-nyz0-3][AEIMQUYcgkosw048]=?)",
)
"""Three printable characters, and the last one or two."""


def _is_user_and_password(value: str) -> bool:
    value = value.rstrip("=")
    return _USER_AND_PASSWORD.fullmatch(binascii.a2b_base64(value + "=" * (-len(value) % 4))) is not None


_OF_AN_ID = re.compile(r"id[\"']?\s*+[:=]\s*+[\"']?\Z", re.IGNORECASE)

_COUNTRIES = re.compile(
    r"1[2-9]\d\d[2-9]\d{6}\Z|7\d{10}\Z|(?:2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58])\d{6,13}\Z"
    r"|(?:21[12368]|2[2346]\d|25\d|29[01789]|35\d|37\d|38[0-35-79]|42[013]|50\d|59\d|67\d|68\d|69[0-2]|80[08]|85[02356]"
    r"|87[0-8]|88[0-368]|96\d|97\d|99[2-68])\d{5,12}\Z"
)
"""Country codes (ITU-T E.164, list of assigned codes), each with the number of digits that can follow."""
_GAP = r"[ .()/+\u00a0\u2010-\u2015-]"
_DIGITS = rf"(?:{_GAP}{{0,2}}+\d){{7,14}}(?!\d|[.,]\d)"
_NO_DIGIT = re.compile(r"\D")
_DECIMAL = re.compile(r"\+\d{1,3}\.\d{4,}")


def _is_international(value: str) -> bool:
    digits = _NO_DIGIT.sub("", value.replace("(0)", "")).removeprefix("00")
    return not _DECIMAL.match(value) and _COUNTRIES.match(digits) is not None


_OF_VERSION = re.compile(
    r"(?:(?i:(?:version|release|build|firmware)s?|(?<![a-z])(?:ver|rev|revision|section|sdk|driver|package"
    r"|kernel|(?:mac|i|ipad|watch|tv)os|os[ ]x|android|windows(?:[ ]nt)?|firefox|chrome|safari|opera|edge))"
    r"\.?[\"']?\s*+(?:[:=]|[<>=~^]{1,2})?\s*+[\"']?|(?<![/.\w])[A-Z][\w-]*+/)\Z",
)


def _is_ipv4(value: str) -> bool:
    return all(int(part) < 256 for part in re.split(r"[.-]", value))


_IPV6_BEGINS = re.compile(
    r"[23][0-9a-f]{3}:|f[cd][0-9a-f]{2}:|fe[89ab][0-9a-f]:|ff[0-9a-f]{2}:|64:ff9b:"
    r"|::(?:1\Z|ffff:|[0-9a-f:]*+\.)|0+:0+:",
    re.IGNORECASE,
)
"""The parts of the address space in use (IANA): `a::b` and `1:2:3:4:5:6:7:8` are not addresses."""


def _is_ipv6(value: str) -> bool:
    with contextlib.suppress(ValueError):
        return _IPV6_BEGINS.match(value) is not None and ipaddress.IPv6Address(value) is not None
    return False


_FILE_OR_HASH = re.compile(
    r"(?:[\w-]++@)?[\w.-]*\.(?:png|jpe?g|gif|svg|webp)|(?=[a-f]*\d)[0-9a-f]{5,8}|(?:sha\d{1,3}|md5)",
    re.IGNORECASE,
)


def _is_email(value: str) -> bool:
    """Returns False for `java.lang.Object@7a81197d`, `icon@2x.png` and `image@sha256`."""
    return _FILE_OR_HASH.fullmatch(re.split("[@＠]", value)[-1]) is None  # noqa: RUF001  # people type it


def _pattern(
    kind: Kind, rule: str, required: str, regex: str, flags: int = re.IGNORECASE, **options: Any
) -> Pattern:
    """Returns a row of the table. Without required literals, the pattern is tested on each word."""
    compiled = re.compile(regex, flags | re.DOTALL)
    literals = RequiredLiterals.of(*required.split("|")) if required else RequiredLiterals(shape=compiled)
    return Pattern(kind, rule, literals, compiled, **options)


PATTERNS = (
    _pattern(
        "secret",
        "private key",
        "-----begin",
        r"-----BEGIN[ +][^-\r\n]{0,40}?PRIVATE[ +]KEY[^-\r\n]{0,20}+-----.*?(?:-----END[^-]{0,60}+-----|\Z)",
    ),
    _pattern(
        "secret",
        "user in a URL",
        "://",
        r"://(?P<value>[^\s/?#\"'\\<>@]*+(?:@[^\s/?#\"'\\<>@]*+(?=@))*+)(?=@)",
    ),
    _pattern(
        "secret",
        "JSON web token",
        "eyj|eyai|ewog|ewok|ew0k",
        rf"{START}e(?:yJ|yAi|wog|woK|w0K)[\w-]{{8,}}+=*+(?:(?:\.{{1,2}}[\w-]++=*+){{1,4}}+|\Z)",
        0,
    ),
    Pattern("secret", "vendor's token", RequiredLiterals.of(*TOKEN_LITERALS), TOKENS),
    Pattern("secret", "vendor's token", RequiredLiterals.of(*MAYBE_LITERALS), MAYBE_TOKENS, is_token),
    _pattern("secret", "vendor's token", "", _WORD_START + SHAPES, 0, is_valid=is_token),
    _pattern(
        "secret",
        "AWS secret key",
        "akia|asia",
        r"(?<![\w/+=-])(?![0-9a-f]{40}|[0-9A-F]{40})[A-Za-z0-9/+]{40}(?![\w/+=-])",
        0,
        near=re.compile("(?:AKIA|ASIA)[A-Z0-9]{12}"),
    ),
    _pattern(
        "secret",
        "webhook's URL",
        "hooks.slack.com|hooks.zapier.com|webhooks/|.com/webhook",
        r"(?:hooks\.(?:slack\.com/\w{1,20}|zapier\.com/hooks/catch)/|discord(?:app)?\.com/api/(?:v\d+/)?webhooks/\d{1,24}/|\.com/webhook\w*+/"
        r")(?P<value>[\w@/-]{8,}+)",
    ),
    _pattern("secret", "bot's token", "bot000000", r"(?<=bot)\d{6,12}:[\w-]{20,}+"),
    _pattern(
        "secret", "key in a URL", "?key=|&key=", r"[?&]key=(?P<value>[\w.~+-]{12,}+)", is_valid=looks_random
    ),
    _pattern(
        "secret",
        "user and password",
        "-u|--user",
        r"(?<=[\s\"'])(?:-u|--user)[ =]{1,4}[\"']?[^\s:\"']{1,100}:(?P<value>[^\s\"']++)",
    ),
    _pattern(
        "secret",
        "authorization",
        "bearer|basic",
        r"\b(?:bearer|basic)(?:[ \t]++|\+)[\"']?(?!\w++=[\"'])(?:\d{1,9}\|)?"
        r"(?P<value>[\w.~+/=-]{8,}+|[\w.~+/=-]{4,}+\Z)",
        is_valid=_is_credential,
    ),
    _pattern(
        "secret",
        "user and password in base64",
        "",
        rf"(?<![+=]){_WORD_START}{_ASCII_IN_BASE64[0]}{{3,}}+{_ASCII_IN_BASE64[1]}?(?![\w+=-])",
        0,
        is_valid=_is_user_and_password,
    ),
    _pattern("secret", "IBAN", "", _WORD_START + IBANS.replace("[ -]?", ""), 0, is_valid=is_iban),
    _pattern("secret", "IBAN", "0000 0000|0000-0000", rf"{START}(?=\w{{4}}[ -]){IBANS}", 0, is_valid=is_iban),
    _pattern(
        "secret",
        "card number",
        "0000000000000|0000 0000|0000-0000|0000+0000",
        r"(?<![\w.+-])(?:[2-6]\d{12,18}+|[2-6]\d{3}([ +-])\d{4}\1\d{4}\1\d{1,7}"
        r"|3\d{3}([ +-])\d{6}\2\d{4,5})(?!\w|[.,-]\d)",
        is_valid=is_card,
        not_after=_OF_AN_ID,
    ),
    _pattern(
        "secret",
        "US social security number",
        "000-00-0000",
        r"(?<![\w.+-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-]|\.\d)",
    ),
    _pattern(
        "email",
        "email address",
        '"@',
        r"\"[^\W_](?:[^\"\r\n\\]{0,62}[\w)])?\"@(?:[^\W_][\w-]*+\.)*+[^\W\d_][\w-]*+",
    ),
    _pattern(
        "email",
        "email address",
        "@|＠",  # noqa: RUF001  # people type it
        r"[\w.+%-](?<![\w.+%-].)(?<!\w'.)[\w.+%-]*+(?:'[\w.+%-]++)*+[@＠]"  # noqa: RUF001  # people type it
        r"(?:(?:[^\W_][\w-]*+\.(?=\w))++(?=[^\W\d_])[\w-]++|[^\W\d_][\w-]*+(?!\.\w)"
        r"|[\w-]*+(?=\.*\Z|…|\.\.\.))",
        is_valid=_is_email,
    ),
    _pattern("phone", "phone number", "+0", rf"\+(?<![\w+.-].)\d{_DIGITS}", is_valid=_is_international),
    _pattern(
        "phone",
        "phone number",
        "00",
        rf"00(?<![\w+.#-]..)[1-9]{_DIGITS}(?![\w-])",
        is_valid=_is_international,
    ),
    _pattern("phone", "phone number", "tel", r"(?<!\w)tel:(?P<value>\+?[\d().-]{7,20}+)"),
    _pattern("phone", "phone number", "(000)", r"\((?<![\w+.-].)[2-9]\d\d\)[ ]?\d{3}[ .-]?\d{4}(?![\w-])"),
    _pattern(
        "phone",
        "phone number",
        "000 000 0000|000.000.0000|000-000-0000",
        r"[1-9](?<![\w+.-].)(?:(?<=1)[ .-][2-9]\d\d|(?<!1)\d\d)([ .-])[2-9]\d\d\1\d{4}(?![\w-])",
    ),
    _pattern(
        "ip",
        "IPv4 address",
        "0.0",
        r"[0-9](?<![\w.].)\d{0,2}+\.\d{1,3}+\.\d{1,3}+\.\d{1,3}+(?!\w|\.\d|[-+.](?:alpha|beta|dev|exe|jar|pre|rc|snapshot|t?gz|whl|zip))",
        0,
        is_valid=_is_ipv4,
        not_after=_OF_VERSION,
    ),
    _pattern(
        "ip", "IPv4 address", "ip-", r"(?<!\w)ip-(?P<value>\d{1,3}+(?:-\d{1,3}+){3})(?!\w)", is_valid=_is_ipv4
    ),
    Pattern(
        "ip",
        "IPv6 address",
        RequiredLiterals.of(colons=6),
        re.compile(
            r"[0236fF:](?:(?<![\w:.].)|(?<=[G-Zg-z]:.))[0-9A-Fa-f]{0,3}:[0-9A-Fa-f:.]{0,44}[0-9A-Fa-f:](?![\w:])",
            re.DOTALL,
        ),
        _is_ipv6,
    ),
)
_ALL_WORDS = tuple(word for pattern in PATTERNS for word in pattern.required.words)
ALL_SHAPES = re.compile(
    "|".join(pattern.required.shape.pattern for pattern in PATTERNS if pattern.required.shape), re.DOTALL
)
