"""Renders the reports as text: the lines that `status`, `plan`, `audit`, `doctor` and `redact` print."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import click

from faillog_otel.clock import duration_text
from faillog_otel.events.model import BadRecord, Place
from faillog_otel.ledger.audit import Audit
from faillog_otel.reports.completeness import counts_lines, sentence
from faillog_otel.reports.names import names_lines
from faillog_otel.reports.plan import REASONS, PlanReport
from faillog_otel.reports.recent import recent_lines
from faillog_otel.reports.scout import scout_text
from faillog_otel.reports.status import Coverage, QuotaSeen, State, Status
from faillog_otel.text import counted, printable

if TYPE_CHECKING:  # both import much that `status`, `plan` and `audit` do not need
    from faillog_otel.reports.doctor import Finding, Health
    from faillog_otel.reports.preview import Explanation

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
    "short": "red",
}
MEANINGS: dict[State, str] = {
    "waiting": "not read yet",
    "partial": "some of its objects are not downloaded, or not forwarded yet",
    "read": "read; may still grow",
    "settled": "read twice, with the same objects",
    "closed": "read for the last time",
    "empty": "read; no objects",
    "failed": "reading failed; will be retried",
    "expired": "not read completely before Segment deleted it",
    "short": "read; lacks more than 5 % of the discards that Segment counted",
}
FINDING_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def line(label: str, text: str, colour: str | None = None) -> str:
    """Returns a label and a text as one line; control characters of the text are escaped."""
    return f"{label:<14}{click.style(printable(text), fg=colour) if colour else printable(text)}"


def status_text(found: Status) -> Iterator[str]:
    """Yields the lines of `status`."""
    where = f" (on host {found.held_on}, since {found.held_since})" if found.held_on else ""
    by = f"in use by process {found.held_by}{where}" if found.held_by else "not in use"
    yield line("state folder", f"{found.state_dir}: {by}")
    yield from quota_text(found.quota)
    for name, until in found.refused.items():
        yield line("refused", f"{name}: Segment refused it; next request at {until}", "yellow")
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
        shifted = f"{counted(found.time_shifted, 'record')} exported with another time"
        yield line("time shifted", shifted)
    if found.quarantine:
        reasons = ", ".join(f"{number} {reason}" for reason, number in found.quarantine.items())
        yield line("quarantine", reasons, "yellow")
    waiting = f"{found.objects.to_download} to download, {found.objects.to_forward} to forward"
    yield line("objects", waiting, "yellow" if found.objects.to_forward else None)
    yield from _missing_text(found)
    yield from _lag_text(found)
    for label, text, colour in (
        *recent_lines(found.failures),
        *names_lines(found.names),
        *counts_lines(found.counts),
    ):
        yield line(label, text, colour)
    sizes = found.bytes
    yield line(
        "on disk",
        f"ledger {_bytes(sizes.ledger)}, spool {_bytes(sizes.spool)}, exchange indexes"
        f" {_bytes(sizes.indexes)}, digests {_bytes(sizes.digests)}",
    )
    yield from missed_text(found.missed_per_day)
    for name, covered in found.collections.items():
        yield ""
        yield from _calendar(name, covered, found)


def quota_text(quota: QuotaSeen) -> Iterator[str]:
    """Yields how many requests are left, by our count and by Segment's, and why none may be made now."""
    text = f"{quota.left} of {quota.per_day} requests left; {quota.used} used in the last 24 h"
    yield line("quota", text, None if quota.left else "yellow")
    if quota.said:
        yield line("", f"Segment reported {quota.said.remaining} left at {quota.said.at}")
    if quota.waits:
        yield line("paused", f"until {quota.waits.until}: {quota.waits.why}", "yellow")


def _missing_text(found: Status) -> Iterator[str]:
    if found.missing:
        failed = f"{counted(len(found.missing), 'object')} could not be downloaded yet"
        yield line("missing", failed, "yellow")
    if more := len(found.missing[:-MAX_SHOWN_MISSING]):
        yield line("", f"{more} of older hours (--json lists all), and:")
    for each in found.missing[-MAX_SHOWN_MISSING:]:
        how = "next listing" if each.needs_listing else "next attempt"
        where = f"{each.collection}, {each.hour}, {each.object}"
        yield line(
            "", f"{where}: {each.why}; {how} at {each.next}, before Segment deletes it at {each.leaves}"
        )
    if found.lost:
        yield line("lost", f"{counted(found.lost, 'object')} deleted by Segment, never downloaded", "red")


def missed_text(missed_per_day: dict[str, float]) -> Iterator[str]:
    """Yields how many hours a day the quota is too small for; nothing where it suffices."""
    if missed_per_day:
        hours = next(iter(missed_per_day.values()))
        many = f"the quota is too small for {counted(len(missed_per_day), 'collection')}"
        yield line("missed", f"{many}: each misses {hours:.1f} of 24 hours a day", "red")


def _lag_text(found: Status) -> Iterator[str]:
    for what, newest in (("read", found.lag.read), ("sent", found.lag.sent)):
        if newest:
            label = "lag" if what == "read" else ""
            yield line(label, f"{duration_text(newest.seconds)} behind; newest hour {what}: {newest.hour}")


def _calendar(name: str, covered: Coverage, found: Status) -> Iterator[str]:
    yield click.style(printable(name), bold=True) + ("" if covered.polled else "  (no longer polled)")
    colours = {mark: STATE_COLOURS[state] for state, mark in found.marks.items()}
    if covered.days:
        yield f"  {'UTC':<12}0     6     12    18"
    for day, marks in covered.days.items():
        cells = "".join(click.style("".join(same), fg=colours.get(mark)) for mark, same in groupby(marks))
        yield f"  {day:<12}{cells}"
    for state, number in covered.hours.items():
        if number:
            mark = click.style(found.marks[state], fg=STATE_COLOURS[state])
            yield f"  {mark} {number:>5} {state:<8} {MEANINGS[state]}"
    if covered.completeness:
        yield f"  {sentence(covered.completeness)}"
    if name in found.scout:
        yield from (f"  {text}" for text in scout_text(found.scout[name]))
    for failed in covered.failed[-3:]:
        times = f"{counted(failed.times, 'attempt')}, the last at {failed.at}"
        yield printable(f"  failed: {failed.hour}: {failed.why} ({times})")


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
    yield line("hours", f"since {found.since}{until}, of {', '.join(found.collections)}")
    yield from quota_text(found.quota)
    if found.to_download:
        yield line("downloads", f"{counted(found.to_download, 'object')} of earlier listings")
    if found.requests:
        yield line("now", counted(len(found.requests), "request"))
    else:
        yield line("now", "nothing due")
        yield line("next request", found.next_request or "none within two days")
    yield from _requests_text(found)
    yield from _waiting_text(found)
    for name, seen in found.scout.items():
        for text in scout_text(seen):
            yield line("scout", printable(f"{name}: {text}"), "yellow")
    after = ", ".join(f"{hours} h" for hours in found.reads_after_hours)
    last = ", and before Segment deletes it" if found.reads_per_hour > len(found.reads_after_hours) else ""
    yield line("readings", f"{found.reads_per_hour} of each hour: {after} after its end{last}")
    enough = len(found.collections) <= found.collections_covered
    yield line(
        "collections",
        f"{len(found.collections)}; the quota covers {found.collections_covered}",
        None if enough else "red",
    )
    yield from missed_text(found.missed_per_day)


def _requests_text(found: PlanReport) -> Iterator[str]:
    for number, request in enumerate(found.requests[:MAX_SHOWN_REQUESTS], 1):
        what = printable(f"{request.collection}  {request.hour}  {request.why}")
        yield f"{number:>5}  {what}: {request.reason or REASONS[request.why]}; due {request.due}"
    if (more := len(found.requests) - MAX_SHOWN_REQUESTS) > 0:
        yield f"{'':>7}... and {more} more (--json lists all)"


def _waiting_text(found: PlanReport) -> Iterator[str]:
    if found.waiting:
        kinds = ", ".join(f"{number} {why}" for why, number in found.waiting.items())
        left = found.quota.left - len(found.requests)
        if found.quota.waits:
            why = f"{found.quota.waits.why}; until {found.quota.waits.until}"
        elif left <= 0:
            why = "no request is left"
        else:
            why = f"the remaining {counted(left, 'request')} are reserved for the next hours and for `replay`"
        due = counted(sum(found.waiting.values()), "hour")
        yield line("waiting", f"{due} due ({kinds}): {why}", "yellow")
    if found.failed:
        yield line("failed", f"{counted(found.failed, 'hour')} could not be read; will be retried", "yellow")
    if found.missing:
        failed = f"{counted(found.missing, 'object')} could not be downloaded yet; `status` lists them"
        yield line("missing", failed, "yellow")


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
        yield line("objects", f"{sums.objects}; {counted(found.spooled_files, 'file')} in the spool")
        yield line("quarantine", "1 entry" if sums.kept == 1 else f"{sums.kept} entries")
        yield line("indexes", counted(found.index_files, "file"))
        yield line("digests", counted(found.digests_files, "file"))
    if found.holds:
        yield line("result", "no problems found", "green")
    else:
        yield line("result", f"{counted(len(found.problems), 'problem')} found", "red")


def doctor_text(found: "Iterable[Finding]") -> Iterator[str]:
    """Yields the lines of `doctor`; the last one says how many checks failed."""
    states: Counter[Health] = Counter()
    for each in found:
        states[each.state] += 1
        yield click.style(f"{each.state:<6}", fg=FINDING_COLOURS[each.state]) + line(each.check, each.says)
        if each.do:
            yield f"{'':<20}" + line("", f"→ {each.do}").lstrip()
    result = f"{counted(states['fail'], 'check')} failed" if states["fail"] else "all checks passed"
    yield result + (f", {counted(states['warn'], 'warning')}" if states["warn"] else "")


def explanation_text(place: Place, explained: "Explanation | BadRecord") -> Iterator[str]:
    """Yields what `redact --explain` prints about one record."""
    where = f"{place.file}, line {place.line}"
    if isinstance(explained, BadRecord):
        yield printable(f"{where}: not sent ({explained.reason}): {explained.detail}")
    else:
        yield printable(f"{where}: {explained.event}")
        yield printable(f"  sent      {explained.body}")
        for name, value in explained.attributes.items():
            rules = explained.redacted.get(name)
            shown = ", ".join(value) if isinstance(value, tuple) else str(value)
            if rules:
                yield printable(f"  redacted  {name} = {shown}  ({', '.join(rules)})")
            else:
                yield printable(f"  sent      {name} = {shown}")
        for name, why in explained.stays.items():
            yield printable(f"  withheld  {name}: {why}")
    yield ""
