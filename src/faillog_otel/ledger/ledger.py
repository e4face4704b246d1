"""What is remembered of Segment's hours, in transactions that follow the order of effects.

T0 a request is debited before it is made; T1 the objects that it listed are stored; T2 an object is spooled;
T3 what became of a stretch of its records, with those that are kept. Never is anything acknowledged upstream
that is not durable here. State is per object: there is no mark that all before it is done.
"""

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from faillog_otel.clock import DAY_NS
from faillog_otel.errors import Busy, LedgerBroken, NoRoom
from faillog_otel.events.forms import Survey
from faillog_otel.ledger.counts import Stretch
from faillog_otel.ledger.database import Database
from faillog_otel.ledger.folder import StateFolder
from faillog_otel.ledger.hours import complete, drop_listed, fail, give_up
from faillog_otel.ledger.views import NEWEST, first_spooled

REQUESTS_KEPT_NS = 2 * DAY_NS

Result = TypeVar("Result")


class Identity(Struct, frozen=True):
    """What tells whether an object is the one that was read before, besides its path."""

    etag: str | None
    last_modified: str | None
    length: int | None


class Listed(Struct, frozen=True):
    """An object that was listed and is to be downloaded."""

    id: int
    collection: str
    hour: int
    url: str
    listed_ns: int
    tries: int
    known: Identity | None
    """Of the object that was read at the same path before: it need not be downloaded again."""


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


class Content(Struct, frozen=True):
    """What was downloaded. `lines` and `blank` are 0 for other forms than JSON Lines."""

    lines: int
    blank: int
    records: int
    sha256: str
    """Of the object's bytes as they came, in hexadecimal."""
    survey: Survey
    """What decided the counts: it is used again when the object is forwarded."""


class Said(Struct, frozen=True):
    """What Segment said about its quota. `not_before_ns`: until then it wants no request."""

    at_ns: int
    remaining: int | None = None
    reset_ns: int | None = None
    not_before_ns: int = 0


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

        def steps(db: sqlite3.Connection) -> int:
            db.execute("DELETE FROM requests WHERE at_ns < ?", (now_ns - REQUESTS_KEPT_NS,))
            added = db.execute(
                "INSERT INTO requests (at_ns, collection, hour, why) VALUES (?, ?, ?, ?)",
                (now_ns, collection, hour, why),
            )
            return int(added.lastrowid or 0)

        return self.transact(steps)

    def heard(self, request: int, outcome: str, said: Said) -> None:
        """How a request was answered, and what the answer said about the quota."""

        def steps(db: sqlite3.Connection) -> None:
            db.execute("UPDATE requests SET outcome = ? WHERE id = ?", (outcome, request))
            db.execute(
                "INSERT INTO said (id, at_ns, remaining, reset_ns, not_before_ns) VALUES (1, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET not_before_ns = excluded.not_before_ns",
                (said.at_ns, said.remaining, said.reset_ns, said.not_before_ns),
            )
            if said.remaining is not None:
                db.execute(
                    "UPDATE said SET at_ns = ?, remaining = ?, reset_ns = ?",
                    (said.at_ns, said.remaining, said.reset_ns),
                )

        self.transact(steps)

    def listed(self, request: int, collection: str, hour: int, urls: Sequence[str], now_ns: int) -> None:
        """T1: the objects of an hour, to be downloaded."""

        def steps(db: sqlite3.Connection) -> None:
            db.execute("UPDATE requests SET outcome = 'listed' WHERE id = ?", (request,))
            drop_listed(db, collection, hour)
            db.execute(
                "INSERT INTO hours (collection, hour, listing_ns) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET listing_ns = excluded.listing_ns",
                (collection, hour, now_ns),
            )
            db.executemany(
                "INSERT INTO objects (collection, hour, path, state, url, listed_ns)"
                " VALUES (?, ?, ?, 'listed', ?, ?)",
                ((collection, hour, urlsplit(url).path, url, now_ns) for url in dict.fromkeys(urls)),
            )
            complete(db, collection, hour)

        self.transact(steps)

    def listing_failed(self, collection: str, hour: int, why: str, now_ns: int) -> None:
        """An hour could not be listed, or an object of it not downloaded: it is to be listed again."""
        self.transact(lambda db: fail(db, collection, hour, why, now_ns))

    def want(self, collection: str, hours: Sequence[int]) -> None:
        """A person asks to read hours again: what was sent of them is sent again, with the same ids."""

        def steps(db: sqlite3.Connection) -> None:
            for hour in hours:
                db.execute(
                    "INSERT INTO hours (collection, hour, wanted) VALUES (?, ?, 1)"
                    " ON CONFLICT DO UPDATE SET wanted = 1, failures = 0",
                    (collection, hour),
                )
                db.execute(
                    "UPDATE objects SET etag = NULL, last_modified = NULL, length = NULL"
                    " WHERE collection = ? AND hour = ? AND state = 'done'",
                    (collection, hour),
                )

        self.transact(steps)

    def move_requests(self, since_ns: int, by_ns: int) -> None:
        """Moves the requests stamped since then: the clock that stamped them was wrong by so much."""
        self.transact(
            lambda db: db.execute("UPDATE requests SET at_ns = at_ns + ? WHERE at_ns >= ?", (by_ns, since_ns))
        )

    def note(self, name: str, value: str) -> None:
        """Remembers a fact."""
        self.transact(lambda db: db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value)))

    # -- T2: downloads -------------------------------------------------------------------------------------

    def next_listed(self) -> Listed | None:
        """The next object to download, of the oldest listing; None when nothing is left."""
        rows = self.database.rows(
            "SELECT o.*, k.id AS known, k.etag AS k_etag, k.last_modified AS k_modified, k.length AS k_length"
            " FROM objects o LEFT JOIN objects k ON k.id = ("
            "   SELECT max(id) FROM objects WHERE collection = o.collection AND hour = o.hour"
            "   AND path = o.path AND state != 'listed' AND length IS NOT NULL)"
            " WHERE o.id = (SELECT id FROM objects WHERE state = 'listed' ORDER BY listed_ns, id LIMIT 1)"
        )
        if not rows:
            return None
        [row] = rows
        return Listed(
            id=row["id"],
            collection=row["collection"],
            hour=row["hour"],
            url=row["url"],
            listed_ns=row["listed_ns"],
            tries=row["tries"],
            known=Identity(row["k_etag"], row["k_modified"], row["k_length"]) if row["known"] else None,
        )

    def to_download(self) -> int:
        """How many objects were listed, and neither spooled nor given up."""
        [row] = self.database.rows("SELECT count(*) AS objects FROM objects WHERE state = 'listed'")
        return int(row["objects"])

    def spooled(self, listed: Listed, identity: Identity, content: Content, now_ns: int) -> bool:
        """T2: the object lies in the spool, durably. The secret part of its URL is wiped.

        False if it is not listed any more: its hour is to be listed again.
        """

        def steps(db: sqlite3.Connection) -> bool:
            spooled = db.execute(
                "UPDATE objects SET state = 'spooled', url = NULL, etag = ?, last_modified = ?, length = ?,"
                " spooled_ns = ?, lines = ?, blank = ?, records = ?, sha256 = ?, survey = ? WHERE id = ?",
                (
                    identity.etag,
                    identity.last_modified,
                    identity.length,
                    now_ns,
                    content.lines,
                    content.blank,
                    content.records,
                    content.sha256,
                    msgspec.json.encode(content.survey).decode(),
                    listed.id,
                ),
            )
            if spooled.rowcount:
                complete(db, listed.collection, listed.hour)
            return bool(spooled.rowcount)

        return self.transact(steps)

    def unchanged(self, listed: Listed) -> None:
        """T2, too: the object is the one that was read at its path before."""

        def steps(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE objects SET listed_ns = ? WHERE id = (SELECT max(id) FROM objects"
                " WHERE collection = ? AND hour = ? AND path = (SELECT path FROM objects WHERE id = ?)"
                " AND state != 'listed' AND length IS NOT NULL)",
                (listed.listed_ns, listed.collection, listed.hour, listed.id),
            )
            db.execute("DELETE FROM objects WHERE id = ?", (listed.id,))
            complete(db, listed.collection, listed.hour)

        self.transact(steps)

    def download_failed(self, listed: Listed) -> None:
        """A download that may be tried again."""
        self.transact(
            lambda db: db.execute("UPDATE objects SET tries = tries + 1 WHERE id = ?", (listed.id,))
        )

    # -- T3: records ---------------------------------------------------------------------------------------

    def next_spooled(self, shown: Collection[int] = ()) -> Spooled | None:
        """The oldest object in the spool whose id is not in `shown`; None when there is none."""
        rows = first_spooled(self.database, shown)
        try:
            return _spooled(rows[0]) if rows else None
        except msgspec.MsgspecError as error:
            raise self.database.damaged(f"object {rows[0]['id']}, survey: {error}") from None

    def advance(self, spooled: Spooled, position: int, stretch: Stretch, now_ns: int) -> None:
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
            raise LedgerBroken(
                f"{self.database.path}: {why}; another process writes to this ledger: stop it, then start "
                "again"
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
