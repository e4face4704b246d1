"""Why something failed: Segment's page promises a field that says so, and does not show its name."""

import re
from functools import lru_cache
from typing import Any

from faillog_otel.events.model import Reason

_TEXTS = ("reason", "discardreason", "failurereason", "errorreason", "errormessage", "error")
_INNER_TEXTS = ("message", *_TEXTS)
_CODES = ("reasoncode", "errorcode", "failurecode", "code")
_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")


def plain_reason(text: str) -> Reason:
    """The reason that a field named `reason` gives."""
    return _cached_reason(text) if len(text) <= 256 else Reason(text, _as_code(text))


@lru_cache(maxsize=1024)
def _cached_reason(text: str) -> Reason:
    return Reason(text, _as_code(text))


def take_reason(extras: dict[str, Any]) -> Reason | None:
    """The reason, from any field that by its name holds one.

    It is looked for beside the other properties, then inside the response; what is inside the request is
    a part of its body. A text that stands beside the other properties is taken out of the extras, for it
    travels as the reason.
    """
    for holder in (extras, extras.get("responseFromDestination")):
        if isinstance(holder, dict) and (found := _reason_in(holder, _TEXTS)):
            key, reason = found
            if holder is extras and extras[key] == reason.text:
                del extras[key]
            return reason
    return None


def _reason_in(holder: dict[str, Any], texts: tuple[str, ...]) -> tuple[str, Reason] | None:
    """The field that holds the reason, and the reason; `error` may be an object with a message."""
    fields = {key.lower().replace("_", "").replace("-", ""): key for key in holder}
    coded = [(fields[name], _as_code(holder[fields[name]])) for name in _CODES if name in fields]
    code_field, code = next((found for found in coded if found[1]), ("", None))
    for key in (fields[name] for name in texts if name in fields):
        value = holder[key]
        if isinstance(value, str) and value.strip():
            return key, Reason(value, code or _as_code(value))
        if isinstance(value, dict) and (inner := _reason_in(value, _INNER_TEXTS)):
            return key, inner[1]
    return (code_field, Reason(code, code)) if code else None


def _as_code(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and _CODE.fullmatch(value) else None
