"""How long a run goes on without room: the disk is full, or another process holds the ledger's lock."""

import logging
import math
from collections.abc import Callable
from typing import TypeVar

from faillog_otel.errors import Busy, Interrupted, NoRoom

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0

Result = TypeVar("Result")


class RoomWait:
    """Counts from the first failure after the last success. Used by one thread."""

    def __init__(self, wait_seconds: float, monotonic: Callable[[], float]) -> None:
        """`wait_seconds` may be infinite. `monotonic`: seconds that never run backwards."""
        self._wait_seconds = wait_seconds
        self._monotonic = monotonic
        self._lacking_since: float | None = None

    def found(self) -> None:
        """Notes a success."""
        self._lacking_since = None

    def pause(self, error: NoRoom) -> float | None:
        """Notes a failure; returns how many seconds to wait before the next try, None to give up."""
        now = self._monotonic()
        if self._lacking_since is None:
            self._lacking_since = now
            _log.error("%s: waiting%s", error, self._how_long())
        left = self._lacking_since + self._wait_seconds - now
        return None if left <= 0 else min(PAUSE_SECONDS, left)

    def retry(self, step: Callable[[], Result], wait: Callable[[float], bool]) -> Result:
        """The result of a step that may lack room at first. Raises NoRoom when the wait is over.

        `wait` waits so many seconds; where it returns True, Interrupted is raised.
        """
        while True:
            try:
                result = step()
            except NoRoom as error:
                seconds = self.pause(error)
                if seconds is None:
                    raise
                if wait(seconds):
                    raise Interrupted from None
            else:
                self.found()
                return result

    def _how_long(self) -> str:
        return "" if math.isinf(self._wait_seconds) else f" for up to {self._wait_seconds:g} s"


def what_to_do(error: NoRoom) -> str:
    """The error, with what a person can do."""
    return f"{error}; {'run again later' if isinstance(error, Busy) else 'make room, then run again'}"
