"""Reads the failure logs of a window for `check`: from files, or from the ledger.

A ledger that `run` fills is only read. One of `check`'s own is filled first: the hours of the window are
polled, and their records are counted and dropped.
"""

import logging
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.app.check_counts import Chosen, Refused
from faillog_otel.app.run_sidecar import poll
from faillog_otel.clock import HOUR_NS, Clock, hour_of, time_text
from faillog_otel.config import HealthConfig, RunConfig, TelemetryConfig
from faillog_otel.errors import ConfigError
from faillog_otel.inputs.files import STDIN, FoundPaths
from faillog_otel.ledger import LedgerReader
from faillog_otel.ledger.database import open_reader
from faillog_otel.ledger.facts import COUNTED_ONLY, claim, refused_collections
from faillog_otel.ledger.ledger import open_ledger
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.reports.check_evidence import Known, LogsEvidence, Missing, Rules
from faillog_otel.reports.failures import Filter, Names, View, Window, failures_report, messages_report
from faillog_otel.reports.load import KEPT_NS, Loaded, load
from faillog_otel.segment.hours import collection_created_ns

_log = logging.getLogger(__name__)

FIRST_READ_HOURS, SETTLED_HOURS = 2, 8
"""After the end of an hour: when its records begin to be there, and when nothing can be added to them."""
EVIDENCE_LAG_NS = FIRST_READ_HOURS * HOUR_NS
"""A listing has all records of what happened this time before it."""


class CheckConfig(Struct, frozen=True, kw_only=True):
    """What the options of `check` ask for. Times are nanoseconds since 1970."""

    paths: tuple[str, ...] = ()
    uses_counts: bool | None = None
    """None: if they are possible."""
    uses_logs: bool | None = None
    chosen: Chosen = Chosen()
    since_ns: int | None = None
    """None, with PATHs: all records."""
    until_ns: int | None = None
    """None: up to now."""
    rules: Rules
    """Its times are those of the first evaluation; each further one sets them again."""
    only_new: bool = False
    baseline: Known | None = None
    wait_seconds: float = 0.0
    """Infinite: until the verdict is final."""


class LogsReader:
    """Reads failure logs: from files, or from the ledger, which it first fills if that is its own."""

    def __init__(
        self, config: RunConfig, asked: CheckConfig, machine: Clock | None, destinations: Sequence[str] | None
    ) -> None:
        """`destinations`: the ids that Segment says are meant; None: what the logs' names say."""
        self._config = replace(
            config,
            delivery=replace(config.delivery, writes=None, counts_only=True),
            segment=replace(config.segment, counts=False, audit=False),
            telemetry=TelemetryConfig(),
            health=HealthConfig(),
            fail_on=(),
        )
        self._asked = asked
        self._machine = machine
        self._destinations = destinations

    def read(self, rules: Rules) -> LogsEvidence | Missing:
        """Returns what the logs say. Raises Refused."""
        if self._asked.paths:
            return self._of_files(rules)
        problem = self._poll(rules)
        with suppress(FileNotFoundError):
            StateFolder(self._config.state_dir).ledger.lstat()
            return self._of_ledger(rules, problem)
        return Missing(problem or f"{self._config.state_dir} holds no ledger", "poll with `run` first")

    def known(self, rules: Rules, baseline: Known | None) -> Known:
        """Returns the failures before the window, by the ledger, and those of the baseline."""
        known = baseline or Known()
        if self._asked.paths or not StateFolder(self._config.state_dir).ledger.exists():
            return known
        since_ns = rules.now_ns - KEPT_NS
        loaded = load(self._config, (), since_ns, rules.since_ns, rules.now_ns)
        view = View(names=loaded.names)
        window = Window(since_ns=since_ns, until_ns=rules.since_ns, now_ns=rules.now_ns, new_within_ns=0)
        return known.and_groups(failures_report(loaded.sums, view, window).groups)

    # -- files ---

    def _of_files(self, rules: Rules) -> LogsEvidence:
        """Returns what files say. What was written to them after they were read is not in them."""
        until_ns = rules.now_ns if self._asked.until_ns is None else rules.until_ns
        loaded = load(self._config, self._asked.paths, self._asked.since_ns, until_ns, rules.now_ns)
        for warning in loaded.warnings:
            _log.warning("%s", warning)
        if loaded.problems:
            raise ConfigError("; ".join(loaded.problems))
        return self._settled_files(rules, self._evidence(loaded, rules))

    def _settled_files(self, rules: Rules, evidence: LogsEvidence) -> LogsEvidence:
        """Returns the evidence with whether files can be complete.

        Without an end of the window, they are believed to have all about the failures in them.
        """
        until_ns = self._asked.until_ns
        if until_ns is None:
            why = "no failure in the files; say with --since and --until which time they cover"
            return evidence if evidence.groups else replace(evidence, is_settled=False, why_unsettled=why)
        settled_ns = -(-until_ns // HOUR_NS) * HOUR_NS + SETTLED_HOURS * HOUR_NS
        when = time_text(settled_ns)
        if rules.now_ns < settled_ns:
            why = f"records of this window are added until {when}"
            return replace(evidence, is_settled=False, settled_ns=settled_ns, why_unsettled=why)
        if self._written_ns() < settled_ns:
            why = f"the files are older than {when}, when the hours were complete; download them again"
            return replace(evidence, is_settled=False, why_unsettled=why)
        return evidence

    def _written_ns(self) -> int:
        """Returns when the newest of the files was written; standard input: now."""
        times = [sys.maxsize if name == STDIN else 0 for name in self._asked.paths]
        for name in FoundPaths(self._asked.paths, ()).files:
            with suppress(OSError):
                times.append(sys.maxsize if name == STDIN else Path(name).stat().st_mtime_ns)
        return max(times, default=0)

    # -- the ledger ---

    def _poll(self, rules: Rules) -> str:
        """Polls the hours of the window that are due; returns why it did not, empty if it did."""
        config, segment = self._config, self._config.segment
        if not segment.collections:
            return "no collection is named, so nothing was polled; add --collection ID"
        if not (segment.token or segment.token_file):
            return "no token, so nothing was polled; set SEGMENT_TOKEN"
        folder = StateFolder(config.state_dir)
        if folder.ledger.exists():
            if folder.holder() is not None:
                return "another process polls this state folder"
            with closing(open_reader(folder)) as ledger:
                if ledger.fact(COUNTED_ONLY) is None:
                    return "`run` polls this state folder"
        with folder as held, closing(open_ledger(held)) as ledger:
            claim(ledger, counts_only=True)
            for collection, hours in self._due(ledger, rules).items():
                ledger.want(collection, hours)
            is_due = any(view.wanted for views in ledger.hours().values() for view in views.values())
        if is_due:
            poll(config, once=True, clock=self._machine, only_wanted=True)
        return ""

    def _due(self, ledger: LedgerReader, rules: Rules) -> dict[str, list[int]]:
        """Returns collection → the hours to list: those never listed, and those that are complete by now."""
        found: dict[str, list[int]] = {}
        known = ledger.hours()
        for collection, hour in self._hours(rules, self._config.segment.collections):
            end_ns = (hour + 1) * HOUR_NS
            view = known.get(collection, {}).get(hour)
            if rules.now_ns < end_ns + FIRST_READ_HOURS * HOUR_NS or (view and view.wanted):
                continue
            is_complete = rules.now_ns >= end_ns + SETTLED_HOURS * HOUR_NS
            listed_ns = view.listed_ns if view else None
            if listed_ns is None or (is_complete and listed_ns < end_ns + SETTLED_HOURS * HOUR_NS):
                found.setdefault(collection, []).append(hour)
        return found

    def _hours(self, rules: Rules, collections: Iterable[str]) -> list[tuple[str, int]]:
        """Returns the collection-hours of the window, without those before the collection was made."""
        hours = range(hour_of(rules.since_ns), -(-rules.until_ns // HOUR_NS))
        return [
            (collection, hour)
            for collection in dict.fromkeys(collections)
            for created_ns in [collection_created_ns(collection, rules.now_ns) or 0]
            for hour in hours
            if (hour + 1) * HOUR_NS > created_ns
        ]

    def _of_ledger(self, rules: Rules, problem: str) -> LogsEvidence | Missing:
        with closing(open_reader(StateFolder(self._config.state_dir))) as ledger:
            collections = [*self._config.segment.collections, *ledger.hours()]
            if not collections:
                return Missing("no collection is known", "name one with --collection ID")
            refusals = refused_collections(ledger)
            refused = [name for name in self._config.segment.collections if name in refusals]
            if refused:
                why = "; ".join(f"{name}: {refusals[name].why}" for name in refused)
                raise Refused(f"Segment refused the collection {why}", "correct --collection", is_final=False)
            settled_ns, as_of_ns = self._settled(ledger, rules, collections)
            why = self._why_unsettled(ledger, rules, settled_ns, problem)
        loaded = load(self._config, (), rules.since_ns, rules.until_ns, as_of_ns)
        evidence = self._evidence(loaded, rules)
        return replace(evidence, is_settled=settled_ns is None, settled_ns=settled_ns, why_unsettled=why)

    def _settled(
        self, ledger: LedgerReader, rules: Rules, collections: Iterable[str]
    ) -> tuple[int | None, int]:
        """Returns when all hours can be complete, None if they are; and up to when failures are known."""
        known, unfinished = ledger.hours(), ledger.unfinished_hours()
        is_own = ledger.fact(COUNTED_ONLY) is not None
        wait = ledger.quota(self._config.segment.requests_per_day).mended(rules.now_ns).wait(rules.now_ns)
        times, listed = [], [rules.now_ns]
        for collection, hour in self._hours(rules, collections):
            settles_ns = (hour + 1 + SETTLED_HOURS) * HOUR_NS
            view = known.get(collection, {}).get(hour)
            if view is not None and view.listed_ns is not None:
                is_read = not view.wanted and not view.missing and (collection, hour) not in unfinished
                if view.listed_ns >= settles_ns and is_read:
                    continue
                listed.append(view.listed_ns - EVIDENCE_LAG_NS)
            again_ns = settles_ns if rules.now_ns < settles_ns or is_own else rules.now_ns + HOUR_NS
            times.append(max(again_ns, wait.until_ns if wait else 0, rules.now_ns))
        return max(times, default=None), min(listed)

    def _why_unsettled(self, ledger: LedgerReader, rules: Rules, settled_ns: int | None, problem: str) -> str:
        if settled_ns is None:
            return ""
        parts = [f"not all hours of this window can be complete before {time_text(settled_ns)}"]
        wait = ledger.quota(self._config.segment.requests_per_day).mended(rules.now_ns).wait(rules.now_ns)
        if wait is not None:
            parts.append(f"{wait.why}, until {time_text(wait.until_ns)}")
        if problem:
            parts.append(problem)
        return "; ".join(parts)

    def _evidence(self, loaded: Loaded, rules: Rules) -> LogsEvidence:
        names, ids = loaded.names, self._destinations
        if ids is None:
            ids = self._ids_by_name(loaded)
        view = View(
            names=names,
            links=self._config.links,
            join=self._config.mapping.join,
            filter=Filter(ids or ()),
        )
        window = Window(
            since_ns=loaded.since_ns, until_ns=rules.until_ns, now_ns=rules.now_ns, new_within_ns=0
        )
        wanted = set(rules.messages)
        messages = (each for each in loaded.messages if each.message_id in wanted) if wanted else ()
        is_empty = ids is not None and not ids
        return LogsEvidence(
            groups=[] if is_empty else failures_report(loaded.sums, view, window).groups,
            messages=[] if is_empty else [*messages_report(messages, loaded.sums, view)],
            covers=loaded.covers,
        )

    def _ids_by_name(self, loaded: Loaded) -> list[str] | None:
        """Returns the ids of the destinations that the options choose; None: all. Raises Refused.

        Only names that the logs or the settings have are known. What looks like an id is believed.
        """
        chosen, names = self._asked.chosen, loaded.names
        if not chosen.destinations and not chosen.sources:
            return None
        failing = {each.group.destination for each in loaded.sums.groups}
        known = {*names.names, *names.source_of, *names.source_of.values(), *failing}
        of_sources = set(_matching(names, known, chosen.sources))
        if not chosen.destinations:
            return [id_ for id_, source in names.source_of.items() if source in of_sources]
        return _matching(names, known, chosen.destinations)


def _matching(names: Names, known: Collection[str], texts: Iterable[str]) -> list[str]:
    """Returns the ids that texts mean: ids or names, in any case. Raises Refused for an unknown name."""
    found: list[str] = []
    for text in texts:
        folded = text.casefold()
        same = [id_ for id_ in known if folded in (id_.casefold(), names.names.get(id_, id_).casefold())]
        if not same and not _LOOKS_LIKE_ID.fullmatch(text):
            raise Refused(
                f"{text}: nothing with this name is known without asking Segment",
                "name its id, or set SEGMENT_TOKEN",
            )
        found += same or [text]
    return found


_LOOKS_LIKE_ID = re.compile("[0-9A-Za-z]{20,40}")
