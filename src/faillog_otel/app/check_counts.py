"""Reads Segment's counts of a window for `check`: which sources and destinations, and how their events ended.

Every request has its own time-out and is repeated after a failure or a rate limit; `check` never waits longer
than `MAX_WAIT_SECONDS` for this. Names are redacted like those that `run` reads.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from msgspec import Struct

from faillog_otel.clock import DAY_NS, SECOND_NS, Clock
from faillog_otel.config import RunConfig
from faillog_otel.errors import FaillogError
from faillog_otel.links import destination_link
from faillog_otel.redact import redact_text
from faillog_otel.reports.check_counts import LEAD_NS, Cuts, by_reason, pair_counts, total
from faillog_otel.reports.check_evidence import (
    COUNTED_AFTER_NS,
    FINAL_AFTER_NS,
    CountsEvidence,
    Destination,
    Missing,
    PairCounts,
    Rules,
    SourceCounts,
)
from faillog_otel.segment.answers import (
    ApiAnswer,
    Denied,
    Name,
    NameKind,
    NamesPage,
    NotFound,
    RateLimited,
    Success,
)
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.overview import (
    DESTINATION_STAGES,
    RANGES,
    SOURCE_STAGES,
    CountRow,
    CountsPage,
    CountsRequest,
    Dimension,
    Granularity,
    Stage,
    get_counts,
    ranges,
)
from faillog_otel.segment.workspace import PageRequest, get_connections, get_page
from faillog_otel.text import counted

TIMEOUT_SECONDS = 30.0
RETRY_SECONDS = (1.0, 5.0)
"""The pauses after the first and the second failure of a request."""
RATE_LIMIT_SECONDS = 10.0
"""The pause after a 429 that names none."""
MAX_WAIT_SECONDS = 120.0
"""In all pauses of one reading."""
REMEDY = "set SEGMENT_TOKEN or SEGMENT_TOKEN_FILE to a token of this workspace"
"""For a refused token."""
MAX_PAGES = 100
MAX_PAIRS = 200
MAX_NEAR_NAMES = 5

_Page = TypeVar("_Page", bound=Success)


class Refused(FaillogError):
    """Segment refused: a wrong token, an unknown source or destination, or no permission (exit 6)."""

    def __init__(self, why: str, do: str, *, is_final: bool = True) -> None:
        super().__init__(f"{why}; {do}")
        self.why, self.do, self.is_final = why, do, is_final
        """`is_final`: other evidence cannot help."""


class Chosen(Struct, frozen=True):
    """Which events are counted; an empty field means all."""

    sources: tuple[str, ...] = ()
    """Ids or names."""
    destinations: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    app_versions: tuple[str, ...] = ()


class _NotRead(Exception):
    def __init__(self, missing: Missing) -> None:
        super().__init__(missing.why)
        self.missing = missing


class _NoPermission(Exception):
    """403 or 404; the text says which."""


class Pair(Struct, frozen=True):
    """A source that sends to a destination."""

    source: Name
    destination: Name


class CountsReader:
    """Reads the counts of a workspace. For one thread."""

    def __init__(self, segment: SegmentApi, config: RunConfig, chosen: Chosen, clock: Clock) -> None:
        """`clock` has Segment's time."""
        self._segment = segment
        self._config = config
        self._chosen = chosen
        self._clock = clock
        self._pairs: list[Pair] | None = None
        self._ends = 0.0

    def destination_ids(self) -> list[str] | None:
        """Returns the ids of the destinations to check; None if Segment does not say. Raises Refused."""
        try:
            return [each.destination.id for each in self._found_pairs()]
        except _NotRead:
            return None
        except Refused as refused:
            if refused.is_final:
                raise
            return None

    def _found_pairs(self) -> list[Pair]:
        """Returns what is checked; asks Segment once."""
        if self._pairs is None:
            self._ends = self._clock.monotonic() + MAX_WAIT_SECONDS
            self._pairs = self._find_pairs()
        return self._pairs

    def read(self, rules: Rules) -> CountsEvidence | Missing:
        """Returns the counts of a window. Raises Refused."""
        self._ends = self._clock.monotonic() + MAX_WAIT_SECONDS
        try:
            return self._read(rules, self._found_pairs())
        except _NotRead as error:
            return error.missing
        except _NoPermission as error:
            raise Refused(
                f"Segment does not give its counts: {error}",
                "give the token access to the sources and destinations, in a workspace that has Delivery "
                "Overview; or check with --logs",
                is_final=False,
            ) from None

    # -- which ---

    def _find_pairs(self) -> list[Pair]:
        chosen = self._chosen
        try:
            destinations, sources = self._names("destination"), self._names("source")
        except _NoPermission as error:
            if not (chosen.sources and chosen.destinations):
                raise Refused(
                    f"no permission to list sources and destinations ({error})",
                    "give the token access to them, or name both ids: --source ID --destination ID",
                    is_final=False,
                ) from None
            return [
                Pair(Name("source", source, ""), Name("destination", destination, ""))
                for source in chosen.sources
                for destination in chosen.destinations
            ]
        wanted = self._resolve("destination", chosen.destinations, destinations)
        from_sources = self._resolve("source", chosen.sources, sources)
        if not chosen.sources:
            from_sources = [each for each in sources if each.enabled]
        if not chosen.destinations:
            wanted = [each for each in destinations if each.enabled]
        pairs = [
            Pair(source, each)
            for source in from_sources
            for ids in [self._connected(source, destinations)]
            for each in wanted
            if each.id in ids
        ]
        if len(pairs) > MAX_PAIRS:
            raise _NotRead(
                Missing(
                    f"{len(pairs)} pairs of source and destination", "choose with --source, --destination"
                )
            )
        if unconnected := [
            each
            for each in wanted
            if chosen.destinations and each.id not in {p.destination.id for p in pairs}
        ]:
            names = ", ".join(self._called(each) for each in unconnected)
            raise Refused(
                f"none of the sources that were chosen sends to {names}",
                "correct --source or --destination, or connect them in Segment",
            )
        return pairs

    def _names(self, kind: NameKind) -> list[Name]:
        def ask(cursor: str, now_ns: int) -> ApiAnswer:
            return get_page(self._segment, PageRequest(kind, cursor=cursor), now_ns, TIMEOUT_SECONDS)

        return [each for page in self._pages(NamesPage, ask) for each in page.names]

    def _connected(self, source: Name, destinations: Sequence[Name]) -> set[str]:
        """Returns the ids of the destinations that a source sends to."""

        def ask(cursor: str, now_ns: int) -> ApiAnswer:
            return get_connections(self._segment, source.id, now_ns, TIMEOUT_SECONDS, cursor)

        of_source = {each.id for each in destinations if each.source == source.id}
        try:
            return of_source | {each.id for page in self._pages(NamesPage, ask) for each in page.names}
        except _NoPermission:
            return of_source

    def _resolve(self, kind: NameKind, texts: Sequence[str], known: Sequence[Name]) -> list[Name]:
        """Returns what the options name. Raises Refused for a name that Segment does not have."""
        found: dict[str, Name] = {}
        for text in texts:
            folded = text.casefold()
            same = [each for each in known if folded in self._texts(each)]
            if not same:
                near = self._near(folded, known)
                hint = f"known ones: {', '.join(near)}" if near else "its id is in Segment's settings page"
                raise Refused(
                    f"--{kind} {text}: Segment knows no {kind} with this id or name",
                    f"correct it; {hint}",
                )
            found |= {each.id: each for each in same}
        return list(found.values())

    def _near(self, folded: str, known: Sequence[Name]) -> list[str]:
        by_text = {text: each for each in known for text in self._texts(each)}
        near = difflib.get_close_matches(folded, by_text, MAX_NEAR_NAMES, 0.4)
        near += [text for text in by_text if folded in text and folded]
        near += [next(iter(self._texts(each))) for each in known if len(known) <= MAX_NEAR_NAMES]
        return [*dict.fromkeys(self._called(by_text[text]) for text in near)][:MAX_NEAR_NAMES]

    def _texts(self, name: Name) -> list[str]:
        own = self._config.mapping.destination_names.get(name.id, "")
        texts = (name.id, name.name, own, name.slug, self._called(name))
        return [each.casefold() for each in dict.fromkeys(texts) if each]

    def _called(self, name: Name) -> str:
        """Returns the name to show; people write names, so secrets in them are redacted."""
        own = self._config.mapping.destination_names.get(name.id)
        return own or redact_text(name.shown, self._config.mapping.redaction_key) or name.slug or name.id

    # -- counts ---

    def _read(self, rules: Rules, pairs: Sequence[Pair]) -> CountsEvidence:
        now_ns = self._clock.now_ns()
        tail_ns = now_ns if rules.is_open else min(now_ns, rules.until_ns + FINAL_AFTER_NS)
        minutes = RANGES["MINUTE"]
        is_recent = rules.since_ns - LEAD_NS >= now_ns - minutes.oldest_ns + minutes.unit_ns
        granularity: Granularity = "MINUTE" if is_recent else "HOUR"
        cuts = Cuts(
            since_ns=rules.since_ns,
            until_ns=min(rules.until_ns, now_ns),
            tail_ns=tail_ns,
            unit_ns=RANGES[granularity].unit_ns,
            is_open=rules.is_open,
        )
        if rules.since_ns < now_ns - RANGES["HOUR"].oldest_ns:
            days = RANGES["HOUR"].oldest_ns // DAY_NS
            raise _NotRead(
                Missing(f"Segment keeps counts for {days} days", "begin later, or check with --logs")
            )
        found_sources: list[SourceCounts] = []
        found_pairs: list[PairCounts] = []
        for source in {each.source.id: each.source for each in pairs}.values():
            of_source: dict[Stage, list[CountRow]] = {
                stage: self._rows(stage, source.id, "", cuts, granularity) for stage in SOURCE_STAGES
            }
            start_ns = cuts.since_ns // cuts.unit_ns * cuts.unit_ns
            end_ns = -(-cuts.until_ns // cuts.unit_ns) * cuts.unit_ns
            found_sources.append(
                SourceCounts(
                    source=self._called(source),
                    received=total(of_source["received"], start_ns, end_ns),
                    failed=by_reason(of_source["failed_on_ingest"], start_ns, end_ns),
                    filtered=total(of_source["filtered_at_source"], start_ns, end_ns),
                )
            )
            found_pairs += [
                self._pair(each, of_source, cuts, granularity)
                for each in pairs
                if each.source.id == source.id
            ]
        return CountsEvidence(found_sources, found_pairs)

    def _pair(
        self, pair: Pair, of_source: dict[Stage, list[CountRow]], cuts: Cuts, granularity: Granularity
    ) -> PairCounts:
        id_ = pair.destination.id
        rows = {
            stage: self._rows(stage, pair.source.id, id_, cuts, granularity) for stage in DESTINATION_STAGES
        }
        destination = Destination(
            id_, self._called(pair.destination), destination_link(self._config.links, id_)
        )
        return pair_counts(self._called(pair.source), destination, {**of_source, **rows}, cuts)

    def _rows(
        self, stage: Stage, source: str, destination: str, cuts: Cuts, granularity: Granularity
    ) -> list[CountRow]:
        filters: dict[Dimension, tuple[str, ...]] = {}
        if self._chosen.events:
            filters["eventName"] = self._chosen.events
        if self._chosen.app_versions:
            filters["appVersion"] = self._chosen.app_versions
        group_by: tuple[Dimension, ...] = (
            ("discardReason",) if stage in ("failed", "failed_on_ingest") else ()
        )
        found: list[CountRow] = []
        for start_ns, end_ns in ranges(cuts.lead_ns, cuts.tail_ns, granularity, self._clock.now_ns()):

            def ask(cursor: str, now_ns: int, start_ns: int = start_ns, end_ns: int = end_ns) -> ApiAnswer:
                asked = CountsRequest(
                    stage=stage,
                    source=source,
                    destination=destination,
                    start_ns=start_ns,
                    end_ns=end_ns,
                    granularity=granularity,
                    group_by=group_by,
                    filters=filters,
                    cursor=cursor,
                )
                return get_counts(self._segment, asked, now_ns, TIMEOUT_SECONDS)

            found += [row for page in self._pages(CountsPage, ask) for row in page.rows]
        return found

    # -- requests ---

    def _pages(self, kind: type[_Page], ask: Callable[[str, int], ApiAnswer]) -> Iterator[_Page]:
        cursor = ""
        for _ in range(MAX_PAGES):
            page = self._request(partial(ask, cursor))
            if not isinstance(page, kind):
                raise _NotRead(Missing("Segment's answer is not the one that was asked for"))
            yield page
            cursor = getattr(page, "cursor", "")
            if not cursor:
                return
        raise _NotRead(Missing(f"more than {MAX_PAGES} pages of one list", "choose with --source, --event"))

    def _request(self, ask: Callable[[int], ApiAnswer]) -> Success:
        """Returns a success; repeats a request that failed."""
        failures = 0
        while True:
            answered = ask(self._clock.now_ns())
            outcome = answered.outcome
            if isinstance(outcome, Success):
                return outcome
            if isinstance(outcome, Denied) and outcome.is_token_wrong:
                raise Refused(f"Segment refused the token ({outcome.why})", REMEDY)
            if isinstance(outcome, Denied | NotFound):
                raise _NoPermission(outcome.why)
            now_ns = self._clock.now_ns()
            if isinstance(outcome, RateLimited):
                pause = RATE_LIMIT_SECONDS if answered.pause_ns is None else answered.pause_ns / SECOND_NS
            elif getattr(outcome, "is_permanent", False) or failures >= len(RETRY_SECONDS):
                again_ns = None if getattr(outcome, "is_permanent", False) else now_ns + COUNTED_AFTER_NS
                raise _NotRead(Missing(f"Segment's counts could not be read: {outcome.why}", "", again_ns))
            else:
                pause = RETRY_SECONDS[failures]
                failures += 1
            if self._clock.monotonic() + pause > self._ends:
                again_ns = now_ns + int(pause * SECOND_NS)
                raise _NotRead(Missing(f"Segment's rate limit: {outcome.why}", "ask again later", again_ns))
            if self._clock.wait(pause):
                raise _NotRead(Missing(f"interrupted after {counted(failures, 'failure')}"))
