"""What commands print for people: status, plan, audit, doctor and redact, from their data."""

from collections.abc import Iterable, Iterator
from itertools import groupby

import click

from faillog_otel.clock import duration_text
from faillog_otel.events.model import BadRecord, Place
from faillog_otel.ledger.audit import Audit
from faillog_otel.reports.plan import REASONS, PlanReport
from faillog_otel.reports.preview import Explanation
from faillog_otel.reports.reachability import Finding
from faillog_otel.reports.status import Coverage, QuotaSeen, State, Status
from faillog_otel.text import printable

MAX_SHOWN_REQUESTS = 24
MAX_SHOWN_PROBLEMS = 50
MAX_SHOWN_MISSING = 5

STATE_COLOURS: dict[State, str] = {
    "waiting": "white",
    "partial": "cyan",
    "read": "yellow",
    "settled": "green",
    "closed": "green",
    "empty": "blue",
    "failed": "red",
    "expired": "magenta",
}
_MEANS: dict[State, str] = {
    "waiting": "not read yet",
    "partial": "being downloaded, in the spool, or an object of it could not be downloaded so far",
    "read": "read, may still grow",
    "settled": "read twice, the same",
    "closed": "read for the last time",
    "empty": "read, no objects",
    "failed": "could not be read, is tried again",
    "expired": "left Segment's 28 days unread, or an object of it did",
}
FINDING_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def line(label: str, text: str, colour: str | None = None) -> str:
    """A label, and what is so; fit for a terminal, whatever the text holds."""
    return f"{label:<14}{click.style(printable(text), fg=colour) if colour else printable(text)}"


def status_text(found: Status) -> Iterator[str]:
    """Yields the lines of `status`."""
    where = f" (on host {found.held_on}, since {found.held_since})" if found.held_on else ""
    by = f"process {found.held_by} runs on it{where}" if found.held_by else "nothing runs on it"
    yield line("state folder", f"{found.state_dir}: {by}")
    yield from quota_text(found.quota)
    for name, until in found.refused.items():
        yield line("refused", f"{name}: Segment refused it, it is not asked for until {until}", "yellow")
    records = found.records
    others = ", ".join(
        f"{number} {name}"
        for name in ("rejected", "quarantined", "pending", "duplicate")
        if (number := getattr(records, name))
    )
    yield line(
        "records", f"{records.records}: {records.exported} exported" + (f", {others}" if others else "")
    )
    if found.time_shifted:
        yield line("time shifted", f"{found.time_shifted} exported with another time than their own")
    if found.quarantine:
        reasons = ", ".join(f"{number} {reason}" for reason, number in found.quarantine.items())
        yield line("quarantine", reasons, "yellow")
    waiting = f"{found.objects.to_download} to download, {found.objects.to_forward} to forward"
    yield line("objects", waiting, "yellow" if found.objects.to_forward else None)
    yield from _missing_text(found)
    yield from _lag_text(found)
    sizes = found.bytes
    yield line(
        "on disk",
        f"ledger {_bytes(sizes.ledger)}, spool {_bytes(sizes.spool)}, digests {_bytes(sizes.digests)}",
    )
    yield from missed_text(found.missed_per_day)
    for name, covered in found.collections.items():
        yield ""
        yield from _calendar(name, covered, found)


def quota_text(quota: QuotaSeen) -> Iterator[str]:
    """What is left of the quota, and what Segment said of it."""
    text = f"{quota.left} of {quota.per_day} requests left, {quota.used} used in 24 h"
    yield line("quota", text, None if quota.left else "yellow")
    if quota.waits:
        yield line("waits", f"until {quota.waits.until}: {quota.waits.why}", "yellow")
    if quota.said:
        yield line("", f"Segment said {quota.said.remaining} left, at {quota.said.at}")


def objects(number: int) -> str:
    """`1 object`, `2 objects`."""
    return f"{number} object{'' if number == 1 else 's'}"


def _missing_text(found: Status) -> Iterator[str]:
    if found.missing:
        yield line("missing", f"{objects(len(found.missing))} could not be downloaded so far", "yellow")
    if more := len(found.missing[:-MAX_SHOWN_MISSING]):
        yield line("", f"{more} of older hours (--json lists all), and:")
    for each in found.missing[-MAX_SHOWN_MISSING:]:
        how = "listed again" if each.needs_listing else "tried again"
        where = f"{each.collection}, {each.hour}, {each.object}"
        yield line("", f"{where}: {each.why}; {how} from {each.next} on, lost at {each.leaves}")
    if found.lost:
        yield line("lost", f"{objects(found.lost)} left Segment's 28 days, never downloaded", "red")


def missed_text(missed_per_day: dict[str, float]) -> Iterator[str]:
    """What the quota cannot give."""
    if missed_per_day:
        hours = next(iter(missed_per_day.values()))
        many = f"{len(missed_per_day)} collections are more than the quota covers"
        yield line("missed", f"{many}: each misses {hours:.1f} of the 24 hours of a day", "red")


def _lag_text(found: Status) -> Iterator[str]:
    for what, newest in (("read", found.lag.read), ("sent", found.lag.sent)):
        if newest:
            yield line(
                "lag" if what == "read" else "",
                f"newest hour {what}: {newest.hour}, ended {duration_text(newest.seconds)} ago",
            )


def _calendar(name: str, covered: Coverage, found: Status) -> Iterator[str]:
    yield click.style(printable(name), bold=True) + ("" if covered.polled else "  (is not polled any more)")
    colours = {mark: STATE_COLOURS[state] for state, mark in found.marks.items()}
    if covered.days:
        yield f"  {'UTC':<12}0     6     12    18"
    for day, marks in covered.days.items():
        cells = "".join(click.style("".join(same), fg=colours.get(mark)) for mark, same in groupby(marks))
        yield f"  {day:<12}{cells}"
    for state, number in covered.hours.items():
        if number:
            mark = click.style(found.marks[state], fg=STATE_COLOURS[state])
            yield f"  {mark} {number:>5} {state:<8} {_MEANS[state]}"
    for failed in covered.failed[-3:]:
        told = f"{failed.hour}: {failed.why} ({failed.times} times, last {failed.at})"
        yield f"  failed: {printable(told)}"


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def plan_text(found: PlanReport) -> Iterator[str]:
    """Yields the lines of `plan`."""
    until = f" until {found.until}" if found.until else ""
    yield line("wanted", f"hours since {found.since}{until} of {', '.join(found.collections)}")
    yield from quota_text(found.quota)
    if found.to_download:
        yield line("first", f"{found.to_download} objects are downloaded that were listed already")
    if found.requests:
        yield line("now", f"{len(found.requests)} requests")
    else:
        yield line("now", "nothing")
        yield line("next request", found.next_request or "none within two days")
    yield from _requests_text(found)
    yield from _waiting_text(found)
    after = ", ".join(f"{hours} h" for hours in found.reads_after_hours)
    last = ", and before it leaves" if found.reads_per_hour > len(found.reads_after_hours) else ""
    yield line("readings", f"{found.reads_per_hour} of each hour: {after} after its end{last}")
    enough = len(found.collections) <= found.collections_covered
    yield line(
        "collections",
        f"{len(found.collections)}; the quota is enough for {found.collections_covered}",
        None if enough else "red",
    )
    yield from missed_text(found.missed_per_day)


def _requests_text(found: PlanReport) -> Iterator[str]:
    for number, request in enumerate(found.requests[:MAX_SHOWN_REQUESTS], 1):
        what = printable(f"{request.collection}  {request.hour}  {request.why}")
        yield f"{number:>5}  {what}: {REASONS[request.why]}; due {request.due}"
    if (more := len(found.requests) - MAX_SHOWN_REQUESTS) > 0:
        yield f"{'':>7}... and {more} more (--json lists all)"


def _waiting_text(found: PlanReport) -> Iterator[str]:
    if found.waiting:
        kinds = ", ".join(f"{number} {why}" for why, number in found.waiting.items())
        left = found.quota.left - len(found.requests)
        if found.quota.waits:
            why = f"{found.quota.waits.why}; until {found.quota.waits.until}"
        elif left <= 0:
            why = "no request is left for them"
        else:
            why = f"the {left} requests left are kept for the hours to come, and for people"
        yield line("waiting", f"{sum(found.waiting.values())} hours are due ({kinds}): {why}", "yellow")
    if found.failed:
        yield line("failed", f"{found.failed} hours could not be read, and are tried again", "yellow")
    if found.missing:
        yield line(
            "missing",
            f"{objects(found.missing)} could not be downloaded so far: see `status`",
            "yellow",
        )


def audit_text(found: Audit) -> Iterator[str]:
    """Yields the lines of `audit`."""
    for problem in found.problems[:MAX_SHOWN_PROBLEMS]:
        yield line(problem.check, f"{problem.where}: {problem.what}", "red")
    if (more := len(found.problems) - MAX_SHOWN_PROBLEMS) > 0:
        yield line("", f"... and {more} more (--json lists all)")
    if sums := found.sums:
        fates = f"{sums.exported} exported + {sums.rejected} rejected + {sums.quarantined} quarantined"
        fates += f" + {sums.pending} pending + {sums.duplicate} duplicate"
        yield line("records", f"{sums.records} = {fates}" if found.holds else f"{sums.records}; {fates}")
        of_lines = sums.lines - sums.blank
        yield line("lines", f"{sums.lines} = {of_lines} records of JSON Lines + {sums.blank} blank")
        yield line("objects", f"{sums.objects}, {found.spooled_files} files in the spool")
        yield line("kept", f"{sums.kept} entries")
        yield line("digests", f"{found.digests_files} files")
    if found.holds:
        yield line("all holds", "", "green")
    else:
        yield line("wrong", f"{len(found.problems)} things do not hold", "red")


def doctor_text(found: Iterable[Finding]) -> Iterator[str]:
    """Yields the lines of `doctor`."""
    for each in found:
        yield click.style(f"{each.state:<6}", fg=FINDING_COLOURS[each.state]) + line(each.check, each.says)
        if each.do:
            yield f"{'':<20}" + line("", f"→ {each.do}").lstrip()


def explanation_text(place: Place, explained: Explanation | BadRecord) -> Iterator[str]:
    """Yields what `redact --explain` prints about one record."""
    where = f"{place.file}, line {place.line}"
    if isinstance(explained, BadRecord):
        yield printable(f"{where}: not understood, all of it stays: {explained.reason}: {explained.detail}")
    else:
        yield printable(f"{where}: {explained.event}")
        yield printable(f"  leaves    {explained.body}")
        for name, value in explained.attributes.items():
            rules = explained.redacted.get(name)
            shown = ", ".join(value) if isinstance(value, tuple) else str(value)
            if rules:
                yield printable(f"  redacted  {name} = {shown}  ({', '.join(rules)})")
            else:
                yield printable(f"  leaves    {name} = {shown}")
        for name, why in explained.stays.items():
            yield printable(f"  stays     {name}: {why}")
    yield ""
