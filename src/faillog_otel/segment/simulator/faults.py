"""Which request fails, and how: by rates that the seed decides, and by a script.

A fault has a name, `listing:503` or `download:truncated`; CATALOGUE says what each does. Whether the n-th
listing or download meets a fault by rate depends on the seed and n only.
"""

import random
import threading
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.errors import ConfigError

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
