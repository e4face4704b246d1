"""The SQL of Segment's answers: the outcome of a request, and the rate limit."""

import sqlite3

from faillog_otel.segment.quota import RateLimit, Wait


def note_answer(db: sqlite3.Connection, request: int, outcome: str) -> None:
    """Stores the outcome of a request."""
    db.execute("UPDATE requests SET outcome = ? WHERE id = ?", (outcome, request))


def note_rate_limit(db: sqlite3.Connection, now_ns: int, limit: RateLimit | None, wait: Wait | None) -> None:
    """Stores what Segment said about the quota, and until when it allows no request."""
    wait = wait or Wait(0, "")
    db.execute(
        "INSERT INTO said (id, at_ns, not_before_ns, not_before_why) VALUES (1, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET not_before_ns = excluded.not_before_ns,"
        " not_before_why = excluded.not_before_why",
        (now_ns, wait.until_ns, wait.why),
    )
    if limit is not None:
        db.execute(
            "UPDATE said SET at_ns = ?, remaining = ?, reset_ns = ?, quota = ?, window_ns = ?, refusal = ?",
            (limit.at_ns, limit.remaining, limit.reset_ns, limit.limit, limit.window_ns, limit.is_refusal),
        )
