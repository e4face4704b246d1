"""`check` against the simulated Segment: the verdict of ten scenarios, minutes and hours after sending."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import click
import httpx
import pytest
import xmlschema

from faillog_otel.cli import cli
from faillog_otel.clock import HOUR_NS, SECOND_NS, time_text
from faillog_otel.errors import ConfigError
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.config import QuotaConfig, SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.sandbox.destinations import DESTINATIONS
from faillog_otel.sandbox.outcomes import Outcome

START = 486_000 * HOUR_NS + 10 * 60 * SECOND_NS
MINUTE = 60 * SECOND_NS
COLLECTION = "shop-mixpanel"
MIXPANEL = DESTINATIONS[0]
PASSED, FAILED, USAGE, REFUSED, UNKNOWN = 0, 1, 2, 6, 7
JUNIT = xmlschema.XMLSchema10(Path(__file__).parents[1] / "unit" / "reports" / "junit.xsd")
TIMES = {"2 min": 2 * MINUTE, "30 min": 30 * MINUTE, "3 h": 3 * HOUR_NS, "8 h": 8 * HOUR_NS + 50 * MINUTE}
"""After sending; the logs of the hour are complete 8 hours after its end, 50 minutes later."""


class Check:
    """A smoke test that sends three events at `START`, and is checked later."""

    def __init__(
        self, segment: Simulator, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        self.segment = segment
        self.folder = folder
        self._capsys = capsys
        monkeypatch.setenv("SEGMENT_TOKEN", segment.token)
        for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
            monkeypatch.delenv(name, raising=False)
        self.report: dict[str, Any] = {}
        self.errors = ""

    def send(self, outcome: str, number: int = 3, event: str = "Order Completed") -> None:
        self.segment.set_outcomes(
            Outcome(outcome="deliver"), Outcome(outcome=outcome, destination=MIXPANEL.id)
        )
        for each in range(number):
            body = {"userId": "u", "event": event, "messageId": f"{event}-{each}"}
            found = httpx.post(f"{self.segment.url}/v1/track", json=body, auth=("key", ""), trust_env=False)
            assert found.status_code == 200

    def wait_until(self, at_ns: int) -> None:
        self.segment.clock.forward((at_ns - self.segment.clock.now_ns()) / SECOND_NS)

    def run(self, *args: str, collection: str = COLLECTION, url: str = "") -> int:
        settings = ["--state-dir", str(self.folder / "state"), "--segment-url", url or self.segment.url]
        settings += ["--download-host", self.segment.download_host]
        if collection:
            settings += ["--collection", collection]
        window = [] if "--since" in args else ["--since", time_text(START - MINUTE)]
        code = cli.main(
            ["check", *window, *settings, "--json", *args],
            standalone_mode=False,
            obj=self.segment.clock,
        )
        out, self.errors = self._capsys.readouterr()
        self.report = json.loads(out.splitlines()[-1]) if out.startswith("{") else {}
        return int(code)


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Iterator[Check]:
    world = WorldConfig(collections=(COLLECTION,), messages=0.0)
    with Simulator(SimulatorConfig(world=world), SimulatedClock(START, standing=True)) as segment:
        yield Check(segment, tmp_path, monkeypatch, capsys)


WINDOW = ("--destination", MIXPANEL.id, "--until", time_text(START + MINUTE))
"""The window of the smoke test: two minutes."""

EXPECTED = {
    # outcome: the exit codes 2 minutes, 30 minutes, 3 hours and 8 hours after sending
    "deliver": (PASSED, PASSED, PASSED, PASSED),
    "discard:401": (FAILED, FAILED, FAILED, FAILED),
    "recover:2": (UNKNOWN, PASSED, PASSED, PASSED),
    "lose": (UNKNOWN, UNKNOWN, UNKNOWN, FAILED),
    "filter": (PASSED, PASSED, PASSED, PASSED),
}


def assert_outputs_say(check: Check, code: int) -> None:
    """All forms that CI reads have the verdict."""
    JUNIT.validate(check.folder / "junit")
    suites = ET.parse(check.folder / "junit").getroot()  # noqa: S314  # our own
    assert bool(suites.findall(".//failure")) == (code == FAILED)
    assert bool(suites.findall(".//skipped")) or code != UNKNOWN
    markdown = (check.folder / "markdown").read_text()
    assert {PASSED: "✅ passed", FAILED: "❌ failed", UNKNOWN: "⏳ not known yet"}[code] in markdown
    annotations = [each for each in check.errors.splitlines() if each.startswith("::")]
    assert len(annotations) <= 20
    assert any(each.startswith("::error") for each in annotations) == (code == FAILED)
    assert isinstance(json.loads((check.folder / "gitlab").read_text()), dict)


@pytest.mark.parametrize("when", range(4))
@pytest.mark.parametrize("outcome", EXPECTED)
@pytest.mark.parametrize("source", ["both", "counts", "logs"])
def test_the_verdict_is_right_at_every_time(check: Check, source: str, outcome: str, when: int) -> None:
    check.send(outcome)
    check.wait_until(START + [*TIMES.values()][when])
    expected = EXPECTED[outcome][when]
    if source == "logs":  # complete after 8 hours; a discard is seen after 2
        is_seen = outcome == "discard:401" and when >= 2
        expected = expected if when == 3 or is_seen else UNKNOWN
    options = () if source == "both" else (f"--{source}",)
    files = [f"--{name}={check.folder / name}" for name in ("junit", "markdown", "gitlab")]
    assert check.run(*WINDOW, *options, *files, "--github") == expected, check.report
    assert_outputs_say(check, expected)
    names = {PASSED: "passed", FAILED: "failed", UNKNOWN: "unknown"}
    assert check.report["verdict"] == names[expected]
    assert bool(check.report["final_at"]) == (expected == UNKNOWN)


@pytest.mark.parametrize("outcome", ["recover:2", "discard:401", "filter", "deliver"])
def test_what_is_not_counted_yet_passes_nothing(check: Check, outcome: str) -> None:
    """Sent 40 seconds ago: after the last whole minute that is counted."""
    check.send(outcome)
    check.wait_until(START + 40 * SECOND_NS)
    expected = FAILED if outcome == "discard:401" else UNKNOWN
    assert check.run("--counts", "--destination", MIXPANEL.id, "--no-filtered") == expected, check.report


@pytest.mark.parametrize("when", range(4))
def test_nothing_received_never_passes_and_fails_if_events_were_expected(check: Check, when: int) -> None:
    check.wait_until(START + [*TIMES.values()][when])
    assert check.run(*WINDOW) == UNKNOWN
    assert check.run(*WINDOW, "--expect-received", "3") == (UNKNOWN if when < 2 else FAILED)


@pytest.mark.parametrize("when", range(4))
def test_a_wrong_token_is_refused_at_once(check: Check, when: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENT_TOKEN", "wrong-token-of-nobody")
    check.send("deliver")
    check.wait_until(START + [*TIMES.values()][when])
    for option in ("--counts", "--logs"):
        assert check.run(*WINDOW, option) == REFUSED
        assert "set SEGMENT_TOKEN" in check.errors
        assert "wrong-token" not in check.errors
    asked = {each.path for each in check.segment.requests()}
    assert "/customer-insights/download" not in asked


@pytest.mark.parametrize("when", range(4))
@pytest.mark.parametrize("option", ["--counts", "--logs"])
def test_an_unknown_destination_is_refused_with_near_names(check: Check, option: str, when: int) -> None:
    check.send("deliver")
    check.wait_until(START + [*TIMES.values()][when])
    assert check.run("--destination", "Mixpanl", option) == REFUSED
    assert "--destination Mixpanl" in check.errors
    assert "known ones: Mixpanel (prod)" in check.errors
    assert check.run("--source", "nothing", option) == REFUSED


@pytest.fixture
def poor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Iterator[Check]:
    """Segment allows no listing today."""
    world = WorldConfig(collections=(COLLECTION,), messages=0.0)
    config = SimulatorConfig(world=world, quota=QuotaConfig(per_day=1, replenish="midnight"))
    with Simulator(config, SimulatedClock(START, standing=True)) as segment:
        yield Check(segment, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("when", range(4))
@pytest.mark.parametrize("outcome", ["deliver", "discard:401", "lose"])
def test_counts_decide_when_the_quota_is_gone(poor: Check, outcome: str, when: int) -> None:
    earlier = ("--since", time_text(START - 9 * HOUR_NS), "--until", time_text(START - 4 * HOUR_NS))
    poor.send(outcome)
    poor.run(*earlier, "--logs")  # takes the only request
    poor.wait_until(START + [*TIMES.values()][when])
    assert poor.run(*WINDOW, "--logs") == UNKNOWN, poor.report
    assert poor.report["final_at"] > time_text(poor.segment.clock.now_ns())
    if when >= 2:
        [hours] = [each for each in poor.report["checks"] if each["name"] == "failure logs: hours"]
        assert "quota" in hours["says"] or "requests" in hours["says"]
    assert poor.run(*WINDOW) == EXPECTED[outcome][when], "counts alone"


def test_each_message_has_a_verdict(check: Check) -> None:
    check.send("discard:401", 1, "Bad")
    check.send("deliver", 2, "Good")
    ids = check.folder / "ids"
    ids.write_text("Good-0\nGood-1\n")
    check.wait_until(START + 2 * MINUTE)
    assert check.run(*WINDOW, "--messages", str(ids)) == UNKNOWN, "one of three was discarded"
    check.wait_until(START + TIMES["8 h"])
    assert check.run(*WINDOW, "--messages", str(ids)) == PASSED
    ids.write_text("Good-0\nBad-0\n")
    junit = check.folder / "junit.xml"
    assert check.run(*WINDOW, "--messages", str(ids), "--junit", str(junit)) == FAILED
    verdicts = {each["name"]: each["verdict"] for each in check.report["checks"] if not each["source"]}
    assert verdicts == {"Bad-0": "failed", "Good-0": "passed"}
    assert 'name="Bad-0"' in junit.read_text("utf-8")


def test_events_are_chosen_by_name(check: Check) -> None:
    check.send("discard:401", 1, "Bad")
    check.send("deliver", 2, "Good")
    check.wait_until(START + 2 * MINUTE)
    assert check.run(*WINDOW, "--event", "Good", "--expect-received", "2") == PASSED
    assert check.run(*WINDOW, "--event", "Bad") == FAILED
    assert check.run(*WINDOW, "--app-version", "0.0.0") == UNKNOWN


def test_known_failures_are_tolerated(check: Check) -> None:
    check.send("discard:401")
    check.wait_until(START + 2 * MINUTE)
    baseline = str(check.folder / "baseline.json")
    assert check.run(*WINDOW, "--write-baseline", baseline) == FAILED
    assert check.run(*WINDOW, "--baseline", baseline) == PASSED
    assert check.run(*WINDOW, "--allow", "401") == PASSED
    assert check.run(*WINDOW, "--max-failed", "3") == PASSED
    assert check.run(*WINDOW, "--max-failed", "99%") == FAILED
    check.wait_until(START + TIMES["8 h"])
    assert check.run(*WINDOW, "--logs", "--baseline", baseline) == PASSED


def test_waiting_ends_when_the_verdict_is_final(check: Check) -> None:
    check.send("recover:2")
    check.wait_until(START + 2 * MINUTE)
    assert check.run(*WINDOW) == UNKNOWN
    assert check.run(*WINDOW, "--wait", "settled") == PASSED
    assert check.segment.clock.now_ns() < START + HOUR_NS


def test_a_workspace_without_counts_is_judged_by_its_logs(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    world = WorldConfig(collections=(COLLECTION,), messages=0.0)
    config = SimulatorConfig(world=world, lacks=("counts",))
    with Simulator(config, SimulatedClock(START, standing=True)) as segment:
        check = Check(segment, tmp_path, monkeypatch, capsys)
        check.send("deliver")
        check.wait_until(START + 2 * MINUTE)
        assert check.run(*WINDOW, "--counts") == REFUSED
        assert check.run(*WINDOW) == UNKNOWN
        check.wait_until(START + TIMES["8 h"])
        assert check.run(*WINDOW) == PASSED


def test_a_runs_state_folder_is_only_read_and_a_checks_one_only_counts(check: Check) -> None:
    check.send("discard:401")
    check.wait_until(START + TIMES["3 h"])
    assert check.run(*WINDOW, "--logs") == FAILED
    settings = ["--state-dir", str(check.folder / "state"), "--collection", COLLECTION]
    with pytest.raises(ConfigError, match="belongs to `check`"):
        cli.main(
            ["run", "--once", *settings, "--segment-url", check.segment.url],
            standalone_mode=False,
            obj=check.segment.clock,
        )


def test_ci_is_detected(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = check.folder / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    check.send("discard:401")
    check.wait_until(START + 2 * MINUTE)
    gitlab = check.folder / "gitlab.json"
    assert check.run(*WINDOW, "--gitlab", str(gitlab)) == FAILED
    assert "::error title=Mixpanel (prod)%3A discarded" in check.errors
    text = summary.read_text("utf-8")
    assert text.startswith("before\n## ")
    assert "3 events discarded" in text
    assert json.loads(gitlab.read_bytes()) == {"faillog-otel check": []}
    assert check.run(*WINDOW, "--no-github") == FAILED
    assert "::error" not in check.errors
    assert summary.read_text("utf-8") == text


@pytest.mark.parametrize(
    "args",
    [
        ("--max-failed", "-1%"),
        ("--max-failed", "many"),
        ("--wait", "soon"),
        ("--since", "-1h", "--until", "-2h"),
        ("--logs", "--event", "Good"),
    ],
)
def test_wrong_usage_is_said(check: Check, args: tuple[str, ...]) -> None:
    with pytest.raises((ConfigError, click.UsageError)):
        check.run(*args)
