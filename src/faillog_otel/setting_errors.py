"""What is wrong with a setting, as a sentence for people: unknown names, wrong types, broken TOML.

The declarations of the settings (msgspec Structs) are the only source of names, types, choices and bounds.
No sentence quotes a text that may be a secret: only names, and words where a setting has choices.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from msgspec import Struct, inspect

MAX_SHOWN = 40
"""Characters of a wrong word that a sentence quotes."""
NEAR = 0.9
"""How similar the name of another program's variable must be to one of ours, from 0 to 1, to be a slip."""


def did_you_mean(word: str, possible: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`; did you mean "endpoint"?`, or nothing where no possible word is similar."""
    near = get_close_matches(word, list(possible), n=1, cutoff=cutoff)
    return f'; did you mean "{near[0]}"?' if near else ""


# -- values ------------------------------------------------------------------------------------------------


def wrong_value(value: object, path: str, layer: type[Struct]) -> str:
    """What is wrong with a value for a setting, such as `otlp.logs.protocol`; empty if nothing is."""
    kind: inspect.Type = _declared(layer)
    for name in path.split("."):
        kind = _fields(kind)[name]
    return _wrong(value, kind)


def wrong_table(table: Mapping[str, Any], layer: type[Struct]) -> Iterator[str]:
    """Everything that is wrong with the content of a config file, in its order."""
    top = _declared(layer)
    return _wrong_entries(table, top, (), top)


def shown(path: str) -> str:
    """A setting as a config file names it: `[otlp.logs] protocol` for `otlp.logs.protocol`."""
    table, _, key = path.rpartition(".")
    return f"[{table}] {key}"


@cache
def _declared(layer: type[Struct]) -> inspect.Type:
    return inspect.type_info(layer)


def _fields(kind: inspect.Type) -> dict[str, inspect.Type]:
    """Name → type, without None: there is no None in TOML or in a variable."""
    found: dict[str, inspect.Type] = {}
    for field in kind.fields if isinstance(kind, inspect.StructType) else ():
        types = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
        found[field.encode_name] = next(each for each in types if not isinstance(each, inspect.NoneType))
    return found


def _wrong_entries(
    table: Mapping[str, Any], kind: inspect.Type, within: tuple[str, ...], top: inspect.Type
) -> Iterator[str]:
    fields = _fields(kind)
    for key, value in table.items():
        path = (*within, key)
        if key not in fields:
            yield _unknown(path, value, kind, top)
        elif not isinstance(fields[key], inspect.StructType):
            if problem := _wrong(value, fields[key]):
                yield f"{shown('.'.join(path))} {problem}"
        elif isinstance(value, dict):
            yield from _wrong_entries(value, fields[key], path, top)
        else:
            heading = f"[{'.'.join(path)}]"
            yield f"{heading} must be a table; found {_found(value)}: write {heading} on a line of its own"


def _unknown(path: tuple[str, ...], value: object, kind: inspect.Type, top: inspect.Type) -> str:
    """An unknown key or table, with the known one that is near, or the table that has such a key."""
    *within, key = path
    fields = _fields(kind)
    tables = [name for name, each in fields.items() if isinstance(each, inspect.StructType)]
    near = get_close_matches(key, fields, n=1)
    if isinstance(value, dict | list) and (near[0] in tables if near else not within):
        name = ".".join((*within, near[0])) if near else ""
        known = ", ".join(f"[{each}]" for each in tables)
        return f"unknown table [{_cut('.'.join(path))}]" + (
            f"; did you mean [{name}]?" if near else f"; the tables are {known}"
        )
    where = f"[{'.'.join(within)}] unknown key" if within else "outside of any table: unknown key"
    said = f'{where} "{_cut(key)}"'
    if near and near[0] not in tables:
        return f'{said}; did you mean "{near[0]}"?'
    others = [name for name, each in _fields(top).items() if key in _fields(each) and [name] != within]
    if others:
        return f"{said}; write it under {' or '.join(f'[{name}]' for name in others)}"
    return f"{said}; known are {', '.join(fields)}" if within else f"{said}; write it under a table"


def _wrong(value: object, kind: inspect.Type) -> str:
    if isinstance(value, str) and "\0" in value:
        return "holds a NUL character; remove it"
    found = ""
    if isinstance(kind, inspect.ListType) and isinstance(value, list):
        wrong = [each for each in value if _wrong(each, kind.item_type)]
        found = _quoted(wrong[0], kind.item_type) if wrong else ""
    elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
        names = [name for name, each in value.items() if _wrong(each, kind.value_type)]
        found = f'{_found(value[names[0]])} for "{_cut(names[0])}"' if names else ""
    elif not _is_right(value, kind):
        found = _quoted(value, kind) + _remedy(value, kind)
    return f"{_must_be(kind)}; found {found}" if found else ""


def _is_right(value: object, kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.LiteralType):
        return value in kind.values
    if isinstance(kind, inspect.IntType):
        return isinstance(value, int) and not isinstance(value, bool) and _is_within(value, kind)
    if isinstance(kind, inspect.BoolType):
        return isinstance(value, bool)
    return isinstance(kind, inspect.StrType) and isinstance(value, str)


def _is_within(value: int, kind: inspect.IntType) -> bool:
    return (kind.ge is None or value >= kind.ge) and (kind.le is None or value <= kind.le)


def _remedy(value: object, kind: inspect.Type) -> str:
    if isinstance(kind, inspect.ListType) and isinstance(value, str):
        return ": write it in brackets"
    is_unquoted = isinstance(kind, inspect.StrType) and not isinstance(value, dict | list)
    return ": write it in quotes" if is_unquoted else ""


def _must_be(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.ListType):
        is_choice = isinstance(kind.item_type, inspect.LiteralType)
        return f"must be a list of {_choices(kind.item_type) if is_choice else 'strings'}"
    if isinstance(kind, inspect.IntType):
        bounds = f" from {kind.ge}" if kind.ge is not None else ""
        return f"must be a whole number{bounds}" + (f" to {kind.le}" if kind.le is not None else "")
    if isinstance(kind, inspect.LiteralType):
        return f"must be {_choices(kind)}"
    if isinstance(kind, inspect.DictType):
        return "must be a table of strings"
    return "must be true or false" if isinstance(kind, inspect.BoolType) else "must be a string"


def _choices(kind: inspect.Type) -> str:
    *others, last = map(str, kind.values) if isinstance(kind, inspect.LiteralType) else [""]
    return f"{', '.join(others)} or {last}" if others else last


def _quoted(value: object, kind: inspect.Type) -> str:
    """Returns a wrong word or a number out of bounds as it is; of any other value, its kind."""
    if isinstance(value, str) and isinstance(kind, inspect.LiteralType):
        return f'"{_cut(value)}"{did_you_mean(value, map(str, kind.values))}'
    if isinstance(value, int | float) and not isinstance(value, bool) and isinstance(kind, inspect.IntType):
        return _cut(str(value))
    return _found(value)


def _found(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a date or a time")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


# -- TOML --------------------------------------------------------------------------------------------------


def broken_toml(error: ValueError, text: str) -> str:
    """`line 3: ...`, for an error of tomllib: where the text is no TOML, and what to do."""
    said, _, place = str(error).rpartition(" (at ")
    line = re.match(r"line (\d+)", place)
    where = f"line {line[1] if line else text.rstrip().count(chr(10)) + 1}"
    if said.startswith("Cannot overwrite a value"):
        return f"{where}: the key is set twice; remove one of the two"
    if (twice := re.fullmatch(r"Cannot declare \((.*?),?\) twice", said)) is not None:
        table = twice[1].replace("'", "").replace(", ", ".")
        return f"{where}: the table [{_cut(table)}] appears twice; write its settings under one heading"
    if said.startswith("Invalid value"):
        return f"{where}: a value is missing or is no TOML; write text in quotes"
    if not said:  # not of tomllib: Python's own limit to the digits of a number
        return "a number has too many digits"
    return f"{where}: {said[0].lower()}{said[1:]}; mend the TOML"


# -- variables ---------------------------------------------------------------------------------------------

_OF_KUBERNETES = re.compile(
    r"\w+_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes sets for a Service: for one with the name faillog, FAILLOG_SERVICE_HOST and the like."""
_MAY_BE_OURS = re.compile(r"(FAIL|OTEL|OTLP|SEGMENT)", re.IGNORECASE)
_OUR_PREFIX = re.compile(r"^(FAILLOG|OTEL_EXPORTER)_")
_OF_OTHERS = re.compile(r"OTEL_EXPORTER_OTLP_(METRICS?|PROFILES|SPAN)_|FAILLOG_COLLECTOR_")
"""Signals that are not sent, and what the shipped configurations of the Collector read."""


def unknown_variables(names: Iterable[str], known: Collection[str]) -> Iterator[str]:
    """Warnings about names that begin with FAILLOG_ and are unknown, or are nearly one of the known."""
    for name in sorted(names):
        if name in known or not _MAY_BE_OURS.match(name):
            continue
        if _OF_KUBERNETES.fullmatch(name) or _OF_OTHERS.match(name):
            continue
        is_ours = name.startswith("FAILLOG_")
        hint = _our_variable(name, known) if is_ours else did_you_mean(name.upper(), known, cutoff=NEAR)
        if hint or is_ours:
            yield f"{_cut(name)}: no such setting, it has no effect{hint or '; unset it'}"


def _our_variable(name: str, known: Collection[str]) -> str:
    """The hint for a name that begins with FAILLOG_: by its other words, which that one would outweigh."""
    words = {_OUR_PREFIX.sub("", each): each for each in sorted(known)}
    said = _OUR_PREFIX.sub("", name)
    near = get_close_matches(said, words, n=1, cutoff=0.7)
    ending = sorted((each for each in words if each.endswith(f"_{said}")), key=len)
    return f'; did you mean "{words[found[0]]}"?' if (found := near or ending) else ""
