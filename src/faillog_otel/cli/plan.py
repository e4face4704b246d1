"""`faillog-otel plan`: what would be asked of Segment next, and why."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from faillog_otel.cli.looking import (
    line,
    looking_options,
    now_ns,
    opened_if_there,
    print_json,
    print_lines,
    say_window,
    start,
    warn_of_clock,
)
from faillog_otel.cli.status import missed_text, objects, quota_text
from faillog_otel.events.printable import printable

if TYPE_CHECKING:
    from faillog_otel.app.outlook import Outlook

_HELP = """Show what `run` would ask of Segment next, and why. Nothing is sent.

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


@click.command(short_help="Show what would be asked of Segment next.", help=_HELP)
@looking_options("polled", "since", "until", "state_dir", "config")
@click.option("--once", is_flag=True, help="As `run --once` would: nothing is put by for the hours to come.")
@looking_options("json")
@click.pass_context
def plan(ctx: click.Context, /, *, once: bool, as_json: bool, **flags: Any) -> None:
    """Reads the options, plans, prints."""
    from faillog_otel.app.outlook import outlook

    config = start(flags)
    with opened_if_there(config) as database:
        say_window(config.segment, now_ns(ctx), database)
        warn_of_clock(database)
        found = outlook(database, config.segment, now_ns(ctx), once=once)
    if as_json:
        print_json(found)
    else:
        print_lines(_text(found))


def _text(found: "Outlook") -> Iterator[str]:
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


def _requests_text(found: "Outlook") -> Iterator[str]:
    from faillog_otel.app.outlook import REASONS

    for number, request in enumerate(found.requests[:SHOWN], 1):
        what = printable(f"{request.collection}  {request.hour}  {request.why}")
        yield f"{number:>5}  {what}: {REASONS[request.why]}; due {request.due}"
    if (more := len(found.requests) - SHOWN) > 0:
        yield f"{'':>7}... and {more} more (--json lists all)"


def _waiting_text(found: "Outlook") -> Iterator[str]:
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
