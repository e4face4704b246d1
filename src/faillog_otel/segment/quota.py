"""What may be asked of Segment: 120 requests a day, for all collections and tokens of a workspace together.

The promise: never more than `per_day` in any rolling 24 hours, whenever the server gives requests back; and
never more than the server said it has. Requests are debited before they are made, and a debit stays one,
whatever became of the request. (Specification 1, "Asking for an hour"; issue 5.)
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS

Why = Literal["wanted", "leaving", "fresh", "again", "last_call", "backfill"]
"""What a request was made for; in the order of worth."""

RESERVE_IS_FOR: frozenset[Why] = frozenset(("wanted", "leaving"))
"""A person, and an hour that would be lost for good."""

COMES_BACK_NS = DAY_NS + 10 * SECOND_NS
"""After so long a request counts no more. The ten seconds cover what our clock and Segment's differ by, and
that requests are stamped when they are sent, not when Segment counts them. A minute would cost too much: five
collections, which need all of the quota, would miss ten of 14,230 hours in 120 days (the model of
`tests/support/thirty_days.py`)."""
SHORTEST_SAYING_NS = 60 * SECOND_NS
"""A word of the server's holds as long at least, though its reset lies in the past: clocks differ."""
LONGEST_SAYING_NS = HOUR_NS
"""Some requests come back every hour: then its word is old."""


class Debit(Struct, frozen=True):
    """One request, noted before it was made."""

    at_ns: int
    collection: str
    why: Why


class Said(Struct, frozen=True):
    """What Segment's `X-RateLimit-*` headers or the body of a 429 said last."""

    at_ns: int
    remaining: int
    reset_ns: int | None = None

    @property
    def old_ns(self) -> int:
        """When it is no longer believed: one request may ask anew."""
        ends = self.at_ns + LONGEST_SAYING_NS
        if self.reset_ns is not None:
            ends = min(ends, self.reset_ns)
        return max(ends, self.at_ns + SHORTEST_SAYING_NS)


class Quota(Struct, frozen=True):
    """What was spent, what the server said, and what may be spent. All times: nanoseconds since 1970."""

    debits: Sequence[Debit] = ()
    """Ascending; those of the last 25 hours at least."""
    said: Said | None = None
    not_before_ns: int = 0
    """Nothing is asked before: a 429's msBeforeNext or Retry-After, or a pause after failures."""
    per_day: int = 120
    reserve: int = 4
    """Kept for people, as far as they have not used it in the last 24 hours."""

    def mended(self, now_ns: int) -> "Quota":
        """The same without a future: what was noted there was noted now at the latest.

        The clock was set back, unseen. Who keeps the debits stores the mended ones, else they count until
        that future has passed.
        """
        said = self.said
        if said is not None and said.at_ns > now_ns:
            said = replace(said, at_ns=now_ns)
        if self.debits and max(debit.at_ns for debit in self.debits) > now_ns:
            debits = [replace(each, at_ns=min(each.at_ns, now_ns)) for each in self.debits]
            return replace(self, debits=sorted(debits, key=lambda each: each.at_ns), said=said)
        return self if said is self.said else replace(self, said=said)

    def left(self, now_ns: int, *, with_reserve: bool) -> int:
        """How many requests may be made now."""
        if now_ns < self.not_before_ns:
            return 0
        own = self._own_left(now_ns) - (0 if with_reserve else self.kept(now_ns))
        return max(0, min(own, max(own - self.others(now_ns), self.probes(now_ns))))

    def probes(self, now_ns: int) -> int:
        """Whether the server's word is old, and one request may ask anew: 1, else 0."""
        return int(self.said is not None and now_ns >= self._may_ask_anew_ns())

    def kept(self, now_ns: int) -> int:
        """How much of the reserve was not yet used by those whom it is for."""
        if not self.reserve:
            return 0
        used = sum(each.why in RESERVE_IS_FOR for each in self.last_day(now_ns))
        return max(0, self.reserve - used)

    def others(self, now_ns: int) -> int:
        """How many requests others seem to have made: the server said so much less than we should have
        thought then. Nobody knows when those come back: after 24 hours at the latest, as ours do.
        """
        if self.said is None or now_ns - self.said.at_ns >= COMES_BACK_NS:
            return 0
        before = self.since(self.said.at_ns - COMES_BACK_NS) - self.since(self.said.at_ns)
        return max(0, self.per_day - before - self.said.remaining)

    def spare(
        self, now_ns: int, needed_ns: Sequence[int], *, patience_ns: int, with_reserve: bool = False
    ) -> int:
        """How many requests may be made now so that each of those needed later can be made, too.

        `needed_ns`: when, ascending, one time for each request; each can wait for `patience_ns`. What is
        spent now comes back in 24 hours, so only those that are needed before then matter.
        """
        spare = self.left(now_ns, with_reserve=with_reserve)
        all_of_them = self.per_day - (0 if with_reserve else self.kept(now_ns))
        for count, needed in enumerate(needed_ns, 1):
            at = needed + patience_ns
            if at >= now_ns + COMES_BACK_NS:
                break
            spare = min(spare, all_of_them - self.since(at - COMES_BACK_NS) - count)
        return max(0, spare)

    def next_ns(self, now_ns: int) -> int:
        """When a request comes back, a pause ends or a word is old: later than now, within a day."""
        first_back = bisect_right(self.debits, now_ns - COMES_BACK_NS, key=_at_ns)
        changes = [each.at_ns + COMES_BACK_NS for each in self.debits[first_back : first_back + 1]]
        changes += [self.not_before_ns, self._may_ask_anew_ns()]
        return min((at for at in changes if at > now_ns), default=now_ns + COMES_BACK_NS)

    def since(self, ns: int) -> int:
        """How many requests were debited after this time, those in the future included."""
        return len(self.debits) - bisect_right(self.debits, ns, key=_at_ns)

    def last_day(self, now_ns: int) -> Sequence[Debit]:
        """The debits of the last 24 hours, those in the future included."""
        return self.debits[bisect_right(self.debits, now_ns - COMES_BACK_NS, key=_at_ns) :]

    def _own_left(self, now_ns: int) -> int:
        return self.per_day - self.since(now_ns - COMES_BACK_NS)

    def _may_ask_anew_ns(self) -> int:
        """When one request may ask how many are left: the word is old, and nobody asked lately."""
        if self.said is None:
            return 0
        last = self.debits[-1].at_ns if self.debits else 0
        return self.said.old_ns if last < self.said.old_ns else last + LONGEST_SAYING_NS


def _at_ns(debit: Debit) -> int:
    return debit.at_ns
