"""`faillog-otel status`: the ledger, for people."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from faillog_otel.cli.inspect import (
    inspect_options,
    line,
    now_ns,
    opened,
    opened_if_there,
    print_json,
    print_lines,
    say_window,
    start,
    warn_of_clock,
)
from faillog_otel.clock import duration_text
from faillog_otel.text import printable

if TYPE_CHECKING:
    from faillog_otel.config import RunConfig
    from faillog_otel.reports.plan import PlanReport
    from faillog_otel.reports.status import Coverage, QuotaSeen, State, Status


# -- status --------------------------------------------------------------------------------------------------


_STATUS_HELP = """Show what was read, what is left of the quota, what waits, and how late it all is.

    For each collection a calendar: a row is a day, a character an hour (UTC). Nothing is changed or asked
    for; it may be called while `run` polls.

    \b
    Exit codes:
      0  done
      2  wrong usage or configuration
      5  there is no ledger in the state folder, or it cannot be read
    """

SHOWN_MISSING = 5

COLOURS: dict["State", str] = {
    "waiting": "white",
    "partial": "cyan",
    "read": "yellow",
    "settled": "green",
    "closed": "green",
    "empty": "blue",
    "failed": "red",
    "expired": "magenta",
}
_MEANS: dict["State", str] = {
    "waiting": "not read yet",
    "partial": "being downloaded, in the spool, or an object of it could not be downloaded so far",
    "read": "read, may still grow",
    "settled": "read twice, the same",
    "closed": "read for the last time",
    "empty": "read, no objects",
    "failed": "could not be read, is tried again",
    "expired": "left Segment's 28 days unread, or an object of it did",
}


@click.command(short_help="Show what was read and what is left.", help=_STATUS_HELP)
@inspect_options("collection", "state_dir", "config", "json")
@click.pass_context
def status(ctx: click.Context, /, *, as_json: bool, **flags: Any) -> None:
    """Reads the options, looks, prints."""
    only = flags.pop("collections")  # to be shown: it does not say what is polled
    show_status(start(flags), now_ns(ctx), only, as_json=as_json)


def show_status(config: "RunConfig", at_ns: int, only: Sequence[str] = (), *, as_json: bool = False) -> None:
    """Prints what is so at this time. Raises LedgerBroken, ConfigError."""
    from faillog_otel.reports.status import status as seen

    with opened(config) as (folder, database):
        warn_of_clock(database)
        found = seen(folder, database, config.segment, only, at_ns)
    if as_json:
        print_json(found)
    else:
        print_lines(_status_text(found))


def _status_text(found: "Status") -> Iterator[str]:
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


def quota_text(quota: "QuotaSeen") -> Iterator[str]:
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


def _missing_text(found: "Status") -> Iterator[str]:
    if found.missing:
        yield line("missing", f"{objects(len(found.missing))} could not be downloaded so far", "yellow")
    if more := len(found.missing[:-SHOWN_MISSING]):
        yield line("", f"{more} of older hours (--json lists all), and:")
    for each in found.missing[-SHOWN_MISSING:]:
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


def _lag_text(found: "Status") -> Iterator[str]:
    for what, newest in (("read", found.lag.read), ("sent", found.lag.sent)):
        if newest:
            yield line(
                "lag" if what == "read" else "",
                f"newest hour {what}: {newest.hour}, ended {duration_text(newest.seconds)} ago",
            )


def _calendar(name: str, covered: "Coverage", found: "Status") -> Iterator[str]:
    yield click.style(printable(name), bold=True) + ("" if covered.polled else "  (is not polled any more)")
    colours = {mark: COLOURS[state] for state, mark in found.marks.items()}
    if covered.days:
        yield f"  {'UTC':<12}0     6     12    18"
    for day, marks in covered.days.items():
        cells = "".join(click.style("".join(same), fg=colours.get(mark)) for mark, same in groupby(marks))
        yield f"  {day:<12}{cells}"
    for state, number in covered.hours.items():
        if number:
            mark = click.style(found.marks[state], fg=COLOURS[state])
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


# -- plan ----------------------------------------------------------------------------------------------------
#
# `faillog-otel plan`: what would be asked of Segment next, and why.


_PLAN_HELP = """Show what `run` would ask of Segment next, and why. Nothing is sent.

    It is the plan of `run` itself, by the ledger of the state folder; without one, that of a first run. What
    is not set here (collections, since, until) is as the last run had it. How
    often each hour is read, for how many collections the quota is enough, which hours wait for it.

    \b
    Exit codes:
      0  done
      2  wrong usage or configuration
      5  the ledger cannot be read
    """

SHOWN = 24


@click.command(short_help="Show what would be asked of Segment next.", help=_PLAN_HELP)
@inspect_options("polled", "since", "until", "state_dir", "config")
@click.option("--once", is_flag=True, help="As `run --once` would: nothing is put by for the hours to come.")
@inspect_options("json")
@click.pass_context
def plan(ctx: click.Context, /, *, once: bool, as_json: bool, **flags: Any) -> None:
    """Reads the options, plans, prints."""
    from faillog_otel.reports.plan import outlook

    config = start(flags)
    with opened_if_there(config) as database:
        say_window(config.segment, now_ns(ctx), database)
        warn_of_clock(database)
        found = outlook(database, config.segment, now_ns(ctx), once=once)
    if as_json:
        print_json(found)
    else:
        print_lines(_plan_text(found))


def _plan_text(found: "PlanReport") -> Iterator[str]:
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


def _requests_text(found: "PlanReport") -> Iterator[str]:
    from faillog_otel.reports.plan import REASONS

    for number, request in enumerate(found.requests[:SHOWN], 1):
        what = printable(f"{request.collection}  {request.hour}  {request.why}")
        yield f"{number:>5}  {what}: {REASONS[request.why]}; due {request.due}"
    if (more := len(found.requests) - SHOWN) > 0:
        yield f"{'':>7}... and {more} more (--json lists all)"


def _waiting_text(found: "PlanReport") -> Iterator[str]:
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
