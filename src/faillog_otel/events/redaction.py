"""What must not leave: secrets and people's data, replaced in bodies, reasons, URLs and unknown fields.

By name (`names.py`: a key, parameter or header that by its name holds a secret) and by pattern (what looks
like a token, an email address, an IP address, a phone number). It works on any text, JSON or not, also on
one that Segment cut off in the middle: a value without its end goes as far as the text. Linear in the
length of the text, and the same when done twice. Ids are never handed to it.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable, Iterator

from msgspec import Struct

from faillog_otel.config import Secret
from faillog_otel.events.names import MARK, Kind, named_values

_MOST_ROUNDS = 5
_DIGITS = r"(?:(?:[ .()/-]|%20){0,2}+\d){7,14}(?![\w-])"
"""The rest of a phone number: ITU-T E.164 allows 15 digits."""


class Finding(Struct, frozen=True):
    """One thing that was redacted: what it is, and by which rule."""

    kind: Kind
    rule: str


class _Pattern(Struct, frozen=True):
    """What a secret looks like. The group `keep` stays.

    A text that has one has one of `signs`, if any (in lower case): they are looked for first, being quicker.
    """

    kind: Kind
    rule: str
    signs: tuple[str, ...]
    pattern: re.Pattern[str]

    def judge(self, value: str) -> tuple[Kind, str] | None:
        """What the value is, and by which rule; None where it only looks like it."""
        if self.kind == "ip" and any(int(part) > 255 for part in value.split(".")):
            return None
        return self.kind, self.rule


def _pattern(kind: Kind, rule: str, signs: str, pattern: str, flags: int = re.IGNORECASE) -> _Pattern:
    return _Pattern(kind, rule, tuple(signs.split()), re.compile(pattern, flags | re.DOTALL))


_PATTERNS = (
    _pattern(
        "secret",
        "private key",
        "-----begin",
        r"-----BEGIN [^-\r\n]{0,40}?PRIVATE KEY[^-\r\n]{0,20}+-----.*?(?:-----END[^-]{0,60}+-----|\Z)",
    ),
    _pattern("secret", "user in a URL", "://", r"(?P<keep>://)(?:[^\s/?#\"'\\<>@]*+@)++"),
    _pattern(
        "secret",
        "JSON web token",
        "eyj",
        r"(?<![\w-])eyJ[\w-]{8,}+(?:\.[\w-]++(?:\.[\w-]*+)?+|\Z)",
        0,
    ),
    _pattern(
        "secret", "AWS key", "akia asia", r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])", 0
    ),
    _pattern(
        "secret",
        "vendor's token",
        "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ sk_ rk_ whsec_ shpat_ shpss_ shpca_ shppa_ npm_ hf_ dop_v1_"
        " lin_api_",
        r"(?<![A-Za-z0-9])(?:gh[pousr]_\w{20,}+|github_pat_\w{20,}+|[sr]k_(?:live|test)_\w{8,}+|whsec_\w{16,}+"
        r"|shp(?:at|ss|ca|pa)_\w{16,}+|npm_\w{20,}+|hf_\w{20,}+|dop_v1_\w{16,}+|lin_api_\w{16,}+)",
        0,
    ),
    _pattern(
        "secret",
        "vendor's token",
        "xox xapp- glpat- pypi- sk- key- sq0",
        r"(?<![A-Za-z0-9])(?:xox[abeprs]-[\w-]{10,}+|xapp-[\w-]{10,}+|glpat-[\w-]{16,}+|pypi-[\w-]{16,}+"
        r"|sk-[\w-]{20,}+|key-[0-9a-f]{32}|sq0(?:atp|csp)-[\w-]{16,}+)",
        0,
    ),
    _pattern("secret", "vendor's token", "sg.", r"(?<![A-Za-z0-9])SG\.[\w-]{16,}+\.[\w-]{16,}+", 0),
    _pattern("secret", "Google key", "aiza ya29.", r"(?<![A-Za-z0-9])(?:AIza[\w-]{35}|ya29\.[\w-]{20,}+)", 0),
    _pattern(
        "email",
        "email address",
        "@ %40 %2540 u0040",
        r"[\w.+%-](?<![\w.+%-].)(?<!\w'\w)(?:(?<!%)|(?!(?:25)*40))(?:[\w.+-]|(?<=\w)'(?=\w)|%(?!(?:25)*40))*+"
        r"(?:@|%(?:25)*40|\\u0040)"
        r"(?:[^\W_][\w-]*+(?:\.[\w-]++)++|[^\W\d_][\w-]*+|[\w-]*+(?=\.*\Z|…|\.\.\.))",
    ),
    # Each begins with its first character, that the search can leap to it.
    _pattern("phone", "phone number", "+", rf"\+(?<![\w+.-].)\d{_DIGITS}"),
    _pattern("phone", "phone number", "%2b", rf"%2B\d{_DIGITS}"),
    _pattern("phone", "phone number", "00", rf"00(?<![\w+.-]..)[1-9]{_DIGITS}"),
    _pattern("phone", "phone number", "tel:", r"(?P<keep>tel:)[\d().-]{7,20}+"),
    _pattern("phone", "phone number", ")", r"\((?<![\w+.-].)\d{3}\)[ ]?\d{3}[ .-]?\d{4}(?![\w-])"),
    _pattern(
        "phone",
        "phone number",
        "",
        r"[0-9](?<![\w+.-].)(?:(?<=1)[ .-]\d{3}|\d\d)([ .-])\d{3}\1\d{4}(?![\w-])",
    ),
    _pattern(
        "ip",
        "IPv4 address",
        ".",
        r"[0-9](?<![\w.].)\d{0,2}+\.\d{1,3}+\.\d{1,3}+\.\d{1,3}+(?!\w|\.\d)",
    ),
)
_SCHEME = re.compile(
    r"(?P<keep>\b(?:bearer|basic)(?:[ \t]++|%20|\+))(?P<value>[\w.~+/=-]{8,}+)", re.IGNORECASE
)
_IPV6_SIGN = re.compile(r":[0-9a-f]{0,4}:", re.IGNORECASE)
_MAYBE_IPV6 = re.compile(
    r"(?<![\w:.])(?=[0-9a-f.]*+:)(?P<address>[0-9a-f:.]{2,45}(?![\w:]))(?:%\w++)?+", re.IGNORECASE
)


def redact_text(text: str, key: Secret | None = None) -> str:
    """The text without secrets and people's data; `[redacted:KIND]` stands in their places.

    With a key, `[redacted:KIND:HASH]`: equal values have equal hashes (HMAC-SHA256 under the key, 16 hex
    digits), and who has no key cannot try values.
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
    same = value.lower().replace("%40", "@") if kind == "email" else value
    digest = hmac.new(key.reveal().encode(), f"{kind}\n{same}".encode(), hashlib.sha256)
    return f"[redacted:{kind}:{digest.hexdigest()[:16]}]"


def _redact(text: str, key: Secret | None, found: list[Finding]) -> str:
    """Applies all rules until nothing changes: what one has replaced may show another one something."""
    for _ in range(_MOST_ROUNDS):
        before, text = text, _by_pattern(_by_name(text, key, found), key, found)
        if text == before:
            return text
    return mark("secret", text, key)  # a text made to keep the rules busy


def _by_name(text: str, key: Secret | None, found: list[Finding]) -> str:
    parts: list[str] = []
    done = 0
    for value in named_values(text):
        raw = text[value.start : value.end]
        shown = mark(value.kind, raw, key)
        if shown != raw:
            found.append(Finding(value.kind, f"the name {value.name}"))
            parts += [text[done : value.start], value.quote, shown, value.quote]
            done = value.end
    return "".join([*parts, text[done:]]) if parts else text


def _by_pattern(text: str, key: Secret | None, found: list[Finding]) -> str:
    low = text.lower()
    for rule in _PATTERNS:
        if not rule.signs or any(sign in low for sign in rule.signs):
            text = _replaced(rule.pattern, text, rule.judge, key, found)
    if "bearer" in low or "basic" in low:
        text = _replaced(_SCHEME, text, _of_scheme, key, found)
    return _replaced(_MAYBE_IPV6, text, _of_ipv6, key, found) if _IPV6_SIGN.search(text) else text


_Judge = Callable[[str], tuple[Kind, str] | None]


def _replaced(
    pattern: re.Pattern[str], text: str, judge: _Judge, key: Secret | None, found: list[Finding]
) -> str:
    parts: list[str] = []
    done = 0
    for start, end in _values(pattern, text):
        value = text[start:end]
        if judged := judge(value):
            kind, rule = judged
            shown = mark(kind, value.removesuffix("@"), key) + ("@" if value.endswith("@") else "")
            if shown != value:
                found.append(Finding(kind, rule))
                parts += [text[done:start], shown]
                done = end
    return "".join([*parts, text[done:]]) if parts else text


def _values(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text):
        groups = match.groupdict()
        start = match.end("keep") if groups.get("keep") else match.start()
        yield start, match.end("address") if groups.get("address") else match.end()


def _of_scheme(value: str) -> tuple[Kind, str] | None:
    """`Bearer` and `Basic` are words, too: what follows is a secret unless it is one as well."""
    return None if len(value) < 20 and value.isalpha() and value.islower() else ("secret", "authorization")


def _of_ipv6(candidate: str) -> tuple[Kind, str] | None:
    try:
        ipaddress.IPv6Address(candidate)
    except ValueError:
        return None
    return ("ip", "IPv6 address") if candidate.strip(":") else None
