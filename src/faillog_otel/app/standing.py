"""How things stand, read from the ledger: the gauges of our own metrics, and whether the program is ready.

Is asked from the threads of those who ask. The ledger is only read.
"""

from collections.abc import Callable

from faillog_otel.app.answers import Answers
from faillog_otel.app.ledger_view import hour_views, quota_of
from faillog_otel.clock import SECOND_NS, Clock
from faillog_otel.errors import FaillogError
from faillog_otel.ledger.database import Database
from faillog_otel.ledger.views import newest_logged, pending_records
from faillog_otel.segment.coverage import expires_soon, unread_hours
from faillog_otel.segment.schedule import ScheduleConfig, reads_per_hour
from faillog_otel.telemetry.check import Check
from faillog_otel.telemetry.measuring import Gauge
from faillog_otel.telemetry.pulse import Pulse

ANSWERS_LATELY_SECONDS = 60.0
"""A collector may be restarted without being missed."""


class Standing:
    """The standing of a polling run. `clock` is the one that the hours go by."""

    def __init__(
        self,
        database: Database,
        schedule: Callable[[], ScheduleConfig],
        clock: Clock,
        requests_per_day: int = 120,
    ) -> None:
        self._requests_per_day = requests_per_day
        self._database = database
        self._schedule = schedule
        self._clock = clock

    def gauges(self) -> tuple[Gauge, ...]:
        """What there is to look at, as the README lists it."""
        return (
            Gauge(
                "faillog.pending",
                "{record}",
                "Records that were downloaded and not delivered yet",
                lambda: {"": pending_records(self._database)},
            ),
            Gauge(
                "faillog.budget.remaining",
                "{request}",
                "Requests that may be made of Segment now",
                lambda: {"": self._requests_left()},
            ),
            Gauge(
                "faillog.coverage.gap.hours",
                "h",
                "Hours that are due and were not read",
                lambda: {name: len(hours) for name, hours in self.unread().items()},
                attribute="collection",
            ),
            Gauge(
                "faillog.lag.seconds",
                "s",
                "How long ago the newest exported record was logged by Segment",
                lambda: {
                    name: (self._clock.now_ns() - newest_ns) / SECOND_NS
                    for name, newest_ns in newest_logged(self._database).items()
                },
                attribute="collection",
            ),
            Gauge(
                "faillog.last_logged_at",
                "s",
                "When the newest exported record was logged by Segment, seconds since 1970",
                lambda: {
                    name: newest_ns / SECOND_NS for name, newest_ns in newest_logged(self._database).items()
                },
                attribute="collection",
            ),
        )

    def ledger(self) -> Check:
        """Whether the ledger can be read."""
        try:
            pending = pending_records(self._database)
        except FaillogError:
            return Check(ok=False, why="the ledger cannot be read")
        return Check(ok=True, why=f"{pending} records pending")

    def hours(self) -> Check:
        """Whether no hour is about to expire unread."""
        try:
            unread, now_ns = self.unread(), self._clock.now_ns()
        except FaillogError:
            return Check(ok=False, why="the ledger cannot be read")
        late = sum(expires_soon(now_ns, hour) for hours in unread.values() for hour in hours)
        if late:
            return Check(ok=False, why=f"{late} hours leave Segment within a day, unread")
        return Check(ok=True, why=f"{sum(map(len, unread.values()))} hours due, none of them leaves soon")

    def unread(self) -> dict[str, list[int]]:
        """Collection → the hours that are due and were not read, ascending."""
        now_ns, schedule = self._clock.now_ns(), self._schedule()
        reads = reads_per_hour(quota_of(self._database, self._requests_per_day), len(schedule.collections))
        return unread_hours(now_ns, hour_views(self._database, now_ns), schedule, reads)

    def _requests_left(self) -> int:
        now_ns = self._clock.now_ns()
        return quota_of(self._database, self._requests_per_day).mended(now_ns).left(now_ns, with_reserve=True)


def collector(answers: Answers) -> Check:
    """Whether the collector answered lately, if it was asked."""
    missing = answers.missing_seconds()
    if missing > ANSWERS_LATELY_SECONDS:
        return Check(ok=False, why=f"nothing acknowledged for {missing:.0f} s")
    return Check(ok=True, why="what was sent was acknowledged, or is under way" if missing else "no failure")


def loops(pulse: Pulse) -> Check:
    """Whether the loops turn."""
    late = [f"{loop} has not turned for {seconds:.0f} s" for loop, seconds in pulse.late().items()]
    return Check(ok=not late, why="; ".join(late) or "turning")
