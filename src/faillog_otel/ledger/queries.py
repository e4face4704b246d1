"""Looking at the ledger, in plain SQL: nothing is changed, and nobody is waited for.

Times are nanoseconds since 1970, hours are whole hours since 1970.
"""

import re
import sqlite3
from collections.abc import Collection
from typing import Literal

import msgspec
from msgspec import Struct

from faillog_otel.ledger.database import Database

_NUMBER = re.compile(r"-?[0-9]{1,19}")

Fate = Literal["exported", "rejected", "quarantined", "pending", "duplicate"]


class SeenHour(Struct, frozen=True):
    """What is remembered of one collection's hour."""

    first_listed_ns: int | None
    """The first listing of which every object was downloaded; `listed_ns`: the last one."""
    listed_ns: int | None
    same_since_ns: int | None
    """The first of the listings in a row that showed what the last one showed."""
    failures: int
    """In a row; `failed_ns` and `failed_why` are the last one's."""
    failed_ns: int
    failed_why: str
    under_way: int
    """Objects that are being downloaded, or lie in the spool."""
    objects: int
    """Objects of which every record is written down."""
    lost: int = 0
    """Objects that left Segment's 28 days before they could be downloaded."""


class MissingObject(Struct, frozen=True):
    """An object that could not be downloaded so far."""

    collection: str
    hour: int
    path: str
    why: str
    urls_failed: int
    """URLs of it, each from a listing of its own, that came to nothing."""
    since_ns: int
    """Its first try that failed; `failed_ns`: the last one."""
    failed_ns: int
    next_ns: int
    """When it is tried again, or where `needs_listing`, when its hour may be listed again."""
    needs_listing: bool


class Totals(Struct, frozen=True):
    """What became of all records of all objects, those that were pruned included."""

    records: int
    exported: int
    rejected: int
    quarantined: int
    pending: int
    duplicate: int


def unfinished_hours(database: Database, shown: Collection[int]) -> set[tuple[str, int]]:
    """Collection-hours with objects that were not forwarded to their end, but for the objects in `shown`."""
    rows = database.rows(
        "SELECT DISTINCT collection, hour FROM objects WHERE state != 'done'"
        " AND id NOT IN (SELECT value FROM json_each(?))",
        msgspec.json.encode(sorted(shown)).decode(),
    )
    return {(row["collection"], row["hour"]) for row in rows}


def first_spooled(database: Database, shown: Collection[int]) -> list[sqlite3.Row]:
    """The row of the oldest object in the spool whose id is not in `shown`; empty if there is none."""
    return database.rows(
        "SELECT * FROM objects WHERE state = 'spooled'"
        " AND id NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT 1",
        msgspec.json.encode(sorted(shown)).decode(),
    )


def pending_records(database: Database) -> int:
    """Records that lie in the spool and are not written down yet."""
    [row] = database.rows("SELECT coalesce(sum(records - position), 0) AS pending FROM objects")
    return int(row["pending"])


def pending_lines(database: Database) -> int:
    """How many of the pending records are lines of JSON Lines."""
    [row] = database.rows(
        "SELECT coalesce(sum(records - position), 0) AS pending FROM objects WHERE lines > 0"
    )
    return int(row["pending"])


NEWEST = "newest "
"""Before a collection's id: the fact when Segment logged the newest of its exported records, in ns."""


def newest_logged(database: Database) -> dict[str, int]:
    """Collection → when Segment logged the newest record of it that was exported, nanoseconds since 1970."""
    rows = database.rows("SELECT name, value FROM facts WHERE name GLOB ?", f"{NEWEST}*")
    return {str(row["name"]).removeprefix(NEWEST): int(row["value"]) for row in rows}


def fact(database: Database, name: str) -> str | None:
    """A fact that was noted."""
    rows = database.rows("SELECT value FROM facts WHERE name = ?", name)
    return str(rows[0]["value"]) if rows else None


def fact_ns(database: Database, name: str) -> int | None:
    """A fact that is a number of nanoseconds. Raises LedgerBroken if it is anything else."""
    text = fact(database, name)
    if text is None or _NUMBER.fullmatch(text):
        return None if text is None else int(text)
    raise database.damaged(f"the fact {name!r} is {text[:40]!r}")


def seen_hours(database: Database) -> dict[str, dict[int, SeenHour]]:
    """Collection → hour → what is remembered of it."""
    seen: dict[str, dict[int, SeenHour]] = {}
    for row in database.rows(_HOURS):
        seen.setdefault(row["collection"], {})[row["hour"]] = SeenHour(
            first_listed_ns=row["first_listed_ns"],
            listed_ns=row["last_listed_ns"],
            same_since_ns=row["same_since_ns"],
            failures=row["failures"],
            failed_ns=row["failed_ns"],
            failed_why=row["failed_why"],
            under_way=row["under_way"],
            objects=row["objects"],
            lost=row["lost"],
        )
    return seen


def listings(database: Database) -> dict[tuple[str, int], int]:
    """(collection, hour) → how often the hour was read: listed, with all of its objects downloaded."""
    rows = database.rows("SELECT collection, hour, listings FROM hours")
    return {(row["collection"], row["hour"]): row["listings"] for row in rows}


def missing_objects(database: Database) -> list[MissingObject]:
    """The objects that could not be downloaded so far, by hour."""
    rows = database.rows(
        "SELECT * FROM objects WHERE state != 'done' AND state IN ('listed', 'missing')"
        " AND failed_ns IS NOT NULL ORDER BY hour, collection, id"
    )
    return [
        MissingObject(
            collection=row["collection"],
            hour=row["hour"],
            path=row["path"],
            why=row["failed_why"],
            urls_failed=row["urls_failed"],
            since_ns=row["failed_since_ns"],
            failed_ns=row["failed_ns"],
            next_ns=row["due_ns"],
            needs_listing=row["state"] == "missing",
        )
        for row in rows
    ]


def lost_objects(database: Database) -> int:
    """How many objects left Segment's 28 days before they could be downloaded, of the hours remembered."""
    [row] = database.rows("SELECT coalesce(sum(lost), 0) AS lost FROM hours")
    return int(row["lost"])


def totals(database: Database) -> Totals:
    """The sums."""
    [row] = database.rows(_TOTALS)
    return Totals(**dict(row))


def time_shifted(database: Database) -> int:
    """How many of all exported records carry another time than their own."""
    [row] = database.rows(_TIME_SHIFTED)
    return int(row["time_shifted"])


def objects_by_state(database: Database) -> dict[str, int]:
    """How many objects are in each state; `done` without those that were pruned."""
    rows = database.rows("SELECT state, count(*) AS objects FROM objects GROUP BY state")
    return {"listed": 0, "spooled": 0, "done": 0, **{row["state"]: row["objects"] for row in rows}}


def kept_by_reason(database: Database) -> dict[str, int]:
    """How many records are in quarantine, by reason; the most frequent first."""
    rows = database.rows(
        "SELECT reason, count(*) AS kept FROM kept GROUP BY reason ORDER BY kept DESC, reason"
    )
    return {row["reason"]: row["kept"] for row in rows}


def newest_hour(database: Database, *, of: Literal["read", "sent"]) -> int | None:
    """The newest hour that was read, or of which a record was exported; None where there is none."""
    [row] = database.rows(_NEWEST_READ if of == "read" else _NEWEST_SENT)
    return None if row["hour"] is None else int(row["hour"])


_HOURS = """
SELECT h.*, coalesce(o.under_way, 0) AS under_way, coalesce(o.done, 0) + coalesce(p.objects, 0) AS objects
FROM hours h
LEFT JOIN (SELECT collection, hour, sum(state != 'done') AS under_way, sum(state = 'done') AS done
    FROM objects GROUP BY collection, hour) o ON o.collection = h.collection AND o.hour = h.hour
LEFT JOIN past p ON p.collection = h.collection AND p.hour = h.hour
ORDER BY h.collection, h.hour
"""
_TOTALS = """
SELECT coalesce(sum(records), 0) AS records, coalesce(sum(exported), 0) AS exported,
    coalesce(sum(rejected), 0) AS rejected, coalesce(sum(quarantined), 0) AS quarantined,
    coalesce(sum(pending), 0) AS pending, coalesce(sum(duplicate), 0) AS duplicate
FROM (SELECT records, exported, rejected, quarantined, records - position AS pending, duplicate FROM objects
    UNION ALL SELECT records, exported, rejected, quarantined, 0, duplicate FROM past)
"""
_TIME_SHIFTED = """
SELECT coalesce(sum(time_shifted), 0) AS time_shifted
FROM (SELECT time_shifted FROM objects UNION ALL SELECT time_shifted FROM past)
"""
_NEWEST_READ = "SELECT max(hour) AS hour FROM hours WHERE last_listed_ns IS NOT NULL"
_NEWEST_SENT = """
SELECT max(hour) AS hour
FROM (SELECT hour FROM objects WHERE exported > 0 UNION ALL SELECT hour FROM past WHERE exported > 0)
"""
