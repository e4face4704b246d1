"""Days of polling in simulated time: the real program, once an hour, against a simulated Segment.

What it spends and how long it waits is behaviour: it is counted by the simulated clock.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner, Result

from faillog_otel.cli import cli
from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, hour_of, parse_rfc3339, time_text
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.config import QuotaConfig, SimulatedClock, SimulatorConfig, WorldConfig

START_NS = 490_000 * HOUR_NS + 7 * 60 * SECOND_NS
EVENT_NAMES = {
    "Error Logged": "segment.error",
    "Delivery Attempt Logged": "segment.attempt",
    "Destination Exchange Logged": "segment.exchange",
}
COMPLETE_AFTER_HOURS = 12
"""From the start of an hour: all of its records have shown up."""


class QuotaRun:
    """The program, its state folder, Segment and a collector."""

    def __init__(self, segment: Simulator, receiver: Receiver, folder: Path) -> None:
        [self.collection] = segment.config.world.collections
        self.segment = segment
        self.receiver = receiver
        self.state = folder / "state"

    def run(self, *args: str, command: str = "run") -> Result:
        """A command at Segment's time, in this process: its waits take no time."""
        env = {"FAILLOG_STATE_DIR": str(self.state), "SEGMENT_TOKEN": self.segment.token}
        done = CliRunner().invoke(cli, [command, *args], obj=self.segment.clock, env=env)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def poll(self, *args: str) -> Result:
        """`run --once`."""
        return self.run("--once", *self._hosts, *args)

    def replay(self, *args: str) -> Result:
        """`replay` of hours."""
        return self.run(*self._hosts, *args, command="replay")

    @property
    def _hosts(self) -> list[str]:
        hosts = ["--segment-url", self.segment.url, "--download-host", self.segment.download_host]
        return [*hosts, "--endpoint", self.receiver.http_endpoint, "--collection", self.collection]

    def poll_every(self, hours: int, days: float, *args: str) -> None:
        """`run --once` every so many hours, as cron starts it."""
        clock = self.segment.clock
        end_ns = clock.now_ns() + int(days * DAY_NS)
        while clock.now_ns() < end_ns:
            assert self.poll("-q", *args).exit_code in (0, 6)
            clock.move_to((hour_of(clock.now_ns()) + hours) * HOUR_NS)

    def readable(self, since_ns: int, until_ns: int) -> set[str]:
        """The records that could be downloaded, of hours that began in between, by their ids."""
        return {
            record_uid(record.raw)
            for hour in range(hour_of(since_ns) + 1, hour_of(until_ns))
            for stored in self.segment.world.objects(
                self.collection, hour, (hour + COMPLETE_AFTER_HOURS) * HOUR_NS
            )
            if self.segment.world.death(stored) is None
            for record in stored.records
        }

    def dead(self, since_ns: int, until_ns: int) -> int:
        """How many objects can never be downloaded, of hours that began in between."""
        return sum(
            self.segment.world.death(stored) is not None
            for hour in range(hour_of(since_ns) + 1, hour_of(until_ns))
            for stored in self.segment.world.objects(
                self.collection, hour, (hour + COMPLETE_AFTER_HOURS) * HOUR_NS
            )
        )

    def exported(self) -> set[str]:
        """The ids of the records that arrived."""
        return {
            attribute.value.string_value
            for log in self.receiver.logs()
            for attribute in log.attributes
            if attribute.key == "log.record.uid"
        }

    def listings(self, *, granted: bool = True) -> list[int]:
        """When hours were asked for, nanoseconds since 1970; `granted`: only what was answered with URLs."""
        return [
            parse_rfc3339(each.at) or 0
            for each in self.segment.requests()
            if each.origin == "api" and each.method == "POST" and (each.status == 200 or not granted)
        ]

    def status(self) -> dict[str, object]:
        """What `status --json` says."""
        found: dict[str, object] = json.loads(self.run("--json", command="status").stdout)
        return found


@contextmanager
def quota_run(
    folder: Path,
    quota: QuotaConfig,
    *,
    dead: int = 0,
    messages: float = 1.0,
    faults: Mapping[str, float] | None = None,
    seed: int = 5,
    collection: str = "shop",
) -> Iterator[QuotaRun]:
    """Starts Segment and a collector."""
    world = WorldConfig(
        collections=(collection,), messages=messages, dead=dead, growth=("append",), seed=seed
    )
    config = SimulatorConfig(world=world, quota=quota, faults=dict(faults or {}))
    clock = SimulatedClock(START_NS, standing=True)
    with Simulator(config, clock) as segment, Receiver() as receiver:
        yield QuotaRun(segment, receiver, folder)


def ago(hours: float) -> str:
    """A time so long before the start, as an option takes it."""
    return time_text(START_NS - int(hours * HOUR_NS))


def record_uid(raw: bytes) -> str:
    """The `log.record.uid` of a record, by the formula of docs/concepts/ids.md."""
    name = EVENT_NAMES[json.loads(raw)["event"]]
    return hashlib.sha256(name.encode() + b"\n" + raw).hexdigest()[:32]
