"""SIGINT and SIGTERM: read nothing more, finish the requests in flight, and exit within ten seconds.

The first signal ends every wait, and every read that waits for input. A request in flight has
`GRACE_SECONDS` to finish. The second signal exits at once.

Python runs signal handlers between two instructions of the main thread: if a signal arrives just before the
thread blocks, the handler runs only when the thread wakes. So every wait here also watches a pipe to which
the interpreter writes when a signal arrives (signal.set_wakeup_fd), or is short.
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
    """Handles signals, and is the run's Clock: a signal ends its waits. Use it as a context manager."""

    def __init__(self, signals: Sequence[int] = (signal.SIGINT, signal.SIGTERM)) -> None:
        """`signals` request the end of the run."""
        self._signals = signals
        self.requested: int | None = None
        """The number of the signal that requested the end."""
        self._grace: float | None = None  # inside interruptible(): how long it may continue after a signal
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
        """Returns whether a signal requested the end."""
        return self.requested is not None

    def request(self, number: int) -> None:
        """Requests the end like a signal of this number. May be called from any thread."""
        if self.requested is None:
            self.requested = number
            os.write(self._writer, b"\0")

    @contextmanager
    def interruptible(self, grace_seconds: float = 0.0) -> Iterator[Callable[[int], None]]:
        """Returns a context in which a signal raises Interrupted, after `grace_seconds`.

        Code inside waits for input with the function that the context yields: it takes a descriptor.
        """
        if self.requested is not None and (grace_seconds == 0 or self._grace_is_over):
            raise Interrupted(self.requested)
        self._grace = grace_seconds
        try:
            yield self._until_readable
        finally:
            self._grace = None

    def now_ns(self) -> int:
        """Returns nanoseconds since 1970-01-01T00:00:00Z."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Returns monotonic seconds, which on Linux also count while the machine sleeps."""
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def _until_readable(self, descriptor: int) -> None:
        while descriptor not in _readable([descriptor, self._reader], None):
            if self.requested is not None:
                raise Interrupted(self.requested)

    def readable(self, descriptors: Sequence[int], seconds: float) -> list[int]:
        """Returns the readable descriptors, as soon as there is one; none after the timeout or a signal."""
        signals = [] if self.is_requested() else [self._reader]
        found = _readable([*descriptors, *signals], seconds)
        return [descriptor for descriptor in found if descriptor not in signals]

    def wait(self, seconds: float) -> bool:
        """Waits for the time; returns True as soon as a signal requests the end."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if _readable([self._reader], min(left, 3600.0)):
                # A signal arrived, in any thread; the main thread may handle it a moment later.
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
"""Accepts descriptors above 1023 (poll) and regular files, and opens no descriptor."""


def _readable(descriptors: Sequence[int], seconds: float | None) -> list[int]:
    """Returns the descriptors that are readable or at their end; `seconds` None: waits without limit."""
    with _Selector() as selector:
        for descriptor in descriptors:
            selector.register(descriptor, selectors.EVENT_READ)
        return [key.fd for key, _ in selector.select(seconds)]
