"""`faillog-otel ids`: in which trace the deliveries of a message stand."""

import json

import click

from faillog_otel import propagation


@click.command(short_help="Show the trace id of a message.")
@click.argument("message_id")
def ids(message_id: str) -> None:
    """Print, as one JSON object, the trace in which the deliveries of MESSAGE_ID stand.

    `trace_id` is 32 hex characters, `origin` says where it comes from (`derived`: computed from the
    messageId), `parent_span_id` is the application's span where it is known, else null.
    """
    try:
        trace_id = propagation.trace_id_of(message_id)
    except UnicodeEncodeError:
        raise click.UsageError("MESSAGE_ID is not UTF-8") from None
    click.echo(json.dumps({"trace_id": trace_id, "origin": "derived", "parent_span_id": None}))
