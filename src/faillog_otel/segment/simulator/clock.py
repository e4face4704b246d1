"""The simulator's time: real time that can be moved, or a time that stands still until it is moved."""

import threading
import time

from faillog_otel.clock import SECOND_NS


class SimulatedClock:
    """A `Clock`, safe to use from several threads.

    `now_ns` is the time at the start; None is the real one. `standing`: time passes only where somebody
    moves it or waits for it, and waiting takes no time.
    """

    def __init__(self, now_ns: int | None = None, *, standing: bool = False) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._standing = standing
        self._base_ns = time.time_ns() if now_ns is None else now_ns
        self._origin_ns = time.monotonic_ns()
        self._moved_ns = 0
        self._forward_ns = 0  # moves back are left out: monotonic() never runs backwards

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""
        with self._lock:
            return self._base_ns + self._moved_ns + self._passed_ns()

    def monotonic(self) -> float:
        """Seconds that never run backwards; a move forward counts, one back does not."""
        with self._lock:
            return (self._forward_ns + self._passed_ns()) / SECOND_NS

    def wait(self, seconds: float) -> bool:
        """Lets so much time pass, a standing clock at once; returns True after `stop`, at once."""
        if not self._standing:
            return self._stop.wait(max(seconds, 0.0))
        if not self._stop.is_set():
            self.forward(max(seconds, 0.0))
        return self._stop.is_set()

    def stop(self) -> None:
        """Ends every wait."""
        self._stop.set()

    def forward(self, seconds: float) -> None:
        """Moves the time on by so much; a negative number moves it back, as a clock that is set does."""
        with self._lock:
            self._move(round(seconds * SECOND_NS))

    def move_to(self, now_ns: int) -> None:
        """Sets the time; a running clock runs on from there."""
        with self._lock:
            self._move(now_ns - (self._base_ns + self._moved_ns + self._passed_ns()))

    def _move(self, by_ns: int) -> None:
        self._moved_ns += by_ns
        self._forward_ns += max(by_ns, 0)

    def _passed_ns(self) -> int:
        return 0 if self._standing else time.monotonic_ns() - self._origin_ns
