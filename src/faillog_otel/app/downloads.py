"""Downloads the objects that were listed into the spool, each by itself: one that fails delays no other."""

import logging
from collections.abc import Callable

from msgspec.structs import astuple

from faillog_otel.clock import Clock, hour_text
from faillog_otel.events.forms import form_of, read_records
from faillog_otel.events.model import Survey
from faillog_otel.events.record import Blank
from faillog_otel.events.unpack import unpack
from faillog_otel.ledger.downloads import Cause, Content, Identity, Listed
from faillog_otel.ledger.ledger import Ledger
from faillog_otel.ledger.private_folder import StrangeEntry
from faillog_otel.ledger.spool import NotWhole, Spool
from faillog_otel.segment.download import Broken, Downloader, Forbidden, Gone, Got, Known, Same

_log = logging.getLogger(__name__)


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
        most_content_bytes: int,
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
        self._most_content = most_content_bytes

    def download(self, listed: Listed) -> None:
        """Tries it once, and notes what came of it."""
        known = Known(*astuple(listed.known)) if listed.known else None
        try:
            with self._spool.download(listed.id) as part:
                found = self._downloader.download(listed.url, known, part, self._is_stopping)
                part.is_whole = isinstance(found, Got)
            if isinstance(found, Got):
                self._take_in(listed, found, self._survey(listed.id, part.sha256))
                return
        except (StrangeEntry, NotWhole) as error:
            self._spool.drop(listed.id)
            self._miss(listed, str(error), "name")
            return
        if isinstance(found, Same):
            self._ledger.unchanged(listed)
            self.failed_in_a_row = 0
        elif not self._is_stopping():
            causes: dict[type[Gone | Broken | Forbidden], Cause] = {Gone: "url", Forbidden: "forbidden"}
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

    def _take_in(self, listed: Listed, found: Got, content: Content) -> None:
        """T2: the object is whole, and its records are counted."""
        identity = Identity(found.etag, found.last_modified, found.length)
        self.failed_in_a_row = 0
        self._ledger.spooled(listed, identity, content, self._clock.now_ns())
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
