"""Golden files: the words of the contract, one a line, as the last reviewer accepted them.

    FREEZE_CONTRACT=1 .venv/bin/python -m pytest tests/contract    # writes them anew; read the diff

Do that only for a change that is meant, and name the change in CHANGELOG.md.
"""

import os
import re
from collections.abc import Iterable, Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("golden")


def check(name: str, lines: Iterable[str]) -> None:
    """Compares the lines with those of a golden file, or writes the file."""
    found, path = list(lines), FOLDER / name
    if os.environ.get("FREEZE_CONTRACT"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in found), "utf-8")
    frozen = path.read_text("utf-8").splitlines() if path.exists() else []
    difference = "\n".join(unified_diff(frozen, found, "frozen", "shown", n=0, lineterm=""))
    assert not difference, f"{name} differs from the contract:\n{difference}"


def keys(value: Any, path: str = "", *, open_maps: frozenset[str] = frozenset()) -> Iterator[str]:
    """Each key of a JSON value by its path, with the type of its value.

    `*` takes the place of keys that are data: those that are no word, and all keys of an
    object whose path is in `open_maps`.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            is_data = path in open_maps or not re.fullmatch("[a-z][A-Za-z0-9_]*", key)
            yield from keys(inner, f"{path}.{'*' if is_data else key}".lstrip("."), open_maps=open_maps)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner, f"{path}[]", open_maps=open_maps)
    if not (isinstance(value, dict | list) and value):
        kinds = {dict: "{}", list: "[]", str: "text", bool: "boolean", type(None): "null"}
        yield f"{path} {kinds.get(type(value), 'number')}"


def sorted_keys(*values: Any, open_maps: Iterable[str] = ()) -> list[str]:
    """The keys of all of these values, each once."""
    maps = frozenset(open_maps)
    return sorted({line for value in values for line in keys(value, open_maps=maps)})
