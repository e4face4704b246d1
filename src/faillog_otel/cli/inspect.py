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

    from faillog_otel.clock import Clock
    from faillog_otel.config import RunConfig, SegmentConfig
    from faillog_otel.ledger import LedgerReader
    from faillog_otel.ledger.state_dir import StateFolder
    from faillog_otel.reports.doctor import Finding


_log = logging.getLogger(__name__)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output."
)


def start(flags: dict[str, Any], *, says_warnings: bool = True) -> "RunConfig":
    """Starts logging; returns the settings. Raises ConfigError, click.UsageError."""
    from faillog_otel.telemetry.output import start_logging

    config = config_of(flags, polls_forever=True)
    start_logging(config.verbosity, config.log_format)
    for warning in config.ignored if says_warnings else ():
        _log.warning("%s", warning)
    return config


@contextmanager
def opened(config: "RunConfig") -> "Iterator[tuple[StateFolder, LedgerReader]]":
    """Opens the ledger to read, without locking the state folder. Raises LedgerBroken."""
    from faillog_otel.ledger.database import open_reader
    from faillog_otel.ledger.state_dir import StateFolder

    folder = StateFolder(config.state_dir)
    ledger = open_reader(folder)
    try:
        yield folder, ledger
    except (ArithmeticError, LookupError, TypeError, ValueError):
        ledger.check()  # raises LedgerBroken if the disk changed these values
        raise
    finally:
        ledger.close()


@contextmanager
def opened_if_there(config: "RunConfig") -> "Iterator[LedgerReader | None]":
    """Opens the ledger to read; yields None if there is none yet. Raises LedgerBroken."""
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
    """Warns if this machine's clock was wrong in the last run: the report uses that clock."""
    from faillog_otel.clock import AGREES_NS
    from faillog_otel.pipeline.segment_time import AHEAD, ahead_text

    ahead_ns = (ledger.fact_ns(AHEAD) or 0) if ledger else 0
    if abs(ahead_ns) > AGREES_NS:
        _log.warning(
            "this machine's clock was %s Segment's in the last run, and this report uses it; set it if it is"
            " still wrong",
            ahead_text(ahead_ns),
        )


def say_window(config: "SegmentConfig", at_ns: int, ledger: "LedgerReader | None") -> None:
    """Warns of hours between --since and --until that Segment no longer has. Raises ConfigError."""
    from faillog_otel.ledger.facts import SINCE, check_window

    noted_ns = ledger.fact_ns(SINCE) if ledger else None
    for warning in check_window(config, at_ns, noted_ns):
        _log.warning("%s", warning)


def system_clock() -> "Clock":
    """Returns the clock of this machine."""
    return _SystemClock()


def now_ns(ctx: click.Context) -> int:
    """Returns the time of the caller's clock, or of the system's."""
    return time.time_ns() if ctx.obj is None else int(ctx.obj.now_ns())


def print_json(found: object) -> None:
    """Prints one JSON object on one line."""
    import msgspec

    is_ascii = not is_unicode(sys.stdout.encoding)
    click.echo(printable_json(msgspec.json.encode(found).decode(), is_ascii=is_ascii))


def print_lines(lines: Iterable[str]) -> None:
    """Prints lines that may have colours; click removes colours unless standard output is a terminal."""
    for each in lines:
        if is_output_closed():
            return
        click.echo(each)


_STATUS_HELP = """Show what was read, the remaining quota, what is waiting, and the lag.

    Each collection has a calendar: a row is a day, a character an hour (UTC). Changes nothing and makes no
    request; works while `run` polls.

    \b
    Exit codes:
      0  done
      2  wrong usage or configuration
      5  there is no ledger in the state folder, or it cannot be read
    """


@click.command(short_help="Show what was read, what is waiting, and the quota.", help=_STATUS_HELP)
@click.option("--collection", metavar="ID", multiple=True, help="Only this collection (repeatable).")
@setting_options("state_dir", "config")
@json_option
@click.pass_context
def status(ctx: click.Context, /, *, as_json: bool, **flags: Any) -> None:
    """Reads the options, prints the report."""
    only = flags.pop("collection")  # what to show, not what to poll
    show_status(start(flags), now_ns(ctx), only, as_json=as_json)


def show_status(config: "RunConfig", at_ns: int, only: Sequence[str] = (), *, as_json: bool = False) -> None:
    """Prints the status at this time. Raises LedgerBroken, ConfigError."""
    from faillog_otel.reports.status import status as seen
    from faillog_otel.reports.text import status_text

    with opened(config) as (folder, ledger):
        warn_of_clock(ledger)
        found = seen(folder, ledger, config, only, at_ns)
    if as_json:
        print_json(found)
    else:
        print_lines(status_text(found))


_PLAN_HELP = """Show which requests `run` would make next, and why. Makes no request.

    The plan follows from the ledger in the state folder; without one, it is the plan of a first run.
    Collections, --since and --until that are not set are those of the last run. It also shows how often each
    hour is read, how many collections the quota covers, and which hours wait for the quota.

    \b
    Exit codes:
      0  done
      2  wrong usage or configuration
      5  the ledger cannot be read
    """


@click.command(short_help="Show which requests `run` would make next.", help=_PLAN_HELP)
@setting_options("collection", "since", "until", "state_dir", "config")
@click.option("--once", is_flag=True, help="Plan as `run --once` does: reserve no requests for later hours.")
@json_option
@click.pass_context
def plan(ctx: click.Context, /, *, once: bool, as_json: bool, **flags: Any) -> None:
    """Reads the options, prints the plan."""
    from faillog_otel.reports.plan import plan_report
    from faillog_otel.reports.text import plan_text

    config = start(flags)
    with opened_if_there(config) as ledger:
        say_window(config.segment, now_ns(ctx), ledger)
        warn_of_clock(ledger)
        found = plan_report(ledger, config.segment, now_ns(ctx), once=once)
    if as_json:
        print_json(found)
    else:
        print_lines(plan_text(found))


_AUDIT_HELP = """Count every record in the ledger again, and check all files of the state folder.

    For every object, every hour and overall: records = exported + rejected + quarantined + pending +
    duplicate, and for JSON Lines lines = records + blank (objects of other forms have no lines). The
    quarantine has an entry for each quarantined or rejected record; files in the spool are complete; digests
    are sorted; SQLite finds no damage. Changes nothing; works while `run` polls.

    \b
    Exit codes:
      0  no problems found
      1  problems found; each is printed
      2  wrong usage or configuration
      5  there is no ledger in the state folder, or it cannot be read
    """


@click.command(short_help="Verify that the ledger accounts for every record.", help=_AUDIT_HELP)
@setting_options("state_dir", "config")
@json_option
@click.pass_context
def audit(ctx: click.Context, /, *, as_json: bool, **flags: Any) -> None:
    """Reads the options, prints what was found."""
    ctx.exit(show_audit(start(flags), as_json=as_json))


def show_audit(config: "RunConfig", *, as_json: bool = False, brief: bool = False) -> int:
    """Prints the problems found; returns the exit code. Raises LedgerBroken.

    `brief`: only the result if there are none.
    """
    from faillog_otel.ledger.audit import audit as checked
    from faillog_otel.reports.text import audit_text

    with opened(config) as (folder, _):
        found = checked(folder)
    if as_json:
        print_json(found)
    else:
        lines = list(audit_text(found))
        print_lines(lines[-1:] if brief and found.holds else lines)
    return 0 if found.holds else 1


_DOCTOR_HELP = """Check everything that `run` needs. Use the options of `run`, as the same user.

    Checks the configuration and its sources, the state folder, the token, the clock and the collector, and
    says how to fix what fails. The request to Segment costs no quota; the collector gets an empty request for
    each signal. Changes nothing.

    \b
    Exit codes:
      0  no check failed; there may be warnings
      1  a check failed
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


@click.command(short_help="Check everything that `run` needs.", help=_DOCTOR_HELP)
@json_option
@polling_options
@click.option("--once", "_once", is_flag=True, help="Accepted as in `run`; has no effect here.")
@health_options
@forwarding_options
@click.pass_context
def doctor(ctx: click.Context, /, *, as_json: bool, _once: bool, **flags: Any) -> None:
    """Reads the options, prints the findings."""
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
    from faillog_otel.reports.doctor import Finding, examine
    from faillog_otel.segment.api import token_source

    try:
        config = start(flags, says_warnings=False)
    except ConfigError as error:
        yield Finding("config", "fail", str(error), "correct that setting")
        return
    settings = _origins(flags)
    said = ", ".join(f"{name} ({source})" for name, source in settings.items()) or "all defaults"
    yield Finding("config", "ok", f"{config.config_file or 'no config file'}; {said}")
    for warning in config.warnings:
        yield Finding("config", "warn", warning, "correct that setting")
    yield from examine(config, token_source(config.segment), USER_AGENT, ctx.obj or _SystemClock())


def _origins(flags: dict[str, Any]) -> dict[str, str]:
    from faillog_otel.sources import origins

    try:
        return origins(read_layers(flags)[0])
    except ConfigError:
        return {}
