"""`faillog-otel ids`: in which trace the deliveries of a message stand; and messageIds that carry one."""

import json

import click

from faillog_otel import propagation
from faillog_otel.cli.output import say_error
from faillog_otel.otlp.origin import origin_of


@click.command(short_help="Show the trace of a message, or make a messageId.")
@click.argument("message_id", required=False)
@click.option("--new", "is_new", is_flag=True, help="Print a fresh messageId that carries a trace context.")
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
    """Print, as one JSON object, the trace in which the deliveries of MESSAGE_ID stand.

    `trace_id` is 32 hex characters. `origin` says where it comes from: the messageId carries it
    (`message_id`, `message_id_compact`), or it is computed from the messageId (`derived`). `parent_span_id`
    is the application's span under which they stand, where it is known and was sampled, else null. (All
    with `--join parent`, the default.)

    With --new it prints one fresh messageId, and nothing else: it carries the given or the current
    traceparent; without a valid one, a fresh random trace id.
    """
    is_given = ctx.get_parameter_source("traceparent") is click.core.ParameterSource.COMMANDLINE
    if is_new == (message_id is not None):
        raise click.UsageError("either MESSAGE_ID, or --new")
    if message_id is None:
        click.echo(_fresh(traceparent, is_given=is_given, compact=compact))
    elif compact or is_given:
        raise click.UsageError("--traceparent and --compact go with --new")
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
            say_error(f"TRACEPARENT: {error}: a fresh trace id instead")
    return propagation.message_id(compact=compact)
