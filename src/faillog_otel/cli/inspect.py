"""`status`, `plan`, `audit`, `doctor`: commands that read the state folder and print what they find."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from faillog_otel.cli.options import (
    config_of,
    forwarding_options,
    health_options,
    polling_options,
    read_layers,
    setting_options,
)
from faillog_otel.errors import ConfigError
from faillog_otel.telemetry.output import is_output_closed
from faillog_otel.text import is_unicode, printable_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faillog_otel.config import RunConfig, SegmentConfig
    from faillog_otel.ledger import LedgerReader
    from faillog_otel.ledger.state_dir import StateFolder
    from faillog_otel.reports.reachability import Finding


_log = logging.getLogger(__name__)

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")


def start(flags: dict[str, Any], *, says_warnings: bool = True) -> "RunConfig":
    """The settings; our own log goes to standard error. Raises ConfigError, click.UsageError."""
    from faillog_otel.telemetry.output import start_logging

    config = config_of(flags, polls_forever=True)
    start_logging(config.verbosity, config.log_format)
    for warning in config.ignored if says_warnings else ():
        _log.warning("%s", warning)
    return config


@contextmanager
def opened(config: "RunConfig") -> "Iterator[tuple[StateFolder, LedgerReader]]":
    """The state folder, not locked, and its ledger, to be read only. Raises LedgerBroken."""
    from faillog_otel.ledger.database import open_reader
    from faillog_otel.ledger.state_dir import StateFolder

    folder = StateFolder(config.state_dir)
    ledger = open_reader(folder)
    try:
        yield folder, ledger
    except (ArithmeticError, LookupError, TypeError, ValueError):
        ledger.check()  # values that the disk changed are no bug of ours
        raise
    finally:
        ledger.close()


@contextmanager
def opened_if_there(config: "RunConfig") -> "Iterator[LedgerReader | None]":
    """The ledger, to be read only; None where there is none yet. Raises LedgerBroken."""
    from faillog_otel.ledger.state_dir import StateFolder

    is_there = True
    try:
        StateFolder(config.state_dir).ledger.lstat()
    except FileNotFoundError:
        is_there = False
    except OSError:
        pass  # opening it says what is wrong
    with opened(config) if is_there else nullcontext((None, None)) as (_, ledger):
        yield ledger


def warn_of_clock(ledger: "LedgerReader | None") -> None:
    """Warns where the machine's clock was wrong when `run` asked last: what is shown goes by it."""
    from faillog_otel.clock import AGREES_NS
    from faillog_otel.pipeline.segment_time import AHEAD, ahead_text

    ahead_ns = (ledger.fact_ns(AHEAD) or 0) if ledger else 0
    if abs(ahead_ns) > AGREES_NS:
        _log.warning(
            "this machine's clock was %s Segment's when `run` asked last; what is shown goes by it: if it is"
            " still wrong, set it",
            ahead_text(ahead_ns),
        )


def say_window(config: "SegmentConfig", at_ns: int, ledger: "LedgerReader | None") -> None:
    """Warns of hours that --since and --until cannot bring. Raises ConfigError where they leave none."""
    from faillog_otel.ledger.facts import SINCE, check_window

    noted_ns = ledger.fact_ns(SINCE) if ledger else None
    for warning in check_window(config, at_ns, noted_ns):
        _log.warning("%s", warning)


def now_ns(ctx: click.Context) -> int:
    """The time that Segment's hours go by: the caller's clock, or the system's."""
    return time.time_ns() if ctx.obj is None else int(ctx.obj.now_ns())


def print_json(found: object) -> None:
    """One JSON object on a line of its own."""
    import msgspec

    is_ascii = not is_unicode(sys.stdout.encoding)
    click.echo(printable_json(msgspec.json.encode(found).decode(), is_ascii=is_ascii))


def print_lines(lines: Iterable[str]) -> None:
    """Lines that may have colours; click leaves the colours out where they are not wanted."""
    for each in lines:
        if is_output_closed():
            return
        click.echo(each)


_STATUS_HELP = """Show what was read, what is left of the quota, what waits, and how late it all is.

    For each collection a calendar: a row is a day, a character an hour (UTC). Nothing is changed or asked
    for; it may be called while `run` polls.

    \b
    Exit codes:
      0  done
      2  wrong usage or configuration
      5  there is no ledger in the state folder, or it cannot be read
    """


@click.command(short_help="Show what was read and what is left.", help=_STATUS_HELP)
@click.option("--collection", metavar="ID", multiple=True, help="Only this collection (repeatable).")
@setting_options("state_dir", "config")
@json_option
@click.pass_context
def status(ctx: click.Context, /, *, as_json: bool, **flags: Any) -> None:
    """Reads the options, looks, prints."""
    only = flags.pop("collection")  # to be shown: it does not say what is polled
    show_status(start(flags), now_ns(ctx), only, as_json=as_json)


def show_status(config: "RunConfig", at_ns: int, only: Sequence[str] = (), *, as_json: bool = False) -> None:
    """Prints what is so at this time. Raises LedgerBroken, ConfigError."""
    from faillog_otel.reports.status import status as seen
    from faillog_otel.reports.text import status_text

    with opened(config) as (folder, ledger):
        warn_of_clock(ledger)
        found = seen(folder, ledger, config.segment, only, at_ns)
    if as_json:
        print_json(found)
    else:
        print_lines(status_text(found))


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


@click.command(short_help="Show what would be asked of Segment next.", help=_PLAN_HELP)
@setting_options("collection", "since", "until", "state_dir", "config")
@click.option("--once", is_flag=True, help="As `run --once` would: nothing is put by for the hours to come.")
@json_option
@click.pass_context
def plan(ctx: click.Context, /, *, once: bool, as_json: bool, **flags: Any) -> None:
    """Reads the options, plans, prints."""
    from faillog_otel.reports.plan import outlook
    from faillog_otel.reports.text import plan_text

    config = start(flags)
    with opened_if_there(config) as ledger:
        say_window(config.segment, now_ns(ctx), ledger)
        warn_of_clock(ledger)
        found = outlook(ledger, config.segment, now_ns(ctx), once=once)
    if as_json:
        print_json(found)
    else:
        print_lines(plan_text(found))


_AUDIT_HELP = """Count everything in the ledger anew, and look at all of its files.

    records = exported + rejected + quarantined + pending + duplicate, and for JSON Lines lines = records +
    blank (objects of other forms have no lines): for every object, every hour and overall. As many entries
    are kept as records are quarantined or rejected; what is in the spool is whole; the digests are in order;
    SQLite finds no damage. Nothing is changed; it may be called while `run` polls.

    \b
    Exit codes:
      0  all of it holds
      1  something does not: it is named
      2  wrong usage or configuration
      5  there is no ledger in the state folder, or it cannot be read
    """


@click.command(short_help="Check that no record is unaccounted for.", help=_AUDIT_HELP)
@setting_options("state_dir", "config")
@json_option
@click.pass_context
def audit(ctx: click.Context, /, *, as_json: bool, **flags: Any) -> None:
    """Reads the options, checks, prints."""
    ctx.exit(show_audit(start(flags), as_json=as_json))


def show_audit(config: "RunConfig", *, as_json: bool = False) -> int:
    """Prints what holds and what does not; returns the exit code. Raises LedgerBroken."""
    from faillog_otel.ledger.audit import audit as checked
    from faillog_otel.reports.text import audit_text

    with opened(config) as (folder, _):
        found = checked(folder)
    if as_json:
        print_json(found)
    else:
        print_lines(audit_text(found))
    return 0 if found.holds else 1


_DOCTOR_HELP = """Look at everything that `run` needs: with the options of `run`, and as the same user.

    The configuration and where it comes from, the state folder, the token, the clock, the collector. What is
    not well says what to do. Segment is asked for nothing that costs a request of the day's quota, the
    collector gets an empty request for each signal; nothing is changed.

    \b
    Exit codes:
      0  nothing fails; there may be warnings
      1  something fails
      2  wrong usage
    """


class _SystemClock:
    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return False


@click.command(short_help="Look at everything that `run` needs.", help=_DOCTOR_HELP)
@json_option
@polling_options
@click.option("--once", "_once", is_flag=True, help="Changes nothing here: for the command line of `run`.")
@health_options
@forwarding_options
@click.pass_context
def doctor(ctx: click.Context, /, *, as_json: bool, _once: bool, **flags: Any) -> None:
    """Reads the options, looks, prints."""
    from faillog_otel.reports.text import doctor_text

    found = list(_examined(flags, ctx))
    fails = any(each.state == "fail" for each in found)
    if as_json:
        print_json({"well": not fails, "findings": found, "settings": _origins(flags)})
    else:
        print_lines(doctor_text(found))
    ctx.exit(1 if fails else 0)


def _examined(flags: dict[str, Any], ctx: click.Context) -> "Iterator[Finding]":
    from faillog_otel.app.build import USER_AGENT
    from faillog_otel.reports.doctor import examine
    from faillog_otel.reports.reachability import Finding
    from faillog_otel.segment.api import token_source

    try:
        config = start(flags, says_warnings=False)
    except ConfigError as error:
        yield Finding("config", "fail", str(error), "change the setting that it names")
        return
    settings = _origins(flags)
    said = ", ".join(f"{name} ({source})" for name, source in settings.items()) or "all as by default"
    yield Finding("config", "ok", f"{config.config_file or 'no file'}; {said}")
    for warning in config.warnings:
        yield Finding("config", "warn", warning, "change the setting that it names")
    yield from examine(config, token_source(config.segment), USER_AGENT, ctx.obj or _SystemClock())


def _origins(flags: dict[str, Any]) -> dict[str, str]:
    from faillog_otel.sources import origins

    try:
        return origins(read_layers(flags)[0])
    except ConfigError:
        return {}
