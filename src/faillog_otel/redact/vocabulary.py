"""Vocabulary: sensitive names of keys, values that are harmless in spite of their name, and tables of tokens.

`password` is sensitive; `password_policy` and `prompt_tokens` are not. Under a sensitive name, prose such as
`is invalid` and `can't be blank` is kept: people search for it when a delivery failed. The tables of vendors'
tokens, card numbers and IBANs come from public lists and the vendors' pages. Every token contains a literal
that ordinary words do not contain; the prefilter searches for these literals.
"""

import re
from functools import lru_cache
from itertools import takewhile
from typing import Literal

Kind = Literal["secret", "email", "phone", "ip"]

MARK_PATTERN = r"\[redacted:(?:secret|email|phone|ip)(?::[0-9a-f]{16})?\]"
MARK = re.compile(MARK_PATTERN)
"""The replacement of a redacted value."""

HINTS = tuple(
    """
    auth cookie key secret token pass pwd credential sig sess jwt bearer verifier assertion otp pin csrf xsrf
    hmac cvv cvc sid ssn pw card phone mobile msisdn tel fax cell
    """.split()
)
"""Every sensitive name contains one of these, in lower case."""
_HINT = re.compile("|".join(HINTS))
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
    """Returns whether a word can be part of a sensitive name; False for a redaction mark."""
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
    """Returns whether a value under a sensitive name is not a secret: a literal, a count, prose, or empty."""
    bare = value[:_MAX_PROSE].strip(_PUNCTUATION).lower()
    is_short = len(value) <= _MAX_PROSE
    if is_short and (bare in _LITERALS or _TWILIO_ID.fullmatch(value) or not any(map(str.isalnum, bare))):
        return True
    if value.isascii() and value.isdigit():
        words = _words(name)
        return (len(value) <= 3 and _SECRET_NUMBERS.isdisjoint(words)) or "tokens" in words
    return is_prose(value)


_PHONE_NUMBER = re.compile(r"(?<![\w.+])[+(]{0,2}\d(?:[\s().+/x–-]{0,3}\d){6,14}(?!\w|\.\d)")  # noqa: RUF001  # people type it


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
    """Returns whether a word of 12 characters or more mixes letters and digits as keys do; not for UUIDs."""
    if not 12 <= len(word) <= 4096 or is_id(word):
        return False
    return any(re.search(r"\d", run) and re.search(r"[A-Za-z]", run) for run in _RUN.findall(word))


_CARDS = re.compile(
    r"4\d{12}(?:\d{3}(?:\d{3})?)?|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|6(?:011|4[4-9]\d|5\d\d)\d{12,15}|35(?:2[89]|[3-8]\d)\d{12,15}|62\d{14,17}"
)
"""Ranges and lengths of Visa, Mastercard, American Express, Diners, Discover, JCB and UnionPay."""


def is_card(value: str) -> bool:
    """Returns whether the digits are a card number: in a known range, with a valid check digit."""
    digits = re.sub(r"\D", "", value)
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    is_sum_right = (sum(map(int, digits[::-2])) + sum(doubled)) % 10 == 0  # ISO/IEC 7812-1 (Luhn)
    return is_sum_right and _CARDS.fullmatch(digits) is not None


IBANS = r"(?=[A-Z]{{2}}\d)(?:{})(?![A-Za-z0-9])".format(
    "|".join(
        rf"(?:{countries})\d\d(?:[ -]?[A-Z0-9]){{{length - 4}}}"
        for length, countries in (
            (15, "NO"),
            (16, "BE"),
            (18, "DK|FI|FK|FO|GL|NL|SD"),
            (19, "MK|SI"),
            (20, "AT|BA|EE|KZ|LT|LU|MN|XK"),
            (21, "CH|HR|LI|LV"),
            (22, "BG|BH|CR|DE|GB|GE|IE|ME|RS|VA"),
            (23, "AE|GI|IL|IQ|OM|SO|TL"),
            (24, "AD|CZ|ES|MD|PK|RO|SA|SE|SK|TN|VG"),
            (25, "LY|PT|ST"),
            (26, "IS|TR"),
            (27, "BI|DJ|FR|GR|IT|MC|MR|SM"),
            (28, "AL|AZ|BY|CY|DO|GT|HU|LB|NI|PL|SV"),
            (29, "BR|EG|PS|QA|UA"),
            (30, "JO|KW|MU|YE"),
            (31, "MT|SC"),
            (32, "LC"),
            (33, "RU"),
        )
    )
)
"""A pattern: lengths by country (ISO 13616, SWIFT's register), with or without blanks or dashes."""


def is_iban(value: str) -> bool:
    """Returns whether the check digits of a match of IBANS are valid."""
    characters = value.replace(" ", "").replace("-", "")
    number = "".join(str(int(character, 36)) for character in characters[4:] + characters[:4])
    return int(number) % 97 == 1  # ISO/IEC 7064, MOD 97-10


START = r"(?<![A-Za-z0-9])"

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

_BY_PREFIX = r"""
ghp_ gho_ ghu_ ghs_ ghr_ github_pat_         | \w                     | 20
sk_live_ sk_test_ sk_prod_ pk_live_ pk_test_ | \w                     | 8
rk_live_ rk_test_ rk_prod_                   | \w                     | 8
rzp_live_ rzp_test_                          | \w                     | 10
shippo_live_ shippo_test_                    | \w                     | 20
duffel_live_ duffel_test_                    | [\w=-]                 | 20
whsec_ sntrys_ glc_                          | [\w+/=]                | 16
shpat_ shpss_ shpca_ shppa_ shpua_           | \w                     | 16
doo_v1_ dop_v1_ dor_v1_                      | \w                     | 16
lin_api_ lin_oauth_ glsa_ unkey_             | \w                     | 16
sm_aat_ sm_pat_ sm_sat_                      | \w                     | 16
dckr_pat_ dckr_oat_ AVNS_ sb_secret_         | [\w-]                  | 16
ntn_ figd_ bxt_ bkua_ bkct_ CCIPAT_ sntryu_  | [\w-]                  | 20
gsk_ hcaik_ hcxik_ hcxmk_ api_org_ lsv2_pt_  | \w                     | 30
lsv2_sk_ napi_ nfp_ pnu_ rdme_ r8_ sbp_ ddp_ | \w                     | 30
squ_ sqp_ sqa_ zpka_ phc_ phx_ sgp_          | \w                     | 30
CLOJARS_ rubygems_ GR1348941 HRKU-           | [\w-]                  | 20
tfp_ pscale_tkn_ pscale_oauth_ pscale_pw_    | [\w.=-]                | 16
ops_eyJ fm1a_ fm1r_ fm2_ ABSK                | [\w+/=]                | 60
bedrock-api-key- fo1_                        | [\w+/=%-]              | 30
xoxa xoxb xoxe xoxo xoxp xoxr xoxs xapp-     | [\w.-]                 | 10
glpat- gldt- glrt- glptt- glcbt- glft-       | (?:[\w-]|\.(?=\w))     | 16
glagent- glffct- glimt- gloas- glsoat-       | (?:[\w-]|\.(?=\w))     | 16
pypi- sq0atp- sq0csp- sq0idp- GOCSPX- CFPAT- | [\w-]                  | 16
NRAK- NRII- NRIQ- NRJS-                      | [\w-]                  | 16
PMAK- xkeysib- xsmtpsib- pplx- xai- dnkey-   | [\w-]                  | 24
tskey- tk-us- pul- fio-u- FLWSECK-           | [\w=-]                 | 16
FLWSECK_TEST- FLWSECK-                       | [\w-]                  | 12
ATATT3 ATCTT3 eyJrIjoi                       | [\w=-]                 | 16
pat-na1- pat-eu1-                            | [\w-]                  | 20
AGE-SECRET-KEY-1                             | [A-Z0-9]               | 32
hvs. hvb. hvr. ya29. 1//0                    | [\w-]                  | 20
SG.                                          | (?:[\w=-]|\.(?=\w))    | 30
s-s4t2ud- s-s4t2af-                          | [0-9a-f]               | 32
AAAAAAAAAAAAAAAAAAAAAA                       | [\w%]                  | 40
ZXlK                                         | [\w+/=-]               | 60
A3T                                          | [A-Z0-9]               | 17
dp.ct. dp.pt. dp.st. dp.sa. dp.scim.         | (?:[\w-]|\.(?=\w))     | 30
dt0c01. dt0s01. dt0s16. api_live.            | (?:[\w-]|\.(?=\w))     | 24
AIza AQVN                                    | [\w-]                  | 30
sha256~                                      | [\w-]                  | 40
EAA                                          | [\w-]                  | 40
AKIA ASIA ABIA ACCA                          | (?:(?![a-z_])\w)       | 16
""".strip()
"""Prefixes | pattern of a character | minimum count; at the end of a text, which may be cut, four suffice."""

_WHOLE = rf"""
access_token$ | access_token\$\w++\$\w++\$\w++
amzn.mws.     | amzn\.mws\.[0-9a-f-]{{20,}}+
.acc- .acc_   | (?:sc|ext|scauth|authress)_[a-z0-9]{{5,30}}\.[a-z0-9]{{4,6}}\.acc[_-][\w.+/=-]{{30,}}+
0Q~           | [\w.~]{{3}}\dQ~[\w.~-]{{31,}}+
v1.0-         | v1\.0-[0-9a-f]{{24}}-[0-9a-f]{{40,}}+
access-       | access-(?:sandbox|development|production)-{_UUID}
sdk- mob- api- | (?:sdk|mob|api)-{_UUID}(?![\w-])
pat. sat.     | [ps]at\.[\w-]{{22}}\.\w{{24}}\.\w{{20}}(?!\w)
.atlasv1.     | [A-Za-z0-9]{{14}}\.atlasv1\.[\w=-]{{40,}}+
NRAL          | [0-9a-f]{{36}}NRAL(?!\w)
_mmk          | [A-Za-z0-9]{{6}}_[A-Za-z0-9]{{29}}_mmk(?!\w)
A3-           | A3-[A-Z0-9]{{6}}-[A-Z0-9]{{6,11}}(?:-[A-Z0-9]{{5}}){{3,4}}(?!\w)
API-          | API-[A-Z0-9]{{26}}(?!\w)
t1.           | t1\.[\w-]{{20,}}=*+\.[\w-]{{80,}}+=*+
pk_           | pk_[0-9a-f]{{34}}(?!\w)
0|            | \d{{15,16}}\|[\w-]{{27,}}+
0:aa          | \d{{6,12}}:AA[\w-]{{33}}(?![\w-])
""".strip()
"""Literals | the whole token, which has an unmistakable form."""

_WITH_LETTERS_AND_DIGITS = r"""
npm_ hf_ secret_ | (?:npm|hf|secret)_(?:\w{20,}+|\w{4,}+\Z)
sk-              | sk-[\w-]{20,}+
sk_ rnd_         | (?:sk|rnd)_[A-Za-z0-9]{24,}+(?!\w)
live_ test_      | (?:live|test)_(?:pub_)?[\w=-]{24,}+
EAAA             | EAAA[\w-]{22,}+
re_              | re_[A-Za-z0-9]{8}_[A-Za-z0-9]{20,}+(?!\w)
dapi key-        | (?:dapi|(?:pub)?key-)[0-9a-f]{32}(?!\w)
-us              | [0-9a-f]{32}-us\d{1,2}(?!\w)
p8e- ico-        | (?:p8e|ico)-[A-Za-z0-9]{32}(?!\w)
LTAI             | LTAI[A-Za-z0-9]{16,24}(?!\w)
ATBB             | ATBB[A-Za-z0-9]{24,}+(?!\w)
AKCp             | AKCp[A-Za-z0-9]{60,}+(?!\w)
cmVmd            | cmVmd[A-Za-z0-9]{55,}+(?!\w)
EZAK EZTK        | EZ[AT]K[A-Za-z0-9]{50,}+(?!\w)
AKID             | AKID[A-Za-z0-9]{32}(?!\w)
sl.              | sl\.[\w=-]{100,}+
""".strip()
"""Literals | the whole token. Its mix of letters and digits distinguishes it from a name (`is_token`)."""

SHAPES = (
    r"(?:SK[0-9a-fA-F]{32}|s\.[A-Za-z0-9]{24}|\d{15,20}-[A-Za-z0-9]{35,45}|pat[A-Za-z0-9]{14}\.[0-9a-f]{64}|4b1d(?![0-9a-f]{38})[A-Za-z0-9]{38}|cio[A-Za-z0-9]{32}"
    r"|oy2[a-z0-9]{43}|YC[\w-]{38}|[MNO][A-Za-z0-9]{23,27}\.[\w-]{6}\.[\w-]{27,}+)(?![\w-])"
)
"""Patterns of whole words: their prefixes occur in too many other words."""


def _by_prefix() -> tuple[str, list[str]]:
    patterns: list[str] = []
    literals: list[str] = []
    for line in _BY_PREFIX.split("\n"):
        prefixes, unit, minimum = re.split(r"\s+\| ", line)
        any_prefix = "|".join(map(re.escape, prefixes.split()))
        patterns.append(rf"(?:{any_prefix})(?:{unit}{{{minimum},}}+|{unit}{{4,}}+\Z)")
        literals += prefixes.split()
    return "|".join(patterns), literals


def _whole(table: str) -> tuple[str, list[str]]:
    rows = [re.split(r"\s+\| ", line, maxsplit=1) for line in table.split("\n")]
    pattern = "|".join(pattern for _, pattern in rows)
    return pattern, [literal for literals, _ in rows for literal in literals.split()]


def _minimal(literals: list[str]) -> tuple[str, ...]:
    """Returns the literals in lower case, without those that contain another literal."""
    lower = {literal.lower() for literal in literals}
    return tuple(
        sorted(literal for literal in lower if not any(other in literal for other in lower - {literal}))
    )


_BY_PREFIX_PATTERN, _PREFIX_LITERALS = _by_prefix()
_WHOLE_PATTERN, _WHOLE_LITERALS = _whole(_WHOLE)
_MAYBE_PATTERN, _MAYBE_LITERALS = _whole(_WITH_LETTERS_AND_DIGITS)

TOKENS = re.compile(f"{START}(?:{_BY_PREFIX_PATTERN}|{_WHOLE_PATTERN})")
TOKEN_LITERALS = _minimal(_PREFIX_LITERALS + _WHOLE_LITERALS)
MAYBE_TOKENS = re.compile(f"{START}(?:{_MAYBE_PATTERN})")
MAYBE_LITERALS = _minimal(_MAYBE_LITERALS)
"""Each match of TOKENS or MAYBE_TOKENS contains one of these, in lower case."""

INNER_LITERALS = (".acc-", ".acc_", "0Q~", ".atlasv1.", "NRAL", "_mmk", "0|", "0:aa", "-us", "key-")
"""Those that are not the beginning of a token."""

_MIXED = re.compile(r"(?<![\w-])(?=[\w-]*[a-z])(?=[\w-]*[A-Z])(?=[\w-]*\d)[\w-]{22}")
"""A word with upper case, lower case and digits: names do not have this form.

It is tried at the start of a word only: tried at each character, `sk-` in a row took 0.8 ms a character in
64 KiB, because each trial read on to the end.
"""


def is_token(value: str) -> bool:
    """Returns whether a match of MAYBE_TOKENS is a token; `npm_config_registry` is not."""
    body = re.split("[_.-]", value, maxsplit=1)[-1]
    is_whole_word = bool(re.fullmatch("[A-Za-z0-9]{4,}", body)) and not body.isdigit()
    has_both = bool(re.search(r"\d", body)) or not (body.islower() or body.isupper())
    return looks_random(value) or (is_whole_word and has_both) or bool(_MIXED.search(value))
