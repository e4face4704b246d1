"""All reads of the SQLite ledger: `SqliteReader` implements `LedgerReader`."""

import re
from collections.abc import Collection
from contextlib import AbstractContextManager

import msgspec

from faillog_otel.errors import LedgerBroken
from faillog_otel.ledger import (
    CollectionHour,
    Hour,
    LastListing,
    LedgerReader,
    MissingObject,
    Totals,
    UnderWay,
)
from faillog_otel.ledger.database import Database
from faillog_otel.ledger.schema import MIGRATIONS
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.segment.quota import Granted, Quota, RateLimit, RequestRecord

_NUMBER = re.compile(r"-?[0-9]{1,19}")
_GRANTED: dict[str | None, Granted] = {"listed": "granted", "toomany": "refused"}
"""What the outcomes of requests say about the quota; all others say nothing."""


def open_reader(folder: StateFolder, *, may_be_older: bool = False) -> LedgerReader:
    """Opens the ledger of a state folder that another process may use. Raises LedgerBroken.

    With `may_be_older`, also a ledger that `run` has not migrated yet.
    """
    return SqliteReader(Database(folder.ledger, read_only=True, may_be_older=may_be_older))


class SqliteReader:
    """Reads a ledger. Used by one thread at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def at_one_moment(self) -> AbstractContextManager[None]:
        """A context in which all reads see the same state. Keep it short: writers wait for its end."""
        return self.database.at_one_moment()

    def check(self) -> None:
        """Raises LedgerBroken if SQLite finds damage, or values that the schema does not allow."""
        self.database.check()

    def damaged(self, why: str) -> LedgerBroken:
        """Returns the error for content that this program did not write, with the way out."""
        return self.database.damaged(why)

    def schema_versions(self) -> tuple[int, int]:
        """Returns the ledger's schema version, and the version that this program writes."""
        return self.database.version(), len(MIGRATIONS)

    def close(self) -> None:
        """Closes the connection."""
        self.database.close()

    # -- hours and the quota -------------------------------------------------------------------------------

    def hours(self, after: int = -1) -> dict[str, dict[int, Hour]]:
        """Returns collection → hour → what is known of it, ascending; only hours later than `after`."""
        found: dict[str, dict[int, Hour]] = {}
        for row in self.database.rows(_HOURS, after):
            # By position: names cost 5 of 16 ms for the 3,360 hours of five collections.
            name, hour, listed_ns, same_ns, failures, failed_ns, wanted, missing, due_ns, *more = row
            first_ns, why, listings, under_way, lost = more
            found.setdefault(name, {})[hour] = Hour(
                listed_ns=listed_ns,
                same_since_ns=same_ns,
                failures=failures,
                failed_ns=failed_ns,
                wanted=bool(wanted),
                missing=missing,
                missing_due_ns=due_ns,
                first_listed_ns=first_ns,
                failed_why=why,
                listings=listings,
                under_way=under_way,
                lost=lost,
            )
        return found

    def hours_with_objects(self) -> set[CollectionHour]:
        """Returns the collection-hours that have objects, pruned ones included."""
        rows = self.database.rows(
            "SELECT DISTINCT collection, hour FROM objects UNION SELECT collection, hour FROM past"
        )
        return {(row["collection"], row["hour"]) for row in rows}

    def unfinished_hours(self, shown: Collection[int] = ()) -> set[CollectionHour]:
        """Returns the collection-hours with objects that are not done, except the objects in `shown`."""
        rows = self.database.rows(
            "SELECT DISTINCT collection, hour FROM objects WHERE state != 'done'"
            " AND id NOT IN (SELECT value FROM json_each(?))",
            msgspec.json.encode(sorted(shown)).decode(),
        )
        return {(row["collection"], row["hour"]) for row in rows}

    def last_listing(self, collection: str) -> LastListing | None:
        """Returns how the listings of a collection went; None if it has none. Works on older ledgers."""
        rows = self.database.rows(
            "SELECT failed_why, max(last_listed_ns) OVER () AS listed_ns FROM hours WHERE collection = ?"
            " ORDER BY failed_ns DESC LIMIT 1",
            collection,
        )
        return LastListing(rows[0]["listed_ns"] or 0, rows[0]["failed_why"]) if rows else None

    def newest_sent_hour(self) -> int | None:
        """Returns the newest hour of which a record was exported."""
        [row] = self.database.rows(_NEWEST_SENT)
        return None if row["hour"] is None else int(row["hour"])

    def quota(self, per_day: int) -> Quota:
        """Returns the requests that were made, and Segment's last rate limit.

        `per_day` is the size of the quota as long as Segment does not say it.
        """
        debits = [
            RequestRecord(row["at_ns"], row["collection"], row["why"], _GRANTED.get(row["outcome"], "none"))
            for row in self.database.rows(
                "SELECT at_ns, collection, why, outcome FROM requests ORDER BY at_ns, id"
            )
        ]
        said = self.database.rows("SELECT * FROM said")
        if not said:
            return Quota(debits=debits, per_day=per_day)
        [row] = said
        wait = max((row["not_before_ns"], row["not_before_why"]), (row["pause_ns"], row["pause_why"]))
        limit = None
        if row["remaining"] is not None:
            limit = RateLimit(
                row["at_ns"],
                row["remaining"],
                row["reset_ns"],
                limit=row["quota"],
                window_ns=row["window_ns"],
                is_refusal=bool(row["refusal"]),
            )
        return Quota(
            debits=debits, rate_limit=limit, not_before_ns=wait[0], not_before_why=wait[1], per_day=per_day
        )

    # -- facts ---------------------------------------------------------------------------------------------

    def fact(self, name: str) -> str | None:
        """Returns a fact; None if it was never noted."""
        rows = self.database.rows("SELECT value FROM facts WHERE name = ?", name)
        return str(rows[0]["value"]) if rows else None

    def fact_ns(self, name: str) -> int | None:
        """Returns a fact that is a number of nanoseconds. Raises LedgerBroken if it is anything else."""
        text = self.fact(name)
        return None if text is None else self._nanoseconds(name, text)

    def facts_ns(self, prefix: str) -> dict[str, int]:
        """Returns all facts whose names have this prefix, by the rest of the name, in nanoseconds."""
        rows = self.database.rows("SELECT name, value FROM facts WHERE name GLOB ?", f"{prefix}*")
        return {
            str(row["name"]).removeprefix(prefix): self._nanoseconds(row["name"], str(row["value"]))
            for row in rows
        }

    def _nanoseconds(self, name: str, text: str) -> int:
        if not _NUMBER.fullmatch(text):
            raise self.database.damaged(f"the fact {name!r} is {text[:40]!r}")
        return int(text)

    # -- objects and records -------------------------------------------------------------------------------

    def under_way(self) -> UnderWay:
        """Counts the objects that are not done."""
        [row] = self.database.rows(_UNDER_WAY)
        return UnderWay(row["to_download"], row["untried"], row["next_try_ns"], row["to_forward"])

    def missing_objects(self) -> list[MissingObject]:
        """Returns the objects whose download has failed so far, by hour."""
        rows = self.database.rows(
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

    def totals(self) -> Totals:
        """Sums the outcomes of all records."""
        [row] = self.database.rows(_TOTALS)
        return Totals(**dict(row))

    def time_shifted(self) -> int:
        """Counts the exported records whose time was changed by the time policy."""
        [row] = self.database.rows(_TIME_SHIFTED)
        return int(row["time_shifted"])

    def pending_lines(self) -> int:
        """Counts the pending records that are lines of JSON Lines."""
        [row] = self.database.rows(
            "SELECT coalesce(sum(records - position), 0) AS pending FROM objects WHERE lines > 0"
        )
        return int(row["pending"])

    def kept_by_reason(self) -> dict[str, int]:
        """Returns reason → records in the quarantine, the most frequent first."""
        rows = self.database.rows(
            "SELECT reason, count(*) AS kept FROM kept GROUP BY reason ORDER BY kept DESC, reason"
        )
        return {row["reason"]: row["kept"] for row in rows}


# `state != 'done'` lets SQLite use the index `objects_under_way`: nearly all objects are done.
_HOURS = """
SELECT h.collection, h.hour, h.last_listed_ns, h.same_since_ns, h.failures, h.failed_ns, h.wanted,
    coalesce(o.missing, 0), o.missing_due_ns, h.first_listed_ns, h.failed_why, h.listings,
    coalesce(o.under_way, 0), h.lost
FROM hours h
LEFT JOIN (SELECT collection, hour, count(*) AS under_way, sum(state IN ('listed', 'missing')) AS missing,
        min(iif(state = 'missing', due_ns, NULL)) AS missing_due_ns
    FROM objects WHERE state != 'done' GROUP BY collection, hour) o
    ON o.collection = h.collection AND o.hour = h.hour
WHERE h.hour > ? ORDER BY h.collection, h.hour
"""
_UNDER_WAY = """
SELECT count(*) AS to_download, coalesce(sum(tries = 0), 0) AS untried, min(due_ns) AS next_try_ns,
    (SELECT count(*) FROM objects WHERE state != 'done' AND state = 'spooled') AS to_forward
FROM objects WHERE state != 'done' AND state = 'listed'
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
_NEWEST_SENT = """
SELECT max(hour) AS hour
FROM (SELECT hour FROM objects WHERE exported > 0 UNION ALL SELECT hour FROM past WHERE exported > 0)
"""
