"""Text that a peer sent, cut to a length that can be kept, logged and shown; and charsets."""

import codecs
import json
from collections.abc import Callable, Iterable
from difflib import get_close_matches

# -- text ----------------------------------------------------------------------------------------------------


MAX_PEER_BYTES = 500
"""UTF-8 bytes of one message of a collector, of Segment or of S3 that are kept."""
MAX_SEARCHED_BYTES = 8 * MAX_PEER_BYTES
"""Of a message, in which secrets are looked for."""


def truncate(text: str, max_bytes: int = MAX_PEER_BYTES) -> str:
    """Returns the text, or the part of its start that fits into `max_bytes` of UTF-8, with an ellipsis."""
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
    """Returns what a peer said, without secrets, in at most `MAX_PEER_BYTES` of UTF-8.

    `hide` replaces secrets. It reads more than is kept: a secret that lies across the cut is found whole.
    Literal secrets of ours are replaced in the whole text beforehand.
    """
    return truncate(hide(truncate(text, MAX_SEARCHED_BYTES)))


def is_unicode(encoding: str | None) -> bool:
    """Returns whether a charset has all characters; without a charset, all are taken."""
    return encoding is None or codecs.lookup(encoding).name.startswith("utf")


# -- printable -----------------------------------------------------------------------------------------------
#
# Text from outside, made fit for one line on a terminal.


def printable(text: str) -> str:
    """The text with control and format characters (newlines, escapes, bidi) written as escapes.

    A terminal then shows what is there instead of obeying it.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_json(text: str, *, is_ascii: bool = False) -> str:
    """The same for JSON, which still says the same; `is_ascii`: with all else than ASCII as escapes."""
    if text.isprintable() and (not is_ascii or text.isascii()):
        return text
    return "".join(
        c if c.isprintable() and (not is_ascii or c.isascii()) else json.dumps(c)[1:-1] for c in text
    )


def quoted(text: str, max_chars: int = 40) -> str:
    """Returns the start of a text as a message quotes it: escaped, at most some `max_chars` characters."""
    shown = repr(text[:max_chars])
    return shown if len(shown) <= max_chars + 2 else f"{shown[:max_chars]}...{shown[0]}"
