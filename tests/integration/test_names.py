"""Names from Segment: read page by page within their own limits; a failure costs nothing but the names."""

import json
import re
import signal
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support.quota_run import START_NS, QuotaRun, ago
from support.sidecar import segment_simulator, sidecar, sidecar_options
from support.tiers import slow, swept

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS
from faillog_otel.config import Secret
from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.pipeline.names import RETRY_NS, UNKNOWN_PAUSE_NS, NameRefresh, UnknownIds
from faillog_otel.pipeline.readings import READ_SECONDS
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver, Reply
from faillog_otel.sandbox.config import CATALOGUE, Scripted, SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.sandbox.destinations import DESTINATIONS, SOURCE_ID
from faillog_otel.segment.api import SegmentApi

MIXPANEL = DESTINATIONS[0]
FAULTS = [name for name in CATALOGUE if name.startswith("names:")]
ALL = len(DESTINATIONS) + 1 + sum(each.subscription_id is not None for each in DESTINATIONS)
"""Destinations, one source, and subscriptions."""
TRANSIENT = {"names:429", "names:slow"}


@pytest.fixture(autouse=True, scope="module")
def no_counts() -> Iterator[None]:
    """They ask for sources, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAILLOG_SEGMENT_COUNTS", "false")
        yield


def paths(segment: Simulator) -> list[str]:
    """The requests for names, in their order."""
    asked = [each.path for each in segment.requests() if (each.origin, each.method) == ("api", "GET")]
    return [path for path in asked if path != "/"]


# -- reading ---------------------------------------------------------------------------------------------


class Refreshing:
    """The part of the program that reads names, against a simulated Segment on a standing clock."""

    def __init__(self, ledger: SqliteLedger, **config: Any) -> None:
        self.ledger = ledger
        self.clock = SimulatedClock(START_NS, standing=True)
        self.segment = Simulator(SimulatorConfig(**config), self.clock)
        self.unknown = UnknownIds()
        self.api = SegmentApi(self.segment.url, lambda: Secret(self.segment.token), "tests")
        self.start()

    def start(self, read_seconds: float = READ_SECONDS) -> None:
        """The next run."""
        self.refresh = NameRefresh(
            ledger=self.ledger,
            segment=self.api,
            clock=self.clock,
            unknown=self.unknown,
            is_stopping=lambda: False,
            read_seconds=read_seconds,
        )

    def step(self, after_ns: int = 0) -> int:
        """What the fetcher does at each step while no hour is due; returns the number of requests."""
        before = len(paths(self.segment))
        self.clock.forward(after_ns / SECOND_NS)
        self.refresh.read_if_due(self.clock.now_ns())
        self.refresh.go_on()
        return len(paths(self.segment)) - before


@contextmanager
def refreshing(ledger: SqliteLedger, **config: Any) -> Iterator[Refreshing]:
    found = Refreshing(ledger, **config)
    with found.segment, closing(found.api):
        yield found


@pytest.mark.parametrize(("size", "pages"), [(1000, 2), (2, 3 + 1), (5, 2), (1, 5 + 1)])
def test_all_pages_are_read(ledger: SqliteLedger, size: int, pages: int) -> None:
    with refreshing(ledger, names_per_page=size) as found:
        assert found.step() == pages + len(DESTINATIONS)
        assert found.segment.quota.max_in_24_hours == 0
    names = ledger.names()
    assert {each.id for each in DESTINATIONS} | {SOURCE_ID} < names.keys()
    assert len(names) == ALL
    mixpanel = names[MIXPANEL.id]
    assert (mixpanel.name, mixpanel.product, mixpanel.source) == (
        *("Mixpanel (prod)", "Mixpanel (Actions)"),
        SOURCE_ID,
    )
    assert names[MIXPANEL.subscription_id or ""].source == MIXPANEL.id


def test_names_are_read_once_a_day_also_by_runs_that_end(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        assert found.step()
        assert found.step(23 * HOUR_NS) == 0
        found.start()
        assert found.step() == 0
        assert found.step(HOUR_NS) > 0
        assert ledger.note_names(ledger.names().values(), found.clock.now_ns()) == 0


def test_a_clock_that_was_ahead_does_not_end_reading(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.clock.forward(400 * 86_400)
        assert found.step()
        found.start()
        assert found.step(-400 * DAY_NS)


def test_an_unknown_id_is_looked_for_once_an_hour(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.step()
        found.unknown.add(MIXPANEL.id)
        assert found.step(UNKNOWN_PAUSE_NS) == 0  # it is known by now
        found.unknown.add("new")
        assert found.step(UNKNOWN_PAUSE_NS) > 0
        for _ in range(10):
            found.unknown.add("new")
            assert found.step(UNKNOWN_PAUSE_NS) == 0
        found.unknown.add("new")
        assert found.step(RETRY_NS) > 0


def test_names_have_a_rate_limit_of_their_own(ledger: SqliteLedger) -> None:
    """Nothing is requested before the end of the pause that Segment asks for; then it goes on."""
    with refreshing(ledger, names_per_minute=3) as found:
        assert found.step() == 4
        assert [each.status for each in found.segment.requests()] == [200, 200, 200, 429]
        assert found.step(59 * SECOND_NS) == 0
        assert found.step(SECOND_NS) == 4
        assert found.step(60 * SECOND_NS) == 1
        assert len(ledger.names()) == ALL
        assert found.segment.quota.max_in_24_hours == 0


def test_a_workspace_without_subscriptions_is_not_asked_again_that_day(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.segment.faults.script(Scripted(fault="names:403", nth=3))
        assert found.step() == 3
        assert found.step(23 * HOUR_NS) == 0
        assert len(ledger.names()) == len(DESTINATIONS) + 1


def test_a_slow_answer_does_not_hold_up_a_listing(ledger: SqliteLedger) -> None:
    with refreshing(ledger, slow_seconds=2 * READ_SECONDS) as found:
        found.start(read_seconds=0.2)
        found.segment.faults.script(Scripted(fault="names:slow"))
        assert found.step() == 1
        assert ledger.names() == {}
        assert found.step(RETRY_NS) > 1
    assert len(ledger.names()) == ALL


def test_a_refusal_is_one_warning_in_a_run(ledger: SqliteLedger, caplog: pytest.LogCaptureFixture) -> None:
    with refreshing(ledger, faults={"names:403": 1.0}) as found:
        assert found.step() == 2
        assert found.step(23 * HOUR_NS) == 0
        assert found.step(HOUR_NS) == 2
    said = [each.levelname for each in caplog.records if "give the token access" in each.getMessage()]
    assert said == ["WARNING"]


def test_personal_data_in_a_name_is_redacted_before_it_is_kept(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.segment.rename(MIXPANEL.id, "Mixpanel of jane@shop.example")
        found.step()
    assert ledger.names()[MIXPANEL.id].name == "Mixpanel of [redacted:email]"


# -- runs ------------------------------------------------------------------------------------------------


@contextmanager
def polling(
    folder: Path, *, script: Any = None, faults: Mapping[str, float] | None = None
) -> Iterator[QuotaRun]:
    world = WorldConfig(collections=("shop",), messages=3.0, growth=("append",), seed=5)
    config = SimulatorConfig(world=world, faults=dict(faults or {}), slow_seconds=0.1)
    with (
        Simulator(config, SimulatedClock(START_NS, standing=True)) as segment,
        Receiver(script or (lambda _signal, _body: None)) as receiver,
    ):
        yield QuotaRun(segment, receiver, folder)


def shown_names(found: QuotaRun) -> dict[str, set[str]]:
    """Destination's id → the names of its attempts' spans."""
    shown: dict[str, set[str]] = {}
    for span in found.receiver.spans():
        values = {each.key: each.value.string_value for each in span.attributes}
        if values["segment.event"] == "segment.attempt":
            assert values["messaging.destination.name"] == values["segment.destination.id"]
            shown.setdefault(values["segment.destination.id"], set()).add(span.name)
    return shown


def records(found: QuotaRun) -> set[bytes]:
    return {
        each.SerializeToString(deterministic=True)
        for each in (*found.receiver.logs(), *found.receiver.spans())
    }


def warnings(done: Result) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith(("warning", "error"))]


def test_spans_have_the_names_that_people_gave_their_destinations(tmp_path: Path) -> None:
    with polling(tmp_path) as found:
        done = found.poll("--since", ago(12))
        assert done.exit_code == 0
        assert warnings(done) == []
        assert shown_names(found) == {MIXPANEL.id: {"deliver Mixpanel (prod)"}}
        status: Any = found.status()["names"]
        assert (status["known"], status["problem"], status["renamed"]) == (ALL, "", [])


def test_a_rename_is_in_later_objects_only_and_in_the_status(tmp_path: Path) -> None:
    with polling(tmp_path) as found:
        found.poll("--since", ago(12))
        found.segment.rename(MIXPANEL.id, "Mixpanel (old)")
        found.segment.clock.forward(86_400)
        found.receiver.received.clear()
        found.poll("--since", ago(12))
        assert shown_names(found)[MIXPANEL.id] == {"deliver Mixpanel (old)"}
        status: Any = found.status()["names"]
        [renamed] = status["renamed"]
        assert (renamed["before"], renamed["after"]) == ("Mixpanel (prod)", "Mixpanel (old)")
        assert "renamed       Mixpanel (prod) → Mixpanel (old), " in found.run(command="status").stdout


def test_names_of_the_settings_go_before_those_of_segment(tmp_path: Path) -> None:
    config = tmp_path / "faillog.toml"
    config.write_text(f'[mapping.destination_names]\n"{MIXPANEL.id}" = "Mine"\n')
    with polling(tmp_path) as found:
        found.poll("--since", ago(12), "--config", str(config))
        names = {span.name for span in found.receiver.spans()}
    assert "deliver Mine" in names
    assert not any("prod" in name for name in names)


@pytest.fixture(scope="module")
def without_names(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[bytes], int]:
    """The records and the number of listings of a run that reads no names."""
    folder = tmp_path_factory.mktemp("without")
    config = folder / "faillog.toml"
    config.write_text("[segment]\nnames = false\n")
    with polling(folder) as found:
        done = found.poll("--since", ago(12), "--config", str(config))
        assert (done.exit_code, paths(found.segment)) == (0, [])
        return records(found), len(found.listings())


@pytest.mark.parametrize("fault", swept(FAULTS, {"names:403", "names:wrong-shape"}))
def test_without_names_the_records_are_those_of_a_run_that_reads_none(
    tmp_path: Path, fault: str, without_names: tuple[set[bytes], int]
) -> None:
    """One warning that says what to do, the same exit code, the same listings."""
    with polling(tmp_path, faults={fault: 1.0}) as found:
        done = found.poll("--since", ago(12))
        listings = len(found.listings())
        quota: Any = found.status()["quota"]
        problem = found.status()["names"]["problem"]  # type: ignore[index]
        got = records(found)
    assert done.exit_code == 0
    assert listings == without_names[1] == quota["used"]
    if fault in TRANSIENT:  # slow is not too slow, and a 429 says when to ask again
        assert warnings(done) == []
        assert (got == without_names[0]) == (fault == "names:429")
        return
    assert got == without_names[0]
    [warning] = warnings(done)
    assert re.search(r"no permission .*; give the token|names are not read: .*; next attempt after", warning)
    assert problem


# -- later tries -----------------------------------------------------------------------------------------


def sent(receiver: Receiver) -> dict[tuple[str, bytes], set[bytes]]:
    """Signal and id of each record that was sent, taken or not → its bytes."""
    found: dict[tuple[str, bytes], set[bytes]] = {}
    for each in receiver.received:
        for resource in getattr(each.request(), f"resource_{'logs' if each.signal == 'logs' else 'spans'}"):
            if each.signal == "logs":
                for record in (log for scope in resource.scope_logs for log in scope.log_records):
                    [uid] = [one.value for one in record.attributes if one.key == "log.record.uid"]
                    key = ("logs", uid.string_value.encode())
                    found.setdefault(key, set()).add(record.SerializeToString(deterministic=True))
            else:
                for span in (one for scope in resource.scope_spans for one in scope.spans):
                    key = ("traces", span.trace_id + span.span_id)
                    found.setdefault(key, set()).add(span.SerializeToString(deterministic=True))
    return found


@slow
def test_a_rename_between_two_tries_changes_no_byte(tmp_path: Path) -> None:
    """The process is killed while it tries to send; then the destination has another name."""
    is_away = True

    def script(_signal: str, _body: bytes) -> Reply | None:
        return Reply(503) if is_away else None

    with segment_simulator("shop") as segment, Receiver(script) as receiver:
        options = sidecar_options(segment, receiver)
        with sidecar(options, tmp_path) as first:
            first.wait_for("names: read 5 destinations")
            first.wait_for("503")
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
        tried = sent(receiver)
        assert tried
        for each in DESTINATIONS:
            segment.rename(each.id, "Renamed")
        with closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite3")) as db, db:
            spooled = db.execute("SELECT count(*) FROM objects WHERE state = 'spooled'").fetchone()[0]
            db.execute("DELETE FROM facts WHERE name = 'names'")  # as if a day had passed
        assert spooled
        is_away = False
        with sidecar([*options, "--once"], tmp_path) as second:
            second.wait_for("changes")
            assert second.process.wait(60) == 0
        again = sent(receiver)
        with closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite3")) as db:
            names = {name for (name,) in db.execute("SELECT name FROM names WHERE kind = 'destination'")}
    assert "Renamed" in names
    assert tried.keys() < again.keys()
    assert all(len(again[key]) == 1 for key in tried)


def test_a_kept_record_is_sent_again_with_the_name_that_it_had(tmp_path: Path) -> None:
    """The collector refuses one record at first; later the destination is renamed and the record replayed."""
    refused: set[bytes] = set()

    def script(signal: str, body: bytes) -> Reply | None:
        return Reply(400) if signal == "logs" and b"segment.error" in body and not refused else None

    with polling(tmp_path, script=script) as found:
        assert found.poll("--since", ago(12)).exit_code == 3
        tried = sent(found.receiver)
        with closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite3")) as db:
            entries = [json.loads(entry) for (entry,) in db.execute("SELECT entry FROM kept")]
        assert {each["context"]["destination_name"] for each in entries} == {"Mixpanel (prod)"}
        for each in DESTINATIONS:
            found.segment.rename(each.id, "Renamed")
        found.segment.clock.forward(86_400)
        refused.add(b"no more")
        taken = len(found.receiver.received)
        done = found.run("--endpoint", found.receiver.http_endpoint, command="replay")
        assert done.exit_code == 0, done.stderr
        assert len(found.receiver.received) > taken
        again = sent(found.receiver)
    assert tried.keys() == again.keys()
    assert all(len(each) == 1 for each in again.values())
