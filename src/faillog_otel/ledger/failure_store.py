"""Failures in the SQLite ledger: the statements of T3 and T4 about groups, counts and messages.

T3 stores the notes about messages as they come; they are merged into `messages` when enough have come and
when an object is done: a batch touches a few pages of the database, not one for each message. Messages are
stored by the time of their failure for the same reason.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from faillog_otel.clock import SECOND_NS
from faillog_otel.events.failure import (
    KEPT_SECONDS,
    MAX_GROUPS,
    MAX_MESSAGES,
    PENDING_SECONDS,
    FailureGroup,
    KnownFailures,
    group_number,
)
from faillog_otel.events.failure_counts import (
    DISCARDED,
    FAILED,
    LOST,
    NO_RANK,
    PENDING,
    RECOVERED,
    REQUEST,
    UNKNOWN,
    BatchFailures,
    MessageFacts,
    Note,
    Rank,
    other_group,
    rank_of,
)
from faillog_otel.ledger.failure_queries import (
    EVICTED,
    FORGOTTEN_SLOT,
    MESSAGES,
    SLOT_HOURS,
    facts_of,
    group_of,
    near,
    row_of,
    slot_of,
    unanswered,
)
from faillog_otel.ledger.failures import Changes

MAX_NOTES = 16 * 1024
"""Notes that are not merged yet."""
_HOUR_S, _DAY_S = 3600, 24 * 3600

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Note]).decode


class FailureStore:
    """Writes failures within the ledger's transactions.

    It remembers the groups of the database: after an undone transaction it must be made anew.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._load(db)

    def _load(self, db: sqlite3.Connection) -> None:
        self._groups: dict[int, FailureGroup] = {}
        self._ranks: dict[int, Rank] = {}
        self._by_day: Counter[tuple[str, int]] = Counter()
        """Destination and day → groups that began on it."""
        self._failures = KnownFailures()
        for row in db.execute("SELECT * FROM failure_groups"):
            self._remember(group_of(row), row["day"])
        [[self._unmerged]] = db.execute("SELECT coalesce(sum(number), 0) FROM message_notes")
        kept = db.execute("SELECT value FROM facts WHERE name = ?", (MESSAGES,)).fetchone()
        self._messages = int(kept["value"]) if kept else 0

    def _remember(self, group: FailureGroup, day: int) -> None:
        number = group_number(group.id)
        self._groups[number], self._ranks[number] = group, rank_of(group)
        self._by_day[group.destination, day] += 1
        self._failures.add(group)

    # -- T3 --------------------------------------------------------------------------------------------

    def add(self, db: sqlite3.Connection, number: int, found: BatchFailures, now_ns: int) -> Changes:
        """Stores the notes about a batch of the object with this number."""
        changes, notes = Changes(), found.notes
        if not notes:
            return changes
        times, others = _times(notes), {}
        for group, facts in found.groups.items():
            if group in times and group not in self._groups:
                others[group] = self._add_group(db, facts, times[group], now_ns, changes)
        if others:
            notes = [(each[0], others.get(each[1], each[1]), *each[2:]) for each in notes]
            times = _times(notes)
        db.executemany(
            "UPDATE failure_groups SET first_ns = min(first_ns, ?), last_ns = max(last_ns, ?) WHERE id = ?",
            [(first * SECOND_NS, last * SECOND_NS, group) for group, (first, last) in times.items()],
        )
        counts = _counts(notes)
        db.executemany(_COUNT, [(number, *key, *sums) for key, sums in counts.items()])
        db.execute(
            "UPDATE objects SET failures = failures + ? WHERE id = ?",
            (sum(sums[0] for sums in counts.values()), number),
        )
        for (group, _), sums in counts.items():
            changes.add_attempts(self._groups[group], sums[1])
        db.execute("INSERT INTO message_notes (number, notes) VALUES (?, ?)", (len(notes), _encode(notes)))
        self._unmerged += len(notes)
        if self._unmerged >= MAX_NOTES:
            self.merge(db, changes)
        return changes

    def _add_group(
        self,
        db: sqlite3.Connection,
        facts: FailureGroup,
        times: tuple[int, int],
        now_ns: int,
        changes: Changes,
    ) -> int:
        """Stores a new group; returns its number, or beyond the maximum that of `other`."""
        day = times[0] // _DAY_S
        if self._by_day[facts.destination, day] >= MAX_GROUPS:
            facts = other_group(facts.destination)
            if group_number(facts.id) in self._groups:
                return group_number(facts.id)
        db.execute(
            "INSERT INTO failure_groups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(group_number(facts.id), facts.destination, facts.subscription, facts.code, facts.status),
                *(facts.reason, facts.reason_class, facts.retryable, day),
                *(times[0] * SECOND_NS, times[1] * SECOND_NS, now_ns),
            ),
        )
        if not self._failures.explain(facts):
            changes.new_groups.append((facts, times[0] * SECOND_NS))
        self._remember(facts, day)
        return group_number(facts.id)

    # -- messages --------------------------------------------------------------------------------------

    def merge(self, db: sqlite3.Connection, changes: Changes) -> None:
        """Merges all notes into `messages`. A message becomes lost here only if it was discarded."""
        if not self._unmerged:
            return
        by_key, requests = _unmerged(db)
        of_key = {key: _Merged(key, facts_of(row), row) for key, row in near(db, by_key).items()}
        no_answer: list[tuple[int, _Merged, int]] = []
        for key, notes in by_key.items():
            if (each := of_key.get(key)) is None:
                each = of_key[key] = _Merged(key, MessageFacts(message_id=notes[0][5]))
            add = each.facts.add
            for _, group, what, attempt, second, _, exchange in notes:
                add(group, what, attempt, second, self._ranks)
                if exchange and not self._ranks.get(group, NO_RANK).has_status:
                    no_answer.append((exchange, each, second))
        merged = {(each.slot, key): each for key, each in of_key.items()}
        self._answer(db, merged, no_answer, requests)
        self._put(db, merged.values(), changes)
        db.execute("DELETE FROM message_notes")
        self._unmerged = 0
        self._count_messages(db, sum(each.row is None for each in merged.values()))

    def _answer(
        self,
        db: sqlite3.Connection,
        merged: dict[tuple[int, int], "_Merged"],
        no_answer: Iterable[tuple[int, "_Merged", int]],
        requests: Mapping[int, int],
    ) -> None:
        """Gives attempts the groups of exchanges that are read after them; stores the attempts that wait.

        Adds stored messages to `merged`. `no_answer` are the exchange, message and second of new attempts.
        """
        answered = unanswered(db, requests)
        for row in answered:
            of_row = row["slot"], row["key"]
            if (each := merged.get(of_row)) is None:
                each = merged[of_row] = _Merged(row["key"], facts_of(row), row)
            each.facts.learn(requests[row["exchange"]], FAILED, row["second"], self._ranks)
        exchanges = {(row["exchange"],) for row in answered}
        db.executemany("DELETE FROM unanswered_attempts WHERE exchange = ?", exchanges)
        waiting = []
        for exchange, each, second in no_answer:
            if group := requests.get(exchange):
                each.facts.learn(group, FAILED, second, self._ranks)
            else:
                waiting.append((exchange, each.slot, each.key, second))
        db.executemany("INSERT OR IGNORE INTO unanswered_attempts VALUES (?, ?, ?, ?)", waiting)

    def _put(self, db: sqlite3.Connection, merged: Iterable["_Merged"], changes: Changes) -> None:
        """Stores messages and their sums."""
        sums, rows = _SumChanges(), []
        for each in merged:
            key, slot, facts, row = each.key, each.slot, each.facts, each.row
            before = UNKNOWN if row is None else row["state"]
            state = facts.state(0)
            if state == PENDING and before == LOST:
                state = LOST  # by age; only a success changes that
            rows.append(row_of(slot, key, facts, state))
            if row is not None and before:
                sums.remove(row)
            if state:
                sums.add(slot, key, facts, state)
            if state != before and state in (LOST, RECOVERED):
                changes.add_messages(self._groups[facts.group], state)
        db.executemany(_PUT_MESSAGE, rows)
        sums.store(db)

    def _count_messages(self, db: sqlite3.Connection, more: int) -> None:
        """Counts the messages that are kept; forgets the oldest if they are too many."""
        self._messages += more
        while self._messages > MAX_MESSAGES:
            [[oldest]] = db.execute("SELECT min(slot) FROM messages")
            gone = db.execute("DELETE FROM messages WHERE slot = ?", (oldest,)).rowcount
            db.execute("DELETE FROM unanswered_attempts WHERE slot = ?", (oldest,))
            self._messages -= gone
            db.execute(_ADD_TO_FACT, (EVICTED, str(gone)))
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (FORGOTTEN_SLOT, str(oldest)))
        db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (MESSAGES, str(self._messages)))

    def expire(self, db: sqlite3.Connection, now_ns: int) -> Changes:
        """Stores which messages are lost because their last attempt failed too long ago."""
        changes = Changes()
        self.merge(db, changes)
        sums = _SumChanges()
        for row in db.execute(_EXPIRED, (now_ns // SECOND_NS - PENDING_SECONDS,)).fetchall():
            db.execute("UPDATE messages SET state = 2 WHERE slot = ? AND key = ?", (row["slot"], row["key"]))
            sums.remove(row)
            sums.add(row["slot"], row["key"], facts_of(row), LOST)
            changes.add_messages(self._groups[row["grp"]], LOST)
        sums.store(db)
        return changes

    def prune(self, db: sqlite3.Connection, now_ns: int) -> None:
        """Forgets what is older than `KEPT_SECONDS`, except the counts of objects that are still there."""
        oldest = slot_of(now_ns // SECOND_NS - KEPT_SECONDS)
        gone = db.execute("DELETE FROM messages WHERE slot < ?", (oldest,)).rowcount
        if gone:
            db.execute("DELETE FROM unanswered_attempts WHERE slot < ?", (oldest,))
            self._count_messages(db, -gone)
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (FORGOTTEN_SLOT, str(oldest - 1)))
        # A slot is near the first failure of its messages: the sums of one more are kept.
        oldest_hour = (oldest - 1) * SLOT_HOURS
        db.execute("DELETE FROM message_sums WHERE hour < ?", (oldest_hour,))
        db.execute(
            "DELETE FROM failure_counts WHERE hour < ? AND object NOT IN (SELECT id FROM objects)",
            (oldest_hour,),
        )
        if db.execute(_FORGET_GROUPS, (oldest_hour * _HOUR_S * SECOND_NS,)).rowcount:
            self._load(db)


class _Merged(Struct):
    """A message, and its row if it is stored."""

    key: int
    facts: MessageFacts
    row: sqlite3.Row | None = None

    @property
    def slot(self) -> int:
        """That of its row, or of the first failure of a new message."""
        return slot_of(self.facts.first_s or self.facts.success_s) if self.row is None else self.row["slot"]


class _SumChanges:
    """What changes in `message_sums`."""

    def __init__(self) -> None:
        self._changes: dict[tuple[int, int, int, int], list[int]] = {}
        """Key of a row → messages, attempts, first and last second, slot and key of one of them."""

    def add(self, slot: int, key: int, facts: MessageFacts, state: int) -> None:
        """Adds a message in this state."""
        of_row = facts.first_s // _HOUR_S, facts.group, facts.code_group, state
        if (change := self._changes.get(of_row)) is None:
            self._changes[of_row] = [1, facts.attempts, facts.first_s, facts.last_s, slot, key]
            return
        change[0] += 1
        change[1] += facts.attempts
        change[2] = min(change[2], facts.first_s)
        change[3] = max(change[3], facts.last_s)

    def remove(self, row: sqlite3.Row) -> None:
        """Removes a message as it is stored."""
        of_row = row["first_s"] // _HOUR_S, row["grp"], row["code_grp"] or 0, row["state"]
        new = [0, 0, row["first_s"], row["last_s"], row["slot"], row["key"]]
        change = self._changes.setdefault(of_row, new)
        change[0] -= 1
        change[1] -= row["attempts"]

    def store(self, db: sqlite3.Connection) -> None:
        """Stores the changes. A row that was forgotten with its messages stays away."""
        more = [(*of_row, *change) for of_row, change in self._changes.items() if change[0] > 0]
        db.executemany(_ADD_TO_SUMS, more)
        less = [(*change[:4], *of_row) for of_row, change in self._changes.items() if change[0] <= 0]
        db.executemany(_TAKE_FROM_SUMS, less)
        db.executemany(_FORGET_EMPTY_SUMS, [row[4:] for row in less])


def forget_counts(db: sqlite3.Connection, collection: str, hour: int) -> None:
    """Removes the counts of an hour whose objects are read and counted again."""
    key = (collection, hour)
    db.execute(_FORGET_COUNTS, key)
    db.execute("UPDATE objects SET failures = 0 WHERE collection = ? AND hour = ? AND state = 'done'", key)


_COUNT = """
INSERT INTO failure_counts VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    records = records + excluded.records, attempts = attempts + excluded.attempts,
    requests = requests + excluded.requests, discarded = discarded + excluded.discarded
"""
_FORGET_COUNTS = """
DELETE FROM failure_counts WHERE object IN
    (SELECT id FROM objects WHERE collection = ? AND hour = ? AND state = 'done')
"""
_PUT_MESSAGE = "INSERT OR REPLACE INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_TO_SUMS = """
INSERT INTO message_sums VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    messages = messages + excluded.messages, attempts = attempts + excluded.attempts,
    first_s = min(first_s, excluded.first_s), last_s = max(last_s, excluded.last_s),
    slot = excluded.slot, key = excluded.key
"""
_TAKE_FROM_SUMS = """
UPDATE message_sums SET messages = max(messages + ?, 0), attempts = attempts + ?,
    first_s = min(first_s, ?), last_s = max(last_s, ?)
WHERE hour = ? AND grp = ? AND code_grp = ? AND state = ?
"""
_FORGET_EMPTY_SUMS = """
DELETE FROM message_sums WHERE hour = ? AND grp = ? AND code_grp = ? AND state = ? AND messages = 0
"""
HAS_EXPIRED = """
SELECT 1 WHERE EXISTS (SELECT 1 FROM messages WHERE state = 1 AND last_s < ?)
    OR EXISTS (SELECT 1 FROM message_notes)
"""
_EXPIRED = "SELECT * FROM messages WHERE state = 1 AND last_s < ?"
_ADD_TO_FACT = """
INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE
SET value = CAST(value AS INTEGER) + CAST(excluded.value AS INTEGER)
"""
_FORGET_GROUPS = """
DELETE FROM failure_groups WHERE last_ns < ? AND id NOT IN (SELECT grp FROM failure_counts)
    AND id NOT IN (SELECT grp FROM message_sums) AND id NOT IN (SELECT code_grp FROM message_sums)
"""

# -- notes -----------------------------------------------------------------------------------------------


def _times(notes: Iterable[Note]) -> dict[int, tuple[int, int]]:
    """Returns group → its first and last second."""
    times: dict[int, tuple[int, int]] = {}
    for _, group, _, _, second, _, _ in notes:
        if group:
            first, last = times.get(group, (second, second))
            times[group] = min(first, second), max(last, second)
    return times


def _counts(notes: Iterable[Note]) -> dict[tuple[int, int], list[int]]:
    """Returns group and hour → records, attempts, requests, discarded."""
    counts: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for (group, hour, what), number in Counter(
        [(group, second // _HOUR_S, what) for _, group, what, _, second, _, _ in notes if group]
    ).items():
        sums = counts[group, hour]
        sums[0] += number
        if (column := _COLUMNS.get(what)) is not None:
            sums[column] += number
    return counts


_COLUMNS = {FAILED: 1, REQUEST: 2, DISCARDED: 3}


def _unmerged(db: sqlite3.Connection) -> tuple[dict[int, list[Note]], dict[int, int]]:
    """Returns the notes that are not merged: those about messages by key, and exchange → its group."""
    by_key: defaultdict[int, list[Note]] = defaultdict(list)
    requests: dict[int, int] = {}
    for row in db.execute("SELECT notes FROM message_notes ORDER BY id"):
        for note in _decode(row["notes"]):
            if note[2] == REQUEST:
                requests[note[0]] = note[1]
            else:
                by_key[note[0]].append(note)
    return by_key, requests
