"""What to send again: a mail that asks Segment for a replay, and what is not known of the lost messages.

It needs failure logs and Segment's counts: a discard can be counted hours before its record is read.
"""

from collections.abc import Iterator, Mapping

from faillog_otel.clock import HOUR_NS, parse_rfc3339, time_text
from faillog_otel.reports.completeness import Completeness
from faillog_otel.reports.failures import Failures, Group, Names, View
from faillog_otel.reports.failures_text import failure_code, failure_title
from faillog_otel.text import counted, printable

_REPAIRED = {"credentials", "settings", "payload", "function"}
"""Classes of causes that somebody has to repair first."""


def replay_request(
    found: Failures, names: Names, workspace: str | None, unread: Mapping[str, Completeness] | None = None
) -> Iterator[str]:
    """Yields the text of a mail that asks Segment's support for a replay of the lost messages.

    Segment replays all events of a source to a destination in a range of time, without conditions. `unread`:
    destination → its hours of which Segment counted discards that were not read.
    """
    by_destination: dict[str, list[Group]] = {each: [] for each in unread or ()}
    for each in _to_replay(found):
        by_destination.setdefault(each.destination.id, []).append(each)
    if not by_destination:
        yield "No message was lost in this time: there is nothing to replay."
        return
    yield "Subject: Request for a replay"
    yield ""
    yield f"Workspace: {printable(workspace or '(write the name or slug of your workspace)')}"
    known = sorted(by_destination.items(), key=lambda each: not each[1])  # the known causes first
    for number, (destination, groups) in enumerate(known, 1):
        yield ""
        yield from _replay(number, destination, groups, names, (unread or {}).get(destination))


def replay_notes(found: Failures) -> Iterator[str]:
    """Yields what the sender of that mail has to know and to do."""
    lost = _to_replay(found)
    if lost:
        yield "Segment replays every event of the source in that time, also those that were delivered."
        yield "A replay helps if Segment retries such a failure, or once its cause is repaired."
    for each in lost:
        if each.reason_class in _REPAIRED:
            yield printable(f"Repair first: {failure_title(each)} → {each.remedy}")


def unread_note(view: View) -> str:
    """Returns how many discards were counted and not read; empty if none."""
    found = view.completeness.unread
    wanted = [each for name, each in found.items() if view.wants_destination(name)]
    if not (missing := _missing(wanted)):
        return ""
    number = sum(each.counted for each in wanted)
    of = f"{number - missing} of the {counted(number, 'discard')} that Segment counted in this time were read"
    return f"{of}; the messages of the others are not known yet: `status` shows which hours are short"


def _missing(parts: list[Completeness]) -> int:
    return sum(each.counted - each.read for part in parts for each in part.short)


def _to_replay(found: Failures) -> list[Group]:
    """Returns the groups with lost messages; what was filtered is not meant to arrive."""
    return [each for each in found.groups if each.messages.lost and each.reason_class != "filtered"]


def _replay(
    number: int, id_: str, groups: list[Group], names: Names, unread: Completeness | None
) -> Iterator[str]:
    source = names.source_of.get(id_)
    yield printable(f"{number}. Destination: {_with_id(names.names.get(id_), id_)}")
    yield printable(f"   Source: {_with_id(names.names.get(source or ''), source or '')}")
    since = [each.first_seen for each in groups]
    until = [each.last_seen for each in groups]
    if unread:
        since.append(unread.short[0].hour)
        until.append(time_text((parse_rfc3339(unread.short[-1].hour) or 0) + HOUR_NS))
    yield f"   Time range (UTC): {min(since)} to {max(until)}"
    if groups:
        yield f"   Events lost: {sum(each.messages.lost for each in groups)}"
        causes = dict.fromkeys(failure_code(each) for each in groups)
        yield printable(f"   Cause: {', '.join(causes)}")
    if unread:
        more = _missing([unread])
        yield f"   Discards by Segment's count: {unread.counted}; the cause of {more} is not known yet"


def _with_id(name: str | None, id_: str) -> str:
    if not id_:
        return "(write its name)"
    return f"{name}, id {id_}" if name else f"id {id_}"
