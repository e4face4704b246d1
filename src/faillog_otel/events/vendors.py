"""Shapes of the tokens that vendors issue, from public lists and the vendors' pages, as one pattern each.

Every token has a literal that no word of ordinary texts has: the signs, which are looked for first.
"""

import re

from faillog_otel.events.names import looks_random

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
"""Prefixes | a character | how many at least. At the end of a text, which may be cut off, four will do."""

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
"""Signs | the whole token, where nothing else looks alike."""

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
"""Signs | the whole token. It also looks like a name, unless it mixes letters and digits as keys do."""


SHAPES = (
    r"(?:SK[0-9a-fA-F]{32}|s\.[A-Za-z0-9]{24}|\d{15,20}-[A-Za-z0-9]{35,45}|pat[A-Za-z0-9]{14}\.[0-9a-f]{64}|4b1d(?![0-9a-f]{38})[A-Za-z0-9]{38}|cio[A-Za-z0-9]{32}"
    r"|oy2[a-z0-9]{43}|YC[\w-]{38}|[MNO][A-Za-z0-9]{23,27}\.[\w-]{6}\.[\w-]{27,}+)(?![\w-])"
)
"""Whole words: their beginnings alone are in too many others."""


def _by_prefix() -> tuple[str, list[str]]:
    patterns: list[str] = []
    signs: list[str] = []
    for line in _BY_PREFIX.split("\n"):
        prefixes, unit, fewest = re.split(r"\s+\| ", line)
        any_prefix = "|".join(map(re.escape, prefixes.split()))
        patterns.append(rf"(?:{any_prefix})(?:{unit}{{{fewest},}}+|{unit}{{4,}}+\Z)")
        signs += prefixes.split()
    return "|".join(patterns), signs


def _whole(table: str) -> tuple[str, list[str]]:
    rows = [re.split(r"\s+\| ", line, maxsplit=1) for line in table.split("\n")]
    pattern = "|".join(pattern for _, pattern in rows)
    return pattern, [sign for signs, _ in rows for sign in signs.split()]


def _fewest(signs: list[str]) -> tuple[str, ...]:
    """The signs in lower case, without those that have another one within them."""
    lower = {sign.lower() for sign in signs}
    return tuple(sorted(sign for sign in lower if not any(other in sign for other in lower - {sign})))


_PREFIXED, _SIGNS_OF_PREFIXES = _by_prefix()
_SURE, _SIGNS_OF_SURE = _whole(_WHOLE)
_DOUBTFUL, _SIGNS_OF_DOUBTFUL = _whole(_WITH_LETTERS_AND_DIGITS)

TOKENS = re.compile(f"{START}(?:{_PREFIXED}|{_SURE})")
TOKEN_SIGNS = _fewest(_SIGNS_OF_PREFIXES + _SIGNS_OF_SURE)
MAYBE_TOKENS = re.compile(f"{START}(?:{_DOUBTFUL})")
MAYBE_SIGNS = _fewest(_SIGNS_OF_DOUBTFUL)
"""What TOKENS and MAYBE_TOKENS find has one of these, in lower case."""


_MIXED = re.compile(r"(?=[\w-]*[a-z])(?=[\w-]*[A-Z])(?=[\w-]*\d)[\w-]{22}")
"""Upper case, lower case and digits in a row: no name has them."""


def is_token(value: str) -> bool:
    """Whether what MAYBE_TOKENS found is a token; `npm_config_registry` and `test_login_2` are names."""
    body = re.split("[_.-]", value, maxsplit=1)[-1]
    is_whole_word = bool(re.fullmatch("[A-Za-z0-9]{4,}", body)) and not body.isdigit()
    has_both = bool(re.search(r"\d", body)) or not (body.islower() or body.isupper())
    return looks_random(value) or (is_whole_word and has_both) or bool(_MIXED.search(value))
