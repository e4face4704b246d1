"""The limits of failures of a run, `--max-discarded` and `--max-failed`: whether they are exceeded."""

from collections.abc import Iterator

from faillog_otel.config import FailureLimits
from faillog_otel.reports.failures import Failures, Group
from faillog_otel.text import counted


def exceeded_limits(failures: Failures | None, limits: FailureLimits) -> list[str]:
    """Returns a sentence for each limit that is exceeded, with the worst group; none if it is not known."""
    groups = [each for each in failures.groups if _counts(each, limits)] if failures else []
    messages = [each.messages for each in groups]
    lost = sum(each.lost for each in messages)
    failed = lost + sum(each.pending + each.recovered for each in messages)
    found = (
        ("--max-discarded", limits.discarded, lost, "lost"),
        ("--max-failed", limits.failed, failed, "failed"),
    )
    return [
        f"{option} {limit}: {counted(number, 'message')} {verb}; {_group_text(groups[0])}"
        for option, limit, number, verb in found
        if limit is not None and number > limit
    ]


def unmatched_destinations(failures: Failures | None, limits: FailureLimits) -> Iterator[str]:
    """Yields the destinations that were named and that nothing failed at."""
    failing = {name for each in (failures.groups if failures else ()) for name in _names(each)}
    return (each for each in limits.destinations if failures and each.casefold() not in failing)


def _counts(group: Group, limits: FailureLimits) -> bool:
    return not limits.destinations or any(each.casefold() in _names(group) for each in limits.destinations)


def _names(group: Group) -> set[str]:
    to = group.destination
    return {to.id.casefold(), (to.name or to.id).casefold()}


def _group_text(group: Group) -> str:
    """Returns `the worst group: Mixpanel (prod), 401 (credentials): Invalid API key`."""
    to = group.destination.name or group.destination.id or "an unknown destination"
    code = group.code or group.status or "no code"
    reason = f": {group.reason}" if group.reason else ""
    return f"the worst group: {to}, {code} ({group.reason_class}){reason}"
