"""What must not leave: secrets and people's data, replaced in bodies, reasons, URLs and unknown fields.

By name (a key or a header that says it holds a secret) and by pattern (what looks like a token, an email
address, an IP address, a phone number). Linear in the length of the text, the same when done twice, and
it works on text that Segment cut off in the middle: a value without its end goes as far as the text.
Ids are never handed to it.
"""

import ipaddress
import re

_TELLING_NAME = (
    r"[\w.-]{0,40}?(?:authorization|cookie|(?:api|access|private|write|signing|account)[_.-]?key"
    r"|secret|token|password|passwd|credential|signature|session[_.-]?id|jwt)[\w.-]{0,40}"
)
_NAME = re.compile(_TELLING_NAME, re.IGNORECASE)

_PATTERNS = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), replacement)
    for pattern, replacement in (
        # "name": "value", a number or an array; then the same in a JSON text inside a JSON text.
        (
            rf'(?P<keep>"{_TELLING_NAME}"\s*+:\s*+)'
            r'(?:"(?:[^"\\]++|\\.)*+"?+|\[(?:[^\]"]++|"(?:[^"\\]++|\\.)*+"?+)*+\]?+|-?[\d.e+-]++)',
            r'\g<keep>"[redacted:secret]"',
        ),
        (
            rf'(?P<keep>\\"{_TELLING_NAME}\\"\s*+:\s*+)'
            r'(?:\\"(?:[^"\\]++|\\\\(?:\\["\\]|[^"\\])|\\[^"\\])*+(?:\\")?+|-?[\d.e+-]++)',
            r'\g<keep>\\"[redacted:secret]\\"',
        ),
        # name=value, as URLs and forms have it.
        (rf"(?P<keep>(?<![\w.-]){_TELLING_NAME}=)[^\s&\"'\\,;<>]++", r"\g<keep>[redacted:secret]"),
        # Name: value, as header dumps have it.
        (
            r"(?P<keep>(?<![\w-])(?:proxy-)?authorization:[ \t]*+|(?<![\w-])(?:set-)?cookie2?:[ \t]*+"
            r"|(?<![\w-])(?:x-)?(?:api|auth)[_-]?(?:key|token):[ \t]*+)[^\r\n\"\\]++",
            r"\g<keep>[redacted:secret]",
        ),
        (r"(?P<keep>\b(?:bearer|basic)[ \t]++)[\w.~+/=-]{8,}+", r"\g<keep>[redacted:secret]"),
        (r"(?P<keep>://)[^\s/?#@\"'\\]++(?=@)", r"\g<keep>[redacted:secret]"),
        (r"(?<![\w-])eyJ[\w-]{8,}+\.[\w-]++(?:\.[\w-]*+)?+", "[redacted:secret]"),
        (
            r"(?<![a-z0-9])(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_\w{20,}+|xox[abprs]-[\w-]{10,}+"
            r"|[sr]k_(?:live|test)_\w{8,}+|SG\.[\w-]{16,}+\.[\w-]{16,}+|AIza[\w-]{35})",
            "[redacted:secret]",
        ),
        (r"(?<![\w.+%-])[\w.+%-]++@[a-z0-9-]++(?:\.[a-z0-9-]++)++", "[redacted:email]"),
        (
            r"(?<![\w+.-])(?:\+\d(?:[ .()-]{0,2}\d){7,14}|\(\d{3}\)[ ]?\d{3}[ .-]\d{4}"
            r"|\d{3}([.-])\d{3}\1\d{4})(?![\w-])",
            "[redacted:phone]",
        ),
        (
            r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?!\D)|(?!\.?\d))){4}(?!\w)",
            "[redacted:ip]",
        ),
    )
)
_MAYBE_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9a-f.]*+:)[0-9a-f:.]{3,45}(?![\w:])", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a key or header of this name holds a secret: its value does not leave, whatever it is."""
    return _NAME.fullmatch(name) is not None


def redact_text(text: str) -> str:
    """The text without secrets and people's data; `[redacted:KIND]` stands in their places."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return _MAYBE_IPV6.sub(_without_ipv6, text) if ":" in text else text


def _without_ipv6(found: re.Match[str]) -> str:
    candidate = found[0].rstrip(".")
    try:
        ipaddress.IPv6Address(candidate)
    except ValueError:
        return found[0]
    has_digits = candidate.strip(":") != ""
    return "[redacted:ip]" + found[0][len(candidate) :] if has_digits else found[0]
