"""What applications tracked: each message once, with the time at which it came.

Only ever added to, and never to what was looked at already: where the clock was moved back, a message's
records wait until after the latest time that anybody saw. So every version of an object that was listed can
be made up again for the manifest.
"""

import random
import string
import threading
from collections import defaultdict
from typing import Any

from msgspec import Struct

from faillog_otel.clock import hour_of, time_text

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
