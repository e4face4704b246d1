"""`faillog-otel replay`: kept records, once more."""

from pathlib import Path
from typing import Any

import click

from faillog_otel.cli.options import DEFAULT_FLAGS, EXIT_CODES, forward, forwarding_options

_HELP = f"""Send the records of a quarantine or pending FILE again.

    Each is sent with what it learned when it was first read, so that its ids and bytes are the same, and only
    in the signals that were not taken. What is taken now leaves FILE, what fails again stays. Mend an entry
    by editing its `raw`. Records of requests that a collector took only partly are sent again with
    --rejected only: it may have taken them already.
    {EXIT_CODES}"""


@click.command(short_help="Send kept records again.", help=_HELP)
@click.argument("file")
@click.option("--rejected", is_flag=True, help="Also send what a collector rejected partly.")
@forwarding_options
@click.pass_context
def replay(ctx: click.Context, /, file: str, *, rejected: bool, **flags: Any) -> None:
    """Reads the options and runs."""
    from faillog_otel.ledger.kept import is_kept_file

    if not is_kept_file(file):
        raise click.UsageError(f"{file}: is no quarantine or pending file, with one entry a line")
    if Path(file).is_symlink():
        file = str(Path(file).resolve())
    flags = DEFAULT_FLAGS | flags | {"quarantine": file, "pending": file}
    ctx.exit(forward((file,), flags, sends_rejected=rejected))
