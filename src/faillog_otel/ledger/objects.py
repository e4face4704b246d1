"""The hours and objects of the SQLite ledger, from the listing to the spool, as steps within a transaction.

An object whose download failed is tried again by itself: first with its URL (state `listed`), then, when that
no longer works (state `missing`), with the URL that another listing of its hour gives. It never holds back
the other objects of its hour: the listing counts as soon as every object was tried.
"""

import hashlib
import sqlite3
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

import msgspec

from faillog_otel.clock import AGREES_NS, HOUR_NS, RETENTION_NS, SECOND_NS
from faillog_otel.events.model import Survey
from faillog_otel.ledger import HOURS_KEPT_NS, Cause, CollectionHour, Content, Listed, LostObject, Spooled
from faillog_otel.ledger.database import Database
from faillog_otel.segment.schedule import ObjectVersion

URL_LIFE_NS = 2 * HOUR_NS
"""A presigned URL works for two hours. [Segment's page]"""
TRY_AGAIN_NS = tuple(seconds * SECOND_NS for seconds in (1, 10, 60, 300, 900, 1800))
"""The pause after the first, second, ... failed download with a URL; then the last one. Costs no request."""
MAX_TRIES = 3
"""Downloads with a URL that does not work: then another URL is needed."""
LIST_AGAIN_NS = (60 * SECOND_NS, *(hours * HOUR_NS for hours in (4, 8, 16, 32, 64, 128)))
"""The pause after the first, second, ... URL of an object that failed; then the last one. Costs a request."""


# -- hours ---------------------------------------------------------------------------------------------------


def fail(db: sqlite3.Connection, collection: str, hour: int, why: str, now_ns: int) -> None:
    """A listing failed: the hour is due again later."""
    db.execute(
        "INSERT INTO hours (collection, hour, failures, failed_ns, failed_why) VALUES (?, ?, 1, ?, ?)"
        " ON CONFLICT DO UPDATE SET failures = failures + 1, failed_ns = excluded.failed_ns,"
        " failed_why = excluded.failed_why, listing_ns = NULL",
        (collection, hour, now_ns, why),
    )


def give_up(db: sqlite3.Connection, number: int, why: str, now_ns: int) -> None:
    """The spool file of an object is missing or changed: its results stay, and its hour is listed again.

    Each listing with such an object counts as one more failure in a row: the hour is listed at longer and
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
    """Counts the listing of an hour once each of its objects was downloaded, or tried at least.

    While objects are missing, the hour has no identity: it cannot settle.
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


# -- objects -------------------------------------------------------------------------------------------------


def add_listed(db: sqlite3.Connection, collection: str, hour: int, urls: Sequence[str], now_ns: int) -> None:
    """T1: stores the objects of a listing. An object that failed before keeps the history of its failures."""
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
    """Returns the next object to download: untried ones first, of the oldest listing.

    `state != 'done'` lets SQLite use the index `objects_under_way`.
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


def next_spooled(database: Database, shown: Collection[int]) -> Spooled | None:
    """Returns the oldest object in the spool whose id is not in `shown`."""
    rows = database.rows(
        "SELECT * FROM objects WHERE state = 'spooled'"
        " AND id NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT 1",
        msgspec.json.encode(sorted(shown)).decode(),
    )
    if not rows:
        return None
    [row] = rows
    try:
        survey = None if row["survey"] is None else msgspec.json.decode(row["survey"], type=Survey)
    except msgspec.MsgspecError as error:
        raise database.damaged(f"object {row['id']}, survey: {error}") from None
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
        survey=survey,
    )


def spool(
    db: sqlite3.Connection, listed: Listed, identity: ObjectVersion, content: Content, now_ns: int
) -> int:
    """T2: the object is in the spool, durably. Wipes its URL, whose signature is a secret.

    Returns the number of objects that this changed: 1, or 0 if the object is not listed any more.
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
    """T2, too: the object is the version that was read at its path before."""
    db.execute(
        "UPDATE objects SET listed_ns = ? WHERE id = (SELECT max(id) FROM objects"
        " WHERE collection = ? AND hour = ? AND path = (SELECT path FROM objects WHERE id = ?)"
        " AND state IN ('spooled', 'done') AND length IS NOT NULL)",
        (listed.listed_ns, listed.collection, listed.hour, listed.id),
    )
    db.execute("DELETE FROM objects WHERE id = ?", (listed.id,))
    complete(db, listed.collection, listed.hour)


def fail_download(db: sqlite3.Connection, listed: Listed, why: str, now_ns: int, cause: Cause) -> None:
    """A download failed: this object is due again later, the others of its hour are not touched."""
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


# -- upkeep --------------------------------------------------------------------------------------------------


def has_expired(database: Database, now_ns: int) -> bool:
    """Whether there is a URL for `expire` to wipe. Only reads, by an index."""
    return bool(
        database.rows(
            "SELECT 1 FROM objects WHERE state != 'done' AND state = 'listed' AND listed_ns <= ? LIMIT 1",
            now_ns - URL_LIFE_NS,
        )
    )


def expire(db: sqlite3.Connection, now_ns: int) -> None:
    """Wipes expired URLs. An hour with an object that was never tried is listed again soon."""
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
    """Gives up objects of hours that left Segment; returns them. `now_ns` must be certain."""
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


def recover(db: sqlite3.Connection) -> None:
    """After a crash: requests without an answer failed, and their hours are listed again.

    Ends the pause that the last run made for itself. Objects whose URL may still work are due at once: other
    settings (--download-host, a proxy, authorities) may be what they need, and it costs no request.
    """
    db.execute("UPDATE said SET pause_ns = 0, pause_why = '' WHERE pause_ns != 0")
    db.execute("UPDATE objects SET due_ns = 0 WHERE state = 'listed' AND due_ns != 0")
    for row in db.execute("SELECT * FROM requests WHERE outcome IS NULL").fetchall():
        db.execute("UPDATE requests SET outcome = 'unanswered' WHERE id = ?", (row["id"],))
        fail(db, row["collection"], row["hour"], "the answer was not waited for", row["at_ns"])


def mend_future(db: sqlite3.Connection, now_ns: int) -> None:
    """Corrects times later than now, which a clock that was ahead wrote.

    A request counts from now on. An hour that was listed at such a time was listed at an unknown time: only
    its first listing counts, if that is not later than now.
    """
    for statement in _MEND_FUTURE:
        db.execute(statement, {"now": now_ns, "agrees": now_ns + AGREES_NS})


_MEND_FUTURE = (
    "UPDATE requests SET at_ns = :now WHERE at_ns > :now",
    "UPDATE said SET not_before_ns = not_before_ns - (at_ns - :now) WHERE at_ns > :now",
    "UPDATE said SET reset_ns = reset_ns - (at_ns - :now), at_ns = :now WHERE at_ns > :now",
    "UPDATE said SET pause_ns = 0 WHERE pause_ns > :agrees + 3600000000000",
    "UPDATE hours SET failed_ns = :now WHERE failed_ns > :now",
    "UPDATE hours SET listing_ns = :now WHERE listing_ns > :now",
    "UPDATE hours SET first_listed_ns = NULL WHERE first_listed_ns > :agrees",
    "UPDATE hours SET last_listed_ns = first_listed_ns, same_since_ns = NULL WHERE last_listed_ns > :agrees",
    "UPDATE objects SET listed_ns = :now WHERE listed_ns > :now",
    "UPDATE objects SET spooled_ns = :now WHERE spooled_ns > :now",
    "UPDATE objects SET due_ns = :now, failed_ns = :now WHERE failed_ns > :now",
)


def prune(db: sqlite3.Connection, now_ns: int) -> list[CollectionHour]:
    """Sums up the objects of hours that left Segment; returns these hours. `now_ns` must be certain."""
    hour = now_ns // HOUR_NS
    ripe = db.execute(
        "SELECT collection, hour FROM hours h WHERE hour < ? AND EXISTS (SELECT 1 FROM objects o"
        " WHERE o.collection = h.collection AND o.hour = h.hour) AND NOT EXISTS"
        " (SELECT 1 FROM objects o WHERE o.collection = h.collection AND o.hour = h.hour"
        " AND o.state != 'done')",
        (hour - RETENTION_NS // HOUR_NS,),
    ).fetchall()
    for row in ripe:
        key = (row["collection"], row["hour"])
        db.execute(_SUM_UP_OBJECTS + _ADDED, (*key, *key))
        db.execute("DELETE FROM objects WHERE collection = ? AND hour = ?", key)
    gone = db.execute(
        "SELECT collection, hour FROM hours h WHERE hour < ? AND NOT EXISTS (SELECT 1 FROM objects o"
        " WHERE o.collection = h.collection AND o.hour = h.hour)",
        (hour - HOURS_KEPT_NS // HOUR_NS,),
    ).fetchall()
    for row in gone:
        key = (row["collection"], row["hour"])
        db.execute(_SUM_UP_PAST + _ADDED, (row["collection"], -1, *key))
        db.execute("DELETE FROM past WHERE collection = ? AND hour = ?", key)
        db.execute("DELETE FROM hours WHERE collection = ? AND hour = ?", key)
    return [(row["collection"], row["hour"]) for row in ripe]


_SUM_UP_OBJECTS = """
INSERT INTO past SELECT ?, ?, count(*), sum(lines), sum(blank), sum(records), sum(exported), sum(rejected),
    sum(quarantined), sum(duplicate), sum(time_shifted)
FROM objects WHERE collection = ? AND hour = ? HAVING count(*) > 0
"""
_SUM_UP_PAST = """
INSERT INTO past SELECT ?, ?, objects, lines, blank, records, exported, rejected, quarantined, duplicate,
    time_shifted
FROM past WHERE collection = ? AND hour = ?
"""
_ADDED = """
ON CONFLICT DO UPDATE SET objects = objects + excluded.objects, lines = lines + excluded.lines,
    blank = blank + excluded.blank, records = records + excluded.records,
    exported = exported + excluded.exported, rejected = rejected + excluded.rejected,
    quarantined = quarantined + excluded.quarantined, duplicate = duplicate + excluded.duplicate,
    time_shifted = time_shifted + excluded.time_shifted
"""
