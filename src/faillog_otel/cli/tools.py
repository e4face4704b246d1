"""The commands `ids` and `redact`, for one message and for files."""

import json
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from faillog_otel import propagation
from faillog_otel.cli.inspect import print_json
from faillog_otel.cli.options import read_layers, setting_options
from faillog_otel.otlp.rules import origin_of
from faillog_otel.telemetry.output import say_error

if TYPE_CHECKING:
    from faillog_otel.events.model import BadRecord, Place
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
