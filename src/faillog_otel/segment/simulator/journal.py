"""What was asked of the simulator, in order, without secrets: no token, no query of a presigned URL."""

import logging
import threading
from collections import deque
from typing import Literal

from msgspec import Struct

_log = logging.getLogger(__name__)

KEPT_REQUESTS = 100_000


class Asked(Struct, frozen=True, kw_only=True):
    """One request, and what became of it."""

    at: str
    """By the simulator's clock, RFC 3339."""
    origin: Literal["api", "downloads"]
    method: str
    path: str
    collection: str | None = None
    hour: str | None = None
    status: int | None
    """None when nothing was answered."""
    counted: bool = False
    """Whether it cost one of the day's requests."""
    fault: str | None = None
    authorized: bool
    """Whether it had an Authorization header, which must never come to the downloads."""


class Journal:
    """Keeps the last 100,000 requests. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: deque[Asked] = deque(maxlen=KEPT_REQUESTS)

    def note(self, asked: Asked) -> None:
        """Remembers a request, and logs it (INFO)."""
        with self._lock:
            self._asked.append(asked)
        what = " ".join(filter(None, (asked.method, asked.path, asked.collection, asked.hour)))
        answer = asked.status or "no answer"
        fault = f" (fault: {asked.fault})" if asked.fault else ""
        _log.info("%s  %s: %s%s%s", asked.at, what, answer, ", counted" if asked.counted else "", fault)

    def requests(self) -> list[Asked]:
        """All of them, oldest first."""
        with self._lock:
            return list(self._asked)
