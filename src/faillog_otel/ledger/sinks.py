"""The results of one spooled object: what the ledger records of its records, and which are duplicates.

A record whose bytes were in its collection-hour before is a duplicate. After a record that was not taken
nothing more is recorded: the next try begins with that record.
"""

import hashlib
import logging
import re
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from faillog_otel.clock import hour_text
from faillog_otel.errors import LedgerBroken, NoRoom
from faillog_otel.events.kept_record import is_intact
from faillog_otel.files import PART, TEMPORARY, PrivateFolder, StrangeEntry, is_disk_full
from faillog_otel.ledger.ledger import Ledger, Spooled
from faillog_otel.ledger.results import BatchResult, Kept
from faillog_otel.ledger.spool import Digests, digest_of

# -- objects -------------------------------------------------------------------------------------------------


_log = logging.getLogger(__name__)

_OUR_NAMES = re.compile(
    rf"[0-9a-f]{{16}}-\d{{4}}-\d\d-\d\dT\d{{6}}Z({re.escape(PART)})?|{TEMPORARY}[0-9a-f]+", re.ASCII
)


class ObjectBook:
    """One object's book. Raises LedgerBroken where the digests of its hour cannot be read."""

    holds_entries = False

    def __init__(
        self,
        ledger: Ledger,
        spooled: Spooled,
        *,
        now_ns: Callable[[], int],
        wait_for_room: Callable[[NoRoom], bool],
        has_room: Callable[[], object],
    ) -> None:
        """`wait_for_room` waits a little while there is no room; True says to give up.

        `has_room` is called when there was room.
        """
        self.reference_ns = spooled.spooled_ns
        self.position = spooled.position
        self.is_over = False
        """Whether nothing more is written down: the collector does not take records, or there is no room."""
        self._ledger = ledger
        self._spooled = spooled
        self._now_ns = now_ns
        self._wait_for_room = wait_for_room
        self._has_room = has_room
        self._folder = ledger.folder.digests
        try:
            self._digests = self._opened(digests_name(spooled.collection, spooled.hour))
        except (OSError, ValueError) as error:
            raise LedgerBroken(f"{self._folder.path}: {error}") from None

    def _opened(self, name: str) -> Digests:
        """The digests of the hour, or none if they cannot be trusted. Raises OSError, ValueError."""
        try:
            digests = Digests(self._folder, name)
        except StrangeEntry as error:
            _log.warning("%s; until then records of this hour may be sent twice", error)
            return Digests(self._folder, None)
        if digests.saved <= self._ledger.recorded(self._spooled.collection, self._spooled.hour):
            return digests
        digests.close()
        self._folder.remove(name)
        _log.error(
            "%s: knows more records than the ledger, which the disk set back; all records of this hour that "
            "come again are sent again",
            self._folder.path / name,
        )
        return Digests(self._folder, name)

    def check_and_add(self, raw: bytes) -> bool:
        """Whether these bytes were in this collection-hour before; from now on they are."""
        try:
            return bool(raw) and not self._digests.add(digest_of(raw))
        except OSError as error:
            raise LedgerBroken(f"{self._folder.path}: {error.strerror}") from None

    def commit(self, stretch: BatchResult) -> bool:
        """T3, where all of the stretch was taken or kept. Waits for room. Raises LedgerBroken."""
        self.is_over = self.is_over or stretch.counts.pending > 0
        while not self.is_over:
            try:
                self._ledger.advance(self._spooled, self.position, stretch, self._now_ns())
            except NoRoom as error:
                self.is_over = self._wait_for_room(error)
            else:
                self._has_room()
                self.position += stretch.counts.records
                return True
        return False

    def close(self, *, is_read: bool) -> bool:
        """Ends the book; True if the object is done: it was read to its end, and all of it was recorded."""
        try:
            if self.is_over or not is_read:
                return False
            while True:
                try:
                    self._save()
                    self._ledger.done(self._spooled, self.position)
                    return True
                except NoRoom as error:
                    if self._wait_for_room(error):
                        return False
        finally:
            self._digests.close()

    def _save(self) -> None:
        try:
            self._digests.save()
        except StrangeEntry as error:
            _log.warning("%s; until then records of this hour may be sent twice", error)
        except OSError as error:
            if is_disk_full(error):
                raise NoRoom(str(error)) from None
            raise LedgerBroken(f"{self._folder.path}: {error.strerror}") from None


class ShownBook(ObjectBook):
    """The book of an object that is only shown: nothing is recorded, and the object stays in the spool."""

    def commit(self, stretch: BatchResult) -> bool:
        """Records nothing."""
        self.position += stretch.counts.records
        return True

    def close(self, *, is_read: bool) -> bool:
        """Ends the book; True if the object was read to its end."""
        self._digests.close()
        return is_read


def forget_digests(folder: PrivateFolder, collection: str, hour: int) -> None:
    """Forgets the records of an hour: all of them count as new. Raises LedgerBroken."""
    try:
        folder.remove(digests_name(collection, hour))
    except StrangeEntry as error:
        _log.warning("%s", error)
    except OSError as error:
        raise LedgerBroken(f"{folder.path}: {error.strerror}") from None


def clean_digests(folder: PrivateFolder, hours: Iterable[tuple[str, int]]) -> None:
    """Removes our files of all hours but these; leaves other entries alone. Raises LedgerBroken."""
    wanted = {digests_name(collection, hour) for collection, hour in hours}
    try:
        for name in folder.our_files(_OUR_NAMES):
            if name not in wanted:
                folder.remove(name)
    except OSError as error:
        raise LedgerBroken(f"{folder.path}: {error.strerror}") from None


def digests_name(collection: str, hour: int) -> str:
    """The name of an hour's file. Collection ids may be anything, so their hash names the file."""
    name = hashlib.sha256(collection.encode()).hexdigest()[:16]
    return f"{name}-{hour_text(hour).replace(':', '')}"


# -- quarantine ----------------------------------------------------------------------------------------------
#
# The quarantine of the state folder: the book of records that are sent again.
#
# They are written out as the entries that they are, one a line, and read as those of any kept file.


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

    def check_and_add(self, _raw: bytes) -> bool:
        """Nothing: a person asks to send them."""
        return False

    def commit(self, stretch: BatchResult) -> bool:
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

    def commit(self, _stretch: BatchResult) -> bool:
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
