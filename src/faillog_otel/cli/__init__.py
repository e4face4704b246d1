"""The command line: thin. Reads options, builds the parts, calls, prints, and gives the exit code.

Heavy imports stand inside the commands, so that `--help` is quick.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from faillog_otel import __version__
from faillog_otel.cli.inspect import audit, doctor, plan, status
from faillog_otel.cli.run import replay, run
from faillog_otel.cli.sandbox import demo, simulate
from faillog_otel.cli.tools import ids, redact
from faillog_otel.clock import Clock
from faillog_otel.errors import Busy, ConfigError, InputError, Interrupted, LedgerBroken, NoRoom
from faillog_otel.telemetry.output import (
    protect_standard_streams,
    say_bug,
    say_error,
    say_usage_error,
    set_up_streams,
    takes_escapes,
    unwritten,
)

BUG = 70
"""The exit code of a program that failed by itself (sysexits.h: EX_SOFTWARE)."""


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click itself would write an empty line to standard error
            raise click.Abort from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="faillog-otel")
def cli() -> None:
    """Forwards Twilio Segment failure logs to OpenTelemetry.

    Failed deliveries become OTLP log records and spans, each delivery attempt linked to the exchange
    with the destination that it was part of.
    """


for _command in (run, status, plan, audit, doctor, replay, redact, demo, simulate, ids):
    cli.add_command(_command)


def main(clock: Clock | None = None) -> None:
    """The program: runs a command and exits with its code. `clock`: what Segment's hours go by."""
    set_up_streams()
    protect_standard_streams()
    _prepare_process()
    code = _run(clock)
    if why := unwritten():
        say_error(f"Error: standard output cannot be written: {why}")
    sys.exit(code)


def _run(clock: Clock | None) -> int:
    """Runs the command that the arguments name; returns the exit code, after any error was said."""
    color = None if takes_escapes(sys.stdout) else False
    try:
        return cli.main(standalone_mode=False, obj=clock, color=color) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        return 2
    except click.ClickException as error:
        say_usage_error(error)
        return error.exit_code
    except Interrupted as error:
        return 128 + error.signal
    except click.Abort:
        return 130
    except Exception as error:  # noqa: BLE001  # a bug: its code must not be one that means something else
        return _said(error)


def _said(error: Exception) -> int:
    """Says an error; returns its exit code."""
    if isinstance(error, NoRoom):
        do = "try again later" if isinstance(error, Busy) else "make room, then start again"
        say_error(f"Error: {error}; {do}")
        return 5
    if isinstance(error, ConfigError | InputError | LedgerBroken):
        say_error(f"Error: {error}")
        return 5 if isinstance(error, LedgerBroken) else 2
    if isinstance(error, OSError) and (missing := _missing_folder()):
        say_error(f"Error: {missing}")
        return 2
    say_bug(error)
    return BUG


def _prepare_process() -> None:
    """What a shell or a container runtime may have left out."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's C core, once loaded, logs to stderr itself
    os.umask(os.umask(0o077) & 0o077)  # we can always read what we write
    if os.getpid() == 1:  # in a container: the kernel ignores a signal that has no handler
        signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))


def _missing_folder() -> str:
    """Which folder that every process needs is missing, and what to do; empty if all are there."""
    try:
        Path.cwd()
    except OSError:
        return "the working directory was removed; change to another one"
    import tempfile

    try:
        tempfile.gettempdir()
    except OSError:
        return "no folder for temporary files is writable; name one in TMPDIR"
    return ""
