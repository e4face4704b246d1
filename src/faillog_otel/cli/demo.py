"""`faillog-otel demo`: everything on this machine, nothing to configure."""

import logging
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from faillog_otel.config import RunConfig
    from faillog_otel.segment.simulator.server import Simulator

START_NS = 1_746_669_600 * 1_000_000_000
"""2025-05-08T02:00:00Z."""
HOURS_LATER = (0, 4, 20)
"""When the demo polls: so many hours after it polled before. The readings of an hour come 2, 6 and 26 hours
after its end."""


@click.command(short_help="Try it: a simulated Segment, polled, forwarded and shown as trees.")
@click.option("--all", "show_all", is_flag=True, help="Show every trace, not only some.")
@click.pass_context
def demo(ctx: click.Context, /, show_all: bool) -> None:  # noqa: FBT001  # click hands over its flags by name
    """Poll a simulated Segment for a day, on a clock that is moved, and show what arrived.

    Everything is the real thing, over real connections, but for Segment and the collector, which are in this
    process. On the way Segment says 429, a download breaks off, the collector is busy for a moment, and an
    hour goes on growing after it was read; some lines in it are broken. Then come the traces, `status` and
    `audit`.
    """
    import tempfile
    from pathlib import Path

    from faillog_otel.cli.audit import show_audit
    from faillog_otel.cli.polling import poll
    from faillog_otel.cli.report import Exit, summary_text
    from faillog_otel.cli.status import show_status
    from faillog_otel.cli.streams import CLOSED_PIPE, is_output_closed
    from faillog_otel.clock import time_text
    from faillog_otel.events.printable import printable
    from faillog_otel.otlp.receiver import Receiver, Reply
    from faillog_otel.otlp.tree import trace_trees
    from faillog_otel.telemetry.logs import start_logging

    busy = iter([Reply(503, headers={"retry-after": "0"})])
    with (
        tempfile.TemporaryDirectory() as folder,
        _segment() as segment,
        Receiver(lambda _signal, _body: next(busy, None)) as receiver,
    ):
        state = str(Path(folder, "state"))
        config = _config(segment, receiver.http_endpoint, state)
        logging.getLogger("faillog_otel.segment.simulator").setLevel(logging.WARNING)  # one side is enough
        start_logging(verbosity=1, log_format="text", stream=sys.stdout)
        codes = set()
        for hours in HOURS_LATER:
            segment.clock.forward(hours * 3600)
            click.secho(f"— it is {time_text(segment.clock.now_ns())}: run --once", bold=True)
            ended = poll(config, once=True, clock=segment.clock)
            codes.add(ended["exit"])
            click.echo(summary_text(ended) + "\n")
            if is_output_closed():
                ctx.exit(CLOSED_PIPE)
        trees = trace_trees(receiver.spans(), receiver.logs())
        longest = {len(tree.lines): tree for tree in trees}
        shown = trees if show_all else [longest[length] for length in sorted(longest)[-3:]]
        for tree in shown:
            click.echo("\n".join(map(printable, tree.lines)) + "\n")
        if len(shown) < len(trees):
            click.echo(f"... and {len(trees) - len(shown)} more traces (--all shows them)\n")
        click.secho("— status", bold=True)
        show_status(config, segment.clock.now_ns())
        click.echo()
        click.secho("— audit", bold=True)
        codes.add(show_audit(config))
        click.echo()
    ctx.exit(max(codes - {Exit.QUARANTINED}))  # the broken lines are meant to be


def _segment() -> "Simulator":
    """A collection whose destination failed for two hours, on a clock that stands until it is moved."""
    from faillog_otel.segment.simulator.clock import SimulatedClock
    from faillog_otel.segment.simulator.config import SimulatorConfig, WorldConfig
    from faillog_otel.segment.simulator.faults import Scripted
    from faillog_otel.segment.simulator.server import Simulator

    world = WorldConfig(
        seed=129, collections=("shop-mixpanel",), messages=3, damage=0.004, growth=("append",)
    )
    segment = Simulator(SimulatorConfig(world=world), SimulatedClock(START_NS, standing=True))
    segment.faults.script(Scripted(fault="listing:429-retry-after"), Scripted(fault="download:reset"))
    return segment


def _config(segment: "Simulator", endpoint: str, state: str) -> "RunConfig":
    from faillog_otel.resolve import resolve
    from faillog_otel.segment.generator import DESTINATIONS
    from faillog_otel.settings import Layer, MappingSettings, OtlpSettings, RunSettings, SegmentSettings

    settings = Layer(
        otlp=OtlpSettings(endpoint=endpoint),
        mapping=MappingSettings(
            destination_names={destination.id: destination.name for destination in DESTINATIONS}
        ),
        segment=SegmentSettings(
            url=segment.url,
            token=segment.token,
            collections=list(segment.config.world.collections),
            since="2025-05-07T22:00:00Z",
            until="2025-05-08T00:00:00Z",
            download_hosts=[segment.download_host],
        ),
        run=RunSettings(state_dir=state),
    )
    return resolve([settings])
