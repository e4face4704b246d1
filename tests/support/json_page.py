"""The tables of keys in docs/reference/json.md, made of the JSON Schemas.

`PYTHONPATH=tests python -m support.json_page` writes them into the page, between the marks for each schema:
`<!-- keys: status -->` and `<!-- end -->`.
"""

import re
from collections.abc import Iterator
from typing import Any

from support.json_schemas import FOLDER, SUFFIX, resolve

PAGE = FOLDER.with_name("json.md")
MARKED = re.compile(r"(<!-- keys: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """The page with tables that are up to date."""
    return MARKED.sub(lambda found: f"{found[1]}\n{tables(found['name'])}\n{found[3]}", page)


def tables(name: str) -> str:
    """A table of all keys of a schema, or one for each of its alternatives."""
    file, pointer, schema = resolve(name + SUFFIX, "")
    parts = [_table(file, pointer)] if "properties" in schema else []
    for keyword in ("oneOf", "anyOf"):
        for number, alternative in enumerate(schema.get(keyword, ())):
            other_file, branch, found = resolve(file, f"{pointer}/{keyword}/{number}")
            if other_file != file:
                parts.append(f"{alternative['description']} It has all keys of {_link(other_file)}.")
            elif "properties" in found:
                parts += [found["description"], _table(file, branch)]
    return "\n\n".join(parts) + "\n"


def _link(file: str) -> str:
    return f"[{file}](schemas/{file})"


def _table(file: str, pointer: str) -> str:
    return "\n".join(["| key | type | meaning |", "|---|---|---|", *_rows(file, pointer, "")])


def _rows(file: str, pointer: str, prefix: str) -> Iterator[str]:
    schema = resolve(file, pointer)[2]
    for key, described in schema["properties"].items():
        at = f"{pointer}/properties/{key}"
        found_file, found_at, found = resolve(file, at)
        choices = [f"`{each['const']}`: {each['description']}" for each in found.get("oneOf", ())]
        choices += [f"`{each}`" for each in found.get("enum", ())]
        meaning = "<br>".join([described["description"], *choices])
        if found_file != file:
            meaning += f" It has the keys of `{key}` in {_link(found_file)}."
        kind = _kind(found_file, found_at) + ("" if key in schema.get("required", ()) else ", optional")
        yield f"| `{prefix}{key}` | {kind} | {meaning} |"
        if found_file == file:
            yield from _inner_rows(file, found_at, f"{prefix}{key}")


def _inner_rows(file: str, pointer: str, name: str) -> Iterator[str]:
    file, pointer, schema = resolve(file, pointer)
    if "anyOf" in schema:
        yield from _inner_rows(file, f"{pointer}/anyOf/0", name)
    elif "properties" in schema:
        yield from _rows(file, pointer, f"{name}.")
    elif "items" in schema:
        yield from _inner_rows(file, f"{pointer}/items", f"{name}[]")
    elif isinstance(schema.get("additionalProperties"), dict):
        yield from _inner_rows(file, f"{pointer}/additionalProperties", f"{name}.*")


def _kind(file: str, pointer: str) -> str:
    """`integer`, `time or null`, `array of object`, `map to integer`."""
    file, pointer, schema = resolve(file, pointer)
    if "anyOf" in schema:
        return " or ".join(
            dict.fromkeys(_kind(file, f"{pointer}/anyOf/{number}") for number in range(len(schema["anyOf"])))
        )
    if "const" in schema:
        return f"`{str(schema['const']).lower()}`"
    if "items" in schema:
        return f"array of {_kind(file, f'{pointer}/items')}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_kind(file, f'{pointer}/additionalProperties')}"
    names: Any = schema.get("type", "string")
    kind = names if isinstance(names, str) else " or ".join(names)
    return kind.replace("string", "time") if schema.get("format") == "date-time" else kind


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
