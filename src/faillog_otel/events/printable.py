"""Text from outside, made fit for one line on a terminal."""

import json


def printable(text: str) -> str:
    """The text with control and format characters (newlines, escapes, bidi) written as escapes.

    A terminal then shows what is there instead of obeying it.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_json(text: str) -> str:
    """The same for JSON, which still says the same."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
