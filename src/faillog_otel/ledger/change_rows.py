"""The SQL of changes of the workspace: a row for each audit event."""

import sqlite3
from collections.abc import Callable, Iterable

from faillog_otel.clock import DAY_NS
from faillog_otel.segment.answers import Change

KEPT_NS = 35 * DAY_NS
"""As long as failures are kept."""

Rows = Callable[..., list[sqlite3.Row]]
"""Returns the rows of a query: `Database.rows`."""


def between(rows: Rows, since_ns: int, until_ns: int) -> list[Change]:
    """Returns the changes of a window of time, the oldest first."""
    found = rows(
        "SELECT * FROM changes WHERE at_ns >= ? AND at_ns < ? ORDER BY at_ns, id", since_ns, until_ns
    )
    return [Change(**dict(row)) for row in found]


def add(db: sqlite3.Connection, changes: Iterable[Change]) -> list[Change]:
    """Adds a row for each change that has none; returns the added ones."""
    return [each for each in changes if db.execute(_ADD, _values(each)).rowcount]


def prune(db: sqlite3.Connection, now_ns: int) -> None:
    """Removes old changes. `now_ns` must be certain."""
    db.execute("DELETE FROM changes WHERE at_ns < ?", (now_ns - KEPT_NS,))


def _values(each: Change) -> tuple[object, ...]:
    of_resource = each.resource_id, each.resource_type, each.resource_name
    return each.id, each.at_ns, each.kind, *of_resource, each.actor, each.actor_email


_ADD = """
INSERT OR IGNORE INTO changes (id, at_ns, kind, resource_id, resource_type, resource_name, actor, actor_email)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
