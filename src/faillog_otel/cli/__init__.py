"""The program and its main commands, `run` and `replay`. Turns results and errors into exit codes.

Commands read options, call `app` or `reports`, and print. They import these inside, so `--help` is quick.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from faillog_otel import __version__
from faillog_otel.cli.check import check
from faillog_otel.cli.failures import failures
from faillog_otel.cli.inspect import audit, doctor, plan, status
from faillog_otel.cli.options import (
    EXIT_CODES,
    config_of,
    forwarding_options,
    health_options,
    judging_options,
    parameters_of,
    paths_options,
    polling_options,
    print_and_code,
    show_all_option,
)
from faillog_otel.cli.report import report
from faillog_otel.cli.sandbox import demo
from faillog_otel.cli.simulator import simulate
from faillog_otel.cli.tools import explain, ids, redact
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
"""The exit code of a bug in this program (sysexits.h: EX_SOFTWARE)."""


_RUN_HELP = f"""Forward failure logs to a collector.

    With PATHs: forward them, and exit. A PATH is a file, a folder, a glob, or - for standard input: JSON
    Lines, a JSON array or JSON values in a row; plain, gzip or zstd. The pending file of an earlier run may
    be one of them: its records are sent again with the same bytes, and leave the file when acknowledged.

    Without PATHs: poll Segment for the hours of the collections, within 120 requests a day, until a signal
    arrives; with --once, until nothing is due. The state folder remembers what was read.
    {EXIT_CODES}"""


@click.command(short_help="Forward failure logs to a collector.", help=_RUN_HELP)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@polling_options
@click.option("--once", is_flag=True, help="Poll until nothing is due, and exit.")
@health_options
@show_all_option
@forwarding_options
@judging_options
@paths_options
@click.pass_context
def run(ctx: click.Context, /, paths: tuple[str, ...], *, once: bool, **flags: Any) -> None:
    """Reads the options and runs."""
    if paths:
        from faillog_otel.app.run_files import run_paths

        names = ("once", *parameters_of("polling"), *parameters_of("health"))
        if given := [name for name in names if (once if name == "once" else flags[name])]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise click.UsageError(f"{options}: only for polling; remove it, or the PATHs")
        config = config_of(flags)
        ctx.exit(print_and_code(config, lambda: run_paths(paths, config)))
    if flags["quarantine"] or flags["pending"]:
        raise click.UsageError("--quarantine and --pending need PATHs; polling uses --state-dir")
    from faillog_otel.app.run_sidecar import poll

    config = config_of(flags, polls_forever=not once)
    ctx.exit(print_and_code(config, lambda: poll(config, once=once, clock=ctx.obj)))


_REPLAY_HELP = f"""Send kept records, or whole hours, again.

    With FILE: the records of a quarantine or pending file. Each is sent with the same ids and bytes as
    before, and only as the signals that were not acknowledged. Records that are acknowledged now leave FILE,
    the others stay. To fix a record, edit the `raw` of its entry.

    Without FILE: the records of the quarantine in the state folder, while no `run` polls with it. With
    --since (and --collection, --until): all records of these hours. They are read from Segment again and
    sent with the same ids; each hour costs one of the day's 120 requests.

    A collector may already have accepted the records of a partly rejected request: they are sent again only
    with --rejected.
    {EXIT_CODES}"""


@click.command(short_help="Send kept records, or whole hours, again.", help=_REPLAY_HELP)
@click.argument("file", required=False)
@click.option("--rejected", is_flag=True, help="Also send records of partly rejected requests.")
@polling_options
@show_all_option
@forwarding_options
@click.pass_context
def replay(ctx: click.Context, /, file: str | None, *, rejected: bool, **flags: Any) -> None:
    """Reads the options and runs."""
    if file is not None:
        ctx.exit(_replay_file(file, flags, sends_rejected=rejected))
    from faillog_otel.app.run_replay import replay_hours, replay_quarantine

    config = config_of(flags)
    if flags["since"] is None:
        if flags["until"] is not None:
            raise click.UsageError("--until needs --since")
        ctx.exit(print_and_code(config, lambda: replay_quarantine(config, sends_rejected=rejected)))
    since, until = config.segment.since, config.segment.until
    ctx.exit(print_and_code(config, lambda: replay_hours(config, since, until, ctx.obj)))


def _replay_file(file: str, flags: dict[str, Any], *, sends_rejected: bool) -> int:
    from faillog_otel.app.run_files import run_paths
    from faillog_otel.ledger.kept_files import SET_ASIDE, is_kept_file

    if any(flags[name] for name in parameters_of("polling")):
        raise click.UsageError("options for polling, such as --collection and --since, exclude FILE")
    if not Path(file).exists() and not Path(file + SET_ASIDE).exists():
        raise click.UsageError(f"{file}: no such file")
    if not is_kept_file(file):
        raise click.UsageError(f"{file}: not a quarantine or pending file of faillog-otel")
    if Path(file).is_symlink():
        file = str(Path(file).resolve())
    config = config_of(flags | {"quarantine": file, "pending": file})
    return print_and_code(config, lambda: run_paths((file,), config, sends_rejected=sends_rejected))


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


for _command in (
    *(run, check, failures, report, explain, status, plan, audit, doctor),
    *(replay, redact, demo, simulate, ids),
):
    cli.add_command(_command)


def main(clock: Clock | None = None) -> None:
    """Runs a command and exits with its code. `clock` is the one that hours are computed with."""
    set_up_streams()
    protect_standard_streams()
    _prepare_process()
    code = _run(clock)
    if why := unwritten():
        say_error(f"Error: standard output cannot be written: {why}")
    sys.exit(code)


def _run(clock: Clock | None) -> int:
    """Runs the command that the arguments name; prints any error, and returns the exit code."""
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
        return _print_error(error)


def _print_error(error: Exception) -> int:
    """Prints an error; returns its exit code."""
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
    """Sets what a shell or a container runtime may not have set."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's C core, once loaded, logs to stderr itself
    os.umask(os.umask(0o077) & 0o077)  # we can always read what we write
    if os.getpid() == 1:  # in a container: the kernel ignores a signal that has no handler
        signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))


def _missing_folder() -> str:
    """Returns which folder that every process needs is missing, and what to do; empty if none is."""
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
