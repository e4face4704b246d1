"""What the planner needs to know, read from the ledger."""

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, MIN_TIME_NS, RETENTION_NS, hour_of
from faillog_otel.config import DEFAULT_SINCE, Moment, SegmentConfig
from faillog_otel.ledger.database import Database
from faillog_otel.ledger.ledger import Ledger
from faillog_otel.ledger.views import fact, fact_ns
from faillog_otel.segment.quota import Debit, Quota, Said
from faillog_otel.segment.schedule import HourView

SINCE = "since"
"""The fact that says since when hours are wanted, in nanoseconds since 1970."""

POLLED = "polled"
"""The fact what the last polling run asked for, as JSON."""
REFUSED = "refused until "
"""Before a collection's id: the fact until when it is not asked for."""
REFUSED_NS = 6 * HOUR_NS
"""A collection that Segment refuses is asked for so much later: each try costs a request."""


class Polled(Struct, frozen=True):
    """What a polling run asked for."""

    collections: tuple[str, ...]
    since: Moment = DEFAULT_SINCE
    until: Moment | None = None


def note_polled(ledger: Ledger, config: SegmentConfig) -> None:
    """Remembers what a run asks for. Raises NoRoom, LedgerBroken."""
    polled = Polled(config.collections, config.since, config.until)
    ledger.note(POLLED, msgspec.json.encode(polled).decode())


def as_last_run(database: Database, config: SegmentConfig) -> SegmentConfig:
    """The settings, with those of the last run in the place of what is not set. Raises LedgerBroken."""
    last = _last_polled(database)
    return replace(
        config,
        collections=config.collections or last.collections,
        since=config.since if config.is_since_given else last.since,
        until=config.until or last.until,
    )


def _last_polled(database: Database) -> Polled:
    text = fact(database, POLLED)
    if text is None:  # a ledger of version 0.1.0
        rows = database.rows("SELECT DISTINCT collection FROM hours ORDER BY 1")
        noted_ns = fact_ns(database, SINCE)
        since = DEFAULT_SINCE if noted_ns is None else Moment(at_ns=noted_ns)
        return Polled(tuple(row["collection"] for row in rows), since)
    try:
        return msgspec.json.decode(text, type=Polled)
    except msgspec.DecodeError:
        raise database.damaged(f"the fact {POLLED!r} is {text[:40]!r}") from None


class Refusal(Struct, frozen=True):
    """Segment's last answer for a collection was that it refuses it."""

    why: str
    until_ns: int
    """`run` does not ask for it before."""


def refused_collections(database: Database) -> dict[str, Refusal]:
    """Collection → the refusal after which none of its hours was listed. Raises LedgerBroken."""
    found = {}
    for row in database.rows("SELECT name FROM facts WHERE name GLOB ?", f"{REFUSED}*"):
        name = str(row["name"]).removeprefix(REFUSED)
        until_ns = fact_ns(database, f"{REFUSED}{name}") or 0
        hours = database.rows(
            "SELECT failed_why, last_listed_ns FROM hours WHERE collection = ? ORDER BY failed_ns DESC", name
        )
        if hours and max(each["last_listed_ns"] or 0 for each in hours) <= until_ns - REFUSED_NS:
            found[name] = Refusal(hours[0]["failed_why"], until_ns)
    return found


UNCHECKED_SINCE = "unchecked since"
"""The fact since when hours are wanted by a machine's clock that Segment's time has not confirmed yet.

Two numbers of nanoseconds since 1970: since when, and what that clock showed then. Empty once confirmed.
"""


def unchecked_since_ns(database: Database, machine_ns: int) -> int | None:
    """Since when hours are wanted by a machine's clock that shows `machine_ns`; None if nothing is unchecked.

    A clock that was set meanwhile does not tell how long ago that was noted: it counts as noted now.
    """
    noted = fact(database, UNCHECKED_SINCE)
    if not noted:
        return None
    since_ns, at_ns = map(int, noted.split())
    is_same_clock = at_ns <= machine_ns and (at_ns < MIN_TIME_NS) == (machine_ns < MIN_TIME_NS)
    return since_ns if is_same_clock else machine_ns - (at_ns - since_ns)


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
