"""What a run asks for: which hours of which collections, counted by the best clock that is known."""

import logging
from collections.abc import Callable

from msgspec.structs import replace

from faillog_otel.app.ledger_view import ASKED_SINCE, NOBODY, SINCE, UNCHECKED_SINCE, unchecked_since_ns
from faillog_otel.clock import SECOND_NS, SegmentClock, time_text
from faillog_otel.ledger.ledger import Ledger
from faillog_otel.ledger.views import fact_ns
from faillog_otel.segment.schedule import ScheduleConfig

_log = logging.getLogger(__name__)


class Wanted:
    """Used by one thread. Its methods raise NoRoom and LedgerBroken."""

    def __init__(
        self, ledger: Ledger, schedule: Callable[[int], ScheduleConfig], clock: SegmentClock
    ) -> None:
        """`schedule` gives what is asked for, by the time, nanoseconds since 1970."""
        self.schedule = schedule(clock.now_ns())
        """What is asked for; until Segment's time is known, as far as the machine's clock tells."""
        self._ledger = ledger
        self._schedule_at = schedule
        self._clock = clock
        self._started = clock.monotonic()
        self._is_kept = False
        self._is_checked = False

    def keep(self, now_ns: int) -> None:
        """Notes since when hours are wanted, for a run that ends before Segment's time is known."""
        if self._is_kept:
            return
        since_ns = self._schedule_at(now_ns - self._running_ns).since_ns
        kept = unchecked_since_ns(self._ledger.database, now_ns)
        since_ns = since_ns if kept is None else min(since_ns, kept)
        self._ledger.note(UNCHECKED_SINCE, f"{since_ns} {now_ns}")
        self._is_kept = True

    def on_time_set(self, _by_ns: int) -> None:
        """Derives what is asked for from Segment's time, and notes it."""
        if self._is_checked:
            return
        self._is_checked = self._clock.is_checked
        now_ns, ledger = self._clock.now_ns(), self._ledger
        self.schedule = self._schedule_at(now_ns - self._running_ns)
        if (unchecked := unchecked_since_ns(ledger.database, now_ns + self._clock.ahead_ns)) is not None:
            since_ns = min(self.schedule.since_ns, unchecked - self._clock.ahead_ns)
            self.schedule = replace(self.schedule, since_ns=since_ns)
        noted = fact_ns(ledger.database, SINCE)
        if noted is None or self.schedule.since_ns < noted:
            ledger.note(SINCE, str(self.schedule.since_ns))
            _log.info("hours since %s are wanted", time_text(self.schedule.since_ns))
        if unchecked is not None:
            ledger.note(UNCHECKED_SINCE, "")
        asked_ns = self.schedule.asked_since_ns
        ledger.note(ASKED_SINCE, NOBODY if asked_ns is None else str(asked_ns))

    @property
    def _running_ns(self) -> int:
        """How long this run has been going on."""
        return round((self._clock.monotonic() - self._started) * SECOND_NS)
