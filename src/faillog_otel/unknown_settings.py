"""Hints for names that are no setting's: keys of the config file, and environment variables."""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from faillog_otel.setting_values import MAX_QUOTED
from faillog_otel.settings import BY_PATH, SETTINGS, TABLES, VARIABLES
from faillog_otel.text import did_you_mean, truncate


def unknown_key(key: str, value: object, table: str) -> str:
    """Returns a message about an unknown key or table, with a similar known one."""
    known = [row.key for row in SETTINGS if row.table == table]
    tables = {each.removeprefix(f"{table}."): each for each in TABLES if each.rpartition(".")[0] == table}
    near = get_close_matches(key, [*known, *tables], n=1)
    if isinstance(value, dict | list) and (near[0] in tables if near else not table):
        hint = (
            f"did you mean [{tables[near[0]]}]?" if near else f"the tables are {_bracketed(tables.values())}"
        )
        return f"unknown table [{truncate(f'{table}.{key}'.lstrip('.'), MAX_QUOTED)}]; {hint}"
    problem = (
        f'{f"[{table}]" if table else "outside of any table:"} unknown key "{truncate(key, MAX_QUOTED)}"'
    )
    if near and near[0] in known:
        return f'{problem}; did you mean "{near[0]}"?'
    if others := [
        each for each in TABLES if "." not in each and f"{each}.{key}" in BY_PATH and each != table
    ]:
        return f"{problem}; write it under {_bracketed(others, ' or ')}"
    return f"{problem}; the keys are {', '.join(known)}" if table else f"{problem}; write it under a table"


def _bracketed(tables: Iterable[str], between: str = ", ") -> str:
    return between.join(f"[{each}]" for each in tables)


NEAR = 0.9
"""Similarity, from 0 to 1, from which another program's variable counts as a misspelt one of ours."""
_OF_KUBERNETES = re.compile(
    r"\w+_(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""Variables that Kubernetes sets for a Service: for one named faillog, FAILLOG_SERVICE_HOST and others."""
_MAY_BE_OURS = re.compile(r"(FAIL|OTEL|OTLP|SEGMENT)", re.IGNORECASE)
_OUR_PREFIX = re.compile(r"^(FAILLOG|OTEL_EXPORTER)_")
_OF_OTHERS = re.compile(r"OTEL_EXPORTER_OTLP_(METRICS?|PROFILES|SPAN)_|FAILLOG_COLLECTOR_")
"""Signals that are not sent, and variables of the shipped Collector configurations."""


def unknown_variables(names: Iterable[str]) -> Iterator[str]:
    """Yields a warning for each unknown name that begins with FAILLOG_ or resembles a known one."""
    for name in sorted(names):
        if name in VARIABLES or not _MAY_BE_OURS.match(name):
            continue
        if _OF_KUBERNETES.fullmatch(name) or _OF_OTHERS.match(name):
            continue
        is_ours = name.startswith("FAILLOG_")
        hint = _our_variable(name) if is_ours else did_you_mean(name.upper(), VARIABLES, cutoff=NEAR)
        if hint or is_ours:
            yield f"{truncate(name, MAX_QUOTED)}: unknown variable, ignored{hint or '; unset it'}"


def _our_variable(name: str) -> str:
    """Returns a hint. Compares names without their prefix, which would outweigh the rest."""
    words = {_OUR_PREFIX.sub("", each): each for each in sorted(VARIABLES)}
    rest = _OUR_PREFIX.sub("", name)
    near = get_close_matches(rest, words, n=1, cutoff=0.7)
    ending = sorted((each for each in words if each.endswith(f"_{rest}")), key=len)
    return f'; did you mean "{words[found[0]]}"?' if (found := near or ending) else ""
