"""`faillog-otel simulate`: a Segment of one's own, for CI."""

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faillog_otel.app.summary import RunResult
    from faillog_otel.config import RunConfig
    from faillog_otel.sandbox.config import SimulatedClock, SimulatorConfig
    from faillog_otel.sandbox.server import Simulator


START_NS = 1_746_669_600 * 1_000_000_000
"""2025-05-08T02:00:00Z."""
HOURS_LATER = (0, 4, 20)
"""When the demo polls: so many hours after it polled before. The readings of an hour come 2, 6 and 26 hours
after its end."""


INTRODUCTION = """\
This demo polls a simulated Segment three times within a simulated day, and forwards what it finds to a
collector in this process. Nothing leaves this machine. The warnings are part of the demo.
"""
NEXT_STEPS = """\
faillog-otel demo --all                                  shows every trace
faillog-otel run FILE --protocol console                 shows failure logs of your own like this
faillog-otel run FILE --endpoint http://localhost:4318   forwards them to a collector
faillog-otel doctor                                      checks your setup before you poll Segment
"""


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
        _segment() as segment,
        Receiver(lambda _signal, _body: next(busy, None)) as receiver,
    ):
        state = str(Path(folder, "state"))
        config = _demo_config(segment, receiver.http_endpoint, state)
        logging.getLogger("faillog_otel.sandbox").setLevel(logging.WARNING)  # one side is enough
        start_logging(verbosity=1, log_format="text", stream=sys.stdout)
        codes = set()
        results = []
        for hours in HOURS_LATER:
            segment.clock.forward(hours * 3600)
            click.secho(f"— it is {time_text(segment.clock.now_ns())}: run --once", bold=True)
            result = poll(config, once=True, clock=segment.clock)
            codes.add(result.exit_code)
            results.append(result)
            click.echo(summary_text(result.summary()) + "\n")
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
        click.secho("— what you saw", bold=True)
        click.echo(_overview(results, len(trees)))
    click.secho("— what to do next", bold=True)
    click.echo(NEXT_STEPS, nl=False)
    ctx.exit(max(codes - {Exit.QUARANTINED}))  # the broken lines are meant to be


def _overview(results: "Sequence[RunResult]", trees: int) -> str:
    """The results of all runs, in sentences."""
    counts = [result.counts for result in results]
    records, exported = (sum(getattr(each, name) for each in counts) for name in ("records", "exported"))
    quarantined = sum(each.quarantined for each in counts)
    logs, spans = (sum(getattr(result.sent, signal) for result in results) for signal in ("logs", "traces"))
    return f"""\
{len(results)} runs read {records} records. {exported} were sent as {logs} log records and {spans} spans.
{quarantined} are in quarantine, because their lines are truncated.
The records make {trees} trees: a message, its delivery attempts, and the exchanges that they link to.
The quota (429), a download that broke off and a busy collector (503) caused retries.
"""


def _segment() -> "Simulator":
    """A collection whose destination failed for two hours, on a clock that stands until it is moved."""
    from faillog_otel.sandbox.config import Scripted, SimulatedClock, SimulatorConfig, WorldConfig
    from faillog_otel.sandbox.server import Simulator

    world = WorldConfig(
        seed=129, collections=("shop-mixpanel",), messages=3, damage=0.004, growth=("append",)
    )
    segment = Simulator(SimulatorConfig(world=world), SimulatedClock(START_NS, standing=True))
    segment.faults.script(Scripted(fault="listing:429-retry-after"), Scripted(fault="download:reset"))
    return segment


def _demo_config(segment: "Simulator", endpoint: str, state: str) -> "RunConfig":
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


_T = TypeVar("_T")

_SIMULATE_HELP = """Simulate Segment's failure-log API on this machine: to try a set-up, or to test it in CI.

    Made-up collections with 28 days of failures, the same for the same --seed: quiet hours and incidents,
    records that show up 1-2 hours late, hours that go on growing, presigned URLs that expire after two
    hours, 120 requests a day, and whatever faults you ask for.

    \b
      faillog-otel simulate --port 8901 --download-port 8902 --token simulated-token --manifest truth.jsonl &
      SEGMENT_TOKEN=simulated-token faillog-otel run --once --since -24h --collection shop-mixpanel \\
        --segment-url http://127.0.0.1:8901 --download-host 127.0.0.1:8902

    When it is ready it prints one line, a JSON object: segment_url, download_host, token, collections,
    control. It answers until SIGINT or SIGTERM, writes the manifest, and exits with 0. The manifest has a
    JSON line for every record of every object that was listed: collection, hour, sha256 of the record's
    bytes, whether it is damaged, when it became available, where it stood. All that was listed must
    arrive, nothing else may.

    Applications can send it messages, as to Segment: the host of an SDK is segment_url, any write key does.
    Each message fails for some four hours in every collection, from the simulated time at which it came:

    \b
      curl $segment_url/v1/track -u key: -d '{"userId": "u", "event": "e", "messageId": "my-message"}'

    It listens on loopback only. Whoever can reach that can also move its clock and script faults, without
    the token:

    \b
      curl $control/clock -d '{"forward_seconds": 3600}'    # or {"now": "2025-05-07T23:00:00Z"}
      curl $control/faults -d '[{"fault": "listing:503", "nth": 2}]'  # also collection, hour, times
      curl $control/manifest; curl $control/requests; curl $control/quota; curl $control/tracked
"""


@click.command(short_help="Simulate Segment's API, for your own CI.", help=_SIMULATE_HELP)
@click.option("--seed", type=int, default=1, show_default=True, help="Decides everything that is made up.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The API's.  [default: any free one]")
@click.option(
    "--download-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Where the objects lie.  [default: any free one]",
)
@click.option("--token", help="The token to accept.  [default: made up, and printed]")
@click.option(
    "--collection",
    "collections",
    metavar="ID",
    multiple=True,
    help="A collection (repeatable).  [default: shop-mixpanel, shop-braze, shop-webhooks]",
)
@click.option(
    "--messages",
    type=float,
    default=20.0,
    show_default=True,
    help="Failing messages of a usual hour, on average over the collections; each has several events.",
)
@click.option(
    "--start", metavar="TIME", help="The clock starts there (RFC 3339) and runs on.  [default: now]"
)
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
    help="What objects may look like.",
)
@click.option(
    "--dialect",
    type=click.Choice(["draft", "page", "mixed"]),
    default="mixed",
    show_default=True,
    help="How records are written: as the first draft of Segment's page, as the page now, or mixed.",
)
@click.option("--damage", type=float, default=0.0, metavar="RATE", help="So many lines are cut off.")
@click.option(
    "--duplicates", type=float, default=0.0, metavar="RATE", help="So many records come once more later."
)
@click.option(
    "--dead", type=int, default=0, metavar="N", help="So many objects a day can never be downloaded."
)
@click.option("--quota", type=int, default=120, show_default=True, help="Requests a day, or in a window.")
@click.option(
    "--replenish",
    type=click.Choice(["hourly", "midnight", "rolling", "window"]),
    default="hourly",
    show_default=True,
    help="How requests come back.",
)
@click.option(
    "--window",
    metavar="DURATION",
    default="60s",
    show_default=True,
    help="How long a window is, with --replenish window.",
)
@click.option("--no-limit-headers", is_flag=True, help="Successful answers say nothing about the quota.")
@click.option(
    "--refusal",
    metavar="LIST",
    default="body",
    show_default=True,
    help="How 429s say until when to wait, in turns: body, retry-after, retry-after-date, both, none, html.",
)
@click.option("--retry-after", is_flag=True, help="Say Retry-After when the quota is used up.")
@click.option(
    "--form",
    type=click.Choice(["either", "query", "body", "body-only"]),
    default="either",
    show_default=True,
    help="Where a request's arguments are looked for; body-only refuses a query with 415.",
)
@click.option(
    "--fault",
    "faults",
    metavar="NAME=RATE",
    multiple=True,
    help="A fault and how often it happens, such as listing:503=0.05 (repeatable); a wrong NAME lists all.",
)
@click.option("--manifest", metavar="FILE", help="Write there, in the end, what was promised.")
@click.option("-v", "--verbose", count=True, help="Log requests on standard error.")
@click.pass_context
def simulate(ctx: click.Context, /, **flags: Any) -> None:
    """Reads the options and serves."""
    import json
    from pathlib import Path

    import msgspec

    from faillog_otel.app.signals import Shutdown
    from faillog_otel.errors import ConfigError
    from faillog_otel.sandbox.server import Simulator
    from faillog_otel.telemetry.output import start_logging

    start_logging(flags["verbose"], "text")
    manifest = Path(flags["manifest"]) if flags["manifest"] else None
    if manifest is not None:
        try:
            manifest.write_bytes(b"")  # what cannot be written is better known now than in the end
        except OSError as error:
            raise ConfigError(f"--manifest {manifest}: {error.strerror}") from None
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
                raise ConfigError(f"--manifest {manifest}: {error.strerror}") from None
    ctx.exit(0)


def _simulator_config(flags: dict[str, Any]) -> "SimulatorConfig":
    """Raises ConfigError."""
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
        seed=flags["seed"],
        collections=flags["collections"] or COLLECTIONS,
        messages=flags["messages"],
        growth=tuple(_chosen("--growth", flags["growth"], GROWTHS)),
        formats=tuple(_chosen("--formats", flags["formats"], FORMATS)),
        dialect=flags["dialect"],
        damage=flags["damage"],
        duplicates=flags["duplicates"],
        dead=flags["dead"],
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
        world=world,
        quota=quota,
        token=flags["token"],
        port=flags["port"],
        download_port=flags["download_port"],
        faults=dict(map(_fault, flags["faults"])),
        form=flags["form"],
    )


def _chosen(option: str, text: str, choices: tuple[_T, ...]) -> list[_T]:
    by_name = {str(choice): choice for choice in choices}
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in by_name:
            raise click.UsageError(f"{option}: {name!r} is none of {', '.join(by_name)}")
    return [by_name[name] for name in names]


def _fault(text: str) -> tuple[str, float]:
    name, _, rate = text.partition("=")
    try:
        return name, float(rate)
    except ValueError:
        raise click.UsageError(f"--fault {text}: give NAME=RATE, such as listing:503=0.05") from None


def _clock(start: str | None) -> "SimulatedClock":
    """Raises ConfigError."""
    from faillog_otel.errors import ConfigError
    from faillog_otel.sandbox.config import SimulatedClock
    from faillog_otel.setting_values import parse_moment

    if start is None:
        return SimulatedClock()
    try:
        return SimulatedClock(parse_moment(start).ns(time.time_ns()))
    except ConfigError as error:
        raise ConfigError(f"--start: {error}") from None
