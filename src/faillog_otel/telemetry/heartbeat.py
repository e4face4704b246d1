"""Whether the loops turn: each of them says so whenever it does, and who is late is dead.

A loop that waits for the collector rests: to start the program anew would not help there.
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
"""Longer than any wait between two turns, and than the survey of a large object."""
TOUCH_SECONDS = 5.0


class Heartbeat(Protocol):
    """What the loops tell."""

    def beat(self, loop: Loop) -> None:
        """The loop has turned."""

    def ended(self, loop: Loop) -> None:
        """The loop has come to its end, and will not turn again."""

    def paused(self, loop: Loop) -> AbstractContextManager[object]:
        """Inside, the loop waits for somebody else."""

    def asking(self, loop: Loop, is_stopping: Callable[[], bool]) -> Callable[[], bool]:
        """The same question; whoever asks it has turned."""

    def late(self) -> dict[Loop, float]:
        """The loops that should have turned by now → seconds since they did."""


class NoHeartbeat:
    """Nobody feels it."""

    def beat(self, loop: Loop) -> None:
        """Nothing."""

    def ended(self, loop: Loop) -> None:
        """Nothing."""

    def paused(self, loop: Loop) -> AbstractContextManager[object]:  # noqa: ARG002  # the Protocol's
        """Nothing."""
        return nullcontext()

    def asking(self, loop: Loop, is_stopping: Callable[[], bool]) -> Callable[[], bool]:  # noqa: ARG002  # the same
        """The question itself."""
        return is_stopping

    def late(self) -> dict[Loop, float]:
        """None that one would know of."""
        return {}


NO_HEARTBEAT = NoHeartbeat()


class FileHeartbeat:
    """Notes the turns, and touches a file as long as no loop is late. Safe to use from several threads."""

    def __init__(self, monotonic: Callable[[], float], file: str | None = None) -> None:
        """Raises ConfigError where the file cannot be made."""
        self._monotonic = monotonic
        self._file = file
        self._touched = monotonic()
        self._turned: dict[Loop, float] = {}
        self._resting: set[Loop] = set()
        if file is not None:
            try:
                self._touch(file)
            except OSError as error:
                raise ConfigError(f"--health-file {file}: {error.strerror}") from None

    def beat(self, loop: Loop) -> None:
        """The loop has turned."""
        now = self._turned[loop] = self._monotonic()
        if self._file is not None and now - self._touched >= TOUCH_SECONDS and not self.late():
            self._touched = now
            try:
                self._touch(self._file)
            except OSError as error:
                _log.warning("--health-file %s: %s", self._file, error.strerror)

    def ended(self, loop: Loop) -> None:
        """The loop has come to its end."""
        self._turned.pop(loop, None)

    @contextmanager
    def paused(self, loop: Loop) -> Iterator[None]:
        """Inside, the loop waits for somebody else."""
        self.beat(loop)
        self._resting.add(loop)
        try:
            yield
        finally:
            self._resting.discard(loop)
            self.beat(loop)

    def asking(self, loop: Loop, is_stopping: Callable[[], bool]) -> Callable[[], bool]:
        """The same question; whoever asks it has turned."""

        def ask() -> bool:
            self.beat(loop)
            return is_stopping()

        return ask

    def late(self) -> dict[Loop, float]:
        """The loops that should have turned by now → seconds since they did."""
        now = self._monotonic()
        since = {loop: now - beat for loop, beat in self._turned.copy().items()}
        return {
            loop: seconds
            for loop, seconds in since.items()
            if seconds > LATE_SECONDS and loop not in self._resting
        }

    def _touch(self, file: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(file, flags, 0o644)
        try:
            os.utime(descriptor)
        finally:
            os.close(descriptor)
