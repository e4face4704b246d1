"""Failures in the SQLite ledger: rows of messages and groups, and all queries about them."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct, field

from faillog_otel.clock import HOUR_NS, SECOND_NS
from faillog_otel.events.failure import (
    PENDING_SECONDS,
    FailedMessage,
    FailureGroup,
    FailureSums,
    GroupSums,
    group_id,
)
from faillog_otel.events.failure_counts import LOST, PENDING, RECOVERED, MessageFacts, Note, said_by
from faillog_otel.ledger.failures import FailureSizes

_MESSAGES_AT_ONCE = 2048
MAX_KEY = (1 << 63) - 1

EVICTED = "messages evicted"
"""Name of a fact: how many messages were forgotten because there were too many."""
FORGOTTEN_SLOT = "messages forgotten to"
"""Name of a fact: the newest slot of which messages were forgotten, because of their age or their number."""
MESSAGES = "messages"
"""Name of a fact: how many messages are kept."""

# -- rows ---

HOUR_SECONDS, SLOT_HOURS = 3600, 6
"""A slot is longer than Segment's retries: the records of a message are in two slots at most."""


def slot_of(second: int) -> int:
    """Returns the slot of a second since 1970."""
    return second // (SLOT_HOURS * HOUR_SECONDS)


def near(db: sqlite3.Connection, by_key: Mapping[int, Sequence[Note]]) -> dict[int, sqlite3.Row]:
    """Returns key → the row of the message, in the slots of its notes or beside them."""
    by_slot: defaultdict[int, set[int]] = defaultdict(set)
    for key, notes in by_key.items():
        for slot in {slot_of(note[4]) for note in notes}:
            for near in (slot - 1, slot, slot + 1):
                by_slot[near].add(key)
    found: dict[int, sqlite3.Row] = {}
    for slot, keys in sorted(by_slot.items()):
        for row in db.execute(_MESSAGES, (slot, msgspec.json.encode(list(keys)).decode())):
            found.setdefault(row["key"], row)
    return found


def unanswered(db: sqlite3.Connection, exchanges: Iterable[int]) -> list[sqlite3.Row]:
    """Returns rows of `messages`, each with an attempt (`exchange`, `second`) that these exchanges answer."""
    if not db.execute("SELECT 1 FROM unanswered_attempts LIMIT 1").fetchone():
        return []
    return db.execute(_UNANSWERED, (msgspec.json.encode(list(exchanges)).decode(),)).fetchall()


_MESSAGES = "SELECT * FROM messages WHERE slot = ? AND key IN (SELECT value FROM json_each(?))"
_UNANSWERED = """
SELECT m.*, u.exchange, u.second FROM unanswered_attempts u JOIN messages m USING (slot, key)
WHERE u.exchange IN (SELECT value FROM json_each(?))
"""


def facts_of(row: sqlite3.Row) -> MessageFacts:
    """Returns what a row of `messages` says."""
    return MessageFacts(
        message_id=row["message_id"],
        group=row["grp"] or 0,
        group_s=row["grp_s"],
        group_rank=row["grp_rank"],
        code_group=row["code_grp"] or 0,
        code_rank=row["code_rank"],
        attempts=row["attempts"],
        first_s=row["first_s"],
        last_s=row["last_s"],
        success_s=row["success_s"],
        is_discarded=bool(row["discarded"]),
    )


def row_of(slot: int, key: int, facts: MessageFacts, state: int) -> tuple[object, ...]:
    """Returns the row of `messages`, in the order of its columns."""
    return (
        *(slot, key, facts.message_id, state, facts.group or None, facts.group_s, facts.group_rank),
        *(facts.code_group or None, facts.code_rank, facts.attempts, facts.first_s, facts.last_s),
        *(facts.success_s, facts.is_discarded),
    )


def group_of(row: sqlite3.Row) -> FailureGroup:
    """Returns what a row of `failure_groups` says."""
    retryable = row["retryable"]
    return FailureGroup(
        id=group_id(row["id"]),
        destination=row["destination"],
        subscription=row["subscription"],
        code=row["code"],
        status=row["status"],
        reason=row["reason"],
        reason_class=row["class"],
        retryable=None if retryable is None else bool(retryable),
    )


# -- queries ---


class Rows(Protocol):
    """A database that can be read."""

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Returns the rows of a query."""


class _Sums(Struct):
    """The sums of one group."""

    lost: int = 0
    pending: int = 0
    recovered: int = 0
    attempts: int = 0
    requests: int = 0
    first_s: int = 0
    last_s: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    by_hour: Counter[int] = field(default_factory=Counter)
    requests_by_hour: Counter[int] = field(default_factory=Counter)
    sample: tuple[bool, int, sqlite3.Row] | None = None
    """Whether it is lost, its hour backwards, and the row of `message_sums` with it."""

    def add_messages(self, row: sqlite3.Row, lost_s: int) -> None:
        """Adds the messages of a row of `message_sums`; pending ones whose last failure is older are lost."""
        number = row["messages"]
        is_lost = row["state"] == LOST or (row["state"] == PENDING and row["last_s"] < lost_s)
        if is_lost:
            self.lost += number
        elif row["state"] == RECOVERED:
            self.recovered += number
        else:
            self.pending += number
        self.attempts += row["attempts"]
        self.first_s = min(self.first_s or row["first_s"], row["first_s"])
        self.last_s = max(self.last_s, row["last_s"])
        if row["code_grp"]:
            self.codes[row["code_grp"]] += number
        self.by_hour[row["hour"]] += number
        order = is_lost, -row["hour"]
        if self.sample is None or order > self.sample[:2]:
            self.sample = (*order, row)


def failure_sums(database: Rows, since_ns: int, until_ns: int, now_ns: int) -> FailureSums:
    """Returns the sums over the messages that began to fail in the hours of the window, and its requests."""
    since_h, until_h = since_ns // HOUR_NS, -(-until_ns // HOUR_NS)
    lost_s = now_ns // SECOND_NS - PENDING_SECONDS
    groups = {row["id"]: row for row in database.rows("SELECT * FROM failure_groups")}
    found: defaultdict[int, _Sums] = defaultdict(_Sums)
    for row in database.rows(_SUM_MESSAGES, since_h, until_h):
        found[row["grp"]].add_messages(row, lost_s)
    for row in database.rows(_SUM_REQUESTS, since_h, until_h):
        sums = found[row["grp"]]
        sums.requests += row["requests"]
        sums.requests_by_hour[row["hour"]] += row["requests"]
    for row in database.rows(_SUM_EXPIRED, lost_s, lost_s, since_h, until_h):
        found[row["grp"]].pending -= row["number"]
        found[row["grp"]].lost += row["number"]
    return FailureSums(
        [
            _group_sums(database, groups, number, sums, lost_s)
            for number, sums in found.items()
            if number in groups
        ],
        forgotten=failure_sizes(database).evicted,
    )


def _group_sums(
    database: Rows, groups: Mapping[int, sqlite3.Row], number: int, sums: _Sums, lost_s: int
) -> GroupSums:
    row, hours = groups[number], sums.requests_by_hour
    code = next((code for code, _ in sums.codes.most_common() if code in groups), number)
    if sums.by_hour:
        first_ns, last_ns = sums.first_s * SECOND_NS, sums.last_s * SECOND_NS
    else:  # the requests of the window are known by their hours
        first_ns = max(row["first_ns"], min(hours) * HOUR_NS)
        last_ns = min(row["last_ns"], (max(hours) + 1) * HOUR_NS - 1)
    sample = None
    if sums.sample and (found := _one_of(database, sums.sample[2])):
        sample = _message(found[0], {each: group_of(row) for each, row in groups.items()}, lost_s)
    said = said_by(group_of(row), group_of(groups[code]))
    return GroupSums(
        group=group_of(row),
        code=said.code,
        reason=said.reason,
        lost=sums.lost,
        pending=sums.pending,
        recovered=sums.recovered,
        attempts=sums.attempts,
        requests=sums.requests,
        first_ns=first_ns,
        last_ns=last_ns,
        seen_ns=row["seen_ns"],
        by_hour=dict(sorted((sums.by_hour or hours).items())),
        sample=sample,
        began_ns=min(first_ns, row["first_ns"]),
    )


def _one_of(database: Rows, row: sqlite3.Row) -> list[sqlite3.Row]:
    """Returns a message that a row of `message_sums` counts; none if all were forgotten.

    The one that the row names may be in another state or group by now.
    """
    of_row = row["grp"], row["code_grp"], row["state"], row["hour"]
    slot = row["hour"] // SLOT_HOURS
    return database.rows(f"{_ONE_MESSAGE} AND slot = ? AND key = ?", *of_row, row["slot"], row["key"]) or (
        database.rows(f"{_ONE_MESSAGE} AND slot BETWEEN ? AND ? LIMIT 1", *of_row, slot - 1, slot + 1)
    )


def _message(row: sqlite3.Row, groups: Mapping[int, FailureGroup], lost_s: int) -> FailedMessage:
    is_lost = row["state"] == PENDING and row["last_s"] < lost_s
    return facts_of(row).message(row["message_id"], LOST if is_lost else row["state"], groups)


def failed_messages(database: Rows, since_ns: int, until_ns: int, now_ns: int) -> Iterator[FailedMessage]:
    """Yields the messages that began to fail in the hours of the window, about in the order of time.

    It reads some at a time.
    """
    lost_s = now_ns // SECOND_NS - PENDING_SECONDS
    groups = {row["id"]: group_of(row) for row in database.rows("SELECT * FROM failure_groups")}
    window = since_ns // HOUR_NS * HOUR_SECONDS, -(-until_ns // HOUR_NS) * HOUR_SECONDS
    last = slot_of(window[0]) - 2, MAX_KEY
    while found := database.rows(_NEXT_MESSAGES, *last, *window, _MESSAGES_AT_ONCE):
        last = found[-1]["slot"], found[-1]["key"]
        for row in found:
            yield _message(row, groups, lost_s)


def attempts_until_success(database: Rows, since_ns: int, until_ns: int) -> dict[int, int]:
    """Returns the attempt that succeeded → messages that failed before, and began to fail in the window."""
    hours = since_ns // HOUR_NS, -(-until_ns // HOUR_NS)
    slots = hours[0] // SLOT_HOURS - 1, hours[1] // SLOT_HOURS + 1
    rows = database.rows(_UNTIL_SUCCESS, *slots, hours[0] * HOUR_SECONDS, hours[1] * HOUR_SECONDS)
    return {row["attempt"]: row["number"] for row in rows}


def pending_messages(database: Rows, now_ns: int) -> dict[tuple[str, str], int]:
    """Returns destination and reason class → messages that may still be retried."""
    found: Counter[tuple[str, str]] = Counter()
    for row in database.rows(_PENDING, now_ns // SECOND_NS - PENDING_SECONDS):
        found[row["destination"], row["class"]] += row["number"]
    return dict(found)


def failure_sizes(database: Rows) -> FailureSizes:
    """Returns how much is kept."""
    [row] = database.rows(_SIZES, MESSAGES, EVICTED)
    return FailureSizes(**dict(row))


_SUM_MESSAGES = "SELECT * FROM message_sums WHERE hour >= ? AND hour < ?"
_SUM_REQUESTS = """
SELECT grp, hour, sum(requests) AS requests FROM failure_counts
WHERE requests > 0 AND hour >= ? AND hour < ? GROUP BY grp, hour
"""
# The other rows of `message_sums` are pending or lost as a whole, also those of messages that were evicted.
_SUM_EXPIRED = """  -- pending when they were stored, and lost by now
SELECT m.grp, count(*) AS number FROM messages m JOIN message_sums s ON s.hour = m.first_s / 3600
    AND s.grp = m.grp AND s.code_grp = coalesce(m.code_grp, 0) AND s.state = 1
WHERE m.state = 1 AND m.last_s < ? AND s.last_s >= ? AND s.hour >= ? AND s.hour < ? GROUP BY m.grp
"""
_ONE_MESSAGE = """
SELECT * FROM messages WHERE grp = ? AND coalesce(code_grp, 0) = ? AND state = ? AND first_s / 3600 = ?
"""
_NEXT_MESSAGES = """
SELECT * FROM messages WHERE (slot, key) > (?, ?) AND grp IS NOT NULL AND first_s >= ? AND first_s < ?
ORDER BY slot, key LIMIT ?
"""
_UNTIL_SUCCESS = """
SELECT attempts + 1 AS attempt, count(*) AS number FROM messages
WHERE slot BETWEEN ? AND ? AND state = 3 AND first_s >= ? AND first_s < ? GROUP BY 1 ORDER BY 1
"""
_PENDING = """
SELECT g.destination, g.class, count(*) AS number FROM messages m JOIN failure_groups g ON g.id = m.grp
WHERE m.state = 1 AND m.last_s >= ? GROUP BY m.grp
"""


_SIZES = """
SELECT (SELECT count(*) FROM failure_groups) AS groups,
    (SELECT coalesce(max(CAST(value AS INTEGER)), 0) FROM facts WHERE name = ?) AS messages,
    (SELECT coalesce(max(CAST(value AS INTEGER)), 0) FROM facts WHERE name = ?) AS evicted
"""
