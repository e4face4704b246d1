"""`faillog-otel run`: the main job."""

from typing import Any

import click

from faillog_otel.cli.options import EXIT_CODES, forward, forwarding_options

_HELP = f"""Forward the failure logs in PATH... and exit.

    A PATH is a file, a folder, a glob, or - for standard input: JSON Lines, an array or values one after the
    other, plain, gzip or zstd. The pending file of an earlier run may be one, too: its records are sent
    again, the same bytes, and leave it when they are taken.
    {EXIT_CODES}"""


@click.command(short_help="Forward failure logs to a collector.", help=_HELP)
@click.argument("paths", nargs=-1, metavar="PATH...")
@forwarding_options
@click.option(
    "--quarantine",
    metavar="FILE",
    help="Keeps records that were not understood.  [default: faillog-quarantine.jsonl]",
)
@click.option(
    "--pending",
    metavar="FILE",
    help="Keeps records that were not delivered.  [default: faillog-pending.jsonl]",
)
@click.pass_context
def run(ctx: click.Context, /, paths: tuple[str, ...], **flags: Any) -> None:
    """Reads the options and runs."""
    if not paths:
        raise click.UsageError("name at least one PATH (- is standard input)")
    ctx.exit(forward(paths, flags))
