"""Failures of files, counted in a temporary ledger, so that reports read files and the ledger in one way."""

import sqlite3
from collections.abc import Iterator

from faillog_otel.events.failure import FailedMessage, FailureSums
from faillog_otel.events.failure_counts import BatchFailures
from faillog_otel.ledger import failure_queries
from faillog_otel.ledger.database import MIGRATIONS
from faillog_otel.ledger.failure_store import FailureStore
from faillog_otel.ledger.failures import Changes


class CountedFiles:
    """Counts failures. The database is in memory while it is small, and then in a temporary file."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.row_factory = sqlite3.Row
        for script in MIGRATIONS:
            for statement in script.split(";\n\n"):
                self._db.execute(statement)
        self._db.execute("BEGIN")
        self._store = FailureStore(self._db)

    def add(self, found: BatchFailures, now_ns: int) -> None:
        """Counts the notes about some events."""
        self._store.add(self._db, 0, found, now_ns)

    def finish(self) -> None:
        """Merges the last notes; from now on all can be read."""
        self._store.merge(self._db, Changes())

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Returns the rows of a query."""
        return self._db.execute(query, values).fetchall()

    def failure_sums(self, since_ns: int, until_ns: int, now_ns: int) -> FailureSums:
        """Returns the sums, as `LedgerReader` does."""
        return failure_queries.failure_sums(self, since_ns, until_ns, now_ns)

    def failed_messages(self, since_ns: int, until_ns: int, now_ns: int) -> Iterator[FailedMessage]:
        """Yields the messages, as `LedgerReader` does."""
        return failure_queries.failed_messages(self, since_ns, until_ns, now_ns)

    def attempts_until_success(self, since_ns: int, until_ns: int) -> dict[int, int]:
        """Returns the numbers of messages, as `LedgerReader` does."""
        return failure_queries.attempts_until_success(self, since_ns, until_ns)
