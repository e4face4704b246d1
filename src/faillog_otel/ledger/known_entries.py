"""Which entries a file of kept records holds already: the same record of the same file is kept once.

Identities are in a temporary SQLite database, which SQLite moves to a file when it grows: memory stays flat.
"""

import sqlite3
from contextlib import closing

from faillog_otel.errors import NoRoom


class KnownEntries:
    """A set of identities (`events.entry.identity_of`). All methods raise NoRoom."""

    def __init__(self) -> None:
        try:
            self._database = sqlite3.connect("", isolation_level=None)
            for statement in (
                "PRAGMA journal_mode = OFF",
                "CREATE TABLE known (identity BLOB PRIMARY KEY) STRICT, WITHOUT ROWID",
                "BEGIN",  # and no end: nothing of it outlives the connection
            ):
                self._database.execute(statement)
        except sqlite3.Error as error:
            raise NoRoom(f"what is kept already cannot be remembered: {error}") from None

    def __contains__(self, identity: bytes) -> bool:
        with closing(self._do("SELECT 1 FROM known WHERE identity = ?", identity)) as found:
            return found.fetchone() is not None

    def add(self, identity: bytes) -> None:
        """Adds one."""
        self._do("INSERT OR IGNORE INTO known VALUES (?)", identity)

    def close(self) -> None:
        """Forgets all of them."""
        self._database.close()

    def _do(self, statement: str, identity: bytes) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, (identity,))
        except sqlite3.Error as error:
            raise NoRoom(f"what is kept already cannot be remembered: {error}") from None
