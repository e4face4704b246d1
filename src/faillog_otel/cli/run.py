"""`faillog-otel run`: the main job."""

from typing import Any

import click

from faillog_otel.cli.options import (
    EXIT_CODES,
    HEALTH_FLAGS,
    POLLING_FLAGS,
    config_of,
    forwarding_options,
    health_options,
    polling_options,
    print_and_code,
)

_HELP = f"""Forward failure logs to a collector.

    With PATH...: these, and exit. A PATH is a file, a folder, a glob, or - for standard input: JSON Lines, an
    array or values one after the other, plain, gzip or zstd. The pending file of an earlier run may be one,
    too: its records are sent again, the same bytes, and leave it when they are taken.

    Without: the sidecar. Asks Segment for the hours of the collections, within 120 requests a day, as long as
    it runs; with --once until nothing is due. What was read is remembered in the state folder.
    {EXIT_CODES}"""


@click.command(short_help="Forward failure logs to a collector.", help=_HELP)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@polling_options
@click.option("--once", is_flag=True, help="Poll until nothing is due, and exit.")
@health_options
@forwarding_options
@click.option(
    "--quarantine",
    metavar="FILE",
    help="With PATHs: keeps records that were not understood.  [default: faillog-quarantine.jsonl]",
)
@click.option(
    "--pending",
    metavar="FILE",
    help="With PATHs: keeps records that were not delivered.  [default: faillog-pending.jsonl]",
)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(1, 256),
    help="With PATHs: so many processes share the work.  [default: 1, for large files one a core]",
)
@click.pass_context
def run(ctx: click.Context, /, paths: tuple[str, ...], *, once: bool, **flags: Any) -> None:
    """Reads the options and runs."""
    if paths:
        from faillog_otel.cli.forwarding import run_paths

        given = {"once": once, **{name: flags[name] for name in (*POLLING_FLAGS, *HEALTH_FLAGS)}}
        if named := [flag_of(name) for name in given if given[name]]:
            raise click.UsageError(f"{', '.join(named)}: for polling, without PATHs")
        config = config_of(flags)
        ctx.exit(print_and_code(config, lambda: run_paths(paths, config)))
    if flags["quarantine"] or flags["pending"]:
        raise click.UsageError("--quarantine and --pending go with PATHs; polling keeps all in --state-dir")
    from faillog_otel.cli.polling import poll

    config = config_of(flags, polls_forever=not once)
    ctx.exit(print_and_code(config, lambda: poll(config, once=once, clock=ctx.obj)))


def flag_of(name: str) -> str:
    """How an option is written that may be given several times, or once."""
    repeatable = name in ("collections", "download_hosts")
    return f"--{(name.removesuffix('s') if repeatable else name).replace('_', '-')}"
