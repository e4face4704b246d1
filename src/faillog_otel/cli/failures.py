"""`failures`: what fails, since when, how many messages, why, and what to do."""

import logging
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import click

from faillog_otel.cli.inspect import now_ns, print_json, start
from faillog_otel.cli.options import Command, setting_options
from faillog_otel.errors import ConfigError
from faillog_otel.reasons import ReasonClass
from faillog_otel.telemetry.output import CLOSED_PIPE, is_output_closed, takes_escapes
from faillog_otel.text import is_unicode, printable_json

if TYPE_CHECKING:
    from faillog_otel.config import RunConfig
    from faillog_otel.reports.failures import View, Window
    from faillog_otel.reports.failures_text import Style
    from faillog_otel.reports.load import Loaded

_log = logging.getLogger(__name__)

MAX_GROUPS = 20
"""Groups that are listed without --all."""
_LINES_AT_ONCE = 200
_CLASSES = get_args(ReasonClass)


def window_options(command: Command) -> Command:
    """Adds the options that choose what a report of failures is about."""
    options = (
        click.option(
            "--since",
            metavar="TIME",
            help="Only failures at TIME or later: RFC 3339, or relative, such as -36h.",
        ),
        click.option("--until", metavar="TIME", help="Only failures before TIME.  [default: now]"),
        click.option(
            "--destination",
            "destinations",
            metavar="ID|NAME",
            multiple=True,
            help="Only failures of this destination (repeatable).",
        ),
        click.option(
            "--class",
            "classes",
            metavar="CLASS",
            type=click.Choice(_CLASSES),
            multiple=True,
            help=f"Only failures with a reason of this class (repeatable): {', '.join(_CLASSES)}.",
        ),
        click.option(
            "--new-within",
            metavar="DURATION",
            default="24h",
            help="Mark groups that were first seen within this time.  [default: 24h]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


_HELP = f"""Show what fails, since when, how many messages, why, and what to do.

    Failures with one cause are a group: same destination, mapping, status, code and reason. The worst group
    is the first. A message is lost (discarded, or its last attempt failed more than 6 hours ago), pending
    (Segment may still retry it) or recovered. One request can carry many messages, so attempts and requests
    are counted apart.

    Without PATHs: what the ledger in the state folder knows, of the last 35 days. With PATHs: what these
    files contain, as `run` reads them. Changes nothing and makes no request; works while `run` polls.

    Without --all, the {MAX_GROUPS} worst groups are listed.

    \b
    Exit codes:
      0  done, also if there are failures
      2  wrong usage or configuration, or a PATH could not be read
      5  there is no ledger in the state folder, or it cannot be read
      141  the reader of standard output closed it (`| head`)
    """


@click.command(short_help="Show what fails, why, and what to do.", help=_HELP)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@window_options
@click.option("--all", "lists_all", is_flag=True, help="List all groups.")
@click.option("--messages", "lists_messages", is_flag=True, help="List messages: what to send again.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object; with --messages, one for each message."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--replay-request", is_flag=True, help="Print a mail that asks Segment for a replay.")
@setting_options("state_dir", "config")
@click.pass_context
def failures(ctx: click.Context, /, paths: tuple[str, ...], **flags: Any) -> None:
    """Reads the options, prints the report."""
    own = {name: flags.pop(name) for name in [*flags] if name not in ("state_dir", "config")}
    formats = [name for name in ("as_json", "as_csv", "replay_request") if own[name]]
    if own["replay_request"] and own["lists_messages"]:
        raise click.UsageError("--messages and --replay-request exclude each other; choose one")
    if len(formats) > 1:
        raise click.UsageError("--json, --csv and --replay-request exclude each other; choose one")
    asked = asked_for(paths, own, flags, now_ns(ctx))
    _show(asked, own)
    ctx.exit(exit_code(asked.loaded))


def exit_code(loaded: "Loaded") -> int:
    """Logs what could not be read; returns the exit code of a report."""
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    for problem in loaded.problems:
        _log.error("%s", problem)
    return CLOSED_PIPE if is_output_closed() else 2 if loaded.problems else 0


class Asked(NamedTuple):
    """What the options of a report of failures ask for."""

    config: "RunConfig"
    loaded: "Loaded"
    view: "View"
    window: "Window"


def asked_for(paths: Sequence[str], own: dict[str, Any], flags: dict[str, Any], at_ns: int) -> Asked:
    """Returns what failed, as the options choose it: `own` are those of `window_options`.

    Raises ConfigError, LedgerBroken and click.UsageError.
    """
    if paths and flags["state_dir"]:
        raise click.UsageError("PATHs and --state-dir exclude each other; remove one of them")
    since_ns = moment_ns("--since", own["since"], at_ns)
    until_ns = moment_ns("--until", own["until"], at_ns)
    until_ns = at_ns if until_ns is None else until_ns
    if since_ns is not None and since_ns >= until_ns:
        raise click.UsageError("--since is not before --until; nothing lies between them")
    new_within_ns = _new_within_ns(own["new_within"])
    config = start(flags)
    from faillog_otel.reports.failures import Window
    from faillog_otel.reports.load import load

    loaded = load(config, paths, since_ns, until_ns, at_ns)
    window = Window(
        since_ns=loaded.since_ns,
        until_ns=until_ns,
        now_ns=at_ns,
        new_within_ns=new_within_ns,
    )
    return Asked(config, loaded, _view(loaded, config, own), window)


def moment_ns(option: str, text: str | None, at_ns: int) -> int | None:
    """Returns the time that an option names, in nanoseconds since 1970. Raises click.UsageError."""
    from faillog_otel.setting_values import parse_moment

    if text is None:
        return None
    try:
        return parse_moment(text).ns(at_ns)
    except ConfigError as error:
        raise click.UsageError(f"{option}: {error}") from None


def _new_within_ns(text: str) -> int:
    from faillog_otel.setting_values import MAX_SECONDS, parse_duration

    try:
        seconds = parse_duration(text)
    except ConfigError as error:
        raise click.UsageError(f"--new-within: {error}") from None
    return int((MAX_SECONDS if math.isinf(seconds) else seconds) * 1e9)


def _view(loaded: "Loaded", config: "RunConfig", own: dict[str, Any]) -> "View":
    """Returns how the sums are shown; warns of a destination that nothing is known of."""
    from faillog_otel.reports.failures import Filter, View

    of_groups = {each.group.destination for each in loaded.sums.groups}
    known = {*of_groups, *loaded.names.names, *loaded.names.names.values()}
    folded = {each.casefold() for each in known}
    for each in own["destinations"]:
        if each.casefold() not in folded:
            failing = sorted(loaded.names.names.get(id_, id_) for id_ in of_groups if id_)
            hint = f"; failing ones: {', '.join(failing[:10])}" if failing else ""
            _log.warning("--destination %s: no destination with this id or name is known%s", each, hint)
    return View(
        names=loaded.names,
        links=config.links,
        join=config.mapping.join,
        filter=Filter(own["destinations"], own["classes"]),
        changes=loaded.changes,
        completeness=loaded.completeness,
    )


def _show(asked: Asked, own: dict[str, Any]) -> None:
    from faillog_otel.reports import failures_text as text
    from faillog_otel.reports import replay
    from faillog_otel.reports.failures import failures_report, messages_report

    loaded, view = asked.loaded, asked.view
    if own["lists_messages"]:
        messages = messages_report(loaded.messages, loaded.sums, view)
        if own["as_json"]:
            _print(map(_json_line, messages))
        elif own["as_csv"]:
            _print(text.csv_lines(messages, text.MESSAGE_COLUMNS), end="")
        else:
            _print(text.messages_text(messages, _style()))
        _say_unread(view)
        return
    limit = None if own["lists_all"] or own["replay_request"] else MAX_GROUPS
    found = failures_report(loaded.sums, view, asked.window, limit)
    if own["as_json"]:
        print_json(found)
    elif own["as_csv"]:
        _print(text.csv_lines(found.groups, text.GROUP_COLUMNS), end="")
        if found.left_out:
            _log.warning("%s more groups left out; --all lists them", found.left_out)
    elif own["replay_request"]:
        unread = {} if own["classes"] else view.unread()
        _print(replay.replay_request(found, view.names, view.links.workspace, unread))
        for each in replay.replay_notes(found):
            click.echo(each, err=True)
        _say_unread(view)
    else:
        is_filtered = bool(own["destinations"] or own["classes"])
        chosen = " Only the chosen destinations and classes are shown." if is_filtered else ""
        _print(text.failures_text(found, loaded.covers + chosen, _style()))


def _say_unread(view: "View") -> None:
    """Says of how many discards the messages are not known."""
    from faillog_otel.reports.replay import unread_note

    if note := unread_note(view):
        click.echo(note, err=True)


def _json_line(message: object) -> str:
    import msgspec

    is_ascii = not is_unicode(sys.stdout.encoding)
    return printable_json(msgspec.json.encode(message).decode(), is_ascii=is_ascii)


def _style() -> "Style":
    """Returns what standard output can show."""
    from faillog_otel.reports.failures_text import Style

    is_terminal = sys.stdout.isatty()
    return Style(
        width=shutil.get_terminal_size().columns if is_terminal else None,
        is_ascii=not is_unicode(sys.stdout.encoding),
        # The console of Linux shows an OSC 8 sequence as text.
        hyperlinks=takes_escapes(sys.stdout) and os.environ.get("TERM") != "linux",
    )


def _print(lines: Iterable[str], end: str = "\n") -> None:
    """Prints lines as they come, many at once."""
    from itertools import islice

    each: Iterator[str] = iter(lines)
    while (some := [*islice(each, _LINES_AT_ONCE)]) and not is_output_closed():
        click.echo(end.join([*some, ""]), nl=False)
