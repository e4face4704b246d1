"""Files of events in every form and packing that is read."""

import gzip
import json
import sys
from collections.abc import Callable, Sequence

if sys.version_info >= (3, 14):
    from compression import zstd as zstd  # noqa: PLC0414  # tests take it from here
else:
    from backports import zstd as zstd  # noqa: PLC0414


def pretty(event: bytes) -> bytes:
    """The event, one field a line."""
    return json.dumps(json.loads(event), indent=2, ensure_ascii=False).encode()


FORMATS: dict[str, Callable[[Sequence[bytes]], bytes]] = {
    "lines": lambda events: b"".join(event + b"\n" for event in events),
    "CRLF lines": b"\r\n".join,
    "array": lambda events: b"[" + b",".join(events) + b"]",
    "array, one a line": lambda events: b"[\n" + b",\n".join(events) + b"\n]\n",
    "pretty array": lambda events: b"[" + b", ".join(map(pretty, events)) + b"]\n",
    "pretty": lambda events: b"\n".join(map(pretty, events)),
    "concatenated": b"".join,
}
"""How events become the content of a file."""


def _members(content: bytes) -> bytes:
    half = len(content) // 2
    return gzip.compress(content[:half]) + gzip.compress(content[half:])


def _frames(content: bytes) -> bytes:
    half = len(content) // 2
    return zstd.compress(content[:half]) + zstd.compress(content[half:])


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "gzip": gzip.compress,
    "gzip of two members": _members,
    "zstd": zstd.compress,
    "zstd of two frames": _frames,
}
"""How content becomes a file."""
