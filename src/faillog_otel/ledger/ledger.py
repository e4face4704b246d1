"""What is remembered of Segment's hours, in transactions that follow the order of effects.

T0 a request is debited before it is made; T1 the objects that it listed are stored; T2 an object is spooled;
T3 what became of a stretch of its records, with those that are kept. Never is anything acknowledged upstream
that is not durable here. State is per object: there is no mark that all before it is done.
"""

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from faillog_otel.clock import DAY_NS
from faillog_otel.errors import Busy, LedgerBroken, NoRoom
from faillog_otel.events.model import Survey
from faillog_otel.ledger import objects
from faillog_otel.ledger.database import Database
from faillog_otel.ledger.objects import Cause, Content, Listed, fail, give_up
from faillog_otel.ledger.queries import NEWEST, first_spooled
from faillog_otel.ledger.results import BatchResult
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.segment.schedule import ObjectVersion

# -- requests ------------------------------------------------------------------------------------------------
#
# The requests that were made of Segment, and its word about the quota, as steps within transactions.


REQUESTS_KEPT_NS = 2 * DAY_NS


class RateLimitRecord(Struct, frozen=True, kw_only=True):
    """What one answer said about the quota; `remaining` is None where it said nothing of it.

    `not_before_ns`: until then Segment wants no request, for the reason `not_before_why`.
    """

    at_ns: int
    remaining: int | None = None
    reset_ns: int | None = None
    limit: int | None = None
    window_ns: int | None = None
    is_refusal: bool = False
    not_before_ns: int = 0
    not_before_why: str = ""


def debit(db: sqlite3.Connection, collection: str, hour: int, why: str, now_ns: int) -> int:
    """Notes a request that is about to be made; returns its number."""
    db.execute("DELETE FROM requests WHERE at_ns < ?", (now_ns - REQUESTS_KEPT_NS,))
    added = db.execute(
        "INSERT INTO requests (at_ns, collection, hour, why) VALUES (?, ?, ?, ?)",
        (now_ns, collection, hour, why),
    )
    return int(added.lastrowid or 0)


def hear(db: sqlite3.Connection, request: int, outcome: str, said: RateLimitRecord) -> None:
    """Notes how a request was answered, and what the answer said about the quota."""
    db.execute("UPDATE requests SET outcome = ? WHERE id = ?", (outcome, request))
    db.execute(
        "INSERT INTO said (id, at_ns, not_before_ns, not_before_why) VALUES (1, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET not_before_ns = excluded.not_before_ns,"
        " not_before_why = excluded.not_before_why",
        (said.at_ns, said.not_before_ns, said.not_before_why),
    )
    if said.remaining is not None:
        db.execute(
            "UPDATE said SET at_ns = ?, remaining = ?, reset_ns = ?, quota = ?, window_ns = ?, refusal = ?",
            (said.at_ns, said.remaining, said.reset_ns, said.limit, said.window_ns, said.is_refusal),
        )


def pause(db: sqlite3.Connection, until_ns: int, why: str, now_ns: int) -> None:
    """Notes until when this run asks nothing, and why: others can look at it."""
    db.execute(
        "INSERT INTO said (id, at_ns, not_before_ns, pause_ns, pause_why) VALUES (1, ?, 0, ?, ?)"
        " ON CONFLICT DO UPDATE SET pause_ns = excluded.pause_ns, pause_why = excluded.pause_why",
        (now_ns, until_ns, why),
    )


def move(db: sqlite3.Connection, since_ns: int, by_ns: int) -> None:
    """Moves what was stamped since then: the clock that stamped it was wrong by so much."""
    db.execute("UPDATE requests SET at_ns = at_ns + ? WHERE at_ns >= ?", (by_ns, since_ns))
    db.execute(
        "UPDATE said SET at_ns = at_ns + :by, reset_ns = reset_ns + :by, pause_ns = pause_ns + :by,"
        " not_before_ns = not_before_ns + :by WHERE at_ns >= :since",
        {"by": by_ns, "since": since_ns},
    )


# -- ledger --------------------------------------------------------------------------------------------------


Result = TypeVar("Result")


class Spooled(Struct, frozen=True):
    """An object in the spool; the results of its first `position` records are in the ledger.

    `length`, `sha256` and `survey` are None if version 0.1.0 downloaded it.
    """

    id: int
    collection: str
    hour: int
    path: str
    spooled_ns: int
    position: int
    records: int
    length: int | None
    sha256: str | None
    survey: Survey | None


class Ledger:
    """The one writer. Every method is a durable transaction; all raise NoRoom and LedgerBroken."""

    def __init__(self, folder: StateFolder) -> None:
        self.folder = folder
        try:
            self.database = Database(folder.ledger)
        except NoRoom as error:
            if isinstance(error, Busy) or not folder.give_up_ballast():
                raise
            self.database = Database(folder.ledger)

    def close(self) -> None:
        """Closes the database."""
        self.database.close()

    # -- T0 and T1: requests and listings ----------------------------------------------------------------

    def debit(self, collection: str, hour: int, why: str, now_ns: int) -> int:
        """T0: the request that is about to be made; returns its number."""
        return self.transact(lambda db: debit(db, collection, hour, why, now_ns))

    def record_response(self, request: int, outcome: str, said: RateLimitRecord) -> None:
        """How a request was answered, and what the answer said about the quota."""
        self.transact(lambda db: hear(db, request, outcome, said))

    def pause(self, until_ns: int, why: str, now_ns: int) -> None:
        """Nothing is asked until then, for a reason of our own."""
        self.transact(lambda db: pause(db, until_ns, why, now_ns))

    def listed(self, request: int, collection: str, hour: int, urls: Sequence[str], now_ns: int) -> None:
        """T1: the objects of an hour, to be downloaded."""

        def steps(db: sqlite3.Connection) -> None:
            db.execute("UPDATE requests SET outcome = 'listed' WHERE id = ?", (request,))
            objects.add_listed(db, collection, hour, urls, now_ns)

        self.transact(steps)

    def listing_failed(self, collection: str, hour: int, why: str, now_ns: int) -> None:
        """An hour could not be listed: it is to be listed again."""
        self.transact(lambda db: fail(db, collection, hour, why, now_ns))

    def want(self, collection: str, hours: Sequence[int]) -> None:
        """A person asks to read hours again: what was sent of them is sent again, with the same ids."""

        def steps(db: sqlite3.Connection) -> None:
            for hour in hours:
                db.execute(
                    "INSERT INTO hours (collection, hour, wanted) VALUES (?, ?, 1)"
                    " ON CONFLICT DO UPDATE SET wanted = 1, failures = 0, listing_ns = NULL",
                    (collection, hour),
                )
                db.execute(
                    "UPDATE objects SET etag = NULL, last_modified = NULL, length = NULL"
                    " WHERE collection = ? AND hour = ? AND state = 'done'",
                    (collection, hour),
                )

        self.transact(steps)

    def move_requests(self, since_ns: int, by_ns: int) -> None:
        """Moves what was stamped since then: the clock that stamped it was wrong by so much."""
        self.transact(lambda db: move(db, since_ns, by_ns))

    def note(self, name: str, value: str) -> None:
        """Remembers a fact."""
        self.transact(lambda db: db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value)))

    # -- T2: downloads -------------------------------------------------------------------------------------

    def next_listed(self, now_ns: int) -> Listed | None:
        """The next object to download now; None when nothing is left."""
        return objects.next_listed(self.database, now_ns)

    def spooled(self, listed: Listed, identity: ObjectVersion, content: Content, now_ns: int) -> None:
        """T2: the object lies in the spool, durably. The secret part of its URL is wiped."""

        def steps(db: sqlite3.Connection) -> None:
            if objects.spool(db, listed, identity, content, now_ns) != 1:
                raise self._touched(f"object {listed.id} is not listed any more")

        self.transact(steps)

    def unchanged(self, listed: Listed) -> None:
        """T2, too: the object is the one that was read at its path before."""
        self.transact(lambda db: objects.unchange(db, listed))

    def download_failed(self, listed: Listed, why: str, now_ns: int, cause: Cause = "other") -> None:
        """A download came to nothing: the object is tried again by itself."""
        self.transact(lambda db: objects.fail_download(db, listed, why, now_ns, cause))

    # -- T3: records ---------------------------------------------------------------------------------------

    def next_spooled(self, shown: Collection[int] = ()) -> Spooled | None:
        """The oldest object in the spool whose id is not in `shown`; None when there is none."""
        rows = first_spooled(self.database, shown)
        try:
            return _spooled(rows[0]) if rows else None
        except msgspec.MsgspecError as error:
            raise self.database.damaged(f"object {rows[0]['id']}, survey: {error}") from None

    def advance(self, spooled: Spooled, position: int, stretch: BatchResult, now_ns: int) -> None:
        """T3: the results of the next records of an object, from `position` on, and the kept ones.

        Raises LedgerBroken if the object is at another position: then another process works on it.
        """
        counts = stretch.counts

        def steps(db: sqlite3.Connection) -> None:
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
            self._expect_change(advanced, f"object {spooled.id} is not at position {position} any more")
            db.executemany(
                "INSERT INTO kept (object, collection, hour, reason, kept_ns, entry)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (spooled.id, spooled.collection, spooled.hour, kept.reason, now_ns, kept.entry)
                    for kept in stretch.kept
                ),
            )
            if stretch.newest_ns:
                db.execute(
                    "INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
                    " WHERE CAST(excluded.value AS INTEGER) > CAST(value AS INTEGER)",
                    (NEWEST + spooled.collection, str(stretch.newest_ns)),
                )

        self.transact(steps)

    def done(self, spooled: Spooled, position: int) -> None:
        """The object was read to its end, at `position`, and the digests of its records are saved.

        `position` is its number of records, whatever was counted at the download. Raises LedgerBroken as
        `advance` does.
        """
        self.transact(
            lambda db: self._expect_change(
                db.execute(_DONE, {"id": spooled.id, "position": position}),
                f"object {spooled.id} is not at position {position} any more",
            )
        )

    def not_whole(self, spooled: Spooled, why: str, now_ns: int) -> None:
        """The object's spool file is missing or changed: its hour is to be listed and downloaded again."""
        self.transact(lambda db: give_up(db, spooled.id, why, now_ns))

    def in_spool(self) -> set[int]:
        """The objects whose records are not all written down."""
        return {row["id"] for row in self.database.rows("SELECT id FROM objects WHERE state = 'spooled'")}

    def recorded(self, collection: str, hour: int) -> int:
        """How many records of an hour were exported or kept: at most so many have a digest."""
        [row] = self.database.rows(
            "SELECT coalesce(sum(exported + rejected + quarantined), 0) AS recorded FROM objects"
            " WHERE collection = ? AND hour = ?",
            *(collection, hour),
        )
        return int(row["recorded"])

    def open_hours(self) -> list[tuple[str, int]]:
        """The hours that are remembered: which of them Segment still has depends on the time."""
        rows = self.database.rows(
            "SELECT collection, hour FROM hours UNION SELECT collection, hour FROM objects"
        )
        return [(row["collection"], row["hour"]) for row in rows]

    def transact(self, steps: Callable[[sqlite3.Connection], Result]) -> Result:
        """One durable transaction; where the disk is full, in the room that the ballast gives up."""
        try:
            return self.database.transact(steps)
        except NoRoom as error:
            if isinstance(error, Busy) or not self.folder.give_up_ballast():
                raise
        return self.database.transact(steps)

    def _expect_change(self, cursor: sqlite3.Cursor, why: str) -> None:
        """Raises LedgerBroken, which undoes the transaction, unless exactly one row was changed."""
        if cursor.rowcount != 1:
            raise self._touched(why)

    def _touched(self, why: str) -> LedgerBroken:
        return LedgerBroken(
            f"{self.database.path}: {why}; another process writes to this ledger: stop it, then start again"
        )


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


def _spooled(row: sqlite3.Row) -> Spooled:
    return Spooled(
        id=row["id"],
        collection=row["collection"],
        hour=row["hour"],
        path=row["path"],
        spooled_ns=row["spooled_ns"],
        position=row["position"],
        records=row["records"],
        length=row["length"],
        sha256=row["sha256"],
        survey=None if row["survey"] is None else msgspec.json.decode(row["survey"], type=Survey),
    )
