"""The ids: computed from the events alone, so that anyone can compute them, in any language.

`H(kind, *fields)` is the SHA-256 of the compact JSON array `[kind, field, ...]` in UTF-8, exactly the
bytes that JavaScript's `JSON.stringify` writes; an absent field is `null`. The golden vectors in
`tests/golden/ids.json` freeze it. An application may import this module alone: it needs nothing but the
standard library.
"""

import hashlib
import json

_stringify = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def digest(kind: str, *fields: str | int | None) -> bytes:
    """The 32 bytes of `H(kind, *fields)`."""
    return hashlib.sha256(_stringify([kind, *fields]).encode()).digest()


def exchange_digest(exchange_id: str | None) -> bytes:
    """The digest that an exchange's trace id (bytes 0-15) and span id (bytes 16-23) are parts of."""
    return digest("segment.exchange", exchange_id)


def part(of: bytes, start: int, stop: int) -> bytes:
    """An id: bytes `start` to `stop` of a digest.

    W3C forbids an all-zero id, and some backends drop a trace id of which either half is zero. So while
    any eight bytes of the id are zero, the SHA-256 of the digest takes the digest's place.
    """
    while not all(any(of[at : at + 8]) for at in range(start, stop, 8)):
        of = hashlib.sha256(of).digest()
    return of[start:stop]


def trace_id_of(message_id: str) -> str:
    """The trace id, 32 lower-case hex characters, in which the deliveries of this message stand.

    An application that knows the messageId of what it tracked can link forward to this trace.
    """
    return part(digest("segment.message", message_id), 0, 16).hex()
