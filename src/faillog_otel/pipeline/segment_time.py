"""Learns Segment's time from its answers, and corrects the ledger's times by it.

The machine's clock may be wrong. Nothing is spent of the quota before Segment's Date is known, and nothing is
closed by age. To learn it costs nothing: the check of the token is answered with a Date, too.
"""

import logging
import math
from collections.abc import Callable

from faillog_otel.clock import AGREES_NS, SECOND_NS, SegmentClock, duration_text, time_text
from faillog_otel.ledger import Ledger
from faillog_otel.segment.api import ApiAnswer, SegmentApi

_log = logging.getLogger(__name__)

AGREED = "agreed time"
"""The fact when Segment's clock and the machine's agreed last, in nanoseconds since 1970."""
AHEAD = "machine ahead"
"""The fact how far the machine's clock was ahead of Segment's when that was said last, in nanoseconds."""
MAX_CHECKS = 3
"""After so many checks without a usable Date the machine's clock has to do, if Segment answers."""
MAX_PAUSE_SECONDS = 300.0


class SegmentTime:
    """Sets the clock by Segment's answers. Used by one thread. Its methods raise NoRoom and LedgerBroken."""

    def __init__(
        self,
        ledger: Ledger,
        segment: SegmentApi,
        clock: SegmentClock,
        on_set: Callable[[int], object],
        wait_seconds: float = math.inf,
    ) -> None:
        """`on_set` is called when the time is known first, and when it was set by more than minutes.

        Its argument says by how much, in nanoseconds. `wait_seconds`: see `may_check_again`.
        """
        self.is_known = False
        """Whether hours may be counted by the clock: Segment's Date was seen, or its answers have none."""
        self.failed_checks = 0
        """In a row."""
        self.why_unknown = ""
        """Why the last check brought no time."""
        self._ledger = ledger
        self._segment = segment
        self._clock = clock
        self._on_set = on_set
        self._wait_seconds = wait_seconds
        self._failing_since = 0.0
        """When the first of the failed checks in a row began; monotonic."""
        self._known_since_ns = 0
        self._said_ahead_ns: int | None = None
        """How far the machine's clock was ahead when that was said last."""
        self._check_at: float | None = clock.monotonic()  # None: no check is needed

    @property
    def is_check_due(self) -> bool:
        """Whether `check` is to be called now: the time is not known, or the machine's clock was set."""
        if self._check_at is None and self._was_machine_set:
            self._check_at = self._clock.monotonic()
        return self._check_at is not None and self._clock.monotonic() >= self._check_at

    @property
    def _was_machine_set(self) -> bool:
        said_ns = self._said_ahead_ns
        return said_ns is None or abs(self._clock.ahead_ns - said_ns) > AGREES_NS

    @property
    def may_check_again(self) -> bool:
        """Whether another check is worth it for a run that ends by itself: few failed, and not for long."""
        failing_seconds = self._clock.monotonic() - self._failing_since
        return self.failed_checks < MAX_CHECKS and failing_seconds < self._wait_seconds

    @property
    def next_check_ns(self) -> int:
        """When the next check is due, nanoseconds since 1970."""
        now = self._clock.monotonic()
        return self._clock.now_ns() + int(max(0.0, (self._check_at or now) - now) * SECOND_NS)

    def check(self) -> ApiAnswer:
        """Asks what costs no request of the quota; the answer also says whether the token is good."""
        if not self.is_known:
            self._clock.follow_machine()
        if not self.failed_checks:
            self._failing_since = self._clock.monotonic()
        sent_ns = self._clock.now_ns()
        answered = self._segment.check_token(sent_ns)
        self.hear(answered, sent_ns)
        if self._check_at is not None:
            self._check_failed(answered)
        return answered

    def hear(self, answered: ApiAnswer, sent_ns: int) -> None:
        """Sets the clock by an answer's Date. `sent_ns`: what it showed when the request was sent."""
        was_checked = self._clock.is_checked
        if answered.date_ns is None:
            return
        by_ns = self._clock.take_date(answered.date_ns, sent_ns)
        if by_ns is None:
            _log.warning("Segment's answer has an impossible Date, %s: ignored", time_text(answered.date_ns))
            return
        if not self.is_known:
            self._settle(0)
        elif not was_checked:
            self._ledger.move_requests(self._known_since_ns, by_ns)
            self._settle(by_ns)
        elif abs(by_ns) > AGREES_NS:
            self._settle(by_ns)
        self.failed_checks, self._check_at = 0, None
        self._say_how_far_ahead()

    def _settle(self, by_ns: int) -> None:
        self._known_since_ns = self._clock.now_ns()
        self._ledger.mend_future(self._known_since_ns)
        self.is_known = True
        self._on_set(by_ns)

    def _check_failed(self, answered: ApiAnswer) -> None:
        pause = min(2.0 ** min(self.failed_checks, 16), MAX_PAUSE_SECONDS)
        self._check_at = self._clock.monotonic() + pause
        self.failed_checks += 1
        if not answered.is_answered:
            why = getattr(answered.outcome, "why", "")
        elif self.is_known or self._clock.is_plausible:
            if self.failed_checks >= MAX_CHECKS:
                self._go_unchecked()
            return
        else:
            why = "its answers have no usable Date, and this machine's clock is wrong: set it"
        if why != self.why_unknown and not getattr(answered.outcome, "is_permanent", False):
            _log.warning(
                "Segment's time is unknown: %s (this machine's clock shows %s); no hour is listed until then;"
                " trying again",
                why,
                time_text(self._clock.now_ns() + self._clock.ahead_ns),
            )
        self.why_unknown = why

    def _go_unchecked(self) -> None:
        """Segment answers, and does not say what time it is."""
        if not self.is_known:
            _log.warning(
                "Segment's answers have no usable Date; this machine's clock was not checked: hours go by it,"
                " and none is removed from the ledger; make sure that it is right"
            )
            self._settle(0)
        self._said_ahead_ns = self._clock.ahead_ns
        self.failed_checks, self._check_at = 0, None

    def _say_how_far_ahead(self) -> None:
        if not self._was_machine_set:
            return
        ahead_ns = self._clock.ahead_ns
        self._said_ahead_ns = ahead_ns
        self._ledger.note(AHEAD, str(ahead_ns))
        if abs(ahead_ns) <= AGREES_NS:
            _log.info("this machine's clock agrees with Segment's")
            return
        _log.warning(
            "this machine's clock is %s Segment's: using Segment's time; set this machine's clock",
            ahead_text(ahead_ns),
        )


def ahead_text(ahead_ns: int) -> str:
    """How far a clock is ahead of another one, for people: `4 d 2 h ahead of`, `12 min behind`."""
    minutes = (abs(ahead_ns) / SECOND_NS + 30) // 60
    return f"{duration_text(60 * minutes)} {'ahead of' if ahead_ns > 0 else 'behind'}"


def follow_segment(clock: SegmentClock, segment: SegmentApi) -> None:
    """Asks once what time it is at Segment, for a command that asks nothing else before it needs the time.

    Costs no request of the quota. Without a usable Date the clock goes on showing the machine's time.
    """
    sent_ns = clock.now_ns()
    answered = segment.check_token(sent_ns)
    if answered.date_ns is not None:
        clock.take_date(answered.date_ns, sent_ns)
    if abs(clock.ahead_ns) > AGREES_NS:
        _log.warning("this machine's clock is %s Segment's: using Segment's time", ahead_text(clock.ahead_ns))
