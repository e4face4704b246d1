"""The commands `demo` and `simulate`: a simulated Segment to watch, and one for CI."""

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from faillog_otel.app.summary import RunResult
    from faillog_otel.config import RunConfig
    from faillog_otel.errors import ConfigError
    from faillog_otel.sandbox import Simulator
    from faillog_otel.sandbox.config import SimulatedClock, SimulatorConfig

START_NS = 1_746_669_600 * 1_000_000_000
"""When the demo begins: 2025-05-08T02:00:00Z."""
HOURS_LATER = (0, 4, 20)
"""The hours between the demo's polls: an hour is read 2, 6 and 26 hours after its end."""

NEXT_STEPS = {
    "show a failure log": "faillog-otel run FILE --protocol console",
    "send it to a collector": "faillog-otel run FILE --endpoint http://localhost:4318",
    "poll a simulated workspace": "faillog-otel simulate --help",
    "check your own setup": "SEGMENT_TOKEN=... faillog-otel doctor --collection ID",
    "poll your own workspace": "SEGMENT_TOKEN=... faillog-otel run --collection ID",
}

INTRODUCTION = """\
This demo polls a simulated Segment three times within a simulated day, and forwards what it finds to a
collector in this process. Nothing leaves this machine. The warnings are part of the demo.
"""


@click.command(short_help="Poll a simulated Segment, and show the traces. Needs no setup.")
@click.option("--all", "show_all", is_flag=True, help="Show every trace, not only some.")
@click.pass_context
def demo(ctx: click.Context, /, show_all: bool) -> None:  # noqa: FBT001  # click hands over its flags by name
    """Poll a simulated Segment for a simulated day, and show the traces that arrive.

    Segment and the collector are simulated in this process; the connections are real. On the way, Segment
    answers 429, a download breaks off, the collector is busy for a moment, an hour grows after it was read,
    and some lines are truncated. At the end, it prints traces, `status`, `audit` and what to do next.
    """
    click.echo(INTRODUCTION)
    import tempfile
    from pathlib import Path

    from faillog_otel.app.run_sidecar import poll
    from faillog_otel.app.summary import Exit, summary_text
    from faillog_otel.cli.inspect import show_audit, show_status
    from faillog_otel.clock import time_text
    from faillog_otel.otlp.writers import trace_trees
    from faillog_otel.sandbox.collector import Receiver, Reply
    from faillog_otel.telemetry.output import CLOSED_PIPE, is_output_closed, start_logging
    from faillog_otel.text import printable

    busy = iter([Reply(503, headers={"retry-after": "0"})])
    with (
        tempfile.TemporaryDirectory() as folder,
        _demo_segment() as segment,
        Receiver(lambda _signal, _body: next(busy, None)) as receiver,
    ):
        state = str(Path(folder, "state"))
        config = _demo_config(segment, receiver.http_endpoint, state)
        # The poller logs the same requests.
        logging.getLogger("faillog_otel.sandbox").setLevel(logging.WARNING)
        start_logging(verbosity=1, log_format="text", stream=sys.stdout)
        results = []
        for number, hours in enumerate(HOURS_LATER, 1):
            segment.clock.forward(hours * 3600)
            now = time_text(segment.clock.now_ns())
            click.secho(f"— run --once, {number} of {len(HOURS_LATER)}; simulated time: {now}", bold=True)
            results.append(poll(config, once=True, clock=segment.clock))
            click.echo(summary_text(results[-1].summary()) + "\n")
            if is_output_closed():
                ctx.exit(CLOSED_PIPE)
        trees = trace_trees(receiver.spans(), receiver.logs())
        longest = {len(tree.lines): tree for tree in trees}
        click.secho("— traces", bold=True)
        shown = trees if show_all else [longest[length] for length in sorted(longest)[-3:]]
        for tree in shown:
            click.echo("\n".join(map(printable, tree.lines)) + "\n")
        if len(shown) < len(trees):
            click.echo(f"... and {len(trees) - len(shown)} more traces (--all shows them)\n")
        click.secho("— status", bold=True)
        show_status(config, segment.clock.now_ns())
        click.secho("\n— audit", bold=True)
        codes = {show_audit(config), *(result.exit_code for result in results)}
        click.secho("\n— what you saw", bold=True)
        click.echo(_overview(results, len(trees)))
    click.secho("— what to do next", bold=True)
    for what, how in NEXT_STEPS.items():
        click.echo(f"{what:<26}  {how}")
    ctx.exit(max(codes - {Exit.QUARANTINED}))  # the truncated lines belong in the quarantine


def _demo_segment() -> "Simulator":
    """Returns a Segment whose destination fails for two hours, with a clock that only the demo moves."""
    from faillog_otel.sandbox import Simulator
    from faillog_otel.sandbox.config import Scripted, SimulatedClock, SimulatorConfig, WorldConfig

    world = WorldConfig(
        seed=129, collections=("shop-mixpanel",), messages=3, damage=0.004, growth=("append",)
    )
    segment = Simulator(SimulatorConfig(world=world), SimulatedClock(START_NS, standing=True))
    segment.faults.script(Scripted(fault="listing:429-retry-after"), Scripted(fault="download:reset"))
    return segment


def _demo_config(segment: "Simulator", endpoint: str, state: str) -> "RunConfig":
    """Returns the settings of the demo's runs. `state` is the state folder."""
    from faillog_otel.sandbox.generator import DESTINATIONS
    from faillog_otel.settings import BY_PATH
    from faillog_otel.sources import Layer, resolve

    values = {
        "otlp.endpoint": endpoint,
        "mapping.destination_names": {destination.id: destination.name for destination in DESTINATIONS},
        "segment.url": segment.url,
        "segment.token": segment.token,
        "segment.collections": list(segment.config.world.collections),
        "segment.since": "2025-05-07T22:00:00Z",
        "segment.until": "2025-05-08T00:00:00Z",
        "segment.download_hosts": [segment.download_host],
        "run.state_dir": state,
    }
    parsed = {path: BY_PATH[path].parse(value, path) for path, value in values.items()}
    return resolve([Layer("demo", parsed)])


def _overview(results: "Sequence[RunResult]", trees: int) -> str:
    """Returns the results of all runs, in sentences."""
    read, sent, quarantined = (
        sum(getattr(result.counts, name) for result in results)
        for name in ("records", "exported", "quarantined")
    )
    logs, spans = (sum(getattr(result.sent, signal) for result in results) for signal in ("logs", "traces"))
    return f"""\
{len(results)} runs read {read} records, and sent {sent} of them as {logs} log records and {spans} spans.
{quarantined} are in the quarantine, because their lines are truncated.
The records form {trees} trees: a message, its delivery attempts, and the exchanges that they link to.
The quota (429), a download that broke off and a busy collector (503) caused retries.
"""


_T = TypeVar("_T")

_SIMULATE_HELP = """Simulate Segment's failure-log API, to try a setup or to test it in CI.

    It has collections with 28 days of generated failures, the same for the same --seed: quiet hours and
    incidents, records that appear 1-2 hours late, hours that grow, presigned URLs that expire after two
    hours, 120 requests a day, and the faults you ask for.

    \b
      faillog-otel simulate --port 8901 --download-port 8902 --token simulated-token --manifest truth.jsonl &
      SEGMENT_TOKEN=simulated-token faillog-otel run --once --since -24h --collection shop-mixpanel \\
        --segment-url http://127.0.0.1:8901 --download-host 127.0.0.1:8902

    When it is ready, it prints one line, a JSON object: segment_url, download_host, token, collections,
    control. On SIGINT or SIGTERM it writes the manifest and exits with 0. The manifest has a JSON line for
    each record of each object that was listed: its collection, its hour, the sha256 of its bytes, whether it
    is damaged, and more. Every listed record must arrive, or be quarantined if it is damaged.

    Applications can send messages to it: set the host of an SDK to segment_url, and use any write key. Each
    message fails for about four hours in every collection, from the simulated time at which it arrives:

    \b
      curl $segment_url/v1/track -u key: -d '{"userId": "u", "event": "e", "messageId": "my-message"}'

    It listens on loopback only. Every process that can connect can also move its clock and script faults,
    without the token:

    \b
      curl $control/clock -d '{"forward_seconds": 3600}'    # or {"now": "2025-05-07T23:00:00Z"}
      curl $control/faults -d '[{"fault": "listing:503", "nth": 2}]'  # also collection, hour, object, times
      curl $control/manifest; curl $control/requests; curl $control/quota; curl $control/tracked
"""


@click.command(short_help="Simulate Segment's API, for CI.", help=_SIMULATE_HELP)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of all generated data.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port of the API.  [default: a free one]"
)
@click.option(
    "--download-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the downloads.  [default: a free one]",
)
@click.option("--token", help="Token to accept.  [default: generated, and printed]")
@click.option(
    "--collection",
    "collections",
    metavar="ID",
    multiple=True,
    help="Collection (repeatable).  [default: shop-mixpanel, shop-braze, shop-webhooks]",
)
@click.option(
    "--messages",
    type=float,
    default=20.0,
    show_default=True,
    help="Failing messages in a usual hour, on average over the collections; each has several events.",
)
@click.option("--start", metavar="TIME", help="Time at which the clock starts (RFC 3339).  [default: now]")
@click.option(
    "--growth",
    metavar="LIST",
    default="append,rewrite,repack",
    show_default=True,
    help="How hours grow; collections take turns.",
)
@click.option(
    "--formats",
    metavar="LIST",
    default="gzip,jsonl,zstd,array",
    show_default=True,
    help="Formats of the objects.",
)
@click.option(
    "--dialect",
    type=click.Choice(["draft", "page", "mixed"]),
    default="mixed",
    show_default=True,
    help="How records are written: as in the first draft of Segment's page, as in the page now, or mixed.",
)
@click.option("--damage", type=float, default=0.0, metavar="RATE", help="Fraction of lines to truncate.")
@click.option(
    "--duplicates",
    type=float,
    default=0.0,
    metavar="RATE",
    help="Fraction of records to repeat in a later part of their hour.",
)
@click.option(
    "--dead",
    type=int,
    default=0,
    metavar="N",
    help="Objects a day whose download always fails.  [default: 0]",
)
@click.option("--quota", type=int, default=120, show_default=True, help="Requests a day, or in a window.")
@click.option(
    "--replenish",
    type=click.Choice(["hourly", "midnight", "rolling", "window"]),
    default="hourly",
    show_default=True,
    help="How the quota is refilled: a part each hour, all at midnight UTC, each request after 24 hours, or "
    "all when a window ends.",
)
@click.option(
    "--window",
    metavar="DURATION",
    default="60s",
    show_default=True,
    help="Length of a window, with --replenish window.",
)
@click.option("--no-limit-headers", is_flag=True, help="Send no quota headers.")
@click.option(
    "--refusal",
    metavar="LIST",
    default="body",
    show_default=True,
    help="How 429s name the time to wait, in turns: body, retry-after, retry-after-date, both, none, html.",
)
@click.option("--retry-after", is_flag=True, help="Send Retry-After with a 429, too.")
@click.option(
    "--form",
    type=click.Choice(["either", "query", "body", "body-only"]),
    default="either",
    show_default=True,
    help="Where to look for a listing's arguments; body-only refuses a query with 415.",
)
@click.option(
    "--fault",
    "faults",
    metavar="NAME=RATE",
    multiple=True,
    help="Fault and its rate, such as listing:503=0.05 (repeatable); a wrong NAME lists all names.",
)
@click.option("--manifest", metavar="FILE", help="File for the manifest, written on exit.")
@click.option("-v", "--verbose", count=True, help="Log requests on standard error.")
@click.pass_context
def simulate(ctx: click.Context, /, **flags: Any) -> None:
    """Runs the simulator until a signal arrives. Its help is `_SIMULATE_HELP`."""
    import json
    from pathlib import Path

    import msgspec

    from faillog_otel.app.signals import Shutdown
    from faillog_otel.sandbox import Simulator
    from faillog_otel.telemetry.output import start_logging

    start_logging(flags["verbose"], "text")
    manifest = Path(flags["manifest"]) if flags["manifest"] else None
    if manifest is not None:
        try:
            manifest.write_bytes(b"")  # fail now rather than on exit
        except OSError as error:
            raise _not_writable(manifest, error) from None
    with Shutdown() as shutdown, Simulator(_simulator_config(flags), _clock(flags["start"])) as segment:
        ready = {
            "segment_url": segment.url,
            "download_host": segment.download_host,
            "token": segment.token,
            "collections": list(segment.config.world.collections),
            "control": segment.control_url.rstrip("/"),
        }
        click.echo(json.dumps(ready))
        while not shutdown.wait(3600.0):
            pass
        if manifest is not None:
            try:
                with manifest.open("wb") as file:
                    file.writelines(msgspec.json.encode(each) + b"\n" for each in segment.manifest())
            except OSError as error:
                raise _not_writable(manifest, error) from None
    ctx.exit(0)


def _not_writable(manifest: "Path", error: OSError) -> "ConfigError":
    from faillog_otel.errors import ConfigError

    return ConfigError(f"--manifest {manifest} is not writable: {error.strerror}; choose another file")


def _simulator_config(flags: dict[str, Any]) -> "SimulatorConfig":
    """The simulator's settings. Raises ConfigError for a value that is not valid."""
    from faillog_otel.sandbox.config import (
        COLLECTIONS,
        FORMATS,
        GROWTHS,
        REFUSALS,
        QuotaConfig,
        SimulatorConfig,
        WorldConfig,
    )
    from faillog_otel.setting_values import parse_duration

    world = WorldConfig(
        **{name: flags[name] for name in ("seed", "messages", "dialect", "damage", "duplicates", "dead")},
        collections=flags["collections"] or COLLECTIONS,
        growth=tuple(_chosen("--growth", flags["growth"], GROWTHS)),
        formats=tuple(_chosen("--formats", flags["formats"], FORMATS)),
    )
    quota = QuotaConfig(
        per_day=flags["quota"],
        replenish=flags["replenish"],
        window_seconds=parse_duration(flags["window"]),
        headers=not flags["no_limit_headers"],
        refusals=tuple(_chosen("--refusal", flags["refusal"], REFUSALS)),
        retry_after=flags["retry_after"],
    )
    return SimulatorConfig(
        **{name: flags[name] for name in ("token", "port", "download_port", "form")},
        world=world,
        quota=quota,
        faults=dict(map(_fault, flags["faults"])),
    )


def _chosen(option: str, text: str, choices: tuple[_T, ...]) -> list[_T]:
    by_name = {str(choice): choice for choice in choices}
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in by_name:
            raise click.UsageError(f"{option}: unknown {name!r}; use {', '.join(by_name)}")
    return [by_name[name] for name in names]


def _fault(text: str) -> tuple[str, float]:
    name, _, rate = text.partition("=")
    try:
        return name, float(rate)
    except ValueError:
        raise click.UsageError(
            f"--fault {text} has no rate; give NAME=RATE, such as listing:503=0.05"
        ) from None


def _clock(start: str | None) -> "SimulatedClock":
    """A clock that starts at a time, or now. Raises ConfigError for an invalid time."""
    from faillog_otel.errors import ConfigError
    from faillog_otel.sandbox.config import SimulatedClock
    from faillog_otel.setting_values import parse_moment

    if start is None:
        return SimulatedClock()
    try:
        return SimulatedClock(parse_moment(start).ns(time.time_ns()))
    except ConfigError as error:
        raise ConfigError(f"--start: {error}") from None
