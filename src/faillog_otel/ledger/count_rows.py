"""The SQL of Segment's own counts, as parts of the reader and the writer of the SQLite ledger."""

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, HOUR_NS
from faillog_otel.ledger.counts import CountSizes, DestinationHour, EventCount, Pair
from faillog_otel.ledger.failure_queries import Rows

KEPT_NS = 35 * DAY_NS
"""How long counts are kept."""
NEWS_NS = 6 * HOUR_NS
"""An hour that is counted for the first time is news until so long after its end."""


class CountReads:
    """Implements `CountsReader`, which documents these methods."""

    def event_counts(self: Rows, since_ns: int, until_ns: int) -> list[EventCount]:
        return [_count(row) for row in self.rows(_COUNTS, *_window(since_ns, until_ns))]

    def counted_hours(self: Rows, since_ns: int, until_ns: int) -> dict[DestinationHour, int]:
        rows = self.rows(_COUNTED, *_window(since_ns, until_ns))
        return {(row["hour"], row["destination"]): row["read_ns"] for row in rows}

    def count_readings(self: Rows, since_ns: int) -> dict[Pair, dict[int, int]]:
        found: defaultdict[Pair, dict[int, int]] = defaultdict(dict)
        for row in self.rows("SELECT * FROM counted_hours WHERE hour >= ?", -(-since_ns // HOUR_NS)):
            found[row["source"], row["destination"]][row["hour"]] = row["read_ns"]
        return dict(found)

    def connections(self: Rows) -> list[Pair]:
        rows = self.rows("SELECT source, destination FROM connections ORDER BY source, destination")
        return [(row["source"], row["destination"]) for row in rows]

    def discards_read(self: Rows, since_ns: int, until_ns: int) -> dict[DestinationHour, int]:
        rows = self.rows(_DISCARDS, *_window(since_ns, until_ns))
        return {(row["hour"], row["destination"]): row["discarded"] for row in rows}

    def learned_destinations(self: Rows) -> dict[str, tuple[str, ...]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for row in self.rows(_DESTINATIONS):
            found[row["collection"]].append(row["destination"])
        return {name: tuple(destinations) for name, destinations in found.items()}

    def hours_with_failures(self: Rows, after: int) -> set[tuple[str, int]]:
        rows = self.rows(
            "SELECT DISTINCT collection, hour FROM objects WHERE failures > 0 AND hour > ?", after
        )
        return {(row["collection"], row["hour"]) for row in rows}

    def count_sizes(self: Rows) -> CountSizes:
        [row] = self.rows(_SIZES)
        return CountSizes(**dict(row))


Result = TypeVar("Result")


class Transactions(Protocol):
    """A database that can be written."""

    def transact(self, steps: Callable[[sqlite3.Connection], Result]) -> Result:
        """Makes one durable transaction."""


class CountWrites:
    """Implements `CountsLedger`, which documents these methods."""

    def note_counts(
        self: Transactions, pair: Pair, hours: Collection[int], counts: Iterable[EventCount], now_ns: int
    ) -> list[EventCount]:
        counted = set(hours)
        new = {(each.hour, each.stage, each.reason): each for each in counts if each.hour in counted}
        return self.transact(lambda db: _replace(db, pair, counted, new, now_ns))

    def note_connections(self: Transactions, pairs: Iterable[Pair]) -> None:
        def steps(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM connections")
            db.executemany("INSERT OR IGNORE INTO connections VALUES (?, ?)", pairs)

        self.transact(steps)


def _replace(
    db: sqlite3.Connection,
    pair: Pair,
    hours: set[int],
    new: dict[tuple[int, str, str], EventCount],
    now_ns: int,
) -> list[EventCount]:
    of_pair = msgspec.json.encode(sorted(hours)).decode(), *pair
    old = {
        (row["hour"], row["stage"], row["reason"]): (row["events"], row["retried"])
        for row in db.execute(f"SELECT * {_OF_PAIR.format('event_counts')}", of_pair)
    }
    known = {row["hour"] for row in db.execute(f"SELECT hour {_OF_PAIR.format('counted_hours')}", of_pair)}
    db.execute(f"DELETE {_OF_PAIR.format('event_counts')}", of_pair)
    db.executemany(
        "INSERT INTO event_counts VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (each.hour, *pair, each.stage, each.reason, each.events, min(each.retried, each.events))
            for each in new.values()
            if each.events > 0
        ],
    )
    db.executemany(
        "INSERT OR REPLACE INTO counted_hours VALUES (?, ?, ?, ?)", [(hour, *pair, now_ns) for hour in hours]
    )
    news = {hour for hour in hours if hour in known or now_ns < (hour + 1) * HOUR_NS + NEWS_NS}
    grown = []
    for key, each in new.items():
        events, retried = old.get(key, (0, 0))
        if each.hour in news and each.events > events:
            more = replace(each, events=each.events - events, retried=max(0, each.retried - retried))
            grown.append(more)
    return grown


def prune(db: sqlite3.Connection, now_ns: int) -> None:
    """Removes old counts. `now_ns` must be certain: hours that were read later than it are read again."""
    oldest = (now_ns - KEPT_NS) // HOUR_NS
    db.execute("DELETE FROM event_counts WHERE hour < ?", (oldest,))
    db.execute("DELETE FROM counted_hours WHERE hour < ?", (oldest,))
    db.execute("UPDATE counted_hours SET read_ns = 0 WHERE read_ns > ?", (now_ns,))


def _window(since_ns: int, until_ns: int) -> tuple[int, int]:
    """Returns the first hour that begins in a window, and the first one after it."""
    return -(-since_ns // HOUR_NS), -(-until_ns // HOUR_NS)


def _count(row: sqlite3.Row) -> EventCount:
    return EventCount(**dict(row))


_OF_PAIR = "FROM {} WHERE hour IN (SELECT value FROM json_each(?)) AND source = ? AND destination = ?"
_COUNTS = "SELECT * FROM event_counts WHERE hour >= ? AND hour < ? ORDER BY hour, source, destination"
# Counts of a source that is not connected any more count as well.
_COUNTED = """
SELECT h.hour, h.destination, min(h.read_ns) AS read_ns FROM counted_hours h
WHERE h.destination != '' AND h.hour >= ? AND h.hour < ?
GROUP BY h.hour, h.destination HAVING NOT EXISTS (
    SELECT 1 FROM connections c WHERE c.destination = h.destination AND NOT EXISTS (
        SELECT 1 FROM counted_hours o
        WHERE o.hour = h.hour AND o.source = c.source AND o.destination = c.destination))
"""
_DISCARDS = """
SELECT c.hour, g.destination, sum(c.discarded) AS discarded
FROM failure_counts c JOIN failure_groups g ON g.id = c.grp
WHERE c.discarded > 0 AND c.hour >= ? AND c.hour < ? GROUP BY c.hour, g.destination
"""
# Of each collection, the 20 newest objects with failures.
_DESTINATIONS = """
SELECT h.collection, g.destination FROM (SELECT DISTINCT collection FROM hours) h
JOIN failure_counts c ON c.object IN (SELECT id FROM objects
    WHERE collection = h.collection AND failures > 0 ORDER BY hour DESC LIMIT 20)
JOIN failure_groups g ON g.id = c.grp AND g.destination != ''
GROUP BY h.collection, g.destination ORDER BY h.collection, sum(c.records) DESC, g.destination
"""
_SIZES = """
SELECT (SELECT count(DISTINCT hour) FROM counted_hours) AS hours, (SELECT count(*) FROM event_counts) AS rows
"""
