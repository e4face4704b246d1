"""Values of any JSON shape → OTLP attributes: redacted, cut and counted."""

import math
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec

from faillog_otel.config import Bodies, Limits, Secret
from faillog_otel.json_syntax import holds_too_much, is_too_deep, parse_json_lossless
from faillog_otel.otlp.wire import Attributes, Value
from faillog_otel.redact.redactor import mark, redact_text
from faillog_otel.redact.vocabulary import Kind, classify_key, is_sensitive

# -- body keys -----------------------------------------------------------------------------------------------
#
# `--bodies keys`: JSON with its structure, and with the values of some keys only.
#
# The keys in `ALLOWED_KEYS` say what failed; they hold no record of a person as a rule. Every other value
# becomes `[withheld]`, and so does a body that is no JSON or that was cut off. Pure, linear, and bounded as
# records are: a body that is too deep or holds too many values is withheld as a whole.


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
        return _remembered_text(body) if len(body) <= _MAX_REMEMBERED_CHARACTERS else _in_text(body)
    return _as_text(withhold_values(body))


def _in_text(text: str) -> str:
    value, is_json = _read(text)
    return _as_text(withhold_values(value)) if is_json else WITHHELD


_remembered_text = lru_cache(maxsize=256)(_in_text)


def _as_text(value: Any) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else WITHHELD


def _read(text: str) -> tuple[Any, bool]:
    """The JSON value of a text, and whether it has one that is neither too deep nor too large."""
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
    """A text that an allowed key has: JSON in it is under the same rules, or withheld where it has no end."""
    value, is_json = _read(text) if text.lstrip().startswith(("{", "[")) else (None, False)
    if is_json and texts < _MAX_TEXTS_IN_TEXTS:
        return _as_text(_withheld(value, is_allowed=False, texts=texts + 1))
    return WITHHELD if is_json else _JSON_INSIDE.sub(WITHHELD, text)


def _is_allowed(key: str) -> bool:
    return len(key) <= 64 and _NO_LETTERS.sub("", key).lower() in ALLOWED_KEYS


# -- extras --------------------------------------------------------------------------------------------------


MAX_VALUE_BYTES = 2048
MAX_EXTRAS = 64
_PREFIX = "segment.extra"
_SHORT_CHARACTERS = 1024
_READ_CHARACTERS = 16 * 1024
"""So much of a text is looked at, or what may leave: a body of megabytes costs no more than one of these."""
_EDGE_CHARACTERS = 1024
"""What was cut within the last ones before the end cannot be recognised, so they do not leave."""


def truncate(text: str, max_bytes: int = MAX_VALUE_BYTES) -> str:
    """The text, cut at so many bytes of UTF-8 and never within a character."""
    if len(text) * 4 <= max_bytes:
        return text
    encoded = text.encode()
    return text if len(encoded) <= max_bytes else encoded[:max_bytes].decode(errors="ignore")


def redact_and_truncate(text: str, key: Secret | None, max_bytes: int = MAX_VALUE_BYTES) -> tuple[str, bool]:
    """The text redacted (equal values comparable under the key) and cut; True when something was cut off."""
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


# Reasons, URLs and answers come again and again. Both caches together hold a few MiB at the most.
_remembered = lru_cache(maxsize=1024)(_clean)
_remembered_long = lru_cache(maxsize=64)(_clean)


def as_text(value: Any) -> str:
    """A JSON value as text: a string is itself, anything else its compact JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def body_text(body: Any, bodies: Bodies) -> str:
    """A body as text, with what `--bodies` lets leave of it."""
    return withhold_in_body(body) if bodies == "keys" else as_text(body)


_BODIES = {"requestToDestination": ("all",), "responseFromDestination": ("all", "response", "keys")}
"""Unknown fields in there are a part of the body, by another name: they leave where bodies do."""


def allowed_extras(extras: dict[str, Any], bodies: Bodies) -> dict[str, Any]:
    """The extras that `--bodies` lets leave. A status is no part of a body, also one of a wrong type."""
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
    """`segment.extra.<dotted path>` for each leaf, the first 64 in the record's order; and how many not.

    A list is one leaf, as its JSON text; so is an empty object: nothing unknown is dropped.
    """
    found: dict[str, Value] = {}
    for path, leaf, kind in islice(leaves(extras, _PREFIX), MAX_EXTRAS):
        name = redact_and_truncate(path, key)[0]  # people's data stand in names, too
        while name in found:  # {"a.b": 1, "a": {"b": 2}}
            name += "~"
        found[name] = _named_value(leaf, kind, path.rpartition(".")[2], key, max_bytes)
    return list(found.items()), _count_leaves(extras) - len(found)


def apply_limits(attributes: Attributes, limits: Limits) -> tuple[Attributes, int]:
    """The attributes that a log record has room for, the first ones first; and how many it has none for."""
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
    """Bytes of the name, and of the value as text, as backends count it: a list is its JSON."""
    name, value = attribute
    return len(name.encode()) + len(as_text(list(value) if isinstance(value, tuple) else value).encode())


def header_attributes(headers: Any, allowed: Iterable[str], key: Secret | None) -> Attributes:
    """`http.response.header.<name>` for the headers that the allow-list names, each a string array.

    Headers are an object, or a list of pairs; of any other shape none leaves.
    """
    found: dict[str, tuple[str, ...]] = {}
    allowed = tuple(allowed)
    for header, value in header_pairs(headers):
        attribute = f"{_RESPONSE_HEADER}{header.lower()}"
        if isinstance(value, str) and len(header) + len(value) <= _SHORT_CHARACTERS:
            shown = _remembered_header(header, value, allowed, key)
        else:
            shown = _header(header, value, allowed, key)
        if shown is not None:
            found[attribute] = (*found[attribute], *shown) if attribute in found else shown
    return list(found.items())


def _header(header: str, value: Any, allowed: tuple[str, ...], key: Secret | None) -> tuple[str, ...] | None:
    """What leaves of a header; None where it stays."""
    if not is_allowed(header, allowed):
        return None
    name = header.lower()
    kind = classify_key(name)
    values = [item for item in value if item is not None] if isinstance(value, list) else [value]
    if not values:
        return None
    return tuple(str(_header_value(name, as_text(item), kind, key)) for item in values)


_RESPONSE_HEADER = "http.response.header."
_remembered_header = lru_cache(maxsize=1024)(_header)


_RATE_LIMIT = re.compile(
    r"(?:\d++(?:ms|[smhdTZ])?+(?![A-Za-z])|(?<!\w)[A-Za-z]{1,15}+(?!\w)|[T\s;=,:\"/+.-])*+"
)
"""What such headers say: numbers, times, `default;q=100;w=60` (IETF's drafts); no keys and no addresses."""


def _header_value(name: str, value: str, kind: Kind | None, key: Secret | None) -> Value:
    if name.startswith("x-ratelimit-"):
        kind = None if _RATE_LIMIT.fullmatch(value) else "secret"
    return _named_value(value, kind, name, key)


def is_allowed(header: str, allowed: Iterable[str]) -> bool:
    """Whether the allow-list names this header; an entry with `*` at its end stands for any rest."""
    name = header.lower()
    return any(_matches(name, entry.lower()) for entry in allowed)


def header_pairs(headers: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each header, without those whose value is null."""
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
    """Path, value and what the path's names tell of it, for each value that is no object.

    What `{"name": "X-Api-Key", "value": ...}` calls so has that name, too.
    """
    if isinstance(value, dict) and (value or path == _PREFIX):
        called = next((classify_key(item) for name, item in value.items() if _is_name(name, item)), None)
        for name, item in value.items():
            own = classify_key(name) or (called if name.lower() in _VALUES else None)
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
    """The leaf as an attribute's value; as its name tells what it is."""
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
    """The texts of a list's items, wherever they stand in it; of any other value its own."""
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif isinstance(value, float) and value.is_integer():
        yield str(int(value))
    elif value is not None and not isinstance(value, bool):
        yield as_text(value)
