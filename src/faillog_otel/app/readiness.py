"""The state of a run for monitoring: gauges, the checks of `/healthz` and `/readyz`, and hours not read yet.

Called from the metric and health threads; reads the ledger, never writes.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

from faillog_otel.clock import DAY_NS, HOUR_NS, RETENTION_NS, SECOND_NS, Clock, hour_of
from faillog_otel.config import SegmentConfig, Signal
from faillog_otel.errors import FaillogError
from faillog_otel.ledger import LedgerReader
from faillog_otel.ledger.facts import newest_logged
from faillog_otel.otlp.outcome import (
    Acknowledged,
    Doubtful,
    Outcome,
    PartlyRejected,
    Refused,
    RetryLater,
    TooLarge,
)
from faillog_otel.otlp.sender import Client
from faillog_otel.reports.completeness import shares_of_last_day
from faillog_otel.segment.hours import READ_AFTER_HOURS, HourView, ScheduleConfig, reads_per_hour
from faillog_otel.telemetry import Check, Gauge, Heartbeat, Telemetry
from faillog_otel.text import counted

OUTCOMES: dict[type[Outcome], str] = {
    Acknowledged: "acknowledged",
    PartlyRejected: "partly_rejected",
    RetryLater: "retry_later",
    TooLarge: "too_large",
    Doubtful: "doubtful",
    Refused: "refused",
}
"""Outcome of a request → the attribute `outcome` of `faillog.export.duration`."""

ANSWERS_LATELY_SECONDS = 60.0
"""Longer than the restart of a collector."""

EXPIRES_SOON_NS = DAY_NS
"""Segment deletes an hour within this time: it expires soon."""


def unread_hours(
    now_ns: int, hours: Mapping[str, Mapping[int, HourView]], config: ScheduleConfig, reads: int
) -> dict[str, list[int]]:
    """Returns collection → hours that are due and were not read since, ascending, for every collection.

    An hour counts as read once it was listed after its first reading was due by the schedule. `reads`: how
    many readings of each hour the quota covers (`schedule.reads_per_hour`).
    """
    after = READ_AFTER_HOURS[reads][0]
    until = hour_of(now_ns) if config.until_ns is None else -(-config.until_ns // HOUR_NS)
    kept = hour_of(now_ns - RETENTION_NS) + 1
    due = {
        name: range(max(kept, hour_of(config.since_of(name))), min(hour_of(now_ns) - after, until))
        for name in config.collections
    }

    def is_read(view: HourView | None, hour: int) -> bool:
        listed_ns = None if view is None else view.listed_ns
        return listed_ns is not None and listed_ns >= (hour + 1 + after) * HOUR_NS

    return {
        name: [hour for hour in hours_due if not is_read(hours.get(name, {}).get(hour), hour)]
        for name, hours_due in due.items()
    }


def expires_soon(now_ns: int, hour: int) -> bool:
    """Returns whether Segment deletes the hour within a day."""
    return hour * HOUR_NS + RETENTION_NS - now_ns < EXPIRES_SOON_NS


class InstrumentedClient:
    """A client that measures another one: durations, outcomes, and the time without acknowledgement.

    Safe for use from several threads.
    """

    def __init__(self, client: Client, telemetry: Telemetry, clock: Clock) -> None:
        self._client = client
        self._telemetry = telemetry
        self._clock = clock
        self._failing_since: float | None = None  # monotonic; None after an acknowledgement
        self._under_way: dict[int, float] = {}  # thread → when its request began

    def send(self, signal: Signal, records: Sequence[bytes]) -> Outcome:
        """Sends, and records the outcome and the duration."""
        thread, began = threading.get_ident(), self._clock.monotonic()
        self._under_way[thread] = began
        try:
            outcome = self._client.send(signal, records)
        finally:
            del self._under_way[thread]
        self._telemetry.record_request(signal, OUTCOMES[type(outcome)], self._clock.monotonic() - began)
        if isinstance(outcome, Acknowledged | PartlyRejected):
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = began
        return outcome

    def close(self) -> None:
        """Closes the measured client."""
        self._client.close()

    def missing_seconds(self) -> float:
        """Returns for how long no request was acknowledged; 0 if none is in flight or failing."""
        waiting = [*self._under_way.copy().values(), *filter(None, [self._failing_since])]
        return max(0.0, self._clock.monotonic() - min(waiting)) if waiting else 0.0


class Readiness:
    """The gauges and checks of a polling run. `clock` is the one that hours are computed with."""

    def __init__(
        self,
        ledger: LedgerReader,
        schedule: Callable[[], ScheduleConfig],
        clock: Clock,
        requests_per_day: int = 120,
    ) -> None:
        self._requests_per_day = requests_per_day
        self._ledger = ledger
        self._schedule = schedule
        self._clock = clock

    def gauges(self, config: SegmentConfig) -> tuple[Gauge, ...]:
        """Returns the gauges of a polling run, which docs/reference/metrics.md lists."""
        return (
            Gauge(
                "faillog.pending",
                "{record}",
                "Records that were downloaded and not delivered yet",
                lambda: {(): self._ledger.totals().pending},
            ),
            Gauge(
                "faillog.budget.remaining",
                "{request}",
                "Requests that may be made of Segment now",
                lambda: {(): self._requests_left()},
            ),
            Gauge(
                "faillog.coverage.gap.hours",
                "h",
                "Hours that are due and were not read",
                lambda: {(name,): len(hours) for name, hours in self.unread().items()},
                attributes=("collection",),
            ),
            Gauge(
                "faillog.lag.seconds",
                "s",
                "How long ago the newest exported record was logged by Segment",
                lambda: {
                    (name,): (self._clock.now_ns() - newest_ns) / SECOND_NS
                    for name, newest_ns in newest_logged(self._ledger).items()
                },
                attributes=("collection",),
            ),
            Gauge(
                "faillog.last_logged_at",
                "s",
                "When the newest exported record was logged by Segment, seconds since 1970",
                lambda: {
                    (name,): newest_ns / SECOND_NS for name, newest_ns in newest_logged(self._ledger).items()
                },
                attributes=("collection",),
            ),
            Gauge(
                "faillog.completeness",
                "1",
                "Share of the discards that Segment counted that was read, of the newest 24 settled hours",
                lambda: {
                    (name,): share
                    for name, share in shares_of_last_day(self._ledger, config, self._clock.now_ns()).items()
                },
                attributes=("collection",),
            ),
        )

    def ledger(self) -> Check:
        """Checks that the ledger can be read."""
        try:
            pending = self._ledger.totals().pending
        except FaillogError:
            return Check(ok=False, why="the ledger cannot be read")
        return Check(ok=True, why=f"{counted(pending, 'record')} pending")

    def hours(self) -> Check:
        """Checks that no unread hour expires soon."""
        try:
            unread, now_ns = self.unread(), self._clock.now_ns()
        except FaillogError:
            return Check(ok=False, why="the ledger cannot be read")
        due = [hour for hours in unread.values() for hour in hours]
        if late := sum(expires_soon(now_ns, hour) for hour in due):
            return Check(
                ok=False, why=f"{counted(late, 'unread hour')} will be deleted by Segment within a day"
            )
        return Check(ok=True, why=f"{counted(len(due), 'hour')} due, none of them expires soon")

    def unread(self) -> dict[str, list[int]]:
        """Returns collection → the hours that are due and were not read, ascending."""
        now_ns, schedule = self._clock.now_ns(), self._schedule()
        reads = reads_per_hour(self._ledger.quota(self._requests_per_day), len(schedule.collections))
        hours = self._ledger.hours(after=hour_of(now_ns - RETENTION_NS))
        return unread_hours(now_ns, hours, schedule, reads)

    def _requests_left(self) -> int:
        now_ns = self._clock.now_ns()
        return self._ledger.quota(self._requests_per_day).mended(now_ns).left(now_ns, with_reserve=True)


def failure_gauges(pending_messages: Callable[[], Mapping[tuple[str, str], int]]) -> tuple[Gauge, ...]:
    """Returns the gauges of failing messages. `pending_messages`: destination id, reason class → messages."""
    return (
        Gauge(
            "faillog.messages.pending",
            "{message}",
            "Messages that failed and may still be delivered",
            lambda: {
                (destination, reason_class): number
                for (destination, reason_class), number in pending_messages().items()
            },
            attributes=("destination", "reason_class"),
        ),
    )


def collector(answers: InstrumentedClient) -> Check:
    """Checks that the collector acknowledged something lately, if it was sent something."""
    missing = answers.missing_seconds()
    if missing > ANSWERS_LATELY_SECONDS:
        return Check(ok=False, why=f"no acknowledgement for {missing:.0f} s")
    return Check(ok=True, why="waiting for an acknowledgement" if missing else "no failure")


def loops(heartbeat: Heartbeat) -> Check:
    """Checks that both loops have a recent heartbeat."""
    late = [f"no heartbeat of {loop} for {seconds:.0f} s" for loop, seconds in heartbeat.late().items()]
    return Check(ok=not late, why="; ".join(late) or "running")
