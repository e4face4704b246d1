"""Pools of hours that are due, and the turns of the collections. Used by the planner."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from faillog_otel.segment.quota import Quota, Why


class ListingRequest(Struct, frozen=True):
    """One listing to make."""

    collection: str
    hour: int
    why: Why
    due_ns: int
    reason: str = ""
    """What Segment's counts say of the hour, for people; empty: nothing, or it was read before."""


class Turns:
    """Turns of the collections: the fewest requests in 24 hours first, then the longest ago."""

    def __init__(self, quota: Quota, now_ns: int) -> None:
        self._now_ns = now_ns
        self._counts = Counter(each.collection for each in quota.last_day(now_ns))
        self._last = {each.collection: each.at_ns for each in quota.debits}

    def key(self, name: str) -> tuple[int, int]:
        """Returns the order of a collection: the lowest is next."""
        return self._counts[name], self._last.get(name, 0)

    def took(self, name: str) -> None:
        """Counts a request."""
        self._counts[name] += 1
        self._last[name] = self._now_ns


Due = Callable[[str, int], int]
"""When an hour of a collection became due."""
Reason = Callable[[str, int], str]


class Pool:
    """The hours that are due for one purpose, by collection, the newest or the oldest first."""

    def __init__(
        self,
        why: Why,
        due_ns: Due,
        *,
        newest_first: bool,
        reason: Reason | None = None,
        order: Callable[[str, int], Any] | None = None,
    ) -> None:
        """`order`: overrides the order of a collection's hours; the highest is first."""
        self.why = why
        self.size = 0
        self._due_ns = due_ns
        self._newest_first = newest_first
        self._reason = reason
        self._order = order
        self._hours: dict[str, list[int]] = {}

    def add(self, collection: str, hours: Sequence[int]) -> None:
        """Adds hours of a collection."""
        if hours:
            self._hours.setdefault(collection, []).extend(hours)
            self.size += len(hours)

    def take(self, count: int, turns: Turns) -> Iterator[ListingRequest]:
        """Yields at most `count` requests, each for the collection that is next in turn."""
        if count <= 0:
            return
        queue = [(turns.key(name), name) for name in self._hours]
        heapq.heapify(queue)
        for name, hours in self._hours.items():
            self._sort(name, hours)
        while queue and count:
            _, name = heapq.heappop(queue)
            hour = self._hours[name].pop()
            reason = self._reason(name, hour) if self._reason else ""
            yield ListingRequest(name, hour, self.why, self._due_ns(name, hour), reason)
            count -= 1
            self.size -= 1
            turns.took(name)
            if self._hours[name]:
                heapq.heappush(queue, (turns.key(name), name))

    def _sort(self, name: str, hours: list[int]) -> None:
        """Sorts hours so that the next one is the last."""
        if (order := self._order) is None:
            hours.sort(reverse=not self._newest_first)
        else:
            hours.sort(key=lambda hour: order(name, hour))


class RankedPool:
    """Hours by their score, whatever their collection; of the same score the newest first."""

    def __init__(self, due_ns: Due, reason: Reason) -> None:
        self._due_ns = due_ns
        self._reason = reason
        self._hours: list[tuple[float, int, str, Why]] = []

    @property
    def size(self) -> int:
        """How many hours it has."""
        return len(self._hours)

    def add(self, collection: str, hour: int, score: float, why: Why) -> None:
        """Adds an hour."""
        self._hours.append((score, hour, collection, why))

    def take(self, count: int, turns: Turns) -> Iterator[ListingRequest]:
        """Yields at most `count` requests."""
        if count <= 0:
            return
        self._hours.sort()
        for _ in range(min(count, len(self._hours))):
            _, hour, name, why = self._hours.pop()
            turns.took(name)
            yield ListingRequest(name, hour, why, self._due_ns(name, hour), self._reason(name, hour))

    def waiting(self) -> Counter[Why]:
        """Returns how many hours it has for each purpose."""
        return Counter(why for *_, why in self._hours)
