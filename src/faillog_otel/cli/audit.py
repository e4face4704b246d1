"""`faillog-otel audit`: does the ledger keep its promise?"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from faillog_otel.cli.looking import line, looking_options, opened, print_json, print_lines, start

if TYPE_CHECKING:
    from faillog_otel.config import RunConfig
    from faillog_otel.ledger.audit import Audit

_HELP = """Count everything in the ledger anew, and look at all of its files.

    records = exported + rejected + quarantined + pending + duplicate, and for JSON Lines lines = records +
    blank (objects of other forms have no lines): for every object, every hour and overall. As many entries
    are kept as records are quarantined or rejected; what is in the spool is whole; the digests are in order;
    SQLite finds no damage. Nothing is changed; it may be called while `run` polls.

    \b
    Exit codes:
      0  all of it holds
      1  something does not: it is named
      2  wrong usage or configuration
      5  there is no ledger in the state folder, or it cannot be read
    """

SHOWN = 50


@click.command(short_help="Check that no record is unaccounted for.", help=_HELP)
@looking_options("state_dir", "config", "json")
@click.pass_context
def audit(ctx: click.Context, /, *, as_json: bool, **flags: Any) -> None:
    """Reads the options, checks, prints."""
    ctx.exit(show_audit(start(flags), as_json=as_json))


def show_audit(config: "RunConfig", *, as_json: bool = False) -> int:
    """Prints what holds and what does not; returns the exit code. Raises LedgerBroken."""
    from faillog_otel.ledger.audit import audit as checked

    with opened(config) as (folder, database):
        found = checked(folder, database)
    if as_json:
        print_json(found)
    else:
        print_lines(_text(found))
    return 0 if found.holds else 1


def _text(found: "Audit") -> Iterator[str]:
    for problem in found.problems[:SHOWN]:
        yield line(problem.check, f"{problem.where}: {problem.what}", "red")
    if (more := len(found.problems) - SHOWN) > 0:
        yield line("", f"... and {more} more (--json lists all)")
    if sums := found.sums:
        fates = f"{sums.exported} exported + {sums.rejected} rejected + {sums.quarantined} quarantined"
        fates += f" + {sums.pending} pending + {sums.duplicate} duplicate"
        yield line("records", f"{sums.records} = {fates}" if found.holds else f"{sums.records}; {fates}")
        of_lines = sums.lines - sums.blank
        yield line("lines", f"{sums.lines} = {of_lines} records of JSON Lines + {sums.blank} blank")
        yield line("objects", f"{sums.objects}, {found.spooled_files} files in the spool")
        yield line("kept", f"{sums.kept} entries")
        yield line("digests", f"{found.digests_files} files")
    if found.holds:
        yield line("all holds", "", "green")
    else:
        yield line("wrong", f"{len(found.problems)} things do not hold", "red")
