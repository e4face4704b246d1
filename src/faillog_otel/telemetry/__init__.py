"""Reports of a run about itself: counts for metrics, heartbeats of its loops, and health checks.

A loop that has not beaten for `LATE_SECONDS` counts as dead. A loop that waits for the collector is paused
and counts as alive: a restart would not help.

This module imports neither OpenTelemetry's SDK nor an HTTP server: `metrics` and `health` do, if settings ask
for them.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, Protocol

from msgspec import Struct

from faillog_otel.clock import time_text
from faillog_otel.errors import ConfigError
from faillog_otel.redact import redact_text
from faillog_otel.segment.answers import Change
from faillog_otel.text import MAX_SEARCHED_BYTES, printable

_log = logging.getLogger(__name__)

OutcomeKey = tuple[str, str, str]
"""Event (`error`, `attempt`, `exchange`, `other`), outcome, destination id; empty if unknown."""


class Gauge(Struct, frozen=True):
    """A value that is read for each export of metrics. Names and units follow OpenTelemetry (UCUM)."""

    name: str
    unit: str
    description: str
    read: Callable[[], Mapping[tuple[str, ...], float]]
    """Returns values of the attributes → number. Called from the export thread; an error skips the gauge."""
    attributes: tuple[str, ...] = ()
    """Names of the attributes, in the order of the values."""
    is_counter: bool = False
    """Whether it is exported as an observable counter."""


MAX_VALUE = 100
"""Characters of an id, a name or a code from outside."""
MAX_REASON = 200


def shown(text: str) -> str:
    """Returns the start of a name or an id from outside. It is not redacted, as nowhere."""
    return printable(text[:MAX_VALUE])


def one_line(text: str, max_chars: int = MAX_REASON) -> str:
    """Returns the start of a text from outside, redacted once more: some callers' codes are free text."""
    return printable(redact_text(text[:MAX_SEARCHED_BYTES]))[:max_chars]


class NewGroup(Struct, frozen=True):
    """A failure group that is seen for the first time."""

    id: str
    destination: str
    """The id; empty if unknown."""
    code: str | None
    """The canonical code."""
    status: int | None
    reason_class: str
    reason: str | None
    """Redacted and normalised."""
    first_ns: int
    """Its first occurrence, nanoseconds since 1970."""

    def sentence(self, names: Mapping[str, str]) -> str:
        """Returns what is new, for people. `names`: destination id → name."""
        destination = shown(names.get(self.destination, self.destination)) or "an unknown destination"
        status = "" if self.status is None else f"HTTP {self.status}"
        code = "" if self.code in (None, str(self.status)) else one_line(self.code or "")
        cause = f"{status} {code}".strip() or "no code"
        reason = f', "{one_line(self.reason)}"' if self.reason else ""
        return (
            f"new failure group {shown(self.id)}: {destination} fails with {cause}"
            f" ({shown(self.reason_class)}){reason}; first at {time_text(self.first_ns)}"
        )


class FailureChanges(Struct, frozen=True):
    """What a commit, or the passing of time, changed about failing messages."""

    messages: Mapping[tuple[str, str, str], int] = {}
    """Destination id, state (`lost` or `recovered`), reason class → messages that entered the state."""
    attempts: Mapping[tuple[str, str, str], int] = {}
    """Destination id, canonical code, reason class → failed attempts. Ids and codes are empty if unknown."""
    new_groups: Sequence[NewGroup] = ()


class EventsCounted(Struct, frozen=True):
    """What Segment counted since the last reading of its counts. Ids are empty if there is none."""

    events: Mapping[tuple[str, str, str], int] = {}
    """Source id, destination id, result → events. The result is `received`, `failed_on_ingest`,
    `filtered_at_source`, which are counted by source, `filtered`, `failed` or `delivered`."""
    discards: Mapping[tuple[str, str], int] = {}
    """Destination id and reason class → failed events."""


class NewGroupLog:
    """Names new groups in the program's log, at most `MAX_GROUPS` an hour.

    A change of ids or of a vendor's wording can make any number of groups at once. Safe for use from several
    threads.
    """

    MAX_GROUPS = 50
    SECONDS = 3600.0

    def __init__(self, names: Mapping[str, str], monotonic: Callable[[], float] = time.monotonic) -> None:
        """`names`: destination id → name."""
        self._names = names
        self._monotonic = monotonic
        self._named: deque[float] = deque(maxlen=self.MAX_GROUPS)  # when each of the last ones was
        self._lock = threading.Lock()
        self._has_said = False

    def write(self, groups: Sequence[NewGroup]) -> Sequence[NewGroup]:
        """Logs the groups; returns those that were not too many."""
        return [group for group in groups if self._write(group)]

    def _write(self, group: NewGroup) -> bool:
        with self._lock:
            now = self._monotonic()
            is_full = len(self._named) == self.MAX_GROUPS and now - self._named[0] < self.SECONDS
            says_so, self._has_said = is_full and not self._has_said, is_full
            if not is_full:
                self._named.append(now)
        if says_so:
            _log.info(
                "more than %d new failure groups in an hour: more of them are only counted; "
                "`faillog-otel failures` lists all",
                self.MAX_GROUPS,
            )
        if not is_full:
            _log.info("%s", group.sentence(self._names))
        return not is_full


class Telemetry(Protocol):
    """Counts for metrics. Safe for use from several threads; never raises, never blocks."""

    def record_outcomes(
        self, outcomes: Mapping[OutcomeKey, int], reasons: Mapping[str, int], shifted: int
    ) -> None:
        """Counts committed records by outcome, and the quarantined ones by reason code.

        `shifted` is the number of exported records with a time that the time policy changed.
        """

    def record_request(self, signal: str, outcome: str, seconds: float) -> None:
        """Records the outcome and the duration of a request with forwarded data."""

    def record_failures(self, failures: FailureChanges) -> None:
        """Counts failed attempts and changes of messages, and names new groups."""

    def record_events(self, counted: EventsCounted) -> None:
        """Counts what Segment counted."""

    def record_changes(self, changes: Sequence[Change]) -> None:
        """Sends a log event for each change of the workspace."""

    def observe(self, gauge: Gauge) -> None:
        """Exports the gauge from now on."""

    def close(self) -> None:
        """Exports once more, within a bounded time, and ends."""


class NoTelemetry:
    """Sends nothing. New groups are named in the program's log nevertheless."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        """`names`: destination id → name."""
        self._new_groups = NewGroupLog(names or {})

    def record_outcomes(
        self, outcomes: Mapping[OutcomeKey, int], reasons: Mapping[str, int], shifted: int
    ) -> None:
        """Does nothing."""

    def record_request(self, signal: str, outcome: str, seconds: float) -> None:
        """Does nothing."""

    def record_failures(self, failures: FailureChanges) -> None:
        """Names new groups in the program's log."""
        self._new_groups.write(failures.new_groups)

    def record_events(self, counted: EventsCounted) -> None:
        """Does nothing."""

    def record_changes(self, changes: Sequence[Change]) -> None:
        """Does nothing: the reading of changes is logged."""

    def observe(self, gauge: Gauge) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


NO_TELEMETRY = NoTelemetry()


class Check(Struct, frozen=True):
    """The result of one health check. Everybody can read `why`: it quotes no foreign text."""

    ok: bool
    why: str


Checks = Callable[[], Mapping[str, Check]]
"""Returns name → check."""

Loop = Literal["fetching", "forwarding"]

LATE_SECONDS = 600.0
"""Longer than any wait between two beats, and than the first pass over a large object."""
TOUCH_SECONDS = 5.0


class Heartbeat(Protocol):
    """The heartbeats of a run."""

    def beat(self, loop: Loop) -> None:
        """Records a beat of the loop."""

    def ended(self, loop: Loop) -> None:
        """Ends the heartbeat of a loop that has ended."""

    def paused(self, loop: Loop) -> AbstractContextManager[object]:
        """Returns a context in which the loop waits and counts as alive."""

    def beat_on_call(self, loop: Loop, is_stopping: Callable[[], bool]) -> Callable[[], bool]:
        """Returns `is_stopping` as a function that also records a beat."""

    def late(self) -> dict[Loop, float]:
        """Returns late loop → seconds since its last beat."""


class NoHeartbeat:
    """No-op implementation."""

    def beat(self, loop: Loop) -> None:
        """Does nothing."""

    def ended(self, loop: Loop) -> None:
        """Does nothing."""

    def paused(self, loop: Loop) -> AbstractContextManager[object]:  # noqa: ARG002  # the Protocol's
        """Does nothing."""
        return nullcontext()

    def beat_on_call(self, loop: Loop, is_stopping: Callable[[], bool]) -> Callable[[], bool]:  # noqa: ARG002  # the same
        """Returns `is_stopping`."""
        return is_stopping

    def late(self) -> dict[Loop, float]:
        """Returns no loop."""
        return {}


NO_HEARTBEAT = NoHeartbeat()


class FileHeartbeat:
    """Records beats, and touches a file while no loop is late. Safe for use from several threads."""

    def __init__(self, monotonic: Callable[[], float], file: str | None = None) -> None:
        """Raises ConfigError if the file cannot be created."""
        self._monotonic = monotonic
        self._file = file
        self._touched = monotonic()
        self._beats: dict[Loop, float] = {}
        self._paused: set[Loop] = set()
        if file is not None:
            try:
                self._touch(file)
            except OSError as error:
                raise ConfigError(f"--health-file {file}: {error.strerror}") from None

    def beat(self, loop: Loop) -> None:
        """Records a beat of the loop."""
        now = self._beats[loop] = self._monotonic()
        if self._file is not None and now - self._touched >= TOUCH_SECONDS and not self.late():
            self._touched = now
            try:
                self._touch(self._file)
            except OSError as error:
                _log.warning("--health-file %s: %s", self._file, error.strerror)

    def ended(self, loop: Loop) -> None:
        """Ends the heartbeat of a loop that has ended."""
        self._beats.pop(loop, None)

    @contextmanager
    def paused(self, loop: Loop) -> Iterator[None]:
        """Returns a context in which the loop waits and counts as alive."""
        self.beat(loop)
        self._paused.add(loop)
        try:
            yield
        finally:
            self._paused.discard(loop)
            self.beat(loop)

    def beat_on_call(self, loop: Loop, is_stopping: Callable[[], bool]) -> Callable[[], bool]:
        """Returns `is_stopping` as a function that also records a beat."""

        def beat_and_call() -> bool:
            self.beat(loop)
            return is_stopping()

        return beat_and_call

    def late(self) -> dict[Loop, float]:
        """Returns late loop → seconds since its last beat."""
        now = self._monotonic()
        since = {loop: now - beat for loop, beat in self._beats.copy().items()}
        return {
            loop: seconds
            for loop, seconds in since.items()
            if seconds > LATE_SECONDS and loop not in self._paused
        }

    def _touch(self, file: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(file, flags, 0o644)
        try:
            os.utime(descriptor)
        finally:
            os.close(descriptor)
