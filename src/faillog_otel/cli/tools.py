"""The commands `ids`, `redact` and `explain`: for one message, for files, for one code."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from faillog_otel import propagation
from faillog_otel.cli.inspect import json_option, print_json, print_lines
from faillog_otel.cli.options import read_layers, setting_options
from faillog_otel.otlp.origin import origin_of
from faillog_otel.telemetry.output import say_error

if TYPE_CHECKING:
    from faillog_otel.events.model import BadRecord, Place
    from faillog_otel.reasons import ReasonRow
    from faillog_otel.reports.preview import Explanation

_log = logging.getLogger(__name__)


@click.command(short_help="Show the trace of a message, or make a messageId.")
@click.argument("message_id", required=False)
@click.option("--new", "is_new", is_flag=True, help="Print a new messageId that carries a trace context.")
@click.option(
    "--traceparent",
    envvar="TRACEPARENT",
    metavar="TRACEPARENT",
    help="With --new: the context to carry (W3C Trace Context).  [default: $TRACEPARENT]",
)
@click.option("--compact", is_flag=True, help="With --new: 36 characters, for destinations such as Mixpanel.")
@click.pass_context
def ids(
    ctx: click.Context,
    message_id: str | None,
    *,
    is_new: bool,
    traceparent: str | None,
    compact: bool,
) -> None:
    """Print the trace of the deliveries of MESSAGE_ID, as one JSON object.

    `trace_id` is 32 hex characters. `origin` says where it comes from: the messageId carries it
    (`message_id`, `message_id_compact`), or it is computed from the messageId (`derived`). `parent_span_id`
    is the application's span above the deliveries if it is known and was sampled, else null. (All with
    `--join parent`, the default.)

    With --new, print one new messageId, and nothing else. It carries the given or the current traceparent;
    without a valid one, a random trace id.
    """
    is_given = ctx.get_parameter_source("traceparent") is click.core.ParameterSource.COMMANDLINE
    if is_new == (message_id is not None):
        raise click.UsageError("give either MESSAGE_ID or --new")
    if message_id is None:
        click.echo(_fresh(traceparent, is_given=is_given, compact=compact))
    elif compact or is_given:
        raise click.UsageError("--traceparent and --compact need --new")
    else:
        try:
            origin = origin_of(message_id, None, "parent")
        except UnicodeEncodeError:
            raise click.UsageError("MESSAGE_ID is not UTF-8") from None
        parent = origin.parent_span_id.hex() or None
        described = {"trace_id": origin.trace_id.hex(), "origin": origin.name, "parent_span_id": parent}
        click.echo(json.dumps(described))


def _fresh(traceparent: str | None, *, is_given: bool, compact: bool) -> str:
    if traceparent is not None:
        try:
            return propagation.message_id_for(traceparent.strip(), compact=compact)
        except ValueError as error:
            if is_given:
                raise click.UsageError(f"--traceparent: {error}") from None
            # W3C Trace Context: a traceparent that cannot be read starts a new trace.
            say_error(f"TRACEPARENT: {error}; using a random trace id")
    return propagation.message_id(compact=compact)


_REDACT_HELP = """Preview what `run` would send of the failure logs in FILE. Sends nothing.

    Prints one JSON object for each record: `body` and `attributes` are what is sent, `redacted` names the
    rules that replaced something in an attribute, and `stays` names the fields that are withheld, and why.
    Redacted text is not shown. With FAILLOG_REDACTION_KEY, equal redacted values can be compared.

    \b
    Exit codes:
      0  done
      2  wrong usage or configuration, or a FILE could not be read
      3  done, but some records were not understood
      141  the reader of standard output closed it (`| head`)
    """


@click.command(short_help="Preview what is sent, redacted or withheld.", help=_REDACT_HELP)
@click.argument("paths", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--explain",
    "for_people",
    is_flag=True,
    help="Print text: each field with the rules that redacted it, or the reason why it is withheld.",
)
@setting_options("bodies", "config")
@click.pass_context
def redact(ctx: click.Context, /, paths: tuple[str, ...], *, for_people: bool, **flags: Any) -> None:
    """Reads the options, previews the files, prints."""
    import sys
    import time

    from faillog_otel.errors import InputError
    from faillog_otel.events.model import BadRecord
    from faillog_otel.inputs.files import FoundPaths
    from faillog_otel.reports.preview import preview
    from faillog_otel.reports.text import explanation_text
    from faillog_otel.sources import resolve_mapping, value_of
    from faillog_otel.telemetry.output import CLOSED_PIPE, announce, is_output_closed, start_logging

    layers, _, _ = read_layers(flags, _is_used)
    mapping, max_content = resolve_mapping(layers), value_of(layers, "run.max_content")
    log_format = value_of(layers, "run.log_format")
    start_logging(0, log_format)
    found = FoundPaths(paths, ())
    problems = found.problems
    seen: Counter[str] = Counter()
    for each in preview(found.files, sys.stdin.buffer, mapping, time.time_ns(), max_content):
        if isinstance(each, InputError):
            problems.append(str(each))
            continue
        place, explained = each
        seen["not understood" if isinstance(explained, BadRecord) else "records"] += 1
        _count(explained, seen)
        if for_people:
            click.echo("\n".join(explanation_text(place, explained)))
        else:
            print_json(_as_json(place, explained))
        if is_output_closed():
            ctx.exit(CLOSED_PIPE)
    for problem in problems:
        _log.error("%s", problem)
    for warning in found.warnings:
        _log.warning("%s", warning)
    numbers = ", ".join(f"{number} {what}" for what, number in seen.items()) or "no records"
    if log_format == "json":
        announce(_log, numbers, {"numbers": seen})
    else:
        click.echo(numbers, err=True)
    ctx.exit(2 if problems else 3 if seen["not understood"] else 0)


def _is_used(path: str) -> bool:
    """Whether it is a setting of what is shown: the resource is not."""
    is_mapping = path.startswith("mapping.") and path != "mapping.resource_attributes"
    return is_mapping or path in {"run.max_content", "run.log_format"}


def _count(explained: "Explanation | BadRecord", seen: Counter[str]) -> None:
    for rules in getattr(explained, "redacted", {}).values():
        seen.update(f"redacted ({rule})" for rule in rules)


def _as_json(place: "Place", explained: "Explanation | BadRecord") -> dict[str, Any]:
    import msgspec

    from faillog_otel.events.model import BadRecord

    where = {"file": place.file, "line": place.line, "offset": place.offset}
    if isinstance(explained, BadRecord):
        return {**where, "reason": explained.reason, "detail": explained.detail}
    return {**where, **msgspec.to_builtins(explained)}


_EXPLAIN_HELP = """Explain a failure: what its code or HTTP status means, and what to do.

    CODE is a code of Segment or of a destination, in any case, or an HTTP status. Without CODE, prints the
    whole table, by class: a class says who can mend a failure.

    \b
    Exit codes:
      0  done
      2  wrong usage, or the table has no such CODE
    """


@click.command(short_help="Explain a failure code or HTTP status.", help=_EXPLAIN_HELP)
@click.argument("code", required=False)
@json_option
def explain(code: str | None, *, as_json: bool) -> None:
    """Finds the rows and prints them."""
    from faillog_otel.reasons import all_rows, find_rows
    from faillog_otel.text import did_you_mean, quoted

    rows = all_rows() if code is None else find_rows(code)
    if code is not None and not rows:
        names = [name for row in all_rows() for name in (row.code, *row.names) if not name.isdigit()]
        near = did_you_mean(code, names) or did_you_mean(code.upper(), names)
        raise click.UsageError(
            f"{quoted(code)} is not in the table of failure codes"
            f"{near or '; `faillog-otel explain` lists all'}"
        )
    if as_json:
        print_json({"reasons": rows})
    elif code is None:
        print_lines(_table(rows))
    else:
        for row in rows:
            print_lines(_explained(row))


def _table(rows: "Iterable[ReasonRow]") -> Iterator[str]:
    from faillog_otel.reasons import CLASSES

    for reason_class in CLASSES:
        yield click.style(reason_class, bold=True)
        for row in rows:
            if row.reason_class == reason_class:
                yield from _wrapped(", ".join((row.code, *row.names)), "  ")
                yield from _wrapped(row.meaning, "      ")
                yield from _wrapped(row.remedy, "      ")
        yield ""


def _explained(row: "ReasonRow") -> Iterator[str]:
    retries = "Segment retries" if row.retryable else "Segment does not retry"
    also = f" (also {', '.join(row.names)})" if row.names else ""
    yield click.style(f"{row.code}{also}", bold=True)
    for label, text in (
        ("class", f"{row.reason_class}; {retries}"),
        ("from", row.where),
        ("meaning", row.meaning),
        ("do", row.remedy),
    ):
        yield from _wrapped(text, f"  {label:<9}", " " * 11)


def _wrapped(text: str, first: str, rest: str | None = None) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 100, initial_indent=first, subsequent_indent=rest or first)
