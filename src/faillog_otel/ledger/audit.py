"""The audit: checks that no record is lost, by counting everything again in plain SQL.

`records = exported + rejected + quarantined + pending + duplicate` and, for JSON Lines, `lines = records +
blank`: for every object, every hour and overall (specification 3, "The law"). The audit also checks the
files. It reads a copy of one moment, because `run` may use the ledger. It repairs nothing, and shares no code
with the modules that write.
"""

import hashlib
import sqlite3
import stat
from array import array
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import hour_text
from faillog_otel.events.kept_record import is_intact
from faillog_otel.files import PART
from faillog_otel.ledger.database import Database
from faillog_otel.ledger.spool import INDEX, OBJECT_NAME
from faillog_otel.ledger.state_dir import StateFolder

_PIECE = 1 << 19
_OLDER_HOURS = -1
_OUTCOMES = ("exported", "rejected", "quarantined", "pending", "duplicate")


class Problem(Struct, frozen=True):
    """A check that failed."""

    check: str
    """`object`, `hour`, `overall`, `kept`, `failures`, `counts`, `spool`, `indexes`, `digests` or `sqlite`:
    what it checks."""
    where: str
    what: str


class Sums(Struct, frozen=True):
    """Sums over all objects, pruned ones included."""

    objects: int
    lines: int
    blank: int
    records: int
    exported: int
    rejected: int
    quarantined: int
    pending: int
    duplicate: int
    kept: int
    """Entries in the quarantine: as many as records are quarantined or rejected."""


class Audit(Struct, frozen=True):
    """The result of an audit. `sums` is null if the ledger is too damaged to count."""

    holds: bool
    problems: list[Problem]
    sums: Sums | None
    spooled_files: int
    index_files: int
    digests_files: int


def audit(folder: StateFolder) -> Audit:
    """Checks the ledger and its files. Raises LedgerBroken if the ledger cannot be read at all.

    While another process uses the folder, files appear and disappear: only problems that a second check finds
    again count.
    """
    found = _check(folder)
    if found.problems and folder.holder() is not None:
        first = {(each.check, each.where) for each in found.problems}
        found = _check(folder)
        problems = [each for each in found.problems if (each.check, each.where) in first]
        found = replace(found, holds=not problems, problems=problems)
    return found


def _check(folder: StateFolder) -> Audit:
    spool, digests = _sizes(folder.spool_path), _sizes(folder.digests_path)
    with closing(Database(folder.ledger, read_only=True)) as database:
        copy = database.copied()
    spool_after, digests_after = _sizes(folder.spool_path), _sizes(folder.digests_path)
    problems: list[Problem] = []
    sums = None
    try:
        problems += (Problem("sqlite", folder.ledger.name, what) for what in _integrity(copy))
        copy.execute(_COUNTED)
        problems += _counts(copy)
        problems += _kept(copy)
        problems += _failures(copy)
        problems += _event_counts(copy)
        problems += _spool(copy, folder.spool_path, spool, spool_after)
        problems += _indexes(copy, folder.spool_path, spool, spool_after)
        problems += _digests(copy, folder.digests_path, digests, digests_after)
        [row] = copy.execute(_SUMS).fetchall()
        sums = Sums(**dict(row))
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter: a message quotes damaged bytes
        problems.append(Problem("sqlite", folder.ledger.name, str(error)))
    finally:
        copy.close()
    indexes = sum(name.removesuffix(PART).endswith(INDEX) for name in spool_after)
    return Audit(not problems, problems, sums, len(spool_after) - indexes, indexes, len(digests_after))


def _integrity(copy: sqlite3.Connection) -> list[str]:
    """Returns the findings of SQLite's own check."""
    return [row[0] for row in copy.execute("PRAGMA integrity_check") if row[0] != "ok"]


def _counts(copy: sqlite3.Connection) -> Iterator[Problem]:
    for row in copy.execute(_BROKEN_OBJECTS):
        yield Problem("object", f"{_where(row)}, object {row['id']}", f"{row['state']}: {_counts_text(row)}")
    for row in copy.execute(_BROKEN_HOURS):
        yield Problem("hour", _where(row), _counts_text(row))
    for row in copy.execute(_SUMS):
        if row["records"] != sum(row[outcome] for outcome in _OUTCOMES):
            yield Problem("overall", "all objects", _counts_text(row))


def _counts_text(row: sqlite3.Row) -> str:
    counts = " + ".join(f"{row[outcome]} {outcome}" for outcome in _OUTCOMES)
    return f"{row['lines']} lines, {row['blank']} blank, {row['records']} records; {counts}"


def _kept(copy: sqlite3.Connection) -> Iterator[Problem]:
    for row in copy.execute(_BROKEN_KEPT):
        what = f"{row['counted']} records are quarantined or rejected, but {row['held']} entries are kept"
        yield Problem("kept", _where(row), what)
    for row in copy.execute("SELECT id, collection, hour, entry FROM kept"):
        if not is_intact(row["entry"]):
            yield Problem("kept", f"{_where(row)}, entry {row['id']}", "was changed after it was stored")


def _failures(copy: sqlite3.Connection) -> Iterator[Problem]:
    """Checks that the sums over groups and hours equal the records that were counted."""
    for row in copy.execute(_BROKEN_FAILURES):
        what = f"{row['failures']} failing records, but its groups have {row['counted']}"
        yield Problem("failures", f"{_where(row)}, object {row['id']}", what)
    for row in copy.execute(_IMPOSSIBLE_COUNTS):
        what = f"{row['records']} records cannot be {row['parts']} attempts, requests and discards"
        yield Problem("failures", f"object {row['object']}, {_hour(row['hour'])}", what)
    for row in copy.execute(_UNKNOWN_GROUPS):
        group = row["grp"].to_bytes(8, "big", signed=True).hex()
        yield Problem("failures", f"group {group}", f"is not known, but {row['users']} refer to it")
    for row in copy.execute(_BROKEN_MESSAGES):
        what = f"is in state {row['state']}, which its attempts contradict"
        yield Problem("failures", f"message {row['message_id']}", what)
    for row in copy.execute(_BROKEN_MESSAGE_SUMS):
        group = row["grp"].to_bytes(8, "big", signed=True).hex()
        what = (
            f"{row['messages']} messages in state {row['state']} are summed up, but {row['counted']} are kept"
        )
        yield Problem("failures", f"group {group}, {_hour(row['hour'])}", what)
    for row in copy.execute(_BROKEN_NUMBER):
        yield Problem("failures", "messages", f"{row['counted']} are counted, but {row['kept']} are kept")


def _event_counts(copy: sqlite3.Connection) -> Iterator[Problem]:
    """Checks that Segment's own counts are possible."""
    for row in copy.execute(_IMPOSSIBLE_EVENTS):
        where = f"{row['source']}, {row['destination'] or 'no destination'}, {_hour(row['hour'])}"
        yield Problem("counts", where, row["what"])


def _spool(
    copy: sqlite3.Connection, folder: Path, before: dict[str, int], after: dict[str, int]
) -> Iterator[Problem]:
    """Checks the spool. A file counts if it exists before or after the ledger is copied."""
    known = {str(row["id"]): row for row in copy.execute("SELECT * FROM objects")}
    for name, row in known.items():
        if row["state"] != "spooled":
            continue
        where, found = f"{_where(row)}, object {name}", (before.get(name), after.get(name))
        if row["length"] not in found:
            size = next((f"has {each} bytes" for each in found if each is not None), "is missing")
            yield Problem("spool", where, f"its file {size}; expected {row['length']} bytes")
        elif row["sha256"] is not None and _sha256(folder / name) not in (None, row["sha256"]):
            yield Problem("spool", where, "its file was changed after the download")
    for name in before.keys() & after.keys():
        number = name.removesuffix(PART)
        if OBJECT_NAME.fullmatch(number) and number not in known:
            yield Problem("spool", f"spool/{name}", "no object has this id")


def _indexes(
    copy: sqlite3.Connection, folder: Path, before: dict[str, int], after: dict[str, int]
) -> Iterator[Problem]:
    """Checks the exchange indexes, whose files stay in the spool when their objects are done."""
    for row in copy.execute("SELECT * FROM exchange_indexes"):
        name = f"{row['object']}{INDEX}"
        where = f"spool/{name}"
        if name not in before and name not in after:
            yield Problem("indexes", where, "is missing")
        elif _sha256(folder / name) not in (None, row["sha256"]):
            yield Problem("indexes", where, "was changed after it was written")


def _sha256(path: Path) -> str | None:
    """Returns a file's SHA-256 in hexadecimal; None if the file was just removed."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _digests(
    copy: sqlite3.Connection, folder: Path, before: dict[str, int], after: dict[str, int]
) -> Iterator[Problem]:
    """Checks that the digests of all committed records exist, and no others, in order.

    Digests are saved just before their object is done. So the copy counts all digests that were saved before
    it was made, and the digests of its done objects had been saved.
    """
    for row in copy.execute(_DIGESTS):
        collection = hashlib.sha256(row["collection"].encode()).hexdigest()[:16]
        name = f"{collection}-{_hour(row['hour']).replace(':', '')}"
        if (there := after.get(name, 0) // 8) < row["least"]:
            yield Problem(
                "digests", f"digests/{name}", f"{there} digests for {row['least']} committed records"
            )
        if (there := before.get(name, 0) // 8) > row["most"]:
            yield Problem(
                "digests", f"digests/{name}", f"{there} digests for at most {row['most']} committed records"
            )
    for name in before.keys() & after.keys():
        if not name.endswith(PART) and (problem := _form_problem(folder / name)):
            yield Problem("digests", f"digests/{name}", problem)


def _form_problem(path: Path) -> str:
    """Returns what is wrong with the form of a file of digests; empty if nothing is."""
    last = -1
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                if len(piece) % 8:
                    return "its last digest is incomplete"
                digests = array("Q", piece)
                if last >= digests[0] or any(a >= b for a, b in pairwise(digests)):
                    return "its digests are not in order"
                last = digests[-1]
    except FileNotFoundError:  # its hour has just been pruned
        return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def _sizes(folder: Path) -> dict[str, int]:
    """Returns name → bytes of the regular files with one name; other entries are not ours."""
    sizes = {}
    for path in folder.glob("*"):
        try:
            found = path.lstat()
        except OSError:  # it has just been removed
            continue
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            sizes[path.name] = found.st_size
    return sizes


def _where(row: sqlite3.Row) -> str:
    return f"{row['collection']}, {_hour(row['hour'])}"


def _hour(hour: int) -> str:
    try:
        return "older hours" if hour == _OLDER_HOURS else hour_text(hour)
    except OverflowError:  # damage: not an hour
        return str(hour)


_BROKEN_OBJECTS = """
SELECT *, records - position AS pending FROM objects
WHERE position != exported + rejected + quarantined + duplicate
    OR min(exported, rejected, quarantined, duplicate, records - position, lines, blank) < 0
    OR NOT (lines = records + blank OR (lines = 0 AND blank = 0))
    OR (state != 'spooled' AND position != records)
    OR (state IN ('listed', 'missing') AND records != 0)
"""
# Only in the copy: objects, and the sums of pruned ones.
_COUNTED = """
CREATE TEMP VIEW counted AS
SELECT collection, hour, 1 AS objects, lines, blank, records, exported, rejected, quarantined,
    records - position AS pending, duplicate FROM objects
UNION ALL SELECT collection, hour, objects, lines, blank, records, exported, rejected, quarantined,
    0, duplicate FROM past
"""
_BROKEN_HOURS = """
SELECT * FROM (SELECT collection, hour, sum(lines) AS lines, sum(blank) AS blank, sum(records) AS records,
    sum(exported) AS exported, sum(rejected) AS rejected, sum(quarantined) AS quarantined,
    sum(pending) AS pending, sum(duplicate) AS duplicate FROM counted GROUP BY collection, hour)
WHERE records != exported + rejected + quarantined + pending + duplicate
    OR min(exported, rejected, quarantined, pending, duplicate, blank) < 0
    OR NOT lines - blank BETWEEN 0 AND records
"""
_SUMS = """
SELECT coalesce(sum(objects), 0) AS objects, coalesce(sum(lines), 0) AS lines,
    coalesce(sum(blank), 0) AS blank, coalesce(sum(records), 0) AS records,
    coalesce(sum(exported), 0) AS exported, coalesce(sum(rejected), 0) AS rejected,
    coalesce(sum(quarantined), 0) AS quarantined, coalesce(sum(pending), 0) AS pending,
    coalesce(sum(duplicate), 0) AS duplicate, (SELECT count(*) FROM kept) AS kept FROM counted
"""

# Of hours that were pruned long ago only the sums are left; their kept entries still have their hour.
_BROKEN_KEPT = """
SELECT * FROM (
    SELECT collection, hour, sum(counted) AS counted, sum(held) AS held
    FROM (SELECT collection, hour, quarantined + rejected AS counted, 0 AS held FROM counted
        UNION ALL SELECT k.collection, coalesce(h.hour, -1), 0, 1
        FROM kept k LEFT JOIN hours h ON h.collection = k.collection AND h.hour = k.hour)
    GROUP BY collection, hour)
WHERE counted != held
"""

_BROKEN_FAILURES = """
SELECT o.*, coalesce(c.counted, 0) AS counted FROM objects o
LEFT JOIN (SELECT object, sum(records) AS counted FROM failure_counts GROUP BY object) c ON c.object = o.id
WHERE o.failures != coalesce(c.counted, 0)
"""
_IMPOSSIBLE_COUNTS = """
SELECT *, attempts + requests + discarded AS parts FROM failure_counts
WHERE attempts + requests + discarded > records LIMIT 100
"""
_IMPOSSIBLE_EVENTS = """
SELECT * FROM (SELECT e.*, CASE
    WHEN stage NOT IN ('received', 'failed_on_ingest', 'filtered_at_source', 'filtered', 'failed',
        'delivered') THEN format('has the unknown stage %Q', stage)
    WHEN (destination = '') != (stage IN ('received', 'failed_on_ingest', 'filtered_at_source'))
        THEN format('has the stage %Q, which is not counted there', stage)
    WHEN retried > events THEN format('has %d events, of which %d were retried', events, retried)
    WHEN c.read_ns IS NULL THEN 'is counted, but not noted as read' END AS what
    FROM event_counts e LEFT JOIN counted_hours c USING (hour, source, destination))
WHERE what IS NOT NULL LIMIT 100
"""
_UNKNOWN_GROUPS = """
SELECT grp, count(*) || ' ' || kind AS users FROM (SELECT grp, 'counts' AS kind FROM failure_counts
    UNION ALL SELECT grp, 'messages' FROM messages WHERE grp IS NOT NULL
    UNION ALL SELECT code_grp, 'messages' FROM messages WHERE code_grp IS NOT NULL
    UNION ALL SELECT grp, 'sums' FROM message_sums)
WHERE grp NOT IN (SELECT id FROM failure_groups) GROUP BY grp, kind
"""
_BROKEN_MESSAGES = """
SELECT * FROM messages WHERE (state = 0) != (grp IS NULL)
    OR (state = 3) != (grp IS NOT NULL AND success_s > 0 AND success_s >= last_s)
    OR (discarded AND state NOT IN (2, 3)) OR (grp IS NOT NULL AND NOT first_s <= last_s)
LIMIT 100
"""
_BROKEN_NUMBER = """
SELECT counted, kept FROM (SELECT (SELECT count(*) FROM messages) AS kept,
    coalesce((SELECT CAST(value AS INTEGER) FROM facts WHERE name = 'messages'), 0) AS counted)
WHERE counted != kept
"""
# Messages are forgotten by slots of six hours; a message is in the slot of its first failure or the next one.
_BROKEN_MESSAGE_SUMS = """
SELECT hour, grp, state, sum(messages) AS messages, sum(counted) AS counted FROM (
    SELECT hour, grp, code_grp, state, messages, 0 AS counted, attempts, 0 AS counted_attempts
    FROM message_sums
    UNION ALL SELECT first_s / 3600, grp, coalesce(code_grp, 0), state, 0, count(*), 0, sum(attempts)
    FROM messages WHERE grp IS NOT NULL GROUP BY 1, 2, 3, 4)
WHERE hour >= coalesce((SELECT (CAST(value AS INTEGER) + 2) * 6 FROM facts
    WHERE name = 'messages forgotten to'), 0)
GROUP BY hour, grp, code_grp, state
HAVING sum(messages) != sum(counted) OR sum(attempts) != sum(counted_attempts) LIMIT 100
"""

# A record of which only the start is known has no digest. An object that was lost from the spool has none at
# all; it has no length, like objects that will be read again.
_DIGESTS = """
SELECT collection, hour,
    sum(CASE WHEN state = 'done' AND length IS NOT NULL
        THEN exported + rejected + quarantined - coalesce(nameless, 0) ELSE 0 END) AS least,
    sum(exported + rejected + quarantined) AS most
FROM objects LEFT JOIN (SELECT object, count(*) AS nameless FROM kept
    WHERE instr(entry, CAST('"replayable":false' AS BLOB)) OR instr(entry, CAST('"raw":""' AS BLOB))
    GROUP BY object) ON object = objects.id
GROUP BY collection, hour
"""
