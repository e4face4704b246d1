"""The quota of requests to Segment: by its rate limit, else by our count of the last 24 hours.

The guarantee: never more requests than the server's last rate limit allows, and without one never more than
`per_day` in any rolling 24 hours. A rate limit is valid until its reset. A request is recorded before it is
made and counts whatever its outcome; only a 429 does not count. (Specification 1, "Asking for an hour".)
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS

Why = Literal["wanted", "leaving", "fresh", "again", "missing", "last_call", "backfill"]
"""The purpose of a request, in order of priority."""

RESERVE_PURPOSES: frozenset[Why] = frozenset(("wanted", "leaving"))
"""Requests of a person, and hours that would be lost for good."""

MARGIN_NS = 10 * SECOND_NS
"""A request counts for a day and this margin. It covers the difference between our clock and Segment's, and
the time between sending a request and Segment counting it. A minute would cost too much: five collections,
which need the whole quota, would miss ten of 14,230 hours in 120 days (the model of
`tests/support/thirty_days.py`)."""
REQUEST_COUNTS_NS = DAY_NS + MARGIN_NS
"""After this time a request no longer counts, unless the server's window is known to be shorter."""
RATE_LIMIT_VALID_NS = HOUR_NS
"""Validity of a rate limit without a reset: some requests become available every hour."""
SIZE_KEPT_NS = DAY_NS
"""How long after its end a rate limit still determines the size of the quota."""
RESERVE_SHARE = 30
"""At most one request in this many is reserved."""

PROBE_AGAIN_NS = 60 * SECOND_NS

Granted = Literal["granted", "refused", "none"]


class RequestRecord(Struct, frozen=True):
    """One request, recorded before it was made."""

    at_ns: int
    collection: str
    why: Why
    answer: Granted = "none"
    """`refused`: a 429, which does not count. `none`: no answer yet, or a failure."""


class RateLimit(Struct, frozen=True):
    """The server's last report of its quota: the `X-RateLimit-*` headers, or the body of a 429."""

    at_ns: int
    remaining: int
    reset_ns: int | None = None
    limit: int | None = None
    """Requests in one window: consumed plus remaining."""
    window_ns: int | None = None
    """Length of the window, if two rate limits have shown that it is shorter than a day; else None, a day."""
    is_refusal: bool = False
    """It is the body of a 429, which determines the quota's size only once the window is known."""

    @property
    def ends_ns(self) -> int:
        """The end of its validity."""
        return self.at_ns + RATE_LIMIT_VALID_NS if self.reset_ns is None else self.reset_ns


class Wait(Struct, frozen=True):
    """Why no request is allowed, and until when (nanoseconds since 1970)."""

    until_ns: int
    why: str


class Quota(Struct, frozen=True, dict=True):
    """Recorded requests, the server's rate limit and the allowance. All times: nanoseconds since 1970."""

    debits: Sequence[RequestRecord] = ()
    """Ascending; at least those of the last 25 hours."""
    rate_limit: RateLimit | None = None
    not_before_ns: int = 0
    """No request before: the server asked for a pause, or it fails and we pause."""
    not_before_why: str = ""
    per_day: int = 120
    """The setting, used without a rate limit of the server."""
    reserve: int = 4
    """Kept for people, minus what they used in the last 24 hours."""

    @property
    def size(self) -> int:
        """Requests a day, as far as known."""
        return self._limit * DAY_NS // self._window_ns

    @property
    def _limit(self) -> int:
        """Requests in one window."""
        found = self.rate_limit
        if found is None or found.limit is None or (found.is_refusal and found.window_ns is None):
            return self.per_day
        return found.limit

    @property
    def _window_ns(self) -> int:
        return self.rate_limit.window_ns if self.rate_limit and self.rate_limit.window_ns else DAY_NS

    @property
    def _counts_for_ns(self) -> int:
        """After this time a request no longer counts."""
        return self._window_ns + min(MARGIN_NS, self._window_ns // 100)

    def mended(self, now_ns: int) -> "Quota":
        """Returns the quota without future times and without an outdated rate limit.

        Future times mean that the clock was set back; they become `now_ns`. The owner of the debits stores
        the mended ones, else they count until that future time has passed.
        """
        limit = self.rate_limit
        if limit is not None and limit.at_ns > now_ns:
            reset_ns = None if limit.reset_ns is None else limit.reset_ns - (limit.at_ns - now_ns)
            limit = replace(limit, at_ns=now_ns, reset_ns=reset_ns)
        if limit is not None and now_ns >= limit.ends_ns + SIZE_KEPT_NS:
            limit = None
        if self.debits and max(debit.at_ns for debit in self.debits) > now_ns:
            debits = [replace(each, at_ns=min(each.at_ns, now_ns)) for each in self.debits]
            return replace(self, debits=sorted(debits, key=_at_ns), rate_limit=limit)
        return self if limit is self.rate_limit else replace(self, rate_limit=limit)

    def with_answer(self, answer: Granted) -> "Quota":
        """Returns the quota with the answer to the last request."""
        if not self.debits:
            return self
        return replace(self, debits=[*self.debits[:-1], replace(self.debits[-1], answer=answer)])

    def left(self, now_ns: int, *, with_reserve: bool) -> int:
        """Returns how many requests are allowed now."""
        if now_ns < self.not_before_ns:
            return 0
        left = self._left(now_ns) - (0 if with_reserve else self.reserve_left(now_ns))
        return max(0, left, self.probe_allowance(now_ns))

    def wait(self, now_ns: int) -> Wait | None:
        """Returns why no request is allowed now, and until when; None if one is."""
        if self.left(now_ns, with_reserve=True):
            return None
        if now_ns < self.not_before_ns:
            return Wait(self.not_before_ns, self.not_before_why or "Segment asked for a pause")
        if (limit := self._valid_rate_limit(now_ns)) is not None:
            return Wait(limit.ends_ns, "Segment reports no remaining requests")
        used = min(self.used_since(now_ns - self._counts_for_ns), self._limit)
        why = f"{used} of {self._limit} requests are used; the next one is available then"
        return Wait(self.next_ns(now_ns), why)

    def probe_allowance(self, now_ns: int) -> int:
        """Returns 1 if the server's window is over, which allows one request whatever our count says; else 0.

        That request brings a new rate limit. If it was granted without one, our own count applies again; if
        it failed, Segment can have counted it, and the next one follows a minute later.
        """
        limit = self.rate_limit
        if limit is None or limit.reset_ns is None or now_ns < max(limit.reset_ns, self.not_before_ns):
            return 0
        later = self.debits[bisect_left(self.debits, limit.reset_ns, key=_at_ns) :]
        was_counted = any(each.answer == "granted" for each in later)
        failed_ns = max((each.at_ns for each in later if each.answer == "none"), default=0)
        return int(not was_counted and now_ns >= failed_ns + PROBE_AGAIN_NS)

    def reserve_left(self, now_ns: int) -> int:
        """Returns the unused part of the reserve."""
        if not self.reserve or self._window_ns < DAY_NS:
            return 0
        used = sum(each.why in RESERVE_PURPOSES for each in self.last_day(now_ns))
        return max(0, min(self.reserve, self._limit // RESERVE_SHARE) - used)

    def used_by_others(self, now_ns: int) -> int:
        """Returns how many requests others made: our count of the remaining ones minus the server's.

        Only while its rate limit is valid; 0 for windows shorter than a day.
        """
        if self._window_ns < DAY_NS or self._valid_rate_limit(now_ns) is None:
            return 0
        return max(0, self._own_left(now_ns) - self._left(now_ns))

    def spare(
        self, now_ns: int, needed_ns: Sequence[int], *, max_delay_ns: int, with_reserve: bool = False
    ) -> int:
        """Returns how many requests are allowed now without preventing those needed later.

        `needed_ns`: their times, ascending, one for each request; each can wait for `max_delay_ns`. A request
        made now becomes available again after its window, so only those needed before then matter.
        """
        spare = self.left(now_ns, with_reserve=with_reserve)
        kept = 0 if with_reserve else self.reserve_left(now_ns)
        limit = self._valid_rate_limit(now_ns)
        reset_ns = 0 if limit is None or limit.reset_ns is None else limit.reset_ns
        others = 0 if reset_ns else self.used_by_others(now_ns)
        for count, needed in enumerate(needed_ns, 1):
            at = needed + max_delay_ns
            if at >= now_ns + self._counts_for_ns:
                break
            if at < reset_ns:  # no request becomes available before
                there = self._left(now_ns)
            else:
                there = self._limit - self.used_since(at - self._counts_for_ns) - others
            spare = min(spare, there - kept - count)
        return max(0, spare)

    def next_ns(self, now_ns: int) -> int:
        """Returns when a request becomes available, or a pause or rate limit ends: within a day."""
        first_back = bisect_right(self._counted_ns, now_ns - self._counts_for_ns)
        changes = [at_ns + self._counts_for_ns for at_ns in self._counted_ns[first_back : first_back + 1]]
        changes.append(self.not_before_ns)
        if self.rate_limit is not None:
            changes.append(self.rate_limit.ends_ns)
            if self.debits:
                changes.append(self.debits[-1].at_ns + PROBE_AGAIN_NS)
        return min((at for at in changes if at > now_ns), default=now_ns + REQUEST_COUNTS_NS)

    def used_since(self, ns: int) -> int:
        """Returns how many requests count after this time, including future ones, without refused ones."""
        return len(self._counted_ns) - bisect_right(self._counted_ns, ns)

    @cached_property
    def _counted_ns(self) -> list[int]:
        """Times of the requests that count, ascending."""
        return [each.at_ns for each in self.debits if each.answer != "refused"]

    def last_day(self, now_ns: int) -> Sequence[RequestRecord]:
        """Returns the requests of the last 24 hours, including future ones."""
        return self.debits[bisect_right(self.debits, now_ns - REQUEST_COUNTS_NS, key=_at_ns) :]

    def with_window(self, new: RateLimit) -> RateLimit:
        """Returns a new rate limit with the length of the server's window, if the last rate limit shows it.

        If all consumed requests were available again when the last rate limit ended, a window begins there.
        The debits include the request that brought the rate limit. While a server sends headers, the body of
        a 429 is only a pause, and the last rate limit stays.
        """
        last = self.rate_limit
        if last is None or new.at_ns >= last.ends_ns + SIZE_KEPT_NS:
            return new
        if new.is_refusal and not last.is_refusal:
            return last
        if new.limit is None:
            return replace(new, limit=last.limit, window_ns=last.window_ns, is_refusal=last.is_refusal)
        if new.limit != last.limit or last.reset_ns is None or new.reset_ns is None:
            return new
        window_ns = last.window_ns
        if new.at_ns >= last.reset_ns:
            window_ns = self._window_of(last, new, last.reset_ns, new.reset_ns)
        return replace(new, window_ns=window_ns)

    def _window_of(self, last: RateLimit, new: RateLimit, began_ns: int, ends_ns: int) -> int | None:
        """Returns the length of the window that began when the last rate limit ended; None if unknown."""
        own = self._counted_ns[bisect_left(self._counted_ns, began_ns) :]
        limit = new.limit or 0
        if len(own) > limit:  # windows passed unseen: this one began with the first of its requests
            own = own[len(own) - (limit - new.remaining) :]
            began_ns = own[0] if own else began_ns
        consumed, stayed = limit - last.remaining, limit - new.remaining - len(own)
        if stayed > 0 or not own:
            return None if 2 * stayed > consumed else last.window_ns
        if 4 * consumed < limit:  # so few can also become available hour by hour
            return last.window_ns
        since_first_ns = ends_ns - own[0]
        is_close = 10 * since_first_ns >= 9 * (ends_ns - began_ns)
        window_ns = max(since_first_ns if is_close else ends_ns - began_ns, SECOND_NS)
        window_ns = min(window_ns, last.window_ns or DAY_NS)
        return window_ns if window_ns < DAY_NS else None

    def _valid_rate_limit(self, now_ns: int) -> RateLimit | None:
        """Returns the server's rate limit while it is valid."""
        return self.rate_limit if self.rate_limit is not None and now_ns < self.rate_limit.ends_ns else None

    def _left(self, now_ns: int) -> int:
        limit = self._valid_rate_limit(now_ns)
        if limit is None:
            return self._own_left(now_ns)
        back = 0
        if limit.reset_ns is None:  # then our requests become available again
            before = self.used_since(limit.at_ns - self._window_ns)
            back = max(0, before - self.used_since(now_ns - self._counts_for_ns))
        return limit.remaining - self.used_since(limit.at_ns) + back

    def _own_left(self, now_ns: int) -> int:
        return self._limit - self.used_since(now_ns - self._counts_for_ns)


def _at_ns(debit: RequestRecord) -> int:
    return debit.at_ns


def without_figures(why: str) -> str:
    """Returns the reason of a wait without its figures, to compare reasons."""
    return re.sub("[0-9]+", "", why)
