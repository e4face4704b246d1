"""Looking at the ledger: what is pending, and whether the law holds."""

from faillog_otel.ledger.database import Database


def pending_records(database: Database) -> int:
    """Records that lie in the spool and are not written down yet."""
    [row] = database.rows("SELECT coalesce(sum(records - position), 0) AS pending FROM objects")
    return int(row["pending"])


def kept_records(database: Database) -> int:
    """Records in the quarantine."""
    [row] = database.rows("SELECT count(*) AS kept FROM kept")
    return int(row["kept"])
