"""`report`: what fails, as one HTML page."""

import sys
from typing import Any

import click

from faillog_otel.cli.failures import asked_for, exit_code, window_options
from faillog_otel.cli.inspect import now_ns
from faillog_otel.cli.options import setting_options
from faillog_otel.errors import ConfigError

_HELP = """Write what fails as one HTML page.

    The page answers what fails, since when, how many messages, why, and what to do; then all groups, failures
    over time, and what was read. It needs no network and no other file: open it from the disk, send it, print
    it. Message ids are on it only with --page-messages.

    Without PATHs: what the ledger in the state folder knows, of the last 35 days. With PATHs: what these
    files contain, as `run` reads them. Changes nothing else and makes no request; works while `run` polls.

    \b
    Exit codes:
      0  done, also if there are failures
      2  wrong usage or configuration, a PATH could not be read, or FILE could not be written
      5  there is no ledger in the state folder, or it cannot be read
      141  the reader of standard output closed it
    """


@click.command(short_help="Write what fails as one HTML page.", help=_HELP)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--html", metavar="FILE", required=True, help="File to write; - is standard output.")
@window_options
@setting_options("page_messages", "state_dir", "config")
@click.pass_context
def report(ctx: click.Context, /, paths: tuple[str, ...], *, html: str, **flags: Any) -> None:
    """Reads the options, writes the page."""
    own = {name: flags.pop(name) for name in ("since", "until", "destinations", "classes", "new_within")}
    asked = asked_for(paths, own, flags, now_ns(ctx))
    from faillog_otel.app.page import report_page

    content = report_page(
        asked.config, asked.loaded, asked.view, asked.window, is_of_files=bool(paths)
    ).encode()
    if html == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    else:
        _write(html, content)
    ctx.exit(exit_code(asked.loaded))


def _write(file: str, content: bytes) -> None:
    """Writes the page, and says so. Raises ConfigError."""
    from faillog_otel.files import replace_file

    try:
        replace_file(file, content)
    except OSError as error:
        raise ConfigError(f"--html {file}: {error.strerror}; name another file") from None
    click.echo(f"wrote {file} ({-(-len(content) // 1024)} KiB)", err=True)
