"""What a simulated Segment is like: everything that can be chosen, with its defaults."""

import re
from typing import Literal

from msgspec import Struct, field

from faillog_otel.errors import ConfigError
from faillog_otel.segment.generator import Dialect

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
