"""`check`: gathers the evidence, asks for the verdict, and waits for it to become final.

Failure logs come from PATHs, from the ledger that a `run` fills, or from a ledger of `check`'s own: then the
hours of the window are polled, and their records are counted and dropped.
"""

import math
import os
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.app.check_counts import REMEDY, CountsReader, Refused
from faillog_otel.app.check_logs import CheckConfig, LogsReader
from faillog_otel.app.run_sidecar import segment_api
from faillog_otel.clock import SECOND_NS, Clock, SegmentClock, parse_rfc3339
from faillog_otel.config import RunConfig
from faillog_otel.errors import ConfigError
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.reports.check import Report, judge
from faillog_otel.reports.check_evidence import CountsEvidence, Known, LogsEvidence, Missing, Rules
from faillog_otel.segment.answers import Denied
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.http_client import network_of

FAST_SECONDS, SLOW_SECONDS, FAST_FOR_SECONDS = 15.0, 300.0, 600.0
"""With --wait: counts are read at the first pace for the third time, then at the second."""
COUNTED_LAG_NS, MINUTE_NS = 60 * SECOND_NS, 60 * SECOND_NS


class Judged(Struct, frozen=True):
    """The verdict, and the failures that were seen."""

    report: Report
    seen: Known


def check(config: RunConfig, asked: CheckConfig, clock: Clock, machine: Clock | None) -> Judged:
    """Returns the verdict, after a wait for it if that is asked for.

    `machine`: the clock for polling; None: the system's. Raises Refused, ConfigError, LedgerBroken.
    """
    has_token = bool(config.segment.token or config.segment.token_file)
    with_token = has_token and (not asked.paths or bool(asked.uses_counts))
    uses_counts, uses_logs = _sources(config, asked, with_token=with_token)
    segment_clock = SegmentClock(clock)
    started = clock.monotonic()
    with closing(_Segment(config, segment_clock) if with_token else _NoSegment()) as segment:
        segment.check_token()
        reader = CountsReader(segment.api, config, asked.chosen, segment_clock) if with_token else None
        chosen = asked.chosen
        destinations = None
        if reader and (chosen.destinations or chosen.sources):
            destinations = reader.destination_ids()
        counts = reader if uses_counts else None
        logs = LogsReader(config, asked, machine, destinations) if uses_logs else None
        while True:
            judged = _evaluate(asked, segment_clock, counts, logs)
            waited = clock.monotonic() - started
            left = asked.wait_seconds - waited
            pause = _pause(judged.report, waited, is_endless=math.isinf(asked.wait_seconds))
            is_final = judged.report.verdict != "unknown" or pause is None
            if is_final or left <= 0 or clock.wait(min(pause or left, left)):
                return judged


def _sources(config: RunConfig, asked: CheckConfig, *, with_token: bool) -> tuple[bool, bool]:
    """Returns whether counts and logs are used. Raises ConfigError."""
    is_narrow = bool(asked.chosen.events or asked.chosen.app_versions)
    if asked.uses_counts and not with_token:
        raise ConfigError("--counts needs a token; set SEGMENT_TOKEN or SEGMENT_TOKEN_FILE")
    if asked.uses_logs and is_narrow:
        raise ConfigError(
            "failure logs are not kept by event or version; remove --logs, or --event and --app-version"
        )
    counts = with_token and not asked.paths if asked.uses_counts is None else asked.uses_counts
    has_ledger = StateFolder(config.state_dir).ledger.exists()
    can_read = bool(asked.paths) or has_ledger or (with_token and bool(config.segment.collections))
    logs = can_read and not is_narrow if asked.uses_logs is None else asked.uses_logs
    if asked.uses_logs and not can_read:
        raise ConfigError(
            f"{config.state_dir} holds no ledger; name a PATH, or a collection with --collection ID"
        )
    if asked.uses_counts is None and asked.uses_logs:
        counts = False
    if asked.uses_logs is None and asked.uses_counts:
        logs = False
    if not counts and not logs:
        raise ConfigError(
            "there is nothing to check; set SEGMENT_TOKEN for Segment's counts, or name a PATH with logs"
        )
    return counts, logs


def _pause(report: Report, waited: float, *, is_endless: bool) -> float | None:
    """Returns the seconds until the verdict can change; None if waiting cannot help."""
    if report.final_at is None and is_endless:
        return None
    return FAST_SECONDS if waited < FAST_FOR_SECONDS else SLOW_SECONDS


def _evaluate(
    asked: CheckConfig, clock: Clock, counts: CountsReader | None, logs: LogsReader | None
) -> Judged:
    rules = _rules_now(asked, clock.now_ns())
    of_counts = _read(
        partial(counts.read, rules) if counts else None,
        is_needed=logs is None or bool(asked.uses_counts),
    )
    has_counts = isinstance(of_counts, CountsEvidence)
    if asked.only_new:
        known = asked.baseline or Known()
        rules = replace(rules, known=logs.known(rules, known) if logs else known)
    of_logs = _read(
        partial(logs.read, rules) if logs else None,
        is_needed=not has_counts or bool(asked.uses_logs),
    )
    if asked.paths and asked.until_ns is None:
        rules = replace(rules, is_open=False)
    if asked.since_ns is None and isinstance(of_logs, LogsEvidence):
        first = [parse_rfc3339(each.first_seen) or 0 for each in of_logs.groups]
        rules = replace(rules, since_ns=min(first, default=rules.until_ns))
    return Judged(judge(rules, of_counts, of_logs), _known(of_counts, of_logs))


Evidence = TypeVar("Evidence")


def _read(read: Callable[[], Evidence | Missing] | None, *, is_needed: bool) -> Evidence | Missing | None:
    """Returns the evidence. Raises Refused if it is needed, or if nothing else can help."""
    try:
        return read() if read else None
    except Refused as refused:
        if refused.is_final or is_needed:
            raise
        return Missing(refused.why, refused.do)


def _known(counts: CountsEvidence | Missing | None, logs: LogsEvidence | Missing | None) -> Known:
    """Returns the failures of this evidence, for a baseline."""
    known = Known()
    if isinstance(counts, CountsEvidence):
        known = known.and_counts(counts.pairs)
    return known.and_groups(logs.groups) if isinstance(logs, LogsEvidence) else known


def _rules_now(asked: CheckConfig, now_ns: int) -> Rules:
    """Returns the rules with the times of this evaluation.

    Without an end, the window ends now. What was received in the last minute is not counted yet, so without a
    number of expected events it ends a minute ago.
    """
    until_ns, is_open = asked.until_ns, asked.until_ns is None
    if until_ns is None:
        until_ns = now_ns
        if asked.rules.expect_received is None:
            until_ns = (now_ns - COUNTED_LAG_NS) // MINUTE_NS * MINUTE_NS
    since_ns = asked.since_ns or 0
    return replace(
        asked.rules, since_ns=since_ns, until_ns=max(until_ns, since_ns), is_open=is_open, now_ns=now_ns
    )


class _Segment:
    """The client of Segment's API; its first request sets the clock and proves the token."""

    def __init__(self, config: RunConfig, clock: SegmentClock) -> None:
        self.api = segment_api(config, network_of(config.segment, os.environ))
        self._clock = clock

    def check_token(self) -> None:
        """Raises Refused if the token is wrong. A server that cannot be reached is said by what asks next."""
        sent_ns = self._clock.now_ns()
        answered = self.api.check_token(sent_ns)
        if answered.date_ns is not None:
            self._clock.take_date(answered.date_ns, sent_ns)
        if isinstance(answered.outcome, Denied) and answered.outcome.is_token_wrong:
            raise Refused(f"Segment refused the token ({answered.outcome.why})", REMEDY)

    def close(self) -> None:
        """Closes the connections."""
        self.api.close()


class _NoSegment:
    """No token: nothing is asked."""

    api: SegmentApi

    def check_token(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
