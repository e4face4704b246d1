"""The requests that cost something of the quota: each is debited, made, and its answer noted."""

import random
from collections.abc import Callable

from msgspec.structs import replace

from faillog_otel.app.ledger_view import quota_of
from faillog_otel.clock import HOUR_NS, SECOND_NS, Clock
from faillog_otel.ledger.ledger import Ledger
from faillog_otel.ledger.requests import Said
from faillog_otel.segment import api
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.quota import Answer, Quota
from faillog_otel.segment.schedule import Ask

FIRST_REFUSAL_NS = 10 * SECOND_NS
"""After a 429 that does not say how long to wait; doubled for each further one in a row."""
FIRST_BROKEN_WORD_NS = SECOND_NS
"""After the second 429 in a row, at least, whatever it says; doubled for each further one."""
MAX_REFUSAL_NS = HOUR_NS
MAX_JITTER_SECONDS, JITTER_SHARE = 1.0, 0.02
"""What is added to a wait that Segment asked for."""


class Requests:
    """Used by one thread. Its methods raise NoRoom and LedgerBroken."""

    def __init__(
        self,
        ledger: Ledger,
        segment: SegmentApi,
        clock: Clock,
        hear: Callable[[api.Answered, int], object],
        per_day: int,
    ) -> None:
        """`hear` learns Segment's time from an answer; it receives also when the request was sent."""
        self.spent = 0
        """In this run."""
        self._ledger = ledger
        self._segment = segment
        self._clock = clock
        self._hear = hear
        self._per_day = per_day
        self._refusals = 0
        """429s in a row."""

    def quota(self) -> Quota:
        """What was spent and said."""
        return quota_of(self._ledger.database, self._per_day)

    def list_hour(self, ask: Ask, form: api.Form) -> api.Answered:
        """T0, the request, T1: notes all of it in the ledger."""
        request = self._ledger.debit(ask.collection, ask.hour, ask.why, self._clock.now_ns())
        self.spent += 1
        sent_ns = self._clock.now_ns()
        answered = self._segment.list_hour(ask.collection, ask.hour, form, sent_ns)
        self._hear(answered, sent_ns)
        now_ns, outcome = self._clock.now_ns(), answered.outcome
        answer: Answer = "none"
        if isinstance(outcome, api.Listing):
            answer, self._refusals = "granted", 0
            self._ledger.listed(request, ask.collection, ask.hour, outcome.urls, now_ns)
        elif isinstance(outcome, api.TooMany):
            answer = "refused"
            self._refusals += 1
        pause_ns = self._pause_after(answered)
        self._ledger.heard(
            request,
            "listed" if answer == "granted" else type(outcome).__name__.lower(),
            self._word(answered, answer, now_ns, pause_ns),
        )
        return answered

    def _word(self, answered: api.Answered, answer: Answer, now_ns: int, pause_ns: int) -> Said:
        """What the ledger remembers of an answer's word. The server's periods count from when it came."""
        until_ns = now_ns + pause_ns if pause_ns else 0
        why = getattr(answered.outcome, "why", "") if pause_ns else ""
        if (said := answered.said) is None:
            return Said(at_ns=now_ns, not_before_ns=until_ns, not_before_why=why)
        reset_ns = None if said.reset_ns is None else said.reset_ns - said.at_ns + now_ns
        quota = self.quota().answered(answer)
        # It knows of every request so far, also of one that was stamped before the clock stepped back.
        at_ns = max(now_ns, quota.debits[-1].at_ns)
        learned = quota.learned(replace(said, at_ns=at_ns, reset_ns=reset_ns))
        return Said(
            at_ns=learned.at_ns,
            remaining=learned.remaining,
            reset_ns=learned.reset_ns,
            limit=learned.limit,
            window_ns=learned.window_ns,
            is_refusal=learned.is_refusal,
            not_before_ns=until_ns,
            not_before_why=why,
        )

    def _pause_after(self, answered: api.Answered) -> int:
        """How long nothing is asked after an answer: as long as it says, and a little more.

        A server that says too little again and again is asked at longer and longer intervals: it must not
        cost the whole quota.
        """
        told_ns = answered.pause_ns
        if not isinstance(answered.outcome, api.TooMany):
            least_ns = 0
        elif told_ns is None and (answered.said is None or answered.said.remaining):
            least_ns = FIRST_REFUSAL_NS << min(self._refusals - 1, 12)
        else:
            least_ns = FIRST_BROKEN_WORD_NS << min(self._refusals - 2, 12) if self._refusals > 1 else 0
        seconds = (told_ns or 0) / SECOND_NS
        jitter = random.uniform(0.0, min(MAX_JITTER_SECONDS, JITTER_SHARE * seconds))  # no secret
        return max((told_ns or 0) + int(jitter * SECOND_NS), min(least_ns, MAX_REFUSAL_NS))
