"""What the planner needs to know, read from the ledger."""

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import (
    HOUR_NS,
    MIN_TIME_NS,
    RETENTION_NS,
    created_ns,
    duration_text,
    hour_of,
    time_text,
)
from faillog_otel.config import DEFAULT_SINCE, Moment, SegmentConfig
from faillog_otel.errors import ConfigError
from faillog_otel.ledger.database import Database
from faillog_otel.ledger.ledger import Ledger
from faillog_otel.ledger.queries import fact, fact_ns
from faillog_otel.segment.quota import Granted, Quota, RateLimit, RequestRecord
from faillog_otel.segment.schedule import HourView, ScheduleConfig

SINCE = "since"
"""The fact that says since when hours are wanted, in nanoseconds since 1970."""
ASKED_SINCE = "since a person named"
"""The fact since when a person asked for hours, by naming the time; `NOBODY` where none did."""
NOBODY = "nobody"
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


def asked_since_ns(database: Database | None, named_ns: int | None) -> int | None:
    """Since when a person asked for hours, in this run (`named_ns`) or an earlier one; None: nobody did.

    Version 0.1.0 did not note who named the time: then it counts as a person's.
    """
    asked = [] if named_ns is None else [named_ns]
    noted = None if database is None else fact(database, ASKED_SINCE)
    if database is not None and noted != NOBODY:
        asked_ns = fact_ns(database, SINCE if noted is None else ASKED_SINCE)
        asked += [] if asked_ns is None else [asked_ns]
    return min(asked, default=None)


def schedule_of(
    database: Database | None, config: SegmentConfig, now_ns: int, *, once: bool = False
) -> ScheduleConfig:
    """What is asked for. What an earlier run wanted stays wanted: a restart must not lose hours."""
    since_ns = config.since.ns(now_ns)
    born = {each: created_ns(each, now_ns) for each in config.collections}
    return ScheduleConfig(
        collections=config.collections,
        since_ns=since_ns if database is None else wanted_since_ns(database, since_ns),
        until_ns=config.until.ns(now_ns) if config.until else None,
        born_ns={name: at_ns for name, at_ns in born.items() if at_ns is not None},
        asked_since_ns=asked_since_ns(database, since_ns if config.is_since_given else None),
        once=once,
    )


def refused_until_ns(database: Database, collection: str, now_ns: int) -> int | None:
    """Until when a collection is not asked for that Segment refused; None where it is.

    What ends later than it can was noted by a clock that was ahead.
    """
    until_ns = fact_ns(database, REFUSED + collection) or 0
    return until_ns if now_ns < until_ns <= now_ns + REFUSED_NS else None


def hour_views(database: Database, now_ns: int) -> dict[str, dict[int, HourView]]:
    """Collection → hour → what is known of it. Only hours that Segment still has."""
    views: dict[str, dict[int, HourView]] = {}
    for row in database.rows(_HOURS, hour_of(now_ns - RETENTION_NS)):
        views.setdefault(row["collection"], {})[row["hour"]] = HourView(
            listed_ns=row["last_listed_ns"],
            same_since_ns=row["same_since_ns"],
            failures=row["failures"],
            failed_ns=row["failed_ns"],
            wanted=bool(row["wanted"]),
            missing=row["missing"],
            missing_due_ns=row["missing_due_ns"],
        )
    return views


_HOURS = """
SELECT h.*, coalesce(m.missing, 0) AS missing, m.missing_due_ns
FROM hours h
LEFT JOIN (SELECT collection, hour, count(*) AS missing,
        min(iif(state = 'missing', due_ns, NULL)) AS missing_due_ns
    FROM objects WHERE state != 'done' AND state IN ('listed', 'missing') GROUP BY collection, hour) m
    ON m.collection = h.collection AND m.hour = h.hour
WHERE h.hour > ?
"""


def quota_of(database: Database, per_day: int) -> Quota:
    """What was spent and said. `per_day`: how many requests there are where Segment does not say so."""
    rows = database.rows("SELECT at_ns, collection, why, outcome FROM requests ORDER BY at_ns, id")
    said = database.rows("SELECT * FROM said")
    debits = [
        RequestRecord(row["at_ns"], row["collection"], row["why"], _ANSWERS.get(row["outcome"], "none"))
        for row in rows
    ]
    if not said:
        return Quota(debits=debits, per_day=per_day)
    [row] = said
    waits = max((row["not_before_ns"], row["not_before_why"]), (row["pause_ns"], row["pause_why"]))
    word = None
    if row["remaining"] is not None:
        word = RateLimit(
            row["at_ns"],
            row["remaining"],
            row["reset_ns"],
            limit=row["quota"],
            window_ns=row["window_ns"],
            is_refusal=bool(row["refusal"]),
        )
    return Quota(debits=debits, said=word, not_before_ns=waits[0], not_before_why=waits[1], per_day=per_day)


_ANSWERS: dict[str | None, Granted] = {"listed": "granted", "toomany": "refused"}


def check_window(config: SegmentConfig, now_ns: int, noted_since_ns: int | None = None) -> list[str]:
    """Returns warnings about the hours between `--since` and `--until`. Raises ConfigError if there are none.

    `noted_since_ns`: what an earlier run wanted stays wanted, so an absolute `--until` may by now be before
    a relative `--since`. A relative and an absolute time are compared by the machine's clock, which may be
    wrong, so that is only a warning. A default `--since` is not an error either.
    """
    since, until, warnings = config.since, config.until, []
    since_ns = since.ns(now_ns)
    if until is not None and since_ns >= (until_ns := until.ns(now_ns)):
        problem = f"--since ({time_text(since_ns)}) is not before --until ({time_text(until_ns)})"
        is_certain = (since.at_ns is None) == (until.at_ns is None)
        was_wanted = noted_since_ns is not None and noted_since_ns < until_ns
        if config.is_since_given and is_certain:
            raise ConfigError(f"{problem}, so no hour is between them; exchange them, or write other times")
        if not was_wanted:
            warnings.append(
                f"{problem} by this machine's clock, so no hour is between them; set another --since"
            )
    if now_ns < MIN_TIME_NS or not config.is_since_given:
        return warnings
    if since_ns > now_ns:
        ahead = duration_text((since_ns - now_ns) / 1e9)
        warnings.append(
            f"--since {time_text(since_ns)} is {ahead} in the future by this machine's clock; until then,"
            " only hours that an earlier run wanted are requested"
        )
    elif since_ns < now_ns - RETENTION_NS:
        warnings.append(
            f"--since {time_text(since_ns)} is more than 28 days ago, and Segment deletes older hours; the"
            f" first that can be read begins after {time_text(now_ns - RETENTION_NS)}"
        )
    return warnings
