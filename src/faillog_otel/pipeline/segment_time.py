"""Sets the clock by Segment's answers, corrects the ledger's times, and derives which hours are wanted.

The machine's clock can be wrong. No request is debited and no hour is closed by age before Segment's time is
known. The check of the token, which is answered with a Date, costs nothing of the quota.
"""

import logging
import math
from collections.abc import Callable

from msgspec.structs import replace

from faillog_otel.clock import AGREES_NS, SECOND_NS, SegmentClock, duration_text, time_text
from faillog_otel.ledger import Ledger
from faillog_otel.ledger.facts import ASKED_SINCE, NOBODY, SINCE, UNCHECKED_SINCE, unchecked_since_ns
from faillog_otel.segment.answers import ApiAnswer
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.hours import ScheduleConfig

_log = logging.getLogger(__name__)

AGREED = "agreed time"
"""The fact when Segment's clock and the machine's agreed last, in nanoseconds since 1970."""
AHEAD = "machine ahead"
"""The fact how far the machine's clock was ahead of Segment's when that was logged last, in nanoseconds."""
MAX_CHECKS = 3
"""Checks that Segment answers without a usable Date, before the machine's clock is used unchecked."""
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
        """`on_set` is called when the time is first known, and after corrections of some minutes or more.

        Its argument is the correction, in nanoseconds. `wait_seconds`: see `can_retry`.
        """
        self.is_known = False
        """Whether hours can be counted by the clock: an answer had a Date, or enough answers had none."""
        self.failed_checks = 0
        """In a row."""
        self.why_unknown = ""
        """Why the last check gave no time."""
        self._ledger = ledger
        self._segment = segment
        self._clock = clock
        self._on_set = on_set
        self._wait_seconds = wait_seconds
        self._failing_since = 0.0
        """When the first of the failed checks in a row began; monotonic."""
        self._known_since_ns = 0
        self._logged_ahead_ns: int | None = None
        """How far the machine's clock was ahead when that was logged last."""
        self._check_at: float | None = clock.monotonic()  # None: no check is needed

    @property
    def is_check_due(self) -> bool:
        """Whether to call `check` now: the time is not known, or the machine's clock was set."""
        if self._check_at is None and self._was_machine_set:
            self._check_at = self._clock.monotonic()
        return self._check_at is not None and self._clock.monotonic() >= self._check_at

    @property
    def _was_machine_set(self) -> bool:
        logged_ns = self._logged_ahead_ns
        return logged_ns is None or abs(self._clock.ahead_ns - logged_ns) > AGREES_NS

    @property
    def can_retry(self) -> bool:
        """Whether a run that ends by itself checks again: few checks failed, for less than `wait_seconds`."""
        failing_seconds = self._clock.monotonic() - self._failing_since
        return self.failed_checks < MAX_CHECKS and failing_seconds < self._wait_seconds

    @property
    def next_check_ns(self) -> int:
        """When the next check is due, in nanoseconds since 1970."""
        now = self._clock.monotonic()
        return self._clock.now_ns() + int(max(0.0, (self._check_at or now) - now) * SECOND_NS)

    def check(self) -> ApiAnswer:
        """Sets the clock by a request that costs nothing of the quota, and also checks the token."""
        if not self.is_known:
            self._clock.follow_machine()
        if not self.failed_checks:
            self._failing_since = self._clock.monotonic()
        sent_ns = self._clock.now_ns()
        answered = self._segment.check_token(sent_ns)
        self.take_date(answered, sent_ns)
        if self._check_at is not None:
            self._check_failed(answered)
        return answered

    def take_date(self, answered: ApiAnswer, sent_ns: int) -> bool:
        """Sets the clock by an answer's Date; returns whether times in the ledger were corrected.

        `sent_ns`: the clock's time when the request was sent.
        """
        was_checked = self._clock.is_checked
        if answered.date_ns is None:
            return False
        by_ns = self._clock.take_date(answered.date_ns, sent_ns)
        if by_ns is None:
            _log.warning("Segment's answer has an impossible Date, %s; ignored", time_text(answered.date_ns))
            return False
        is_correction = not self.is_known or not was_checked or abs(by_ns) > AGREES_NS
        if not self.is_known:
            self._set(0)
        elif is_correction:
            if not was_checked:
                self._ledger.move_requests(self._known_since_ns, by_ns)
            self._set(by_ns)
        self.failed_checks, self._check_at = 0, None
        self._log_ahead()
        return is_correction

    def _set(self, by_ns: int) -> None:
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
            why = "its answers have no usable Date, and this machine's clock is wrong; set it"
        if why != self.why_unknown and not getattr(answered.outcome, "is_permanent", False):
            _log.warning(
                "Segment's time is unknown: %s (this machine's clock shows %s); no hour is listed before it"
                " is known; retrying",
                why,
                time_text(self._clock.now_ns() + self._clock.ahead_ns),
            )
        self.why_unknown = why

    def _go_unchecked(self) -> None:
        """Uses the machine's clock, because Segment's answers have no Date."""
        if not self.is_known:
            _log.warning(
                "Segment's answer has no Date header; the clock was not checked; make sure that it is right:"
                " hours are counted by it, and none is removed from the ledger"
            )
            self._set(0)
        self._logged_ahead_ns = self._clock.ahead_ns
        self.failed_checks, self._check_at = 0, None

    def _log_ahead(self) -> None:
        if not self._was_machine_set:
            return
        ahead_ns = self._clock.ahead_ns
        self._logged_ahead_ns = ahead_ns
        self._ledger.note(AHEAD, str(ahead_ns))
        if abs(ahead_ns) <= AGREES_NS:
            _log.info("this machine's clock agrees with Segment's")
            return
        _log.warning(
            "this machine's clock is %s Segment's; using Segment's time; set this machine's clock",
            ahead_text(ahead_ns),
        )


class WantedHours:
    """The hours that a run polls, counted by the best clock that is known. Raises as SegmentTime does."""

    def __init__(
        self, ledger: Ledger, schedule: Callable[[int], ScheduleConfig], clock: SegmentClock
    ) -> None:
        """`schedule` returns what is wanted at a time, in nanoseconds since 1970."""
        self.schedule = schedule(clock.now_ns())
        """What is wanted; by the machine's clock until Segment's time is known."""
        self._ledger = ledger
        self._schedule_at = schedule
        self._clock = clock
        self._started = clock.monotonic()
        self._is_noted = False
        self._is_checked = False

    def note_unchecked(self, now_ns: int) -> None:
        """Notes since when hours are wanted, for a run that ends before Segment's time is known."""
        if self._is_noted:
            return
        since_ns = self._schedule_at(now_ns - self._running_ns).since_ns
        noted = unchecked_since_ns(self._ledger, now_ns)
        since_ns = since_ns if noted is None else min(since_ns, noted)
        self._ledger.note(UNCHECKED_SINCE, f"{since_ns} {now_ns}")
        self._is_noted = True

    def on_time_set(self, _by_ns: int) -> None:
        """Derives what is wanted from Segment's time, and notes it."""
        if self._is_checked:
            return
        self._is_checked = self._clock.is_checked
        now_ns, ledger = self._clock.now_ns(), self._ledger
        self.schedule = self._schedule_at(now_ns - self._running_ns)
        if (unchecked := unchecked_since_ns(ledger, now_ns + self._clock.ahead_ns)) is not None:
            since_ns = min(self.schedule.since_ns, unchecked - self._clock.ahead_ns)
            self.schedule = replace(self.schedule, since_ns=since_ns)
        noted = ledger.fact_ns(SINCE)
        if noted is None or self.schedule.since_ns < noted:
            ledger.note(SINCE, str(self.schedule.since_ns))
            _log.info("polling hours since %s", time_text(self.schedule.since_ns))
        if unchecked is not None:
            ledger.note(UNCHECKED_SINCE, "")
        asked_ns = self.schedule.asked_since_ns
        ledger.note(ASKED_SINCE, NOBODY if asked_ns is None else str(asked_ns))

    @property
    def _running_ns(self) -> int:
        """How long this run has been going on."""
        return round((self._clock.monotonic() - self._started) * SECOND_NS)


def ahead_text(ahead_ns: int) -> str:
    """Returns how far a clock is ahead of another one: `4 d 2 h ahead of`, `12 min behind`."""
    minutes = (abs(ahead_ns) / SECOND_NS + 30) // 60
    return f"{duration_text(60 * minutes)} {'ahead of' if ahead_ns > 0 else 'behind'}"


def follow_segment(clock: SegmentClock, segment: SegmentApi) -> None:
    """Sets a clock by Segment's time, with one request that costs nothing of the quota.

    Without a usable Date in the answer, the clock continues to show the machine's time.
    """
    sent_ns = clock.now_ns()
    answered = segment.check_token(sent_ns)
    if answered.date_ns is not None:
        clock.take_date(answered.date_ns, sent_ns)
    if abs(clock.ahead_ns) > AGREES_NS:
        _log.warning("this machine's clock is %s Segment's; using Segment's time", ahead_text(clock.ahead_ns))
