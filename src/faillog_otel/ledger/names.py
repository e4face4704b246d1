"""Names in the ledger: what `LedgerReader` and `Ledger` offer for them.

Each change of a name is a version with a number. An object keeps the newest number of the time when it was
spooled (`names_to`), so that its records have the same names at every try.
"""

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from faillog_otel.segment.answers import Name, NameKind


class Rename(Struct, frozen=True):
    """A change of the shown name of an id."""

    kind: NameKind
    id: str
    before: str
    after: str
    at_ns: int
    """When it was read, nanoseconds since 1970."""


class NamesReader(Protocol):
    """Reads names. All methods raise as those of `LedgerReader`."""

    def names(self) -> dict[str, Name]:
        """Returns id → what was read last of each destination, source and subscription."""

    def shown_names(self, names_to: int) -> dict[str, str]:
        """Returns id → the name to show, of the version with this number; empty names are left out."""

    def renames(self, since_ns: int) -> list[Rename]:
        """Returns the changes of shown names since this time, the newest first."""


class NamesLedger(Protocol):
    """Stores names. All methods raise as those of `Ledger`."""

    def note_names(self, names: Iterable[Name], now_ns: int) -> int:
        """Stores the names that differ from the stored ones; returns how many did."""
