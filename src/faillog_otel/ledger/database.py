"""The SQLite ledger for readers: the connection, its errors, the migration of the schema, and all queries.

WAL with FULL and DELETE with EXTRA are the two settings that keep acknowledged commits when power is cut.
SQLite before 3.51.3 (3.50.7, 3.44.6) may damage a WAL when it is reset, so older versions use DELETE. After
an I/O error the run stops: the kernel may have dropped pages that it could not write.
"""

import re
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from faillog_otel.errors import Busy, LedgerBroken, NoRoom
from faillog_otel.events.failure import FailedMessage, FailureSums
from faillog_otel.ledger import (
    CollectionHour,
    Hour,
    LastListing,
    LedgerReader,
    MissingObject,
    Totals,
    UnfinishedObjects,
    change_rows,
    count_rows,
    failure_queries,
    name_rows,
)
from faillog_otel.ledger.failures import FailureSizes
from faillog_otel.ledger.names import Rename
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.segment.answers import Change, Name
from faillog_otel.segment.quota import Granted, Quota, RateLimit, RequestRecord

MIGRATIONS = tuple(
    Path(__file__).with_name("migrations").joinpath(f"{version}.sql").read_text("utf-8")
    for version in range(1, 7)
)
"""Migration n makes schema version n (`PRAGMA user_version`). A released migration is never changed."""

_NUMBER = re.compile(r"-?[0-9]{1,19}")
_GRANTED: dict[str | None, Granted] = {"listed": "granted", "toomany": "refused"}
"""Outcome of a request → what it says about the quota; other outcomes say nothing."""
_WANTED = Hour.__struct_fields__.index("wanted")
BUSY_SECONDS = 2.0
"""How long a transaction waits for another process's lock; then it raises Busy."""

_DAMAGE = {
    0,  # Python's own messages, such as "Could not decode to UTF-8"
    sqlite3.SQLITE_ERROR,  # a table or a column is missing, or the schema cannot be read
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_NOTADB,
}
"""SQLite's error codes for a file that is damaged or was changed by another program."""

Result = TypeVar("Result")


class Database:
    """A connection, for one thread at a time. Methods raise Busy and LedgerBroken."""

    def __init__(self, path: Path, *, read_only: bool = False, may_be_older: bool = False) -> None:
        """Opens the database and migrates its schema. Also raises NoRoom.

        With `read_only` nothing is changed: another process may use it. `may_be_older` then allows a schema
        that is not migrated yet.
        """
        self.path = path
        self._lock = threading.RLock()
        with self._named_errors():
            if read_only and not path.is_file():
                raise LedgerBroken(
                    f"{path.parent}: holds no ledger; poll with `run` first, or name another --state-dir"
                )
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            if read_only:
                self._connection.execute("PRAGMA query_only = ON")
                self._check_version(self.version(), may_be_older=may_be_older)
                return
            wal = has_sound_wal(sqlite3.sqlite_version_info)
            self._connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if wal else 'EXTRA'}")
            self._connection.execute("PRAGMA fullfsync = ON")  # macOS: to the disk, not to its cache
            self._connection.execute("PRAGMA checkpoint_fullfsync = ON")
            self._connection.execute("PRAGMA secure_delete = ON")  # URLs are secrets
            self._migrate()
            self.check()

    def transact(self, steps: Callable[[sqlite3.Connection], Result]) -> Result:
        """Makes one durable transaction: all of the steps, or none. Also raises NoRoom."""
        with self._lock, self._named_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = steps(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # the first error is the one to report
                    self._connection.execute("ROLLBACK")
                raise
            return result

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Returns the rows of a query."""
        with self._lock, self._named_errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """A context in which all reads see the same state. Keep it short: writers wait for its end."""
        with self._lock:
            with self._named_errors():
                self._connection.execute("BEGIN")
            try:
                yield
            finally:
                with suppress(sqlite3.Error):  # the first error is the one to report
                    self._connection.execute("ROLLBACK")

    def copied(self) -> sqlite3.Connection:
        """Returns a copy of one moment. Writers wait only while it is copied."""
        with self._lock, self._named_errors():
            copy = sqlite3.connect("")  # a temporary file, or memory while it is small
            self._connection.backup(copy)
            copy.row_factory = sqlite3.Row
            return copy

    def check(self) -> None:
        """Raises LedgerBroken if SQLite finds damage, or values that the schema does not allow."""
        [found] = self.rows("PRAGMA quick_check(1)")
        if found[0] != "ok":
            raise self.damaged(str(found[0]))

    def version(self) -> int:
        """Returns the version of the schema. Raises sqlite3.Error."""
        [version] = self._connection.execute("PRAGMA user_version").fetchone()
        return int(version)

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._connection.close()

    def _migrate(self) -> None:
        found = self.version()
        self._check_version(found)
        for version, script in enumerate(MIGRATIONS[found:], start=found + 1):

            def step(connection: sqlite3.Connection, version: int = version, script: str = script) -> None:
                for statement in script.split(";\n\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version}")

            self.transact(step)

    def _check_version(self, found: int, *, may_be_older: bool = True) -> None:
        if found < len(MIGRATIONS) and not may_be_older:
            raise LedgerBroken(f"{self.path}: is of an older version; `run` upgrades it")
        if not found and self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise LedgerBroken(f"{self.path}: is another program's database; name another --state-dir")
        if found > len(MIGRATIONS):
            raise LedgerBroken(
                f"{self.path}: a newer faillog-otel wrote it (schema {found}, this one supports up to "
                f"{len(MIGRATIONS)}); use that version, or name another --state-dir"
            )

    def damaged(self, why: str) -> LedgerBroken:
        """Returns the error for content that this program did not write; it says what to do."""
        return LedgerBroken(
            f"{self.path}: is damaged ({why}); move {self.path.parent} away: `run` then lists again what "
            "Segment still has, and sends all of it once more with the same ids"
        )

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.ProgrammingError, sqlite3.NotSupportedError):
            raise  # a bug in this program
        except sqlite3.Error as error:
            extended = getattr(error, "sqlite_errorcode", 0)
            code = extended & 0xFF
            if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
                raise NoRoom(f"{self.path.parent}: disk full") from None
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Busy(f"{self.path}: another process locks it; try again later") from None
            if code in _DAMAGE:
                raise self.damaged(str(error)) from None
            raise LedgerBroken(f"{self.path}: {error}") from None
        except UnicodeDecodeError:  # SQLite's message quotes bytes of the file
            raise self.damaged("a text is not UTF-8") from None
        except OSError as error:
            raise LedgerBroken(f"{self.path}: {error.strerror}") from None


def durability() -> str:
    """Returns SQLite's version, and the settings that keep commits when power is cut, as text."""
    wal, delete = "WAL, synchronous FULL", "DELETE, synchronous EXTRA (this version can corrupt a WAL)"
    settings = wal if has_sound_wal(sqlite3.sqlite_version_info) else delete
    return f"{sqlite3.sqlite_version}: journal {settings}"


def has_sound_wal(version: tuple[int, ...]) -> bool:
    """Returns whether this SQLite is free of the WAL-reset bug (SQLite's release notes of 3.51.3)."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def open_reader(folder: StateFolder, *, may_be_older: bool = False) -> LedgerReader:
    """Opens the ledger of a state folder that another process may use. Raises Busy, LedgerBroken.

    `may_be_older` also allows a ledger that `run` has not migrated yet.
    """
    return SqliteReader(folder.ledger, read_only=True, may_be_older=may_be_older)


class SqliteReader(Database, count_rows.CountReads):
    """Reads a ledger. Implements `LedgerReader`, which documents these methods."""

    def failure_sums(self, since_ns: int, until_ns: int, now_ns: int) -> FailureSums:
        return failure_queries.failure_sums(self, since_ns, until_ns, now_ns)

    def failed_messages(self, since_ns: int, until_ns: int, now_ns: int) -> Iterator[FailedMessage]:
        return failure_queries.failed_messages(self, since_ns, until_ns, now_ns)

    def pending_messages(self, now_ns: int) -> dict[tuple[str, str], int]:
        return failure_queries.pending_messages(self, now_ns)

    def attempts_until_success(self, since_ns: int, until_ns: int) -> dict[int, int]:
        return failure_queries.attempts_until_success(self, since_ns, until_ns)

    def failure_sizes(self) -> FailureSizes:
        return failure_queries.failure_sizes(self)

    def schema_versions(self) -> tuple[int, int]:
        return self.version(), len(MIGRATIONS)

    def hours(self, after: int = -1) -> dict[str, dict[int, Hour]]:
        found: dict[str, dict[int, Hour]] = {}
        for name, hour, *values in self.rows(_HOURS, after):
            # By position: 1.3 ms for the 3,360 hours of five collections, by names 4 to 8 ms.
            values[_WANTED] = bool(values[_WANTED])
            found.setdefault(name, {})[hour] = Hour(*values)
        return found

    def hours_with_objects(self) -> set[CollectionHour]:
        rows = self.rows(
            "SELECT DISTINCT collection, hour FROM objects UNION SELECT collection, hour FROM past"
        )
        return {(row["collection"], row["hour"]) for row in rows}

    def unfinished_hours(self, shown: Collection[int] = ()) -> set[CollectionHour]:
        rows = self.rows(
            "SELECT DISTINCT collection, hour FROM objects WHERE state != 'done'"
            " AND id NOT IN (SELECT value FROM json_each(?))",
            msgspec.json.encode(sorted(shown)).decode(),
        )
        return {(row["collection"], row["hour"]) for row in rows}

    def last_listing(self, collection: str) -> LastListing | None:
        rows = self.rows(
            "SELECT failed_why, max(last_listed_ns) OVER () AS listed_ns FROM hours WHERE collection = ?"
            " ORDER BY failed_ns DESC LIMIT 1",
            collection,
        )
        return LastListing(rows[0]["listed_ns"] or 0, rows[0]["failed_why"]) if rows else None

    def newest_sent_hour(self) -> int | None:
        [row] = self.rows(_NEWEST_SENT)
        return None if row["hour"] is None else int(row["hour"])

    def quota(self, per_day: int) -> Quota:
        debits = [
            RequestRecord(row["at_ns"], row["collection"], row["why"], _GRANTED.get(row["outcome"], "none"))
            for row in self.rows("SELECT at_ns, collection, why, outcome FROM requests ORDER BY at_ns, id")
        ]
        rows = self.rows("SELECT * FROM said")
        if not rows:
            return Quota(debits=debits, per_day=per_day)
        [row] = rows
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

    def fact(self, name: str) -> str | None:
        rows = self.rows("SELECT value FROM facts WHERE name = ?", name)
        return str(rows[0]["value"]) if rows else None

    def fact_ns(self, name: str) -> int | None:
        text = self.fact(name)
        return None if text is None else self._nanoseconds(name, text)

    def facts_ns(self, prefix: str) -> dict[str, int]:
        rows = self.rows("SELECT name, value FROM facts WHERE name GLOB ?", f"{prefix}*")
        return {
            str(row["name"]).removeprefix(prefix): self._nanoseconds(row["name"], str(row["value"]))
            for row in rows
        }

    def _nanoseconds(self, name: str, text: str) -> int:
        if not _NUMBER.fullmatch(text):
            raise self.damaged(f"the fact {name!r} is {text[:40]!r}")
        return int(text)

    def unfinished_objects(self) -> UnfinishedObjects:
        [row] = self.rows(_UNFINISHED)
        return UnfinishedObjects(**dict(row))

    def missing_objects(self) -> list[MissingObject]:
        return [msgspec.convert(dict(row), MissingObject, strict=False) for row in self.rows(_MISSING)]

    def totals(self) -> Totals:
        [row] = self.rows(_TOTALS)
        return Totals(**dict(row))

    def time_shifted(self) -> int:
        [row] = self.rows(_TIME_SHIFTED)
        return int(row["time_shifted"])

    def pending_lines(self) -> int:
        [row] = self.rows(
            "SELECT coalesce(sum(records - position), 0) AS pending FROM objects WHERE lines > 0"
        )
        return int(row["pending"])

    def names(self) -> dict[str, Name]:
        return name_rows.newest(self.rows)

    def shown_names(self, names_to: int) -> dict[str, str]:
        return name_rows.shown(self.rows, names_to)

    def renames(self, since_ns: int) -> list[Rename]:
        return name_rows.renames(self.rows, since_ns)

    def changes(self, since_ns: int, until_ns: int) -> list[Change]:
        return change_rows.between(self.rows, since_ns, until_ns)

    def kept_by_reason(self) -> dict[str, int]:
        rows = self.rows("SELECT reason, count(*) AS kept FROM kept GROUP BY 1 ORDER BY 2 DESC, 1")
        return {row["reason"]: row["kept"] for row in rows}


# `state != 'done'` lets SQLite use the index `objects_under_way`: nearly all objects are done.
_HOURS = """  -- after collection and hour, the columns are the fields of Hour in their order
SELECT h.collection, h.hour, h.last_listed_ns, h.same_since_ns, h.failures, h.failed_ns, h.wanted,
    coalesce(o.missing, 0), o.missing_due_ns, h.first_listed_ns, h.failed_why, h.listings,
    coalesce(o.unfinished, 0), h.lost
FROM hours h
LEFT JOIN (SELECT collection, hour, count(*) AS unfinished, sum(state IN ('listed', 'missing')) AS missing,
        min(iif(state = 'missing', due_ns, NULL)) AS missing_due_ns
    FROM objects WHERE state != 'done' GROUP BY collection, hour) o
    ON o.collection = h.collection AND o.hour = h.hour
WHERE h.hour > ? ORDER BY h.collection, h.hour
"""
_MISSING = """  -- all columns, so that damage to the name of one is found
SELECT *, failed_why AS why, failed_since_ns AS since_ns, due_ns AS next_ns,
    state = 'missing' AS needs_listing
FROM objects WHERE state != 'done' AND state IN ('listed', 'missing') AND failed_ns IS NOT NULL
ORDER BY hour, collection, id
"""
_UNFINISHED = """
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
