"""The SQL of a replay of the quarantine."""

import sqlite3

from faillog_otel.ledger.results import ReplayedEntry

_OUTCOMES_CHANGE = """
SET exported = exported + :exported, rejected = rejected + :rejected,
    quarantined = quarantined + :quarantined, time_shifted = time_shifted + :time_shifted
"""


def replay_entry(db: sqlite3.Connection, entry: ReplayedEntry) -> None:
    """Stores the result of an entry that was sent again."""
    [row] = db.execute("SELECT * FROM kept WHERE id = ?", (entry.id,)).fetchall()
    change = {"rejected": 0, "quarantined": 0, "exported": 0, "time_shifted": 0}
    change["rejected" if row["reason"] == "rejected" else "quarantined"] -= 1
    if entry.kept is None:
        change["exported"] += 1
        change["time_shifted"] += entry.is_shifted
        db.execute("DELETE FROM kept WHERE id = ?", (entry.id,))
    else:
        change["rejected" if entry.kept.reason == "rejected" else "quarantined"] += 1
        db.execute(
            "UPDATE kept SET reason = ?, entry = ? WHERE id = ?",
            (entry.kept.reason, entry.kept.entry, entry.id),
        )
    key = {**change, "id": row["object"], "collection": row["collection"], "hour": row["hour"]}
    of_hour = f"UPDATE past {_OUTCOMES_CHANGE} WHERE collection = :collection AND hour = :hour"
    if db.execute(f"UPDATE objects {_OUTCOMES_CHANGE} WHERE id = :id", key).rowcount:
        return
    if not db.execute(of_hour, key).rowcount:  # the hour was summed up long ago
        db.execute(of_hour, {**key, "hour": -1})
