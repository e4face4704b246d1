"""What the planner needs to know, read from the ledger."""

from faillog_otel.clock import RETENTION_NS, hour_of
from faillog_otel.ledger.database import Database
from faillog_otel.ledger.views import fact_ns
from faillog_otel.segment.quota import Debit, Quota, Said
from faillog_otel.segment.schedule import HourView

SINCE = "since"
"""The fact that says since when hours are wanted, in nanoseconds since 1970."""


def wanted_since_ns(database: Database, since_ns: int) -> int:
    """Since when hours are wanted: what an earlier run wanted stays wanted."""
    noted = fact_ns(database, SINCE)
    return since_ns if noted is None else min(since_ns, noted)


def hour_views(database: Database, now_ns: int) -> dict[str, dict[int, HourView]]:
    """Collection → hour → what is known of it. Only hours that Segment still has."""
    views: dict[str, dict[int, HourView]] = {}
    for row in database.rows("SELECT * FROM hours WHERE hour > ?", hour_of(now_ns - RETENTION_NS)):
        views.setdefault(row["collection"], {})[row["hour"]] = HourView(
            listed_ns=row["last_listed_ns"],
            same_since_ns=row["same_since_ns"],
            failures=row["failures"],
            failed_ns=row["failed_ns"],
            wanted=bool(row["wanted"]),
        )
    return views


def quota_of(database: Database, not_before_ns: int = 0) -> Quota:
    """What was spent and said. `not_before_ns`: a pause of our own."""
    rows = database.rows("SELECT at_ns, collection, why FROM requests ORDER BY at_ns")
    said = database.rows("SELECT * FROM said")
    debits = [Debit(row["at_ns"], row["collection"], row["why"]) for row in rows]
    if not said:
        return Quota(debits=debits, not_before_ns=not_before_ns)
    [row] = said
    return Quota(
        debits=debits,
        said=None if row["remaining"] is None else Said(row["at_ns"], row["remaining"], row["reset_ns"]),
        not_before_ns=max(not_before_ns, row["not_before_ns"]),
    )
