"""What the commands that look have in common: their options, and how they print."""

import logging
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from faillog_otel.cli.streams import is_output_closed
from faillog_otel.events.printable import printable, printable_json
from faillog_otel.text import is_unicode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faillog_otel.config import RunConfig, SegmentConfig
    from faillog_otel.ledger.database import Database
    from faillog_otel.ledger.folder import StateFolder

_log = logging.getLogger(__name__)

_OPTIONS = {
    "collection": click.option(
        "--collection", "collections", metavar="ID", multiple=True, help="Only this collection (repeatable)."
    ),
    "polled": click.option(
        "--collection", "collections", metavar="ID", multiple=True, help="A collection to poll (repeatable)."
    ),
    "since": click.option(
        "--since", metavar="TIME", help="Not what is older: RFC 3339, or -36h.  [default: -7d]"
    ),
    "until": click.option("--until", metavar="TIME", help="Not what is newer."),
    "state_dir": click.option(
        "--state-dir",
        metavar="DIR",
        help="What polling remembers.  [default: $XDG_STATE_HOME/faillog-otel]",
    ),
    "config": click.option(
        "--config", "config_file", metavar="FILE", help="TOML file.  [default: faillog-otel.toml]"
    ),
    "json": click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output."),
}


def looking_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds these options."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return command

    return add


def start(flags: dict[str, Any], *, says_warnings: bool = True) -> "RunConfig":
    """The settings; our own log goes to standard error. Raises ConfigError, click.UsageError."""
    from faillog_otel.cli.options import DEFAULT_FLAGS, config_of
    from faillog_otel.telemetry.logs import start_logging

    config = config_of(DEFAULT_FLAGS | flags, polls_forever=True)
    start_logging(config.verbosity, config.log_format)
    for warning in config.ignored if says_warnings else ():
        _log.warning("%s", warning)
    return config


@contextmanager
def opened(config: "RunConfig") -> "Iterator[tuple[StateFolder, Database]]":
    """The state folder, not locked, and its ledger, to be read only. Raises LedgerBroken."""
    from faillog_otel.ledger.database import Database
    from faillog_otel.ledger.folder import StateFolder

    folder = StateFolder(config.state_dir)
    database = Database(folder.ledger, read_only=True)
    try:
        yield folder, database
    except (ArithmeticError, LookupError, TypeError, ValueError):
        database.check()  # values that the disk changed are no bug of ours
        raise
    finally:
        database.close()


@contextmanager
def opened_if_there(config: "RunConfig") -> "Iterator[Database | None]":
    """The ledger, to be read only; None where there is none yet. Raises LedgerBroken."""
    from faillog_otel.ledger.folder import StateFolder

    is_there = True
    try:
        StateFolder(config.state_dir).ledger.lstat()
    except FileNotFoundError:
        is_there = False
    except OSError:
        pass  # opening it says what is wrong
    with opened(config) if is_there else nullcontext((None, None)) as (_, database):
        yield database


def warn_of_clock(database: "Database | None") -> None:
    """Warns where the machine's clock was wrong when `run` asked last: what is shown goes by it."""
    from faillog_otel.app.segment_time import AHEAD, ahead_text
    from faillog_otel.clock import AGREES_NS
    from faillog_otel.ledger.views import fact_ns

    ahead_ns = (fact_ns(database, AHEAD) or 0) if database else 0
    if abs(ahead_ns) > AGREES_NS:
        _log.warning(
            "this machine's clock was %s Segment's when `run` asked last; what is shown goes by it: if it is"
            " still wrong, set it",
            ahead_text(ahead_ns),
        )


def say_window(config: "SegmentConfig", at_ns: int, database: "Database | None") -> None:
    """Warns of hours that --since and --until cannot bring. Raises ConfigError where they leave none."""
    from faillog_otel.app.ledger_view import SINCE
    from faillog_otel.ledger.views import fact_ns
    from faillog_otel.segment.window import check_window

    noted_ns = fact_ns(database, SINCE) if database else None
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


def line(label: str, text: str, colour: str | None = None) -> str:
    """A label, and what is so; fit for a terminal, whatever the text holds."""
    return f"{label:<14}{click.style(printable(text), fg=colour) if colour else printable(text)}"
