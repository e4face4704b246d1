"""`check`: whether events were delivered. The smoke test for CI."""

import logging
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faillog_otel.cli.failures import moment_ns
from faillog_otel.cli.inspect import print_json, print_lines, start, system_clock
from faillog_otel.cli.options import Command, setting_options
from faillog_otel.errors import ConfigError
from faillog_otel.telemetry.output import say_error

if TYPE_CHECKING:
    from faillog_otel.app.check_logs import CheckConfig
    from faillog_otel.reports.check import Report
    from faillog_otel.reports.check_evidence import Allowance, Known

_log = logging.getLogger(__name__)

EXIT_CODES = {"passed": 0, "failed": 1, "unknown": 7}
REFUSED = 6
SETTLED = "settled"
_SETTINGS = ("collection", "state_dir", "segment_url", "download_host", "max_requests", "config")

_HELP = """Check whether events were delivered: a smoke test for CI.

    The verdict is passed, failed, or not known yet. There are two sources. Segment's own counts are there
    after a minute or two: how many events of a source were received, filtered, discarded and delivered.
    Failure logs name every message, but are complete only 8 hours after an hour. Each can decide alone. A
    discard is final, and fails at once. Nothing passes before each event has a result, or could have one.

    Without PATHs: the counts, if there is a token, and the ledger in the state folder. With collections, and
    if no `run` uses that folder, the hours of the window are polled first: their records are counted in it,
    and sent nowhere. With PATHs: these files, and with --counts also the counts.

    In GitHub Actions, annotations and a job summary are written by themselves.

    \b
    Exit codes:
      0  passed
      1  failed
      2  wrong usage or configuration, or a PATH could not be read
      5  the state folder cannot be read or written
      6  Segment refused: the token, an unknown source or destination, or no permission
      7  not known yet; it prints when to ask again
    """


def _options(command: Command) -> Command:
    option = click.option
    options: Sequence[Callable[[Command], Command]] = (
        option(
            "--counts",
            "uses_counts",
            is_flag=True,
            default=None,
            help="Use Segment's counts only, or with --logs both.",
        ),
        option(
            "--logs",
            "uses_logs",
            is_flag=True,
            default=None,
            help="Use failure logs only, or with --counts both.",
        ),
        option(
            "--source",
            "sources",
            metavar="ID|NAME",
            multiple=True,
            help="Only events of this source (repeatable).",
        ),
        option(
            "--destination",
            "destinations",
            metavar="ID|NAME",
            multiple=True,
            help="Only this destination (repeatable).",
        ),
        option(
            "--event",
            "events",
            metavar="NAME",
            multiple=True,
            help="Only events of this name (repeatable); counts only.",
        ),
        option(
            "--app-version",
            "app_versions",
            metavar="VERSION",
            multiple=True,
            help="Only events with this context.app.version (repeatable); counts only.",
        ),
        option(
            "--since",
            metavar="TIME",
            help="Start of the window: RFC 3339, or relative, such as -36h.  [default: an hour before "
            "the end, or all with PATHs]",
        ),
        option(
            "--until",
            metavar="TIME",
            help="End of the window.  [default: now; without --expect-received the last whole minute that "
            "Segment has counted]",
        ),
        option(
            "--messages",
            "messages_file",
            metavar="FILE",
            help="File with ids of messages that must not be lost, one a line; others are not judged.",
        ),
        option(
            "--expect-received",
            metavar="N",
            type=click.IntRange(1),
            help="Number of events that were sent: fewer do not pass.",
        ),
        option(
            "--max-failed",
            metavar="N|P%",
            help="Discards of each destination that are tolerated.  [default: 0]",
        ),
        option("--no-filtered", is_flag=True, help="Fail if events were filtered."),
        option(
            "--allow",
            "allowed",
            metavar="CODE",
            multiple=True,
            help="Tolerate this code or HTTP status (repeatable).",
        ),
        option(
            "--only-new",
            is_flag=True,
            help="Fail only for failures that were not there before the window, by the ledger or --baseline.",
        ),
        option(
            "--baseline",
            metavar="FILE",
            help="File with known failures, of --write-baseline; implies --only-new.",
        ),
        option(
            "--write-baseline",
            metavar="FILE",
            help="Write the failures of this window, and those of --baseline.",
        ),
        option(
            "--wait",
            metavar="DURATION|settled",
            default="0",
            help="Ask again until the verdict is final, for this time at most.  [default: 0]",
        ),
        option("--junit", metavar="FILE", help="Write JUnit's XML."),
        option(
            "--markdown",
            metavar="FILE",
            help="Write Markdown.  [default: appended to $GITHUB_STEP_SUMMARY, if set]",
        ),
        option(
            "--github/--no-github",
            default=None,
            help="Print annotations for GitHub.  [default: if GITHUB_ACTIONS is true]",
        ),
        option(
            "--gitlab",
            metavar="FILE",
            help="Write GitLab's report of annotations: links to destinations and traces.",
        ),
        option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output."),
    )
    for each in reversed(options):
        command = each(command)
    return command


@click.command(short_help="Check whether events were delivered, for CI.", help=_HELP)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@_options
@setting_options(*_SETTINGS)
@click.pass_context
def check(ctx: click.Context, /, paths: tuple[str, ...], **flags: Any) -> None:
    """Reads the options, prints the verdict, writes the reports."""
    own = {name: flags.pop(name) for name in [*flags] if name not in _SETTINGS}
    clock = ctx.obj or system_clock()
    from faillog_otel.app.check import check as checked
    from faillog_otel.app.check_counts import Refused

    asked = _asked(paths, own, clock.now_ns())
    config = start(flags)
    try:
        judged = checked(config, asked, clock, ctx.obj)
    except Refused as refused:
        report = _refused(asked, refused.why, refused.do, clock.now_ns())
        _write(report, own)
        say_error(f"Error: {refused}")
        ctx.exit(REFUSED)
    report = judged.report
    _write(report, own)
    if own["write_baseline"]:
        known = judged.seen if asked.baseline is None else asked.baseline.and_known(judged.seen)
        _write_file("--write-baseline", own["write_baseline"], known.to_json())
    ctx.exit(EXIT_CODES[report.verdict])


def _asked(paths: tuple[str, ...], own: dict[str, Any], at_ns: int) -> "CheckConfig":
    """Returns what the options ask for. Raises click.UsageError, ConfigError."""
    from faillog_otel.app.check_counts import Chosen
    from faillog_otel.app.check_logs import CheckConfig
    from faillog_otel.reports.check_evidence import Rules, codes_of

    since_ns, until_ns = (moment_ns(f"--{name}", own[name], at_ns) for name in ("since", "until"))
    if since_ns is None and (not paths or own["uses_counts"]):
        since_ns = (at_ns if until_ns is None else until_ns) - 3600 * 10**9
    if (since_ns or 0) >= (at_ns if until_ns is None else until_ns):
        raise click.UsageError("--since is not before --until; nothing lies between them")
    baseline = _baseline(own["baseline"])
    if own["only_new"] and paths and baseline is None:
        raise click.UsageError("--only-new with PATHs needs --baseline FILE: files do not say what is new")
    messages = _messages(own["messages_file"])
    rules = Rules(
        since_ns=0,
        until_ns=0,
        now_ns=at_ns,
        max_failed=_allowance(own["max_failed"]),
        allowed=frozenset[str]().union(*(codes_of(each) for each in own["allowed"])),
        no_filtered=own["no_filtered"],
        expect_received=own["expect_received"],
        messages=messages,
    )
    return CheckConfig(
        paths=paths,
        uses_counts=own["uses_counts"],
        uses_logs=True if paths else own["uses_logs"],
        chosen=Chosen(own["sources"], own["destinations"], own["events"], own["app_versions"]),
        since_ns=since_ns,
        until_ns=until_ns,
        rules=rules,
        only_new=own["only_new"] or baseline is not None,
        baseline=baseline,
        wait_seconds=_wait_seconds(own["wait"]),
    )


def _allowance(text: str | None) -> "Allowance | None":
    from faillog_otel.reports.check_evidence import Allowance

    if text is None:
        return None
    number = text.strip().removesuffix("%")
    try:
        if number != text.strip():
            percent = Fraction(number)
            if 0 <= percent <= 100:
                return Allowance(percent=percent)
        elif (count := int(number)) >= 0:
            return Allowance(count)
    except (ValueError, ZeroDivisionError):
        pass
    raise click.UsageError(f"--max-failed: {text!r} is neither a number nor a percentage; write 3 or 0.5%")


def _wait_seconds(text: str) -> float:
    from faillog_otel.setting_values import parse_duration

    if text == SETTLED:
        return math.inf
    try:
        return parse_duration(text)
    except ConfigError as error:
        raise click.UsageError(f"--wait: {error}, or settled") from None


def _messages(file: str | None) -> tuple[str, ...]:
    if file is None:
        return ()
    from faillog_otel.files import read_small_text

    ids = tuple(dict.fromkeys(filter(None, map(str.strip, read_small_text(file).splitlines()))))
    if not ids:
        raise click.UsageError(f"--messages {file}: names no message; write one id a line")
    return ids


def _baseline(file: str | None) -> "Known | None":
    if file is None:
        return None
    from faillog_otel.files import read_small_text
    from faillog_otel.reports.check_evidence import Known

    try:
        return Known.from_json(read_small_text(file))
    except ValueError:
        raise ConfigError(f"--baseline {file}: is not a file of --write-baseline; write it again") from None


def _refused(asked: "CheckConfig", why: str, do: str, at_ns: int) -> "Report":
    """Returns the report of a check that Segment refused."""
    from faillog_otel.clock import time_text
    from faillog_otel.reports.check import Report
    from faillog_otel.reports.check_evidence import Check

    refused = Check(
        name="Segment", verdict="failed", says=why, do=do, expected="an answer", found="a refusal"
    )
    return Report(
        verdict="unknown",
        final_at=None,
        since=time_text(asked.since_ns or 0),
        until=time_text(at_ns if asked.until_ns is None else asked.until_ns),
        checks=[refused],
        groups=[],
    )


def _write(report: "Report", own: dict[str, Any]) -> None:
    """Prints the report, and writes the files that the options ask for."""
    from faillog_otel.reports import check_outputs as outputs

    if own["as_json"]:
        print_json(report)
    else:
        is_terminal = sys.stdout.isatty()
        print_lines(outputs.check_text(report, shutil.get_terminal_size().columns if is_terminal else None))
    is_github = own["github"]
    if is_github or (is_github is None and os.environ.get("GITHUB_ACTIONS") == "true"):
        for each in outputs.github(report):
            click.echo(each, err=own["as_json"])  # GitHub reads both streams
    if own["junit"]:
        _write_file("--junit", own["junit"], outputs.junit(report, of_messages=bool(own["messages_file"])))
    if own["gitlab"]:
        _write_file("--gitlab", own["gitlab"], outputs.gitlab(report))
    if own["markdown"]:
        _write_file("--markdown", own["markdown"], outputs.markdown(report).encode("utf-8", "replace"))
    elif is_github is not False and (summary := os.environ.get("GITHUB_STEP_SUMMARY")):
        _append(summary, outputs.markdown(report))


def _write_file(option: str, name: str, content: bytes) -> None:
    from faillog_otel.files import replace_file

    try:
        replace_file(name, content)
    except OSError as error:
        raise ConfigError(f"{option} {name}: cannot be written: {error.strerror}") from None


def _append(name: str, text: str) -> None:
    try:
        with Path(name).open("a", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError as error:
        _log.warning("GITHUB_STEP_SUMMARY: %s cannot be written: %s", name, error.strerror)
