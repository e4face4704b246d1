"""Looking at the ledger: what is pending, what came last, and whether the law holds."""

from faillog_otel.ledger.database import Database


def pending_records(database: Database) -> int:
    """Records that lie in the spool and are not written down yet."""
    [row] = database.rows("SELECT coalesce(sum(records - position), 0) AS pending FROM objects")
    return int(row["pending"])


NEWEST = "newest "
"""Before a collection's id: the fact when Segment logged the newest of its exported records, in ns."""


def newest_logged(database: Database) -> dict[str, int]:
    """Collection → when Segment logged the newest record of it that was exported, nanoseconds since 1970."""
    rows = database.rows("SELECT name, value FROM facts WHERE name GLOB ?", f"{NEWEST}*")
    return {str(row["name"]).removeprefix(NEWEST): int(row["value"]) for row in rows}
