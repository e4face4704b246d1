"""What secrets and people's data look like: a table of patterns over plain text, and what is none of them."""

import binascii
import contextlib
import ipaddress
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, Self

from msgspec import Struct

from faillog_otel.redact.tokens import (
    IBANS,
    MAYBE_SIGNS,
    MAYBE_TOKENS,
    SHAPES,
    START,
    TOKEN_SIGNS,
    TOKENS,
    is_card,
    is_iban,
    is_token,
)
from faillog_otel.redact.unescape import UnescapedText
from faillog_otel.redact.value_spans import Place, place_of
from faillog_otel.redact.vocabulary import Kind, looks_random

# -- signs ---------------------------------------------------------------------------------------------------
#
# What a text must have for a pattern to be worth trying: literals, for they are found many times quicker.
#
# They are looked for in the text's lower case, and with a 0 in the place of each digit, so that
# `000-000-0000` is a sign of a phone number.


_DIGITS_AS_ZERO = str.maketrans("123456789", "000000000")
_ANY_DIGIT = re.compile(r"\d")  # other scripts have their own, and patterns know them
_FOLDED = str.maketrans("\u0130\u0131\u017f", "iis")  # patterns that ignore case take them for these letters
_IN_A_WORD = re.compile(r"(?=.*[a-z])[\w$.-]{2,}")  # of digits alone, it may be in an id
_RARE = re.compile(r"[^\w\s:.-]")

_MIN_SHAPED = 12

_MAX_CLEAN_WORDS = 4096
_MAX_CLEAN_WORD_CHARS = 64


class RequiredLiterals(Struct, frozen=True):
    """Of these a text must have one. `words` can only stand within a word, as `Plain.words` has them."""

    words: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    """Each behind the character of it that is the rarest."""
    shape: re.Pattern[str] | None = None
    """Or a word that begins so; of words of digits, or that may be hexadecimal ids, none is looked at."""
    colons: int | None = None
    """Or `::`, or so many colons that stand neither behind a quote nor before a blank, as JSON's do."""

    @classmethod
    def of(cls, *signs: str, colons: int | None = None) -> Self:
        """These literals, in lower case."""
        words, others = [], []
        for sign in signs:
            read = sign.translate(_DIGITS_AS_ZERO)
            if _IN_A_WORD.fullmatch(read):
                words.append(read)
            else:
                rare = _RARE.search(read)
                others.append((rare[0] if rare else read, read))
        return cls(tuple(words), tuple(others), colons=colons)


class Prefilter:
    """A text, read as signs are."""

    def __init__(self, plain: UnescapedText, all_words: Collection[str], all_shapes: re.Pattern[str]) -> None:
        """`all_words` and `all_shapes` are the signs within words that anybody will ask for."""
        words = plain.words - _known_clean_words
        self._words = _read("\n".join(words))
        self._shaped = [word for word in words if len(word) >= _MIN_SHAPED and all_shapes.match(word)]
        if not _has_one(self._words, all_words):
            self._words = ""
            if not self._shaped:
                _remember(words)
        self._text = _read(plain.brief)
        bare = self._text.replace('":', "")
        self._colons = bare.count(":") - bare.count(": ")

    def has(self, signs: RequiredLiterals) -> bool:
        """Whether the text has one of the signs."""
        if signs.shape is not None:
            return any(map(signs.shape.match, self._shaped))
        if self._words and _has_one(self._words, signs.words):
            return True
        for rare, sign in signs.others:
            if rare in self._text and sign in self._text:
                return True
        return signs.colons is not None and (self._colons >= signs.colons or "::" in self._text)


def _has_one(text: str, signs: Collection[str]) -> bool:
    for sign in signs:  # noqa: SIM110  # twice as quick as any()
        if sign in text:
            return True
    return False


def _read(text: str) -> str:
    if text.isascii():
        return text.lower().translate(_DIGITS_AS_ZERO)
    return _ANY_DIGIT.sub("0", text.translate(_FOLDED).lower())


_known_clean_words: set[str] = set()
"""Words of texts without any sign, so that those which come again and again are not searched again. They may
be anything that stood in a body: nothing but Glance is to see them."""


def _remember(words: Collection[str]) -> None:
    if len(_known_clean_words) + len(words) > _MAX_CLEAN_WORDS:
        _known_clean_words.clear()
    _known_clean_words.update(
        [word for word in words if len(word) <= _MAX_CLEAN_WORD_CHARS][:_MAX_CLEAN_WORDS]
    )


# -- patterns ------------------------------------------------------------------------------------------------


Judge = Callable[[str], bool]
"""Whether the text that the pattern found is what it looks for."""


class Look(Struct, frozen=True):
    """What something looks like. The group `value`, if there is one, is what is replaced.

    A text that has it has one of `signs`, as a Glance reads them: they are looked for first, being quicker.
    """

    kind: Kind
    rule: str
    signs: RequiredLiterals
    pattern: re.Pattern[str]
    judge: Judge = bool
    not_behind: re.Pattern[str] | None = None
    """What is before something else that looks alike."""
    near: re.Pattern[str] | None = None
    """Without which it is something else."""

    def places(self, plain: UnescapedText) -> Iterator[Place]:
        """Where such things are."""
        text = plain.text
        group = "value" if "value" in self.pattern.groupindex else 0
        for found in self.pattern.finditer(text):
            start, end = found.span(group)
            if not self.judge(text[start:end]):
                continue
            is_other = self.not_behind and self.not_behind.search(text, max(0, start - 40), start)
            is_alone = self.near and not self.near.search(text, max(0, start - 400), end + 400)
            closing = text.rfind('"', start, end) if text[start] == '"' else start
            if not is_other and not is_alone and plain.spelled(start) == plain.spelled(closing):
                yield place_of(plain, self.kind, self.rule, start, end)


def looks(plain: UnescapedText) -> Iterator[Look]:
    """Those patterns that may be in the text, the most telling ones first."""
    glance = Prefilter(plain, _SIGNS_IN_WORDS, _SHAPES)
    return (look for look in LOOKS if glance.has(look.signs))


# -- secrets --------------------------------------------------------------------------------------------

_WORD_START = r"(?<![\w.$-])"


_PLAIN_SCHEME = re.compile(r"[A-Z]?[a-z]+(?:[-_/][A-Za-z]?[a-z]+)*")


def _is_credential(value: str) -> bool:
    """`Bearer` and `Basic` are words, too: what follows is a secret unless it is a word as well."""
    return not (len(value) < 32 and _PLAIN_SCHEME.fullmatch(value.rstrip(".")))


_USER_AND_PASSWORD = re.compile(rb"(?!\d+:)[\w.@+-]{1,64}:(?!\d+\Z|[0-9a-f]{8}-|//)[!-~]{4,}")
"""With a number on either side, or as a URL, it is an id, as GraphQL has them: `User:12345`."""
_ASCII_IN_BASE64 = (
    r"(?:[I-Za-f][C-HS-Xi-nyz0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/])",
    r"(?:[I-Za-f][AQgw](?:==)?|[I-Za-f][C-HS-Xi-nyz0-3][AEIMQUYcgkosw048]=?)",
)
"""Three printable characters, and the one or two left over at the end."""


def _is_user_and_password(value: str) -> bool:
    value = value.rstrip("=")
    return _USER_AND_PASSWORD.fullmatch(binascii.a2b_base64(value + "=" * (-len(value) % 4))) is not None


# -- numbers of accounts, cards and people ------------------------------------------------------------------

_OF_AN_ID = re.compile(r"id[\"']?\s*+[:=]\s*+[\"']?\Z", re.IGNORECASE)
# -- people's data ------------------------------------------------------------------------------------------

_COUNTRIES = re.compile(
    r"1[2-9]\d\d[2-9]\d{6}\Z|7\d{10}\Z|(?:2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58])\d{6,13}\Z"
    r"|(?:21[12368]|2[2346]\d|25\d|29[01789]|35\d|37\d|38[0-35-79]|42[013]|50\d|59\d|67\d|68\d|69[0-2]|80[08]|85[02356]"
    r"|87[0-8]|88[0-368]|96\d|97\d|99[2-68])\d{5,12}\Z"
)
"""Country codes (ITU-T E.164, list of assigned ones) with as many digits as may follow."""
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
"""The parts of the address space that are in use (IANA): `a::b` and `1:2:3:4:5:6:7:8` are something else."""


def _is_ipv6(value: str) -> bool:
    with contextlib.suppress(ValueError):
        return _IPV6_BEGINS.match(value) is not None and ipaddress.IPv6Address(value) is not None
    return False


_FILE_OR_HASH = re.compile(
    r"(?:[\w-]++@)?[\w.-]*\.(?:png|jpe?g|gif|svg|webp)|(?=[a-f]*\d)[0-9a-f]{5,8}|(?:sha\d{1,3}|md5)",
    re.IGNORECASE,
)


def _is_email(value: str) -> bool:
    """`java.lang.Object@7a81197d`, `icon@2x.png` and `image@sha256` are none."""
    return _FILE_OR_HASH.fullmatch(re.split("[@＠]", value)[-1]) is None  # noqa: RUF001  # people type it


def _look(kind: Kind, rule: str, signs: str, pattern: str, flags: int = re.IGNORECASE, **more: Any) -> Look:
    """A row; without signs, the pattern is the sign, in words."""
    compiled = re.compile(pattern, flags | re.DOTALL)
    literals = RequiredLiterals.of(*signs.split("|")) if signs else RequiredLiterals(shape=compiled)
    return Look(kind, rule, literals, compiled, **more)


LOOKS = (
    _look(
        "secret",
        "private key",
        "-----begin",
        r"-----BEGIN[ +][^-\r\n]{0,40}?PRIVATE[ +]KEY[^-\r\n]{0,20}+-----.*?(?:-----END[^-]{0,60}+-----|\Z)",
    ),
    _look(
        "secret",
        "user in a URL",
        "://",
        r"://(?P<value>[^\s/?#\"'\\<>@]*+(?:@[^\s/?#\"'\\<>@]*+(?=@))*+)(?=@)",
    ),
    _look(
        "secret",
        "JSON web token",
        "eyj|eyai|ewog|ewok|ew0k",
        rf"{START}e(?:yJ|yAi|wog|woK|w0K)[\w-]{{8,}}+=*+(?:(?:\.{{1,2}}[\w-]++=*+){{1,4}}+|\Z)",
        0,
    ),
    Look("secret", "vendor's token", RequiredLiterals.of(*TOKEN_SIGNS), TOKENS),
    Look("secret", "vendor's token", RequiredLiterals.of(*MAYBE_SIGNS), MAYBE_TOKENS, is_token),
    _look("secret", "vendor's token", "", _WORD_START + SHAPES, 0, judge=is_token),
    _look(
        "secret",
        "AWS secret key",
        "akia|asia",
        r"(?<![\w/+=-])(?![0-9a-f]{40}|[0-9A-F]{40})[A-Za-z0-9/+]{40}(?![\w/+=-])",
        0,
        near=re.compile("(?:AKIA|ASIA)[A-Z0-9]{12}"),
    ),
    _look(
        "secret",
        "webhook's URL",
        "hooks.slack.com|hooks.zapier.com|webhooks/|.com/webhook",
        r"(?:hooks\.(?:slack\.com/\w{1,20}|zapier\.com/hooks/catch)/|discord(?:app)?\.com/api/(?:v\d+/)?webhooks/\d{1,24}/|\.com/webhook\w*+/"
        r")(?P<value>[\w@/-]{8,}+)",
    ),
    _look("secret", "bot's token", "bot000000", r"(?<=bot)\d{6,12}:[\w-]{20,}+"),
    _look("secret", "key in a URL", "?key=|&key=", r"[?&]key=(?P<value>[\w.~+-]{12,}+)", judge=looks_random),
    _look(
        "secret",
        "user and password",
        "-u|--user",
        r"(?<=[\s\"'])(?:-u|--user)[ =]{1,4}[\"']?[^\s:\"']{1,100}:(?P<value>[^\s\"']++)",
    ),
    _look(
        "secret",
        "authorization",
        "bearer|basic",
        r"\b(?:bearer|basic)(?:[ \t]++|\+)[\"']?(?!\w++=[\"'])(?:\d{1,9}\|)?"
        r"(?P<value>[\w.~+/=-]{8,}+|[\w.~+/=-]{4,}+\Z)",
        judge=_is_credential,
    ),
    _look(
        "secret",
        "user and password in base64",
        "",
        rf"(?<![+=]){_WORD_START}{_ASCII_IN_BASE64[0]}{{3,}}+{_ASCII_IN_BASE64[1]}?(?![\w+=-])",
        0,
        judge=_is_user_and_password,
    ),
    _look("secret", "IBAN", "", _WORD_START + IBANS.replace("[ -]?", ""), 0, judge=is_iban),
    _look("secret", "IBAN", "0000 0000|0000-0000", rf"{START}(?=\w{{4}}[ -]){IBANS}", 0, judge=is_iban),
    _look(
        "secret",
        "card number",
        "0000000000000|0000 0000|0000-0000|0000+0000",
        r"(?<![\w.+-])(?:[2-6]\d{12,18}+|[2-6]\d{3}([ +-])\d{4}\1\d{4}\1\d{1,7}"
        r"|3\d{3}([ +-])\d{6}\2\d{4,5})(?!\w|[.,-]\d)",
        judge=is_card,
        not_behind=_OF_AN_ID,
    ),
    _look(
        "secret",
        "US social security number",
        "000-00-0000",
        r"(?<![\w.+-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-]|\.\d)",
    ),
    _look(
        "email",
        "email address",
        '"@',
        r"\"[^\W_](?:[^\"\r\n\\]{0,62}[\w)])?\"@(?:[^\W_][\w-]*+\.)*+[^\W\d_][\w-]*+",
    ),
    _look(
        "email",
        "email address",
        "@|＠",  # noqa: RUF001  # people type it
        r"[\w.+%-](?<![\w.+%-].)(?<!\w'.)[\w.+%-]*+(?:'[\w.+%-]++)*+[@＠]"  # noqa: RUF001  # people type it
        r"(?:(?:[^\W_][\w-]*+\.(?=\w))++(?=[^\W\d_])[\w-]++|[^\W\d_][\w-]*+(?!\.\w)"
        r"|[\w-]*+(?=\.*\Z|…|\.\.\.))",
        judge=_is_email,
    ),
    _look("phone", "phone number", "+0", rf"\+(?<![\w+.-].)\d{_DIGITS}", judge=_is_international),
    _look(
        "phone", "phone number", "00", rf"00(?<![\w+.#-]..)[1-9]{_DIGITS}(?![\w-])", judge=_is_international
    ),
    _look("phone", "phone number", "tel", r"(?<!\w)tel:(?P<value>\+?[\d().-]{7,20}+)"),
    _look("phone", "phone number", "(000)", r"\((?<![\w+.-].)[2-9]\d\d\)[ ]?\d{3}[ .-]?\d{4}(?![\w-])"),
    _look(
        "phone",
        "phone number",
        "000 000 0000|000.000.0000|000-000-0000",
        r"[1-9](?<![\w+.-].)(?:(?<=1)[ .-][2-9]\d\d|(?<!1)\d\d)([ .-])[2-9]\d\d\1\d{4}(?![\w-])",
    ),
    _look(
        "ip",
        "IPv4 address",
        "0.0",
        r"[0-9](?<![\w.].)\d{0,2}+\.\d{1,3}+\.\d{1,3}+\.\d{1,3}+(?!\w|\.\d|[-+.](?:alpha|beta|dev|exe|jar|pre|rc|snapshot|t?gz|whl|zip))",
        0,
        judge=_is_ipv4,
        not_behind=_OF_VERSION,
    ),
    _look(
        "ip", "IPv4 address", "ip-", r"(?<!\w)ip-(?P<value>\d{1,3}+(?:-\d{1,3}+){3})(?!\w)", judge=_is_ipv4
    ),
    Look(
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
_SIGNS_IN_WORDS = tuple(sign for look in LOOKS for sign in look.signs.words)
_SHAPES = re.compile("|".join(look.signs.shape.pattern for look in LOOKS if look.signs.shape), re.DOTALL)
