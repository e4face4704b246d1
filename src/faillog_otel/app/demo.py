"""The scene of the demo: a simulated workspace with an incident, the settings to poll it, and its summary."""

from collections.abc import Sequence

from faillog_otel.app.summary import RunResult
from faillog_otel.config import RunConfig
from faillog_otel.sandbox.config import Scripted, SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.sandbox.generator import DESTINATIONS
from faillog_otel.sandbox.server import Simulator
from faillog_otel.settings import BY_PATH
from faillog_otel.sources import Layer, resolve

START_NS = 1_746_669_600 * 1_000_000_000
"""2025-05-08T02:00:00Z."""
HOURS_LATER = (0, 4, 20)
"""The hours between the demo's polls: an hour is read 2, 6 and 26 hours after its end."""


def simulated_segment() -> Simulator:
    """A collection whose destination fails for two hours, on a clock that only the demo moves."""
    world = WorldConfig(
        seed=129, collections=("shop-mixpanel",), messages=3, damage=0.004, growth=("append",)
    )
    segment = Simulator(SimulatorConfig(world=world), SimulatedClock(START_NS, standing=True))
    segment.faults.script(Scripted(fault="listing:429-retry-after"), Scripted(fault="download:reset"))
    return segment


def demo_config(segment: Simulator, endpoint: str, state: str) -> RunConfig:
    """The settings of the demo's runs. `state` is the state folder."""
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


def overview(results: Sequence[RunResult], trees: int) -> str:
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
