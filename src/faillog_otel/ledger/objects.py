"""Hours and objects in the SQLite ledger: the statements of T0 to T4, and upkeep.

An object whose download failed is retried on its own: first with its URL (state `listed`), then, if the URL
no longer works (state `missing`), with a URL from a new listing of its hour. It never delays the other
objects of its hour: a listing counts as soon as every object was tried.
"""

import hashlib
import sqlite3
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

import msgspec

from faillog_otel.clock import AGREES_NS, HOUR_NS, RETENTION_NS, SECOND_NS
from faillog_otel.ledger import HOURS_KEPT_NS, Cause, CollectionHour, Content, Listed, LostObject, Spooled
from faillog_otel.ledger.database import Database
from faillog_otel.segment.hours import ObjectVersion

URL_LIFE_NS = 2 * HOUR_NS
"""A presigned URL works for two hours. [Segment's page]"""
RETRY_AFTER_NS = tuple(seconds * SECOND_NS for seconds in (1, 10, 60, 300, 900, 1800))
"""Pauses after the first, second, ... failed download with a URL; the last one repeats. Costs no request."""
MAX_TRIES = 3
"""Failed downloads with a URL that does not work; after them, another URL is needed."""
RELIST_AFTER_NS = (60 * SECOND_NS, *(hours * HOUR_NS for hours in (4, 8, 16, 32, 64, 128)))
"""Pauses after the first, second, ... failed URL of an object; the last one repeats. Costs a request."""


def fail_listing(db: sqlite3.Connection, collection: str, hour: int, why: str, now_ns: int) -> None:
    """Stores that a listing failed: the hour is due again later."""
    db.execute(
        "INSERT INTO hours (collection, hour, failures, failed_ns, failed_why) VALUES (?, ?, 1, ?, ?)"
        " ON CONFLICT DO UPDATE SET failures = failures + 1, failed_ns = excluded.failed_ns,"
        " failed_why = excluded.failed_why, listing_ns = NULL",
        (collection, hour, now_ns, why),
    )


def give_up_spooled(db: sqlite3.Connection, number: int, why: str, now_ns: int) -> None:
    """Ends an object whose spool file is missing or changed: its results stay, its hour is listed again.

    Each listing with such an object counts as one more consecutive failure, so the hour is listed at growing
    intervals, and a broken disk does not use up the quota. Other objects of the hour do not change.
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


def complete_listing(db: sqlite3.Connection, collection: str, hour: int) -> None:
    """Counts the listing of an hour as soon as each of its objects was tried.

    While objects are missing, the hour has no identity and cannot settle.
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


def add_listed(db: sqlite3.Connection, collection: str, hour: int, urls: Sequence[str], now_ns: int) -> None:
    """T1: stores the objects of a listing. An object whose download failed before keeps its failures."""
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
    complete_listing(db, collection, hour)


def next_listed(database: Database, now_ns: int) -> Listed | None:
    """Returns the next object to download: untried objects first, those of the oldest listing before others.

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


def next_spooled(database: Database, shown: Collection[int], soon_ns: int | None) -> Spooled | None:
    """Returns the oldest object in the spool whose id is not in `shown`.

    `soon_ns`: not of an hour with an object whose next download is due by then.
    """
    rows = database.rows(
        "SELECT * FROM objects o WHERE state = 'spooled'"
        " AND id NOT IN (SELECT value FROM json_each(?)) AND (indexes_to IS NOT NULL OR NOT EXISTS"
        " (SELECT 1 FROM objects WHERE state != 'done' AND state = 'listed' AND due_ns <= ?"
        " AND collection = o.collection AND hour = o.hour)) ORDER BY id LIMIT 1",
        msgspec.json.encode(sorted(shown)).decode(),
        -1 if soon_ns is None else soon_ns,
    )
    return _spooled(database, rows)


def spooled_object(database: Database, number: int) -> Spooled | None:
    """Returns the object with this id; None if it is not in the spool."""
    rows = database.rows("SELECT * FROM objects WHERE id = ? AND state = 'spooled'", number)
    return _spooled(database, rows)


def _spooled(database: Database, rows: Sequence[sqlite3.Row]) -> Spooled | None:
    if not rows:
        return None
    values = dict(rows[0])
    try:
        if values["survey"] is not None:
            values["survey"] = msgspec.json.decode(values["survey"])
        return msgspec.convert(values, Spooled)
    except msgspec.MsgspecError as error:
        raise database.damaged(f"object {values['id']}: {error}") from None


def mark_spooled(
    db: sqlite3.Connection, listed: Listed, identity: ObjectVersion, content: Content, now_ns: int
) -> int:
    """T2: stores that the object is in the spool. Wipes its URL, whose signature is a secret.

    Returns the number of changed objects: 1, or 0 if the object is no longer listed.
    """
    spooled = db.execute(
        "UPDATE objects SET state = 'spooled', url = NULL, etag = ?, last_modified = ?, length = ?,"
        " spooled_ns = ?, lines = ?, blank = ?, records = ?, sha256 = ?, survey = ?, due_ns = 0,"
        " failed_why = '', names_to = (SELECT max(number) FROM names) WHERE id = ? AND state = 'listed'",
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
    if content.index is not None:
        db.execute(
            "INSERT INTO exchange_indexes (object, collection, hour, path, bytes, sha256, written_ns)"
            " SELECT id, collection, hour, path, ?, ?, ? FROM objects WHERE id = ?",
            (content.index.bytes, content.index.sha256, now_ns, listed.id),
        )
    complete_listing(db, listed.collection, listed.hour)
    return spooled.rowcount


def keep_version(db: sqlite3.Connection, listed: Listed) -> None:
    """T2, too: stores that the object has the version that was read at its path before."""
    db.execute(
        "UPDATE objects SET listed_ns = ? WHERE id = (SELECT max(id) FROM objects"
        " WHERE collection = ? AND hour = ? AND path = (SELECT path FROM objects WHERE id = ?)"
        " AND state IN ('spooled', 'done') AND length IS NOT NULL)",
        (listed.listed_ns, listed.collection, listed.hour, listed.id),
    )
    db.execute("DELETE FROM objects WHERE id = ?", (listed.id,))
    complete_listing(db, listed.collection, listed.hour)


def fail_download(db: sqlite3.Connection, listed: Listed, why: str, now_ns: int, cause: Cause) -> None:
    """Stores a failed download: this object is due again later. Other objects of its hour do not change."""
    is_url_gone = cause == "url" and listed.tries + 1 >= MAX_TRIES
    [row] = db.execute("SELECT urls_failed FROM objects WHERE id = ?", (listed.id,)).fetchall()
    pauses = RELIST_AFTER_NS if is_url_gone else RETRY_AFTER_NS
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
    complete_listing(db, listed.collection, listed.hour)


_CARRIED = (
    "collection, hour, path, state, url, listed_ns, tries, urls_failed, failed_ns, failed_since_ns,"
    " failed_why, due_ns"
)


def has_expired_url(database: Database, now_ns: int) -> bool:
    """Returns whether `wipe_expired_urls` has work to do. Only reads, by an index."""
    return bool(
        database.rows(
            "SELECT 1 FROM objects WHERE state != 'done' AND state = 'listed' AND listed_ns <= ? LIMIT 1",
            now_ns - URL_LIFE_NS,
        )
    )


def wipe_expired_urls(db: sqlite3.Connection, now_ns: int) -> None:
    """Wipes expired URLs. An hour with an untried object is listed again soon."""
    old = (now_ns - URL_LIFE_NS,)
    untried = db.execute(
        "SELECT DISTINCT collection, hour FROM objects"
        " WHERE state = 'listed' AND tries = 0 AND listed_ns <= ?",
        old,
    ).fetchall()
    for row in untried:
        fail_listing(db, row["collection"], row["hour"], "its URLs expired before the download", now_ns)
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
            (now_ns + RELIST_AFTER_NS[min(row["urls_failed"], len(RELIST_AFTER_NS) - 1)], row["id"]),
        )


def lose(db: sqlite3.Connection, now_ns: int) -> list[LostObject]:
    """Gives up objects of hours that Segment has deleted; returns them. `now_ns` must be certain."""
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
    """Cleans up after a crash: requests without an answer count as failed, and their hours are listed again.

    Ends the last run's own pause. Objects whose URL may still work are due at once, which costs no request:
    changed settings (--download-host, a proxy, authorities) may be what they need.
    """
    db.execute("UPDATE said SET pause_ns = 0, pause_why = '' WHERE pause_ns != 0")
    db.execute("UPDATE objects SET due_ns = 0 WHERE state = 'listed' AND due_ns != 0")
    for row in db.execute("SELECT * FROM requests WHERE outcome IS NULL").fetchall():
        db.execute("UPDATE requests SET outcome = 'unanswered' WHERE id = ?", (row["id"],))
        fail_listing(db, row["collection"], row["hour"], "the run ended before the answer", row["at_ns"])


def mend_future(db: sqlite3.Connection, now_ns: int) -> None:
    """Corrects times later than now, which a clock that was ahead wrote.

    A request from the future counts from now on. An hour that was listed in the future was listed at an
    unknown time: only its first listing counts, if that is not later than now.
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
    "UPDATE exchange_indexes SET written_ns = :now WHERE written_ns > :now",
    "UPDATE objects SET due_ns = :now, failed_ns = :now WHERE failed_ns > :now",
)


def prune(db: sqlite3.Connection, now_ns: int) -> list[CollectionHour]:
    """Sums up the objects of hours that Segment has deleted; returns the hours. `now_ns` must be certain."""
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
