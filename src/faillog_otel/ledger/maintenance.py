"""The ledger after a crash, and over months: what was left unanswered, what has expired, what is over.

All raise NoRoom and LedgerBroken.
"""

import sqlite3

from faillog_otel.clock import AGREES_NS, DAY_NS, HOUR_NS, RETENTION_NS
from faillog_otel.ledger import objects
from faillog_otel.ledger.ledger import Ledger
from faillog_otel.ledger.objects import LostObject, fail

HOURS_KEPT_NS = 60 * DAY_NS


def recover(ledger: Ledger) -> None:
    """After a crash: requests that were left unanswered failed, and their hours are listed again.

    A pause that the last run made for itself ends, and objects whose URL may still work are tried at once:
    other settings (--download-host, a proxy, authorities) may be what they need, and it costs no request.
    """

    def steps(db: sqlite3.Connection) -> None:
        db.execute("UPDATE said SET pause_ns = 0, pause_why = '' WHERE pause_ns != 0")
        db.execute("UPDATE objects SET due_ns = 0 WHERE state = 'listed' AND due_ns != 0")
        unanswered = db.execute("SELECT * FROM requests WHERE outcome IS NULL").fetchall()
        for row in unanswered:
            db.execute("UPDATE requests SET outcome = 'unanswered' WHERE id = ?", (row["id"],))
            fail(db, row["collection"], row["hour"], "the answer was not waited for", row["at_ns"])

    ledger.transact(steps)


def mend_future(ledger: Ledger, now_ns: int) -> None:
    """Corrects times later than now, which a clock that was ahead wrote.

    A request counts from now on. An hour that was listed at such a time was listed at an unknown one: only
    its first listing counts, if that is not later than now.
    """

    def steps(db: sqlite3.Connection) -> None:
        now = {"now": now_ns, "agrees": now_ns + AGREES_NS}
        for statement in _MEND_FUTURE:
            db.execute(statement, now)

    ledger.transact(steps)


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


def wipe_urls(ledger: Ledger, now_ns: int) -> None:
    """Wipes expired URLs: objects that were not downloaded with them need another listing.

    Takes the write lock only if a URL has expired: the fetcher calls this before every step.
    """
    if objects.has_expired(ledger.database, now_ns):
        ledger.transact(lambda db: objects.expire(db, now_ns))


def lose(ledger: Ledger, now_ns: int) -> list[LostObject]:
    """Gives up objects that left Segment's 28 days before they could be downloaded; returns them.

    `now_ns` must be certain.
    """
    return ledger.transact(lambda db: objects.lose(db, now_ns))


def prune(ledger: Ledger, now_ns: int) -> list[tuple[str, int]]:
    """Sums up the objects of hours that Segment has no more; returns these hours: their digests are useless.

    `now_ns` must be certain: what is summed up under a wrong time is read and sent again.
    """
    hour = now_ns // HOUR_NS

    def steps(db: sqlite3.Connection) -> list[tuple[str, int]]:
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

    return ledger.transact(steps)


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
