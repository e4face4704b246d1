"""`faillog-otel replay`: kept records, or whole hours, once more."""

from pathlib import Path
from typing import Any

import click

from faillog_otel.cli.options import (
    EXIT_CODES,
    config_of,
    forward,
    forwarding_options,
    health_options,
    parameters_of,
    paths_options,
    polling_options,
    print_and_code,
)

# -- run -----------------------------------------------------------------------------------------------------
#
# `faillog-otel run`: the main job.


_RUN_HELP = f"""Forward failure logs to a collector.

    With PATH...: these, and exit. A PATH is a file, a folder, a glob, or - for standard input: JSON Lines, an
    array or values one after the other, plain, gzip or zstd. The pending file of an earlier run may be one,
    too: its records are sent again, the same bytes, and leave it when they are taken.

    Without: the sidecar. Asks Segment for the hours of the collections, within 120 requests a day, as long as
    it runs; with --once until nothing is due. What was read is remembered in the state folder.
    {EXIT_CODES}"""


@click.command(short_help="Forward failure logs to a collector.", help=_RUN_HELP)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@polling_options
@click.option("--once", is_flag=True, help="Poll until nothing is due, and exit.")
@health_options
@forwarding_options
@paths_options
@click.pass_context
def run(ctx: click.Context, /, paths: tuple[str, ...], *, once: bool, **flags: Any) -> None:
    """Reads the options and runs."""
    if paths:
        from faillog_otel.app.run_files import run_paths

        names = ("once", *parameters_of("polling"), *parameters_of("health"))
        if given := [name for name in names if (once if name == "once" else flags[name])]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise click.UsageError(f"{options}: for polling, without PATHs")
        config = config_of(flags)
        ctx.exit(print_and_code(config, lambda: run_paths(paths, config)))
    if flags["quarantine"] or flags["pending"]:
        raise click.UsageError("--quarantine and --pending go with PATHs; polling keeps all in --state-dir")
    from faillog_otel.app.run_sidecar import poll

    config = config_of(flags, polls_forever=not once)
    ctx.exit(print_and_code(config, lambda: poll(config, once=once, clock=ctx.obj)))


# -- replay --------------------------------------------------------------------------------------------------


_REPLAY_HELP = f"""Send kept records, or whole hours, again.

    With FILE: the records of a quarantine or pending FILE. Each is sent with what it learned when it was
    first read, so that its ids and bytes are the same, and only in the signals that were not taken. What is
    taken now leaves FILE, what fails again stays. Mend an entry by editing its `raw`.

    Without: the same for the quarantine in the state folder; the sidecar must not run meanwhile. With
    --since (and --collection, --until): all of these hours are asked of Segment once more, and all of their
    records sent again, with the same ids; each hour costs one of the day's 120 requests.

    Records of requests that a collector took only partly are sent again with --rejected only: it may have
    taken them already.
    {EXIT_CODES}"""


@click.command(short_help="Send kept records, or whole hours, again.", help=_REPLAY_HELP)
@click.argument("file", required=False)
@click.option("--rejected", is_flag=True, help="Also send what a collector rejected partly.")
@polling_options
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
            raise click.UsageError("--until goes with --since")
        ctx.exit(print_and_code(config, lambda: replay_quarantine(config, sends_rejected=rejected)))
    since, until = config.segment.since, config.segment.until
    ctx.exit(print_and_code(config, lambda: replay_hours(config, since, until, ctx.obj)))


def _replay_file(file: str, flags: dict[str, Any], *, sends_rejected: bool) -> int:
    from faillog_otel.ledger.kept_files import SET_ASIDE, is_kept_file

    if any(flags[name] for name in parameters_of("polling")):
        raise click.UsageError("--collection, --since and the like go without a FILE")
    if not Path(file).exists() and not Path(file + SET_ASIDE).exists():
        raise click.UsageError(f"{file}: no such file")
    if not is_kept_file(file):
        raise click.UsageError(f"{file}: is no quarantine or pending file, with one entry a line")
    if Path(file).is_symlink():
        file = str(Path(file).resolve())
    flags |= {"quarantine": file, "pending": file}
    return forward((file,), flags, sends_rejected=sends_rejected)
