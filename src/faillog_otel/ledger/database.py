"""The SQLite connection: durable transactions, the migration of the schema, and errors by the next move.

WAL with FULL and DELETE with EXTRA are the two settings that keep acknowledged commits when power is cut.
SQLite before 3.51.3 (3.50.7, 3.44.6) may damage a WAL when it is reset, so older versions use DELETE. After
an I/O error the run stops: the kernel may have dropped pages that it could not write.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from faillog_otel.errors import Busy, LedgerBroken, NoRoom
from faillog_otel.ledger.schema import MIGRATIONS

BUSY_SECONDS = 2.0
"""How long a transaction waits for another process's lock; then it raises Busy, and is tried again."""

_DAMAGE = {
    0,  # Python's own messages, such as "Could not decode to UTF-8"
    sqlite3.SQLITE_ERROR,  # a table or a column is missing, or the schema cannot be read
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_NOTADB,
}
"""SQLite's codes for a file that this program did not write like that."""

Result = TypeVar("Result")


class Database:
    """A connection that is used by one thread at a time."""

    def __init__(self, path: Path, *, read_only: bool = False, may_be_older: bool = False) -> None:
        """Opens the database and migrates its schema. Raises NoRoom, LedgerBroken.

        With `read_only` nothing is changed: another process may use it. `may_be_older` then allows a schema
        that was not migrated yet.
        """
        self.path = path
        self._lock = threading.RLock()
        with self._named_errors():
            if read_only and not path.is_file():
                raise LedgerBroken(f"{path.parent}: holds no ledger: has `run` polled with this --state-dir?")
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            if read_only:
                self._connection.execute("PRAGMA query_only = ON")
                self._check_version(self.version(), may_be_older=may_be_older)
                return
            wal = has_sound_wal(sqlite3.sqlite_version_info)
            self._connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if wal else 'EXTRA'}")
            self._connection.execute("PRAGMA fullfsync = ON")  # macOS: to the disk, not to its cache
            self._connection.execute("PRAGMA checkpoint_fullfsync = ON")
            self._connection.execute("PRAGMA secure_delete = ON")  # URLs are secrets
            self._migrate()
            self.check()

    def transact(self, steps: Callable[[sqlite3.Connection], Result]) -> Result:
        """Makes one durable transaction: all of the steps, or none. Raises NoRoom, LedgerBroken."""
        with self._lock, self._named_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = steps(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # the first error is the one to report
                    self._connection.execute("ROLLBACK")
                raise
            return result

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Returns the rows of a query. Raises Busy, LedgerBroken."""
        with self._lock, self._named_errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """A context in which all reads see the same state. Keep it short: writers wait for its end."""
        with self._lock:
            with self._named_errors():
                self._connection.execute("BEGIN")
            try:
                yield
            finally:
                with suppress(sqlite3.Error):  # the first error is the one to report
                    self._connection.execute("ROLLBACK")

    def copied(self) -> sqlite3.Connection:
        """Returns a copy of one moment, which can be read for any time. Raises Busy, LedgerBroken.

        Writers wait only while it is copied.
        """
        with self._lock, self._named_errors():
            copy = sqlite3.connect("")  # SQLite's own temporary file, or memory while it is small
            self._connection.backup(copy)
            copy.row_factory = sqlite3.Row
            return copy

    def check(self) -> None:
        """Raises LedgerBroken if SQLite finds damage, or values that the schema does not allow."""
        [found] = self.rows("PRAGMA quick_check(1)")
        if found[0] != "ok":
            raise self.damaged(str(found[0]))

    def version(self) -> int:
        """Returns the version of its schema. Raises sqlite3.Error."""
        [version] = self._connection.execute("PRAGMA user_version").fetchone()
        return int(version)

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._connection.close()

    def _migrate(self) -> None:
        found = self.version()
        self._check_version(found)
        for version, script in enumerate(MIGRATIONS[found:], start=found + 1):

            def step(connection: sqlite3.Connection, version: int = version, script: str = script) -> None:
                for statement in script.split(";\n\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version}")

            self.transact(step)

    def _check_version(self, found: int, *, may_be_older: bool = True) -> None:
        if found < len(MIGRATIONS) and not may_be_older:
            raise LedgerBroken(f"{self.path}: is of an older version; `run` brings it up to date")
        if not found and self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise LedgerBroken(f"{self.path}: is another program's database; name another --state-dir")
        if found > len(MIGRATIONS):
            raise LedgerBroken(
                f"{self.path}: was written by a newer faillog-otel (schema {found}, this one knows "
                f"{len(MIGRATIONS)}): use that one, or name another --state-dir"
            )

    def damaged(self, why: str) -> LedgerBroken:
        """Returns the error for content that this program did not write, with the way out."""
        return LedgerBroken(
            f"{self.path}: is damaged ({why}). Move {self.path.parent} away: what Segment still has is "
            "listed again, and what was sent before is sent once more with the same ids"
        )

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.ProgrammingError, sqlite3.NotSupportedError):
            raise  # a bug in this program
        except sqlite3.Error as error:
            extended = getattr(error, "sqlite_errorcode", 0)
            code = extended & 0xFF
            if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
                raise NoRoom(f"{self.path.parent}: the disk is full") from None
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Busy(f"{self.path}: another process reads it") from None
            if code in _DAMAGE:
                raise self.damaged(str(error)) from None
            raise LedgerBroken(f"{self.path}: {error}") from None
        except UnicodeDecodeError:  # SQLite's message quotes bytes of the file
            raise self.damaged("it holds text that is no UTF-8") from None
        except OSError as error:
            raise LedgerBroken(f"{self.path}: {error.strerror}") from None


def durability() -> str:
    """Returns SQLite's version, and the settings that keep commits when power is cut, for people."""
    if has_sound_wal(sqlite3.sqlite_version_info):
        settings = "WAL, synchronous FULL, for its WAL is sound"
    else:
        settings = "DELETE, synchronous EXTRA, for its WAL may be spoilt when it is reset"
    return f"{sqlite3.sqlite_version}: journal {settings}"


def has_sound_wal(version: tuple[int, ...]) -> bool:
    """Whether this SQLite is free of the WAL-reset bug (SQLite's release notes of 3.51.3)."""
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
