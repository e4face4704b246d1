"""Trace context across Segment: in the messageId, the one thing that comes back with a failed delivery.

`H(kind, *fields)` is the SHA-256 of the compact JSON array `[kind, field, ...]` in UTF-8, exactly the
bytes that JavaScript's `JSON.stringify` writes; an absent field is `null`. A messageId may also carry the
context of the application that made it, in one of two forms:

    00-<trace id, 32 hex>-<span id, 16 hex>-<flags, 2 hex>-<anything unique>     (full)
    tr1-<trace id, 22 base62><nonce, 10 base62>                                  (compact)

The golden vectors in `tests/golden/ids.json` freeze all of it. An application may import this module
alone: it needs nothing but the standard library, and opentelemetry-api for the current context.
"""

import json.encoder
import re
import secrets
from functools import lru_cache
from hashlib import sha256 as _sha256
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link


SAMPLED = 0x01
"""The flag of W3C's Trace Context that says: the caller may have recorded this."""

_quoted = json.encoder.encode_basestring  # as JSON.stringify does: nothing but controls, " and \ is escaped
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_FULL = re.compile(_TRACEPARENT.pattern + r"(?:-.*)?", re.DOTALL)
_COMPACT = re.compile(r"tr1-([0-9A-Za-z]{22})[0-9A-Za-z]{10}")
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TRACE_DIGITS = 22
_NONCE_DIGITS = 10
_UNIQUE_BYTES = 16
CARRYING = ("00-", "tr1-")
"""How messageIds begin that carry a context."""
_MAX_REMEMBERED = 128
"""Characters of an exchange's id."""


class TraceContext(NamedTuple):
    """An application's context: 16 bytes of trace id, 8 of span id (none in the compact form), 8 bits."""

    trace_id: bytes
    span_id: bytes = b""
    flags: int = SAMPLED

    @property
    def is_sampled(self) -> bool:
        """Whether the span may have been recorded; of the compact form nobody knows otherwise."""
        return bool(self.flags & SAMPLED)


# -- ids -----------------------------------------------------------------------------------------------


def digest(kind: str, *fields: str | int | None) -> bytes:
    """The 32 bytes of `H(kind, *fields)`."""
    return _sha256(f"[{','.join(map(_as_json, (kind, *fields)))}]".encode()).digest()


def attempt_digest(
    message_id: str | None,
    to_id: str | None,
    from_id: str | None,
    attempt: int | None,
    occurred_at: str | None,
) -> bytes:
    """The digest that an attempt's span id (bytes 0-7) is a part of."""
    is_short = len(to_id or "") + len(from_id or "") <= _MAX_REMEMBERED
    between = (_attempt_between if is_short else attempt_between)(to_id, from_id, attempt)
    start, end = _as_json(message_id).encode(), _as_json(occurred_at).encode()
    return _sha256(b'["segment.attempt",%b,%b,%b]' % (start, between, end)).digest()


def attempt_between(to_id: str | None, from_id: str | None, attempt: int | None) -> bytes:
    """The part of the array that is hashed for an attempt, between its messageId and its time."""
    return ",".join(map(_as_json, (to_id, from_id, attempt))).encode()


_attempt_between = lru_cache(maxsize=1024)(attempt_between)  # attempts to one destination share it


def exchange_digest(exchange_id: str | None) -> bytes:
    """The digest that an exchange's trace id (bytes 0-15) and span id (bytes 16-23) are parts of."""
    if exchange_id is not None and len(exchange_id) <= _MAX_REMEMBERED:
        return _exchange_digest(exchange_id)
    return digest("segment.exchange", exchange_id)


@lru_cache(maxsize=1024)  # the attempts of one exchange mostly stand together
def _exchange_digest(exchange_id: str) -> bytes:
    return digest("segment.exchange", exchange_id)


def derived_trace_id(message_id: str) -> bytes:
    """The 16 bytes of the trace id that a message has by itself, whatever context its id carries."""
    return part(_sha256(f'["segment.message",{_quoted(message_id)}]'.encode()).digest(), 0, 16)


def part(of: bytes, start: int, stop: int) -> bytes:
    """An id: bytes `start` to `stop` of a digest.

    W3C forbids an all-zero id, and some backends drop a trace id of which either half is zero. So while
    any eight bytes of the id are zero, the SHA-256 of the digest takes the digest's place.
    """
    found = of[start:stop]
    # Few ids have a zero byte, and that is seen at once.
    while 0 in found and not all(any(found[at : at + 8]) for at in range(0, stop - start, 8)):
        of = _sha256(of).digest()
        found = of[start:stop]
    return found


def _as_json(field: str | int | None) -> str:
    """A field as JSON.stringify writes it."""
    if isinstance(field, str):
        return _quoted(field)
    return "null" if field is None else str(field)


# -- reading -------------------------------------------------------------------------------------------


def parse_traceparent(text: str) -> TraceContext | None:
    """The context of a `traceparent` (W3C Trace Context, version 00); None where it is not valid."""
    found = _TRACEPARENT.fullmatch(text)
    return _checked(found) if found else None


def context_in(message_id: str) -> TraceContext | None:
    """The context that a messageId carries, in either form; None when it carries none that is valid.

    A full one may end after its flags or go on with `-` and anything; nothing is ever half used.
    """
    if not message_id.startswith(CARRYING):
        return None
    if found := _FULL.fullmatch(message_id):
        return _checked(found)
    if found := _COMPACT.fullmatch(message_id):
        number = 0
        for digit in found[1]:
            number = number * 62 + _BASE62.index(digit)
        return TraceContext(number.to_bytes(16, "big")) if 0 < number < 1 << 128 else None
    return None


def _checked(found: re.Match[str]) -> TraceContext | None:
    trace_id, span_id = bytes.fromhex(found[1]), bytes.fromhex(found[2])
    return TraceContext(trace_id, span_id, int(found[3], 16)) if any(trace_id) and any(span_id) else None


def trace_id_of(message_id: str) -> str:
    """The trace id, 32 lower-case hex characters, in which the deliveries of this message stand.

    It is the application's own where the messageId carries it, else computed from the messageId: an
    application that keeps ids of its own can link forward to that trace (`span_link`).
    """
    context = context_in(message_id)
    return (context.trace_id if context else derived_trace_id(message_id)).hex()


# -- writing -------------------------------------------------------------------------------------------


def message_id(context: "Context | None" = None, *, compact: bool = False) -> str:
    """A fresh messageId that carries this OpenTelemetry context, or the current one.

    The full form (88 characters) puts failed deliveries under the span that is current; the compact one (36
    characters, letters, digits and `-`) into its trace, for destinations with tight rules for ids, such as
    Mixpanel. Without a valid span in the context the id carries a fresh random trace id, as not sampled.
    """
    return _written(_current(context), compact=compact)


def message_id_for(traceparent: str, *, compact: bool = False) -> str:
    """A fresh messageId that carries this `traceparent`. Raises ValueError when it is not valid."""
    context = parse_traceparent(traceparent)
    if context is None:
        raise ValueError("not a valid traceparent of version 00 (W3C Trace Context)")
    return _written(context, compact=compact)


def span_link(message_id: str) -> "Link":
    """A link to where the message's failed deliveries would stand, for applications with ids of their own.

    Its span id is that of no span: backends find the trace by it.
    """
    from opentelemetry.trace import Link, SpanContext, TraceFlags

    context = SpanContext(
        int(trace_id_of(message_id), 16),
        int.from_bytes(part(digest("segment.message", message_id), 16, 24), "big"),
        is_remote=True,
        trace_flags=TraceFlags(SAMPLED),
    )
    return Link(context, {"segment.link.type": "message", "messaging.message.id": message_id})


def _current(context: "Context | None") -> TraceContext:
    """What OpenTelemetry's context holds; without it, or a valid span in it, a fresh one, not sampled."""
    try:
        from opentelemetry.trace import get_current_span
    except ImportError:  # then there is no current context
        return _fresh()
    span = get_current_span(context).get_span_context()
    if not span.is_valid:
        return _fresh()
    return TraceContext(span.trace_id.to_bytes(16, "big"), span.span_id.to_bytes(8, "big"), span.trace_flags)


def _fresh() -> TraceContext:
    random = secrets.token_bytes(32)
    return TraceContext(part(random, 0, 16), part(random, 16, 24), 0)


def _written(context: TraceContext, *, compact: bool) -> str:
    if not compact:
        ids = f"{context.trace_id.hex()}-{context.span_id.hex()}-{context.flags & 0xFF:02x}"
        return f"00-{ids}-{secrets.token_hex(_UNIQUE_BYTES)}"
    number, digits = int.from_bytes(context.trace_id, "big"), ""
    for _ in range(_TRACE_DIGITS):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return f"tr1-{digits}" + "".join(secrets.choice(_BASE62) for _ in range(_NONCE_DIGITS))
