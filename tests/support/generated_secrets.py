"""Texts with made-up secrets of the kinds in secret_shapes.toml, in the notations that destinations use.

`make redaction-figures` prints how many of them leak, and how many texts without a secret are changed.
"""

import json
import random
import re
import string
import tomllib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import escape

from faillog_otel.redact import redact_text

SHAPES = tomllib.loads(Path(__file__).with_name("secret_shapes.toml").read_text("utf-8"))

_LOWER, _UPPER = string.ascii_lowercase, string.ascii_uppercase
_CLASSES = {
    "0": string.digits,
    "hex": "0123456789abcdef",
    "HEX": "0123456789ABCDEF",
    "a": _LOWER,
    "A": _UPPER,
    "a0": _LOWER + string.digits,
    "A0": _UPPER + string.digits,
    "Aa0": string.ascii_letters + string.digits,
    "url": string.ascii_letters + string.digits + "_-",
    "b64": string.ascii_letters + string.digits + "+/",
}
_SLOT = re.compile(r"\{(\w+)(?::(\d+))?\}")

NOTATIONS: dict[str, Callable[[str], str]] = {
    "alone": lambda value: value,
    "prose": lambda value: f"The request with {value} was refused by the server",
    "prose, at the end of a sentence": lambda value: f"Not found: {value}. Try again later.",
    "prose, in brackets": lambda value: f"refused (given: {value}), status 401",
    "quoted": lambda value: f"got '{value}' instead",
    "backticks": lambda value: f"`{value}` has no access to this project",
    "JSON": lambda value: json.dumps({"code": 401, "given": value, "ok": False}),
    "JSON, indented": lambda value: json.dumps({"errors": [{"given": value}]}, indent=2),
    "JSON in JSON": lambda value: json.dumps({"body": json.dumps({"given": value, "n": 1})}),
    "JSON, cut off": lambda value: json.dumps({"code": 401, "given": value})[:-2],
    "list": lambda value: json.dumps(["a", value, "b"]),
    "query": lambda value: f"https://api.example/v1/items?given={quote(value, safe='')}&page=2",
    "path": lambda value: f"GET /v1/items/{quote(value, safe='')}/edit",
    "form": lambda value: f"page=2&given={quote(value, safe='')}&n=1",
    "header": lambda value: f"HTTP/1.1 401 Unauthorized\r\nX-Given: {value}\r\nServer: a\r\n",
    "environment": lambda value: f"export GIVEN={value}\nexport N=1\n",
    "YAML": lambda value: f"status: 401\ngiven: {value}\nn: 1\n",
    "log": lambda value: f"level=error given={value} status=401",
    "table": lambda value: f"id,given,status\n1,{value},401\n",
    "Markdown": lambda value: f"- **given**: {value}\n- n: 1\n",
    "XML": lambda value: f"<error><given>{escape(value)}</given></error>",
    "HTML": lambda value: f"<p>The value <code>{escape(value)}</code> is not known</p>",
}
"""How a text writes a value, under names that tell nothing."""


class Case(NamedTuple):
    """A text with a value, and what it is."""

    kind: str
    notation: str
    value: str
    text: str

    def redacted(self) -> str:
        """What leaves."""
        return redact_text(self.text)

    def leaks(self) -> bool:
        """Whether eight characters in a row of the secret's random part leave."""
        shown = self.redacted()
        written = {self.value, quote(self.value, safe=""), escape(self.value)}
        return any(
            text[at : at + 8] in shown
            for text in written
            for at in range(max(0, len(text) - 16), len(text) - 7)
        )

    def is_changed(self) -> bool:
        """Whether redaction changes the text."""
        return self.redacted() != self.text


def made_up(shape: str, dice: random.Random) -> str:
    """A value of this shape; characters of classes with letters and digits have both."""

    def characters(slot: re.Match[str]) -> str:
        if slot[1] == "uuid":
            return str(uuid.UUID(int=dice.getrandbits(128), version=4))
        count, known = int(slot[2]), _CLASSES[slot[1]]
        while True:
            found = "".join(dice.choices(known, k=count))
            is_mixed = re.search(r"\d", found) and re.search(r"[A-Za-z]", found)
            ends = (found[0] + found[-1]).isalnum()
            if (is_mixed or not {"0", "a"} <= set(known.lower()) or count < 6) and (ends or count < 4):
                return found

    return _SLOT.sub(characters, shape)


def secrets_by_look(dice: random.Random) -> Iterator[Case]:
    """Each kind that has a look of its own, in every notation, under names that tell nothing."""
    for kind, shape in SHAPES["by_look"].items():
        for notation, written in NOTATIONS.items():
            value = made_up(shape, dice)
            yield Case(kind, notation, value, written(value))


def secrets_by_name(dice: random.Random) -> Iterator[Case]:
    """Each kind that has a name only, in every notation that has names, under its name in three spellings."""
    for name, shape in SHAPES["by_name"].items():
        words = name.lower().split("_")
        camel = words[0] + "".join(map(str.capitalize, words[1:]))
        for spelled in (name, camel, "-".join(words)):
            for notation, written in NOTATIONS.items():
                value = made_up(shape, dice)
                text = written(value)
                named = re.sub(r"X-Given|\bGIVEN\b|\bgiven\b(?!:? ')", spelled, text)
                if named != text and notation != "prose, in brackets":
                    yield Case(spelled, notation, value, named)


def ids_and_words(dice: random.Random) -> Iterator[Case]:
    """What is no secret, in every notation."""
    for kind, shape in SHAPES["kept"].items():
        for notation, written in NOTATIONS.items():
            value = made_up(shape, dice)
            yield Case(kind, notation, value, written(value))


def main() -> None:
    """Prints the figures, and each kind that leaks or is changed."""
    for title, cases, is_bad in (
        ("secrets by their look", secrets_by_look, Case.leaks),
        ("secrets by their name", secrets_by_name, Case.leaks),
        ("ids and words, changed", ids_and_words, Case.is_changed),
    ):
        all_cases = [case for seed in range(20) for case in cases(random.Random(seed))]
        bad = [case for case in all_cases if is_bad(case)]
        kinds = {case.kind for case in all_cases}
        print(f"{title}: {len(kinds)} kinds, {len(all_cases)} texts: {len(bad)} bad")
        for kind in sorted({case.kind for case in bad}):
            mine = [case for case in bad if case.kind == kind]
            notations = sorted({case.notation for case in mine})
            print(f"  {kind}: {len(mine)} ({', '.join(notations)}), as {mine[0].text[:100]!r}")


if __name__ == "__main__":
    main()
