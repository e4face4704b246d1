"""Text from outside: truncated to a length that can be kept, and escaped for one line on a terminal."""

import codecs
import json
from collections.abc import Callable, Iterable
from difflib import get_close_matches

MAX_PEER_BYTES = 500
"""UTF-8 bytes kept of a message from a collector, Segment or S3."""
MAX_SEARCHED_BYTES = 8 * MAX_PEER_BYTES
"""UTF-8 bytes of a message that are searched for secrets."""


def truncate(text: str, max_bytes: int = MAX_PEER_BYTES) -> str:
    """Returns the text, or its start with an ellipsis, in at most `max_bytes` of UTF-8."""
    start = text[: max_bytes + 1].encode(errors="replace")
    if len(start) <= max_bytes:
        return text
    return start[: max_bytes - len(_ELLIPSIS.encode())].decode(errors="ignore") + _ELLIPSIS


_ELLIPSIS = "…"


def did_you_mean(word: str, possible: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Returns `; did you mean "endpoint"?`, or nothing if no possible word is similar."""
    near = get_close_matches(word, list(possible), n=1, cutoff=cutoff)
    return f'; did you mean "{near[0]}"?' if near else ""


def peer_text(text: str, hide: Callable[[str], str]) -> str:
    """Returns a peer's text without secrets, in at most `MAX_PEER_BYTES` of UTF-8.

    `hide` replaces secrets. It reads more than is kept, so that a secret at the cut is complete. The caller
    has replaced our own secrets in the whole text.
    """
    return truncate(hide(truncate(text, MAX_SEARCHED_BYTES)))


def is_unicode(encoding: str | None) -> bool:
    """Returns whether a charset has all characters; True without a charset."""
    return encoding is None or codecs.lookup(encoding).name.startswith("utf")


def printable(text: str) -> str:
    """Returns the text with control and format characters (newlines, escapes, bidi) as escapes.

    A terminal then shows them instead of executing them.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_json(text: str, *, is_ascii: bool = False) -> str:
    """Returns JSON with such characters as JSON escapes; `is_ascii`: with all characters outside ASCII as
    well.
    """
    if text.isprintable() and (not is_ascii or text.isascii()):
        return text
    return "".join(
        c if c.isprintable() and (not is_ascii or c.isascii()) else json.dumps(c)[1:-1] for c in text
    )


def quoted(text: str, max_chars: int = 40) -> str:
    """Returns the start of a text as a message quotes it: escaped, at most some `max_chars` characters."""
    shown = repr(text[:max_chars])
    return shown if len(shown) <= max_chars + 2 else f"{shown[:max_chars]}...{shown[0]}"
