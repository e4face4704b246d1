"""The requests that cost something of the quota: each is debited, made, and its answer noted."""

import logging
import random
from collections.abc import Callable

from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, SECOND_NS, Clock, SegmentClock, hour_text, time_text
from faillog_otel.errors import InputError
from faillog_otel.events.decode import may_be_exchange
from faillog_otel.events.model import Survey
from faillog_otel.files import StrangeEntry
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.inputs.files import ByteRange, unpack
from faillog_otel.inputs.formats import form_and_content, read_groups
from faillog_otel.inputs.json_stream import Blank, Group
from faillog_otel.ledger import Cause, Content, Ledger, Listed
from faillog_otel.ledger.facts import ASKED_SINCE, NOBODY, SINCE, UNCHECKED_SINCE, unchecked_since_ns
from faillog_otel.ledger.spool import Download, NotWhole, Spool
from faillog_otel.segment import api
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.download import (
    Downloaded,
    Downloader,
    DownloadFailed,
    DownloadRefused,
    Expired,
    NotModified,
)
from faillog_otel.segment.quota import Granted, Quota, RateLimit, Wait
from faillog_otel.segment.schedule import ListingRequest, ObjectVersion, ScheduleConfig

# -- wanted --------------------------------------------------------------------------------------------------
#
# What a run asks for: which hours of which collections, counted by the best clock that is known.


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
        kept = unchecked_since_ns(self._ledger, now_ns)
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
        if (unchecked := unchecked_since_ns(ledger, now_ns + self._clock.ahead_ns)) is not None:
            since_ns = min(self.schedule.since_ns, unchecked - self._clock.ahead_ns)
            self.schedule = replace(self.schedule, since_ns=since_ns)
        noted = ledger.fact_ns(SINCE)
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


# -- requests ------------------------------------------------------------------------------------------------


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
        hear: Callable[[api.ApiAnswer, int], object],
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
        return self._ledger.quota(self._per_day)

    def list_hour(self, ask: ListingRequest, form: api.Form) -> api.ApiAnswer:
        """T0, the request, T1: notes all of it in the ledger."""
        request = self._ledger.debit(ask.collection, ask.hour, ask.why, self._clock.now_ns())
        self.spent += 1
        sent_ns = self._clock.now_ns()
        answered = self._segment.list_hour(ask.collection, ask.hour, form, sent_ns)
        self._hear(answered, sent_ns)
        now_ns, outcome = self._clock.now_ns(), answered.outcome
        answer: Granted = "none"
        if isinstance(outcome, api.Listing):
            answer, self._refusals = "granted", 0
        elif isinstance(outcome, api.RateLimited):
            answer = "refused"
            self._refusals += 1
        pause_ns = self._pause_after(answered)
        said = self._rate_limit(answered, answer, now_ns)
        wait = Wait(now_ns + pause_ns, getattr(outcome, "why", "")) if pause_ns else None
        if isinstance(outcome, api.Listing):
            self._ledger.listed(
                request, ask.collection, ask.hour, outcome.urls, now_ns, rate_limit=said, wait=wait
            )
        else:
            self._ledger.answered(
                request, api.LEDGER_NAMES[type(outcome)], now_ns, rate_limit=said, wait=wait
            )
        return answered

    def _rate_limit(self, answered: api.ApiAnswer, answer: Granted, now_ns: int) -> RateLimit | None:
        """What the ledger keeps of an answer's rate limit. The server's periods count from when it came."""
        if (said := answered.rate_limit) is None:
            return None
        reset_ns = None if said.reset_ns is None else said.reset_ns - said.at_ns + now_ns
        quota = self.quota().with_answer(answer)
        # It knows of every request so far, also of one that was stamped before the clock stepped back.
        at_ns = max(now_ns, quota.debits[-1].at_ns)
        return quota.with_window(replace(said, at_ns=at_ns, reset_ns=reset_ns))

    def _pause_after(self, answered: api.ApiAnswer) -> int:
        """How long nothing is asked after an answer: as long as it says, and a little more.

        A server that says too little again and again is asked at longer and longer intervals: it must not
        cost the whole quota.
        """
        told_ns = answered.pause_ns
        if not isinstance(answered.outcome, api.RateLimited):
            least_ns = 0
        elif told_ns is None and (answered.rate_limit is None or answered.rate_limit.remaining):
            least_ns = FIRST_REFUSAL_NS << min(self._refusals - 1, 12)
        else:
            least_ns = FIRST_BROKEN_WORD_NS << min(self._refusals - 2, 12) if self._refusals > 1 else 0
        seconds = (told_ns or 0) / SECOND_NS
        jitter = random.uniform(0.0, min(MAX_JITTER_SECONDS, JITTER_SHARE * seconds))  # no secret
        return max((told_ns or 0) + int(jitter * SECOND_NS), min(least_ns, MAX_REFUSAL_NS))


INDEX_MEMORY_BYTES = 16 * 1024 * 1024
"""Of an exchange index that is built while another thread forwards."""
MAX_INDEX_BYTES = 128 * 1024 * 1024
"""An object with a larger index (more than ten million exchanges) is indexed again when it is forwarded."""


# -- downloads -----------------------------------------------------------------------------------------------
#
# Downloads the objects that were listed into the spool, each by itself: one that fails delays no other.


class Downloads:
    """Used by one thread. Its methods raise NoRoom and LedgerBroken."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        spool: Spool,
        downloader: Downloader,
        clock: Clock,
        is_stopping: Callable[[], bool],
        max_content_bytes: int,
    ) -> None:
        self.failed_in_a_row = 0
        """Objects whose first try failed, since one was downloaded."""
        self.last_failure = ""
        """Why the last download that failed did."""
        self.forbidden = ""
        """Why the last object that our settings do not allow was refused."""
        self._ledger = ledger
        self._spool = spool
        self._downloader = downloader
        self._clock = clock
        self._is_stopping = is_stopping
        self._max_content = max_content_bytes

    def download(self, listed: Listed) -> None:
        """Tries it once, and notes what came of it."""
        try:
            with self._spool.download(listed.id) as object_:
                found = self._downloader.download(
                    listed.url, listed.known, object_.content, self._is_stopping
                )
                if isinstance(found, Downloaded):
                    content = self._survey(object_, found.length)
                    object_.is_whole = True
            if isinstance(found, Downloaded):
                self._take_in(listed, found, content)
                return
        except (StrangeEntry, NotWhole) as error:
            self._spool.drop(listed.id)
            self._miss(listed, str(error), "name")
            return
        if isinstance(found, NotModified):
            self._ledger.unchanged(listed)
            self.failed_in_a_row = 0
        elif not self._is_stopping():
            causes: dict[type[Expired | DownloadFailed | DownloadRefused], Cause] = {
                Expired: "url",
                DownloadRefused: "forbidden",
            }
            self._miss(listed, found.why, causes.get(type(found), "other"))

    def _miss(self, listed: Listed, why: str, cause: Cause) -> None:
        """An object could not be downloaded: it is tried again by itself, and the others go on."""
        self._ledger.download_failed(listed, why, self._clock.now_ns(), cause)
        if cause == "forbidden":
            self.forbidden = f"a download is refused: {why}"
        self.last_failure = f"{listed.collection}, {hour_text(listed.hour)}: a download failed: {why}"
        level = logging.INFO if listed.has_failed else logging.WARNING
        _log.log(level, "%s; this object is tried again by itself", self.last_failure)
        self.failed_in_a_row += not listed.has_failed  # one that is dead says nothing about the others

    def _take_in(self, listed: Listed, found: Downloaded, content: Content) -> None:
        """T2: the object is whole, and its records are counted."""
        identity = ObjectVersion(found.etag, found.last_modified, found.length)
        self.failed_in_a_row = 0
        self._ledger.spooled(listed, identity, content, self._clock.now_ns())
        where = f"{listed.collection}, {hour_text(listed.hour)}"
        _log.info("%s: an object of %d bytes, %d records", where, found.length, content.records)

    def _survey(self, download: Download, length: int) -> Content:
        """Counts the records of an object and indexes its exchanges in one pass. Raises NotWhole, OSError."""
        file, saved = download.content, download.exchanges
        file.flush()
        raw = ByteRange(file.fileno(), "its spool file", 0, length)
        exchanges: ExchangeIndex | None = ExchangeIndex(INDEX_MEMORY_BYTES, file=saved)
        lines = blank = records = 0
        try:
            form, content = form_and_content(lambda: unpack(raw.chunks(), self._max_content))
            for group in read_groups(form, content):
                if isinstance(group, Blank):
                    blank += group.lines
                    continue
                raws = group.raws if isinstance(group, Group) else [] if group.bad else [group.raw]
                records += len(raws) or 1
                if exchanges is not None:
                    for record in filter(may_be_exchange, raws):
                        exchanges.add_record(record)
                    if exchanges.size > MAX_INDEX_BYTES:
                        exchanges = None
        except InputError as error:
            raise NotWhole(str(error)) from None
        if exchanges is None:
            saved.seek(0)
            saved.truncate()
        else:
            exchanges.save(saved, file.sha256, length)
        if form.kind == "lines":
            lines = records + blank
        return Content(lines, blank, records, file.sha256, Survey(form, self._max_content))
