"""The table of failure reasons: what each code means, and what to do. Finds the row of a failure.

The table is reasons.tsv beside this module; it is read at the first look-up. Pure.
"""

import re
from functools import cache, lru_cache
from importlib.resources import files
from typing import Literal, get_args

from ahocorasick_rs import AhoCorasick
from msgspec import Struct

ReasonClass = Literal[
    "credentials",
    "settings",
    "payload",
    "rate_limit",
    "destination_down",
    "network",
    "filtered",
    "function",
    "segment",
    "unknown",
]
"""Who has to do something: who owns the key, the settings, the mapping, ..."""
CLASSES: tuple[ReasonClass, ...] = get_args(ReasonClass)


class ReasonRow(Struct, frozen=True, rename={"reason_class": "class"}):
    """A row of the table."""

    code: str
    """The canonical one: the HTTP status if the code is another name for it."""
    reason_class: ReasonClass
    retryable: bool
    """Whether Segment retries by itself."""
    where: str
    """The part of Segment or of the destination that gives this code."""
    meaning: str
    remedy: str
    status: int | None = None
    """The HTTP status that the code is another name for."""
    names: tuple[str, ...] = ()
    """Other codes for the same failure."""
    in_failure_logs: Literal["yes", "maybe", "no"] = "yes"
    """Whether failure logs have it; Segment writes them only for events that it tried to deliver."""
    source: str = ""
    """Where the code is documented: abbreviations that docs/reference/failure-reasons.md explains."""


class Classified(Struct, frozen=True, gc=False):
    """What the table says about one failure."""

    code: str | None
    """The canonical code, or a status of three digits; None if neither code, status nor text has a row."""
    reason_class: ReasonClass
    retryable: bool | None
    """None if unknown."""
    row: ReasonRow | None


_NOTHING = Classified(None, "unknown", None, None)
_RETRIED = frozenset((408, 423, 429))
_PREFIXES = ("errors.discarded.", "errors.awaiting-retry.")
_MAX_CODE_CHARACTERS = 100
_FAILED_FUNCTION = "failed_insert_function"


# -- the table -----------------------------------------------------------------------------------------------


@cache
def all_rows() -> tuple[ReasonRow, ...]:
    """Returns the whole table. Codes that differ in case only are rows of their own."""
    header, *lines = files(__package__).joinpath("reasons.tsv").read_text("utf-8").splitlines()
    return tuple(_row(dict(zip(header.split("\t"), line.split("\t"), strict=True))) for line in lines)


def _row(cells: dict[str, str]) -> ReasonRow:
    (reason_class,) = (each for each in CLASSES if each == cells["class"])
    (in_failure_logs,) = (each for each in ("yes", "maybe", "no") if each == cells["logs"])
    return ReasonRow(
        code=cells["code"],
        reason_class=reason_class,
        retryable={"true": True, "false": False}[cells["retryable"]],
        where=cells["where"],
        meaning=cells["meaning"],
        remedy=cells["remedy"],
        status=int(cells["status"]) if cells["status"] else None,
        names=tuple(filter(None, cells["names"].split(", "))),
        in_failure_logs=in_failure_logs,
        source=cells["source"],
    )


@cache
def _rows_by_key() -> dict[str, list[ReasonRow]]:
    """Key → its rows, in the table's order: those of destinations come first."""
    found: dict[str, list[ReasonRow]] = {}
    for row in all_rows():
        for name in (row.code, *row.names):
            found.setdefault(_key(name), []).append(row)
    return found


def _key(code: str) -> str:
    """Returns a code as it is looked up: upper case, no prefix, `_` for blanks."""
    code = code.strip().lower()
    for prefix in _PREFIXES:
        code = code.removeprefix(prefix)
    return "_".join(code.split()).upper()


def find_rows(code: str) -> list[ReasonRow]:
    """Returns the rows of a code or status, in any case: two if functions use the same code."""
    key = _key(code)
    if rows := _rows_by_key().get(key):
        return rows
    status = _as_status(key)
    return [_row_of_status(status)] if status else []


def _as_status(key: str) -> int | None:
    """Returns the number of a code that is an HTTP status of a failure."""
    return int(key) if re.fullmatch("[45][0-9]{2}", key) else None


def _row_of_status(status: int) -> ReasonRow:
    rows = _rows_by_key()
    return (rows.get(str(status)) or rows["5XX" if 500 <= status <= 599 else "4XX"])[0]


# -- classify ------------------------------------------------------------------------------------------------


def classify(code: str | None, status: int | None, text_code: str | None, feature: str | None) -> Classified:
    """Returns what the table says of a code, a status, the code that `code_of_text` found, and a feature.

    The code's row counts, then the status', then the text's: the first whose class is known. `feature` is
    the record's `featureName`: if it names a function, the rows of functions are meant.
    """
    if code is not None and len(code) > _MAX_CODE_CHARACTERS:
        code = None
    is_function = feature is not None and "function" in feature[:_MAX_CODE_CHARACTERS].lower()
    return _classified(code, status, text_code, is_function)


@lru_cache(maxsize=4096)
def _classified(code: str | None, status: int | None, text_code: str | None, is_function: bool) -> Classified:  # noqa: FBT001  # lru_cache is faster with positions
    found = [
        each
        for each in (
            _of_code(code, is_function=is_function),
            _of_status(status, is_function=is_function),
            _of_code(text_code, is_function=is_function),
        )
        if each
    ]
    if is_function:
        return _of_function(code, found)
    for each in found:
        if each.reason_class != "unknown":
            return each
    if found:
        return found[0]
    return _of_row(_row_of_status(307)) if status == 307 else _NOTHING


def _of_code(code: str | None, *, is_function: bool) -> Classified | None:
    if code is None:
        return None
    key = _key(code)
    rows = _rows_by_key().get(key)
    if rows is None:
        return _of_status(_as_status(key), is_function=is_function)
    return _of_row(next((row for row in rows if _is_of_function(row) == is_function), rows[0]))


def _of_status(status: int | None, *, is_function: bool) -> Classified | None:
    if status is None or not 400 <= status <= 999:
        return None
    row = _row_of_status(status)
    if is_function:  # HTTP's names of statuses are also codes of functions
        variants = (each for name in row.names for each in _rows_by_key()[_key(name)])
        if variant := next(filter(_is_of_function, variants), None):
            return _of_row(variant)
    retryable = status in _RETRIED or (500 <= status <= 599 and status != 501)
    return Classified(str(status), row.reason_class, retryable, row)


def _of_row(row: ReasonRow) -> Classified:
    return Classified(row.code, row.reason_class, row.retryable, row)


def _is_of_function(row: ReasonRow) -> bool:
    return row.reason_class == "function"


def _of_function(code: str | None, found: list[Classified]) -> Classified:
    """Returns what is said of a function: any failure in it is mended in its code or settings."""
    for each in found:
        if each.reason_class == "function":
            return each
    (row,) = _rows_by_key()[_FAILED_FUNCTION.upper()]
    if found:
        return Classified(found[0].code, "function", found[0].retryable, row)
    return Classified(None if code else row.code, "function", row.retryable, row)


# -- prose ---------------------------------------------------------------------------------------------------

_MAX_PROSE_CHARACTERS = 512
_CODE_WORD = re.compile(
    r"[A-Z](?<![A-Za-z0-9_.][A-Z])(?:[A-Z0-9]*_|(?<=E)[A-Z]{4})[A-Z0-9_]+(?![A-Za-z0-9_])"
)
"""A word in upper case that can only be a code: with `_`, or like ECONNREFUSED. Prose may shout LOCKED."""
_MAYBE_STATUS = re.compile(r"[45](?<!\w[45])\d\d(?!\w)")
_STATUS = re.compile(
    r"\b(?:http(?:/\d(?:\.\d)?)?|status|(?:status|response|error)[ _]?code|(?:answered|responded)(?: with)?)"
    r"\W{0,3}([45]\d\d)\b"
    r"|^\W?([45]\d\d)(?=: )"
    r"|\b([45]\d\d) (?=bad request|unauthorized|payment req|forbidden|not found|method not|not accept|gone\b"
    r"|conflict|payload too|unsupported med|unprocess|too many|internal serv|not impl|bad gate|service un"
    r"|gateway ti)"
)
_CREDENTIAL = (
    r"(?:api[ _-]?(?:key|token|secret)|(?:access|auth|bearer|oauth|refresh)[ _-]?token|(?:write|secret) key"
    r"|credentials?|client secret|password)s?\b"
)
_NOT_VALID = r"(?:in|not |no longer )valid|incorrect|wrong|expired|revoked|not recogni[sz]ed"
_FIELD = r"(?:field|property|parameter|attribute)s?\b"


class _Cause(Struct, frozen=True):
    """Prose that means a row: a pattern over lower case, tried if the text has one of the words."""

    code: str
    words: frozenset[str]
    pattern: re.Pattern[str]


def _cause(code: str, words: str, pattern: str) -> _Cause:
    return _Cause(code, frozenset(words.split(", ")), re.compile(rf"\b(?:{pattern})"))


@cache
def _causes() -> tuple[list[_Cause], AhoCorasick]:
    """Returns what prose can mean, the first that fits counts, and the search for all words at once."""
    causes = [
        _cause(
            "REFRESH_TOKEN_EXPIRED",
            "refresh, grant",
            r"refresh[ _]token.{0,40}\b(?:expired|revoked)|invalid_grant",
        ),
        _cause(
            "INVALID_AUTHENTICATION",
            "key, token, credential, password, secret, authenticat, signature, login, invalid_client",
            rf"(?:invalid|incorrect|wrong|expired|missing|bad)(?: \w+){{0,2}} {_CREDENTIAL}"
            rf"|{_CREDENTIAL}.{{0,30}}\b(?:{_NOT_VALID})\b"
            r"|(?<!device )(?<!push )token (?:is |has |was )?(?:been )?(?:expired|revoked)|expired token"
            "|(?:authentication|login) (?:failed|required)|not authenticated|invalid signature"
            "|invalid_(?:token|client)",
        ),
        _cause("401", "unauthori", "unauthori[sz]ed"),
        _cause(
            "403",
            "forbidden, permi, denied, scope, privilege, not authori, not allowed",
            "forbidden|access denied|permission.{0,60} denied|insufficient (?:permission|scope|privilege)"
            "|(?:missing|lacks?|without|no|not have) (?:the |any )?(?:required |sufficient )?"
            "(?:permission|scope)"
            "|not (?:permitted|authori[sz]ed|allowed) to",
        ),
        _cause(
            "429",
            "limit, too many, quota, throttl",
            "(?:rate|request|usage|api|call|daily|hourly|monthly)[ -]?limit|too many requests|throttl"
            r"|quota (?:was |has been )?(?:exceeded|exhausted)|exceeded (?:\w+ ){0,3}quota",
        ),
        _cause("ECONNREFUSED", "refused", "connection (?:was )?refused"),
        _cause(
            "ECONNRESET",
            "hang up, reset, closed, disconnect",
            "socket (?:hang up|disconnected)|connection (?:was )?(?:reset|closed)",
        ),
        _cause(
            "ENOTFOUND",
            "getaddrinfo, no such host, resolve",
            "getaddrinfo|no such host|(?:could|can)(?: ?not) resolve (?:the )?host",
        ),
        _cause("EHOSTUNREACH", "unreachable, no route", "no route to host|host (?:is )?unreachable"),
        _cause("504", "gateway", "gateway time-?out"),
        _cause(
            "ETIMEDOUT",
            "timed, timeout, time-out, deadline, in time",
            "timed[ -]?out|time-?out (?:of|after|exceeded|awaiting)"
            "|(?:connection|request|read|response|network|socket) time-?out"
            "|deadline exceeded|(?:did not|didn't|no) (?:answer|respon[ds]e?|reply) in time",
        ),
        _cause(
            "503",
            "unavailable, overload, upstream",
            "service (?:is )?(?:temporarily )?unavailable|overloaded|no healthy upstream"
            "|upstream connect error",
        ),
        _cause("502", "gateway", "bad gateway"),
        _cause("500", "internal server", "internal server error"),
        _cause("413", "too large", "(?:payload|request|entity|body) (?:is )?too large"),
        _cause(
            "MISSING_REQUIRED_FIELD",
            "required, mandatory, missing",
            rf"missing (?:a |the )?(?:required|mandatory)|(?:required|mandatory) (?:{_FIELD}|value\b)"
            rf"|{_FIELD}.{{0,40}}\b(?:is|are) (?:required|missing)",
        ),
        _cause("INVALID_CURRENCY_CODE", "currency", "invalid currency|currency.{0,40}not valid"),
        _cause(
            "PAYLOAD_VALIDATION_FAILED",
            "valid, malformed, must be",
            rf"validation (?:error|failed)|(?:{_FIELD}|value|email|phone|payload).{{0,40}}"
            r"\b(?:is|are|was|were) (?:not valid|invalid|malformed)|(?:is|are|was|were) not (?:an? )?valid"
            "|must be an? (?:valid|string|number|integer|boolean|object|array|list|date|url)"
            "|invalid (?:value|email|phone|payload|field|parameter)",
        ),
        _cause(
            "UNSUPPORTED_EVENT_TYPE",
            "unsupported, not supported",
            "unsupported event|event (?:type )?(?:is )?not supported",
        ),
        _cause("409", "already exist", "already exists?"),
        _cause("400", "bad request", "bad request"),
    ]
    return causes, AhoCorasick(sorted(frozenset().union(*(each.words for each in causes))))


def code_of_text(text: str) -> str | None:
    """Returns the code of the row that a reason in prose means; None if none surely does.

    The text is a code, or has one in upper case, or an HTTP status, or words that mean a row. Looks at the
    first 512 characters.
    """
    return _code_of_prose(text[:_MAX_PROSE_CHARACTERS])


@lru_cache(maxsize=4096)
def _code_of_prose(text: str) -> str | None:
    rows = _rows_by_key()
    if len(text) <= _MAX_CODE_CHARACTERS and (found := rows.get(_key(text))):
        return found[0].code
    for word in _CODE_WORD.findall(text):
        if found := rows.get(word):
            return found[0].code
    text = text.lower()
    status = _status_in(text) if _MAYBE_STATUS.search(text) else None
    if status and status != 400:
        return _row_of_status(status).code
    causes, automaton = _causes()
    if words := automaton.find_matches_as_strings(text, overlapping=True):
        for cause in causes:
            if not cause.words.isdisjoint(words) and cause.pattern.search(text):
                return cause.code
    return str(status) if status else None


def _status_in(text: str) -> int | None:
    match = _STATUS.search(text)
    return int(next(filter(None, match.groups()))) if match else None
