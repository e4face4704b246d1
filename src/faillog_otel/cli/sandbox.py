"""The command `demo`: polls a simulated Segment in this process, and shows what arrives."""

import logging
import sys
import textwrap
from datetime import UTC
from typing import TYPE_CHECKING

import click

from faillog_otel.clock import DAY_NS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faillog_otel.app.summary import RunResult
    from faillog_otel.config import RunConfig
    from faillog_otel.otlp.trees import TraceTree
    from faillog_otel.sandbox import Simulator

START_NS = 1_746_669_600 * 1_000_000_000
"""When the demo begins: 2025-05-08T02:00:00Z."""
HOURS_LATER = (0, 4, 20)
"""The hours between the demo's polls: an hour is read 2, 6 and 26 hours after its end."""
REQUESTS_PER_DAY = 240
"""The quota of the simulated workspace: with it, each hour of three collections is read that often."""
MAX_TREE_LINES = 16
WIDTH = 100
"""Columns of what it prints, so that it fits on two screens."""

NEXT_STEPS = {
    "show a failure log": "faillog-otel run FILE --protocol console",
    "send it to a collector": "faillog-otel run FILE --endpoint http://localhost:4318",
    "poll a simulated workspace": "faillog-otel simulate --help",
    "check your own setup": "SEGMENT_TOKEN=... faillog-otel doctor --collection ID",
    "poll your own workspace": "SEGMENT_TOKEN=... faillog-otel run --collection ID",
}

INTRODUCTION = """\
This demo polls a simulated Segment three times within a simulated day, and forwards what it finds
to a collector in this process. Nothing leaves this machine. One destination is down for two hours,
one has a wrong key, and one refuses what a wrong mapping sends. The warnings are part of the demo.
"""


@click.command(short_help="Poll a simulated Segment, and show what fails. Needs no setup.")
@click.option("--all", "show_all", is_flag=True, help="Show every trace, not only some.")
@click.pass_context
def demo(ctx: click.Context, /, show_all: bool) -> None:  # noqa: FBT001  # click hands over its flags by name
    """Poll a simulated Segment for a simulated day, and show what fails.

    Segment and the collector are simulated in this process; the connections are real. One destination is
    down for two hours, one has a wrong key, and one refuses events because of a wrong mapping. On the way,
    Segment answers 429, a download breaks off, the collector is busy for a moment, hours grow after they were
    read, and some lines are truncated. At the end, it prints traces, what fails and why, and what to do next.
    """
    click.echo(INTRODUCTION)
    import tempfile
    from pathlib import Path

    from faillog_otel.app.run_sidecar import poll
    from faillog_otel.app.summary import Exit, summary_text
    from faillog_otel.cli.inspect import show_audit
    from faillog_otel.clock import time_text
    from faillog_otel.otlp.trees import trace_trees
    from faillog_otel.sandbox.collector import Receiver, Reply
    from faillog_otel.telemetry.output import CLOSED_PIPE, is_output_closed, start_logging

    busy = iter([Reply(503, headers={"retry-after": "0"})])
    with (
        tempfile.TemporaryDirectory() as folder,
        _demo_segment() as segment,
        Receiver(lambda _signal, _body: next(busy, None)) as receiver,
    ):
        config = _demo_config(segment, receiver.http_endpoint, state=str(Path(folder, "state")))
        # The poller logs the same requests.
        logging.getLogger("faillog_otel.sandbox").setLevel(logging.WARNING)
        start_logging(verbosity=0, log_format="text", stream=_Wrapped())
        results = []
        for number, hours in enumerate(HOURS_LATER, 1):
            segment.clock.forward(hours * 3600)
            now = time_text(segment.clock.now_ns())
            click.secho(f"— run --once, {number} of {len(HOURS_LATER)}; simulated time: {now}", bold=True)
            results.append(poll(config, once=True, clock=segment.clock))
            click.echo(summary_text(results[-1].summary()) + "\n")
            if is_output_closed():
                ctx.exit(CLOSED_PIPE)
        trees = trace_trees(receiver.spans(), receiver.logs(), UTC)
        click.secho("— traces", bold=True)
        _show_trees(trees, show_all=show_all)
        show_failures(config, segment.clock.now_ns())
        click.secho("— audit", bold=True)
        codes = {show_audit(config, brief=True), *(result.exit_code for result in results)}
        click.secho("\n— what you saw", bold=True)
        click.echo(_overview(results, len(trees)))
    click.secho("— what to do next", bold=True)
    for what, how in NEXT_STEPS.items():
        click.echo(f"{what:<26}  {how}")
    ctx.exit(max(codes - {Exit.QUARANTINED}))  # the truncated lines belong in the quarantine


def show_failures(config: "RunConfig", now_ns: int) -> None:
    """Prints what fails, and the path of the same as a page, which stays."""
    import os
    import tempfile
    from pathlib import Path

    from faillog_otel.app.page import report_page
    from faillog_otel.files import replace_file
    from faillog_otel.reports.failures import View, Window, failures_report
    from faillog_otel.reports.failures_text import Style, failures_text
    from faillog_otel.reports.load import load
    from faillog_otel.text import is_unicode

    click.secho("— failures", bold=True)
    loaded = load(config, (), None, now_ns, now_ns)
    window = Window(since_ns=loaded.since_ns, until_ns=now_ns, now_ns=now_ns, new_within_ns=DAY_NS)
    view = View(names=loaded.names, links=config.links)
    found = failures_report(loaded.sums, view, window)
    style = Style(width=WIDTH, is_ascii=not is_unicode(sys.stdout.encoding), hyperlinks=False)
    for line in failures_text(found, loaded.covers, style):
        click.echo(line)
    file = str(Path(tempfile.gettempdir(), f"faillog-otel-demo-{os.getuid()}.html"))
    replace_file(file, report_page(config, loaded, view, window, is_of_files=False).encode())
    click.echo(f"the same as a page: {file}\n")


def _demo_segment() -> "Simulator":
    """Returns a Segment whose three destinations fail, with a clock that only the demo moves."""
    from faillog_otel.clock import HOUR_NS
    from faillog_otel.sandbox import Simulator
    from faillog_otel.sandbox.config import (
        COLLECTIONS,
        QuotaConfig,
        Scripted,
        SimulatedClock,
        SimulatorConfig,
        WorldConfig,
    )
    from faillog_otel.sandbox.incidents import Incident

    first_ns = START_NS - 4 * HOUR_NS
    mixpanel, braze, webhooks = COLLECTIONS
    incidents = (
        Incident(mixpanel, "down", first_ns, first_ns + 2 * HOUR_NS),
        Incident(braze, "wrong-key", first_ns + HOUR_NS // 4),
        Incident(webhooks, "bad-mapping", first_ns + HOUR_NS),
    )
    world = WorldConfig(
        seed=138,
        messages=0,
        incidents=incidents,
        damage=0.006,
        growth=("append",),
        dialect="page",
    )
    simulator = SimulatorConfig(world=world, quota=QuotaConfig(per_day=REQUESTS_PER_DAY))
    segment = Simulator(simulator, SimulatedClock(START_NS, standing=True))
    segment.faults.script(Scripted(fault="listing:429-retry-after"), Scripted(fault="download:reset"))
    return segment


def _demo_config(segment: "Simulator", endpoint: str, *, state: str) -> "RunConfig":
    """Returns the settings of the demo's runs. `state` is the state folder."""
    from faillog_otel.settings import BY_PATH
    from faillog_otel.sources import Layer, resolve

    values = {
        "otlp.endpoint": endpoint,
        "segment.url": segment.url,
        "segment.token": segment.token,
        "segment.requests_per_day": REQUESTS_PER_DAY,
        "segment.collections": list(segment.config.world.collections),
        "segment.since": "2025-05-07T22:00:00Z",
        "segment.until": "2025-05-08T00:00:00Z",
        "segment.download_hosts": [segment.download_host],
        "run.state_dir": state,
    }
    parsed = {path: BY_PATH[path].parse(value, path) for path, value in values.items()}
    return resolve([Layer("demo", parsed)])


def _show_trees(trees: "Sequence[TraceTree]", *, show_all: bool) -> None:
    """Prints all trees, or the longest one and the longest one of another destination, as wide as WIDTH."""
    from faillog_otel.text import printable

    shown = list(trees)
    if not show_all:
        longest = max(trees, key=lambda tree: len(tree.lines))
        others = [tree for tree in trees if tree.destination not in (None, longest.destination)]
        shown = [longest, max(others, key=lambda tree: len(tree.lines))]
    for tree in shown:
        lines = [*map(printable, tree.lines)]
        click.echo("\n".join(lines if show_all else map(_cut, _shortened(lines))) + "\n")
    if len(shown) < len(trees):
        click.echo(f"... and {len(trees) - len(shown)} more traces (--all shows them)\n")


def _shortened(lines: "Sequence[str]") -> "Sequence[str]":
    """Returns the first and the last lines of a long tree."""
    if len(lines) <= MAX_TREE_LINES:
        return lines
    return [*lines[: MAX_TREE_LINES - 7], "│  ...", *lines[-6:]]


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


class _Wrapped:
    """Standard output, for log lines that are wider than WIDTH."""

    def write(self, text: str) -> None:
        for line in text.splitlines():
            click.echo(textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False))

    def flush(self) -> None:
        sys.stdout.flush()


def _overview(results: "Sequence[RunResult]", trees: int) -> str:
    """Returns the results of all runs, in sentences."""
    read, sent, quarantined = (
        sum(getattr(result.counts, name) for result in results)
        for name in ("records", "exported", "quarantined")
    )
    logs, spans = (sum(getattr(result.sent, signal) for result in results) for signal in ("logs", "traces"))
    return f"""\
{len(results)} runs read {read} records, and sent {sent} of them as {logs} log records and {spans} spans.
{quarantined} records are in the quarantine, because their lines are truncated.
The records form {trees} trees: a message, its delivery attempts, and the exchanges that they link to.
The quota (429), a download that broke off and a busy collector (503) caused retries.
"""
