"""How long to go on, and how long to pause: shared by all that send, so that they wait together.

The wait (`--wait`) counts from the first request after the last acknowledgement of records. A Retry-After
holds everybody up; one that reaches past the wait ends it at once.
"""

import logging
import math
import random
import threading
from collections.abc import Callable

from faillog_otel.clock import Clock
from faillog_otel.config import Signal

FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0
SLACK_SECONDS = 1.0
"""Requests in flight are asked to wait as long, one a moment after the other: all of them may."""

Say = Callable[[str, float], object]
"""Says what a request waits for, and for how many seconds."""

_log = logging.getLogger(__name__)


class WaitNotices:
    """Says what is waited for: once, however many requests wait for the same. Safe for several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def say(self, what: str, seconds: float) -> None:
        """Logs it, unless the same was said of a wait that is not over yet."""
        with self._lock:
            now = self._clock.monotonic()
            self._until = {each: until for each, until in self._until.items() if until > now}
            if what in self._until:
                return
            self._until[what] = now + seconds
        _log.warning("%s in %.1f s", what, seconds)


class Backoff:
    """Safe to use from several threads."""

    def __init__(
        self, wait_seconds: float, clock: Clock, jitter: random.Random, say: Say | None = None
    ) -> None:
        """`say` takes what is to be said about waits; by default it is logged."""
        self.say = say or WaitNotices(clock).say
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()
        self._asking_since: float | None = None  # monotonic; None after an acknowledgement
        self._not_before = 0.0  # monotonic
        self._requests = 0
        self._latest_taken: dict[Signal, int] = {"logs": 0, "traces": 0}
        self._over: str | None = None
        self._has_acknowledged = False

    @property
    def over(self) -> str | None:
        """Why nothing is sent any more; None while things go on."""
        return self._over

    def next_request(self) -> int:
        """The number of a request that starts now: later ones have larger numbers."""
        with self._lock:
            if self._asking_since is None:
                self._asking_since = self._clock.monotonic()
            self._requests += 1
            return self._requests

    def acknowledged(self, signal: Signal, request: int, *, took_some: bool) -> None:
        """Notes that the collector answered a request with a success: the wait starts anew."""
        with self._lock:
            self._asking_since = None
            self._has_acknowledged = True
            if took_some:
                self._latest_taken[signal] = max(self._latest_taken[signal], request)

    def accepts_other_records(self, signal: Signal, since: int) -> bool:
        """Whether records of a request were taken that started after the request of this number."""
        return self._latest_taken[signal] > since

    def end(self, why: str) -> None:
        """Nothing is sent any more; the first reason stays."""
        with self._lock:
            self._over = self._over or why

    def give_up_early(self, why: str) -> None:
        """Ends a wait that is in vain, for a setting is wrong.

        One without end goes on, for somebody may mend the way meanwhile; so does one for a collector that has
        answered before.
        """
        if not self._has_acknowledged and math.isfinite(self._wait_seconds):
            self.end(why)

    def pause(self, tries: int, why: str, asked_seconds: float | None = None) -> float | None:
        """Notes a failure; returns how many seconds to pause after it, or None when the wait is over.

        `tries` counts the failures of this request before; `asked_seconds` is what the collector asks.
        """
        with self._lock:
            now = self._clock.monotonic()
            if self._asking_since is None:
                self._asking_since = now
            left = self._asking_since + self._wait_seconds - now
            if left <= 0:
                waited = f"; waited {self._wait_seconds:g} s" if self._wait_seconds else ""
                self._over = self._over or why + waited
            elif asked_seconds is not None and asked_seconds > left + SLACK_SECONDS:
                self._over = self._over or f"{why}; it asks to wait {asked_seconds:.0f} s"
            if self._over is not None:
                return None
            longest = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(tries, 16))
            seconds = float(min(longest * self._jitter.uniform(0.5, 1.0), left))
            if asked_seconds is not None:
                seconds = max(seconds, asked_seconds)  # "at once" is no invitation to a busy loop
                self._not_before = max(self._not_before, now + seconds)
            return seconds

    def ready(self) -> bool:
        """Waits until sending is allowed again; False when it is over."""
        while self._over is None:
            left = self._not_before - self._clock.monotonic()
            if self._clock.wait(max(left, 0.0)):
                self.end("interrupted")
            elif left <= 0:
                return True
        return False

    def sleep(self, seconds: float) -> None:
        """Waits so long; a stop of the run ends it, and everything."""
        if self._clock.wait(seconds):
            self.end("interrupted")
