"""Completeness of a polling program, against the simulator's own truth."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.quota_run import START_NS, QuotaRun

from faillog_otel.clock import DAY_NS, HOUR_NS, hour_of, hour_text, parse_rfc3339
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.config import SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.sandbox.incidents import Incident

COLLECTION = "shop-mixpanel"
INCIDENTS = (
    Incident(COLLECTION, "wrong-key", START_NS - 40 * HOUR_NS, START_NS - 34 * HOUR_NS),
    Incident(COLLECTION, "down", START_NS - 12 * HOUR_NS, START_NS - 5 * HOUR_NS),
    Incident(COLLECTION, "bad-mapping", START_NS + 6 * HOUR_NS, START_NS + 9 * HOUR_NS),
)
SINCE_NS = START_NS - 2 * DAY_NS
SINCE = ("--since", hour_text(hour_of(SINCE_NS)))


@contextmanager
def simulated(folder: Path, dead: int = 0) -> Iterator[QuotaRun]:
    world = WorldConfig(collections=(COLLECTION,), messages=4.0, incidents=INCIDENTS, dead=dead, seed=5)
    clock = SimulatedClock(START_NS, standing=True)
    with Simulator(SimulatorConfig(world=world), clock) as segment, Receiver() as receiver:
        yield QuotaRun(segment, receiver, folder)


def truth(run: QuotaRun) -> Counter[int]:
    """Hour of occurrence → discards."""
    found: Counter[int] = Counter()
    for hour in range(hour_of(SINCE_NS) - 1, hour_of(run.segment.clock.now_ns()) + 1):
        for record in run.segment.world.records(run.collection, hour):
            own = json.loads(record.raw)["properties"]
            if own.get("discarded"):
                found[hour_of(parse_rfc3339(own["occurredAt"]) or 0)] += 1
    return found


def settled(run: QuotaRun) -> range:
    """The hours that completeness is about."""
    return range(hour_of(SINCE_NS), hour_of(run.segment.clock.now_ns() - 8 * HOUR_NS))


def report(run: QuotaRun, *command: str) -> Any:
    done = run.run(*command[1:], "--json", command=command[0])
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_completeness_is_that_of_the_truth(tmp_path: Path) -> None:
    with simulated(tmp_path) as run:
        run.poll_every(2, 1.25, *SINCE)
        found = report(run, "status")["collections"][run.collection]["completeness"]
        discards = truth(run)
        expected = sum(discards[hour] for hour in settled(run))
        of_failures = report(run, "failures")["completeness"]
    assert expected > 100
    assert found["counted"] == pytest.approx(expected, rel=0.005)
    assert found["read"] == pytest.approx(expected, rel=0.005)
    assert (found["unknown"], found["short"]) == (0, [])
    assert {name: of_failures[name] for name in ("counted", "read")} == {
        name: found[name] for name in ("counted", "read")
    }


def test_hours_whose_objects_cannot_be_read_are_short(tmp_path: Path) -> None:
    with simulated(tmp_path, dead=6) as run:
        run.poll_every(3, 1.0, *SINCE)
        status = report(run, "status")
        found = status["collections"][run.collection]
        discards = truth(run)
        dead = run.dead(SINCE_NS, run.segment.clock.now_ns() - 12 * HOUR_NS)
        mail = run.run("--replay-request", command="failures")
    assert dead
    complete = found["completeness"]
    assert complete["read"] < complete["counted"] * 0.995
    assert complete["short"]
    for each in complete["short"]:
        hour = hour_of(parse_rfc3339(each["hour"]) or 0)
        assert each["counted"] == pytest.approx(discards[hour], abs=1)
        assert each["read"] < each["counted"]
    assert "the cause of" in mail.stdout
