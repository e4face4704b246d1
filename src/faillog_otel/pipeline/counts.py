"""Reads Segment's own counts of events into the ledger, every ten minutes; hands over what is new of them.

They have rate limits of their own and cost nothing of the listings' quota. A failure costs nothing but the
counts. Recent hours are read again until they are `RECENT_NS` old, and once more when they are a day old:
Segment counts late events, too.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, Clock, hour_of, time_text
from faillog_otel.config import Secret
from faillog_otel.ledger import Ledger
from faillog_otel.ledger.counts import EventCount, Pair
from faillog_otel.ledger.facts import CountsState, counts_state, note_counts_state
from faillog_otel.pipeline.readings import READ_SECONDS
from faillog_otel.reasons import classify
from faillog_otel.redact import redact_text
from faillog_otel.segment.answers import (
    ApiAnswer,
    Denied,
    FormRejected,
    Name,
    NamesPage,
    NotFound,
    Outcome,
    RateLimited,
)
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.overview import (
    DESTINATION_STAGES,
    RANGES,
    SOURCE_STAGES,
    CountsPage,
    CountsRequest,
    get_counts,
    ranges,
)
from faillog_otel.segment.workspace import PageRequest, get_connections, get_page
from faillog_otel.telemetry import EventsCounted
from faillog_otel.text import counted

_log = logging.getLogger(__name__)

READ_AGAIN_NS = 600 * SECOND_NS
REQUEST_NS = SECOND_NS
"""A reading of many requests is repeated later: about one request a second. Segment allows about three."""
REFUSED_NS = DAY_NS
"""The pause after Segment refused: the token has no permission, or the workspace has no such counts."""
RATE_LIMIT_PAUSE_NS = 60 * SECOND_NS
"""The pause after a 429 that does not name one."""
CONNECTIONS_NS = DAY_NS
RECENT_NS = 6 * HOUR_NS
MARGIN_NS = HOUR_NS
"""Segment's oldest hour is left out: it may be gone before the request arrives."""
MAX_PAGES = 20
"""Of one list."""
MAX_PAIRS, MAX_SOURCES, MAX_REASONS = 500, 200, 1000
MAX_REFUSALS = 3
"""After so many refusals without a success, nothing else is requested."""


class _Connections(Struct, frozen=True):
    """A page of the destinations that a source sends to."""

    source: str
    cursor: str = ""
    number: int = 1


class _Hours(Struct):
    """Hours of a pair to read: one request or more for each stage."""

    pair: Pair
    requests: deque[CountsRequest]
    began_ns: int = 0
    counts: dict[tuple[int, str, str], EventCount] = {}
    """Hour, stage and reason → what was read so far."""
    pages: int = 0
    """Of the present request."""

    def add(self, each: EventCount) -> None:
        """Adds events to those with the same reason."""
        key = each.hour, each.stage, each.reason
        if before := self.counts.get(key):
            each = replace(each, events=each.events + before.events, retried=each.retried + before.retried)
        self.counts[key] = each


_Task = PageRequest | _Connections | _Hours


class CountsRefresh:
    """Reads counts into the ledger. Used by one thread. Its methods raise NoRoom and LedgerBroken."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        segment: SegmentApi,
        clock: Clock,
        is_stopping: Callable[[], bool],
        take: Callable[[Sequence[EventCount]], object],
        since_ns: Callable[[int], int],
        redaction_key: Secret | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        """`take` receives by how much counts grew. `since_ns` returns where the wanted window begins."""
        self._ledger = ledger
        self._segment = segment
        self._clock = clock
        self._is_stopping = is_stopping
        self._take = take
        self._since_ns = since_ns
        self._key = redaction_key
        self._reasons: dict[str, str] = {}
        """Reason → as it is kept."""
        self._read_seconds = read_seconds
        self._state: CountsState | None = None
        self._tasks: deque[_Task] = deque()
        """What is left of the reading."""
        self._pairs: set[Pair] | None = None
        """The connections; None while they are not read."""
        self._began_ns = 0
        self._requests = self._successes = self._refusals = 0
        """Of the reading."""
        self._refused_ns: dict[Pair, int] = {}
        """Pair → when Segment refused its counts, such as those of a destination that was deleted."""
        self._went_on_ns = 0
        self._not_before_ns = 0
        """No request before: Segment asked for a pause. It does not concern listings."""
        self._is_warned = False

    def read_if_due(self, now_ns: int) -> None:
        """Reads the counts if they are ten minutes old; takes `READ_SECONDS` at most."""
        if self._state is None:
            self._state = counts_state(self._ledger)
        if self._tasks:
            if not 0 <= now_ns - self._went_on_ns < READ_AGAIN_NS:  # listings were due all the time
                self.go_on()
        elif not now_ns < self._state.next_ns <= now_ns + REFUSED_NS:  # later: of a clock that was ahead
            self._begin(self._state, now_ns)
            self.go_on()

    def go_on(self) -> int | None:
        """Continues a reading; takes `READ_SECONDS` at most. Returns when the rest can be read."""
        ends = self._clock.monotonic() + self._read_seconds
        self._went_on_ns = self._clock.now_ns()
        while self._tasks and not self._is_stopping():
            now_ns, left = self._clock.now_ns(), ends - self._clock.monotonic()
            if now_ns < self._not_before_ns <= now_ns + DAY_NS:
                return self._not_before_ns
            if left <= 0:
                return now_ns + SECOND_NS
            self._requests += 1
            task = self._tasks[0]
            answered = self._ask(task, now_ns, left)
            self._take_answer(task, answered)
        return None

    def _ask(self, task: _Task, now_ns: int, timeout_seconds: float) -> ApiAnswer:
        if isinstance(task, PageRequest):
            return get_page(self._segment, task, now_ns, timeout_seconds)
        if isinstance(task, _Connections):
            return get_connections(self._segment, task.source, now_ns, timeout_seconds, task.cursor)
        task.began_ns = task.began_ns or now_ns
        return get_counts(self._segment, task.requests[0], now_ns, timeout_seconds)

    # -- what to read ---

    def _begin(self, state: CountsState, now_ns: int) -> None:
        self._began_ns, self._requests, self._successes, self._refusals = now_ns, 0, 0, 0
        if 0 <= now_ns - state.connections_ns < CONNECTIONS_NS:
            self._add_hours(now_ns)
            return
        self._pairs = set()
        sources = [each for each in self._ledger.names().values() if each.kind == "source"]
        if sources:
            self._add_connections(sources)
        else:  # [segment] names = false, or they were not read
            self._tasks.append(PageRequest("source"))

    def _add_connections(self, sources: Iterable[Name]) -> None:
        self._tasks += [_Connections(each.id) for each in sources if each.enabled]

    def _add_hours(self, now_ns: int) -> None:
        """Adds the hours that are to be read, the newest first."""
        window_ns = max(self._since_ns(now_ns), now_ns - RANGES["HOUR"].oldest_ns + MARGIN_NS)
        readings = self._ledger.count_readings(window_ns)
        window = range(-(-window_ns // HOUR_NS), hour_of(now_ns) + 1)
        found = []
        for pair in self._wanted_pairs(now_ns):
            read = readings.get(pair, {})
            hours = [hour for hour in window if _is_due(hour, read.get(hour), now_ns)]
            if hours:
                times = hours[0] * HOUR_NS, (hours[-1] + 1) * HOUR_NS
                found += [(pair, start, end) for start, end in ranges(*times, "HOUR", now_ns)]
        found.sort(key=lambda each: -each[2])
        self._tasks += [_Hours(pair, deque(_requests(pair, start, end))) for pair, start, end in found]
        if not self._tasks:
            self._complete()

    def _wanted_pairs(self, now_ns: int) -> list[Pair]:
        """Returns the pairs, and the sources without a destination."""
        pairs = self._ledger.connections()
        if len(pairs) > MAX_PAIRS:
            failing = {each for found in self._ledger.learned_destinations().values() for each in found}
            pairs.sort(key=lambda pair: pair[1] not in failing)
            _log.info("counts: read for %d of %d pairs of source and destination", MAX_PAIRS, len(pairs))
        pairs = pairs[:MAX_PAIRS]
        sources = list(dict.fromkeys((source, "") for source, _ in pairs))[:MAX_SOURCES]
        refused = self._refused_ns
        return [
            pair
            for pair in (*pairs, *sources)
            if pair not in refused or not 0 <= now_ns - refused[pair] < REFUSED_NS
        ]

    # -- answers ---

    def _take_answer(self, task: _Task, answered: ApiAnswer) -> None:
        now_ns, outcome = self._clock.now_ns(), answered.outcome
        if isinstance(outcome, NamesPage):
            self._take_names(task, outcome)
        elif isinstance(outcome, CountsPage) and isinstance(task, _Hours):
            self._take_counts(task, outcome)
        elif isinstance(outcome, RateLimited):
            pause_ns = RATE_LIMIT_PAUSE_NS if answered.pause_ns is None else answered.pause_ns
            self._not_before_ns = now_ns + pause_ns
            _log.info("counts: %s; next request after %s", outcome.why, time_text(self._not_before_ns))
            return
        elif isinstance(outcome, Denied | NotFound | FormRejected) and not _is_token_wrong(outcome):
            self._take_refusal(task, outcome.why, now_ns)
        else:
            why = f"counts are not read: {getattr(outcome, 'why', '')}"
            self._fail(why, self._began_ns + READ_AGAIN_NS)
        if self._tasks or not self._began_ns:
            return
        if self._pairs is not None:
            self._ledger.note_connections(self._pairs)
            self._note(replace(self._state or CountsState(), connections_ns=self._began_ns))
            self._pairs = None
            self._add_hours(now_ns)
        else:
            self._complete()

    def _take_names(self, task: _Task, page: NamesPage) -> None:
        self._tasks.popleft()
        more = page.cursor if not isinstance(task, _Hours) and task.number < MAX_PAGES else ""
        if isinstance(task, PageRequest):
            if more:
                self._tasks.appendleft(replace(task, cursor=more, number=task.number + 1))
            self._add_connections(page.names)
        elif isinstance(task, _Connections):
            if more:
                self._tasks.appendleft(replace(task, cursor=more, number=task.number + 1))
            self._connect(task.source, page.names)

    def _connect(self, source: str, destinations: Iterable[Name]) -> None:
        pairs = {(source, each.id) for each in destinations if each.enabled}
        self._pairs = (self._pairs or set()) | pairs

    def _redacted(self, reason: str) -> str:
        """Returns a reason as it is kept. Nearly all are codes, and the same ones."""
        if (kept := self._reasons.get(reason)) is None:
            kept = redact_text(reason, self._key)
            if len(self._reasons) < MAX_REASONS:
                self._reasons[reason] = kept
        return kept

    def _take_counts(self, task: _Hours, page: CountsPage) -> None:
        self._successes += 1
        asked = task.requests.popleft()
        for row in page.rows:
            reason = self._redacted(row.reason or "")
            for each in row.series:
                hour = hour_of(each.at_ns)
                task.add(EventCount(hour, *task.pair, asked.stage, reason, each.count, each.retried))
        task.pages += 1
        if page.cursor and task.pages < MAX_PAGES:
            task.requests.appendleft(replace(asked, cursor=page.cursor))
        elif task.requests:
            task.pages = 0
        else:
            self._tasks.popleft()
            hours = range(asked.start_ns // HOUR_NS, asked.end_ns // HOUR_NS)
            if grown := self._ledger.note_counts(task.pair, hours, task.counts.values(), task.began_ns):
                self._take(grown)

    def _take_refusal(self, task: _Task, why: str, now_ns: int) -> None:
        """Leaves out what Segment refused; ends the reading if it refuses everything."""
        status = why.partition(";")[0]
        self._tasks.popleft()
        if isinstance(task, _Connections):  # a destination says one of its sources
            known = self._ledger.names().values()
            own = [each for each in known if each.kind == "destination" and each.source == task.source]
            self._connect(task.source, own)
            return
        self._refusals += 1
        if isinstance(task, _Hours):
            self._refused_ns[task.pair] = now_ns
            self._tasks = deque(
                each for each in self._tasks if not isinstance(each, _Hours) or each.pair != task.pair
            )
            _log.info("counts of %s are not read: %s", " → ".join(filter(None, task.pair)), status)
        if not self._successes and (self._refusals >= MAX_REFUSALS or not self._tasks):
            self._refused_ns.clear()
            problem = (
                f"no permission to read the counts of events, or the workspace has none ({status}): how "
                "complete the failure logs are is not known; give the token access to Delivery Overview, or "
                "set [segment] counts = false"
            )
            self._fail(problem, now_ns + REFUSED_NS)

    # -- ends ---

    def _complete(self) -> None:
        state = self._state or CountsState()
        pause_ns = max(READ_AGAIN_NS, self._requests * REQUEST_NS)
        self._note(
            replace(state, read_ns=self._began_ns, next_ns=self._began_ns + pause_ns, problem=""),
        )
        self._began_ns = 0
        _log.debug("counts: read in %s", counted(self._requests, "request"))

    def _fail(self, problem: str, next_ns: int) -> None:
        """Ends the reading. Logs one warning in a run."""
        level = logging.INFO if self._is_warned else logging.WARNING
        _log.log(level, "%s; next attempt after %s", problem, time_text(next_ns))
        self._is_warned = True
        self._tasks.clear()
        self._pairs, self._began_ns = None, 0
        self._note(replace(self._state or CountsState(), next_ns=next_ns, problem=problem))

    def _note(self, state: CountsState) -> None:
        note_counts_state(self._ledger, state)
        self._state = state


def _is_token_wrong(outcome: Outcome) -> bool:
    return isinstance(outcome, Denied) and outcome.is_token_wrong


def _is_due(hour: int, read_ns: int | None, now_ns: int) -> bool:
    """Returns whether an hour is to be read, again."""
    if read_ns is None or read_ns > now_ns:  # of a clock that was ahead
        return True
    end_ns = (hour + 1) * HOUR_NS
    return read_ns < end_ns + RECENT_NS or read_ns < end_ns + DAY_NS <= now_ns


def _requests(pair: Pair, start_ns: int, end_ns: int) -> list[CountsRequest]:
    """Returns a request for each stage of a pair."""
    source, destination = pair
    return [
        CountsRequest(
            stage=stage,
            source=source,
            destination=destination,
            start_ns=start_ns,
            end_ns=end_ns,
            group_by=() if stage == "received" else ("discardReason",),
        )
        for stage in (DESTINATION_STAGES if destination else SOURCE_STAGES)
    ]


def events_counted(grown: Iterable[EventCount]) -> EventsCounted:
    """Returns what is new, for metrics."""
    events: Counter[tuple[str, str, str]] = Counter()
    discards: Counter[tuple[str, str]] = Counter()
    for each in grown:
        events[each.source, each.destination, each.stage] += each.events
        if each.stage == "failed":
            reason_class = classify(each.reason or None, None, None, None).reason_class
            discards[each.destination, reason_class] += each.events
    return EventsCounted(events, discards)
