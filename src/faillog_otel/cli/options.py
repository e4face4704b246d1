"""The options of the settings, and how a command gets its settings."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faillog_otel.errors import ConfigError
from faillog_otel.settings import CONFIG_FILE, SETTINGS, Group, Setting

if TYPE_CHECKING:
    from faillog_otel.app.summary import RunResult
    from faillog_otel.config import RunConfig
    from faillog_otel.sources import Layer


_log = logging.getLogger(__name__)

EXIT_CODES = """
    \b
    Exit codes:
      0  done; everything was acknowledged
      1  a --fail-on condition was met, or more messages failed than --max-discarded or --max-failed allows
      2  wrong usage or configuration, or a PATH could not be read
      3  done, but some records are in the quarantine
      4  the collector refused or was unavailable: records are pending
      5  the state folder, or the quarantine or pending file, could not be read or written
      6  Segment refused the token, a collection or (--once) more requests; or something due could not be
         listed or downloaded
      7  undecided: with --once and a condition, no hour from --since to --until could be judged
      130, 143  interrupted; the run stopped cleanly
      141  the reader of standard output closed it (--protocol console | head)

    Settings: flag > environment (FAILLOG_*, OTEL_*) > config file > default.
"""


Command = Callable[..., Any]


def setting_options(*names: str) -> Callable[[Command], Command]:
    """Returns a decorator that adds the options of settings, by their names in Python (`state_dir`)."""
    rows = {row.parameter: row for row in SETTINGS if row.option}

    def add(command: Command) -> Command:
        for name in reversed(names):
            command = _option(rows[name])(command)
        return command

    return add


def parameters_of(group: Group) -> list[str]:
    """Returns the names in Python of a group's options."""
    return [row.parameter for row in SETTINGS if row.option and row.group == group]


polling_options = setting_options(*parameters_of("polling"))
health_options = setting_options(*parameters_of("health"))
judging_options = setting_options(*parameters_of("judging"))
paths_options = setting_options(*parameters_of("paths"))


def forwarding_options(command: Command) -> Command:
    """Adds the options of commands that send records."""
    command = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")(command)
    command = click.option("-v", "--verbose", count=True, help="Print more (repeatable).")(command)
    return setting_options(*parameters_of("forwarding"))(command)


show_all_option = click.option(
    "--all",
    "show_all",
    is_flag=True,
    help="With --protocol console: show every message, not only one of each of the worst failure groups.",
)


def _option(row: Setting) -> Callable[[Command], Command]:
    kind, default = row.kind, row.default_text or show_default(row)
    type_: click.ParamType[Any] | None = None
    if kind.choices and row.metavar is None:
        type_ = click.Choice(kind.choices)
    elif kind.form == "number":
        type_ = click.IntRange(kind.low, kind.high or None)
    help_text = row.help.removesuffix(".") + (" (repeatable)." if row.is_repeatable else ".")
    return click.option(
        row.flag,
        metavar=row.metavar,
        type=type_,
        is_flag=kind.form == "boolean",
        default=None,
        multiple=row.is_repeatable,
        help=help_text + (f"  [default: {default}]" if default else ""),
    )


def show_default(row: Setting) -> str:
    """Returns the default of a setting as an option would be given; empty if there is none."""
    if row.default is None or row.kind.form == "boolean":
        return ""
    shown = row.kind.show(row.default)
    return ",".join(shown) if isinstance(shown, list | dict) else str(shown)


def print_and_code(config: "RunConfig", run: "Callable[[], RunResult]") -> int:
    """Runs, prints the summary, returns the exit code."""
    from faillog_otel.app.summary import print_summary
    from faillog_otel.telemetry.output import start_logging

    start_logging(config.verbosity, config.log_format)
    for warning in config.warnings:
        _log.warning("%s", warning)
    result = run()
    print_summary(result, config)
    return int(result.exit_code)


def config_of(flags: dict[str, Any], *, polls_forever: bool = False) -> "RunConfig":
    """Returns the settings of options, environment and config file. Raises ConfigError, click.UsageError."""
    from msgspec.structs import replace

    from faillog_otel.sources import resolve, value_of
    from faillog_otel.telemetry.output import start_logging

    layers, warnings, file = read_layers(flags)
    verbosity = -1 if flags.get("quiet") else flags.get("verbose", 0)
    start_logging(verbosity, value_of(layers, "run.log_format"))  # for errors in the other settings
    config = resolve(
        layers,
        verbosity=verbosity,
        config_file=file,
        warnings=warnings,
        polls_forever=polls_forever,
        home=os.environ.get("XDG_STATE_HOME") or _state_home(),
    )
    if not flags.get("show_all"):
        return config
    if config.delivery.writes != "console":
        raise click.UsageError("--all needs --protocol console; set it, or remove --all")
    return replace(config, delivery=replace(config.delivery, shows_all=True))


def _state_home() -> str:
    """Returns where state is by default; here, for a user without a home, such as a container's."""
    try:
        return str(Path("~/.local/state").expanduser())
    except RuntimeError:
        return "."


def read_layers(
    flags: dict[str, Any], is_used: Callable[[str], bool] = lambda _: True
) -> tuple[list["Layer"], list[str], str | None]:
    """Returns the layers, highest precedence first; warnings; the config file. Raises as `config_of` does.

    `is_used`: whether a variable for the setting of this path is read.
    """
    from faillog_otel.files import read_small_text
    from faillog_otel.sources import read_environment, read_file, read_flags, value_of
    from faillog_otel.telemetry.output import start_logging

    try:
        of_flags = read_flags(flags)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    environment, warnings = read_environment(os.environ, is_used)
    file = flags.get(CONFIG_FILE.parameter) or os.environ.get(CONFIG_FILE.variables[0])
    if not file and os.path.isfile(CONFIG_FILE.default_text):  # noqa: PTH113  # Path's raises if it cannot look
        file = CONFIG_FILE.default_text
    layers = [of_flags, environment]
    if file:
        text = read_small_text(file, may_be_pipe=True)
        with suppress(ConfigError):  # an error in the file has the form that the file asks for
            of_format = read_file(text, file, lambda path: path == "run.log_format")
            start_logging(0, value_of([*layers, of_format], "run.log_format"))
        layers.append(read_file(text, file))
    return layers, warnings, file
