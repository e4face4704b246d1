"""Finds the reason of a failure. Segment's page mentions such a field, but not its name.

Segment's own framework for destinations has it in the results of single events: `errormessage`, `errortype`
(a code) and `errorreporter` (whose fault it is). Extras and response bodies are searched for them.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from faillog_otel.events.model import Reason, Response
from faillog_otel.text import holds_too_much, is_too_deep, parse_json_lossless

_TEXTS = ("reason", "discardreason", "failurereason", "errorreason", "errormessage", "error")
_INNER_TEXTS = ("message", *_TEXTS)
_CODES = ("reasoncode", "errorcode", "failurecode", "errortype", "code")
_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")
_REPORTER = re.compile(r"[A-Za-z][A-Za-z_]{0,63}")
_NAME_OF_REASON = re.compile("reason|rror|code|message")
"""Each of these names contains one of these; also that of a reporter."""
_OF_RESULTS = frozenset(("errormessage", "errortype", "errorreporter"))
(
    _MAYBE_RESULTS,
    _MAYBE_RESULTS_IN_CAPITALS,
) = (  # a pattern that begins with a literal is found much faster
    re.compile(f"{begin}[_-]?(?i:message|type|reporter)") for begin in ("rror", "RROR")
)
_MAX_REMEMBERED_CHARACTERS = 4096


def plain_reason(text: str) -> Reason:
    """Returns the reason in the text of a field named `reason`."""
    return _cached_reason(text) if len(text) <= 256 else Reason(text, _as_code(text))


@lru_cache(maxsize=1024)
def _cached_reason(text: str) -> Reason:
    return Reason(text, _as_code(text))


def take_reason(extras: dict[str, Any]) -> Reason | None:
    """Returns the reason from any field with a name for it; removes it from the extras.

    Looks among the properties, then in the response, where it is not removed. Fields in the request are parts
    of its body.
    """
    for holder in (extras, extras.get("responseFromDestination")):
        if isinstance(holder, dict) and (found := _reason_in(holder, _TEXTS)):
            key, reason = found
            if holder is extras:
                _take_out(extras, key, reason)
            return reason
    return None


def reason_of_results(extras: dict[str, Any], response: Response | None) -> Reason | None:
    """Returns the reason that the results of single events give, with the names of Segment's framework.

    Looks in all extras except the request's, then in the response's body: a JSON value, or a text that may be
    JSON. None if results give different reasons. The case of names does not matter.
    """
    held = [
        item
        for name, item in extras.items()
        if isinstance(item, dict | list) and name != "requestToDestination"
    ]
    if held and (reason := _agreed_reason(held)):
        return reason
    if response is None or response.body is None:
        return None
    body = response.body
    if not isinstance(body, str):
        return _as_found_in_body(_agreed_reason(body))
    if not (_MAYBE_RESULTS.search(body) or _MAYBE_RESULTS_IN_CAPITALS.search(body)):
        return None
    return _remembered(body) if len(body) <= _MAX_REMEMBERED_CHARACTERS else _reason_in_text(body)


def _reason_in_text(body: str) -> Reason | None:
    raw = body.encode()
    if is_too_deep(raw) or holds_too_much(raw):
        return None
    try:
        return _as_found_in_body(_agreed_reason(parse_json_lossless(raw)))
    except ValueError:
        return None


_remembered = lru_cache(maxsize=256)(_reason_in_text)


def _as_found_in_body(reason: Reason | None) -> Reason | None:
    return replace(reason, in_body=True) if reason else None


def _agreed_reason(value: Any) -> Reason | None:
    """Returns the reason of the results in the value; None unless all give the same one."""
    reasons = {found[1] for result in _results(value) if (found := _reason_in(result, ("errormessage",)))}
    return reasons.pop() if len(reasons) == 1 else None


def _results(value: Any) -> Iterator[dict[str, Any]]:
    inside = [value]
    while inside:
        item = inside.pop()
        if isinstance(item, dict):
            if "rror" in "".join(item).lower() and not _OF_RESULTS.isdisjoint(map(_plain_name, item)):
                yield item
            inside += item.values()
        elif isinstance(item, list):
            inside += item


def _reason_in(holder: dict[str, Any], texts: tuple[str, ...]) -> tuple[str, Reason] | None:
    """Returns the field with the reason, and the reason; `error` may be an object with a message."""
    if not _NAME_OF_REASON.search(_plain_name("\n".join(holder))):
        return None  # eight times as fast as to look for each name
    fields = {_plain_name(key): key for key in holder}
    coded = [(fields[name], _as_code(holder[fields[name]])) for name in _CODES if name in fields]
    code_field, code = next((found for found in coded if found[1]), ("", None))
    reporter = _as_reporter(holder[fields["errorreporter"]]) if "errorreporter" in fields else UNSET
    for key in (fields[name] for name in texts if name in fields):
        value = holder[key]
        if isinstance(value, str) and value.strip():
            return key, Reason(value, code or _as_code(value), reporter)
        if isinstance(value, dict) and (inner := _reason_in(value, _INNER_TEXTS)):
            return key, inner[1]
    return (code_field, Reason(code, code, reporter)) if code else None


def _take_out(extras: dict[str, Any], field: str, reason: Reason) -> None:
    if extras[field] == reason.text:
        del extras[field]
    for name in [name for name in extras if _plain_name(name) == "errorreporter"]:
        if extras[name] == reason.reporter:
            del extras[name]


def _plain_name(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _as_reporter(value: object) -> str | UnsetType:
    return value if isinstance(value, str) and _REPORTER.fullmatch(value) else UNSET


def _as_code(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and _CODE.fullmatch(value) else None
