"""What the fetcher writes: nothing without work; for each object, a file and an index of its exchanges."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from faillog_otel.clock import HOUR_NS, SECOND_NS, SegmentClock
from faillog_otel.config import Secret
from faillog_otel.ledger import MAX_INDEX_BYTES
from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.ledger.spool import Spool
from faillog_otel.pipeline import requests
from faillog_otel.pipeline.fetcher import Fetcher
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.config import SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.download import Downloader
from faillog_otel.segment.hours import ScheduleConfig

START_NS = 490_000 * HOUR_NS + 7 * 60 * SECOND_NS


@contextmanager
def fetching(ledger: SqliteLedger, segment: Simulator) -> Iterator[Fetcher]:
    schedule = ScheduleConfig(segment.config.world.collections, START_NS - 7 * HOUR_NS)
    fetcher = Fetcher(
        ledger=ledger,
        spool=Spool(ledger.folder.spool),
        segment=SegmentApi(segment.url, lambda: Secret(segment.token), "tests"),
        downloader=Downloader([segment.download_host], "tests"),
        schedule=lambda _: schedule,
        clock=SegmentClock(segment.clock),
        is_stopping=lambda: False,
        max_content_bytes=2**30,
        requests_per_day=120,
    )
    with closing(fetcher):
        yield fetcher


def steps(fetcher: Fetcher) -> int:
    """Makes steps until there is nothing to do; returns how many did something."""
    done = 0
    while fetcher.step() is None:
        done += 1
    return done


@contextmanager
def write_lock(ledger: SqliteLedger) -> Iterator[None]:
    """Another connection writes to the ledger: here, only reading is possible."""
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_a_step_without_work_takes_no_write_lock(ledger: SqliteLedger) -> None:
    world = WorldConfig(collections=("shop",), messages=5.0, seed=3)
    clock = SimulatedClock(START_NS, standing=True)
    with Simulator(SimulatorConfig(world=world), clock) as segment, fetching(ledger, segment) as fetcher:
        assert steps(fetcher) > 3
        with write_lock(ledger):
            assert steps(fetcher) == 0
            assert fetcher.lacks_room is None
        clock.move_to(START_NS + 3 * HOUR_NS)
        assert steps(fetcher) > 0


@pytest.mark.parametrize(("max_bytes", "ends"), [(MAX_INDEX_BYTES, {"", ".exchanges"}), (0, {""})])
def test_an_object_gets_an_index_unless_it_has_too_many_exchanges(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch, max_bytes: int, ends: set[str]
) -> None:
    """Without one, it is indexed when it is forwarded. Its records are counted in any case."""
    monkeypatch.setattr(requests, "MAX_INDEX_BYTES", max_bytes)
    world = WorldConfig(collections=("shop",), messages=200.0, seed=3)
    clock = SimulatedClock(START_NS, standing=True)
    with Simulator(SimulatorConfig(world=world), clock) as segment, fetching(ledger, segment) as fetcher:
        steps(fetcher)
    spooled = ledger.next_spooled()
    assert spooled
    assert spooled.records > 100
    names = (path.name for path in ledger.folder.spool_path.iterdir())
    assert {name for name in names if name.split(".")[0] == str(spooled.id)} == {
        f"{spooled.id}{end}" for end in ends
    }
