"""The objects that were listed, until they lie in the spool, as steps within transactions of the ledger.

One that cannot be downloaded is tried again by itself: first with its URL (state `listed`), then, when that
works no more (state `missing`), with the URL that another listing of its hour gives. It never holds back the
other objects of its hour: the listing counts as soon as every object was tried.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from faillog_otel.clock import HOUR_NS, RETENTION_NS, SECOND_NS
from faillog_otel.events.model import Survey
from faillog_otel.ledger.database import Database
from faillog_otel.segment.schedule import ObjectVersion

# -- hours ---------------------------------------------------------------------------------------------------
#
# How the listing of an hour goes on and ends, as steps within transactions of the ledger.


def fail(db: sqlite3.Connection, collection: str, hour: int, why: str, now_ns: int) -> None:
    """The listing came to nothing: the hour is to be listed again."""
    db.execute(
        "INSERT INTO hours (collection, hour, failures, failed_ns, failed_why) VALUES (?, ?, 1, ?, ?)"
        " ON CONFLICT DO UPDATE SET failures = failures + 1, failed_ns = excluded.failed_ns,"
        " failed_why = excluded.failed_why, listing_ns = NULL",
        (collection, hour, now_ns, why),
    )


def give_up(db: sqlite3.Connection, number: int, why: str, now_ns: int) -> None:
    """A spooled object is missing or changed: what was recorded of it stays, its hour is listed again.

    Every listing with such an object counts as one more failure in a row: the hour is asked for at longer and
    longer intervals, so that a broken disk does not cost the whole quota. Other objects are not touched.
    """
    db.execute(
        "UPDATE objects SET state = 'done', records = position, lines = 0, blank = 0, etag = NULL,"
        " last_modified = NULL, length = NULL, damaged = 1 WHERE id = ?",
        (number,),
    )
    [hour] = db.execute("SELECT collection, hour FROM objects WHERE id = ?", (number,)).fetchall()
    db.execute(
        "UPDATE hours SET wanted = 1, listing_ns = NULL, failed_ns = ?, failed_why = ?, failures ="
        " max(failures, (SELECT count(DISTINCT listed_ns) FROM objects o"
        " WHERE o.collection = hours.collection AND o.hour = hours.hour AND o.damaged))"
        " WHERE collection = ? AND hour = ?",
        (now_ns, why, *hour),
    )


def complete(db: sqlite3.Connection, collection: str, hour: int) -> None:
    """The listing counts where every object of it was downloaded, or tried at least.

    While some are missing, the hour shows no identity: it cannot settle.
    """
    key = (collection, hour)
    [row] = db.execute("SELECT * FROM hours WHERE collection = ? AND hour = ?", key).fetchall()
    of_hour = "FROM objects WHERE collection = ? AND hour = ? AND"  # our own words
    if (
        row["listing_ns"] is None
        or db.execute(f"SELECT 1 {of_hour} state = 'listed' AND tries = 0", key).fetchone()
    ):
        return
    is_whole = not db.execute(f"SELECT 1 {of_hour} state IN ('listed', 'missing')", key).fetchone()
    if not row["counted"]:
        db.execute(
            "UPDATE hours SET first_listed_ns = coalesce(first_listed_ns, listing_ns), failures = 0,"
            " counted = 1, last_listed_ns = listing_ns, listings = listings + 1, failed_why = '', wanted = 0,"
            " same_since_ns = iif(?, same_since_ns, NULL) WHERE collection = ? AND hour = ?",
            (is_whole, *key),
        )
    if not is_whole:
        return
    shown = db.execute(
        f"SELECT path, etag, last_modified, length {of_hour} listed_ns = ? ORDER BY 1, 2, 3, 4",
        (*key, row["listing_ns"]),
    ).fetchall()
    identity = hashlib.sha256(repr([tuple(each) for each in shown]).encode()).hexdigest()
    is_same = identity == row["identity"] and row["same_since_ns"] is not None
    db.execute(
        "UPDATE hours SET listing_ns = NULL, identity = ?, same_since_ns = ?"
        " WHERE collection = ? AND hour = ?",
        (identity, row["same_since_ns"] if is_same else row["listing_ns"], *key),
    )


# -- downloads -----------------------------------------------------------------------------------------------


URL_LIFE_NS = 2 * HOUR_NS
"""A presigned URL works for two hours. [Segment's page]"""
TRY_AGAIN_NS = tuple(seconds * SECOND_NS for seconds in (1, 10, 60, 300, 900, 1800))
"""After the first, second, ... try of a URL that failed; then as the last one. It costs no request."""
MAX_TRIES = 3
"""Of a URL that does not work: then another one is needed."""
LIST_AGAIN_NS = (60 * SECOND_NS, *(hours * HOUR_NS for hours in (4, 8, 16, 32, 64, 128)))
"""After the first, second, ... URL of an object that failed; then as the last one. It costs a request."""


Cause = Literal["other", "url", "name", "forbidden"]
"""Why a download came to nothing: `url`, it does not work; `name`, that in the spool is taken; `forbidden`,
our settings do not allow it."""


class Listed(Struct, frozen=True):
    """An object that was listed and is to be downloaded. `tries`: those of this URL that failed."""

    id: int
    collection: str
    hour: int
    url: str
    listed_ns: int
    tries: int
    known: ObjectVersion | None
    """Of the object that was read at the same path before: it need not be downloaded again."""
    has_failed: bool = False
    """Whether its download failed before, with this URL or an older one."""


class Content(Struct, frozen=True):
    """What was downloaded. `lines` and `blank` are 0 for other forms than JSON Lines."""

    lines: int
    blank: int
    records: int
    sha256: str
    """Of the object's bytes as they came, in hexadecimal."""
    survey: Survey
    """What decided the counts: it is used again when the object is forwarded."""


class LostObject(Struct, frozen=True):
    """An object that left Segment's 28 days before it could be downloaded."""

    collection: str
    hour: int
    path: str
    why: str


def add_listed(db: sqlite3.Connection, collection: str, hour: int, urls: Sequence[str], now_ns: int) -> None:
    """T1: the objects of a listing. One that could not be downloaded before keeps what is known of that."""
    key = (collection, hour)
    undone = "FROM objects WHERE collection = ? AND hour = ? AND state IN ('listed', 'missing')"
    known = {row["path"]: row for row in db.execute(f"SELECT * {undone}", key)}  # our own words
    db.execute(f"DELETE {undone}", key)  # as above
    db.execute(
        "INSERT INTO hours (collection, hour, listing_ns) VALUES (?, ?, ?)"
        " ON CONFLICT DO UPDATE SET listing_ns = excluded.listing_ns, counted = 0",
        (*key, now_ns),
    )
    for url in dict.fromkeys(urls):
        path = urlsplit(url).path
        before = known.get(path)
        db.execute(
            "INSERT INTO objects (collection, hour, path, state, url, listed_ns, urls_failed, failed_ns,"
            " failed_since_ns, failed_why) VALUES (?, ?, ?, 'listed', ?, ?, ?, ?, ?, ?)",
            (
                *(collection, hour, path, url, now_ns),
                before["urls_failed"] + (before["state"] == "listed" and before["tries"] > 0)
                if before
                else 0,
                *((before["failed_ns"], before["failed_since_ns"]) if before else (None, None)),
                before["failed_why"] if before else "",
            ),
        )
    complete(db, collection, hour)


def next_listed(database: Database, now_ns: int) -> Listed | None:
    """The next object to download: those not tried yet come first, of the oldest listing.

    That the state is not `done` is said for the index, here and below.
    """
    rows = database.rows(
        "SELECT o.*, k.id AS known, k.etag AS k_etag, k.last_modified AS k_modified, k.length AS k_length"
        " FROM objects o LEFT JOIN objects k ON k.id = ("
        "   SELECT max(id) FROM objects WHERE collection = o.collection AND hour = o.hour"
        "   AND path = o.path AND state IN ('spooled', 'done') AND length IS NOT NULL)"
        " WHERE o.id = (SELECT id FROM objects WHERE state != 'done' AND state = 'listed'"
        "   AND due_ns <= ?"
        "   ORDER BY tries > 0, listed_ns, id LIMIT 1)",
        now_ns,
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
        known=ObjectVersion(row["k_etag"], row["k_modified"], row["k_length"]) if row["known"] else None,
        has_failed=row["failed_ns"] is not None,
    )


def next_try_ns(database: Database) -> int | None:
    """When the next object is to be downloaded; None where nothing is."""
    [row] = database.rows("SELECT min(due_ns) AS due FROM objects WHERE state != 'done' AND state = 'listed'")
    return None if row["due"] is None else int(row["due"])


def to_download(database: Database) -> int:
    """How many objects were listed and not tried yet."""
    [row] = database.rows(
        "SELECT count(*) AS objects FROM objects WHERE state != 'done' AND state = 'listed' AND tries = 0"
    )
    return int(row["objects"])


def spool(
    db: sqlite3.Connection, listed: Listed, identity: ObjectVersion, content: Content, now_ns: int
) -> int:
    """T2: the object lies in the spool, durably. The secret part of its URL is wiped.

    Returns how many objects that changed: 1, or 0 where it is not listed any more.
    """
    spooled = db.execute(
        "UPDATE objects SET state = 'spooled', url = NULL, etag = ?, last_modified = ?, length = ?,"
        " spooled_ns = ?, lines = ?, blank = ?, records = ?, sha256 = ?, survey = ?, due_ns = 0,"
        " failed_why = '' WHERE id = ? AND state = 'listed'",
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
    complete(db, listed.collection, listed.hour)
    return spooled.rowcount


def unchange(db: sqlite3.Connection, listed: Listed) -> None:
    """T2, too: the object is the one that was read at its path before."""
    db.execute(
        "UPDATE objects SET listed_ns = ? WHERE id = (SELECT max(id) FROM objects"
        " WHERE collection = ? AND hour = ? AND path = (SELECT path FROM objects WHERE id = ?)"
        " AND state IN ('spooled', 'done') AND length IS NOT NULL)",
        (listed.listed_ns, listed.collection, listed.hour, listed.id),
    )
    db.execute("DELETE FROM objects WHERE id = ?", (listed.id,))
    complete(db, listed.collection, listed.hour)


def fail_download(db: sqlite3.Connection, listed: Listed, why: str, now_ns: int, cause: Cause) -> None:
    """A download came to nothing: the object is tried again later, the others of its hour are not touched."""
    is_url_gone = cause == "url" and listed.tries + 1 >= MAX_TRIES
    [row] = db.execute("SELECT urls_failed FROM objects WHERE id = ?", (listed.id,)).fetchall()
    pauses = LIST_AGAIN_NS if is_url_gone else TRY_AGAIN_NS
    step = row["urls_failed"] if is_url_gone else listed.tries
    pause_ns = pauses[-1 if cause == "forbidden" else min(step, len(pauses) - 1)]
    db.execute(
        "UPDATE objects SET tries = tries + 1, failed_ns = :now, due_ns = :due, failed_why = :why,"
        " failed_since_ns = coalesce(failed_since_ns, :now) WHERE id = :id",
        {"now": now_ns, "due": now_ns + pause_ns, "why": why, "id": listed.id},
    )
    if cause == "name":
        copy = f"INSERT INTO objects ({_CARRIED}) SELECT {_CARRIED} FROM objects WHERE id = ?"  # noqa: S608  # our own words
        db.execute(copy, (listed.id,))
        db.execute("DELETE FROM objects WHERE id = ?", (listed.id,))
    elif is_url_gone:
        db.execute(
            "UPDATE objects SET state = 'missing', url = NULL, urls_failed = urls_failed + 1 WHERE id = ?",
            (listed.id,),
        )
    complete(db, listed.collection, listed.hour)


_CARRIED = (
    "collection, hour, path, state, url, listed_ns, tries, urls_failed, failed_ns, failed_since_ns,"
    " failed_why, due_ns"
)


def has_expired(database: Database, now_ns: int) -> bool:
    """Whether there is a URL for `expire` to wipe. Only reads, by an index."""
    return bool(
        database.rows(
            "SELECT 1 FROM objects WHERE state != 'done' AND state = 'listed' AND listed_ns <= ? LIMIT 1",
            now_ns - URL_LIFE_NS,
        )
    )


def expire(db: sqlite3.Connection, now_ns: int) -> None:
    """URLs are wiped that have expired. An hour with an object that was never tried is listed again soon."""
    old = (now_ns - URL_LIFE_NS,)
    untried = db.execute(
        "SELECT DISTINCT collection, hour FROM objects"
        " WHERE state = 'listed' AND tries = 0 AND listed_ns <= ?",
        old,
    ).fetchall()
    for row in untried:
        fail(db, row["collection"], row["hour"], "its URLs expired before the download", now_ns)
    db.execute(
        "DELETE FROM objects WHERE state = 'listed' AND tries = 0 AND listed_ns <= ? AND failed_ns IS NULL",
        old,
    )
    for row in db.execute(
        "SELECT id, urls_failed FROM objects WHERE state = 'listed' AND listed_ns <= ?", old
    ).fetchall():
        db.execute(
            "UPDATE objects SET state = 'missing', url = NULL, urls_failed = urls_failed + 1, due_ns = ?"
            " WHERE id = ?",
            (now_ns + LIST_AGAIN_NS[min(row["urls_failed"], len(LIST_AGAIN_NS) - 1)], row["id"]),
        )


def lose(db: sqlite3.Connection, now_ns: int) -> list[LostObject]:
    """Gives up the objects of hours that Segment has no more; returns them. `now_ns` must be certain."""
    before = now_ns // HOUR_NS - RETENTION_NS // HOUR_NS
    lost = db.execute(
        "SELECT * FROM objects WHERE state IN ('listed', 'missing') AND hour < ? ORDER BY hour, id", (before,)
    ).fetchall()
    for row in lost:
        db.execute("DELETE FROM objects WHERE id = ?", (row["id"],))
        db.execute(
            "UPDATE hours SET lost = lost + 1, listing_ns = NULL WHERE collection = ? AND hour = ?",
            (row["collection"], row["hour"]),
        )
    return [
        LostObject(row["collection"], row["hour"], row["path"], row["failed_why"] or "it was not tried")
        for row in lost
    ]
