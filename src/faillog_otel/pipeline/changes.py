"""Reads who changed what in the workspace from Segment, once an hour, and hands over each change once.

A failure costs nothing but the changes. A change is handed over after it is stored, so a crash in between
loses it, and never repeats it.
"""

import logging
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, Clock, time_text
from faillog_otel.config import Secret
from faillog_otel.ledger import Ledger
from faillog_otel.ledger.facts import ChangesState, changes_state, note_changes_state
from faillog_otel.pipeline.readings import READ_SECONDS
from faillog_otel.redact import mark, redact_text
from faillog_otel.segment.answers import (
    ApiAnswer,
    Change,
    ChangesPage,
    Denied,
    FormRejected,
    NotFound,
    RateLimited,
)
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.workspace import get_changes
from faillog_otel.text import counted

_log = logging.getLogger(__name__)

READ_AGAIN_NS = HOUR_NS
REFUSED_NS = DAY_NS
"""The pause after Segment refused: the token has no permission, or the workspace has no audit events."""
RATE_LIMIT_PAUSE_NS = 60 * SECOND_NS
"""The pause after a 429 that does not name one."""
OVERLAP_NS = HOUR_NS
"""A reading begins so long before the end of the last one: changes can appear late."""
MAX_AGE_NS = 35 * DAY_NS
"""Older changes are not read: the ledger keeps none."""
MAX_PAGES = 20
"""Pages of one reading."""

_PERSON = "user"
"""The type of a resource that is a person."""


class _Page(Struct, frozen=True):
    """A page to request, of the changes between two times."""

    since_ns: int
    until_ns: int
    cursor: str = ""
    number: int = 1


class ChangesRefresh:
    """Reads changes into the ledger. Used by one thread. Its methods raise NoRoom and LedgerBroken."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        segment: SegmentApi,
        clock: Clock,
        is_stopping: Callable[[], bool],
        take: Callable[[Sequence[Change]], object],
        since_ns: Callable[[int], int],
        keeps_actors: bool = False,
        redaction_key: Secret | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        """`take` receives the new changes of a page. `since_ns` returns where the first reading begins."""
        self._ledger = ledger
        self._segment = segment
        self._clock = clock
        self._is_stopping = is_stopping
        self._take = take
        self._since_ns = since_ns
        self._keeps_actors = keeps_actors
        self._key = redaction_key
        self._read_seconds = read_seconds
        self._state: ChangesState | None = None
        self._page: _Page | None = None
        """The next page of the reading; None if no reading is under way."""
        self._new = 0
        self._not_before_ns = 0
        """No request before: Segment asked for a pause. It does not concern listings."""
        self._is_warned = False

    def read_if_due(self, now_ns: int) -> None:
        """Reads the changes if the last reading is an hour old; takes `READ_SECONDS` at most."""
        if self._page is not None:
            return
        if self._state is None:
            self._state = changes_state(self._ledger)
        if now_ns < self._state.next_ns <= now_ns + REFUSED_NS:  # a later time is of a clock that was ahead
            return
        self._page, self._new = _Page(self._start_ns(self._state, now_ns), now_ns), 0
        self.go_on()

    def go_on(self) -> None:
        """Continues a reading; takes `READ_SECONDS` at most."""
        ends = self._clock.monotonic() + self._read_seconds
        while (page := self._page) is not None and not self._is_stopping():
            now_ns, left = self._clock.now_ns(), ends - self._clock.monotonic()
            if left <= 0 or now_ns < self._not_before_ns <= now_ns + DAY_NS:
                return
            answered = get_changes(
                self._segment,
                page.since_ns,
                page.until_ns,
                now_ns,
                timeout_seconds=left,
                cursor=page.cursor,
            )
            self._take_answer(page, answered)

    def _start_ns(self, state: ChangesState, now_ns: int) -> int:
        read_to_ns = min(state.read_to_ns, now_ns)
        start_ns = read_to_ns - OVERLAP_NS if read_to_ns else min(self._since_ns(now_ns), now_ns - OVERLAP_NS)
        return max(start_ns, now_ns - MAX_AGE_NS)

    def _take_answer(self, page: _Page, answered: ApiAnswer) -> None:
        now_ns, outcome = self._clock.now_ns(), answered.outcome
        if isinstance(outcome, ChangesPage):
            self._store(page, outcome.changes)
            if outcome.cursor and page.number < MAX_PAGES:
                self._page = replace(page, cursor=outcome.cursor, number=page.number + 1)
                return
            self._complete(page, now_ns)
        elif isinstance(outcome, RateLimited):
            pause_ns = RATE_LIMIT_PAUSE_NS if answered.pause_ns is None else answered.pause_ns
            self._not_before_ns = now_ns + pause_ns
            _log.info("changes: %s; next request after %s", outcome.why, time_text(self._not_before_ns))
        elif isinstance(outcome, Denied | NotFound | FormRejected):
            status = outcome.why.partition(";")[0]
            self._fail(
                f"no permission to read audit events, or the workspace has none ({status}): changes are not "
                "shown; give the token access to the audit trail, or set [segment] audit = false",
                now_ns + REFUSED_NS,
            )
        else:
            self._fail(f"changes are not read: {getattr(outcome, 'why', '')}", now_ns + READ_AGAIN_NS)

    def _store(self, page: _Page, changes: Sequence[Change]) -> None:
        """Stores the changes of a page, and hands over those that are new."""
        shown = [self._shown(each) for each in changes if page.since_ns <= each.at_ns <= page.until_ns]
        if new := self._ledger.note_changes(shown):
            self._new += len(new)
            self._take(new)

    def _shown(self, change: Change) -> Change:
        """Returns a change as it is kept: without people's data, unless the settings ask for the actor."""
        id_ = change.resource_id
        shown = replace(
            change,
            kind=redact_text(change.kind, self._key),
            resource_id=redact_text(id_, self._key) if "@" in id_ else id_,
            resource_name=redact_text(change.resource_name, self._key),
        )
        if self._keeps_actors:
            return shown
        if change.resource_id == change.actor or change.resource_type.casefold() == _PERSON:
            shown = replace(
                shown,
                resource_id=mark("secret", change.resource_id, self._key) if change.resource_id else "",
                resource_name=mark("secret", change.resource_name, self._key) if change.resource_name else "",
            )
        return replace(
            shown,
            actor=mark("secret", change.actor, self._key) if change.actor else "",
            actor_email=mark("email", change.actor_email, self._key) if change.actor_email else "",
        )

    def _complete(self, page: _Page, now_ns: int) -> None:
        self._note(ChangesState(page.until_ns, now_ns + READ_AGAIN_NS))
        _log.info("changes: read until %s; %s", time_text(page.until_ns), counted(self._new, "new change"))

    def _fail(self, problem: str, next_ns: int) -> None:
        """Ends the reading. Logs one warning in a run."""
        level = logging.INFO if self._is_warned else logging.WARNING
        _log.log(level, "%s; next attempt after %s", problem, time_text(next_ns))
        self._is_warned = True
        self._note(ChangesState((self._state or ChangesState()).read_to_ns, next_ns, problem))

    def _note(self, state: ChangesState) -> None:
        self._page = None
        note_changes_state(self._ledger, state)
        self._state = state
