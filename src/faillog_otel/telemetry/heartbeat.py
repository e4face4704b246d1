"""Heartbeats of the two loops. A loop that has not beaten for `LATE_SECONDS` counts as dead.

A loop that waits for the collector is paused and counts as alive: a restart would not help.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, Protocol

from faillog_otel.errors import ConfigError

_log = logging.getLogger(__name__)

Loop = Literal["fetching", "forwarding"]

LATE_SECONDS = 600.0
"""Longer than any wait between two beats, and than the first pass over a large object."""
TOUCH_SECONDS = 5.0


class Heartbeat(Protocol):
    """The heartbeats of a run."""

    def beat(self, loop: Loop) -> None:
        """Records a beat of the loop."""

    def ended(self, loop: Loop) -> None:
        """Ends the heartbeat of a loop that has ended."""

    def paused(self, loop: Loop) -> AbstractContextManager[object]:
        """Returns a context in which the loop waits and counts as alive."""

    def beat_on_call(self, loop: Loop, is_stopping: Callable[[], bool]) -> Callable[[], bool]:
        """Returns `is_stopping` as a function that also records a beat."""

    def late(self) -> dict[Loop, float]:
        """Returns late loop → seconds since its last beat."""


class NoHeartbeat:
    """No-op implementation."""

    def beat(self, loop: Loop) -> None:
        """Does nothing."""

    def ended(self, loop: Loop) -> None:
        """Does nothing."""

    def paused(self, loop: Loop) -> AbstractContextManager[object]:  # noqa: ARG002  # the Protocol's
        """Does nothing."""
        return nullcontext()

    def beat_on_call(self, loop: Loop, is_stopping: Callable[[], bool]) -> Callable[[], bool]:  # noqa: ARG002  # the same
        """Returns `is_stopping`."""
        return is_stopping

    def late(self) -> dict[Loop, float]:
        """Returns no loop."""
        return {}


NO_HEARTBEAT = NoHeartbeat()


class FileHeartbeat:
    """Records beats, and touches a file while no loop is late. Safe for use from several threads."""

    def __init__(self, monotonic: Callable[[], float], file: str | None = None) -> None:
        """Raises ConfigError if the file cannot be created."""
        self._monotonic = monotonic
        self._file = file
        self._touched = monotonic()
        self._beats: dict[Loop, float] = {}
        self._paused: set[Loop] = set()
        if file is not None:
            try:
                self._touch(file)
            except OSError as error:
                raise ConfigError(f"--health-file {file}: {error.strerror}") from None

    def beat(self, loop: Loop) -> None:
        """Records a beat of the loop."""
        now = self._beats[loop] = self._monotonic()
        if self._file is not None and now - self._touched >= TOUCH_SECONDS and not self.late():
            self._touched = now
            try:
                self._touch(self._file)
            except OSError as error:
                _log.warning("--health-file %s: %s", self._file, error.strerror)

    def ended(self, loop: Loop) -> None:
        """Ends the heartbeat of a loop that has ended."""
        self._beats.pop(loop, None)

    @contextmanager
    def paused(self, loop: Loop) -> Iterator[None]:
        """Returns a context in which the loop waits and counts as alive."""
        self.beat(loop)
        self._paused.add(loop)
        try:
            yield
        finally:
            self._paused.discard(loop)
            self.beat(loop)

    def beat_on_call(self, loop: Loop, is_stopping: Callable[[], bool]) -> Callable[[], bool]:
        """Returns `is_stopping` as a function that also records a beat."""

        def beat_and_call() -> bool:
            self.beat(loop)
            return is_stopping()

        return beat_and_call

    def late(self) -> dict[Loop, float]:
        """Returns late loop → seconds since its last beat."""
        now = self._monotonic()
        since = {loop: now - beat for loop, beat in self._beats.copy().items()}
        return {
            loop: seconds
            for loop, seconds in since.items()
            if seconds > LATE_SECONDS and loop not in self._paused
        }

    def _touch(self, file: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(file, flags, 0o644)
        try:
            os.utime(descriptor)
        finally:
            os.close(descriptor)
