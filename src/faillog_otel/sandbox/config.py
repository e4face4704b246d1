"""Which request fails, and how: by rates that the seed decides, and by a script.

A fault has a name, `listing:503` or `download:truncated`; CATALOGUE says what each does. Whether the n-th
listing or download meets a fault by rate depends on the seed and n only.
"""

import random
import re
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from faillog_otel.clock import SECOND_NS
from faillog_otel.errors import ConfigError
from faillog_otel.sandbox.generator import Dialect

# -- clock ---------------------------------------------------------------------------------------------------
#
# The simulator's time: real time that can be moved, or a time that stands still until it is moved.


class SimulatedClock:
    """A `Clock`, safe to use from several threads.

    `now_ns` is the time at the start; None is the real one. `standing`: time passes only where somebody
    moves it or waits for it, and waiting takes no time.
    """

    def __init__(self, now_ns: int | None = None, *, standing: bool = False) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._standing = standing
        self._base_ns = time.time_ns() if now_ns is None else now_ns
        self._origin_ns = time.monotonic_ns()
        self._moved_ns = 0
        self._forward_ns = 0  # moves back are left out: monotonic() never runs backwards

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""
        with self._lock:
            return self._base_ns + self._moved_ns + self._passed_ns()

    def monotonic(self) -> float:
        """Seconds that never run backwards; a move forward counts, one back does not."""
        with self._lock:
            return (self._forward_ns + self._passed_ns()) / SECOND_NS

    def wait(self, seconds: float) -> bool:
        """Lets so much time pass, a standing clock at once; returns True after `stop`, at once."""
        if not self._standing:
            return self._stop.wait(max(seconds, 0.0))
        if not self._stop.is_set():
            self.forward(max(seconds, 0.0))
        return self._stop.is_set()

    def stop(self) -> None:
        """Ends every wait."""
        self._stop.set()

    def forward(self, seconds: float) -> None:
        """Moves the time on by so much; a negative number moves it back, as a clock that is set does."""
        with self._lock:
            self._move(round(seconds * SECOND_NS))

    def move_to(self, now_ns: int) -> None:
        """Sets the time; a running clock runs on from there."""
        with self._lock:
            self._move(now_ns - (self._base_ns + self._moved_ns + self._passed_ns()))

    def _move(self, by_ns: int) -> None:
        self._moved_ns += by_ns
        self._forward_ns += max(by_ns, 0)

    def _passed_ns(self) -> int:
        return 0 if self._standing else time.monotonic_ns() - self._origin_ns


# -- config --------------------------------------------------------------------------------------------------
#
# What a simulated Segment is like: everything that can be chosen, with its defaults.


Growth = Literal["append", "rewrite", "repack"]
"""How an hour grows: each later portion is a new object; one object is written anew; all of it is packed
anew under new names. Which of them Segment does is written nowhere (spec 1)."""
GROWTHS: tuple[Growth, ...] = ("append", "rewrite", "repack")

Format = Literal["gzip", "jsonl", "zstd", "array"]
FORMATS: tuple[Format, ...] = ("gzip", "jsonl", "zstd", "array")

Replenish = Literal["hourly", "midnight", "rolling", "window"]
"""How requests come back: some every hour; all at midnight UTC; each 24 hours after it was made; all when a
window ends, which begins with the first request."""
REPLENISHES: tuple[Replenish, ...] = ("hourly", "midnight", "rolling", "window")

Refusal = Literal["body", "retry-after", "retry-after-date", "both", "none", "html"]
"""How a 429 says until when to wait: in the body (msBeforeNext), in Retry-After (seconds or a date), in both,
not at all, or with an HTML page."""
REFUSALS: tuple[Refusal, ...] = ("body", "retry-after", "retry-after-date", "both", "none", "html")

Form = Literal["either", "query", "body", "body-only"]
"""Where a listing's arguments are looked for; `body-only` refuses a request that has a query."""
FORMS: tuple[Form, ...] = ("either", "query", "body", "body-only")

COLLECTIONS = ("shop-mixpanel", "shop-braze", "shop-webhooks")

_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)


class WorldConfig(Struct, frozen=True, kw_only=True):
    """What happened at the customer, and what Segment made of it. Rates are from 0 to 1.

    Raises ConfigError where a value makes no sense.
    """

    seed: int = 1
    collections: tuple[str, ...] = COLLECTIONS
    messages: float = 20.0
    """Failing messages of a collection's usual hour, on average over the collections."""
    growth: tuple[Growth, ...] = GROWTHS
    """The first collection grows by the first, and so on, in turns."""
    formats: tuple[Format, ...] = FORMATS
    """Each object has one of them; an hour with damaged lines is no array."""
    damage: float = 0.0
    """So many records are cut off within their line."""
    dialect: Dialect = "mixed"
    """How records are written; see the generator."""
    duplicates: float = 0.0
    """So many records come once more, the same bytes, in a later portion of their hour."""
    dead: int = 0
    """So many objects a day can never be downloaded: 404, 500, 503, a reset, half of it, an HTML page."""

    def __post_init__(self) -> None:
        if not self.collections or len(set(self.collections)) != len(self.collections):
            raise ConfigError("collections: there must be one at least, each once")
        for collection in self.collections:
            if not _COLLECTION.fullmatch(collection):
                raise ConfigError(f"collection {collection!r}: letters, digits, `-`, `_` and `.` only")
        if not 0 <= self.messages <= 1_000_000:
            raise ConfigError("messages: from 0 to 1,000,000")
        if not self.growth or not self.formats:
            raise ConfigError("growth and formats: one at least")
        if not 0 <= self.dead <= 24:
            raise ConfigError("dead: from 0 to 24 objects a day")
        for name, rate in (("damage", self.damage), ("duplicates", self.duplicates)):
            if not 0 <= rate <= 1:
                raise ConfigError(f"{name}: a rate from 0 to 1")


class QuotaConfig(Struct, frozen=True, kw_only=True):
    """How many listings a day the workspace has. Raises ConfigError where a value makes no sense."""

    per_day: int = 120
    """In each window, where `replenish` is `window`."""
    replenish: Replenish = "hourly"
    window_seconds: float = 60.0
    """How long a window is."""
    headers: bool = True
    """Successful answers carry `X-RateLimit-*`."""
    refusals: tuple[Refusal, ...] = ("body",)
    """How 429s say until when to wait; they take turns."""
    retry_after: bool = False
    """A 429 also says Retry-After; Segment's page does not say whether the real one does."""

    def __post_init__(self) -> None:
        if self.per_day < 1:
            raise ConfigError("quota: one request a day at least")
        if not 1 <= self.window_seconds <= 86_400:
            raise ConfigError("window: from 1 second to a day")
        if not self.refusals:
            raise ConfigError("refusal: one shape at least")

    @property
    def per_hour(self) -> int:
        """How many come back every hour, when they come back hourly."""
        return -(-self.per_day // 24)


class SimulatorConfig(Struct, frozen=True, kw_only=True):
    """A whole simulator."""

    world: WorldConfig = WorldConfig()
    quota: QuotaConfig = QuotaConfig()
    token: str | None = None
    """The one token that is accepted; None makes one up."""
    port: int = 0
    download_port: int = 0
    """Ports on 127.0.0.1; 0 lets the system pick."""
    faults: dict[str, float] = field(default_factory=dict)
    """How often each fault happens, by name (see faults.py)."""
    form: Form = "either"
    refusal: Literal[400, 415, 422] = 415
    """What a listing in a form that is not accepted is answered."""
    slow_seconds: float = 1.0
    """How long a slow answer takes, in real time."""


# -- faults --------------------------------------------------------------------------------------------------


Kind = Literal["listing", "download"]

CATALOGUE: dict[str, str] = {
    "listing:429-body": "429 with Segment's body (remainingPoints, msBeforeNext, consumedPoints)",
    "listing:429-headers": "429 with X-RateLimit-* headers and no body",
    "listing:429-retry-after": "429 with Retry-After: 30 and no body",
    "listing:429-html": "429 with an HTML page",
    "listing:429-absurd": "429 whose msBeforeNext is 300,000 years",
    "listing:500": "500, counted",
    "listing:502": "502 with an HTML page, counted",
    "listing:503": "503, counted",
    "listing:504": "504 with an HTML page, counted",
    "listing:reset": "the connection is reset before the request is counted",
    "listing:reset-after": "the request is counted, then the connection is reset",
    "listing:truncated": "counted; the answer breaks off half-way",
    "listing:slow": "the answer comes in pieces, over `slow_seconds`",
    "listing:html": "200 with an HTML page, counted",
    "listing:empty-object": "200 with {}, counted",
    "listing:wrong-shape": "200 with JSON of another shape, counted",
    "listing:empty": "200 with no URLs, whatever there is; counted",
    "listing:huge": "200 with 100,000 URLs, counted",
    "listing:401": "401, not counted",
    "listing:403": "403, not counted",
    "listing:404": "404 as for an unknown collection, counted",
    "listing:422": "422, counted",
    "listing:301": "301 to the download origin, not counted",
    "listing:302": "302 to the download origin, not counted",
    "listing:307": "307 to the download origin, not counted",
    "download:reset": "the connection is reset half-way",
    "download:truncated": "Content-Length says all, and half of it comes",
    "download:slow": "the content comes in pieces, over `slow_seconds`",
    "download:wrong-length": "Content-Length says less than there is, and only that much comes",
    "download:expired": "403 as if the two hours were over",
    "download:404": "404 NoSuchKey",
    "download:500": "500 InternalError",
    "download:503": "503 SlowDown",
    "download:html": "200 with an HTML page",
    "download:301": "301 to the API origin",
    "download:302": "302 to the API origin",
    "download:307": "307 to the API origin",
    "download:no-etag": "all is well, without ETag and Last-Modified",
    "download:changed": "the same records in another order, under another ETag",
}
"""Every fault by its name, and what it does."""


class Scripted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault for the next `times` requests that match."""

    fault: str
    nth: int | None = None
    """Only the n-th listing or download since the start, from 1."""
    collection: str | None = None
    hour: str | None = None
    """`2025-05-07T23:00:00Z`"""
    object: str | None = None
    """Only a download of this object: the path of its URL, without the leading slash."""
    times: int = 1

    def __post_init__(self) -> None:
        check_names([self.fault])


class Faults:
    """Safe to use from several threads."""

    def __init__(self, rates: Mapping[str, float], seed: int) -> None:
        """Raises ConfigError for an unknown name, a rate outside 0 to 1, or rates above 1 together."""
        check_names(rates)
        for kind in ("listing", "download"):
            own = [rate for name, rate in rates.items() if name.startswith(kind)]
            if not (min(own, default=0) >= 0 and sum(own) <= 1):
                raise ConfigError(f"{kind} faults: rates from 0 to 1, and not above 1 together")
        self._rates = dict(rates)
        self._seed = seed
        self._lock = threading.Lock()
        self._script: list[Scripted] = []
        self._counts: dict[Kind, int] = {"listing": 0, "download": 0}

    def script(self, *faults: Scripted) -> None:
        """Adds faults to the script; the first that matches a request happens to it."""
        with self._lock:
            self._script += faults

    def stop(self) -> None:
        """From now on nothing fails."""
        with self._lock:
            self._script.clear()
            self._rates.clear()

    def left(self) -> int:
        """How many faults of the script have not happened yet."""
        with self._lock:
            return sum(scripted.times for scripted in self._script)

    def pick(
        self, kind: Kind, collection: str | None, hour: str | None, key: str | None = None
    ) -> str | None:
        """The name of the fault that happens to the next request of this kind, without the kind."""
        with self._lock:
            self._counts[kind] += 1
            name = self._scripted(kind, collection, hour, key) or self._by_rate(kind)
        return name and name.partition(":")[2]

    def _scripted(self, kind: Kind, collection: str | None, hour: str | None, key: str | None) -> str | None:
        for place, each in enumerate(self._script):
            if (
                each.fault.startswith(kind)
                and each.nth in (None, self._counts[kind])
                and each.collection in (None, collection)
                and each.hour in (None, hour)
                and each.object in (None, key)
            ):
                left = [replace(each, times=each.times - 1)] if each.times > 1 else []
                self._script[place : place + 1] = left
                return each.fault
        return None

    def _by_rate(self, kind: Kind) -> str | None:
        drawn = random.Random(f"{self._seed}/{kind}/{self._counts[kind]}").random()
        for name, rate in sorted(self._rates.items()):
            if name.startswith(kind):
                drawn -= rate
                if drawn < 0:
                    return name
        return None


def check_names(names: Iterable[str]) -> None:
    """Raises ConfigError that names what is unknown."""
    for name in names:
        if name not in CATALOGUE:
            raise ConfigError(f"there is no fault {name!r}; there are: {', '.join(CATALOGUE)}")
