"""Reads names from Segment once a day, and when a record has an unknown id; gives each object its names.

`NameRefresh` belongs to the fetching thread, `ObjectNames` to the forwarding one. A failure costs nothing but
the names: ids are shown instead.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, Clock, time_text
from faillog_otel.config import Secret
from faillog_otel.events.model import Routing
from faillog_otel.ledger import Ledger, Spooled
from faillog_otel.ledger.facts import NamesState, names_state, note_names_state
from faillog_otel.pipeline.readings import READ_SECONDS
from faillog_otel.redact import redact_text
from faillog_otel.segment.answers import ApiAnswer, Denied, Name, NamesPage, NotFound, RateLimited
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.workspace import MAX_ID_CHARS, PLURALS, PageRequest, get_page
from faillog_otel.text import counted

_log = logging.getLogger(__name__)

READ_AGAIN_NS = DAY_NS
RETRY_NS = HOUR_NS
"""The pause after a failure, and before the same unknown ids lead to a reading again."""
UNKNOWN_PAUSE_NS = 300 * SECOND_NS
"""The pause between two looks at unknown ids."""
RATE_LIMIT_PAUSE_NS = 60 * SECOND_NS
"""The pause after a 429 that does not name one."""
MAX_PAGES = 20
"""Of destinations, of sources, and of the subscriptions of one destination."""
MAX_PARENTS = 500
"""Destinations whose subscriptions are read."""
MAX_UNKNOWN = 1000


class UnknownIds:
    """Ids of records that have no name. The forwarding thread adds them, the fetching thread takes them."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._lock = threading.Lock()

    def add(self, id_: str) -> None:
        """Adds an id, unless there are too many, or Segment cannot have such an id."""
        if id_ not in self._ids and len(id_) <= MAX_ID_CHARS and len(self._ids) < MAX_UNKNOWN:
            with self._lock:
                self._ids.add(id_)

    def take(self) -> set[str]:
        """Returns the ids, and forgets them."""
        with self._lock:
            found, self._ids = self._ids, set()
        return found


class ObjectNames:
    """The names that count for the records of an object: those that were known when it was spooled."""

    def __init__(self, ledger: Ledger, unknown: UnknownIds, used: dict[str, str]) -> None:
        """`used` gets the names of each object: metrics and log lines show them too."""
        self._ledger = ledger
        self._unknown = unknown
        self._used = used
        self._number: int | None = None
        self._names: dict[str, str] = {}

    def of(self, spooled: Spooled) -> Callable[[Routing], str | None] | None:
        """Returns a function that returns the name of a destination; None if no names count.

        The function is valid until the next call. Raises Busy, LedgerBroken.
        """
        if spooled.names_to is None:
            return None
        if spooled.names_to != self._number:
            self._names, self._number = self._ledger.shown_names(spooled.names_to), spooled.names_to
            self._used.update(self._names)
        return self._name_of

    def _name_of(self, routing: Routing) -> str | None:
        names = self._names
        name = names.get(routing.destination_id or "")
        for id_ in (routing.destination_id, routing.subscription_id, routing.from_id):
            if id_ is not None and id_ not in names:
                self._unknown.add(id_)
        return name


class NameRefresh:
    """Reads names into the ledger. Used by one thread. Its methods raise NoRoom and LedgerBroken."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        segment: SegmentApi,
        clock: Clock,
        unknown: UnknownIds,
        is_stopping: Callable[[], bool],
        redaction_key: Secret | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._ledger = ledger
        self._segment = segment
        self._clock = clock
        self._unknown = unknown
        self._is_stopping = is_stopping
        self._key = redaction_key
        self._read_seconds = read_seconds
        self._state: NamesState | None = None
        self._pages: deque[PageRequest] = deque()
        """What is left of the reading."""
        self._parents: list[Name] = []
        """The destinations of the reading."""
        self._problem = ""
        """Why a part of the reading was refused."""
        self._changed = 0
        self._not_before_ns = 0
        """No request before: Segment asked for a pause. It does not concern listings."""
        self._looked_ns = 0
        self._asked_ns: dict[str, int] = {}
        """Unknown id → when a reading began because of it."""
        self._is_warned = False

    def read_if_due(self, now_ns: int) -> None:
        """Reads the names if they are a day old or lack ids of records; takes `READ_SECONDS` at most."""
        is_under_way = bool(self._pages) and self._pages[0].kind != "subscription"
        if not is_under_way and self._is_due(now_ns):
            self._pages = deque([PageRequest("destination")])
            self._parents, self._problem, self._changed = [], "", 0
            self.go_on()

    def go_on(self) -> None:
        """Continues a reading; takes `READ_SECONDS` at most."""
        ends = self._clock.monotonic() + self._read_seconds
        while self._pages and not self._is_stopping():
            now_ns, left = self._clock.now_ns(), ends - self._clock.monotonic()
            if left <= 0 or now_ns < self._not_before_ns <= now_ns + DAY_NS:
                return
            page = self._pages.popleft()
            self._take(page, get_page(self._segment, page, now_ns, left))

    def _is_due(self, now_ns: int) -> bool:
        if self._state is None:
            self._state = names_state(self._ledger)
        is_early = now_ns < self._state.next_ns <= now_ns + READ_AGAIN_NS  # else the clock was ahead
        return not is_early or (not self._state.problem and self._has_unknown(now_ns))

    def _has_unknown(self, now_ns: int) -> bool:
        """Returns whether records have ids that no reading looked for in the last hour."""
        if 0 <= now_ns - self._looked_ns < UNKNOWN_PAUSE_NS:
            return False
        self._looked_ns = now_ns
        if not (ids := self._unknown.take()):
            return False
        recent = {id_: at_ns for id_, at_ns in self._asked_ns.items() if 0 <= now_ns - at_ns < RETRY_NS}
        found = ids - recent.keys() - self._ledger.names().keys()
        self._asked_ns = recent | dict.fromkeys(found, now_ns)
        return bool(found)

    def _take(self, page: PageRequest, answered: ApiAnswer) -> None:
        now_ns, outcome = self._clock.now_ns(), answered.outcome
        if isinstance(outcome, NamesPage):
            self._store(outcome.names, now_ns)
            if outcome.cursor and page.number < MAX_PAGES:
                self._pages.appendleft(replace(page, cursor=outcome.cursor, number=page.number + 1))
                return
        elif isinstance(outcome, RateLimited):
            self._pages.appendleft(page)
            pause_ns = RATE_LIMIT_PAUSE_NS if answered.pause_ns is None else answered.pause_ns
            self._not_before_ns = now_ns + pause_ns
            _log.info("names: %s; next request after %s", outcome.why, time_text(self._not_before_ns))
            return
        elif isinstance(outcome, Denied | NotFound):
            self._refused(page, outcome.why)
        else:
            self._failed(page, getattr(outcome, "why", ""), now_ns)
            return
        if page.kind == "destination":
            self._pages.append(PageRequest("source"))
        elif page.kind == "source":
            self._complete(now_ns)

    def _store(self, names: Iterable[Name], now_ns: int) -> None:
        """Stores a page. People write names: a secret or an address in one is redacted, as in records."""
        shown = [
            replace(
                each, name=redact_text(each.name, self._key), product=redact_text(each.product, self._key)
            )
            for each in names
        ]
        self._parents += [each for each in shown if each.kind == "destination"]
        self._changed += self._ledger.note_names(shown, now_ns)

    def _complete(self, now_ns: int) -> None:
        """Notes that destinations and sources were read; subscriptions follow, as time allows."""
        read_ns = (self._state or NamesState()).read_ns if self._problem else now_ns
        self._note(NamesState(read_ns, now_ns + READ_AGAIN_NS, self._problem))
        found = counted(len(self._parents), "destination")
        _log.info("names: read %s; %s", found, counted(self._changed, "change"))
        self._parents.sort(key=lambda each: not each.enabled)
        self._pages += [PageRequest("subscription", each.id) for each in self._parents[:MAX_PARENTS]]

    def _refused(self, page: PageRequest, why: str) -> None:
        """Many workspaces lack subscriptions: they are not asked for again in this reading."""
        status = why.partition(";")[0]
        if page.kind == "subscription":
            self._pages.clear()
            _log.info("names of subscriptions are not available: %s", status)
            return
        problem = (
            f"no permission to read {PLURALS[page.kind]} ({status}): their names are not shown; give the "
            "token access to the workspace's destinations and sources, or set [segment] names = false"
        )
        self._problem = self._problem or problem
        self._warn(problem)

    def _failed(self, page: PageRequest, why: str, now_ns: int) -> None:
        """Ends the reading."""
        self._pages.clear()
        if page.kind == "subscription":
            _log.info("names of subscriptions are not read: %s", why)
            return
        problem = f"names are not read: {why}"
        self._warn(f"{problem}; next attempt after {time_text(now_ns + RETRY_NS)}")
        read_ns = (self._state or NamesState()).read_ns
        self._note(NamesState(read_ns, now_ns + RETRY_NS, problem))

    def _note(self, state: NamesState) -> None:
        note_names_state(self._ledger, state)
        self._state = state

    def _warn(self, text: str) -> None:
        """Logs one warning in a run."""
        _log.log(logging.INFO if self._is_warned else logging.WARNING, "%s", text)
        self._is_warned = True
