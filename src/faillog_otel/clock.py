"""Time, as an argument: whoever waits or stamps is handed a clock, so tests can move it."""

from typing import Protocol


class Clock(Protocol):
    """What the forwarder asks of time."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""

    def monotonic(self) -> float:
        """Seconds that never run backwards, from an arbitrary start."""

    def wait(self, seconds: float) -> bool:
        """Waits so long; returns True at once when the run was asked to stop."""
