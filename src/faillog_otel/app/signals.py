"""SIGINT and SIGTERM: stop taking in, finish what is in flight, be gone within ten seconds.

The first signal is noted, ends every wait, and ends a read that waits for input. A request in flight has
`GRACE_SECONDS` to end by itself. The second signal exits at once.

Python runs its handlers between two instructions of the main thread: a signal that comes just before that
blocks would not be seen until it wakes. So nothing here blocks without looking at a pipe, to which the
interpreter writes when a signal comes (signal.set_wakeup_fd), or for longer than a moment.
"""

import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Self

from faillog_otel.errors import Interrupted

GRACE_SECONDS = 5.0
AGAIN_SECONDS = 0.5
SEEN_SECONDS = 0.01


class Shutdown:
    """Also the run's Clock, for a signal must end its waits. A context manager for the main thread."""

    def __init__(self, signals: Sequence[int] = (signal.SIGINT, signal.SIGTERM)) -> None:
        """`signals` are those that ask for the end."""
        self._signals = signals
        self.requested: int | None = None
        """The number of the signal that asked for the end."""
        self._grace: float | None = None  # within interruptible(): how long after a signal it may go on
        self._grace_is_over = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        handlers = dict.fromkeys(self._signals, self._on_signal) | {signal.SIGALRM: self._on_alarm}
        for number, handler in handlers.items():
            self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal() returned
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._reader)
        os.close(self._writer)

    def is_requested(self) -> bool:
        """Whether a signal asked for the end."""
        return self.requested is not None

    def request(self, number: int) -> None:
        """Asks for the end as a signal of this number would. May be called from any thread."""
        if self.requested is None:
            self.requested = number
            os.write(self._writer, b"\0")

    @contextmanager
    def interruptible(self, grace_seconds: float = 0.0) -> Iterator[Callable[[int], None]]:
        """Inside, a signal raises Interrupted: at once, or after a time for the inside to end by itself.

        Whoever reads inside waits for input by the function that it is given, with a file descriptor.
        """
        if self.requested is not None and (grace_seconds == 0 or self._grace_is_over):
            raise Interrupted(self.requested)
        self._grace = grace_seconds
        try:
            yield self._until_readable
        finally:
            self._grace = None

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds that never run backwards, and go on while the machine sleeps where it says so (Linux)."""
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def _until_readable(self, descriptor: int) -> None:
        while descriptor not in _readable([descriptor, self._reader], None):
            if self.requested is not None:
                raise Interrupted(self.requested)

    def readable(self, descriptors: Sequence[int], seconds: float) -> list[int]:
        """Those that can be read, as soon as there is one; none after so long, or when a signal comes."""
        signals = [] if self.is_requested() else [self._reader]
        found = _readable([*descriptors, *signals], seconds)
        return [descriptor for descriptor in found if descriptor not in signals]

    def wait(self, seconds: float) -> bool:
        """Waits so long; returns True at once when the run was asked to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if _readable([self._reader], min(left, 3600.0)):
                # A signal came, to any thread; the main one may see it a moment later.
                if self.requested is not None:
                    break
                time.sleep(min(left, SEEN_SECONDS))
        return self.is_requested()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.requested is not None:
            os._exit(128 + number)
        self.requested = number
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS, AGAIN_SECONDS)
        if self._grace == 0:
            raise Interrupted(self.requested)

    def _on_alarm(self, _number: int, _frame: FrameType | None) -> None:
        self._grace_is_over = True
        if self._grace is not None and self.requested is not None:
            raise Interrupted(self.requested)


_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
"""Takes descriptors beyond 1023 (poll), regular files, and no descriptor of its own."""


def _readable(descriptors: Sequence[int], seconds: float | None) -> list[int]:
    """Those that can be read, or have come to their end; None: waits for as long as it takes."""
    with _Selector() as selector:
        for descriptor in descriptors:
            selector.register(descriptor, selectors.EVENT_READ)
        return [key.fd for key, _ in selector.select(seconds)]
