"""Changes of the workspace: read once an hour within their own limits, named once, people redacted."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.metrics import MetricsReceiver, plain_attributes
from support.quota_run import START_NS, QuotaRun, ago

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, parse_rfc3339, time_text
from faillog_otel.config import Secret
from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.pipeline.changes import REFUSED_NS, ChangesRefresh
from faillog_otel.pipeline.readings import READ_SECONDS
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.config import Scripted, SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.sandbox.incidents import Incident
from faillog_otel.sandbox.overview import ACTOR_EMAIL, AuditEvent
from faillog_otel.segment.answers import Change
from faillog_otel.segment.api import SegmentApi

ACTOR = AuditEvent(id="", timestamp="", type="", resource_id="").actor
WEEK_NS = 7 * DAY_NS


def audit_event(name: str, at_ns: int, **facts: Any) -> AuditEvent:
    return AuditEvent(
        id=name, timestamp=time_text(at_ns), type="Destination Modified", resource_id="d1", **facts
    )


# -- reading -----------------------------------------------------------------------------------------------


class Refreshing:
    """The part of the program that reads changes, against a simulated Segment on a standing clock."""

    def __init__(self, ledger: SqliteLedger, **config: Any) -> None:
        self.ledger = ledger
        self.clock = SimulatedClock(START_NS, standing=True)
        self.segment = Simulator(SimulatorConfig(**config), self.clock)
        self.api = SegmentApi(self.segment.url, lambda: Secret(self.segment.token), "tests")
        self.taken: list[Change] = []
        self.start()

    def start(self, **how: Any) -> None:
        """The next run."""
        self.refresh = ChangesRefresh(
            **{
                "ledger": self.ledger,
                "segment": self.api,
                "clock": self.clock,
                "is_stopping": lambda: False,
                "take": self.taken.extend,
                "since_ns": lambda now_ns: now_ns - WEEK_NS,
                **how,
            }
        )

    def add(self, *names: str, ago_ns: int = HOUR_NS, **facts: Any) -> None:
        for name in names:
            self.segment.add_change(audit_event(name, self.clock.now_ns() - ago_ns, **facts))

    def step(self, after_ns: int = 0) -> int:
        """What the fetcher does at each step while no hour is due; returns the number of requests."""
        before = len(self.segment.requests())
        self.clock.forward(after_ns / SECOND_NS)
        self.refresh.read_if_due(self.clock.now_ns())
        self.refresh.go_on()
        return len(self.segment.requests()) - before

    @property
    def names(self) -> list[str]:
        return [each.id for each in self.taken]


@contextmanager
def refreshing(ledger: SqliteLedger, **config: Any) -> Iterator[Refreshing]:
    found = Refreshing(ledger, **config)
    with found.segment, closing(found.api):
        yield found


def test_changes_are_read_once_an_hour_and_handed_over_once(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.add("a", "b")
        assert found.step() == 1
        assert sorted(found.names) == ["a", "b"]
        found.add("c", ago_ns=0)
        assert found.step(59 * 60 * SECOND_NS) == 0
        found.start()
        assert found.step() == 0, "also if the program is started anew"
        assert found.step(60 * SECOND_NS) == 1
        found.start()
        assert found.step(HOUR_NS) == 1
        assert sorted(found.names) == ["a", "b", "c"]
        assert found.segment.quota.max_in_24_hours == 0
    assert {each.id for each in ledger.changes(0, START_NS + DAY_NS)} == {"a", "b", "c"}


def test_a_change_that_appears_late_is_read(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.step()
        found.add("late", ago_ns=30 * 60 * SECOND_NS)
        found.step(HOUR_NS)
        assert found.names == ["late"]


def test_the_first_reading_begins_with_the_window(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.add("before", ago_ns=WEEK_NS + HOUR_NS)
        found.add("within", ago_ns=WEEK_NS - HOUR_NS)
        found.step()
        assert found.names == ["within"]


def test_after_a_long_pause_all_that_the_ledger_keeps_is_read(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.step()
        found.clock.forward(60 * 86_400)
        found.add("older", ago_ns=36 * DAY_NS)
        found.add("kept", ago_ns=34 * DAY_NS)
        found.step()
        assert found.names == ["kept"]


def test_a_clock_that_was_ahead_does_not_end_reading(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.clock.forward(400 * 86_400)
        assert found.step()
        found.start()
        found.clock.forward(-400 * 86_400)
        found.add("a")
        assert found.step(HOUR_NS)
        assert found.names == []
        found.add("b", ago_ns=0)
        found.step(HOUR_NS)
        assert found.names == ["b"]


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_all_pages_are_read(ledger: SqliteLedger, size: int) -> None:
    with refreshing(ledger, names_per_page=size) as found:
        found.add(*"abcde")
        assert found.step() == -(-5 // size)
        assert sorted(found.names) == [*"abcde"]


def test_changes_have_a_rate_limit_of_their_own(ledger: SqliteLedger) -> None:
    """Nothing is requested before the end of the pause that Segment asks for; then it goes on."""
    with refreshing(ledger, names_per_page=1, counts_per_minute=3) as found:
        found.add(*"abcde")
        assert found.step() == 4
        assert [each.status for each in found.segment.requests()] == [200, 200, 200, 429]
        assert found.step(59 * SECOND_NS) == 0
        assert found.step(SECOND_NS) == 2
        assert sorted(found.names) == [*"abcde"]


@pytest.mark.parametrize("how", [{"faults": {"changes:403": 1.0}}, {"lacks": ("changes",)}])
def test_a_refusal_is_one_warning_and_a_pause_of_a_day(
    ledger: SqliteLedger, caplog: pytest.LogCaptureFixture, how: dict[str, Any]
) -> None:
    with refreshing(ledger, **how) as found:
        assert found.step() == 1
        assert found.step(REFUSED_NS - SECOND_NS) == 0
        assert found.step(SECOND_NS) == 1
    said = [each for each in caplog.records if "set [segment] audit = false" in each.getMessage()]
    assert [each.levelname for each in said] == ["WARNING"]


def test_a_failure_is_tried_again_an_hour_later(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.add("a")
        found.segment.faults.script(Scripted(fault="changes:500"))
        assert found.step() == 1
        assert found.step(HOUR_NS - SECOND_NS) == 0
        assert found.step(SECOND_NS) == 1
        assert found.names == ["a"]


def test_a_slow_answer_does_not_hold_up_a_listing(ledger: SqliteLedger) -> None:
    with refreshing(ledger, slow_seconds=2 * READ_SECONDS) as found:
        found.start(read_seconds=0.2)
        found.segment.faults.script(Scripted(fault="changes:slow"))
        assert found.step() == 1
        assert found.taken == []


def test_people_are_redacted_before_a_change_is_kept(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.add("a", resource_name=f"Mixpanel of {ACTOR_EMAIL}")
        found.step()
    [kept] = ledger.changes(0, START_NS)
    assert kept == found.taken[0]
    assert kept.resource_name == "Mixpanel of [redacted:email]"
    assert (kept.actor, kept.actor_email) == ("[redacted:secret]", "[redacted:email]")


@pytest.mark.parametrize("facts", [{"resource_type": "USER"}, {"actor": "d1"}])
def test_a_person_who_was_changed_is_redacted_too(ledger: SqliteLedger, facts: dict[str, Any]) -> None:
    with refreshing(ledger) as found:
        found.add("a", resource_name="Jane Doe", **facts)
        found.step()
    [kept] = found.taken
    assert (kept.resource_id, kept.resource_name) == ("[redacted:secret]", "[redacted:secret]")


def test_with_a_key_equal_people_stay_comparable(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.start(redaction_key=Secret("k" * 32))
        found.add("a", "b")
        found.add("c", actor="other", actor_email="other@shop.example")
        found.step()
    actors = {each.id: (each.actor, each.actor_email) for each in found.taken}
    assert actors["a"] == actors["b"] != actors["c"]
    assert "shop.example" not in str(actors)


def test_actors_are_kept_if_the_settings_ask_for_them(ledger: SqliteLedger) -> None:
    with refreshing(ledger) as found:
        found.start(keeps_actors=True)
        found.add("a")
        found.step()
    assert [(each.actor, each.actor_email) for each in found.taken] == [(ACTOR, ACTOR_EMAIL)]


# -- runs --------------------------------------------------------------------------------------------------

INCIDENT = Incident("shop", "wrong-key", START_NS - 8 * HOUR_NS, START_NS - 6 * HOUR_NS)
CHANGED_AT = time_text(INCIDENT.start_ns - 240 * SECOND_NS)


class Runs:
    """Runs that poll an incident: what the program shows and sends."""

    def __init__(self, found: QuotaRun, metrics: MetricsReceiver, config: Path) -> None:
        self.found = found
        self.metrics = metrics
        self._config = ["--config", str(config)]

    def poll(self) -> str:
        """`run --once`; returns all that it says."""
        done = self.found.poll("--since", ago(12), "-vv", *self._config)
        assert done.exit_code == 0, done.output
        return done.output

    def look(self, command: str, *args: str) -> str:
        return self.found.run(*args, *self._config, command=command).output

    def outputs(self) -> Iterator[str]:
        """What the program says of failures, in all forms."""
        for args in ([], ["--json"], ["--csv"], ["--messages", "--json"], ["--replay-request"]):
            yield self.look("failures", *args)
        yield self.look("report", "--html", "-")
        for command in ("status", "plan", "audit"):
            yield self.look(command)
            yield self.look(command, "--json")

    @property
    def sent(self) -> Sequence[bytes]:
        """Requests with our own telemetry, and with records."""
        own = [each.body for each in (*self.metrics.sent, *self.metrics.logs_sent)]
        return [*own, *(each.request().SerializeToString() for each in self.found.receiver.received)]

    @property
    def changes(self) -> list[Any]:
        """The log events of changes."""
        return [each for each in self.metrics.events() if each.event_name == "faillog.workspace.change"]


@contextmanager
def runs(folder: Path, settings: str = "audit = true", per_hour: float = 20) -> Iterator[Runs]:
    world = WorldConfig(
        collections=("shop",),
        messages=5.0,
        incident_messages=per_hour,
        growth=("append",),
        seed=5,
        incidents=(INCIDENT,),
    )
    with (
        Simulator(SimulatorConfig(world=world), SimulatedClock(START_NS, standing=True)) as segment,
        Receiver() as receiver,
        MetricsReceiver() as metrics,
    ):
        config = folder / "faillog.toml"
        config.write_text(f'[segment]\n{settings}\n[self]\nendpoint = "{metrics.http_endpoint}"\n')
        yield Runs(QuotaRun(segment, receiver, folder), metrics, config)


def test_failures_name_the_change_four_minutes_before_a_wrong_key(tmp_path: Path) -> None:
    with runs(tmp_path, per_hour=2000) as found:
        found.poll()
        groups = json.loads(found.look("failures", "--json"))["groups"]
        text, html = found.look("failures"), found.look("report", "--html", "-")
    [wrong_key] = [each for each in groups if each["status"] == 401]
    change = wrong_key["after_change"]
    began = (parse_rfc3339(wrong_key["first_seen"]) or 0) - (parse_rfc3339(CHANGED_AT) or 0)
    assert change | {"resource_name": ""} == {
        "kind": "Destination Modified",
        "at": CHANGED_AT,
        "seconds_before": began // SECOND_NS,
        "resource_name": "",
        "by": None,
    }
    assert 240 <= change["seconds_before"] <= 300
    said = "failures began 4 minutes after 'Destination Modified'"
    assert said in text
    assert said.replace("'", "&#39;") in html
    assert html.count('class="mark"') == 1
    assert [each for each in groups if each["after_change"]] == [wrong_key]


def test_a_change_is_one_log_event_over_restarts(tmp_path: Path) -> None:
    with runs(tmp_path) as found:
        for _ in range(3):
            found.poll()
            found.found.segment.clock.forward(3600)
        [event] = found.changes
    assert event.time_unix_nano == parse_rfc3339(CHANGED_AT)
    assert event.severity_text == "INFO"
    attributes = plain_attributes(event)
    assert event.body.string_value == f"Destination Modified: {attributes['segment.resource.name']}"
    assert attributes["segment.change.kind"] == "Destination Modified"
    assert attributes["segment.resource.type"] == "destination"
    assert attributes["log.record.uid"] == "change-0"
    assert (attributes["user.id"], attributes["user.email"]) == ("[redacted:secret]", "[redacted:email]")


def test_who_made_a_change_is_nowhere(tmp_path: Path) -> None:
    """Neither in a log, an output, the page, our own telemetry, a record nor the state folder."""
    with runs(tmp_path) as found:
        shown = [found.poll(), *found.outputs()]
        assert len(found.changes) == 1
        kept = [each.read_bytes() for each in found.found.state.rglob("*") if each.is_file()]
        everything = [*(each.encode() for each in shown), *found.sent, *kept]
    for each in everything:
        assert ACTOR_EMAIL.encode() not in each
        assert ACTOR.encode() not in each


def test_who_made_a_change_is_shown_if_asked_for(tmp_path: Path) -> None:
    with runs(tmp_path, "audit = true\naudit_actors = true") as found:
        found.poll()
        by = f"after 'Destination Modified' by {ACTOR_EMAIL}"
        assert by in found.look("failures")
        [event] = found.changes
        attributes = plain_attributes(event)
        assert (attributes["user.id"], attributes["user.email"]) == (ACTOR, ACTOR_EMAIL)
        without = found.found.run(command="failures").output
    assert "after 'Destination Modified'" in without
    assert ACTOR_EMAIL not in without, "a report without the setting does not show what is kept"


def test_without_the_setting_no_change_is_asked_for(tmp_path: Path) -> None:
    with runs(tmp_path, "audit = false") as found:
        found.poll()
        asked = {each.path for each in found.found.segment.requests()}
        groups = json.loads(found.look("failures", "--json"))["groups"]
        assert found.changes == []
    assert "/audit-events" not in asked
    assert {each["after_change"] is None for each in groups} == {True}


def test_a_refusal_costs_nothing_but_the_changes(tmp_path: Path) -> None:
    with runs(tmp_path) as found:
        found.found.segment.faults.script(Scripted(fault="changes:403"))
        said = found.poll()
        assert len(found.found.exported()) > 0
        assert found.changes == []
    assert said.count("set [segment] audit = false") == 1
