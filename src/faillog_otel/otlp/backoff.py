"""Backoff and give-up time, shared by all senders so that they pause together.

`--wait` counts from the first request after the last acknowledgement of records. A Retry-After pauses all
senders; one that is longer than the rest of the wait makes them give up at once.
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
"""Tolerance for a Retry-After: the requests in flight receive the same one at slightly different times."""

Say = Callable[[str, float], object]
"""Reports why a request is paused, and for how many seconds."""

_log = logging.getLogger(__name__)


class WaitNotices:
    """Logs pauses, each reason once for all requests that it pauses. Safe for use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def say(self, what: str, seconds: float) -> None:
        """Logs the pause, unless one with the same reason has not ended yet."""
        with self._lock:
            now = self._clock.monotonic()
            self._until = {each: until for each, until in self._until.items() if until > now}
            if what in self._until:
                return
            self._until[what] = now + seconds
        _log.warning("%s in %.1f s", what, seconds)


class Backoff:
    """The backoff of all requests of a run. Safe for use from several threads."""

    def __init__(
        self, wait_seconds: float, clock: Clock, jitter: random.Random, say: Say | None = None
    ) -> None:
        """`say` reports pauses; by default they are logged."""
        self.say = say or WaitNotices(clock).say
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()
        self._waiting_since: float | None = None  # monotonic; None after an acknowledgement
        self._not_before = 0.0  # monotonic
        self._requests = 0
        self._latest_acked: dict[Signal, int] = {"logs": 0, "traces": 0}
        self._gave_up_because: str | None = None
        self._has_acknowledged = False

    @property
    def gave_up_because(self) -> str | None:
        """Why nothing is sent any more; None while sending goes on."""
        return self._gave_up_because

    def next_request(self) -> int:
        """Returns the number of a request that starts now; numbers ascend."""
        with self._lock:
            if self._waiting_since is None:
                self._waiting_since = self._clock.monotonic()
            self._requests += 1
            return self._requests

    def acknowledged(self, signal: Signal, request: int, *, acked_some: bool) -> None:
        """Restarts the wait after a successful answer of the collector."""
        with self._lock:
            self._waiting_since = None
            self._has_acknowledged = True
            if acked_some:
                self._latest_acked[signal] = max(self._latest_acked[signal], request)

    def accepts_other_records(self, signal: Signal, since: int) -> bool:
        """Returns whether a request that started after request number `since` had records accepted."""
        return self._latest_acked[signal] > since

    def end(self, why: str) -> None:
        """Stops all sending; the first reason stays."""
        with self._lock:
            self._gave_up_because = self._gave_up_because or why

    def give_up_early(self, why: str) -> None:
        """Gives up at once because a setting is wrong.

        An infinite wait goes on, because the cause can be fixed meanwhile; so does a wait for a collector
        that has acknowledged before.
        """
        if not self._has_acknowledged and math.isfinite(self._wait_seconds):
            self.end(why)

    def pause(self, tries: int, why: str, asked_seconds: float | None = None) -> float | None:
        """Notes a failure; returns the seconds to pause, or None after giving up.

        `tries` counts earlier failures of this request; `asked_seconds` is the collector's Retry-After.
        """
        with self._lock:
            now = self._clock.monotonic()
            if self._waiting_since is None:
                self._waiting_since = now
            left = self._waiting_since + self._wait_seconds - now
            if left <= 0:
                waited = f"; gave up after {self._wait_seconds:g} s (--wait)" if self._wait_seconds else ""
                self._gave_up_because = self._gave_up_because or why + waited
            elif asked_seconds is not None and asked_seconds > left + SLACK_SECONDS:
                asked = f"it asks for a pause of {asked_seconds:.0f} s, beyond --wait"
                self._gave_up_because = self._gave_up_because or f"{why}; {asked}"
            if self._gave_up_because is not None:
                return None
            longest = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(tries, 16))
            seconds = float(min(longest * self._jitter.uniform(0.5, 1.0), left))
            if asked_seconds is not None:
                seconds = max(seconds, asked_seconds)  # a Retry-After of 0 must not cause a busy loop
                self._not_before = max(self._not_before, now + seconds)
            return seconds

    def ready(self) -> bool:
        """Waits until sending is allowed again; returns False after giving up."""
        while self._gave_up_because is None:
            left = self._not_before - self._clock.monotonic()
            if self._clock.wait(max(left, 0.0)):
                self.end("interrupted")
            elif left <= 0:
                return True
        return False

    def sleep(self, seconds: float) -> None:
        """Waits; a stop of the run ends the wait and all sending."""
        if self._clock.wait(seconds):
            self.end("interrupted")
