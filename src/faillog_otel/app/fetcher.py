"""Lists Segment's hours and downloads their objects, as the plan says, in the order of effects.

T0 debit, then ask; T1 store what was listed; T2 each object when it lies in the spool. All of an hour's URLs
are downloaded before the next hour is asked for, whether the collector is there or not.
"""

import logging
import math
from collections.abc import Callable
from typing import Literal

from msgspec.structs import astuple, replace

from faillog_otel.app.ledger_view import (
    REFUSED,
    REFUSED_NS,
    SINCE,
    UNCHECKED_SINCE,
    hour_views,
    quota_of,
    unchecked_since_ns,
)
from faillog_otel.app.segment_time import AGREED, SegmentTime
from faillog_otel.clock import HOUR_NS, SECOND_NS, SegmentClock, hour_of, hour_text, time_text
from faillog_otel.errors import NoRoom
from faillog_otel.events.forms import Survey, form_of, read_records
from faillog_otel.events.record import Blank
from faillog_otel.events.unpack import unpack
from faillog_otel.ledger.ledger import Content, Identity, Ledger, Listed, Said
from faillog_otel.ledger.objects import forget_digests
from faillog_otel.ledger.private_folder import StrangeEntry
from faillog_otel.ledger.spool import NotWhole, Spool
from faillog_otel.ledger.upkeep import prune, wipe_urls
from faillog_otel.ledger.views import fact, fact_ns
from faillog_otel.segment import api
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.download import Downloader, Forbidden, Gone, Got, Known, Same
from faillog_otel.segment.quota import Quota
from faillog_otel.segment.schedule import Ask, Plan, ScheduleConfig, plan

_log = logging.getLogger(__name__)

MOST_TRIES = 3
"""Of one download, one after the other; then the hour is listed again."""
FAILURES_IN_A_ROW = 3
"""Of whichever hours; after them Segment itself seems to be the trouble, and all of them wait."""
SHORTEST_PAUSE_NS, FIRST_PAUSE_NS, LONGEST_PAUSE_NS = 10 * SECOND_NS, 60 * SECOND_NS, HOUR_NS
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
        most_content_bytes: int,
        to_download: Callable[[int], object] = lambda _: None,
        wait_seconds: float = math.inf,
    ) -> None:
        """`schedule` gives what is asked for, by the time, nanoseconds since 1970.

        `to_download` receives how many objects are still to be downloaded. `wait_seconds`: how long a run
        that ends by itself waits for a Segment that does not answer.
        """
        self.troubles: dict[Trouble, str] = {}
        self.lacks_room: NoRoom | None = None
        """Why the last step did nothing: the disk is full, or another process holds the ledger."""
        self.plan: Plan | None = None
        self.last_failure = ""
        """Why the last hour that could not be listed was not."""
        self._ledger = ledger
        self._spool = spool
        self._segment = segment
        self._downloader = downloader
        self.schedule = schedule(clock.now_ns())
        """What is asked for; until Segment's time is known, as far as the machine's clock tells."""
        self._schedule_at = schedule
        self._started = clock.monotonic()
        self._is_since_kept = False
        self._is_schedule_checked = False
        self._clock = clock
        self._is_stopping = is_stopping
        self._most_content = most_content_bytes
        self._to_download = to_download
        self._not_before_ns = 0
        self._failures = 0
        self._pauses = 0
        self._time = SegmentTime(ledger, segment, clock, self._on_time_set, wait_seconds)
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
            if not (self._time.is_known or self._is_since_kept):
                self._keep_since(now_ns)
            self._tidy(now_ns)
            if not self._ledger.folder.has_room():
                self.lacks_room = NoRoom(f"{self._ledger.folder.path}: the disk is full")
                return now_ns + NO_ROOM_NS
            self.lacks_room = None
            self._to_download(self._ledger.to_download())
            if listed := self._ledger.next_listed():
                self._download(listed)
                return None
            return self._list_next(now_ns)
        except NoRoom as error:
            self.lacks_room = error
            return now_ns + NO_ROOM_NS

    def _list_next(self, now_ns: int) -> int | None:
        """Lists the hour that is first in the plan; returns as `step` does.

        While Segment's time is not known, the plan says what would be due if the machine's clock is right.
        """
        is_known = self._time.is_known
        if is_known or self._clock.is_plausible:
            views, schedule = hour_views(self._ledger.database, now_ns), self._schedule_of(now_ns)
            self.plan = plan(now_ns, views, self._quota(), schedule)
        if self.plan is None or not is_known:
            return self._time.next_check_ns
        if not self.plan.asks:
            return max(self.plan.next_ns, now_ns + SECOND_NS)
        if why := self._segment.why_no_token():  # known before a request is debited
            self._trouble("token", why)
            self._is_token_lost = True
            return now_ns + TOKEN_NS
        if self._is_token_lost:
            self._is_token_lost = False
            self.troubles.pop("token", None)
            _log.info("the token can be read again")
        self._list(self.plan.asks[0])
        return None

    def close(self) -> None:
        """Closes the connections to Segment."""
        self._segment.close()

    def _schedule_of(self, now_ns: int) -> ScheduleConfig:
        """Without the collections that Segment refuses, for as long as they are not tried again."""
        tried = [each for each in self.schedule.collections if not self._is_refused(each, now_ns)]
        return replace(self.schedule, collections=tuple(tried))

    def _is_refused(self, collection: str, now_ns: int) -> bool:
        """What ends later than it can was noted by a clock that was ahead."""
        until_ns = fact_ns(self._ledger.database, REFUSED + collection) or 0
        return now_ns < until_ns <= now_ns + REFUSED_NS

    @property
    def may_try_again(self) -> bool:
        """Whether hours are due again soon: they failed less than three times, or Segment asked to wait."""
        if not self._time.is_known:
            return self._time.may_check_again
        if self.troubles.keys() & {"token", "host"} or self._failures >= FAILURES_IN_A_ROW:
            return False
        waits = bool(self.plan and self.plan.waiting)
        return waits or any(failures < MOST_TRIES for failures in self._failed())

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
        refused = {
            each: fact_ns(self._ledger.database, REFUSED + each) or 0
            for each in self.schedule.collections
            if self._is_refused(each, now_ns)
        }
        return [
            f"{each}: Segment refused it in an earlier run; it is asked for again at {time_text(until_ns)}"
            for each, until_ns in refused.items()
        ]

    @property
    def unread(self) -> int:
        """How many hours failed when they were read last."""
        return len(self._failed())

    def _failed(self) -> list[int]:
        """How often those hours failed that Segment still has, and that were not read since."""
        now_ns = self._clock.now_ns()
        known, since = self._schedule_of(now_ns).collections, hour_of(self.schedule.since_ns)
        views = hour_views(self._ledger.database, now_ns)
        hours = [(hour, view) for each in known for hour, view in views.get(each, {}).items()]
        return [view.failures for hour, view in hours if view.failures and (hour >= since or view.wanted)]

    def _check_time(self) -> None:
        """Learns Segment's time, and whether the token is good; costs no request."""
        was_known = self._time.is_known
        outcome = self._time.check().outcome
        if isinstance(outcome, api.Denied) and outcome.is_token_wrong:
            self._trouble("token", outcome.why)
            self._not_before_ns = self._clock.now_ns() + HOUR_NS
            self.is_denied = self.is_denied or not was_known
        elif isinstance(outcome, api.Failed) and outcome.is_permanent:
            self._trouble("network", outcome.why)
            self.is_denied = self.is_denied or not was_known
        else:
            self.troubles.pop("network", None)

    # -- asking ------------------------------------------------------------------------------------------

    def _list(self, ask: Ask) -> None:
        form: api.Form = "body" if fact(self._ledger.database, FORM) == "body" else "both"
        answered = self._ask(ask, form)
        is_left = self._quota().left(self._clock.now_ns(), with_reserve=True) > 0
        if isinstance(answered.outcome, api.Misunderstood) and is_left:
            form = "body" if form == "both" else "both"
            answered = self._ask(ask, form)
            if isinstance(answered.outcome, api.Listing):
                self._ledger.note(FORM, form)
        self._take_answer(ask, answered)

    def _ask(self, ask: Ask, form: api.Form) -> api.Answered:
        request = self._ledger.debit(ask.collection, ask.hour, ask.why, self._clock.now_ns())
        sent_ns = self._clock.now_ns()
        answered = self._segment.list_hour(ask.collection, ask.hour, form, sent_ns)
        self._time.hear(answered, sent_ns)
        now_ns, outcome, said = self._clock.now_ns(), answered.outcome, answered.said
        self._pauses = self._pauses + 1 if answered.pause_ns or isinstance(outcome, api.TooMany) else 0
        pause_ns = 0
        if self._pauses:  # an API that says "at once" each time must not cost the whole quota
            pause_ns = max(answered.pause_ns, SHORTEST_PAUSE_NS << min(self._pauses - 1, 10))
            pause_ns = min(pause_ns, max(answered.pause_ns, LONGEST_PAUSE_NS))
        not_before_ns = now_ns + pause_ns if pause_ns else 0
        if isinstance(outcome, api.Listing):
            self._ledger.listed(request, ask.collection, ask.hour, outcome.urls, now_ns)
        self._ledger.heard(
            request,
            "listed" if isinstance(outcome, api.Listing) else type(outcome).__name__.lower(),
            Said(
                at_ns=now_ns,
                remaining=said.remaining if said else None,
                reset_ns=said.reset_ns if said else None,
                not_before_ns=not_before_ns,
            ),
        )
        return answered

    def _take_answer(self, ask: Ask, answered: api.Answered) -> None:
        now_ns, outcome = self._clock.now_ns(), answered.outcome
        where = f"{ask.collection}, {hour_text(ask.hour)}"
        if isinstance(outcome, api.Listing):
            _log.info("%s (%s): %d objects", where, ask.why, len(outcome.urls))
            if not outcome.urls:
                self._failures = 0
            self.troubles.pop("token", None)
        elif isinstance(outcome, api.TooMany):
            _log.warning("%s: %s; asking again in %d s", where, outcome.why, outcome.pause_ns // SECOND_NS)
        elif isinstance(outcome, api.Denied) and outcome.is_token_wrong:
            self._trouble("token", outcome.why)
            self._not_before_ns = now_ns + HOUR_NS
        elif isinstance(outcome, api.Denied | api.Unknown):
            self._trouble("collection", f"{ask.collection}: {outcome.why}")
            self._ledger.listing_failed(ask.collection, ask.hour, outcome.why, now_ns)
            self._ledger.note(REFUSED + ask.collection, str(now_ns + REFUSED_NS))
        else:
            self._fail(ask.collection, ask.hour, outcome.why)

    def _fail(self, collection: str, hour: int, why: str) -> None:
        """An hour could not be listed, or not downloaded. After some in a row all of them wait."""
        self.last_failure = f"{collection}, {hour_text(hour)}: {why}"
        _log.warning("%s", self.last_failure)
        now_ns = self._clock.now_ns()
        self._ledger.listing_failed(collection, hour, why, now_ns)
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            pause_ns = FIRST_PAUSE_NS << min(self._failures - FAILURES_IN_A_ROW, 10)
            self._not_before_ns = now_ns + min(pause_ns, LONGEST_PAUSE_NS)

    def _trouble(self, kind: Trouble, why: str) -> None:
        if self.troubles.get(kind) != why:
            _log.error("%s", why)
        self.troubles[kind] = why

    # -- downloading ---------------------------------------------------------------------------------------

    def _download(self, listed: Listed) -> None:
        where = f"{listed.collection}, {hour_text(listed.hour)}"
        known = Known(*astuple(listed.known)) if listed.known else None
        try:
            with self._spool.download(listed.id) as part:
                found = self._downloader.download(listed.url, known, part, self._is_stopping)
                part.is_whole = isinstance(found, Got)
            if isinstance(found, Got):
                self._take_in(listed, found, self._survey(listed.id, part.sha256))
                return
        except (StrangeEntry, NotWhole) as error:  # the next listing gives the object another name
            self._spool.drop(listed.id)
            self._fail(listed.collection, listed.hour, f"{error}; the hour is listed again")
            return
        if isinstance(found, Same):
            self._ledger.unchanged(listed)
            self._failures = 0
        elif self._is_stopping():
            return
        elif isinstance(found, Forbidden):
            self._trouble("host", f"a download is refused: {found.why}")
            why, now_ns = self.troubles["host"], self._clock.now_ns()
            self._ledger.listing_failed(listed.collection, listed.hour, why, now_ns)
            self._not_before_ns = now_ns + HOUR_NS
        elif isinstance(found, Gone) or listed.tries + 1 >= MOST_TRIES:
            self._fail(listed.collection, listed.hour, f"a download failed: {found.why}; it is listed again")
        else:
            _log.info("%s: a download broke off: %s; trying again", where, found.why)
            self._ledger.download_failed(listed)
            self._clock.wait(float(listed.tries + 1))

    def _take_in(self, listed: Listed, found: Got, content: Content) -> None:
        """T2: the object is whole, and its records are counted."""
        identity = Identity(found.etag, found.last_modified, found.length)
        self._failures = 0
        if not self._ledger.spooled(listed, identity, content, self._clock.now_ns()):
            self._spool.drop(listed.id)  # its hour is listed again: another object of it was damaged
            return
        where = f"{listed.collection}, {hour_text(listed.hour)}"
        _log.info("%s: an object of %d bytes, %d records", where, found.length, content.records)

    def _survey(self, number: int, sha256: str) -> Content:
        """Counts an object's records before any of them is forwarded. Raises NotWhole, LedgerBroken."""
        lines = blank = records = 0
        try:
            with self._spool.open(number) as file:
                form = form_of(unpack(iter(lambda: file.read(1 << 18), b""), self._most_content))
                file.seek(0)
                content = unpack(iter(lambda: file.read(1 << 18), b""), self._most_content)
                for record in read_records(form, content):
                    if isinstance(record, Blank):
                        blank += record.lines
                    else:
                        records += 1
        except OSError as error:
            raise NotWhole(f"its spool file cannot be read: {error.strerror}") from None
        if form.kind == "lines":
            lines = records + blank
        return Content(lines, blank, records, sha256, Survey(form, self._most_content))

    # -- time --------------------------------------------------------------------------------------------

    def _on_time_set(self, by_ns: int) -> None:
        """What was derived from the time before follows it."""
        self._not_before_ns += by_ns
        if self._is_schedule_checked:
            return
        self._is_schedule_checked = self._clock.is_checked
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

    @property
    def _running_ns(self) -> int:
        """How long this run has been going on."""
        return round((self._clock.monotonic() - self._started) * SECOND_NS)

    def _keep_since(self, now_ns: int) -> None:
        """Notes since when hours are wanted, for a run that ends before Segment's time is known."""
        since_ns = self._schedule_at(now_ns - self._running_ns).since_ns
        kept = unchecked_since_ns(self._ledger.database, now_ns)
        since_ns = since_ns if kept is None else min(since_ns, kept)
        self._ledger.note(UNCHECKED_SINCE, f"{since_ns} {now_ns}")
        self._is_since_kept = True

    def _tidy(self, now_ns: int) -> None:
        if not self._time.is_known:
            return
        wipe_urls(self._ledger, now_ns)
        if 0 <= now_ns - self._tidied_ns < HOUR_NS:
            return
        self._tidied_ns = now_ns
        if self._clock.is_agreed:
            self._ledger.note(AGREED, str(now_ns))
        if self._clock.is_checked:
            for collection, hour in prune(self._ledger, self._clock.certain_ns()):
                forget_digests(self._ledger.folder.digests, collection, hour)

    def _quota(self) -> Quota:
        return quota_of(self._ledger.database, self._not_before_ns)
