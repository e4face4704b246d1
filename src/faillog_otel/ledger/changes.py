"""Changes of the workspace in the ledger: what `LedgerReader` and `Ledger` offer for them."""

from collections.abc import Sequence
from typing import Protocol

from faillog_otel.segment.answers import Change


class ChangesReader(Protocol):
    """Reads changes. All methods raise as those of `LedgerReader`."""

    def changes(self, since_ns: int, until_ns: int) -> list[Change]:
        """Returns the changes from the first time until before the second, the oldest first."""


class ChangesLedger(Protocol):
    """Stores changes. All methods raise as those of `Ledger`."""

    def note_changes(self, changes: Sequence[Change]) -> list[Change]:
        """Stores the changes whose id is not stored; returns these."""
