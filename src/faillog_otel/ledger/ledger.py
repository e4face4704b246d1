"""The one writer of the SQLite ledger: `SqliteLedger` implements `Ledger`."""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS
from faillog_otel.errors import Busy, LedgerBroken, NoRoom
from faillog_otel.events.failure import PENDING_SECONDS
from faillog_otel.ledger import (
    INDEX_HOURS,
    MAX_INDEX_BYTES,
    Cause,
    CollectionHour,
    Content,
    Ledger,
    Listed,
    LostObject,
    Spooled,
    change_rows,
    count_rows,
    name_rows,
    objects,
)
from faillog_otel.ledger.database import SqliteReader
from faillog_otel.ledger.facts import NEWEST
from faillog_otel.ledger.failure_store import HAS_EXPIRED, FailureStore, forget_counts
from faillog_otel.ledger.failures import Changes
from faillog_otel.ledger.quarantine import replay_entry
from faillog_otel.ledger.requests import note_answer, note_rate_limit
from faillog_otel.ledger.results import BatchResult, KeptEntry, ReplayedEntry
from faillog_otel.ledger.spool import (
    SavedIndex,
    SeenRecords,
    Spool,
    clean_digests,
    forget_digests,
    open_seen_records,
)
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.segment.answers import Change, Name
from faillog_otel.segment.hours import ObjectVersion
from faillog_otel.segment.quota import RateLimit, Wait

REQUESTS_KEPT_NS = 2 * DAY_NS
_ENTRIES_AT_ONCE = 64

Result = TypeVar("Result")


def open_ledger(folder: StateFolder) -> Ledger:
    """Opens the ledger of a state folder that this process holds, and migrates it.

    Raises NoRoom, LedgerBroken.
    """
    return SqliteLedger(folder)


class SqliteLedger(SqliteReader, count_rows.CountWrites):
    """Writes to the ledger. Implements `Ledger`, which documents these methods.

    If the disk is full, a transaction uses the space of the ballast.
    """

    def __init__(self, folder: StateFolder) -> None:
        self.folder = folder
        try:
            super().__init__(folder.ledger)
        except NoRoom as error:
            if isinstance(error, Busy) or not folder.give_up_ballast():
                raise
            super().__init__(folder.ledger)
        self._spool = Spool(folder.spool)
        self._failures: FailureStore | None = None

    def check_room(self) -> None:
        if not self.folder.has_room():
            raise NoRoom(f"{self.folder.path}: disk full")

    def transact(self, steps: Callable[[sqlite3.Connection], Result]) -> Result:
        """Makes one durable transaction; if the disk is full, it removes the ballast and tries once more."""
        try:
            return self._transact_once(steps)
        except NoRoom as error:
            if isinstance(error, Busy) or not self.folder.give_up_ballast():
                raise
        return self._transact_once(steps)

    def _transact_once(self, steps: Callable[[sqlite3.Connection], Result]) -> Result:
        """Makes one transaction; after an undone one, the store of failures is made anew."""
        with self._lock:
            try:
                return super().transact(steps)
            except BaseException:
                self._failures = None
                raise

    def debit(self, collection: str, hour: int, why: str, now_ns: int) -> int:
        def steps(db: sqlite3.Connection) -> int:
            db.execute("DELETE FROM requests WHERE at_ns < ?", (now_ns - REQUESTS_KEPT_NS,))
            added = db.execute(
                "INSERT INTO requests (at_ns, collection, hour, why) VALUES (?, ?, ?, ?)",
                (now_ns, collection, hour, why),
            )
            return int(added.lastrowid or 0)

        return self.transact(steps)

    def listed(
        self,
        request: int,
        collection: str,
        hour: int,
        urls: Sequence[str],
        now_ns: int,
        *,
        rate_limit: RateLimit | None = None,
        wait: Wait | None = None,
    ) -> None:
        def steps(db: sqlite3.Connection) -> None:
            note_answer(db, request, "listed")
            note_rate_limit(db, now_ns, rate_limit, wait)
            objects.add_listed(db, collection, hour, urls, now_ns)

        self.transact(steps)

    def answered(
        self,
        request: int,
        outcome: str,
        now_ns: int,
        *,
        rate_limit: RateLimit | None = None,
        wait: Wait | None = None,
    ) -> None:
        def steps(db: sqlite3.Connection) -> None:
            note_answer(db, request, outcome)
            note_rate_limit(db, now_ns, rate_limit, wait)

        self.transact(steps)

    def listing_failed(self, collection: str, hour: int, why: str, now_ns: int) -> None:
        self.transact(lambda db: objects.fail_listing(db, collection, hour, why, now_ns))

    def pause(self, until_ns: int, why: str, now_ns: int) -> None:
        self.transact(
            lambda db: db.execute(
                "INSERT INTO said (id, at_ns, not_before_ns, pause_ns, pause_why) VALUES (1, ?, 0, ?, ?)"
                " ON CONFLICT DO UPDATE SET pause_ns = excluded.pause_ns, pause_why = excluded.pause_why",
                (now_ns, until_ns, why),
            )
        )

    def want(self, collection: str, hours: Sequence[int]) -> None:
        def steps(db: sqlite3.Connection) -> None:
            for hour in hours:
                db.execute(
                    "INSERT INTO hours (collection, hour, wanted) VALUES (?, ?, 1)"
                    " ON CONFLICT DO UPDATE SET wanted = 1, failures = 0, listing_ns = NULL",
                    (collection, hour),
                )
                forget_counts(db, collection, hour)
                db.execute(
                    "UPDATE objects SET etag = NULL, last_modified = NULL, length = NULL"
                    " WHERE collection = ? AND hour = ? AND state = 'done'",
                    (collection, hour),
                )

        self.transact(steps)
        for hour in hours:  # after the commit: only objects that are downloaded again may lack digests
            forget_digests(self.folder.digests, collection, hour)

    def next_listed(self, now_ns: int) -> Listed | None:
        return objects.next_listed(self, now_ns)

    def spooled(self, listed: Listed, identity: ObjectVersion, content: Content, now_ns: int) -> None:
        def steps(db: sqlite3.Connection) -> None:
            if objects.mark_spooled(db, listed, identity, content, now_ns) != 1:
                raise self._changed_elsewhere(f"object {listed.id} is not listed any more")

        self.transact(steps)

    def unchanged(self, listed: Listed) -> None:
        self.transact(lambda db: objects.keep_version(db, listed))

    def download_failed(self, listed: Listed, why: str, now_ns: int, cause: Cause = "other") -> None:
        self.transact(lambda db: objects.fail_download(db, listed, why, now_ns, cause))

    def next_spooled(self, shown: Collection[int] = (), *, soon_ns: int | None = None) -> Spooled | None:
        return objects.next_spooled(self, shown, soon_ns)

    def spooled_object(self, number: int) -> Spooled | None:
        return objects.spooled_object(self, number)

    def indexes_for(self, spooled: Spooled, *, stores: bool = True) -> list[SavedIndex]:
        if stores and spooled.indexes_to is None:
            key = {"collection": spooled.collection, "hour": spooled.hour}
            self.transact(lambda db: db.execute(_DECIDE_INDEXES, key))
        rows = self.rows(_INDEXES_FOR, spooled.id, INDEX_HOURS, MAX_INDEX_BYTES)
        return [msgspec.convert(dict(row), SavedIndex) for row in rows]

    def seen_records(self, spooled: Spooled) -> SeenRecords:
        [row] = self.rows(
            "SELECT coalesce(sum(exported + rejected + quarantined), 0) AS recorded FROM objects"
            " WHERE collection = ? AND hour = ?",
            *(spooled.collection, spooled.hour),
        )
        return open_seen_records(self.folder.digests, spooled.collection, spooled.hour, row["recorded"])

    def advance(self, spooled: Spooled, position: int, result: BatchResult, now_ns: int) -> Changes:
        counts = result.counts

        def steps(db: sqlite3.Connection) -> Changes:
            advanced = db.execute(
                _ADVANCE,
                {
                    "id": spooled.id,
                    "position": position,
                    "records": counts.records,
                    "exported": counts.exported,
                    "rejected": counts.rejected,
                    "quarantined": counts.quarantined,
                    "duplicate": counts.duplicate,
                    "time_shifted": counts.time_shifted,
                },
            )
            self._expect_change(advanced, spooled, position)
            db.executemany(
                "INSERT INTO kept (object, collection, hour, reason, kept_ns, entry)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (spooled.id, spooled.collection, spooled.hour, kept.reason, now_ns, kept.entry)
                    for kept in result.kept
                ),
            )
            if result.newest_ns:
                db.execute(
                    "INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
                    " WHERE CAST(excluded.value AS INTEGER) > CAST(value AS INTEGER)",
                    (NEWEST + spooled.collection, str(result.newest_ns)),
                )
            return self._failure_store(db).add(db, spooled.id, result.failures, now_ns)

        return self.transact(steps)

    def _failure_store(self, db: sqlite3.Connection) -> FailureStore:
        if self._failures is None:
            self._failures = FailureStore(db)
        return self._failures

    def expire_messages(self, now_ns: int) -> Changes:
        if not self.rows(HAS_EXPIRED, now_ns // SECOND_NS - PENDING_SECONDS):  # else take no write lock
            return Changes()
        return self.transact(lambda db: self._failure_store(db).expire(db, now_ns))

    def done(self, spooled: Spooled, position: int, seen: SeenRecords) -> Changes:
        # In this order, so that a crash in between costs duplicates or a file that `sweep` removes, and never
        # a record.
        seen.save()
        values = {"id": spooled.id, "position": position}

        def steps(db: sqlite3.Connection) -> Changes:
            self._expect_change(db.execute(_DONE, values), spooled, position)
            changes = Changes()
            self._failure_store(db).merge(db, changes)
            return changes

        changes = self.transact(steps)
        self._spool.drop(spooled.id)
        return changes

    def not_whole(self, spooled: Spooled, why: str, now_ns: int) -> None:
        self.transact(lambda db: objects.give_up_spooled(db, spooled.id, why, now_ns))
        self._spool.drop(spooled.id)

    def _expect_change(self, cursor: sqlite3.Cursor, spooled: Spooled, position: int) -> None:
        """Raises LedgerBroken, which undoes the transaction, unless exactly one row was changed."""
        if cursor.rowcount != 1:
            raise self._changed_elsewhere(f"object {spooled.id} is not at position {position} any more")

    def _changed_elsewhere(self, why: str) -> LedgerBroken:
        return LedgerBroken(
            f"{self.path}: {why}; another process writes to this ledger; stop it, then start again"
        )

    def kept_entries(self) -> Iterator[KeptEntry]:
        last = 0
        while rows := self.rows(
            "SELECT id, collection, entry FROM kept WHERE id > ? ORDER BY id LIMIT ?", last, _ENTRIES_AT_ONCE
        ):
            last = rows[-1]["id"]
            yield from (KeptEntry(row["id"], row["collection"], row["entry"]) for row in rows)

    def replayed(self, entries: Sequence[ReplayedEntry]) -> None:
        def steps(db: sqlite3.Connection) -> None:
            for each in entries:
                replay_entry(db, each)

        self.transact(steps)

    def note(self, name: str, value: str) -> None:
        self.transact(lambda db: db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value)))

    def note_names(self, names: Iterable[Name], now_ns: int) -> int:
        if changed := name_rows.changed(self.rows, names):  # else take no write lock
            self.transact(lambda db: name_rows.add(db, changed, now_ns))
        return len(changed)

    def note_changes(self, changes: Sequence[Change]) -> list[Change]:
        return self.transact(lambda db: change_rows.add(db, changes)) if changes else []

    def move_requests(self, since_ns: int, by_ns: int) -> None:
        def steps(db: sqlite3.Connection) -> None:
            db.execute("UPDATE requests SET at_ns = at_ns + ? WHERE at_ns >= ?", (by_ns, since_ns))
            db.execute(
                "UPDATE said SET at_ns = at_ns + :by, reset_ns = reset_ns + :by, pause_ns = pause_ns + :by,"
                " not_before_ns = not_before_ns + :by WHERE at_ns >= :since",
                {"by": by_ns, "since": since_ns},
            )

        self.transact(steps)

    def mend_future(self, now_ns: int) -> None:
        self.transact(lambda db: objects.mend_future(db, now_ns))

    def recover(self) -> None:
        self.transact(objects.recover)

    def drop_indexes(self, now_ns: int) -> None:
        values = now_ns - INDEX_HOURS * HOUR_NS, MAX_INDEX_BYTES
        if self.rows(f"SELECT 1 {_UNWANTED_INDEXES} LIMIT 1", *values):  # else take no write lock
            dropped = f"DELETE {_UNWANTED_INDEXES} RETURNING object"
            for row in self.transact(lambda db: db.execute(dropped, values).fetchall()):
                self._spool.drop_index(row["object"])

    def sweep(self) -> None:
        spooled = self.rows("SELECT id FROM objects WHERE state = 'spooled'")
        indexes = self.rows("SELECT object FROM exchange_indexes")
        self._spool.clean((row["id"] for row in spooled), (row["object"] for row in indexes))
        hours = self.rows("SELECT collection, hour FROM hours UNION SELECT collection, hour FROM objects")
        clean_digests(self.folder.digests, [(row["collection"], row["hour"]) for row in hours])

    def wipe_urls(self, now_ns: int) -> None:
        # The fetcher calls this before every step: take the write lock only if a URL has expired.
        if objects.has_expired_url(self, now_ns):
            self.transact(lambda db: objects.wipe_expired_urls(db, now_ns))

    def lose(self, now_ns: int) -> list[LostObject]:
        return self.transact(lambda db: objects.lose(db, now_ns))

    def prune(self, now_ns: int) -> None:
        def steps(db: sqlite3.Connection) -> list[CollectionHour]:
            pruned = objects.prune(db, now_ns)
            self._failure_store(db).prune(db, now_ns)
            change_rows.prune(db, now_ns)
            count_rows.prune(db, now_ns)
            return pruned

        for collection, hour in self.transact(steps):
            forget_digests(self.folder.digests, collection, hour)
        self.transact(lambda db: name_rows.prune(db, now_ns))


_ADVANCE = """
UPDATE objects SET position = position + :records, exported = exported + :exported,
    rejected = rejected + :rejected, quarantined = quarantined + :quarantined,
    duplicate = duplicate + :duplicate, time_shifted = time_shifted + :time_shifted,
    records = max(records, position + :records),
    lines = iif(lines > 0, max(records, position + :records) + blank, 0)
WHERE id = :id AND state = 'spooled' AND position = :position
"""
_DONE = """
UPDATE objects SET state = 'done', records = position, lines = iif(lines > 0, position + blank, 0)
WHERE id = :id AND state = 'spooled' AND position = :position
"""
_DECIDE_INDEXES = """
UPDATE objects SET indexes_to =
    (SELECT coalesce(max(number), 0) FROM exchange_indexes WHERE collection = :collection)
WHERE collection = :collection AND hour = :hour AND state = 'spooled' AND indexes_to IS NULL
"""
# Of the versions of an object, which have the same path, only the newest one counts.
_INDEXES_FOR = """
SELECT object, bytes, sha256 FROM (
    SELECT i.*, sum(i.bytes) OVER (ORDER BY i.number DESC) AS sum FROM exchange_indexes i
    JOIN objects o ON o.id = ? AND o.collection = i.collection AND abs(o.hour - i.hour) <= ?
    WHERE (o.indexes_to IS NULL OR i.number <= o.indexes_to) AND NOT EXISTS (
        SELECT 1 FROM exchange_indexes newer WHERE newer.collection = i.collection AND newer.hour = i.hour
        AND newer.path = i.path AND newer.number > i.number
        AND (o.indexes_to IS NULL OR newer.number <= o.indexes_to)))
WHERE sum <= ? ORDER BY number DESC
"""
_UNWANTED_INDEXES = """
FROM exchange_indexes AS i WHERE (written_ns < ? OR ? <
    (SELECT sum(bytes) FROM exchange_indexes WHERE collection = i.collection AND number >= i.number))
AND NOT EXISTS (SELECT 1 FROM objects WHERE state != 'done' AND state = 'spooled'
    AND collection = i.collection AND indexes_to >= i.number)
"""
