"""One line an hour, and one at the end: what a polling run has done since the line before."""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.app.ledger_view import quota_of
from faillog_otel.app.status import quota_seen
from faillog_otel.clock import HOUR_NS, RETENTION_NS, SECOND_NS, Clock, duration_text, hour_of
from faillog_otel.errors import FaillogError
from faillog_otel.ledger.counts import Counts
from faillog_otel.ledger.database import Database
from faillog_otel.ledger.views import listings, lost_objects, missing_objects, totals
from faillog_otel.otlp.sender import Sent
from faillog_otel.segment.schedule import ScheduleConfig

HOUR_SECONDS = 3600.0
ABOUT_AN_HOUR_SECONDS = 3900.0
"""A line may wait for a listing or a download that is under way."""


class _State(Struct, frozen=True):
    """What only grows, at one moment; but for `listings`, which loses hours that Segment has no more."""

    at_seconds: float
    listings: Mapping[tuple[str, int], int]
    records: int
    sent: Sent
    rejected: int
    quarantined: int
    objects_lost: int


class HourlyReport:
    """Says what was read, sent and lost, and what is left of the quota. Used by one thread at a time."""

    def __init__(
        self,
        *,
        database: Database,
        counts: Counts,
        sent: Callable[[], Sent],
        schedule: Callable[[], ScheduleConfig],
        clock: Clock,
        requests_per_day: int,
        say: Callable[[str, Mapping[str, Any]], object],
        shows_only: bool = False,
    ) -> None:
        """`counts` are those of the run so far. `say` takes a sentence and the same as numbers.

        `shows_only`: what was sent was only shown.

        Raises LedgerBroken, NoRoom.
        """
        self._database = database
        self._counts = counts
        self._sent = sent
        self._schedule = schedule
        self._clock = clock
        self._requests_per_day = requests_per_day
        self._say = say
        self._verb = "showed" if shows_only else "sent"
        self._last = self._state()

    def seconds_left(self) -> float:
        """Returns how long it is until the next line is due."""
        return max(0.0, self._last.at_seconds + HOUR_SECONDS - self._clock.monotonic())

    def say_if_due(self) -> None:
        """Says what the last hour brought, when it is over."""
        if not self.seconds_left():
            self.say()

    def say(self) -> None:
        """Says what was done since the last time. Where the ledger cannot be read, others say so."""
        try:
            last, now = self._last, self._state()
            told = self._told(last, now)
        except FaillogError:
            return
        self._last = now
        self._say(_text(told, self._verb), told)

    def _state(self) -> _State:
        return _State(
            at_seconds=self._clock.monotonic(),
            listings=listings(self._database),
            records=totals(self._database).records,
            sent=replace(self._sent()),
            rejected=self._counts.rejected,
            quarantined=self._counts.quarantined,
            objects_lost=lost_objects(self._database),
        )

    def _told(self, last: _State, now: _State) -> dict[str, Any]:
        seconds, now_ns = now.at_seconds - last.at_seconds, self._clock.now_ns()
        quota = replace(quota_of(self._database, self._requests_per_day), not_before_ns=0)  # also in a pause
        seen = quota_seen(quota, now_ns)
        return {
            "seconds": round(seconds),
            "hours_read": sum(number > last.listings.get(hour, 0) for hour, number in now.listings.items()),
            "records_read": max(0, now.records - last.records),  # a damaged object takes its records back
            "sent": {"logs": now.sent.logs - last.sent.logs, "spans": now.sent.traces - last.sent.traces},
            "rejected": now.rejected - last.rejected,
            "quarantined": now.quarantined - last.quarantined,
            "hours_expired": self._expired(now, now_ns, round(seconds * SECOND_NS)),
            "objects_lost": max(0, now.objects_lost - last.objects_lost),  # pruned hours take theirs along
            "objects_missing": len(missing_objects(self._database)),
            "pending": totals(self._database).pending,
            "requests_left": seen.left,
            "requests_per_day": seen.per_day,
        }

    def _expired(self, now: _State, now_ns: int, passed_ns: int) -> int:
        """How many hours that are wanted left Segment in this time, and were never read."""
        schedule, gone_ns = self._schedule(), now_ns - RETENTION_NS
        first = max(hour_of(gone_ns - passed_ns) + 1, hour_of(schedule.since_ns))
        end = hour_of(gone_ns) + 1
        if schedule.until_ns is not None:
            end = min(end, -(-schedule.until_ns // HOUR_NS))
        return sum(
            not now.listings.get((collection, hour))
            for collection in schedule.collections
            for hour in range(first, end)
        )


def _text(told: Mapping[str, Any], verb: str) -> str:
    seconds, sent = told["seconds"], told["sent"]
    is_hour = HOUR_SECONDS <= seconds < ABOUT_AN_HOUR_SECONDS
    lost = [f"{told[name]:,} {name}" for name in ("rejected", "quarantined") if told[name]]
    if told["hours_expired"]:
        lost.append(f"{_counted(told['hours_expired'], 'collection-hour')} expired unread")
    if told["objects_lost"]:
        lost.append(f"{_counted(told['objects_lost'], 'object')} never downloaded")
    missing = _counted(told["objects_missing"], "object")
    parts = [
        f"read {_counted(told['hours_read'], 'collection-hour')}, {_counted(told['records_read'], 'record')}",
        f"{verb} {_counted(sent['logs'], 'log record')} and {_counted(sent['spans'], 'span')}",
        f"lost: {', '.join(lost)}" if lost else "0 lost",
        *([f"{missing} not downloaded so far"] if told["objects_missing"] else []),
        *([f"{_counted(told['pending'], 'record')} pending"] if told["pending"] else []),
        f"{told['requests_left']} of {told['requests_per_day']} requests left",
    ]
    return f"in the last {'hour' if is_hour else duration_text(seconds)}: {'; '.join(parts)}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
