"""`faillog-otel replay`: kept records, or whole hours, once more."""

from pathlib import Path
from typing import Any

import click

from faillog_otel.cli.options import (
    DEFAULT_FLAGS,
    EXIT_CODES,
    POLLING_FLAGS,
    config_of,
    forward,
    forwarding_options,
    polling_options,
    print_and_code,
)

_HELP = f"""Send kept records, or whole hours, again.

    With FILE: the records of a quarantine or pending FILE. Each is sent with what it learned when it was
    first read, so that its ids and bytes are the same, and only in the signals that were not taken. What is
    taken now leaves FILE, what fails again stays. Mend an entry by editing its `raw`.

    Without: the same for the quarantine in the state folder; the sidecar must not run meanwhile. With
    --since (and --collection, --until): all of these hours are asked of Segment once more, and all of their
    records sent again, with the same ids; each hour costs one of the day's 120 requests.

    Records of requests that a collector took only partly are sent again with --rejected only: it may have
    taken them already.
    {EXIT_CODES}"""


@click.command(short_help="Send kept records, or whole hours, again.", help=_HELP)
@click.argument("file", required=False)
@click.option("--rejected", is_flag=True, help="Also send what a collector rejected partly.")
@polling_options
@forwarding_options
@click.pass_context
def replay(ctx: click.Context, /, file: str | None, *, rejected: bool, **flags: Any) -> None:
    """Reads the options and runs."""
    if file is not None:
        ctx.exit(_replay_file(file, flags, sends_rejected=rejected))
    from faillog_otel.cli.replaying import replay_hours, replay_quarantine

    config = config_of(DEFAULT_FLAGS | flags)
    if flags["since"] is None:
        if flags["until"] is not None:
            raise click.UsageError("--until goes with --since")
        ctx.exit(print_and_code(config, lambda: replay_quarantine(config, sends_rejected=rejected)))
    since, until = config.segment.since, config.segment.until
    ctx.exit(print_and_code(config, lambda: replay_hours(config, since, until, ctx.obj)))


def _replay_file(file: str, flags: dict[str, Any], *, sends_rejected: bool) -> int:
    from faillog_otel.ledger.kept import SET_ASIDE, is_kept_file

    if any(flags[name] for name in POLLING_FLAGS):
        raise click.UsageError("--collection, --since and the like go without a FILE")
    if not Path(file).exists() and not Path(file + SET_ASIDE).exists():
        raise click.UsageError(f"{file}: no such file")
    if not is_kept_file(file):
        raise click.UsageError(f"{file}: is no quarantine or pending file, with one entry a line")
    if Path(file).is_symlink():
        file = str(Path(file).resolve())
    flags |= {"quarantine": file, "pending": file}
    return forward((file,), flags, sends_rejected=sends_rejected)
