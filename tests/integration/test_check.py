"""`check` against the simulated Segment: the verdict of ten scenarios, minutes and hours after sending."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from faillog_otel.cli import cli
from faillog_otel.clock import HOUR_NS, SECOND_NS, time_text
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.config import SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.sandbox.destinations import DESTINATIONS
from faillog_otel.sandbox.outcomes import Outcome

START = 486_000 * HOUR_NS + 10 * 60 * SECOND_NS
MINUTE = 60 * SECOND_NS
COLLECTION = "shop-mixpanel"
MIXPANEL = DESTINATIONS[0]
PASSED, FAILED, USAGE, REFUSED, UNKNOWN = 0, 1, 2, 6, 7
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
    assert check.run(*WINDOW, *options) == expected, check.report
    names = {PASSED: "passed", FAILED: "failed", UNKNOWN: "unknown"}
    assert check.report["verdict"] == names[expected]
    assert bool(check.report["final_at"]) == (expected == UNKNOWN)
