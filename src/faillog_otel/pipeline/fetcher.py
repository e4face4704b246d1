"""Lists Segment's hours by the plan, and downloads their objects, in the order of effects.

T0 debits a request before it is made, T1 stores its answer, T2 notes each object that is in the spool. All
objects of an hour are tried before the next hour is listed, also while the collector is unavailable. An
object that cannot be downloaded is retried on its own.
"""

import logging
import math
from collections.abc import Callable
from typing import Literal

from msgspec.structs import replace

from faillog_otel.clock import (
    HOUR_NS,
    RETENTION_NS,
    SECOND_NS,
    SegmentClock,
    duration_text,
    hour_of,
    hour_text,
    time_text,
)
from faillog_otel.errors import NoRoom
from faillog_otel.ledger import Hour, Ledger, Listed, MissingObject
from faillog_otel.ledger.facts import REFUSED, REFUSED_NS, refused_until_ns
from faillog_otel.ledger.spool import Spool
from faillog_otel.pipeline.readings import NO_READINGS, Readings
from faillog_otel.pipeline.requests import Downloads, Requests
from faillog_otel.pipeline.segment_time import AGREED, SegmentTime, WantedHours
from faillog_otel.segment import answers, api
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.download import Downloader
from faillog_otel.segment.hours import ScheduleConfig
from faillog_otel.segment.pools import ListingRequest
from faillog_otel.segment.quota import Wait, without_figures
from faillog_otel.segment.schedule import Plan, plan

_log = logging.getLogger(__name__)

MAX_TRIES = 3
"""Of one listing in a run with `--once`; a later run tries it again."""
FAILURES_IN_A_ROW = 3
"""After this many failures in a row, of any hours or objects, nothing is listed for a while."""
FIRST_PAUSE_NS, MAX_PAUSE_NS = 60 * SECOND_NS, HOUR_NS
"""After failures in a row. An API that never answers costs about 30 requests on the first day, then 24."""
SOON_NS = 75 * SECOND_NS
"""How long a run with `--once` waits for a retry, and an object for others of its hour: a rate limit's window
of a minute, and the jitter."""
NO_ROOM_NS = 10 * SECOND_NS
TOKEN_NS = 10 * SECOND_NS
"""The pause before an unreadable token file is read again."""
FORM = "listing form"

Trouble = Literal["token", "collection", "host", "network"]


class Fetcher:
    """Lists and downloads. Used by one thread."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        spool: Spool,
        segment: SegmentApi,
        downloader: Downloader,
        schedule: Callable[[int], ScheduleConfig],
        clock: SegmentClock,
        is_stopping: Callable[[], bool],
        max_content_bytes: int,
        requests_per_day: int,
        max_requests: int | None = None,
        to_download: Callable[[int], object] = lambda _: None,
        wait_seconds: float = math.inf,
        readings: Readings = NO_READINGS,
    ) -> None:
        """`schedule` returns what is wanted at a time, in nanoseconds since 1970.

        `max_requests`: requests that this run may make. `to_download` receives how many objects are still to
        be downloaded. `wait_seconds`: how long a run that ends by itself waits for Segment's time.
        """
        self.troubles: dict[Trouble, str] = {}
        """Why hours that are due cannot be listed, for people."""
        self.lacks_room: NoRoom | None = None
        """Why the last step did nothing: the disk is full, or another process locks the ledger."""
        self.plan: Plan | None = None
        self.last_failure = ""
        """Why the last listing or download that failed did."""
        self.lost = 0
        """Objects that Segment deleted in this run before they could be downloaded."""
        self._ledger = ledger
        self._segment = segment
        self._wanted = WantedHours(ledger, schedule, clock)
        self._clock = clock
        self._is_stopping = is_stopping
        self._readings = readings
        self._to_download = to_download
        self._max_requests = max_requests
        self._failures = 0
        """Listings in a row."""
        self._logged_waits: dict[str, int] = {}
        """Why hours wait → when that was logged last."""
        self._time = SegmentTime(ledger, segment, clock, self._wanted.on_time_set, wait_seconds)
        self._requests = Requests(ledger, segment, clock, self._time.take_date, requests_per_day)
        self._downloads = Downloads(
            ledger=ledger,
            spool=spool,
            downloader=downloader,
            clock=clock,
            is_stopping=is_stopping,
            max_content_bytes=max_content_bytes,
        )
        self._tidied_ns = 0
        self._is_token_lost = False
        self.is_denied = False
        """Whether token or settings are wrong from the start, which ends the run."""

    def step(self) -> int | None:
        """Does one thing that is due; returns when the next one is, None for now. Raises LedgerBroken."""
        now_ns = self._clock.now_ns()
        try:
            if self._time.is_check_due:
                self._check_time()
                now_ns = self._clock.now_ns()
            if not self._time.is_known:
                self._wanted.note_unchecked(now_ns)
            self._tidy(now_ns)
            self._ledger.check_room()
            self.lacks_room = None
            if self._time.is_known and not self.troubles.keys() & {"token", "network"}:
                self._readings.read_if_due(now_ns)
            under_way = self._ledger.unfinished_objects()
            self._to_download(under_way.untried)
            if listed := self._ledger.next_listed(now_ns):
                self._download(listed)
                return None
            back_ns, try_ns = self._list_next(now_ns), under_way.next_try_ns
            if back_ns is None:
                return None
            return min(filter(None, (back_ns, try_ns, self._readings.go_on())))
        except NoRoom as error:
            self.lacks_room = error
            return now_ns + NO_ROOM_NS

    def _list_next(self, now_ns: int) -> int | None:
        """Lists the first hour of the plan; returns as `step` does.

        While Segment's time is not known, the plan goes by the machine's clock, and nothing is listed.
        """
        is_known = self._time.is_known
        if is_known or self._clock.is_plausible:
            views, schedule = self._hours(now_ns), self._schedule_of(now_ns)
            self.plan = plan(now_ns, views, self._requests.quota(), schedule, self._readings.scout(now_ns))
        if self.plan is None or not is_known:
            return self._time.next_check_ns
        if not self.plan.requests:
            self._log_wait(now_ns)
            return max(self.plan.next_ns, now_ns + SECOND_NS)
        if self.is_capped:
            self._log_wait(now_ns)
            return now_ns + HOUR_NS
        if why := self._segment.why_no_token():  # known before a request is debited
            self._note_trouble("token", why)
            self._is_token_lost = True
            return now_ns + TOKEN_NS
        if self._is_token_lost:
            self._is_token_lost = False
            self.troubles.pop("token", None)
            _log.info("the token is readable again")
        self._list(self.plan.requests[0])
        return None

    @property
    def is_capped(self) -> bool:
        """Whether this run has made all requests that it may make."""
        return self._max_requests is not None and self._requests.spent >= self._max_requests

    def wait(self, now_ns: int) -> Wait | None:
        """Returns what due hours wait for, and until when; None if no hour is due, or one can be listed."""
        if self.plan is None or not (self.plan.waiting or self.plan.requests):
            return None
        if self.is_capped:
            return Wait(0, f"--max-requests {self._requests.spent} is used up")
        if self.plan.requests:
            return None
        quota = self._requests.quota().mended(now_ns)
        if wait := quota.wait(now_ns):
            return wait
        return Wait(self.plan.next_ns, f"stopped at the quota reserve ({self.plan.left} of {quota.size})")

    def _log_wait(self, now_ns: int) -> None:
        """Logs what due hours wait for, once an hour for each reason; a warning if no request is left."""
        wait = self.wait(now_ns)
        if wait is None:
            return
        reason = without_figures(wait.why)
        logged_ns = self._logged_waits.get(reason)
        if logged_ns is not None and now_ns < logged_ns + HOUR_NS:
            return
        self._logged_waits[reason] = now_ns
        has_requests = bool(self.plan and self.plan.left) and not self.is_capped
        until = f" until {time_text(wait.until_ns)}" if wait.until_ns else ""
        level = logging.INFO if has_requests else logging.WARNING
        due = "1 hour due waits" if self.hours_due == 1 else f"{self.hours_due} hours due wait"
        _log.log(level, "%s%s: %s", due, until, wait.why)

    @property
    def hours_due(self) -> int:
        """How many hours could be listed now if there were no quota."""
        return sum(self.plan.waiting.values()) + len(self.plan.requests) if self.plan else 0

    def close(self) -> None:
        """Closes the connections to Segment."""
        self._segment.close()

    def _schedule_of(self, now_ns: int) -> ScheduleConfig:
        """Returns the schedule without the collections that Segment refused recently."""
        tried = [
            each for each in self.schedule.collections if refused_until_ns(self._ledger, each, now_ns) is None
        ]
        return replace(self.schedule, collections=tuple(tried))

    @property
    def can_retry(self) -> bool:
        """Whether a run with `--once` waits for something: a retry, or a request that is not allowed yet."""
        if not self._time.is_known:
            return self._time.can_retry
        if self._is_object_due_soon:
            return True
        in_a_row = max(self._failures, self._downloads.failed_in_a_row)
        if self.is_capped or self.troubles.keys() & {"token", "network"} or in_a_row >= FAILURES_IN_A_ROW:
            return False
        waits = bool(self.plan and (self.plan.waiting or self.plan.requests))
        return waits or self._is_listing_due_soon or any(tries < MAX_TRIES for tries in self._failed())

    @property
    def _is_object_due_soon(self) -> bool:
        try_ns = self._ledger.unfinished_objects().next_try_ns
        return try_ns is not None and try_ns <= self._clock.now_ns() + SOON_NS

    @property
    def _is_listing_due_soon(self) -> bool:
        """Whether an hour is due again soon because objects of it are missing."""
        soon_ns = self._clock.now_ns() + SOON_NS
        return any(each.next_ns <= soon_ns for each in self.missing())

    def missing(self) -> list[MissingObject]:
        """Returns the objects of the polled collections that could not be downloaded so far."""
        polled = self.schedule.collections
        return [each for each in self._ledger.missing_objects() if each.collection in polled]

    @property
    def why_time_unknown(self) -> str:
        """Why Segment's time is not known, so that no hour was listed; empty if it is known."""
        return "" if self._time.is_known else self._time.why_unknown

    @property
    def refusals(self) -> list[str]:
        """What Segment refused, for people: in this run, or recently in an earlier one."""
        if self.troubles:
            return list(self.troubles.values())
        now_ns = self._clock.now_ns()
        return [
            f"{each}: refused by Segment in an earlier run; next attempt at {time_text(until_ns)}"
            for each in self.schedule.collections
            if (until_ns := refused_until_ns(self._ledger, each, now_ns)) is not None
        ]

    @property
    def unread(self) -> int:
        """How many hours failed when they were listed last."""
        return len(self._failed())

    def _failed(self) -> list[int]:
        """Returns the failures of each wanted hour whose last listing failed, and that Segment still has."""
        now_ns = self._clock.now_ns()
        known, since = self._schedule_of(now_ns).collections, hour_of(self.schedule.since_ns)
        views = self._hours(now_ns)
        hours = [(hour, view) for each in known for hour, view in views.get(each, {}).items()]
        return [view.failures for hour, view in hours if view.failures and (hour >= since or view.wanted)]

    def _hours(self, now_ns: int) -> dict[str, dict[int, Hour]]:
        """Returns what the ledger knows of the hours that Segment still has."""
        return self._ledger.hours(after=hour_of(now_ns - RETENTION_NS))

    def _check_time(self) -> None:
        """Checks Segment's time and the token, which costs nothing of the quota."""
        was_known = self._time.is_known
        outcome = self._time.check().outcome
        if isinstance(outcome, answers.Denied) and outcome.is_token_wrong:
            self._note_trouble("token", outcome.why)
            self._pause(HOUR_NS, outcome.why)
            self.is_denied = self.is_denied or not was_known
        elif isinstance(outcome, answers.Failed) and outcome.is_permanent:
            self._note_trouble("network", outcome.why)
            self.is_denied = self.is_denied or not was_known
        else:
            self.troubles.pop("network", None)

    # -- listings ----------------------------------------------------------------------------------------

    def _list(self, ask: ListingRequest) -> None:
        form: api.Form = "body" if self._ledger.fact(FORM) == "body" else "both"
        answered = self._requests.list_hour(ask, form)
        if isinstance(answered.outcome, answers.FormRejected) and self._requests.has_left():
            form = "body" if form == "both" else "both"
            answered = self._requests.list_hour(ask, form)
            if isinstance(answered.outcome, answers.Listing):
                self._ledger.note(FORM, form)
        self._take_answer(ask, answered)

    def _take_answer(self, ask: ListingRequest, answered: answers.ApiAnswer) -> None:
        now_ns, outcome = self._clock.now_ns(), answered.outcome
        where = f"{ask.collection}, {hour_text(ask.hour)}"
        if isinstance(outcome, answers.Listing):
            _log.info("%s (%s): %d objects", where, ask.reason or ask.why, len(outcome.urls))
            self._failures = 0
            self.troubles.pop("token", None)
        elif isinstance(outcome, answers.RateLimited):
            wait = self._requests.quota().mended(now_ns).wait(now_ns)
            until_ns = now_ns if wait is None else wait.until_ns
            _log.warning(
                "%s: %s; next request at %s (in %s)",
                *(where, outcome.why, time_text(until_ns)),
                duration_text(max(1, round((until_ns - now_ns) / SECOND_NS))),
            )
            self._logged_waits[without_figures(outcome.why)] = now_ns
        elif isinstance(outcome, answers.Denied) and outcome.is_token_wrong:
            self._note_trouble("token", outcome.why)
            self._pause(HOUR_NS, outcome.why)
        elif isinstance(outcome, answers.Denied | answers.UnknownCollection):
            again = time_text(now_ns + REFUSED_NS)
            self._note_trouble("collection", f"{ask.collection}: {outcome.why}; next attempt at {again}")
            self._ledger.listing_failed(ask.collection, ask.hour, outcome.why, now_ns)
            self._ledger.note(REFUSED + ask.collection, str(now_ns + REFUSED_NS))
        else:
            self._fail(ask.collection, ask.hour, getattr(outcome, "why", ""))

    def _fail(self, collection: str, hour: int, why: str) -> None:
        """Notes that an hour could not be listed; pauses all listings after some failures in a row."""
        self.last_failure = f"{collection}, {hour_text(hour)}: {why}"
        _log.warning("%s", self.last_failure)
        self._ledger.listing_failed(collection, hour, why, self._clock.now_ns())
        self._failures += 1
        self._pause_after_failures(self._failures, f"{self._failures} listings in a row failed: {why}")

    def _pause_after_failures(self, in_a_row: int, why: str) -> None:
        if in_a_row >= FAILURES_IN_A_ROW:
            pause_ns = FIRST_PAUSE_NS << min(in_a_row - FAILURES_IN_A_ROW, 10)
            self._pause(min(pause_ns, MAX_PAUSE_NS), why)

    def _pause(self, pause_ns: int, why: str) -> None:
        """Pauses all listings of this run."""
        now_ns = self._clock.now_ns()
        self._ledger.pause(now_ns + pause_ns, why, now_ns)

    def _note_trouble(self, kind: Trouble, why: str) -> None:
        if self.troubles.get(kind) != why:
            _log.error("%s", why)
        self.troubles[kind] = why

    def _download(self, listed: Listed) -> None:
        """Downloads an object; pauses all listings after some failures in a row."""
        failed_before = self._downloads.failed_in_a_row
        self._downloads.download(listed)
        failed = self._downloads.failed_in_a_row
        if failed > failed_before:
            self.last_failure = self._downloads.last_failure
            self._pause_after_failures(failed, f"{failed} downloads in a row failed: {self.last_failure}")
        if why := self._downloads.forbidden:
            self._note_trouble("host", why)

    # -- upkeep ------------------------------------------------------------------------------------------

    @property
    def schedule(self) -> ScheduleConfig:
        """What is wanted; by the machine's clock until Segment's time is known."""
        return self._wanted.schedule

    def _tidy(self, now_ns: int) -> None:
        if not self._time.is_known:
            return
        self._ledger.wipe_urls(now_ns)
        if 0 <= now_ns - self._tidied_ns < HOUR_NS:
            return
        self._tidied_ns = now_ns
        self._ledger.drop_indexes(now_ns)
        if self._clock.is_agreed:
            self._ledger.note(AGREED, str(now_ns))
        if self._clock.is_checked:
            for each in self._ledger.lose(self._clock.certain_ns()):
                self.lost += 1
                _log.error(
                    "%s, %s: Segment deleted an object that could never be downloaded (%s): %s is lost",
                    *(each.collection, hour_text(each.hour), each.why, each.path),
                )
            self._ledger.prune(self._clock.certain_ns())
