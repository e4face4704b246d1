"""The SQL of names: a row for each change, versions for spooled objects, and upkeep."""

import sqlite3
from collections.abc import Callable, Iterable

from faillog_otel.clock import DAY_NS
from faillog_otel.ledger.names import Rename
from faillog_otel.segment.answers import Name

KEPT_NS = 35 * DAY_NS
"""How long a name that was replaced is kept."""

MAX_NUMBER = 2**63 - 1

Rows = Callable[..., list[sqlite3.Row]]
"""Returns the rows of a query: `Database.rows`."""


def newest(rows: Rows) -> dict[str, Name]:
    """Returns id → its newest name. Of equal ids of different kinds, the destination's counts."""
    return {row["id"]: _name(row) for row in rows(_AT, MAX_NUMBER)}


def shown(rows: Rows, names_to: int) -> dict[str, str]:
    """Returns id → shown name, of the version with this number."""
    names = [_name(row) for row in rows(_AT, names_to)]
    return {each.id: each.shown for each in names if each.shown}


def renames(rows: Rows, since_ns: int) -> list[Rename]:
    """Returns the changes of shown names since this time, the newest first."""
    return [
        Rename(row["kind"], row["id"], row["before"], row["after"], row["read_ns"])
        for row in rows(_RENAMES, since_ns)
    ]


def changed(rows: Rows, names: Iterable[Name]) -> list[Name]:
    """Returns the names that differ from the newest stored ones."""
    known = {(row["kind"], row["id"]): _name(row) for row in rows(_AT, MAX_NUMBER)}
    return [each for each in names if known.get((each.kind, each.id)) != each]


def add(db: sqlite3.Connection, names: Iterable[Name], now_ns: int) -> None:
    """Adds a row for each name."""
    db.executemany(
        "INSERT INTO names (kind, id, name, slug, enabled, source, metadata_name, metadata_slug, read_ns)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                *(each.kind, each.id, each.name, each.slug, each.enabled),
                *(each.source, each.product, each.product_slug, now_ns),
            )
            for each in names
        ),
    )


def prune(db: sqlite3.Connection, now_ns: int) -> None:
    """Removes old names that are not the newest of their id and that no spooled object needs.

    `now_ns` must be certain: it also corrects later times, which a clock that was ahead wrote.
    """
    db.execute("UPDATE names SET read_ns = :now WHERE read_ns > :now", {"now": now_ns})
    db.execute(_PRUNE, (now_ns - KEPT_NS,))


def _name(row: sqlite3.Row) -> Name:
    return Name(
        kind=row["kind"],
        id=row["id"],
        name=row["name"],
        slug=row["slug"],
        enabled=bool(row["enabled"]),
        source=row["source"],
        product=row["metadata_name"],
        product_slug=row["metadata_slug"],
    )


_AT = """  -- destinations last: of equal ids, theirs counts
SELECT * FROM names WHERE number IN (SELECT max(number) FROM names WHERE number <= ? GROUP BY kind, id)
ORDER BY kind = 'destination', number
"""
_RENAMES = """
SELECT kind, id, before, after, read_ns FROM (
    SELECT number, kind, id, read_ns, coalesce(nullif(name, ''), metadata_name) AS after,
        lag(coalesce(nullif(name, ''), metadata_name)) OVER (PARTITION BY kind, id ORDER BY number) AS before
    FROM names)
WHERE before != after AND read_ns >= ? ORDER BY number DESC
"""
# `state != 'done'` lets SQLite use the index `objects_under_way`.
_PRUNE = """
DELETE FROM names AS old WHERE read_ns < ? AND EXISTS (
    SELECT 1 FROM names newer WHERE newer.kind = old.kind AND newer.id = old.id AND newer.number > old.number
    AND newer.number <= coalesce((SELECT min(names_to) FROM objects WHERE state != 'done'
        AND state = 'spooled'), newer.number))
"""
