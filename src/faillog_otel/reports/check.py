"""The verdict of `check`: passed, failed, or not known yet. `check --json` prints a `Report`.

Pure: evidence in, verdict out. There are two kinds of evidence, and each can decide alone. Segment's counts
are minutes old, but know no messages; failure logs name every message, but are hours late. A discard is
final, so one that is not allowed fails at once. `passed` needs proof: everything that was received has a
result, or the hours were read when nothing could be added to them.
"""

from collections.abc import Iterable

from msgspec import Struct

from faillog_otel.clock import parse_rfc3339, time_text
from faillog_otel.reports.check_counts import RECEIVED, counts_checks, is_clear
from faillog_otel.reports.check_evidence import (
    Check,
    CountsEvidence,
    LogsEvidence,
    Missing,
    Rules,
    Verdict,
)
from faillog_otel.reports.check_logs import logs_checks, message_checks
from faillog_otel.reports.failures import Group


class Report(Struct, frozen=True, kw_only=True):
    """What `check` found."""

    verdict: Verdict
    final_at: str | None
    """When the verdict can be final; null if it is, or if nobody knows."""
    since: str
    until: str
    checks: list[Check]
    """Worst first."""
    groups: list[Group]


def judge(
    rules: Rules, counts: CountsEvidence | Missing | None, logs: LogsEvidence | Missing | None
) -> Report:
    """Returns the verdict. None: this evidence was not asked for."""
    of_counts, of_logs = [*counts_checks(rules, counts)], [*logs_checks(rules, counts, logs)]
    received = [each for each in of_counts if each.name == RECEIVED]
    of_messages = [*message_checks(rules, counts, logs, is_clear=is_clear(counts, of_counts))]
    checks = [*of_counts, *of_logs, *of_messages]
    verdict: Verdict = "unknown"
    final_ns = None
    if any(each.verdict == "failed" for each in checks):
        verdict = "failed"
    else:
        # Each of these decides alone.
        ways = [of_messages] if of_messages and not rules.judges_discards else []
        ways += [way for way in (of_counts, of_logs) if way and rules.judges_discards]
        ways = [[*way, *received, *of_messages] for way in ways]
        if any(all(each.verdict == "passed" for each in way) for way in ways):
            verdict = "passed"
        else:
            final_ns = min(filter(None, map(_final_ns, ways)), default=None)
    checks.sort(key=_badness)
    return Report(
        verdict=verdict,
        final_at=None if final_ns is None else time_text(max(final_ns, rules.now_ns)),
        since=time_text(rules.since_ns),
        until=time_text(rules.until_ns),
        checks=checks,
        groups=[*logs.groups] if isinstance(logs, LogsEvidence) else [],
    )


_ORDER: tuple[Verdict, ...] = ("failed", "unknown", "passed")


def _badness(check: Check) -> tuple[int, int, str]:
    return _ORDER.index(check.verdict), -check.events, check.name


def _final_ns(way: Iterable[Check]) -> int | None:
    """Returns when all checks of a way to the verdict can be known; None if nobody knows of one."""
    times = [parse_rfc3339(each.final_at or "") for each in way if each.verdict == "unknown"]
    return max((each for each in times if each), default=None) if all(times) else None
