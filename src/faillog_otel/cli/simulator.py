"""The command `simulate`: a simulated Segment for CI."""

import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pathlib import Path

    from faillog_otel.errors import ConfigError
    from faillog_otel.sandbox.config import SimulatedClock, SimulatorConfig
    from faillog_otel.sandbox.incidents import Incident

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
      curl $control/failures    # the messages that failed, by incident and destination

    It also serves names, Segment's own counts of events, and audit events. Say how messages end that arrive
    later (deliver, filter, lose, discard:STATUS, recover:ATTEMPTS), and add changes of the workspace:

    \b
      curl $control/outcomes -d '[{"outcome": "recover:3", "event": "Order Completed"}]'
      curl $control/changes -d '[{"id": "1", "timestamp": "2025-05-07T23:00:00Z", "resourceId": "…",
        "type": "Destination Modified"}]'

    Inject failures of your own with --incident; --messages 0 leaves out all others:

    \b
      faillog-otel simulate --messages 0 --incident shop-braze=wrong-key:-6h.. --incident-messages 200
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
@click.option(
    "--incident",
    "incidents",
    metavar="ID=KIND:START..END",
    multiple=True,
    help="Failure to inject into a collection (repeatable). KIND: down, wrong-key, bad-mapping, rate-limit "
    "or slow-network. Times: RFC 3339, or such as -6h; without END it goes on.",
)
@click.option(
    "--incident-messages",
    type=float,
    default=20.0,
    show_default=True,
    help="Failing messages in an hour of an incident.",
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
@click.option(
    "--sources",
    type=int,
    default=1,
    show_default=True,
    help="Sources of the workspace; collections belong to them in turns.",
)
@click.option(
    "--traffic",
    type=int,
    default=0,
    show_default=True,
    help="Messages in an hour of each source that are delivered everywhere, beside those that fail.",
)
@click.option(
    "--lacks",
    type=click.Choice(["counts", "changes", "subscriptions"]),
    multiple=True,
    help="What the workspace does not have (repeatable): counts of events, audit events, subscriptions.",
)
@click.option(
    "--lies",
    metavar="ID",
    multiple=True,
    help="Destination whose failed and retried deliveries are counted as none (repeatable).",
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
    clock = _clock(flags["start"])
    with Shutdown() as shutdown, Simulator(_simulator_config(flags, clock.now_ns()), clock) as segment:
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


def _simulator_config(flags: dict[str, Any], now_ns: int) -> "SimulatorConfig":
    """The simulator's settings. Raises ConfigError for a value that is not valid.

    `now_ns`: the simulator's time, which relative times are relative to.
    """
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
        **{name: flags[name] for name in ("seed", "messages", "incident_messages", "dialect")},
        **{name: flags[name] for name in ("damage", "duplicates", "dead", "sources", "traffic")},
        incidents=tuple(_incident(text, now_ns) for text in flags["incidents"]),
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
        **{name: flags[name] for name in ("token", "port", "download_port", "form", "lacks", "lies")},
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


def _incident(text: str, now_ns: int) -> "Incident":
    """The incident in `ID=KIND:START..END`; without an end, it does not end."""
    from faillog_otel.errors import ConfigError
    from faillog_otel.sandbox.incidents import INCIDENT_KINDS, Incident
    from faillog_otel.setting_values import parse_moment

    collection, equals, rest = text.partition("=")
    name, colon, window = rest.partition(":")
    start, dots, end = window.partition("..")
    if not (equals and colon and dots):
        raise click.UsageError(
            f"--incident {text} is not complete; give ID=KIND:START..END, such as shop-braze=down:-6h..-3h, "
            "or ID=KIND:START.. without an end"
        )
    kind = next((each for each in INCIDENT_KINDS if each == name), None)
    if kind is None:
        raise click.UsageError(f"--incident {text}: unknown {name!r}; use {', '.join(INCIDENT_KINDS)}")
    try:
        start_ns = parse_moment(start).ns(now_ns)
        return Incident(collection, kind, start_ns, parse_moment(end).ns(now_ns) if end else None)
    except ConfigError as error:
        raise ConfigError(f"--incident {text}: {error}") from None


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
