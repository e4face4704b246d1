"""The checks of `check` that follow from failure logs, and those of single messages. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from faillog_otel.clock import parse_rfc3339, time_text
from faillog_otel.reports.check_evidence import (
    FINAL_AFTER_NS,
    Check,
    CountsEvidence,
    LogsEvidence,
    Missing,
    Rules,
    Verdict,
    allowance_of,
    final_text,
    missing_check,
)
from faillog_otel.reports.failures import NO_REMEDY, Group, Message
from faillog_otel.text import counted


def logs_checks(
    rules: Rules, counts: CountsEvidence | Missing | None, logs: LogsEvidence | Missing | None
) -> Iterator[Check]:
    """Yields a check for each failure group, and one for the hours. None: logs are not asked for."""
    if logs is None:
        return
    if isinstance(logs, Missing):
        yield missing_check("failure logs", logs, "logs")
        return
    if rules.judges_discards:
        received = _received_by(counts)
        for id_, groups in _by_destination(logs.groups).items():
            yield from _group_checks(rules, groups, received.get(id_))
    is_settled = logs.is_settled
    yield Check(
        name="failure logs: hours",
        verdict="passed" if is_settled else "unknown",
        says=logs.covers if is_settled else logs.why_unsettled,
        expected="all hours of the window, once they are complete",
        found="all" if is_settled else "not all",
        source="logs",
        final_at=None if logs.settled_ns is None else time_text(logs.settled_ns),
    )


def _received_by(counts: CountsEvidence | Missing | None) -> dict[str, int]:
    """Returns destination id → the events that its sources received."""
    found: Counter[str] = Counter()
    if isinstance(counts, CountsEvidence):
        for pair in counts.pairs:
            found[pair.destination.id] += pair.received
    return dict(found)


def _by_destination(groups: Iterable[Group]) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = {}
    for each in groups:
        found.setdefault(each.destination.id, []).append(each)
    return found


def _group_checks(rules: Rules, groups: Sequence[Group], received: int | None) -> Iterator[Check]:
    why = {
        each.group: rules.is_tolerated(each.destination.id, each.code, each.status, each.group)
        for each in groups
    }
    counting = [each for each in groups if not why[each.group]]
    lost = sum(each.messages.lost for each in counting)
    may_be_lost = lost + sum(each.messages.pending for each in counting)
    allowance = allowance_of(rules).of(received)
    least, most = (0, 0) if allowance is None else (allowance, allowance)
    if allowance is None:  # a share of an unknown number
        most = lost
    for each in groups:
        messages = each.messages
        verdict: Verdict = "passed"
        says = f"{counted(messages.lost, 'message')} lost, {messages.pending} pending, "
        says += f"{messages.recovered} recovered: {_what(each)}"
        final_ns = None
        if why[each.group]:
            says += f" ({why[each.group]})"
        elif messages.lost and lost > most:
            verdict = "failed"
        elif (messages.pending or messages.lost) and may_be_lost > least:
            verdict = "unknown"
            if allowance is None and messages.lost:
                says += "; how many were received is not known"
            else:
                final_ns = (parse_rfc3339(each.last_seen) or rules.now_ns) + FINAL_AFTER_NS
        elif messages.lost:
            says += f" ({allowance_of(rules).text} allowed)"
        yield Check(
            name=f"{_name(each)}: {_what(each)} [{each.group[:8]}]",
            verdict=verdict,
            says=f"{says}. {each.meaning}",
            do=each.remedy if verdict == "failed" else "",
            expected=f"at most {allowance_of(rules).text} lost",
            found=str(messages.lost),
            source="logs",
            destination=_name(each),
            link=each.sample.link or each.destination.link,
            events=messages.lost or messages.pending,
            final_at=final_text(verdict, final_ns),
        )


def _name(group: Group | Message) -> str:
    return group.destination.name or group.destination.id or "an unknown destination"


def _what(group: Group | Message) -> str:
    """Returns status and code: `HTTP 401 INVALID_SETTINGS`."""
    status = f"HTTP {group.status}" if group.status else ""
    code = group.code if group.code and group.code != str(group.status) else ""
    return f"{status} {code}".strip() or "no code"


# -- messages ---


def message_checks(
    rules: Rules,
    counts: CountsEvidence | Missing | None,
    logs: LogsEvidence | Missing | None,
    *,
    is_clear: bool,
) -> Iterator[Check]:
    """Yields a check for each of the messages. `is_clear`: the counts prove that none failed."""
    failed: dict[str, list[Message]] = {}
    read = logs if isinstance(logs, LogsEvidence) else None
    for each in read.messages if read else ():
        failed.setdefault(each.message_id, []).append(each)
    groups = {each.group: each for each in read.groups} if read else {}
    is_settled = read is not None and read.is_settled
    for id_ in rules.messages:
        verdict, says, do, final_ns, link = _message(
            rules, failed.get(id_, []), groups, is_clear=is_clear, is_settled=is_settled
        )
        if verdict == "unknown" and final_ns is None:
            final_ns = _messages_final_ns(rules, counts, logs)
        yield Check(
            name=id_,
            verdict=verdict,
            says=says,
            do=do,
            expected="not lost",
            found=says.partition(":")[0],
            link=link,
            events=1,
            final_at=final_text(verdict, final_ns),
        )


def _message(
    rules: Rules,
    failed: Sequence[Message],
    groups: Mapping[str, Group],
    *,
    is_clear: bool,
    is_settled: bool,
) -> tuple[Verdict, str, str, int | None, str | None]:
    """Returns verdict, text, what to do, when it is known, and a link."""
    for state in ("lost", "pending"):
        for each in failed:
            if each.state != state:
                continue
            group = groups.get(each.group)
            if rules.is_tolerated(each.destination.id, each.code, each.status, each.group):
                continue
            where = f"{_name(each)}, {_what(each)}"
            if state == "lost":
                link = each.link or each.destination.link
                return "failed", f"lost: {where}", group.remedy if group else NO_REMEDY, None, link
            if not is_clear:
                says = f"pending: {where}; Segment may still retry it"
                last_ns = parse_rfc3339(each.last_seen) or rules.now_ns
                return "unknown", says, "", last_ns + FINAL_AFTER_NS, None
    if failed:
        if is_settled or is_clear:
            return "passed", "recovered or tolerated", "", None, None
        return "unknown", "recovered so far: not all hours were read", "", None, None
    if is_settled or is_clear:
        return "passed", "no failure seen", "", None, None
    return "unknown", "no failure seen so far", "", None, None


def _messages_final_ns(
    rules: Rules, counts: CountsEvidence | Missing | None, logs: LogsEvidence | Missing | None
) -> int | None:
    """Returns when messages without a failure can be known."""
    times = []
    if isinstance(counts, CountsEvidence) and not any(sum(each.failed.values()) for each in counts.pairs):
        times.append(rules.until_ns + FINAL_AFTER_NS)
    if isinstance(logs, LogsEvidence) and logs.settled_ns is not None:
        times.append(logs.settled_ns)
    if isinstance(logs, Missing) and logs.again_ns is not None:
        times.append(logs.again_ns)
    return min(times, default=None)
