"""The sinks of a polling run: they commit the results of an object, or of the quarantine in a replay.

After a pending record nothing more of its object is committed: the next attempt begins with that record.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence

from faillog_otel.errors import LedgerBroken, NoRoom
from faillog_otel.events.kept_record import is_intact
from faillog_otel.files import PrivateFolder
from faillog_otel.ledger import Ledger, Spooled
from faillog_otel.ledger.failures import Changes
from faillog_otel.ledger.results import BatchResult, ReplayedEntry

_log = logging.getLogger(__name__)


class ObjectSink:
    """Commits the results of one spooled object. Raises LedgerBroken if its hour's digests cannot be read."""

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
        """`wait_for_room` waits for disk space; it returns True to give up.

        `has_room` is called after each commit.
        """
        self.reference_ns = spooled.spooled_ns
        self.position = spooled.position
        self.is_over = False
        """Whether nothing more is committed: a record is pending, or the disk is full."""
        self._ledger = ledger
        self._spooled = spooled
        self._now_ns = now_ns
        self._wait_for_room = wait_for_room
        self._has_room = has_room
        self.seen = ledger.seen_records(spooled)

    def commit(self, result: BatchResult) -> bool:
        """Commits a batch (T3) unless one of its or earlier records is pending. Waits for disk space."""
        self.is_over = self.is_over or result.counts.pending > 0
        while not self.is_over:
            try:
                result.changes = self._ledger.advance(self._spooled, self.position, result, self._now_ns())
            except NoRoom as error:
                self.is_over = self._wait_for_room(error)
            else:
                self._has_room()
                self.position += result.counts.records
                return True
        return False

    def close(self, *, is_read: bool) -> Changes | None:
        """T4, if the object was read to its end and all of it is committed; None if it is not done."""
        try:
            while is_read and not self.is_over:
                try:
                    return self._ledger.done(self._spooled, self.position, self.seen)
                except NoRoom as error:
                    if self._wait_for_room(error):
                        break
            return None
        finally:
            self.seen.close()


class ShownObjectSink(ObjectSink):
    """For an object that is only shown: commits nothing, and leaves the object in the spool."""

    def commit(self, result: BatchResult) -> bool:
        """Commits nothing."""
        self.position += result.counts.records
        return True

    def close(self, *, is_read: bool) -> Changes | None:
        """Returns no changes; None if the object was not read to its end."""
        self.seen.close()
        return Changes() if is_read else None


class QuarantineSink:
    """For the quarantine: removes exported entries; updates those that fail again."""

    position = 0
    holds_entries = True
    seen = None

    def __init__(
        self, ledger: Ledger, scratch: PrivateFolder, reference_ns: int, collections: Sequence[str] = ()
    ) -> None:
        """Writes the entries of these collections, by default of all, to a temporary file in `scratch`.

        A damaged entry stays in the quarantine, with a warning. Raises LedgerBroken, NoRoom.
        """
        self.reference_ns = reference_ns
        self._ledger = ledger
        self._left: deque[int] = deque()
        self._written = 0
        try:
            self.file = scratch.temporary()
            """The entries, one a line: the input of the run."""
            for each in ledger.kept_entries():
                if collections and each.collection not in collections:
                    continue
                if not is_intact(each.entry):
                    _log.warning(
                        "entry %d of the quarantine is damaged and is not sent; `audit` lists such entries",
                        each.id,
                    )
                    continue
                self._left.append(each.id)
                self.file.write(each.entry + b"\n")
            self.file.flush()
        except OSError as error:
            raise LedgerBroken(f"{scratch.path}: {error.strerror}") from None

    def __len__(self) -> int:
        return len(self._left)

    def commit(self, result: BatchResult) -> bool:
        """Stores the results; a pending entry stays as it is. Raises LedgerBroken."""
        kept = {each.number: each for each in result.kept}
        replayed = []
        for number in range(self._written, self._written + result.counts.records):
            found, entry = kept.get(number), self._left.popleft()
            if found is None or found.where == "quarantine":
                replayed.append(ReplayedEntry(entry, found, number in result.shifted))
        self._written += result.counts.records
        try:
            self._ledger.replayed(replayed)
        except NoRoom as error:
            raise LedgerBroken(str(error)) from None
        return True


class ShownQuarantineSink(QuarantineSink):
    """For a quarantine that is only shown: commits nothing."""

    def commit(self, _result: BatchResult) -> bool:
        """Commits nothing."""
        return True
