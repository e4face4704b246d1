"""Trace context across Segment, in the messageId: the only field that comes back with a failed delivery.

`H(kind, *fields)` is the SHA-256 of the compact JSON array `[kind, field, ...]` in UTF-8, exactly the bytes
that JavaScript's `JSON.stringify` writes; an absent field is `null`. A messageId can carry the context of the
application that created it, in one of two forms:

    00-<trace id, 32 hex>-<span id, 16 hex>-<flags, 2 hex>-<anything unique>     (full)
    tr1-<trace id, 22 base62><nonce, 10 base62>                                  (compact)

The golden vectors in `tests/golden/ids.json` freeze these formats. An application can import this module
alone: it needs only the standard library, and opentelemetry-api for the current context.
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
"""W3C Trace Context's flag: the caller may have recorded this."""

_quoted = json.encoder.encode_basestring  # like JSON.stringify: escapes only controls, " and \
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_FULL = re.compile(_TRACEPARENT.pattern + r"(?:-.*)?", re.DOTALL)
_COMPACT = re.compile(r"tr1-([0-9A-Za-z]{22})[0-9A-Za-z]{10}")
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TRACE_DIGITS = 22
_NONCE_DIGITS = 10
_UNIQUE_BYTES = 16
CARRYING = ("00-", "tr1-")
"""Prefixes of messageIds that carry a context."""
_MAX_CACHED_ID_CHARS = 128
"""Longer ids of exchanges are not cached."""


class TraceContext(NamedTuple):
    """An application's context: trace id (16 bytes), span id (8 bytes; empty in the compact form), flags."""

    trace_id: bytes
    span_id: bytes = b""
    flags: int = SAMPLED

    @property
    def is_sampled(self) -> bool:
        """Whether the span may have been recorded; always True in the compact form."""
        return bool(self.flags & SAMPLED)


def digest(kind: str, *fields: str | int | None) -> bytes:
    """Returns the 32 bytes of `H(kind, *fields)`."""
    return _sha256(f"[{','.join(map(_as_json, (kind, *fields)))}]".encode()).digest()


def attempt_digest(
    message_id: str | None,
    to_id: str | None,
    from_id: str | None,
    attempt: int | None,
    occurred_at: str | None,
) -> bytes:
    """Returns the digest whose bytes 0-7 are an attempt's span id."""
    return attempt_digest_along(message_id, route(to_id, from_id), attempt, occurred_at)


def attempt_digest_along(
    message_id: str | None, on_route: bytes, attempt: int | None, occurred_at: str | None
) -> bytes:
    """Returns the same digest. `on_route` is what `route` returned; many attempts share it."""
    start, end = _as_json(message_id).encode(), _as_json(occurred_at).encode()
    number = b"null" if attempt is None else b"%d" % attempt
    return _sha256(b'["segment.attempt",%b,%b,%b,%b]' % (start, on_route, number, end)).digest()


def attempt_between(to_id: str | None, from_id: str | None, attempt: int | None) -> bytes:
    """Returns the part of an attempt's hashed array between its messageId and its time."""
    return b"%b,%b" % (route(to_id, from_id), _as_json(attempt).encode())


def route(to_id: str | None, from_id: str | None) -> bytes:
    """Returns destination and source as they are in an attempt's hashed array."""
    return f"{_as_json(to_id)},{_as_json(from_id)}".encode()


def exchange_digest(exchange_id: str | None) -> bytes:
    """Returns the digest whose bytes 0-15 are an exchange's trace id, and 16-23 its span id."""
    if exchange_id is not None and len(exchange_id) <= _MAX_CACHED_ID_CHARS:
        return _exchange_digest(exchange_id)
    return digest("segment.exchange", exchange_id)


@lru_cache(maxsize=1024)  # attempts of one exchange are mostly adjacent
def _exchange_digest(exchange_id: str) -> bytes:
    return digest("segment.exchange", exchange_id)


def derived_trace_id(message_id: str) -> bytes:
    """Returns the trace id (16 bytes) computed from a messageId, ignoring a context in it."""
    return part(_sha256(f'["segment.message",{_quoted(message_id)}]'.encode()).digest(), 0, 16)


def part(of: bytes, start: int, stop: int) -> bytes:
    """Returns an id: bytes `start` to `stop` of a digest.

    W3C forbids an all-zero id, and some backends drop a trace id with a zero half. So while any eight bytes
    of the id are zero, the digest is replaced by its SHA-256.
    """
    found = of[start:stop]
    # Few ids have a zero byte, which is a fast check.
    while 0 in found and not all(any(found[at : at + 8]) for at in range(0, stop - start, 8)):
        of = _sha256(of).digest()
        found = of[start:stop]
    return found


def _as_json(field: str | int | None) -> str:
    """Returns a field as JSON.stringify writes it."""
    if isinstance(field, str):
        return _quoted(field)
    return "null" if field is None else str(field)


def parse_traceparent(text: str) -> TraceContext | None:
    """Returns the context of a `traceparent` (W3C Trace Context, version 00); None if it is invalid."""
    found = _TRACEPARENT.fullmatch(text)
    return _parse_context(found) if found else None


def context_in(message_id: str) -> TraceContext | None:
    """Returns the context in a messageId, in either form; None if it has no valid one.

    The full form ends after the flags, or continues with `-` and anything.
    """
    if not message_id.startswith(CARRYING):
        return None
    if found := _FULL.fullmatch(message_id):
        return _parse_context(found)
    if found := _COMPACT.fullmatch(message_id):
        number = 0
        for digit in found[1]:
            number = number * 62 + _BASE62.index(digit)
        return TraceContext(number.to_bytes(16, "big")) if 0 < number < 1 << 128 else None
    return None


def _parse_context(found: re.Match[str]) -> TraceContext | None:
    trace_id, span_id = bytes.fromhex(found[1]), bytes.fromhex(found[2])
    return TraceContext(trace_id, span_id, int(found[3], 16)) if any(trace_id) and any(span_id) else None


def trace_id_of(message_id: str) -> str:
    """Returns the trace id of the deliveries of a message, as 32 lower-case hex characters.

    It is the application's own if the messageId carries it, else computed from the messageId: an application
    with ids of its own can link forward to that trace (`span_link`).
    """
    context = context_in(message_id)
    return (context.trace_id if context else derived_trace_id(message_id)).hex()


def message_id(context: "Context | None" = None, *, compact: bool = False) -> str:
    """Returns a new messageId that carries this OpenTelemetry context, or the current one.

    The full form (88 characters) puts failed deliveries under the current span; the compact form (36
    characters: letters, digits and `-`) puts them into its trace, for destinations with strict rules for ids,
    such as Mixpanel. Without a valid span in the context, the id carries a random trace id, not sampled.
    """
    return _format_message_id(_current(context), compact=compact)


def message_id_for(traceparent: str, *, compact: bool = False) -> str:
    """Returns a new messageId that carries this `traceparent`. Raises ValueError if it is invalid."""
    context = parse_traceparent(traceparent)
    if context is None:
        raise ValueError("not a valid traceparent of version 00 (W3C Trace Context)")
    return _format_message_id(context, compact=compact)


def span_link(message_id: str) -> "Link":
    """Returns a link to the trace of the message's failed deliveries, for applications with ids of their own.

    Its span id belongs to no span; backends find the trace by its trace id.
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
    """Returns OpenTelemetry's context, or a random one, not sampled, if it has no valid span."""
    try:
        from opentelemetry.trace import get_current_span
    except ImportError:  # then there is no current context
        return _random_context()
    span = get_current_span(context).get_span_context()
    if not span.is_valid:
        return _random_context()
    return TraceContext(span.trace_id.to_bytes(16, "big"), span.span_id.to_bytes(8, "big"), span.trace_flags)


def _random_context() -> TraceContext:
    random = secrets.token_bytes(32)
    return TraceContext(part(random, 0, 16), part(random, 16, 24), 0)


def _format_message_id(context: TraceContext, *, compact: bool) -> str:
    if not compact:
        ids = f"{context.trace_id.hex()}-{context.span_id.hex()}-{context.flags & 0xFF:02x}"
        return f"00-{ids}-{secrets.token_hex(_UNIQUE_BYTES)}"
    number, digits = int.from_bytes(context.trace_id, "big"), ""
    for _ in range(_TRACE_DIGITS):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return f"tr1-{digits}" + "".join(secrets.choice(_BASE62) for _ in range(_NONCE_DIGITS))
