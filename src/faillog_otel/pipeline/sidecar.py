"""The polling run: one thread lists and downloads, the main thread forwards; the ledger is between them.

Neither waits for the other: while the collector is unavailable, hours are still listed and downloaded before
Segment deletes them. Signals reach the main thread.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from faillog_otel.clock import RETENTION_NS, SECOND_NS, Clock, hour_of, hour_text
from faillog_otel.errors import InputError, Interrupted, LedgerBroken, NoRoom
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.inputs.files import ByteRange, Interruptible
from faillog_otel.ledger import Ledger, Spooled
from faillog_otel.ledger.sinks import ObjectSink, ShownObjectSink
from faillog_otel.ledger.spool import NotWhole, Spool
from faillog_otel.ledger.state_dir import RoomWait, with_remedy
from faillog_otel.pipeline.batch import failure_changes
from faillog_otel.pipeline.collection_index import CollectionIndexes
from faillog_otel.pipeline.fetcher import SOON_NS, Fetcher
from faillog_otel.pipeline.forwarder import Forwarder, Progress
from faillog_otel.pipeline.names import ObjectNames
from faillog_otel.telemetry import NO_HEARTBEAT, NO_TELEMETRY, Heartbeat, Telemetry

_log = logging.getLogger(__name__)

POLL_INTERVAL_SECONDS = 0.2
MAX_WAIT_SECONDS = 300.0
GRACE_SECONDS = 2.5
"""How long the end of the run waits for a request in flight."""

OfObject = Callable[[int], AbstractContextManager[Progress]]
"""Shows the progress of forwarding an object of this many bytes."""


class Periodic(Protocol):
    """Something that is due from time to time, such as a line in the log every hour."""

    def say_if_due(self) -> None:
        """Does it if it is due."""

    def seconds_left(self) -> float:
        """Returns how long it is until it is due."""


class Sidecar:
    """One polling run, until nothing is due or until a signal."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        spool: Spool,
        fetcher: Fetcher,
        forwarder: Forwarder,
        clock: Clock,
        interruptible: Interruptible,
        is_stopping: Callable[[], bool],
        is_over: Callable[[], bool],
        end_sending: Callable[[str], object],
        once: bool,
        progress: OfObject,
        hourly: Periodic,
        heartbeat: Heartbeat = NO_HEARTBEAT,
        telemetry: Telemetry = NO_TELEMETRY,
        shows_only: bool = False,
        wait_seconds: float = math.inf,
        monotonic: Callable[[], float] = time.monotonic,
        names: ObjectNames | None = None,
    ) -> None:
        """`shows_only`: records are only shown, and every object stays in the spool.

        `wait_seconds`: how long the run continues while the disk is full or another process locks the ledger;
        `monotonic` measures it for the forwarding thread. `clock`: counts the hours. `is_over`: whether
        nothing more is sent. `end_sending` ends sending for a reason, and all waits for the collector.
        """
        self.broken: LedgerBroken | None = None
        self.shown: set[int] = set()
        """The ids of the objects that were shown, with `shows_only`."""
        self.unfetched: NoRoom | None = None
        """Why listing and downloading ended early; spooled objects are forwarded nevertheless."""
        self.has_unaccounted = False
        """Whether records were lost, or differ in number from those counted at the download; see the log."""
        self._ledger = ledger
        self._spool = spool
        self._fetcher = fetcher
        self._forwarder = forwarder
        self._indexes = CollectionIndexes(ledger, spool, self._index)
        self._names = names
        self._clock = clock
        self._interruptible = interruptible
        self._is_stopping = is_stopping
        self._is_over = is_over
        self._end_sending = end_sending
        self._once = once
        self._progress = progress
        self._hourly = hourly
        self._heartbeat = heartbeat
        self._telemetry = telemetry
        self._bug: BaseException | None = None
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._rests = False  # whether all that is due was downloaded
        self._forwarded = threading.Event()
        """Set while no spooled object waits: one that the disk changed makes its hour due again."""
        self._must_end = threading.Event()
        self.shows_only = shows_only
        self._room = RoomWait(wait_seconds, monotonic)
        self._room_to_fetch = RoomWait(wait_seconds, clock.monotonic)

    def run(self) -> None:
        """Runs until a signal; with `once`, until nothing is due. Sets `broken`."""
        thread = threading.Thread(target=self._fetch, daemon=True)
        thread.start()
        try:
            while not self._is_stopping() and self.broken is None:
                self._heartbeat.beat("forwarding")
                fetched, rests = self._ended.is_set(), self._rests
                if self._is_over() and not self._once:
                    break
                try:
                    spooled = None if self._is_over() else self._next_spooled(fetched=fetched)
                    if spooled is not None:
                        self._forwarded.clear()
                        self._forward(spooled)
                        continue
                    self._forwarded.set()
                    self._room.succeeded()
                    if not self.shows_only:
                        changes = self._ledger.expire_messages(self._clock.now_ns())
                        self._telemetry.record_failures(failure_changes(changes))
                    if fetched:
                        break
                    if rests and not self._once:
                        self._forwarder.show()
                    self._wait_for_change()
                except NoRoom as error:
                    self._wait_for_room(error)
        except LedgerBroken as error:
            self.broken = self.broken or error
        self._must_end.set()
        self._forwarder.show()
        thread.join(GRACE_SECONDS)
        if self._bug is not None:
            raise self._bug

    # -- forwarding ----------------------------------------------------------------------------------------

    def _next_spooled(self, *, fetched: bool) -> Spooled | None:
        """Returns the next object; waits for objects of its hour that can be downloaded soon."""
        is_downloading = not fetched and self._fetcher.lacks_room is None
        soon_ns = self._clock.now_ns() + SOON_NS if is_downloading else None
        return self._ledger.next_spooled(self.shown, soon_ns=soon_ns)

    def _forward(self, spooled: Spooled) -> None:
        name = f"{spooled.collection}/{hour_text(spooled.hour)}{spooled.path}"
        try:
            with self._spool.open(spooled.id) as file:
                is_checked = self._spool.check(file, spooled.length, spooled.sha256, self._goes_on)
                is_done = is_checked and self._forward_whole(spooled, name, file)
        except NotWhole as error:
            self._give_up(spooled, name, str(error))
            is_done = True
        if is_done and self.shows_only:
            self.shown.add(spooled.id)
        elif is_done:
            self._room.succeeded()

    def _give_up(self, spooled: Spooled, name: str, why: str) -> None:
        now_ns = self._clock.now_ns()
        self._ledger.not_whole(spooled, why, now_ns)
        self._fetcher.last_failure = f"{name}: {why}"
        if spooled.hour > hour_of(now_ns - RETENTION_NS):
            _log.error("%s: %s; its hour will be listed again", name, why)
            return
        self.has_unaccounted = True
        lost = spooled.records - spooled.position
        _log.error("%s: %s, and Segment no longer has its hour: %d records are lost", name, why, lost)

    def _forward_whole(self, spooled: Spooled, name: str, file: BinaryIO) -> bool:
        """Forwards an intact object; returns whether all results are committed. Raises LedgerBroken."""
        sink = (ShownObjectSink if self.shows_only else ObjectSink)(
            self._ledger,
            spooled,
            now_ns=self._clock.now_ns,
            wait_for_room=self._wait_for_room,
            has_room=self._room.succeeded,
        )
        is_read = False
        try:
            exchanges = self._indexes.of(spooled, stores=not self.shows_only)
            exchanges.name_of = None if self._names is None else self._names.of(spooled)
            size = os.fstat(file.fileno()).st_size
            with self._progress(size) as progress:
                whole = ByteRange(file.fileno(), name, 0, size)
                self._forwarder.forward(whole, sink, exchanges, progress=progress, survey=spooled.survey)
                is_read = self._forwarder.stopped_at is None
                self._forwarder.finish()
        except InputError as error:
            raise LedgerBroken(str(error)) from None
        finally:
            self.broken = self.broken or self._forwarder.broken
            changes = sink.close(is_read=is_read and self.broken is None)
        if changes is None:
            return False
        self._telemetry.record_failures(failure_changes(changes))
        if sink.position != spooled.records:
            self.has_unaccounted = True
            _log.error(
                "%s: %d records were counted at the download, but %d were forwarded; to read the hour again:"
                " faillog-otel replay --collection %s --since %s --until %s",
                *(name, spooled.records, sink.position, spooled.collection),
                *(hour_text(spooled.hour), hour_text(spooled.hour + 1)),
            )
        return True

    def _index(self, spooled: Spooled, exchanges: ExchangeIndex) -> None:
        """Adds the exchanges of a spooled object to an index. Raises NotWhole, LedgerBroken."""
        with self._spool.open(spooled.id) as file:
            if self._spool.check(file, spooled.length, spooled.sha256, self._goes_on):
                whole = ByteRange(file.fileno(), str(spooled.id), 0, os.fstat(file.fileno()).st_size)
                self._forwarder.index(whole, exchanges, survey=spooled.survey)

    def _goes_on(self) -> bool:
        self._heartbeat.beat("forwarding")
        return not self._is_stopping()

    def _wait_for_change(self) -> None:
        try:
            with self._interruptible():
                self._changed.wait(POLL_INTERVAL_SECONDS)
        except Interrupted:
            return
        self._changed.clear()

    def _wait_for_room(self, error: NoRoom) -> bool:
        """Waits a little; returns whether to give up."""
        self._heartbeat.beat("forwarding")
        seconds = self._room.pause(error)
        if seconds is None:
            self.broken = self.broken or LedgerBroken(with_remedy(error))
            return True
        try:
            with self._interruptible():
                self._must_end.wait(seconds)
        except Interrupted:
            return True
        return self._is_stopping()

    # -- fetching ------------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        """Runs on the other thread."""
        try:
            while not self._stops() and not self._fetcher.is_denied:
                self._heartbeat.beat("fetching")
                self._hourly.say_if_due()
                back_ns = self._fetcher.step()
                self._rests = back_ns is not None or self._fetcher.lacks_room is not None
                if (error := self._fetcher.lacks_room) is not None:
                    seconds = self._room_to_fetch.pause(error)
                    if seconds is None:
                        self.unfetched = error
                        break
                    if self._clock.wait(seconds):
                        break
                    continue
                self._room_to_fetch.succeeded()
                if back_ns is None:
                    self._changed.set()
                elif self._pause(back_ns):
                    break
        except LedgerBroken as error:
            self.broken = error
            self._end_sending(str(error))
        except Exception as error:  # noqa: BLE001  # it is raised in the main thread
            self._bug = error
            self.broken = LedgerBroken("a bug ended the run")
            self._end_sending("a bug ended the run")
        finally:
            self._fetcher.close()
            self._heartbeat.ended("fetching")
            self._ended.set()
            self._changed.set()

    def _pause(self, back_ns: int) -> bool:
        """Waits until the next listing or download is due; returns whether the fetching ends."""
        if self._once and not self._is_retry_soon(back_ns):
            return self._forwarded.wait(POLL_INTERVAL_SECONDS)
        seconds = (back_ns - self._clock.now_ns()) / SECOND_NS
        return self._clock.wait(min(seconds, MAX_WAIT_SECONDS, self._hourly.seconds_left()))

    def _stops(self) -> bool:
        return self._is_stopping() or self._must_end.is_set()

    def _is_retry_soon(self, back_ns: int) -> bool:
        """Whether a retry is due within `SOON_NS`, so that a run with `once` waits for it."""
        try:
            return back_ns - self._clock.now_ns() <= SOON_NS and self._fetcher.can_retry
        except NoRoom:  # another process locks the ledger: try again then
            return True
