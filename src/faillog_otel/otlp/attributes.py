"""JSON values as OTLP attributes: redacted, truncated and counted.

With `--bodies keys`, only the values of `ALLOWED_KEYS` are sent. Every other value becomes `[withheld]`, and
so does a body that is not JSON, was cut off, is too deep or holds too many values.
"""

import math
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec

from faillog_otel.config import Bodies, Limits, Secret
from faillog_otel.otlp.wire import Attributes, Value
from faillog_otel.redact import mark, redact_text
from faillog_otel.redact.vocabulary import Kind, classify_key, is_sensitive
from faillog_otel.text import holds_too_much, is_too_deep, parse_json_lossless

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
"""Keys of what failed, which rarely hold personal data. They are in lower case, without `_`, `-`, `.` and
blanks: `error_code`, `errorCode` and `Error-Code` are one key."""

_NO_LETTERS = re.compile(r"[\s_.-]+")
_JSON_INSIDE = re.compile(r"[{\[]\s{0,64}\\{0,8}[\"'].*", re.DOTALL)
"""JSON, or a beginning of it, within a text, up to the end of the text."""
_MAX_TEXTS_IN_TEXTS = 4
_MAX_REMEMBERED_CHARACTERS = 4096


def withhold_values(value: Any) -> Any:
    """Returns the JSON value with null and the values of allowed keys; all others are `[withheld]`."""
    return _withheld(value, is_allowed=False, texts=0)


def withhold_in_body(body: Any) -> str:
    """Returns a body as text, with the values of allowed keys; `[withheld]` if it is not JSON.

    `body` is a JSON value, or a text that may be JSON.
    """
    if isinstance(body, str):
        return _remembered_text(body) if len(body) <= _MAX_REMEMBERED_CHARACTERS else _in_text(body)
    return _as_text(withhold_values(body))


def _in_text(text: str) -> str:
    value, is_json = _read(text)
    return _as_text(withhold_values(value)) if is_json else WITHHELD


_remembered_text = lru_cache(maxsize=256)(_in_text)


def _as_text(value: Any) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else WITHHELD


def _read(text: str) -> tuple[Any, bool]:
    """Returns the JSON value of a text, and whether it has one that is neither too deep nor too large."""
    raw = text.encode(errors="replace")
    if is_too_deep(raw) or holds_too_much(raw):
        return None, False
    try:
        return parse_json_lossless(raw), True
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
    """Returns the text of an allowed key. The rules apply to JSON in it; truncated JSON is withheld."""
    value, is_json = _read(text) if text.lstrip().startswith(("{", "[")) else (None, False)
    if is_json and texts < _MAX_TEXTS_IN_TEXTS:
        return _as_text(_withheld(value, is_allowed=False, texts=texts + 1))
    return WITHHELD if is_json else _JSON_INSIDE.sub(WITHHELD, text)


def _is_allowed(key: str) -> bool:
    return len(key) <= 64 and _NO_LETTERS.sub("", key).lower() in ALLOWED_KEYS


MAX_VALUE_BYTES = 2048
MAX_EXTRAS = 64
_PREFIX = "segment.extra"
_SHORT_CHARACTERS = 1024
_READ_CHARACTERS = 16 * 1024
"""Only this much of a text is redacted, or as much as is sent: a body of megabytes costs no more."""
_EDGE_CHARACTERS = 1024
"""A truncated secret cannot be recognised, so the last characters of a truncated text are not sent."""


def truncate(text: str, max_bytes: int = MAX_VALUE_BYTES) -> str:
    """Returns at most so many bytes of the text in UTF-8; never cuts within a character."""
    if len(text) * 4 <= max_bytes:
        return text
    encoded = text.encode()
    return text if len(encoded) <= max_bytes else encoded[:max_bytes].decode(errors="ignore")


def redact_and_truncate(text: str, key: Secret | None, max_bytes: int = MAX_VALUE_BYTES) -> tuple[str, bool]:
    """Returns the redacted and truncated text, and whether it was truncated.

    With a key, equal values get equal marks.
    """
    if len(text) <= _SHORT_CHARACTERS:
        return _remembered(text, key, max_bytes)
    if len(text) <= _READ_CHARACTERS:
        return _remembered_long(text, key, max_bytes)
    return _clean(text, key, max_bytes)


def _clean(text: str, key: Secret | None, max_bytes: int) -> tuple[str, bool]:
    window = max(_READ_CHARACTERS, max_bytes) + _EDGE_CHARACTERS
    redacted = redact_text(text[:window], key)
    if len(text) > window:
        return truncate(redacted[:-_EDGE_CHARACTERS], max_bytes), True
    short = truncate(redacted, max_bytes)
    return short, len(short) < len(redacted)


# The same reasons, URLs and answers occur many times. Both caches together hold a few MiB at most.
_remembered = lru_cache(maxsize=1024)(_clean)
_remembered_long = lru_cache(maxsize=64)(_clean)


def as_text(value: Any) -> str:
    """Returns a JSON value as text: a string itself, anything else as compact JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def body_text(body: Any, bodies: Bodies) -> str:
    """Returns a body as text, as far as `--bodies` allows."""
    return withhold_in_body(body) if bodies == "keys" else as_text(body)


_BODIES = {"requestToDestination": ("all",), "responseFromDestination": ("all", "response", "keys")}
"""Unknown fields in these are parts of the body; the values of `--bodies` with which they are sent."""


def allowed_extras(extras: dict[str, Any], bodies: Bodies) -> dict[str, Any]:
    """Returns the extras that `--bodies` allows. A status of any type is sent: it is not part of a body."""
    kept: dict[str, Any] = {}
    for name, item in extras.items():
        holder = name.rpartition(".")[2]
        if bodies in _BODIES.get(holder, (bodies,)):
            kept[name] = withhold_values(item) if bodies == "keys" and holder in _BODIES else item
        elif isinstance(item, dict) and "status" in item and "response" in name:
            kept[name] = {"status": item["status"]}
    return kept


def extra_attributes(
    extras: dict[str, Any], key: Secret | None, max_bytes: int = MAX_VALUE_BYTES
) -> tuple[Attributes, int]:
    """Returns `segment.extra.<dotted path>` for the first 64 leaves, and the number of the others.

    A list is one leaf, as JSON; so is an empty object.
    """
    found: dict[str, Value] = {}
    for path, leaf, kind in islice(leaves(extras, _PREFIX), MAX_EXTRAS):
        name = redact_and_truncate(path, key)[0]  # names may hold personal data, too
        while name in found:  # {"a.b": 1, "a": {"b": 2}}
            name += "~"
        found[name] = _named_value(leaf, kind, path.rpartition(".")[2], key, max_bytes)
    return list(found.items()), _count_leaves(extras) - len(found)


def apply_limits(attributes: Attributes, limits: Limits) -> tuple[Attributes, int]:
    """Returns the first attributes that fit into a log record, and the number of the others."""
    if limits.attributes == limits.attribute_bytes == math.inf:
        return attributes, 0
    kept: Attributes = []
    room = limits.attribute_bytes
    for attribute in attributes:
        size = size_of(attribute)
        if size <= room and len(kept) < limits.attributes:
            kept.append(attribute)
            room -= size
    return kept, len(attributes) - len(kept)


def size_of(attribute: tuple[str, Value]) -> int:
    """Returns the bytes of the name and of the value as text, as backends count them: a list as JSON."""
    name, value = attribute
    return len(name.encode()) + len(as_text(list(value) if isinstance(value, tuple) else value).encode())


def header_attributes(headers: Any, allowed: Iterable[str], key: Secret | None) -> Attributes:
    """Returns `http.response.header.<name>`, a string array, for each header that the allow-list names.

    Headers are an object or a list of pairs; those of another shape are not sent.
    """
    found: dict[str, tuple[str, ...]] = {}
    allowed = tuple(allowed)
    for header, value in header_pairs(headers):
        rule_of = _remembered_rule if len(header) <= _SHORT_CHARACTERS else _header_rule
        if (rule := rule_of(header, allowed)) is None:
            continue
        attribute, name, kind = rule
        values = value if isinstance(value, list) else (value,)
        shown = [_header_value(name, as_text(item), kind, key) for item in values if item is not None]
        if shown:
            found[attribute] = (*found.get(attribute, ()), *shown)
    return list(found.items())


def _header_rule(header: str, allowed: tuple[str, ...]) -> tuple[str, str, Kind | None] | None:
    """Returns a header's attribute, its name in lower case and its kind; None if it does not leave."""
    name = header.lower()
    return (f"{_RESPONSE_HEADER}{name}", name, classify_key(name)) if is_allowed(header, allowed) else None


_RESPONSE_HEADER = "http.response.header."
_remembered_rule = lru_cache(maxsize=256)(_header_rule)

_RATE_LIMIT = re.compile(
    r"(?:\d++(?:ms|[smhdTZ])?+(?![A-Za-z])|(?<!\w)[A-Za-z]{1,15}+(?!\w)|[T\s;=,:\"/+.-])*+"
)
"""Numbers, times and `default;q=100;w=60` (IETF's drafts), but not keys or addresses."""


def _header_value(name: str, value: str, kind: Kind | None, key: Secret | None) -> str:
    if name.startswith("x-ratelimit-"):
        kind = None if _RATE_LIMIT.fullmatch(value) else "secret"
    return str(_named_value(value, kind, name, key))


def is_allowed(header: str, allowed: Iterable[str]) -> bool:
    """Returns whether the allow-list names this header; `*` at the end of an entry matches any rest."""
    name = header.lower()
    return any(_matches(name, entry.lower()) for entry in allowed)


def header_pairs(headers: Any) -> Iterator[tuple[str, Any]]:
    """Yields name and value of each header whose value is not null."""
    if isinstance(headers, dict):
        pairs: Iterable[Any] = headers.items()
    else:
        every = headers if isinstance(headers, list) else []
        pairs = [pair for pair in every if isinstance(pair, list) and len(pair) == 2]
    for name, value in pairs:
        if isinstance(name, str) and value is not None:
            yield name, value


def _matches(name: str, entry: str) -> bool:
    return name.startswith(entry[:-1]) if entry.endswith("*") else name == entry


_NAMES = frozenset(("name", "key", "header", "field", "param", "parameter"))
_VALUES = frozenset(("value", "values", "val"))


def leaves(value: Any, path: str, kind: Kind | None = None) -> Iterator[tuple[str, Any, Kind | None]]:
    """Yields path, value and sensitivity (from the names in the path) of each value that is not an object.

    In `{"name": "X-Api-Key", "value": ...}` the value counts as named `X-Api-Key`.
    """
    if isinstance(value, dict) and (value or path == _PREFIX):
        named = next((classify_key(item) for name, item in value.items() if _is_name(name, item)), None)
        for name, item in value.items():
            own = classify_key(name) or (named if name.lower() in _VALUES else None)
            inner = truncate(f"{path}.{name}")
            yield from leaves(item, inner, "secret" if kind == "secret" else own or kind)
    else:
        yield path, value, kind


def _is_name(name: str, item: Any) -> bool:
    return name.lower() in _NAMES and isinstance(item, str) and classify_key(item) is not None


def _count_leaves(extras: dict[str, Any]) -> int:
    count, inside = 0, [extras]
    while inside:
        for item in inside.pop().values():
            if isinstance(item, dict) and item:
                inside.append(item)
            else:
                count += 1
    return count


def _named_value(
    leaf: Any, kind: Kind | None, name: str, key: Secret | None, max_bytes: int = MAX_VALUE_BYTES
) -> Value:
    """Returns the leaf as an attribute's value, redacted for its kind and name."""
    if kind is None and isinstance(leaf, str):  # nearly all of them
        return redact_and_truncate(leaf, key, max_bytes)[0]
    if (
        kind
        and not isinstance(leaf, bool)
        and any(is_sensitive(kind, name, text[:_READ_CHARACTERS]) for text in _texts(leaf))
    ):
        return mark(kind, as_text(leaf), key)
    if isinstance(leaf, bool | float) or (isinstance(leaf, int) and -(2**63) <= leaf < 2**63):
        return leaf
    if isinstance(leaf, int):
        return truncate(str(leaf))
    return redact_and_truncate(as_text(leaf), key, max_bytes)[0]


def _texts(value: Any) -> Iterator[str]:
    """Yields the texts in a list or an object, at any depth; for another value its own text."""
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif isinstance(value, float) and value.is_integer():
        yield str(int(value))
    elif value is not None and not isinstance(value, bool):
        yield as_text(value)
