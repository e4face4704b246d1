"""A clock that tests move: waiting takes no time, and is remembered."""


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
