"""A polling program with Segment's counts, where the quota is too small for all hours."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from support.quota_run import START_NS, ago

from faillog_otel.cli import cli
from faillog_otel.clock import HOUR_NS, hour_of, hour_text
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.config import QuotaConfig, SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.sandbox.destinations import destination_of
from faillog_otel.sandbox.incidents import Incident

COLLECTIONS = tuple(f"shop-{number}" for number in range(8))
QUOTA = QuotaConfig(per_day=24, replenish="rolling")
WRONG_KEY = Incident("shop-2", "wrong-key", START_NS - 20 * HOUR_NS, START_NS - 16 * HOUR_NS)
BAD_MAPPING = Incident("shop-5", "bad-mapping", START_NS - 13 * HOUR_NS, START_NS - 11 * HOUR_NS)


class Scouted:
    """The program with a configuration that names each collection's destination, and its Segment."""

    def __init__(self, segment: Simulator, receiver: Receiver, folder: Path) -> None:
        self.segment = segment
        self._receiver = receiver
        self._folder = folder
        world = segment.world
        destinations = {name: world.destinations[number].id for number, name in enumerate(COLLECTIONS)}
        lines = [f'{name} = "{destination}"' for name, destination in destinations.items()]
        self.config = folder / "faillog-otel.toml"
        self.config.write_text("\n".join(["[segment.collection_destinations]", *lines]), "utf-8")

    def run(self, command: str, *args: str) -> Result:
        env = {"FAILLOG_STATE_DIR": str(self._folder / "state"), "SEGMENT_TOKEN": self.segment.token}
        words = [command, "--config", str(self.config), *args]
        done = CliRunner().invoke(cli, words, obj=self.segment.clock, env=env)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def poll(self) -> None:
        hosts = ["--segment-url", self.segment.url, "--download-host", self.segment.download_host]
        names = [word for name in COLLECTIONS for word in ("--collection", name)]
        done = self.run(
            "run",
            "--once",
            "-q",
            *hosts,
            *names,
            "--since",
            ago(24),
            "--endpoint",
            self._receiver.http_endpoint,
        )
        assert done.exit_code in (0, 6), done.output

    def report(self, command: str) -> Any:
        return json.loads(self.run(command, "--json").stdout)

    def listed(self) -> list[tuple[str, int]]:
        """Collection, and how many hours before the start the hour began."""
        hours = {hour_text(hour_of(START_NS) - ago): ago for ago in range(-99, 99)}
        return [
            (each.collection, hours[each.hour])
            for each in self.segment.requests()
            if each.collection and each.hour and each.method == "POST"
        ]


@contextmanager
def scouted(folder: Path, incidents: Mapping[str, Incident], lies: tuple[int, ...] = ()) -> Iterator[Scouted]:
    world = WorldConfig(
        collections=COLLECTIONS, messages=0, incidents=tuple(incidents.values()), incident_messages=10, seed=3
    )
    ids = tuple(destination_of(number, world.sources).id for number in lies)
    clock = SimulatedClock(START_NS, standing=True)
    config = SimulatorConfig(world=world, quota=QUOTA, lies=ids)
    with Simulator(config, clock) as segment, Receiver() as receiver:
        yield Scouted(segment, receiver, folder)


def test_hours_with_counted_failures_are_listed_first(tmp_path: Path) -> None:
    with scouted(tmp_path, {"a": WRONG_KEY, "b": BAD_MAPPING}) as run:
        run.poll()
        listed = run.listed()
        plan = run.report("plan")
        status = run.report("status")
    failing = {("shop-2", ago) for ago in range(17, 21)} | {("shop-5", ago) for ago in range(12, 14)}
    probes = 4
    assert failing <= set(listed[: len(failing) + probes])
    assert status["scout"]["shop-2"]["hours"] == 0
    assert status["scout"]["shop-2"]["mistrust"] is None
    assert plan["waiting_zero"] > 50
    assert plan["missed_per_day"] == {}


def test_counts_that_are_wrong_are_found_and_said(tmp_path: Path) -> None:
    """Where the counts of a destination are zero, probes find its records."""
    long = Incident("shop-2", "wrong-key", START_NS - 60 * HOUR_NS, START_NS + 30 * HOUR_NS)
    with scouted(tmp_path, {"a": long}, lies=(2,)) as run:
        for hour in range(0, 24, 4):
            run.segment.clock.move_to(START_NS + hour * HOUR_NS)
            run.poll()
        said = run.report("status")["scout"]
        text = run.run("status").stdout
        reasons = {
            each["reason"] for each in run.report("plan")["requests"] if each["collection"] == "shop-2"
        }
    assert said["shop-2"]["mistrust"]["hours"] >= 1
    assert [name for name in said if said[name]["mistrust"]] == ["shop-2"]
    assert "records though Segment counted no failure" in text
    assert reasons <= {"counts are not trusted here", ""}
