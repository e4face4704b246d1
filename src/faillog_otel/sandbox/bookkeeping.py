"""The day's requests as the server counts them: what it grants, what it tells, and what it saw.

Segment: 120 a day for the whole workspace, some of which come back every hour (spec 1). How they come
back is written nowhere; each way of it keeps its own bound:
`rolling`: never more than the quota in any 24 hours; `midnight`: never more than the quota in a UTC day;
`hourly`: never more than the quota at once, and so many come back at each full hour;
`window`: never more than the quota within a window, which the first request begins.
"""

import logging
import random
import string
import threading
from bisect import bisect_right
from collections import defaultdict, deque
from typing import Any, Literal

from msgspec import Struct

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, hour_of, time_text
from faillog_otel.sandbox.config import QuotaConfig

# -- quota ---------------------------------------------------------------------------------------------------


class LimiterState(Struct, frozen=True):
    """How the quota stands after a request."""

    granted: bool
    consumed: int
    """One more than there are when the request was refused, as Segment's own limiter counts."""
    remaining: int
    reset_ns: int
    """When more come back."""


class ServerQuota:
    """Safe to use from several threads. A clock that steps back gives nothing and takes nothing."""

    def __init__(self, config: QuotaConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._granted: deque[int] = deque()  # within the last 24 hours, for `rolling`
        self._left = config.per_day
        self._filled = -1  # the hour or day that _left was last filled up for
        self._seen: list[int] = []  # ascending
        self._most = 0
        self._ends_ns = 0  # of the window
        self._told_ns = 0
        self._asked_ns = 0
        self._too_early = 0

    @property
    def too_early(self) -> int:
        """How many requests came before the time until which the server had asked to wait."""
        return self._too_early

    @property
    def asked_to_wait_seconds(self) -> float:
        """For how long, all in all, the server asked to wait."""
        return self._asked_ns / SECOND_NS

    def told(self, now_ns: int, until_ns: int) -> None:
        """Notes that an answer asked to wait until then."""
        with self._lock:
            self._asked_ns += max(0, until_ns - max(now_ns, self._told_ns))
            self._told_ns = max(self._told_ns, until_ns)

    @property
    def max_in_24_hours(self) -> int:
        """The most requests that came in any 24 hours, granted or refused."""
        return self._most

    def saw(self, now_ns: int) -> None:
        """Counts a request that came in, whatever becomes of it."""
        with self._lock:
            if self._seen and now_ns < self._seen[-1]:
                now_ns = self._seen[-1]
            self._too_early += now_ns < self._told_ns
            self._seen.append(now_ns)
            del self._seen[: bisect_right(self._seen, now_ns - DAY_NS)]
            self._most = max(self._most, len(self._seen))

    def take(self, now_ns: int) -> LimiterState:
        """Grants a request, or refuses it."""
        with self._lock:
            self._replenish(now_ns)
            granted = self._left > 0
            if granted:
                self._left -= 1
                self._granted.append(now_ns)
            consumed = self.config.per_day - self._left + (not granted)
            return LimiterState(granted, consumed, self._left, self._reset_ns(now_ns))

    def _replenish(self, now_ns: int) -> None:
        per_day = self.config.per_day
        if self.config.replenish == "rolling":
            while self._granted and self._granted[0] <= now_ns - DAY_NS:
                self._granted.popleft()
            self._left = per_day - len(self._granted)
            return
        if self.config.replenish == "window":
            if now_ns >= self._ends_ns:
                self._ends_ns = now_ns + int(self.config.window_seconds * SECOND_NS)
                self._left = per_day
            return
        self._granted.clear()
        period = now_ns // (HOUR_NS if self.config.replenish == "hourly" else DAY_NS)
        if self._filled >= 0 and period > self._filled:
            back = (period - self._filled) * self.config.per_hour
            self._left = per_day if self.config.replenish == "midnight" else min(per_day, self._left + back)
        self._filled = max(self._filled, period)

    def _reset_ns(self, now_ns: int) -> int:
        if self.config.replenish == "rolling":
            return (self._granted[0] if self._granted else now_ns) + DAY_NS
        if self.config.replenish == "window":
            return self._ends_ns
        length = HOUR_NS if self.config.replenish == "hourly" else DAY_NS
        return (now_ns // length + 1) * length


# -- journal -------------------------------------------------------------------------------------------------
#
# What was asked of the simulator, in order, without secrets: no token, no query of a presigned URL.


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


# -- inbox ---------------------------------------------------------------------------------------------------
#
# What applications tracked: each message once, with the time at which it came.
#
# Only ever added to, and never to what was looked at already: where the clock was moved back, a message's
# records wait until after the latest time that anybody saw. So every version of an object that was listed can
# be made up again for the manifest.


_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


class Tracked(Struct, frozen=True):
    """One message; times are nanoseconds since 1970, by the simulator's clock."""

    id: str
    at_ns: int
    """When it came."""
    after_ns: int
    """The latest time at which anybody had looked at objects by then."""
    event: dict[str, Any]
    """As it was sent, with what Segment adds: messageId and timestamp where there were none, receivedAt."""


class Inbox:
    """Keeps all messages. Safe to use from several threads."""

    def __init__(self, seed: int) -> None:
        """`seed` decides the messageIds that are made up."""
        self._seed = seed
        self._lock = threading.Lock()
        self._messages: dict[str, Tracked] = {}
        self._by_hour: defaultdict[int, list[Tracked]] = defaultdict(list)
        self._shown_ns = 0

    def take(self, event: dict[str, Any], now_ns: int) -> Tracked:
        """Takes an event; of several with the same messageId the first counts, for SDKs send again."""
        with self._lock:
            message_id = event.get("messageId") or self._made_up_id()
            if message_id not in self._messages:
                now = time_text(now_ns)
                event = {"timestamp": now} | event | {"messageId": message_id, "receivedAt": now}
                message = Tracked(message_id, now_ns, self._shown_ns, event)
                self._messages[message_id] = message
                self._by_hour[hour_of(now_ns)].append(message)
            return self._messages[message_id]

    def shown(self, now_ns: int) -> None:
        """Notes that somebody looked at objects as they are at a time."""
        with self._lock:
            self._shown_ns = max(self._shown_ns, now_ns)

    def count(self, hour: int) -> int:
        """How many messages came in an hour, so far."""
        with self._lock:
            return len(self._by_hour.get(hour, ()))

    def of(self, hour: int, count: int) -> list[Tracked]:
        """The first so many messages of an hour."""
        with self._lock:
            return self._by_hour.get(hour, [])[:count]

    def messages(self) -> list[Tracked]:
        """All of them, oldest first."""
        with self._lock:
            return list(self._messages.values())

    def _made_up_id(self) -> str:
        """As Segment gives one to a message that came without: `api-` and 27 letters and digits."""
        rng = random.Random(f"{self._seed}/messageId/{len(self._messages)}")
        return "api-" + "".join(rng.choices(_BASE62, k=27))
