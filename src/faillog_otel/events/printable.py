"""Text from outside, made fit for one line on a terminal."""

import json


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
