"""Clocks that tests move: waiting takes no time."""

from collections.abc import Callable

from faillog_otel.sandbox.config import SimulatedClock


class MovedClock:
    """Stands still but for what is waited."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.stop = False
        self._now = 1_000_000.0

    def now_ns(self) -> int:
        return int(self._now * 1_000_000_000)

    def monotonic(self) -> float:
        return self._now

    def wait(self, seconds: float) -> bool:
        if seconds > 0 and not self.stop:
            self.waits.append(seconds)
            self._now += seconds
        return self.stop


class WrongClock:
    """A machine's clock beside Segment's, which is right: ahead of it by `ahead_ns`, until it is set."""

    def __init__(self, segment: SimulatedClock) -> None:
        self.ahead_ns = 0
        self.sets: dict[int, int] = {}
        """At the nth look at the clock, from 0, it is set to be ahead by so much."""
        self.looks = 0
        self.at_first_wait: Callable[[], object] = lambda: None
        self._segment = segment

    def now_ns(self) -> int:
        self._look()
        return self._segment.now_ns() + self.ahead_ns

    def monotonic(self) -> float:
        self._look()
        return self._segment.monotonic()

    def wait(self, seconds: float) -> bool:
        first, self.at_first_wait = self.at_first_wait, lambda: None
        first()
        return self._segment.wait(seconds)

    def _look(self) -> None:
        self.ahead_ns = self.sets.get(self.looks, self.ahead_ns)
        self.looks += 1
