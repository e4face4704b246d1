"""What a polling run reads from Segment besides listings: names, changes of the workspace.

These requests have rate limits of their own, and cost nothing of the listings' quota.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from faillog_otel.segment.scout import NO_SCOUT, Scout

READ_SECONDS = 10.0
"""A reading delays a due listing by at most this time; what is left is read while nothing is due."""


class Reading(Protocol):
    """One of them. Used by one thread. Its methods raise NoRoom and LedgerBroken."""

    def read_if_due(self, now_ns: int) -> None:
        """Reads if it is time; takes `READ_SECONDS` at most."""

    def go_on(self) -> int | None:
        """Continues a reading; takes `READ_SECONDS` at most.

        Returns when the rest of it can be read, nanoseconds since 1970; None for a time that does not matter.
        """


class Readings:
    """Several readings, in their order."""

    def __init__(
        self, readings: Sequence[Reading] = (), scout: Callable[[int], Scout] = lambda _: NO_SCOUT
    ) -> None:
        """`scout` returns what the counts that were read say at a time. It raises LedgerBroken."""
        self._readings = readings
        self.scout = scout

    def read_if_due(self, now_ns: int) -> None:
        """Reads what is due."""
        for each in self._readings:
            each.read_if_due(now_ns)

    def go_on(self) -> int | None:
        """Continues the readings, while no listing is due; returns as `Reading.go_on`."""
        times = [each.go_on() for each in self._readings]
        return min((at_ns for at_ns in times if at_ns is not None), default=None)


NO_READINGS = Readings()
