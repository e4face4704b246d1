"""How the listing of an hour goes on and ends, as steps within transactions of the ledger."""

import hashlib
import sqlite3


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
