"""The requests that were made of Segment, and its word about the quota, as steps within transactions."""

import sqlite3

from msgspec import Struct

from faillog_otel.clock import DAY_NS

REQUESTS_KEPT_NS = 2 * DAY_NS


class Said(Struct, frozen=True, kw_only=True):
    """What one answer said about the quota; `remaining` is None where it said nothing of it.

    `not_before_ns`: until then Segment wants no request, for the reason `not_before_why`.
    """

    at_ns: int
    remaining: int | None = None
    reset_ns: int | None = None
    limit: int | None = None
    window_ns: int | None = None
    is_refusal: bool = False
    not_before_ns: int = 0
    not_before_why: str = ""


def debit(db: sqlite3.Connection, collection: str, hour: int, why: str, now_ns: int) -> int:
    """Notes a request that is about to be made; returns its number."""
    db.execute("DELETE FROM requests WHERE at_ns < ?", (now_ns - REQUESTS_KEPT_NS,))
    added = db.execute(
        "INSERT INTO requests (at_ns, collection, hour, why) VALUES (?, ?, ?, ?)",
        (now_ns, collection, hour, why),
    )
    return int(added.lastrowid or 0)


def hear(db: sqlite3.Connection, request: int, outcome: str, said: Said) -> None:
    """Notes how a request was answered, and what the answer said about the quota."""
    db.execute("UPDATE requests SET outcome = ? WHERE id = ?", (outcome, request))
    db.execute(
        "INSERT INTO said (id, at_ns, not_before_ns, not_before_why) VALUES (1, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET not_before_ns = excluded.not_before_ns,"
        " not_before_why = excluded.not_before_why",
        (said.at_ns, said.not_before_ns, said.not_before_why),
    )
    if said.remaining is not None:
        db.execute(
            "UPDATE said SET at_ns = ?, remaining = ?, reset_ns = ?, quota = ?, window_ns = ?, refusal = ?",
            (said.at_ns, said.remaining, said.reset_ns, said.limit, said.window_ns, said.is_refusal),
        )


def pause(db: sqlite3.Connection, until_ns: int, why: str, now_ns: int) -> None:
    """Notes until when this run asks nothing, and why: others can look at it."""
    db.execute(
        "INSERT INTO said (id, at_ns, not_before_ns, pause_ns, pause_why) VALUES (1, ?, 0, ?, ?)"
        " ON CONFLICT DO UPDATE SET pause_ns = excluded.pause_ns, pause_why = excluded.pause_why",
        (now_ns, until_ns, why),
    )


def move(db: sqlite3.Connection, since_ns: int, by_ns: int) -> None:
    """Moves what was stamped since then: the clock that stamped it was wrong by so much."""
    db.execute("UPDATE requests SET at_ns = at_ns + ? WHERE at_ns >= ?", (by_ns, since_ns))
    db.execute(
        "UPDATE said SET at_ns = at_ns + :by, reset_ns = reset_ns + :by, pause_ns = pause_ns + :by,"
        " not_before_ns = not_before_ns + :by WHERE at_ns >= :since",
        {"by": by_ns, "since": since_ns},
    )
