"""The quarantine of the state folder, once more: the book of records that are sent again.

They are written out as the entries that they are, one a line, and read as those of any kept file.
"""

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from faillog_otel.errors import LedgerBroken, NoRoom
from faillog_otel.ledger.counts import Stretch
from faillog_otel.ledger.folder import private_file
from faillog_otel.ledger.ledger import Ledger, Replayed

_AT_ONCE = 64


class QuarantineBook:
    """What is exported leaves the quarantine; what fails again stays, with what it learned."""

    position = 0
    holds_entries = True

    def __init__(
        self, ledger: Ledger, path: Path, reference_ns: int, collections: Sequence[str] = ()
    ) -> None:
        """Writes the entries out to a file: of these collections, or of all. Raises LedgerBroken."""
        self.reference_ns = reference_ns
        self._ledger = ledger
        self._left: deque[int] = deque()
        self._written = 0
        try:
            with os.fdopen(private_file(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
                last = 0
                while rows := ledger.database.rows(
                    "SELECT id, collection, entry FROM kept WHERE id > ? ORDER BY id LIMIT ?", last, _AT_ONCE
                ):
                    last = rows[-1]["id"]
                    for row in rows:
                        if not collections or row["collection"] in collections:
                            self._left.append(row["id"])
                            file.write(row["entry"] + b"\n")
        except OSError as error:
            raise LedgerBroken(f"{path}: {error.strerror}") from None

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
                replayed.append(Replayed(row, found, number in stretch.shifted))
        self._written += stretch.counts.records
        try:
            self._ledger.replayed(replayed)
        except NoRoom as error:
            raise LedgerBroken(str(error)) from None
        return True
