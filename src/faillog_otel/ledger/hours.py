"""How the listing of an hour goes on and ends, as steps within transactions of the ledger."""

import hashlib
import sqlite3


def drop_listed(db: sqlite3.Connection, collection: str, hour: int) -> None:
    """Forgets the objects that were listed and not downloaded, with their URLs."""
    db.execute(
        "DELETE FROM objects WHERE collection = ? AND hour = ? AND state = 'listed'", (collection, hour)
    )


def fail(db: sqlite3.Connection, collection: str, hour: int, why: str, now_ns: int) -> None:
    """The listing came to nothing, or not all of its objects came: the hour is to be listed again."""
    drop_listed(db, collection, hour)
    db.execute(
        "INSERT INTO hours (collection, hour, failures, failed_ns, failed_why) VALUES (?, ?, 1, ?, ?)"
        " ON CONFLICT DO UPDATE SET failures = failures + 1, failed_ns = excluded.failed_ns,"
        " failed_why = excluded.failed_why, listing_ns = NULL",
        (collection, hour, now_ns, why),
    )


def give_up(db: sqlite3.Connection, number: int, why: str, now_ns: int) -> None:
    """A spooled object is missing or changed: what was recorded of it stays, its hour is listed again.

    Every listing with such an object counts as one more failure in a row: the hour is asked for at longer and
    longer intervals, so that a broken disk does not cost the whole quota.
    """
    db.execute(
        "UPDATE objects SET state = 'done', records = position, lines = 0, blank = 0, etag = NULL,"
        " last_modified = NULL, length = NULL, damaged = 1 WHERE id = ?",
        (number,),
    )
    [hour] = db.execute("SELECT collection, hour FROM objects WHERE id = ?", (number,)).fetchall()
    drop_listed(db, *hour)
    db.execute(
        "UPDATE hours SET wanted = 1, listing_ns = NULL, failed_ns = ?, failed_why = ?, failures ="
        " max(failures, (SELECT count(DISTINCT listed_ns) FROM objects o"
        " WHERE o.collection = hours.collection AND o.hour = hours.hour AND o.damaged))"
        " WHERE collection = ? AND hour = ?",
        (now_ns, why, *hour),
    )


def complete(db: sqlite3.Connection, collection: str, hour: int) -> None:
    """Where all objects of the listing are there, the listing counts."""
    key = (collection, hour)
    [row] = db.execute("SELECT * FROM hours WHERE collection = ? AND hour = ?", key).fetchall()
    of_hour = "FROM objects WHERE collection = ? AND hour = ? AND"
    if (
        row["listing_ns"] is None or db.execute(f"SELECT 1 {of_hour} state = 'listed'", key).fetchone()
    ):  # our own words
        return
    shown = db.execute(
        f"SELECT path, etag, last_modified, length {of_hour} listed_ns = ? ORDER BY 1, 2, 3, 4",  # as above
        (*key, row["listing_ns"]),
    ).fetchall()
    identity = hashlib.sha256(repr([tuple(each) for each in shown]).encode()).hexdigest()
    is_same = identity == row["identity"] and row["same_since_ns"] is not None
    db.execute(
        "UPDATE hours SET listing_ns = NULL, first_listed_ns = coalesce(first_listed_ns, :at),"
        " last_listed_ns = :at, listings = listings + 1, identity = :identity, same_since_ns = :same,"
        " failures = 0, failed_why = '', wanted = 0"
        " WHERE collection = :collection AND hour = :hour",
        {
            "at": row["listing_ns"],
            "identity": identity,
            "same": row["same_since_ns"] if is_same else row["listing_ns"],
            "collection": collection,
            "hour": hour,
        },
    )
