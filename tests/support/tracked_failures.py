"""A Segment that fails what it was sent, hours later, and one poll of that by the installed program."""

import shutil
import time
from pathlib import Path

from faillog_otel.clock import HOUR_NS
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.config import Growth, SimulatedClock, SimulatorConfig, WorldConfig
from support.collector import endpoint_in
from support.program import Done, run_program
from support.server import Server

HOURS_AGO = 8
ATTEMPTS = 8
RECORDS = 2 * ATTEMPTS + 2
"""Each attempt has an exchange; an error stands at the beginning, and one at the end: discarded."""
COLLECTION = "shop-mixpanel"


def segment_hours_ago(growth: Growth) -> Simulator:
    """By a clock that is hours behind; nothing fails but what is tracked."""
    world = WorldConfig(collections=(COLLECTION,), messages=0.0, growth=(growth,))
    clock = SimulatedClock(time.time_ns() - HOURS_AGO * HOUR_NS)
    return Simulator(SimulatorConfig(world=world), clock)


def move_to_now(segment: Simulator) -> None:
    """Now: all attempts were made, and are in the files."""
    segment.clock.move_to(time.time_ns())


def poll(segment: Simulator, collector: Server, folder: Path) -> Done:
    """As docs/guides/simulate.md says; what it remembers is new each time."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    done = run_program(
        *("run", "--once", "--since", f"-{HOURS_AGO + 1}h", "--collection", COLLECTION),
        *("--segment-url", segment.url, "--download-host", segment.download_host),
        *("--endpoint", endpoint_in(collector.said, "HTTP"), "--state-dir", "state", "--summary", "json"),
        cwd=folder,
        SEGMENT_TOKEN=segment.token,
    )
    assert done.code == 0, done.stderr
    return done
