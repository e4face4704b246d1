"""The quarantine of the state folder: the book of records that are sent again.

They are written out as the entries that they are, one a line, and read as those of any kept file.
"""

import logging
import sqlite3
from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from faillog_otel.errors import LedgerBroken, NoRoom
from faillog_otel.events.entry import is_intact
from faillog_otel.ledger.counts import Kept, Stretch
from faillog_otel.ledger.ledger import Ledger

_log = logging.getLogger(__name__)

_AT_ONCE = 64


class _Replayed(Struct, frozen=True):
    """A kept record that was sent again: exported, or `kept` anew."""

    id: int
    kept: Kept | None
    is_shifted: bool
    """Whether it was exported with another time than its own."""


class QuarantineBook:
    """What is exported leaves the quarantine; what fails again stays, with what it learned."""

    position = 0
    holds_entries = True

    def __init__(self, ledger: Ledger, reference_ns: int, collections: Sequence[str] = ()) -> None:
        """Writes the entries out to `file`: of these collections, or of all. Raises LedgerBroken, NoRoom.

        An entry that the disk changed stays in the quarantine, with a warning.
        """
        self.reference_ns = reference_ns
        self._ledger = ledger
        self._left: deque[int] = deque()
        self._written = 0
        folder = ledger.folder.spool
        try:
            self.file = folder.temporary()
            last = 0
            while rows := ledger.database.rows(
                "SELECT id, collection, entry FROM kept WHERE id > ? ORDER BY id LIMIT ?", last, _AT_ONCE
            ):
                last = rows[-1]["id"]
                for row in rows:
                    if collections and row["collection"] not in collections:
                        continue
                    if not is_intact(row["entry"]):
                        _log.warning(
                            "entry %d of the quarantine is not what was kept: it is not sent; `audit` lists "
                            "all such entries",
                            row["id"],
                        )
                        continue
                    self._left.append(row["id"])
                    self.file.write(row["entry"] + b"\n")
            self.file.flush()
        except OSError as error:
            raise LedgerBroken(f"{folder.path}: {error.strerror}") from None

    def __len__(self) -> int:
        return len(self._left)

    def knows(self, _raw: bytes) -> bool:
        """Nothing: a person asks to send them."""
        return False

    def write_down(self, stretch: Stretch) -> bool:
        """What was not taken stays as it is. Raises LedgerBroken."""
        kept = {each.number: each for each in stretch.kept}
        replayed = []
        for number in range(self._written, self._written + stretch.counts.records):
            found, row = kept.get(number), self._left.popleft()
            if found is None or found.where == "quarantine":
                replayed.append(_Replayed(row, found, number in stretch.shifted))
        self._written += stretch.counts.records
        try:
            self._ledger.transact(lambda db: _record(db, replayed))
        except NoRoom as error:
            raise LedgerBroken(str(error)) from None
        return True


class ShownQuarantine(QuarantineBook):
    """The quarantine, only shown: every entry stays as it is."""

    def write_down(self, _stretch: Stretch) -> bool:
        """Records nothing."""
        return True


def _record(db: sqlite3.Connection, replayed: Sequence[_Replayed]) -> None:
    """The results of kept records that were sent again: exported and forgotten, or kept anew."""
    for each in replayed:
        [row] = db.execute("SELECT * FROM kept WHERE id = ?", (each.id,)).fetchall()
        change = {"rejected": 0, "quarantined": 0, "exported": 0, "time_shifted": 0}
        change["rejected" if row["reason"] == "rejected" else "quarantined"] -= 1
        if each.kept is None:
            change["exported"] += 1
            change["time_shifted"] += each.is_shifted
            db.execute("DELETE FROM kept WHERE id = ?", (each.id,))
        else:
            change["rejected" if each.kept.reason == "rejected" else "quarantined"] += 1
            db.execute(
                "UPDATE kept SET reason = ?, entry = ? WHERE id = ?",
                (each.kept.reason, each.kept.entry, each.id),
            )
        key = {**change, "id": row["object"], "collection": row["collection"], "hour": row["hour"]}
        if not db.execute(_CHANGE_OBJECT, key).rowcount and not db.execute(_CHANGE_PAST, key).rowcount:
            db.execute(_CHANGE_PAST, {**key, "hour": -1})


_CHANGE_OBJECT = """
UPDATE objects SET exported = exported + :exported, rejected = rejected + :rejected,
    quarantined = quarantined + :quarantined, time_shifted = time_shifted + :time_shifted
WHERE id = :id
"""
_CHANGE_PAST = """
UPDATE past SET exported = exported + :exported, rejected = rejected + :rejected,
    quarantined = quarantined + :quarantined, time_shifted = time_shifted + :time_shifted
WHERE collection = :collection AND hour = :hour
"""
