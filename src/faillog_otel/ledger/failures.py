"""Failures in the ledger: what `LedgerReader` and `Ledger` offer for them."""

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct, field

from faillog_otel.events.failure import FailedMessage, FailureGroup, FailureSums
from faillog_otel.events.failure_counts import STATE_NAMES


class Changes(Struct):
    """What transactions changed, for metrics. Unknown ids and codes are empty."""

    attempts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Destination id, code, reason class → failed attempts."""
    messages: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Destination id, state (`lost` or `recovered`), reason class → messages that entered it."""
    new_groups: list[tuple[FailureGroup, int]] = field(default_factory=list)
    """Groups that were seen for the first time, and their first failure, in nanoseconds since 1970."""

    def add_attempts(self, group: FailureGroup, number: int) -> None:
        """Adds failed attempts of a group."""
        if number:
            self.attempts[group.destination, group.code or "", group.reason_class] += number

    def add_messages(self, group: FailureGroup, state: int, number: int = 1) -> None:
        """Adds messages that entered a state."""
        if number:
            self.messages[group.destination, STATE_NAMES[state], group.reason_class] += number


class FailureSizes(Struct, frozen=True):
    """How many groups and messages are kept, and how many messages were forgotten."""

    groups: int
    messages: int
    evicted: int


class FailureReader(Protocol):
    """Reads about failures. Times are nanoseconds since 1970, of occurrence; raises as `LedgerReader`."""

    def failure_sums(self, since_ns: int, until_ns: int, now_ns: int) -> FailureSums:
        """Returns the sums over the messages that began to fail in the hours of the window."""

    def failed_messages(self, since_ns: int, until_ns: int, now_ns: int) -> Iterator[FailedMessage]:
        """Yields these messages, about in the order of time."""

    def pending_messages(self, now_ns: int) -> dict[tuple[str, str], int]:
        """Returns destination id and reason class → messages that may still be retried."""

    def attempts_until_success(self, since_ns: int, until_ns: int) -> dict[int, int]:
        """Returns the attempt that succeeded → messages that failed before it."""

    def failure_sizes(self) -> FailureSizes:
        """Returns how much is kept."""
