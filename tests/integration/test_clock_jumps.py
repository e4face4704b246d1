"""A machine's clock that is wrong loses no record that Segment still has, and never exceeds the quota."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import WrongClock
from support.polled_folder import to_version_2
from support.server import unused_port
from support.tiers import slow, swept

from faillog_otel.cli import cli
from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, hour_of, time_text
from faillog_otel.errors import ConfigError
from faillog_otel.ledger import HOURS_KEPT_NS
from faillog_otel.sandbox import Simulator, http_date
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.config import QuotaConfig, SimulatedClock, SimulatorConfig, WorldConfig

START = 490_000 * HOUR_NS + 7 * 60 * SECOND_NS
END = START + 3 * HOUR_NS
"""Hours that begin later are asked for by few tests: each costs time."""
EVENT_NAMES = {
    "Error Logged": "segment.error",
    "Delivery Attempt Logged": "segment.attempt",
    "Destination Exchange Logged": "segment.exchange",
}
JUMPS = [sign * hours * HOUR_NS for hours in (1, 24, 40 * 24, 90 * 24) for sign in (1, -1)]
JUMP = pytest.mark.parametrize(
    "jump_ns", swept(JUMPS, [40 * DAY_NS]), ids=lambda jump_ns: f"{jump_ns // HOUR_NS:+} h"
)


class Scene:
    """Segment, a collector, and a machine whose clock may be wrong."""

    def __init__(self, segment: Simulator, receiver: Receiver, folder: Path) -> None:
        self.segment = segment
        self.receiver = receiver
        self.state = folder / "state"
        self.clock = WrongClock(segment.clock)
        self.said = ""

    def run(self, since: str = "-6h", until: str = time_text(END), *more: str) -> int:
        """`run --once`; returns its exit code."""
        self.clock.looks = 0
        done = run_command(self, "run", "--once", *self.options(since, until), *more)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        self.said = done.stderr
        return done.exit_code

    def options(self, since: str, until: str) -> list[str]:
        """Of `run` and `replay`."""
        hosts = ["--segment-url", self.segment.url, "--download-host", self.segment.download_host]
        hosts += ["--endpoint", self.receiver.http_endpoint]
        return [*hosts, "--collection", "shop", "--since", since, "--until", until]

    def spend(self, requests: int) -> None:
        """As if so many requests had been made."""
        self.run(until=time_text(START - DAY_NS))
        for _ in range(requests):
            self.segment.quota.note_request(self.segment.clock.now_ns())
            self.segment.quota.take(self.segment.clock.now_ns())
            self.sql(
                "INSERT INTO requests (at_ns, collection, hour, why, outcome)"
                " VALUES (:now, 'shop', 0, 'fresh', 'listed')",
                now=self.segment.clock.now_ns(),
            )

    def is_everything_exported_since(self, hours: int) -> bool:
        """Of the hours from so long before START until END."""
        now_ns = self.segment.clock.now_ns()
        expected = {
            uid(record.raw)
            for hour in range(hour_of(START) - hours, hour_of(END))
            for stored in self.segment.world.objects("shop", hour, now_ns)
            for record in stored.records
        }
        assert len(expected) > 10
        return expected <= self.exported()

    def exported(self) -> set[str]:
        return {
            attribute.value.string_value
            for log in self.receiver.logs()
            for attribute in log.attributes
            if attribute.key == "log.record.uid"
        }

    def listings(self) -> int:
        return sum(each.counted for each in self.segment.requests())

    def sql(self, *statements: str, **values: int) -> list[Any]:
        """The rows of the last statement."""
        rows: list[Any] = []
        with closing(sqlite3.connect(self.state / "ledger.sqlite3")) as database, database:
            for statement in statements:
                rows = database.execute(statement, values).fetchall()
        return rows


def uid(raw: bytes) -> str:
    name = EVENT_NAMES[json.loads(raw)["event"]]
    return hashlib.sha256(name.encode() + b"\n" + raw).hexdigest()[:32]


@contextmanager
def scene(folder: Path, messages: float = 5.0) -> Iterator[Scene]:
    world = WorldConfig(collections=("shop",), messages=messages, seed=3)
    config = SimulatorConfig(world=world, quota=QuotaConfig(replenish="rolling"))
    with Simulator(config, SimulatedClock(START, standing=True)) as segment, Receiver() as receiver:
        yield Scene(segment, receiver, folder)


@pytest.fixture
def wrong(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path) as found:
        yield found


def end_well(found: Scene) -> None:
    """With a clock that is right, when all hours are complete: all is exported, within the quota."""
    found.clock.ahead_ns, found.clock.sets = 0, {}
    found.segment.clock.forward(40 * 3600)
    assert found.run() == 0, found.said
    assert found.is_everything_exported_since(6)
    assert found.segment.quota.max_in_24_hours <= 120
    assert run_command(found, "audit").exit_code == 0


def run_command(found: Scene, *args: str) -> Result:
    env = {"FAILLOG_STATE_DIR": str(found.state), "SEGMENT_TOKEN": found.segment.token}
    return CliRunner().invoke(cli, args, obj=found.clock, env=env)


# -- jumps ---------------------------------------------------------------------------------------------------


@JUMP
def test_one_start_with_a_wrong_clock_loses_no_hour(wrong: Scene, jump_ns: int) -> None:
    assert wrong.run() == 0
    wrong.segment.clock.forward(3600)
    wrong.clock.ahead_ns = jump_ns
    assert wrong.run() == 0
    said, listings = wrong.said, wrong.listings()
    end_well(wrong)
    assert listings == 6, "nothing is spent on hours of another time"
    side = "ahead of" if jump_ns > 0 else "behind"
    assert f"{side} Segment's; using Segment's time; set this machine's clock" in said


@JUMP
def test_a_first_start_with_a_wrong_clock_wants_the_hours_of_segments_time(
    wrong: Scene, jump_ns: int
) -> None:
    wrong.clock.ahead_ns = jump_ns
    assert wrong.run(until=time_text(START + 100 * DAY_NS)) == 0
    [(since,)] = wrong.sql("SELECT value FROM facts WHERE name = 'since'")
    assert abs(int(since) - (START - 6 * HOUR_NS)) <= SECOND_NS
    assert wrong.listings() == 4
    end_well(wrong)


@pytest.mark.parametrize("command", ["status", "plan"])
def test_reports_by_a_wrong_clock_have_a_warning(wrong: Scene, command: str) -> None:
    wrong.clock.ahead_ns = 40 * DAY_NS
    assert wrong.run() == 0
    warning = "this machine's clock was 40 d 0 h ahead of Segment's in the last run"
    assert warning in run_command(wrong, command, "--collection", "shop").stderr
    wrong.clock.ahead_ns = 0
    assert wrong.run() == 0
    assert warning not in run_command(wrong, command, "--collection", "shop").stderr


@JUMP
def test_hours_that_are_replayed_are_those_of_segments_time(wrong: Scene, jump_ns: int) -> None:
    assert wrong.run() == 0
    before = wrong.listings()
    wrong.clock.ahead_ns = jump_ns
    done = run_command(wrong, "replay", *wrong.options("-6h", time_text(END)))
    assert done.exit_code == 0, done.stderr
    replayed = wrong.sql("SELECT hour FROM requests WHERE why = 'wanted' ORDER BY hour")
    first = hour_of(START) - 6
    assert [hour for (hour,) in replayed] == list(range(first, first + 6))
    assert wrong.listings() == before + 6
    end_well(wrong)


@pytest.mark.thin(2)
@pytest.mark.parametrize("look", swept([*range(12), 15, 20, 30, 40, 50, 60], [5, 30]))
@pytest.mark.parametrize("jump_ns", [40 * DAY_NS, -DAY_NS], ids=["+40 d", "-1 d"])
def test_a_clock_that_is_set_at_any_moment_of_a_run_loses_no_hour(
    wrong: Scene, look: int, jump_ns: int
) -> None:
    assert wrong.run(until=time_text(START - 4 * HOUR_NS)) == 0
    wrong.segment.clock.forward(3600)
    wrong.clock.sets = {look: jump_ns}
    assert wrong.run() == 0
    looks = wrong.clock.looks
    wrong.segment.clock.forward(3600)
    assert wrong.run() == 0
    end_well(wrong)
    assert looks > look


@slow
@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 8 * 3600),
            st.lists(st.tuples(st.integers(0, 120), st.sampled_from([0, *JUMPS])), max_size=3),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_clock_jumps_lose_no_hour_and_keep_the_quota(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, list[tuple[int, int]]]]
) -> None:
    with scene(tmp_path_factory.mktemp("jumps")) as found:
        for seconds, sets in runs:
            found.clock.sets = dict(sets)
            assert found.run() == 0, found.said
            found.segment.clock.forward(seconds)
        end_well(found)


@JUMP
def test_a_wrong_clock_gives_no_requests_back(tmp_path: Path, jump_ns: int) -> None:
    """Twenty days are wanted: each run spends all that it may."""
    with scene(tmp_path, messages=0) as found:
        found.spend(110)
        found.run("-20d")
        assert found.listings() == 6
        for ahead_ns in (jump_ns, 0):
            found.segment.clock.forward(3600)
            found.clock.ahead_ns = ahead_ns
            found.run("-20d")
        assert found.segment.quota.max_in_24_hours <= 120
        found.segment.clock.forward(22 * 3600 + 60)
        found.run("-20d")
        assert found.listings() > 100, "a day later they are back"
        assert found.segment.quota.max_in_24_hours <= 120


# -- what Segment says ---------------------------------------------------------------------------------------


def test_without_a_date_header_polling_goes_by_the_machines_clock(wrong: Scene) -> None:
    wrong.segment.date = lambda _now_ns: ""
    assert wrong.run() == 0
    assert "Segment's answer has no Date header; the clock was not checked" in wrong.said
    assert wrong.listings() == 4
    end_well(wrong)


def test_without_a_date_a_clock_that_was_never_set_spends_nothing(wrong: Scene) -> None:
    """A machine that starts in 1970 would spend its quota on hours that never were."""
    wrong.segment.date = lambda _now_ns: ""
    wrong.clock.ahead_ns = -START
    assert wrong.run() == 6
    assert "this machine's clock is wrong; set it" in wrong.said
    assert wrong.listings() == 0


@pytest.mark.parametrize("said_ns", [0, START - 3 * DAY_NS, 1_500_000_000 * SECOND_NS])
def test_a_date_before_what_is_known_is_ignored(wrong: Scene, said_ns: int) -> None:
    assert wrong.run() == 0
    wrong.segment.clock.forward(3600)
    wrong.segment.date = lambda _now_ns: http_date(said_ns)
    assert wrong.run() == 0
    assert "impossible Date" in wrong.said
    assert max(each[0] for each in wrong.sql("SELECT at_ns FROM requests")) > START
    wrong.segment.date = http_date
    end_well(wrong)


def test_a_date_that_comes_late_corrects_what_was_stamped_before(tmp_path: Path) -> None:
    """The clock is a day behind: what is stamped by it would come back at once when the time is known."""
    with scene(tmp_path, messages=0) as found:
        answers = iter([""] * 20)
        found.segment.date = lambda now_ns: next(answers, http_date(now_ns))
        found.clock.ahead_ns = -25 * HOUR_NS
        found.run("-20d")
        assert found.listings() == 116
        found.clock.ahead_ns = 0
        found.run("-20d")
        assert found.segment.quota.max_in_24_hours <= 120


def test_segment_away_at_the_start_costs_no_request_and_is_waited_for(tmp_path: Path) -> None:
    clock, world = SimulatedClock(START, standing=True), WorldConfig(collections=("shop",), seed=3)
    config = SimulatorConfig(world=world, port=unused_port(), download_port=unused_port(), token="t" * 20)
    with Simulator(config, clock) as segment, Receiver() as receiver:
        found = Scene(segment, receiver, tmp_path)
    with Receiver() as receiver:
        found.receiver = receiver
        found.clock.ahead_ns = 40 * DAY_NS
        assert found.run(until=time_text(START + 100 * DAY_NS)) == 6
        assert "hours due could not be listed" in found.said
        assert "no hour is listed before it is known" in found.said
        assert found.sql("SELECT count(*) FROM requests") == [(0,)]
        with ExitStack() as later:

            def appears() -> None:
                found.segment = later.enter_context(Simulator(config, clock))

            found.clock.at_first_wait = appears
            assert found.run() == 0, found.said
            assert found.listings() == 4
            end_well(found)


# -- a ledger that a wrong clock wrote -----------------------------------------------------------------------


def test_a_ledger_that_a_clock_ahead_wrote_heals(wrong: Scene) -> None:
    """As version 0.1.0 left it: closed too early, and stamped with times that have not come."""
    assert wrong.run() == 0
    wrong.segment.clock.forward(3600)
    [(oldest, newest)] = wrong.sql("SELECT min(hour), max(hour) FROM hours")
    to_version_2(wrong.state / "ledger.sqlite3")
    wrong.sql(
        "UPDATE hours SET closed = 1, closing = 1",
        "UPDATE requests SET at_ns = at_ns + :ahead",
        "UPDATE said SET at_ns = at_ns + :ahead, not_before_ns = at_ns + :ahead + 3600000000000",
        "INSERT INTO facts VALUES ('refused until shop', CAST(:then AS TEXT))",
        "UPDATE hours SET first_listed_ns = :then, same_since_ns = :then, last_listed_ns = :then"
        " WHERE hour = :newest",
        "UPDATE hours SET failures = 9, failed_ns = :then WHERE hour = :oldest",
        "WITH RECURSIVE later(hour) AS (VALUES (:newest + 1) UNION ALL SELECT hour + 1 FROM later LIMIT 1000)"
        " INSERT INTO hours (collection, hour, first_listed_ns, last_listed_ns, same_since_ns)"
        " SELECT 'shop', hour, :then, :then, :then FROM later",
        ahead=40 * DAY_NS,
        then=START + 40 * DAY_NS,
        newest=newest,
        oldest=oldest,
    )
    wrong.run()
    end_well(wrong)


def test_a_ledger_is_pruned_by_a_clock_that_agrees_only(wrong: Scene) -> None:
    """A clock ahead would prune hours that Segment still has."""
    assert wrong.run() == 0
    first = "SELECT count(*) FROM objects WHERE listed_ns <= :start"
    [(objects,)] = wrong.sql(first, start=START)
    assert objects > 3
    wrong.segment.clock.forward(30 * 86_400)
    wrong.clock.ahead_ns = -10 * DAY_NS
    wrong.run()
    assert wrong.sql(first, start=START) == [(objects,)]
    wrong.clock.ahead_ns = 0
    wrong.run()
    assert wrong.sql(first, start=START) == [(0,)]
    assert wrong.sql("SELECT sum(objects) FROM past WHERE hour > 0") == [(objects,)]
    wrong.segment.clock.forward(HOURS_KEPT_NS // SECOND_NS)
    wrong.run()
    assert wrong.sql("SELECT objects FROM past WHERE hour = -1") == [(objects,)]
    assert run_command(wrong, "audit").exit_code == 0


# -- before Segment's time is known --------------------------------------------------------------------------


def run_while_segment_is_away(found: Scene, since: str) -> None:
    hosts = ["--segment-url", f"http://127.0.0.1:{unused_port()}"]
    done = run_command(found, "run", "--once", *found.options(since, time_text(END)), *hosts)
    assert "Segment's time is unknown" in done.stderr


@pytest.mark.parametrize(
    "ahead_ns", swept([0, *JUMPS], [0, 40 * DAY_NS]), ids=lambda ns: f"{ns // HOUR_NS:+} h"
)
def test_what_a_run_wanted_while_segment_was_away_stays_wanted(wrong: Scene, ahead_ns: int) -> None:
    """Hours go by until the next run; what the first one wanted is counted from its own time."""
    wrong.clock.ahead_ns = ahead_ns
    run_while_segment_is_away(wrong, "-6h")
    wrong.segment.clock.forward(4 * 3600)
    run_while_segment_is_away(wrong, "-6h")
    wrong.segment.clock.forward(3600)
    assert wrong.run() == 0, wrong.said
    [(since,)] = wrong.sql("SELECT value FROM facts WHERE name = 'since'")
    assert abs(int(since) - (START - 6 * HOUR_NS)) <= 60 * SECOND_NS
    end_well(wrong)


@pytest.mark.parametrize("is_set", [False, True], ids=["is not set", "is set then"])
def test_a_first_run_before_the_clock_was_set_keeps_what_it_wanted(wrong: Scene, is_set: bool) -> None:
    """In 1970, and Segment away; the next run wants less. The time between them is lost with the clock."""
    wrong.clock.ahead_ns = 60 * SECOND_NS - START
    run_while_segment_is_away(wrong, "-9h")
    if is_set:
        wrong.clock.ahead_ns = 0
    assert wrong.run("-2h") == 0, wrong.said
    [(since,)] = wrong.sql("SELECT value FROM facts WHERE name = 'since'")
    assert abs(int(since) - (START - 9 * HOUR_NS)) <= 60 * SECOND_NS
    wrong.clock.ahead_ns = 40 * DAY_NS
    assert wrong.run("-2h") == 0, wrong.said
    assert wrong.sql("SELECT value FROM facts WHERE name = 'since'") == [(since,)], "it is wanted once"
    end_well(wrong)
    assert wrong.is_everything_exported_since(9)


def test_a_run_that_waits_for_segment_wants_the_hours_of_its_start(wrong: Scene) -> None:
    """The clock is set while it waits: how long that took is known all the same."""
    wrong.clock.ahead_ns = -START
    answers = iter([""] * 2)
    wrong.segment.date = lambda now_ns: next(answers, http_date(now_ns))

    def hours_pass() -> None:
        wrong.segment.clock.forward(5 * 3600)
        wrong.clock.ahead_ns = 0

    wrong.clock.at_first_wait = hours_pass
    assert wrong.run("-6h", time_text(END), "--wait", "6h") == 0, wrong.said
    [(since,)] = wrong.sql("SELECT value FROM facts WHERE name = 'since'")
    assert abs(int(since) - (START - 6 * HOUR_NS)) <= 60 * SECOND_NS
    end_well(wrong)


def test_replay_before_the_clock_was_set_touches_nothing(wrong: Scene) -> None:
    """`--since -5h` would mean hours of 1969."""
    assert wrong.run() == 0
    before = wrong.sql("SELECT * FROM hours")
    wrong.clock.ahead_ns = -START
    hosts = ["--segment-url", f"http://127.0.0.1:{unused_port()}"]
    done = run_command(wrong, "replay", *wrong.options("-5h", time_text(END)), *hosts)
    assert isinstance(done.exception, ConfigError)
    assert "this machine's clock shows 1970-01-01T00:00:00Z; set the clock" in str(done.exception)
    assert wrong.sql("SELECT * FROM hours") == before
