"""What may be asked of Segment: the server's word while it holds, else our own count of the last 24 hours.

The promise: never more than the server said it has, and where it says nothing, never more than `per_day` in
any rolling 24 hours. A word holds until the time that the server names with it, and no longer. Requests are
debited before they are made, and a debit stays one, whatever the outcome; only a 429 counts nowhere.
(Specification 1, "Asking for an hour".)
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
"""What a request was made for; in the order of worth."""

RESERVE_IS_FOR: frozenset[Why] = frozenset(("wanted", "leaving"))
"""A person, and an hour that would be lost for good."""

MARGIN_NS = 10 * SECOND_NS
"""A request counts for so much longer than a day. This covers what our clock and Segment's differ by, and
that requests are stamped when they are sent, not when Segment counts them. A minute would cost too much: five
collections, which need all of the quota, would miss ten of 14,230 hours in 120 days (the model of
`tests/support/thirty_days.py`)."""
COMES_BACK_NS = DAY_NS + MARGIN_NS
"""After so long a request counts no more, where the server's windows are not known to be shorter."""
WORD_WITHOUT_END_NS = HOUR_NS
"""How long a word without a reset holds: some requests come back every hour."""
SIZE_KEPT_NS = DAY_NS
"""How long after its end a word still tells the size of the quota."""
RESERVE_SHARE = 30
"""A reserved request for so many of the quota, at most."""

PROBE_AGAIN_NS = 60 * SECOND_NS

Granted = Literal["granted", "refused", "none"]


class RequestRecord(Struct, frozen=True):
    """One request, noted before it was made."""

    at_ns: int
    collection: str
    why: Why
    answer: Granted = "none"
    """`refused`: a 429, which counts nowhere. `none`: no answer yet, or one that says neither."""


class RateLimit(Struct, frozen=True):
    """The server's last word about its quota: the `X-RateLimit-*` headers, or the body of a 429."""

    at_ns: int
    remaining: int
    reset_ns: int | None = None
    limit: int | None = None
    """Requests in one window: consumed and remaining ones."""
    window_ns: int | None = None
    """How long a window is, where two words have shown that it is shorter than a day; else a day."""
    is_refusal: bool = False
    """It is the body of a 429: of the quota's size it says nothing before its window is known."""

    @property
    def ends_ns(self) -> int:
        """Until when it holds."""
        return self.at_ns + WORD_WITHOUT_END_NS if self.reset_ns is None else self.reset_ns


class Wait(Struct, frozen=True):
    """Why nothing may be asked, and until when (nanoseconds since 1970)."""

    until_ns: int
    why: str


class Quota(Struct, frozen=True, dict=True):
    """What was spent, what the server said, and what may be spent. All times: nanoseconds since 1970."""

    debits: Sequence[RequestRecord] = ()
    """Ascending; those of the last 25 hours at least."""
    said: RateLimit | None = None
    not_before_ns: int = 0
    """Nothing is asked before: the server asked to wait, or it fails, and we do."""
    not_before_why: str = ""
    per_day: int = 120
    """The setting, which counts where the server says nothing."""
    reserve: int = 4
    """Kept for people, as far as they have not used it in the last 24 hours."""

    @property
    def size(self) -> int:
        """How many requests a day there are, as far as is known."""
        return self._limit * DAY_NS // self._window_ns

    @property
    def _limit(self) -> int:
        """Requests in one window."""
        said = self.said
        if said is None or said.limit is None or (said.is_refusal and said.window_ns is None):
            return self.per_day
        return said.limit

    @property
    def _window_ns(self) -> int:
        return self.said.window_ns if self.said and self.said.window_ns else DAY_NS

    @property
    def _comes_back_ns(self) -> int:
        """After so long a request counts no more."""
        return self._window_ns + min(MARGIN_NS, self._window_ns // 100)

    def mended(self, now_ns: int) -> "Quota":
        """The same without a future and without what is long over.

        What was noted at a later time was noted now at the latest: the clock was set back, unseen. Who keeps
        the debits stores the mended ones, else they count until that future has passed.
        """
        said = self.said
        if said is not None and said.at_ns > now_ns:
            reset_ns = None if said.reset_ns is None else said.reset_ns - (said.at_ns - now_ns)
            said = replace(said, at_ns=now_ns, reset_ns=reset_ns)
        if said is not None and now_ns >= said.ends_ns + SIZE_KEPT_NS:
            said = None
        if self.debits and max(debit.at_ns for debit in self.debits) > now_ns:
            debits = [replace(each, at_ns=min(each.at_ns, now_ns)) for each in self.debits]
            return replace(self, debits=sorted(debits, key=_at_ns), said=said)
        return self if said is self.said else replace(self, said=said)

    def answered(self, answer: Granted) -> "Quota":
        """The same with the answer to the last request."""
        if not self.debits:
            return self
        return replace(self, debits=[*self.debits[:-1], replace(self.debits[-1], answer=answer)])

    def left(self, now_ns: int, *, with_reserve: bool) -> int:
        """How many requests may be made now."""
        if now_ns < self.not_before_ns:
            return 0
        left = self._left(now_ns) - (0 if with_reserve else self.kept(now_ns))
        return max(0, left, self.probes(now_ns))

    def wait(self, now_ns: int) -> Wait | None:
        """Why nothing may be asked now, and until when; None where something may."""
        if self.left(now_ns, with_reserve=True):
            return None
        if now_ns < self.not_before_ns:
            return Wait(self.not_before_ns, self.not_before_why or "Segment asked to wait")
        if (said := self._in_force(now_ns)) is not None:
            return Wait(said.ends_ns, "Segment says that no request is left")
        used = min(self.since(now_ns - self._comes_back_ns), self._limit)
        why = f"{used} of {self._limit} requests are used, the first one comes back then"
        return Wait(self.next_ns(now_ns), why)

    def probes(self, now_ns: int) -> int:
        """Whether the server's window is over, and it may be asked whatever our own count says: 1, else 0.

        One request brings a new word. Where it was granted without one, our own count counts again; where it
        failed, which Segment may have counted, the next one comes a minute later.
        """
        said = self.said
        if said is None or said.reset_ns is None or now_ns < max(said.reset_ns, self.not_before_ns):
            return 0
        later = self.debits[bisect_left(self.debits, said.reset_ns, key=_at_ns) :]
        was_counted = any(each.answer == "granted" for each in later)
        failed_ns = max((each.at_ns for each in later if each.answer == "none"), default=0)
        return int(not was_counted and now_ns >= failed_ns + PROBE_AGAIN_NS)

    def kept(self, now_ns: int) -> int:
        """How much of the reserve was not yet used by those whom it is for."""
        if not self.reserve or self._window_ns < DAY_NS:
            return 0
        used = sum(each.why in RESERVE_IS_FOR for each in self.last_day(now_ns))
        return max(0, min(self.reserve, self._limit // RESERVE_SHARE) - used)

    def others(self, now_ns: int) -> int:
        """How many requests others seem to have made: so much less than our own count does the server say.

        Only while its word holds. Of windows that are shorter than a day nothing is put by.
        """
        if self._window_ns < DAY_NS or self._in_force(now_ns) is None:
            return 0
        return max(0, self._own_left(now_ns) - self._left(now_ns))

    def spare(
        self, now_ns: int, needed_ns: Sequence[int], *, patience_ns: int, with_reserve: bool = False
    ) -> int:
        """How many requests may be made now so that each of those needed later can be made, too.

        `needed_ns`: when, ascending, one time for each request; each can wait for `patience_ns`. What is
        spent now comes back when its window is over, so only those that are needed before then matter.
        """
        spare = self.left(now_ns, with_reserve=with_reserve)
        kept = 0 if with_reserve else self.kept(now_ns)
        said = self._in_force(now_ns)
        reset_ns = 0 if said is None or said.reset_ns is None else said.reset_ns
        others = 0 if reset_ns else self.others(now_ns)
        for count, needed in enumerate(needed_ns, 1):
            at = needed + patience_ns
            if at >= now_ns + self._comes_back_ns:
                break
            if at < reset_ns:  # until then nothing comes back
                there = self._left(now_ns)
            else:
                there = self._limit - self.since(at - self._comes_back_ns) - others
            spare = min(spare, there - kept - count)
        return max(0, spare)

    def next_ns(self, now_ns: int) -> int:
        """When a request comes back, a pause ends or a word does: later than now, within a day."""
        first_back = bisect_right(self._counted_ns, now_ns - self._comes_back_ns)
        changes = [at_ns + self._comes_back_ns for at_ns in self._counted_ns[first_back : first_back + 1]]
        changes.append(self.not_before_ns)
        if self.said is not None:
            changes.append(self.said.ends_ns)
            if self.debits:
                changes.append(self.debits[-1].at_ns + PROBE_AGAIN_NS)
        return min((at for at in changes if at > now_ns), default=now_ns + COMES_BACK_NS)

    def since(self, ns: int) -> int:
        """How many requests were debited after this time, those in the future included; no refused ones."""
        return len(self._counted_ns) - bisect_right(self._counted_ns, ns)

    @cached_property
    def _counted_ns(self) -> list[int]:
        """When requests were debited that count, ascending."""
        return [each.at_ns for each in self.debits if each.answer != "refused"]

    def last_day(self, now_ns: int) -> Sequence[RequestRecord]:
        """The debits of the last 24 hours, those in the future included."""
        return self.debits[bisect_right(self.debits, now_ns - COMES_BACK_NS, key=_at_ns) :]

    def learned(self, said: RateLimit) -> RateLimit:
        """A new word, with what it and the last one show together: how long the server's windows are.

        Where all that was consumed came back when the last word ended, a window begins there. The debits hold
        the request that brought the word. While a server speaks in headers, the body of a 429 is a pause and
        nothing more: then the last word stays.
        """
        last = self.said
        if last is None or said.at_ns >= last.ends_ns + SIZE_KEPT_NS:
            return said
        if said.is_refusal and not last.is_refusal:
            return last
        if said.limit is None:
            return replace(said, limit=last.limit, window_ns=last.window_ns, is_refusal=last.is_refusal)
        if said.limit != last.limit or last.reset_ns is None or said.reset_ns is None:
            return said
        window_ns = last.window_ns
        if said.at_ns >= last.reset_ns:
            window_ns = self._window_of(last, said, last.reset_ns, said.reset_ns)
        return replace(said, window_ns=window_ns)

    def _window_of(self, last: RateLimit, said: RateLimit, began_ns: int, ends_ns: int) -> int | None:
        """How long the window is that began when the last word ended; None where that is not known."""
        own = self._counted_ns[bisect_left(self._counted_ns, began_ns) :]
        limit = said.limit or 0
        if len(own) > limit:  # windows went by without a word: this one began with the first of its requests
            own = own[len(own) - (limit - said.remaining) :]
            began_ns = own[0] if own else began_ns
        consumed, stayed = limit - last.remaining, limit - said.remaining - len(own)
        if stayed > 0 or not own:
            return None if 2 * stayed > consumed else last.window_ns
        if 4 * consumed < limit:  # so little may come back hour by hour, too
            return last.window_ns
        since_first_ns = ends_ns - own[0]
        is_close = 10 * since_first_ns >= 9 * (ends_ns - began_ns)
        window_ns = max(since_first_ns if is_close else ends_ns - began_ns, SECOND_NS)
        window_ns = min(window_ns, last.window_ns or DAY_NS)
        return window_ns if window_ns < DAY_NS else None

    def _in_force(self, now_ns: int) -> RateLimit | None:
        """The server's word, while it holds."""
        return self.said if self.said is not None and now_ns < self.said.ends_ns else None

    def _left(self, now_ns: int) -> int:
        said = self._in_force(now_ns)
        if said is None:
            return self._own_left(now_ns)
        back = 0
        if said.reset_ns is None:  # then requests of ours come back meanwhile
            before = self.since(said.at_ns - self._window_ns)
            back = max(0, before - self.since(now_ns - self._comes_back_ns))
        return said.remaining - self.since(said.at_ns) + back

    def _own_left(self, now_ns: int) -> int:
        return self._limit - self.since(now_ns - self._comes_back_ns)


def _at_ns(debit: RequestRecord) -> int:
    return debit.at_ns


def without_figures(why: str) -> str:
    """What a wait is for, whatever its figures are."""
    return re.sub("[0-9]+", "", why)
