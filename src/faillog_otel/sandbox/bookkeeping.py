"""The simulator's state between requests: quota, journal, inbox and manifest, in one object for its services.

Segment grants 120 listings a day to a workspace and refills some of them every hour. How it refills them is
not documented; each way has its own bound:
`rolling`: at most the quota in any 24 hours; `midnight`: at most the quota in a UTC day;
`hourly`: at most the quota at once, plus what each full hour refills;
`window`: at most the quota in a window, which begins with its first request.
"""

import logging
import random
import secrets
import string
import threading
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any, Literal

from msgspec import Struct

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, hour_of, hour_text, time_text
from faillog_otel.sandbox.config import Faults, QuotaConfig, SimulatedClock, SimulatorConfig
from faillog_otel.sandbox.failures import Failures
from faillog_otel.sandbox.http import Request, Response
from faillog_otel.sandbox.objects import StoredObject
from faillog_otel.sandbox.outcomes import Outcome
from faillog_otel.sandbox.world import TrackedMessage, World

_log = logging.getLogger(__name__)

MAX_JOURNAL_ENTRIES = 100_000
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase

Origin = Literal["api", "downloads"]


class QuotaState(Struct, frozen=True):
    """The quota after a request."""

    granted: bool
    consumed: int
    """After a refusal it counts the refused request too, as Segment's own limiter does."""
    remaining: int
    reset_ns: int
    """When the next requests are refilled."""


class ServerQuota:
    """The workspace's quota, and statistics of the requests. Safe to use from several threads.

    A clock that steps back neither refills the quota nor uses it up.
    """

    def __init__(self, config: QuotaConfig) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._granted: deque[int] = deque()  # within the last 24 hours, for `rolling`
        self._left = config.per_day
        self._period = -1  # the hour or day for which _left was last refilled
        self._window_ends_ns = 0
        self._seen: list[int] = []  # within the last 24 hours, ascending
        self._max_seen = 0
        self._wait_until_ns = 0
        self._asked_ns = 0
        self._too_early = 0

    @property
    def too_early(self) -> int:
        """The number of requests before the time until which the server had asked to wait."""
        return self._too_early

    @property
    def asked_to_wait_seconds(self) -> float:
        """How long the server asked to wait, in all."""
        return self._asked_ns / SECOND_NS

    @property
    def max_in_24_hours(self) -> int:
        """The most requests in any 24 hours, granted or refused."""
        return self._max_seen

    def note_wait_until(self, now_ns: int, until_ns: int) -> None:
        """Notes that a response asked to wait until `until_ns`."""
        with self._lock:
            self._asked_ns += max(0, until_ns - max(now_ns, self._wait_until_ns))
            self._wait_until_ns = max(self._wait_until_ns, until_ns)

    def note_request(self, now_ns: int) -> None:
        """Adds a request to the statistics, whatever its outcome."""
        with self._lock:
            if self._seen and now_ns < self._seen[-1]:
                now_ns = self._seen[-1]
            self._too_early += now_ns < self._wait_until_ns
            self._seen.append(now_ns)
            del self._seen[: bisect_right(self._seen, now_ns - DAY_NS)]
            self._max_seen = max(self._max_seen, len(self._seen))

    def take(self, now_ns: int) -> QuotaState:
        """Grants or refuses a request."""
        with self._lock:
            self._replenish(now_ns)
            granted = self._left > 0
            if granted:
                self._left -= 1
                self._granted.append(now_ns)
            consumed = self.config.per_day - self._left + (not granted)
            return QuotaState(granted, consumed, self._left, self._reset_ns(now_ns))

    def _replenish(self, now_ns: int) -> None:
        per_day = self.config.per_day
        if self.config.replenish == "rolling":
            while self._granted and self._granted[0] <= now_ns - DAY_NS:
                self._granted.popleft()
            self._left = per_day - len(self._granted)
            return
        if self.config.replenish == "window":
            if now_ns >= self._window_ends_ns:
                self._window_ends_ns = now_ns + int(self.config.window_seconds * SECOND_NS)
                self._left = per_day
            return
        self._granted.clear()
        period = now_ns // (HOUR_NS if self.config.replenish == "hourly" else DAY_NS)
        if self._period >= 0 and period > self._period:
            refill = (period - self._period) * self.config.per_hour
            self._left = per_day if self.config.replenish == "midnight" else min(per_day, self._left + refill)
        self._period = max(self._period, period)

    def _reset_ns(self, now_ns: int) -> int:
        if self.config.replenish == "rolling":
            return (self._granted[0] if self._granted else now_ns) + DAY_NS
        if self.config.replenish == "window":
            return self._window_ends_ns
        length = HOUR_NS if self.config.replenish == "hourly" else DAY_NS
        return (now_ns // length + 1) * length


class Served(Struct, frozen=True):
    """A response, and what the journal notes about its request."""

    response: Response
    collection: str | None = None
    hour: str | None = None
    counted: bool = False
    fault: str | None = None


class JournalEntry(Struct, frozen=True, kw_only=True):
    """One request and its response."""

    at: str
    """By the simulator's clock, RFC 3339."""
    origin: Origin
    method: str
    path: str
    collection: str | None = None
    hour: str | None = None
    status: int | None
    """None if no response was sent."""
    counted: bool = False
    """Whether it cost one request of the quota."""
    fault: str | None = None
    authorized: bool
    """Whether it had an Authorization header, which downloads must never get."""


class Journal:
    """The last 100,000 requests, without secrets: no token, no query of a presigned URL.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[JournalEntry] = deque(maxlen=MAX_JOURNAL_ENTRIES)

    def add(self, origin: Origin, request: Request, served: Served, now_ns: int) -> None:
        """Adds a request, and logs it (INFO)."""
        entry = JournalEntry(
            at=time_text(now_ns),
            origin=origin,
            method=request.method,
            path=request.path,
            collection=served.collection,
            hour=served.hour,
            status=served.response.status if served.response.is_sent else None,
            counted=served.counted,
            fault=served.fault,
            authorized="authorization" in request.headers,
        )
        with self._lock:
            self._entries.append(entry)
        what = " ".join(filter(None, (entry.method, entry.path, entry.collection, entry.hour)))
        status = entry.status or "no response"
        fault = f" (fault: {entry.fault})" if entry.fault else ""
        _log.info("%s  %s: %s%s%s", entry.at, what, status, ", counted" if entry.counted else "", fault)

    def entries(self) -> list[JournalEntry]:
        """All entries, oldest first."""
        with self._lock:
            return list(self._entries)


class ManifestEntry(Struct, frozen=True):
    """One record in one version of one object; times are RFC 3339, by the simulator's clock.

    A record with `listed_at` must arrive, or be quarantined if it is `damaged`. A record with `served_at`
    only may arrive: its object grew, or was repacked, between listing and download. No other record may.
    """

    collection: str
    hour: str
    sha256: str
    available_at: str
    damaged: bool
    object: str
    etag: str
    line: int
    """Position in the object, from 1."""
    listed_at: str | None
    """When a whole, valid response first listed this version."""
    served_at: str | None
    """When it was first sent, whole or in part."""
    exchange_id: str | None
    """The id of an exchange, or of an attempt's exchange."""
    exchange_listed_at: str | None
    """When a whole, valid response first listed an object with this exchange, undamaged."""


class Manifest:
    """Every record of every object that was listed or sent, to check a forwarder with.

    It stores the versions of objects and the times of exchanges only, and generates records on demand. Safe
    to use from several threads.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = threading.Lock()
        self._listed: dict[tuple[str, str], int] = {}  # (key, ETag) → first time
        self._served: dict[tuple[str, str], int] = {}
        self._exchanges: dict[str, int] = {}  # id → when it was first listed

    def note_listed(self, stored: StoredObject, now_ns: int) -> None:
        """Notes that a response listed this version."""
        with self._lock:
            self._listed.setdefault((stored.key, stored.etag), now_ns)
            for record in stored.records:
                if record.is_exchange and record.exchange_id and not record.damaged:
                    self._exchanges.setdefault(record.exchange_id, now_ns)

    def note_served(self, stored: StoredObject, now_ns: int) -> None:
        """Notes that this version was sent."""
        with self._lock:
            self._served.setdefault((stored.key, stored.etag), now_ns)

    def failures(self) -> Failures:
        """What the records say that were listed."""
        with self._lock:
            listed = dict(self._listed)
        failures = Failures()
        for (key, _), listed_ns in sorted(listed.items()):
            stored = self._world.find(key, listed_ns)
            failures.add(stored.records if stored else ())
        return failures

    def entries(self) -> Iterator[ManifestEntry]:
        """All entries, sorted by the object's key."""
        with self._lock:
            listed, served, exchanges = dict(self._listed), dict(self._served), dict(self._exchanges)
        for key, etag in sorted({*listed, *served}):
            listed_ns, served_ns = listed.get((key, etag)), served.get((key, etag))
            at_ns = listed_ns if listed_ns is not None else served_ns
            assert at_ns is not None  # noqa: S101  # the key is from one of the two
            stored = self._world.find(key, at_ns)
            if stored is None:
                continue
            if stored.etag != etag:
                stored = stored.rotated()  # the fault `download:changed`
            for line, record in enumerate(stored.records, 1):
                yield ManifestEntry(
                    stored.collection,
                    hour_text(stored.hour),
                    record.sha256,
                    time_text(record.available_ns),
                    record.damaged,
                    key,
                    etag,
                    line,
                    _time(listed_ns),
                    _time(served_ns),
                    record.exchange_id,
                    _time(exchanges.get(record.exchange_id or "")),
                )


def _time(at_ns: int | None) -> str | None:
    return None if at_ns is None else time_text(at_ns)


class Inbox:
    """All messages that applications sent, each once. Safe to use from several threads.

    Messages are only added, and never change an object that was read already: when the clock is moved back,
    the records of a new message wait until after the latest time for which objects were read. So the
    manifest can generate every version of an object that was listed.
    """

    def __init__(self, seed: int) -> None:
        """`seed` determines the messageIds that are generated."""
        self._seed = seed
        self._lock = threading.Lock()
        self._rules: tuple[Outcome, ...] = ()
        self._messages: dict[str, TrackedMessage] = {}
        self._by_hour: defaultdict[int, list[TrackedMessage]] = defaultdict(list)
        self._listed_until_ns = 0

    def add(self, event: dict[str, Any], now_ns: int) -> TrackedMessage:
        """Adds a message. Of several with the same messageId the first counts, because SDKs retry."""
        with self._lock:
            message_id = event.get("messageId") or self._generated_id()
            if message_id not in self._messages:
                now = time_text(now_ns)
                event = {"timestamp": now} | event | {"messageId": message_id, "receivedAt": now}
                message = TrackedMessage(message_id, now_ns, self._listed_until_ns, event, self._rules)
                self._messages[message_id] = message
                self._by_hour[hour_of(now_ns)].append(message)
            return self._messages[message_id]

    def add_rules(self, *rules: Outcome) -> None:
        """Adds rules for messages that arrive later."""
        with self._lock:
            self._rules += rules

    def note_listed(self, now_ns: int) -> None:
        """Notes that objects are read as they are at this time."""
        with self._lock:
            self._listed_until_ns = max(self._listed_until_ns, now_ns)

    def count(self, hour: int) -> int:
        """The number of messages that arrived in an hour so far."""
        with self._lock:
            return len(self._by_hour.get(hour, ()))

    def messages_of(self, hour: int, count: int) -> list[TrackedMessage]:
        """The first `count` messages of an hour."""
        with self._lock:
            return self._by_hour.get(hour, [])[:count]

    def messages(self) -> list[TrackedMessage]:
        """All messages, oldest first."""
        with self._lock:
            return list(self._messages.values())

    def _generated_id(self) -> str:
        """An id as Segment gives it to a message without one: `api-` and 27 letters and digits."""
        rng = random.Random(f"{self._seed}/messageId/{len(self._messages)}")
        return "api-" + "".join(rng.choices(_BASE62, k=27))


class SimulatorState:
    """The state that all services of one simulator share. Its parts are safe to use from several threads.

    Raises ConfigError for a fault's name or rate that is not valid.
    """

    def __init__(
        self, config: SimulatorConfig, clock: SimulatedClock, *, api_url: str, download_host: str
    ) -> None:
        """`download_host`: the `HOST:PORT` in presigned URLs."""
        self.config = config
        self.clock = clock
        self.api_url = api_url
        self.download_host = download_host
        self.token = config.token or secrets.token_urlsafe(24)
        self.signing_key = secrets.token_bytes(32)
        self.inbox = Inbox(config.world.seed)
        self.world = World(config.world, self.inbox)
        self.quota = ServerQuota(config.quota)
        self.faults = Faults(config.faults, config.world.seed)
        self.journal = Journal()
        self.manifest = Manifest(self.world)
