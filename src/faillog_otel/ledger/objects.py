"""The book of an object in the spool: what becomes of its records goes into the ledger.

A record that is known in its collection-hour is a duplicate. One that was not taken ends the book: nothing
after it is written down, and another try begins with it.
"""

import errno
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from faillog_otel.clock import hour_text
from faillog_otel.errors import LedgerBroken, NoRoom
from faillog_otel.ledger.counts import Stretch
from faillog_otel.ledger.digests import Digests, digest_of
from faillog_otel.ledger.ledger import Ledger, Spooled


class ObjectBook:
    """One object's book. Raises LedgerBroken where the digests of its hour cannot be read."""

    holds_entries = False

    def __init__(
        self,
        ledger: Ledger,
        spooled: Spooled,
        *,
        now_ns: Callable[[], int],
        wait_for_room: Callable[[], bool],
    ) -> None:
        """`wait_for_room` waits a little while the disk is full; True says to give up."""
        self.reference_ns = spooled.spooled_ns
        self.position = spooled.position
        self.is_over = False
        """Whether nothing more is written down: the collector does not take records, or there is no room."""
        self._ledger = ledger
        self._spooled = spooled
        self._now_ns = now_ns
        self._wait_for_room = wait_for_room
        try:
            self._digests = Digests(digests_path(ledger.folder.digests, spooled.collection, spooled.hour))
        except (OSError, ValueError) as error:
            raise LedgerBroken(f"{ledger.folder.digests}: {error}") from None

    def knows(self, raw: bytes) -> bool:
        """Whether these bytes were in this collection-hour before; from now on they are."""
        try:
            return bool(raw) and not self._digests.add(digest_of(raw))
        except OSError as error:
            raise LedgerBroken(f"{self._ledger.folder.digests}: {error.strerror}") from None

    def write_down(self, stretch: Stretch) -> bool:
        """T3, where all of the stretch was taken or kept. Waits for room. Raises LedgerBroken."""
        self.is_over = self.is_over or stretch.counts.pending > 0
        while not self.is_over:
            try:
                self._ledger.advance(self._spooled, stretch, self._now_ns())
            except NoRoom:
                self.is_over = self._wait_for_room()
            else:
                self.position += stretch.counts.records
                return True
        return False

    def close(self) -> bool:
        """Ends the book; True where all of the object was written down, which is then done."""
        try:
            if self.is_over or self.position < self._spooled.records:
                return False
            while True:
                try:
                    self._save()
                    self._ledger.done(self._spooled)
                    return True
                except NoRoom:
                    if self._wait_for_room():
                        return False
        finally:
            self._digests.close()

    def _save(self) -> None:
        try:
            self._digests.save()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoom(str(error)) from None
            raise LedgerBroken(f"{self._ledger.folder.digests}: {error.strerror}") from None


def forget_digests(folder: Path, collection: str, hour: int) -> None:
    """From now on no record of the hour is known. Raises LedgerBroken."""
    try:
        digests_path(folder, collection, hour).unlink(missing_ok=True)
    except OSError as error:
        raise LedgerBroken(f"{folder}: {error.strerror}") from None


def clean_digests(folder: Path, hours: Iterable[tuple[str, int]]) -> None:
    """Removes the files of all hours but these. Raises LedgerBroken."""
    wanted = {digests_path(folder, collection, hour).name for collection, hour in hours}
    try:
        for path in folder.iterdir():
            if path.name not in wanted:
                path.unlink()
    except OSError as error:
        raise LedgerBroken(f"{folder}: {error.strerror}") from None


def digests_path(folder: Path, collection: str, hour: int) -> Path:
    """The file of an hour's digests. Collection ids may be anything, so their hash names the file."""
    name = hashlib.sha256(collection.encode()).hexdigest()[:16]
    return folder / f"{name}-{hour_text(hour).replace(':', '')}"
