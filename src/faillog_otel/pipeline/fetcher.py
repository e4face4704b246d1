"""Lists Segment's hours and downloads their objects, as the plan says, in the order of effects.

T0 debit, then ask; T1 store what was listed; T2 each object when it lies in the spool. All of an hour's URLs
are tried before the next hour is asked for, whether the collector is there or not. An object that cannot be
downloaded is tried again by itself.
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
from faillog_otel.pipeline.requests import Downloads, Requests, Wanted
from faillog_otel.pipeline.segment_time import AGREED, SegmentTime
from faillog_otel.segment import api
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.download import Downloader
from faillog_otel.segment.quota import Wait, without_figures
from faillog_otel.segment.schedule import ListingRequest, Plan, ScheduleConfig, plan

_log = logging.getLogger(__name__)

MAX_TRIES = 3
"""Of one listing in a run (`--once`); then a later run tries it again."""
FAILURES_IN_A_ROW = 3
"""Of whichever hours or objects; then Segment or S3 itself seems to be the trouble: nothing is listed."""
FIRST_PAUSE_NS, MAX_PAUSE_NS = 60 * SECOND_NS, HOUR_NS
"""After failures. An API that is dead costs so about 30 requests on the first day, then 24."""
SOON_NS = 75 * SECOND_NS
"""`--once` waits so long for a try again: windows of a minute are waited for, and the jitter."""
NO_ROOM_NS = 10 * SECOND_NS
TOKEN_NS = 10 * SECOND_NS
"""A token file that cannot be read is looked at again after this time."""
FORM = "listing form"

Trouble = Literal["token", "collection", "host", "network"]


class Fetcher:
    """Used by one thread. `troubles` says why hours that were due were not read: kind → for people."""

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
    ) -> None:
        """`schedule` gives what is asked for, by the time, nanoseconds since 1970.

        `max_requests`: what this run may spend. `to_download` receives how many objects are still to be
        downloaded. `wait_seconds`: how long a run that ends by itself waits for a silent Segment.
        """
        self.troubles: dict[Trouble, str] = {}
        self.lacks_room: NoRoom | None = None
        """Why the last step did nothing: the disk is full, or another process holds the ledger."""
        self.plan: Plan | None = None
        self.last_failure = ""
        """Why the last hour that could not be listed was not."""
        self.lost = 0
        """Objects that left Segment's 28 days in this run, and could never be downloaded."""
        self._ledger = ledger
        self._segment = segment
        self._wanted = Wanted(ledger, schedule, clock)
        self._clock = clock
        self._is_stopping = is_stopping
        self._to_download = to_download
        self._max_requests = max_requests
        self._failures = 0
        """Listings in a row."""
        self._said_waits: dict[str, int] = {}
        """Why hours waited → when that was said last."""
        self._time = SegmentTime(ledger, segment, clock, self._wanted.on_time_set, wait_seconds)
        self._requests = Requests(ledger, segment, clock, self._time.hear, requests_per_day)
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
        """Whether token or settings were wrong from the start: then there is nothing to go on with."""

    def step(self) -> int | None:
        """Does the next thing; returns when to come back, None for at once. Raises LedgerBroken."""
        now_ns = self._clock.now_ns()
        try:
            if self._time.is_check_due:
                self._check_time()
                now_ns = self._clock.now_ns()
            if not self._time.is_known:
                self._wanted.keep(now_ns)
            self._tidy(now_ns)
            self._ledger.check_room()
            self.lacks_room = None
            under_way = self._ledger.unfinished_objects()
            self._to_download(under_way.untried)
            if listed := self._ledger.next_listed(now_ns):
                self._download(listed)
                return None
            back_ns, try_ns = self._list_next(now_ns), under_way.next_try_ns
            return back_ns if back_ns is None or try_ns is None else min(back_ns, try_ns)
        except NoRoom as error:
            self.lacks_room = error
            return now_ns + NO_ROOM_NS

    def _list_next(self, now_ns: int) -> int | None:
        """Lists the hour that is first in the plan; returns as `step` does.

        While Segment's time is not known, the plan says what would be due if the machine's clock is right.
        """
        is_known = self._time.is_known
        if is_known or self._clock.is_plausible:
            views, schedule = self._hours(now_ns), self._schedule_of(now_ns)
            self.plan = plan(now_ns, views, self._requests.quota(), schedule)
        if self.plan is None or not is_known:
            return self._time.next_check_ns
        if not self.plan.requests:
            self._say_wait(now_ns)
            return max(self.plan.next_ns, now_ns + SECOND_NS)
        if self.is_capped:
            self._say_wait(now_ns)
            return now_ns + HOUR_NS
        if why := self._segment.why_no_token():  # known before a request is debited
            self._trouble("token", why)
            self._is_token_lost = True
            return now_ns + TOKEN_NS
        if self._is_token_lost:
            self._is_token_lost = False
            self.troubles.pop("token", None)
            _log.info("the token can be read again")
        self._list(self.plan.requests[0])
        return None

    @property
    def is_capped(self) -> bool:
        """Whether this run has spent as many requests as it may."""
        return self._max_requests is not None and self._requests.spent >= self._max_requests

    def wait(self, now_ns: int) -> Wait | None:
        """What due hours wait for, and until when; None where none is due, or one is asked for now."""
        if self.plan is None or not (self.plan.waiting or self.plan.requests):
            return None
        if self.is_capped:
            return Wait(0, f"this run has spent all of --max-requests {self._requests.spent}")
        if self.plan.requests:
            return None
        if wait := self._requests.quota().mended(now_ns).wait(now_ns):
            return wait
        kept = f"the {self.plan.left} requests left are kept for people, and for the hours to come"
        return Wait(self.plan.next_ns, kept)

    def _say_wait(self, now_ns: int) -> None:
        """Says for what due hours wait: once an hour for the same reason. A turn to come is no warning."""
        wait = self.wait(now_ns)
        if wait is None:
            return
        reason = without_figures(wait.why)
        said_ns = self._said_waits.get(reason)
        if said_ns is not None and now_ns < said_ns + HOUR_NS:
            return
        self._said_waits[reason] = now_ns
        is_turn = bool(self.plan and self.plan.left) and not self.is_capped
        until = f" until {time_text(wait.until_ns)}" if wait.until_ns else ""
        level = logging.INFO if is_turn else logging.WARNING
        due = "1 hour due waits" if self.hours_due == 1 else f"{self.hours_due} hours due wait"
        _log.log(level, "%s%s: %s", due, until, wait.why)

    @property
    def hours_due(self) -> int:
        """How many hours could be listed now, but for the quota."""
        return sum(self.plan.waiting.values()) + len(self.plan.requests) if self.plan else 0

    def close(self) -> None:
        """Closes the connections to Segment."""
        self._segment.close()

    def _schedule_of(self, now_ns: int) -> ScheduleConfig:
        """Without the collections that Segment refuses, for as long as they are not tried again."""
        tried = [
            each for each in self.schedule.collections if refused_until_ns(self._ledger, each, now_ns) is None
        ]
        return replace(self.schedule, collections=tuple(tried))

    @property
    def may_try_again(self) -> bool:
        """Whether something is tried again soon: it failed less than three times, or has to wait."""
        if not self._time.is_known:
            return self._time.may_check_again
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
        """Whether an hour is listed again soon for the sake of objects that are missing."""
        soon_ns = self._clock.now_ns() + SOON_NS
        return any(each.next_ns <= soon_ns for each in self.missing())

    def missing(self) -> list[MissingObject]:
        """The objects of the collections polled that could not be downloaded so far."""
        polled = self.schedule.collections
        return [each for each in self._ledger.missing_objects() if each.collection in polled]

    @property
    def why_unasked(self) -> str:
        """Why nothing could be asked: Segment's time is not known. Empty where it is."""
        return "" if self._time.is_known else self._time.why_unknown

    @property
    def refusals(self) -> list[str]:
        """What Segment refused, for people: in this run, or in an earlier one that is not asked again yet."""
        if self.troubles:
            return list(self.troubles.values())
        now_ns = self._clock.now_ns()
        return [
            f"{each}: Segment refused it in an earlier run; it is asked for again at {time_text(until_ns)}"
            for each in self.schedule.collections
            if (until_ns := refused_until_ns(self._ledger, each, now_ns)) is not None
        ]

    @property
    def unread(self) -> int:
        """How many hours failed when they were read last."""
        return len(self._failed())

    def _failed(self) -> list[int]:
        """How often those hours failed that Segment still has, and that were not read since."""
        now_ns = self._clock.now_ns()
        known, since = self._schedule_of(now_ns).collections, hour_of(self.schedule.since_ns)
        views = self._hours(now_ns)
        hours = [(hour, view) for each in known for hour, view in views.get(each, {}).items()]
        return [view.failures for hour, view in hours if view.failures and (hour >= since or view.wanted)]

    def _hours(self, now_ns: int) -> dict[str, dict[int, Hour]]:
        """The hours that Segment still has, as the ledger knows them."""
        return self._ledger.hours(after=hour_of(now_ns - RETENTION_NS))

    def _check_time(self) -> None:
        """Learns Segment's time, and whether the token is good; costs no request."""
        was_known = self._time.is_known
        outcome = self._time.check().outcome
        if isinstance(outcome, api.Denied) and outcome.is_token_wrong:
            self._trouble("token", outcome.why)
            self._pause(HOUR_NS, outcome.why)
            self.is_denied = self.is_denied or not was_known
        elif isinstance(outcome, api.Failed) and outcome.is_permanent:
            self._trouble("network", outcome.why)
            self.is_denied = self.is_denied or not was_known
        else:
            self.troubles.pop("network", None)

    # -- asking ------------------------------------------------------------------------------------------

    def _list(self, ask: ListingRequest) -> None:
        form: api.Form = "body" if self._ledger.fact(FORM) == "body" else "both"
        answered = self._requests.list_hour(ask, form)
        is_left = self._requests.quota().left(self._clock.now_ns(), with_reserve=True) > 0
        if isinstance(answered.outcome, api.FormRejected) and is_left:
            form = "body" if form == "both" else "both"
            answered = self._requests.list_hour(ask, form)
            if isinstance(answered.outcome, api.Listing):
                self._ledger.note(FORM, form)
        self._take_answer(ask, answered)

    def _take_answer(self, ask: ListingRequest, answered: api.ApiAnswer) -> None:
        now_ns, outcome = self._clock.now_ns(), answered.outcome
        where = f"{ask.collection}, {hour_text(ask.hour)}"
        if isinstance(outcome, api.Listing):
            _log.info("%s (%s): %d objects", where, ask.why, len(outcome.urls))
            self._failures = 0
            self.troubles.pop("token", None)
        elif isinstance(outcome, api.RateLimited):
            wait = self._requests.quota().mended(now_ns).wait(now_ns)
            until_ns = now_ns if wait is None else wait.until_ns
            _log.warning(
                "%s: %s; Segment is asked again at %s (in %s)",
                *(where, outcome.why, time_text(until_ns)),
                duration_text(max(1, round((until_ns - now_ns) / SECOND_NS))),
            )
            self._said_waits[without_figures(outcome.why)] = now_ns
        elif isinstance(outcome, api.Denied) and outcome.is_token_wrong:
            self._trouble("token", outcome.why)
            self._pause(HOUR_NS, outcome.why)
        elif isinstance(outcome, api.Denied | api.UnknownCollection):
            again = time_text(now_ns + REFUSED_NS)
            self._trouble("collection", f"{ask.collection}: {outcome.why}; it is asked for again at {again}")
            self._ledger.listing_failed(ask.collection, ask.hour, outcome.why, now_ns)
            self._ledger.note(REFUSED + ask.collection, str(now_ns + REFUSED_NS))
        else:
            self._fail(ask.collection, ask.hour, outcome.why)

    def _fail(self, collection: str, hour: int, why: str) -> None:
        """An hour could not be listed. After some in a row all of them wait."""
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
        """Nothing is listed for so long. The next run does not wait for it."""
        now_ns = self._clock.now_ns()
        self._ledger.pause(now_ns + pause_ns, why, now_ns)

    def _trouble(self, kind: Trouble, why: str) -> None:
        if self.troubles.get(kind) != why:
            _log.error("%s", why)
        self.troubles[kind] = why

    def _download(self, listed: Listed) -> None:
        """Tries an object. Where several in a row fail, more listings would be wasted: they wait."""
        failed_before = self._downloads.failed_in_a_row
        self._downloads.download(listed)
        failed = self._downloads.failed_in_a_row
        if failed > failed_before:
            self.last_failure = self._downloads.last_failure
            self._pause_after_failures(failed, f"{failed} downloads in a row failed: {self.last_failure}")
        if why := self._downloads.forbidden:
            self._trouble("host", why)

    # -- time --------------------------------------------------------------------------------------------

    @property
    def schedule(self) -> ScheduleConfig:
        """What is asked for; until Segment's time is known, as far as the machine's clock tells."""
        return self._wanted.schedule

    def _tidy(self, now_ns: int) -> None:
        if not self._time.is_known:
            return
        self._ledger.wipe_urls(now_ns)
        if 0 <= now_ns - self._tidied_ns < HOUR_NS:
            return
        self._tidied_ns = now_ns
        if self._clock.is_agreed:
            self._ledger.note(AGREED, str(now_ns))
        if self._clock.is_checked:
            for each in self._ledger.lose(self._clock.certain_ns()):
                self.lost += 1
                _log.error(
                    "%s, %s: an object left Segment's 28 days and could never be downloaded (%s): %s is lost",
                    *(each.collection, hour_text(each.hour), each.why, each.path),
                )
            self._ledger.prune(self._clock.certain_ns())
