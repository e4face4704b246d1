"""`--bodies keys`: JSON with its structure, and with the values of some keys only.

The keys in `ALLOWED_KEYS` say what failed; they hold no record of a person as a rule. Every other value
becomes `[withheld]`, and so does a body that is no JSON or that was cut off. Pure, linear, and bounded as
records are: a body that is too deep or holds too many values is withheld as a whole.
"""

import re
from functools import lru_cache
from typing import Any

import msgspec

from faillog_otel.events.anything import read_anything
from faillog_otel.events.syntax import holds_too_much, is_too_deep

WITHHELD = "[withheld]"

ALLOWED_KEYS = frozenset(
    (
        *("code", "codes", "subcode", "errno", "error", "errors", "errorcode", "errorcodes", "errorsubcode"),
        *("errortype", "errorkey", "errorid", "errormessage", "errormessages", "errormsg", "errorreason"),
        *("errordescription", "errordetail", "errordetails", "errorsummary", "errorreporter"),
        *("message", "messages", "msg", "reason", "reasons", "reasoncode", "failurereason", "failurecode"),
        *("discardreason", "status", "statuscode", "statustext", "statusmessage", "statusdescription"),
        *("httpstatus", "httpcode", "httpstatuscode", "title", "detail", "details"),
        *("type", "kind", "category", "domain", "severity", "level"),
        *("field", "fields", "fieldname", "param", "parameter", "property", "pointer", "attribute"),
        *("rule", "constraint", "fault", "faultcode", "faultstring", "exception", "exceptiontype", "cause"),
        *("success", "ok", "retryable", "retryafter"),
    )
)
"""In lower case, without `_`, `-`, `.` and blanks: `error_code`, `errorCode` and `Error-Code` are one key."""

_NO_LETTERS = re.compile(r"[\s_.-]+")
_JSON_INSIDE = re.compile(r"[{\[]\s{0,64}\\{0,8}[\"'].*", re.DOTALL)
"""JSON or the like within a text, to the end of the text."""
_MAX_TEXTS_IN_TEXTS = 4
_MAX_REMEMBERED_CHARACTERS = 4096


def withhold_values(value: Any) -> Any:
    """The JSON value with the values of allowed keys; null stays, all others are `[withheld]`."""
    return _withheld(value, is_allowed=False, texts=0)


def withhold_in_body(body: Any) -> str:
    """A body as text, with the values of allowed keys; `[withheld]` where it is no JSON.

    `body` is a JSON value, or a text that may be JSON.
    """
    if isinstance(body, str):
        return _remembered(body) if len(body) <= _MAX_REMEMBERED_CHARACTERS else _in_text(body)
    return _as_text(withhold_values(body))


def _in_text(text: str) -> str:
    value, is_json = _read(text)
    return _as_text(withhold_values(value)) if is_json else WITHHELD


_remembered = lru_cache(maxsize=256)(_in_text)


def _as_text(value: Any) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else WITHHELD


def _read(text: str) -> tuple[Any, bool]:
    """The JSON value of a text, and whether it has one that is neither too deep nor too large."""
    raw = text.encode(errors="replace")
    if is_too_deep(raw) or holds_too_much(raw):
        return None, False
    try:
        return read_anything(raw), True
    except (ValueError, msgspec.DecodeError):
        return None, False


def _withheld(value: Any, *, is_allowed: bool, texts: int) -> Any:
    if isinstance(value, dict):
        return {key: _withheld(item, is_allowed=_is_allowed(key), texts=texts) for key, item in value.items()}
    if isinstance(value, list):
        return [_withheld(item, is_allowed=is_allowed, texts=texts) for item in value]
    if value is None:
        return None
    if not is_allowed:
        return WITHHELD
    return _of_text(value, texts) if isinstance(value, str) else value


def _of_text(text: str, texts: int) -> str:
    """A text that an allowed key has: JSON in it is under the same rules, or withheld where it has no end."""
    value, is_json = _read(text) if text.lstrip().startswith(("{", "[")) else (None, False)
    if is_json and texts < _MAX_TEXTS_IN_TEXTS:
        return _as_text(_withheld(value, is_allowed=False, texts=texts + 1))
    return WITHHELD if is_json else _JSON_INSIDE.sub(WITHHELD, text)


def _is_allowed(key: str) -> bool:
    return len(key) <= 64 and _NO_LETTERS.sub("", key).lower() in ALLOWED_KEYS
