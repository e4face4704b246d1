"""Requests to Segment: lists hours, each debited from the quota, and downloads the objects that were listed.

The methods are used by one thread, and raise NoRoom and LedgerBroken.
"""

import logging
import random
from collections.abc import Callable

from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, SECOND_NS, Clock, hour_text
from faillog_otel.errors import InputError
from faillog_otel.events.model import Survey
from faillog_otel.files import StrangeEntry
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.inputs.files import ByteRange, unpack
from faillog_otel.inputs.formats import form_and_content, read_groups
from faillog_otel.inputs.json_stream import Blank, Group
from faillog_otel.ledger import MAX_INDEX_BYTES, Cause, Content, Ledger, Listed
from faillog_otel.ledger.spool import Download, IndexFile, NotWhole, Spool
from faillog_otel.segment import answers, api
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.download import (
    Downloaded,
    Downloader,
    DownloadFailed,
    DownloadRefused,
    Expired,
    NotModified,
)
from faillog_otel.segment.hours import ObjectVersion
from faillog_otel.segment.pools import ListingRequest
from faillog_otel.segment.quota import Granted, Quota, RateLimit, Wait

_log = logging.getLogger(__name__)

# -- listings ------------------------------------------------------------------------------------------------

FIRST_BACKOFF_NS = 10 * SECOND_NS
"""After a 429 without a Retry-After; doubled for each further one in a row."""
FIRST_MIN_BACKOFF_NS = SECOND_NS
"""The minimum after the second 429 in a row, whatever its Retry-After; doubled for each further one."""
MAX_BACKOFF_NS = HOUR_NS
MAX_JITTER_SECONDS, JITTER_SHARE = 1.0, 0.02
"""Added to a pause that Segment requests."""


class Requests:
    """Lists hours, and stores each request and its answer in the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        segment: SegmentApi,
        clock: Clock,
        take_date: Callable[[answers.ApiAnswer, int], bool],
        per_day: int,
    ) -> None:
        """`take_date` sets the clock by an answer, whose request was sent at this time.

        It returns whether it corrected times in the ledger. `per_day`: the size of the quota, unless Segment
        says it.
        """
        self.spent = 0
        """Requests in this run."""
        self._ledger = ledger
        self._segment = segment
        self._clock = clock
        self._take_date = take_date
        self._per_day = per_day
        self._refusals = 0
        """429s in a row."""

    def has_left(self) -> bool:
        """Returns whether the quota allows a request now."""
        return self.quota().left(self._clock.now_ns(), with_reserve=True) > 0

    def quota(self) -> Quota:
        """Returns the requests that were made, and Segment's last rate limit."""
        return self._ledger.quota(self._per_day)

    def list_hour(self, request: ListingRequest, form: api.Form) -> answers.ApiAnswer:
        """Debits the request (T0), makes it, and stores its answer (T1)."""
        number = self._ledger.debit(request.collection, request.hour, request.why, self._clock.now_ns())
        quota = self.quota()
        self.spent += 1
        sent_ns = self._clock.now_ns()
        answered = self._segment.list_hour(request.collection, request.hour, form, sent_ns)
        if self._take_date(answered, sent_ns):
            quota = self.quota()
        now_ns, outcome = self._clock.now_ns(), answered.outcome
        granted: Granted = "none"
        if isinstance(outcome, answers.Listing):
            granted, self._refusals = "granted", 0
        elif isinstance(outcome, answers.RateLimited):
            granted = "refused"
            self._refusals += 1
        pause_ns = self._pause_after(answered)
        limit = _rate_limit(answered, quota.with_answer(granted), now_ns)
        wait = Wait(now_ns + pause_ns, getattr(outcome, "why", "")) if pause_ns else None
        if isinstance(outcome, answers.Listing):
            self._ledger.listed(
                number, request.collection, request.hour, outcome.urls, now_ns, rate_limit=limit, wait=wait
            )
        else:
            self._ledger.answered(
                number, answers.LEDGER_NAMES[type(outcome)], now_ns, rate_limit=limit, wait=wait
            )
        return answered

    def _pause_after(self, answered: answers.ApiAnswer) -> int:
        """Returns how long to make no request: the pause that Segment requests, with a jitter.

        A server whose pauses are too short again and again must not cost the whole quota: after consecutive
        429s there is a minimum, which doubles.
        """
        requested_ns = answered.pause_ns
        if not isinstance(answered.outcome, answers.RateLimited):
            min_ns = 0
        elif requested_ns is None and (answered.rate_limit is None or answered.rate_limit.remaining):
            min_ns = FIRST_BACKOFF_NS << min(self._refusals - 1, 12)
        else:
            min_ns = FIRST_MIN_BACKOFF_NS << min(self._refusals - 2, 12) if self._refusals > 1 else 0
        seconds = (requested_ns or 0) / SECOND_NS
        jitter = random.uniform(0.0, min(MAX_JITTER_SECONDS, JITTER_SHARE * seconds))  # no secret
        return max((requested_ns or 0) + int(jitter * SECOND_NS), min(min_ns, MAX_BACKOFF_NS))


def _rate_limit(answered: answers.ApiAnswer, quota: Quota, now_ns: int) -> RateLimit | None:
    """Returns an answer's rate limit by our clock: the server's periods count from when the answer came."""
    if (limit := answered.rate_limit) is None:
        return None
    reset_ns = None if limit.reset_ns is None else limit.reset_ns - limit.at_ns + now_ns
    # The server counted all requests so far, also one that was stamped before the clock was set back.
    at_ns = max(now_ns, quota.debits[-1].at_ns)
    return quota.with_window(replace(limit, at_ns=at_ns, reset_ns=reset_ns))


# -- downloads -----------------------------------------------------------------------------------------------

INDEX_MEMORY_BYTES = 16 * 1024 * 1024
"""Of an exchange index that is built while another thread forwards."""


class Downloads:
    """Downloads objects into the spool, one at a time. An object that fails does not delay the others."""

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
        """Objects whose first download failed, since one was downloaded."""
        self.last_failure = ""
        """Why the last download that failed did."""
        self.forbidden = ""
        """Why the last object that the settings do not allow was refused."""
        self._ledger = ledger
        self._spool = spool
        self._downloader = downloader
        self._clock = clock
        self._is_stopping = is_stopping
        self._max_content = max_content_bytes

    def download(self, listed: Listed) -> None:
        """Downloads an object, and stores the outcome (T2)."""
        try:
            with self._spool.download(listed.id) as download:
                found = self._downloader.download(
                    listed.url, listed.known, download.content, self._is_stopping
                )
                if isinstance(found, Downloaded):
                    content = self._survey(download, found.length)
                    download.is_whole = True
            if isinstance(found, Downloaded):
                self._store(listed, found, content)
                return
        except (StrangeEntry, NotWhole) as error:
            self._spool.drop(listed.id)
            self._store_failure(listed, str(error), "name")
            return
        if isinstance(found, NotModified):
            self._ledger.unchanged(listed)
            self.failed_in_a_row = 0
        elif not self._is_stopping():
            causes: dict[type[Expired | DownloadFailed | DownloadRefused], Cause] = {
                Expired: "url",
                DownloadRefused: "forbidden",
            }
            self._store_failure(listed, found.why, causes.get(type(found), "other"))

    def _store(self, listed: Listed, found: Downloaded, content: Content) -> None:
        version = ObjectVersion(found.etag, found.last_modified, found.length)
        self.failed_in_a_row = 0
        self._ledger.spooled(listed, version, content, self._clock.now_ns())
        where = f"{listed.collection}, {hour_text(listed.hour)}"
        _log.info("%s: downloaded an object of %d bytes, %d records", where, found.length, content.records)

    def _store_failure(self, listed: Listed, why: str, cause: Cause) -> None:
        self._ledger.download_failed(listed, why, self._clock.now_ns(), cause)
        if cause == "forbidden":
            self.forbidden = f"a download is refused: {why}"
        self.last_failure = f"{listed.collection}, {hour_text(listed.hour)}: a download failed: {why}"
        level = logging.INFO if listed.has_failed else logging.WARNING
        _log.log(level, "%s; this object is retried by itself", self.last_failure)
        self.failed_in_a_row += not listed.has_failed  # retries of one object say nothing about the others

    def _survey(self, download: Download, length: int) -> Content:
        """Counts the records of an object and indexes its exchanges in one pass. Raises NotWhole, OSError.

        An index of more than `MAX_INDEX_BYTES` (five million exchanges) is not saved: the object is indexed
        again when it is forwarded, and other objects do not find its answers.
        """
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
                    exchanges.add_records(raws)
                    if exchanges.size > MAX_INDEX_BYTES:
                        exchanges = None
        except InputError as error:
            raise NotWhole(str(error)) from None
        index = None
        if exchanges is not None and not exchanges.is_empty:
            exchanges.save(saved)
            index = IndexFile(saved.tell(), saved.sha256)
        download.has_index = index is not None
        if form.kind == "lines":
            lines = records + blank
        survey = Survey(form, self._max_content, is_indexed=exchanges is not None)
        return Content(lines, blank, records, file.sha256, survey, index)
