"""How a simulated Segment behaves: its settings, its faults and its clock.

A fault has a name, such as `listing:503`; CATALOGUE describes each. Faults happen at a rate or by a script.
By rate, the outcome of the n-th listing or download depends on the seed and n only.
"""

import math
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
from faillog_otel.sandbox.incidents import Incident

Growth = Literal["append", "rewrite", "repack"]
"""How an hour grows: each later portion is a new object; one object is rewritten; all records are repacked
under new names. It is not documented which of them Segment does."""
GROWTHS: tuple[Growth, ...] = ("append", "rewrite", "repack")

Format = Literal["gzip", "jsonl", "zstd", "array"]
FORMATS: tuple[Format, ...] = ("gzip", "jsonl", "zstd", "array")

ExchangeHour = Literal["message", "logged"]
"""The hour of an exchange: that of its messages, or the one in which it was logged. It is not documented
which of them Segment does."""

Replenish = Literal["hourly", "midnight", "rolling", "window"]
"""How the quota is refilled: a twenty-fourth every hour; all at midnight UTC; each request after 24 hours;
all when a window ends, which begins with its first request."""
REPLENISHES: tuple[Replenish, ...] = ("hourly", "midnight", "rolling", "window")

Refusal = Literal["body", "retry-after", "retry-after-date", "both", "none", "html"]
"""How a 429 names the time to wait: in the body (msBeforeNext), in Retry-After (seconds or a date), in both,
or not at all (an empty body or an HTML page)."""
REFUSALS: tuple[Refusal, ...] = ("body", "retry-after", "retry-after-date", "both", "none", "html")

Form = Literal["either", "query", "body", "body-only"]
"""Where the API looks for a listing's arguments; `body-only` refuses a request with a query."""
FORMS: tuple[Form, ...] = ("either", "query", "body", "body-only")

COLLECTIONS = ("shop-mixpanel", "shop-braze", "shop-webhooks")

Feature = Literal["counts", "changes", "subscriptions"]
FEATURES: tuple[Feature, ...] = ("counts", "changes", "subscriptions")
"""What some workspaces, or tokens, lack: then the requests for it are answered with 403."""

_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)


class WorldConfig(Struct, frozen=True, kw_only=True):
    """The failures, and how Segment stores them. Rates are from 0 to 1.

    Raises ConfigError for a value that is not valid.
    """

    seed: int = 1
    collections: tuple[str, ...] = COLLECTIONS
    messages: float = 20.0
    """Failing messages in a usual hour of a collection, on average over the collections."""
    growth: tuple[Growth, ...] = GROWTHS
    """The first collection grows by the first, the second by the second, and so on, in turns."""
    formats: tuple[Format, ...] = FORMATS
    """Each object has one of them; an hour with damaged lines has no array."""
    damage: float = 0.0
    """Rate of records that are truncated."""
    dialect: Dialect = "mixed"
    """How records are written; see generator.py."""
    duplicates: float = 0.0
    """Rate of records that appear again, with the same bytes, in a later portion of their hour."""
    dead: int = 0
    """Objects a day whose download always fails: 404, 500, 503, a reset, half of it, an HTML page."""
    exchange_hour: ExchangeHour = "message"
    """Of generated failures; the exchanges of a tracked message are always in its hour."""
    incidents: tuple[Incident, ...] = ()
    """Injected failures, beside those of `messages`: with `messages=0` nothing else fails."""
    incident_messages: float = 20.0
    """Failing messages in an hour of each of them."""
    sources: int = 1
    """Collections belong to them in turns."""
    traffic: int = 0
    """Other messages in an hour of each source: delivered everywhere at the first attempt."""

    def __post_init__(self) -> None:
        if not self.collections or len(set(self.collections)) != len(self.collections):
            raise ConfigError("collections must be at least one, each once")
        for collection in self.collections:
            if not _COLLECTION.fullmatch(collection):
                raise ConfigError(
                    f"collection {collection!r} is not valid; use letters, digits, `-`, `_` and `.`"
                )
        if not 0 <= self.messages <= 1_000_000:
            raise ConfigError("messages must be from 0 to 1,000,000")
        if not self.growth or not self.formats:
            raise ConfigError("growth and formats must have at least one item")
        if not 0 <= self.dead <= 24:
            raise ConfigError("dead must be from 0 to 24 objects a day")
        self._check_rates()
        self._check_incidents()

    def _check_rates(self) -> None:
        if not 1 <= self.sources <= len(self.collections):
            raise ConfigError("sources must be from 1 to the number of collections")
        if not 0 <= self.traffic <= 100_000_000:
            raise ConfigError("traffic must be from 0 to 100,000,000")
        for name, rate in (("damage", self.damage), ("duplicates", self.duplicates)):
            if not 0 <= rate <= 1:
                raise ConfigError(f"{name} must be a rate from 0 to 1")

    def _check_incidents(self) -> None:
        if not 1 <= self.incident_messages <= 100_000:
            raise ConfigError("incident_messages must be from 1 to 100,000")
        for incident in self.incidents:
            if incident.collection not in self.collections:
                known = ", ".join(self.collections)
                raise ConfigError(f"incident {incident}: unknown collection; use one of: {known}")
            if incident.end_ns is not None and incident.end_ns <= incident.start_ns:
                raise ConfigError(f"incident {incident} ends before it starts; give a later end")


class QuotaConfig(Struct, frozen=True, kw_only=True):
    """The workspace's quota of listings. Raises ConfigError for a value that is not valid."""

    per_day: int = 120
    """With `replenish="window"`: per window."""
    replenish: Replenish = "hourly"
    window_seconds: float = 60.0
    """The length of a window."""
    headers: bool = True
    """Whether successful responses have `X-RateLimit-*` headers."""
    refusals: tuple[Refusal, ...] = ("body",)
    """How 429s name the time to wait, in turns."""
    retry_after: bool = False
    """Whether a 429 with Segment's body has Retry-After too; Segment's page does not say."""

    def __post_init__(self) -> None:
        if self.per_day < 1:
            raise ConfigError("quota must be at least 1 request")
        if not 1 <= self.window_seconds <= 86_400:
            raise ConfigError("window must be from 1 second to 1 day")
        if not self.refusals:
            raise ConfigError("refusal must have at least one item")

    @property
    def per_hour(self) -> int:
        """The hourly refill of a quota that is refilled hourly."""
        return -(-self.per_day // 24)


class SimulatorConfig(Struct, frozen=True, kw_only=True):
    """The settings of one simulator."""

    world: WorldConfig = WorldConfig()
    quota: QuotaConfig = QuotaConfig()
    token: str | None = None
    """The token that the API accepts; None generates one."""
    port: int = 0
    download_port: int = 0
    """Ports on loopback; 0 lets the system pick one."""
    faults: dict[str, float] = field(default_factory=dict)
    """The rate of each fault, by its name in CATALOGUE."""
    form: Form = "either"
    refusal: Literal[400, 415, 422] = 415
    """The status for a listing in a form that is not accepted."""
    slow_seconds: float = 1.0
    """How long a slow response takes, in real time."""
    names_per_minute: int = 200
    """The rate limit of requests for names, which is not the quota of listings."""
    names_per_page: int = 1000
    """The most names in one page."""
    counts_per_minute: int = 200
    """The rate limit of requests for counts and for changes, each."""
    lacks: tuple[Feature, ...] = ()
    """What the workspace does not have."""
    lies: tuple[str, ...] = ()
    """Ids of destinations whose failed and retried deliveries are counted as none."""


FreeKind = Literal["names", "counts", "changes"]
"""The requests that cost nothing of the quota, each with a rate limit of its own."""
Kind = Literal["listing", "download", "names", "counts", "changes"]
KINDS: tuple[Kind, ...] = ("listing", "download", "names", "counts", "changes")

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
    "listing:truncated": "counted; the response breaks off half-way",
    "listing:slow": "counted; the response takes `slow_seconds`",
    "listing:html": "200 with an HTML page, counted",
    "listing:empty-object": "200 with {}, counted",
    "listing:wrong-shape": "200 with JSON of another shape, counted",
    "listing:empty": "200 without URLs even if there are objects, counted",
    "listing:huge": "200 with 100,000 URLs, counted",
    "listing:401": "401, not counted",
    "listing:403": "403, not counted",
    "listing:404": "404 as for an unknown collection, counted",
    "listing:422": "422, counted",
    "listing:301": "301 to the download server, not counted",
    "listing:302": "302 to the download server, not counted",
    "listing:307": "307 to the download server, not counted",
    "download:reset": "the connection is reset half-way",
    "download:truncated": "Content-Length is the whole length, but only half is sent",
    "download:slow": "the response takes `slow_seconds`",
    "download:wrong-length": "Content-Length is half the length, and only half is sent",
    "download:expired": "403 as for an expired URL",
    "download:404": "404 NoSuchKey",
    "download:500": "500 InternalError",
    "download:503": "503 SlowDown",
    "download:html": "200 with an HTML page",
    "download:301": "301 to the API server",
    "download:302": "302 to the API server",
    "download:307": "307 to the API server",
    "download:no-etag": "the object without ETag and Last-Modified",
    "download:changed": "the same records in another order, with another ETag",
    **{
        f"{kind}:{name}": text
        for kind in ("names", "counts", "changes")
        for name, text in {
            "401": "401, with a credential in the message",
            "403": "403 as for a token without permission, with a credential in the message",
            "404": "404 as for a workspace without the feature, with a credential in the message",
            "429": "429 with Retry-After: 30",
            "500": "500 with a credential in the message",
            "reset": "the connection is reset",
            "slow": "the response takes `slow_seconds`",
            "html": "200 with an HTML page",
            "truncated": "200 with JSON that ends too early",
            "wrong-shape": "200 with JSON of another shape, full of credentials",
        }.items()
    },
}
"""All faults: name → what it does."""


class Scripted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault for the next `times` requests that match. Raises ConfigError for an unknown name."""

    fault: str
    nth: int | None = None
    """Matches only the n-th listing or download since the start, from 1."""
    collection: str | None = None
    hour: str | None = None
    """`2025-05-07T23:00:00Z`"""
    object: str | None = None
    """Matches only downloads of this object: the path of its URL, without the leading slash."""
    times: int = 1

    def __post_init__(self) -> None:
        check_names([self.fault])


class Faults:
    """Picks the fault of each request. Safe to use from several threads."""

    def __init__(self, rates: Mapping[str, float], seed: int) -> None:
        """Raises ConfigError for an unknown name, a rate outside 0 to 1, or a sum of rates above 1."""
        check_names(rates)
        for kind in KINDS:
            own = [rate for name, rate in rates.items() if name.startswith(kind)]
            if not (min(own, default=0) >= 0 and sum(own) <= 1):
                raise ConfigError(f"{kind} faults must have rates from 0 to 1, and a sum of at most 1")
        self._rates = dict(rates)
        self._seed = seed
        self._lock = threading.Lock()
        self._script: list[Scripted] = []
        self._counts: dict[Kind, int] = dict.fromkeys(KINDS, 0)

    def script(self, *faults: Scripted) -> None:
        """Adds faults to the script. A request meets the first that matches it."""
        with self._lock:
            self._script += faults

    def stop(self) -> None:
        """Removes all scripted faults and rates."""
        with self._lock:
            self._script.clear()
            self._rates.clear()

    def left(self) -> int:
        """The number of scripted faults that did not happen yet."""
        with self._lock:
            return sum(scripted.times for scripted in self._script)

    def pick(
        self, kind: Kind, collection: str | None, hour: str | None, key: str | None = None
    ) -> str | None:
        """The fault of the next request of this kind: its name without the kind; None for no fault."""
        with self._lock:
            self._counts[kind] += 1
            name = self._scripted(kind, collection, hour, key) or self._by_rate(kind)
        return name and name.partition(":")[2]

    def _scripted(self, kind: Kind, collection: str | None, hour: str | None, key: str | None) -> str | None:
        for index, each in enumerate(self._script):
            if (
                each.fault.startswith(kind)
                and each.nth in (None, self._counts[kind])
                and each.collection in (None, collection)
                and each.hour in (None, hour)
                and each.object in (None, key)
            ):
                left = [replace(each, times=each.times - 1)] if each.times > 1 else []
                self._script[index : index + 1] = left
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
    """Raises ConfigError for an unknown name."""
    for name in names:
        if name not in CATALOGUE:
            raise ConfigError(f"unknown fault {name!r}; use one of: {', '.join(CATALOGUE)}")


class SimulatedClock:
    """A `Clock` that can be moved. Safe to use from several threads."""

    def __init__(self, now_ns: int | None = None, *, standing: bool = False) -> None:
        """`now_ns`: the time at the start, in nanoseconds since 1970; None is the real time.

        `standing`: time passes only by `forward`, `move_to` and `wait`, and `wait` returns at once.
        """
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._standing = standing
        self._base_ns = time.time_ns() if now_ns is None else now_ns
        self._origin_ns = time.monotonic_ns()
        self._moved_ns = 0
        self._forward_ns = 0  # without moves back: monotonic() never runs backwards

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""
        with self._lock:
            return self._base_ns + self._moved_ns + self._passed_ns()

    def monotonic(self) -> float:
        """Seconds that never run backwards: a move forward counts, a move back does not."""
        with self._lock:
            return (self._forward_ns + self._passed_ns()) / SECOND_NS

    def wait(self, seconds: float) -> bool:
        """Waits, or moves a standing clock on by the time. Returns True at once after `stop`.

        A standing clock moves by whole nanoseconds, rounded up: less than one must not be waited for again
        and again.
        """
        if not self._standing:
            return self._stop.wait(max(seconds, 0.0))
        if not self._stop.is_set():
            with self._lock:
                self._move(math.ceil(max(seconds, 0.0) * SECOND_NS))
        return self._stop.is_set()

    def stop(self) -> None:
        """Ends every wait."""
        self._stop.set()

    def forward(self, seconds: float) -> None:
        """Moves the time forward; a negative number moves it back."""
        with self._lock:
            self._move(round(seconds * SECOND_NS))

    def move_to(self, now_ns: int) -> None:
        """Sets the time; a running clock goes on from there."""
        with self._lock:
            self._move(now_ns - (self._base_ns + self._moved_ns + self._passed_ns()))

    def _move(self, by_ns: int) -> None:
        self._moved_ns += by_ns
        self._forward_ns += max(by_ns, 0)

    def _passed_ns(self) -> int:
        return 0 if self._standing else time.monotonic_ns() - self._origin_ns
