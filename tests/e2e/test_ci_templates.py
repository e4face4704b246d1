"""The GitHub action, the GitLab template and the guide's pipelines, run step by step as a CI does."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.program import PROGRAM, environment
from support.tiers import slow

from faillog_otel.cli.check import check
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.config import SimulatorConfig, WorldConfig
from faillog_otel.sandbox.destinations import DESTINATIONS
from faillog_otel.sandbox.outcomes import Outcome

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
TEMPLATE = yaml.safe_load((ROOT / "docker" / "faillog-otel.gitlab-ci.yml").read_text())
GUIDE = (ROOT / "docs" / "guides" / "ci.md").read_text()
VERSION = "2.4.0"


@pytest.fixture
def segment() -> Iterator[Simulator]:
    config = SimulatorConfig(world=WorldConfig(messages=0.0), token="t0ken")  # noqa: S106  # the simulator's
    with Simulator(config) as segment:
        yield segment


def send(segment: Simulator, outcome: str, number: int = 3, *, seconds_ago: int = 180) -> None:
    """An application sent messages some time ago."""
    segment.set_outcomes(Outcome(outcome=outcome))
    segment.clock.forward(-seconds_ago)
    for each in range(number):
        message = {"userId": "u", "event": "Checkout", "messageId": f"m-{each}"}
        body = message | {"context": {"app": {"version": VERSION}}}
        httpx.post(f"{segment.url}/v1/track", json=body, auth=("key", ""), trust_env=False)
    segment.clock.forward(seconds_ago)


def run_steps(script: str, folder: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    given = environment(**env)
    given["PATH"] = f"{Path(PROGRAM).parent}:{given['PATH']}"
    return subprocess.run(  # our own script
        ["/bin/bash", "-e", "-c", script],
        cwd=folder,
        env=given,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


# -- GitHub ---


def action(folder: Path, segment: Simulator, **inputs: str) -> "subprocess.CompletedProcess[str]":
    """Runs the action's step `check`, as the runner does: expressions become variables before."""
    [step] = [each for each in ACTION["runs"]["steps"] if each.get("id") == "check"]
    defaults = {name: str(each.get("default", "")) for name, each in ACTION["inputs"].items()}
    given = {**defaults, "token": segment.token, "segment-url": segment.url, "wait": "0", **inputs}
    env = {
        name: re.sub(r"\$\{\{ inputs\.([a-z-]+) \}\}", lambda found: given[found[1]], value)
        for name, value in step["env"].items()
    }
    runner = {"RUNNER_TEMP": str(folder), "GITHUB_OUTPUT": str(folder / "output")}
    summary = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    assert "${{" not in step["run"]
    return run_steps(step["run"], folder, **env, **runner, **summary)


def test_the_action_passes_what_was_delivered(segment: Simulator, tmp_path: Path) -> None:
    send(segment, "deliver")
    done = action(tmp_path, segment, event="Checkout", **{"expect-received": "3", "app-version": VERSION})
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "output").read_text().splitlines()[0] == "exit-code=0"
    assert (tmp_path / "faillog-otel.xml").read_bytes().startswith(b"<?xml")
    assert "passed" in (tmp_path / "summary.md").read_text().lower()


def test_the_action_fails_for_discards_with_annotations_and_a_summary(
    segment: Simulator, tmp_path: Path
) -> None:
    send(segment, "discard:401")
    done = action(tmp_path, segment, event="Checkout")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "::error" in done.stdout
    assert "401" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(("unknown", "code"), [("fail", 7), ("pass", 0)])
def test_the_action_fails_for_an_open_verdict_unless_it_may_pass(
    segment: Simulator, tmp_path: Path, unknown: str, code: int
) -> None:
    send(segment, "lose")
    done = action(tmp_path, segment, event="Checkout", unknown=unknown)
    assert done.returncode == code, done.stdout + done.stderr
    assert "exit-code=7" in (tmp_path / "output").read_text()
    assert ("::warning::faillog-otel" in done.stdout) == (unknown == "pass")


def test_the_action_takes_several_destinations_and_no_commands(segment: Simulator, tmp_path: Path) -> None:
    segment.set_outcomes(Outcome(outcome="deliver"))
    send(segment, "deliver")
    names = f"{DESTINATIONS[0].id}\n{DESTINATIONS[1].id}"
    done = action(tmp_path, segment, destination=names, event="Checkout")
    assert done.returncode == 0, done.stdout + done.stderr
    done = action(tmp_path, segment, destination='"; touch stolen; echo "', event="$(touch stolen)")
    assert done.returncode == 6, done.stdout + done.stderr
    assert not (tmp_path / "stolen").exists()


def test_the_action_says_that_segment_refused(segment: Simulator, tmp_path: Path) -> None:
    done = action(tmp_path, segment, token="wrong")  # noqa: S106  # wrong on purpose
    assert done.returncode == 6, done.stdout + done.stderr
    assert "token" in done.stderr


@slow
def test_the_action_installs_the_version_of_its_own_folder(tmp_path: Path) -> None:
    step = ACTION["runs"]["steps"][0]
    assert step["env"] == {"PACKAGE": "${{ inputs.package || github.action_path }}"}
    index = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    done = run_steps(step["run"], tmp_path, PACKAGE=str(ROOT), RUNNER_TEMP=str(tmp_path), **index)
    assert done.returncode == 0, done.stderr
    program = tmp_path / "faillog-otel" / "bin" / "faillog-otel"
    assert run_steps(f"{program} check --help", tmp_path).returncode == 0


# -- GitLab ---


def job(name: str) -> dict[str, Any]:
    """A job with what it extends."""
    found = TEMPLATE[name]
    if "extends" not in found:
        return dict(found)
    base = job(found["extends"])
    variables = {**base.get("variables", {}), **found.get("variables", {})}
    return {**base, **found, "variables": variables}


def gitlab(folder: Path, segment: Simulator, name: str, **more: str) -> "subprocess.CompletedProcess[str]":
    found = job(name)
    env = {
        key: str(value).replace("$CI_PROJECT_DIR", str(folder)) for key, value in found["variables"].items()
    }
    script = "\n".join([*found["before_script"], *found["script"]])
    own = {"SEGMENT_TOKEN": segment.token, "FAILLOG_SEGMENT_URL": segment.url, "CHECK_WAIT": "0"}
    hosts = {"FAILLOG_DOWNLOAD_HOSTS": segment.download_host}
    return run_steps(script, folder, **(env | own | hosts | more))


@pytest.mark.parametrize(
    ("outcome", "code"), [("deliver", 0), ("discard:401", 1), ("lose", 7), ("filter", 0)]
)
def test_the_template_ends_with_the_exit_code_of_the_verdict(
    segment: Simulator, tmp_path: Path, outcome: str, code: int
) -> None:
    send(segment, outcome)
    done = gitlab(
        tmp_path, segment, ".faillog-otel-counts", CHECK_EVENT="Checkout", CHECK_APP_VERSION=VERSION
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert (tmp_path / "faillog-otel.xml").exists()
    assert (tmp_path / "faillog-otel.json").exists()
    assert job(".faillog-otel-counts")["allow_failure"] == {"exit_codes": 7}


def test_the_templates_job_of_logs_finds_what_was_lost(tmp_path: Path) -> None:
    """Nine hours later, from the failure logs that it polls itself."""
    world = WorldConfig(messages=0.0, collections=("shop-braze",))
    with Simulator(SimulatorConfig(world=world)) as segment:
        send(segment, "lose", seconds_ago=11 * 3600)
        done = gitlab(
            tmp_path, segment, ".faillog-otel-logs", FAILLOG_COLLECTIONS="shop-braze", CHECK_SINCE="-12h"
        )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "m-0" in done.stdout or "503" in done.stdout


def test_the_template_takes_values_with_blanks_and_quotes(segment: Simulator, tmp_path: Path) -> None:
    send(segment, "deliver")
    done = gitlab(
        tmp_path, segment, ".faillog-otel-counts", CHECK_EVENT="Checkout\nOther $(touch stolen) \"'`x`"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "stolen").exists()


# -- the guide ---


def options_in(text: str) -> set[str]:
    known = re.findall(r"faillog-otel check((?: +(?:\\\n)? *[^\s`]+)*)", text)
    return {option for each in known for option in re.findall(r"--[a-z-]+", each)}


def test_the_guide_uses_options_that_exist() -> None:
    existing = {name for each in check.params for name in (*each.opts, *each.secondary_opts)}
    assert options_in(GUIDE)
    assert options_in(GUIDE) <= existing


def test_the_pipelines_of_the_guide_use_inputs_and_variables_that_exist() -> None:
    blocks = [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]
    github, pipeline = blocks
    steps = [step for each in github["jobs"].values() for step in each["steps"]]
    used = [step["with"] for step in steps if "with" in step]
    assert len(used) == 2
    assert all(set(each) <= set(ACTION["inputs"]) for each in used)
    assert github["jobs"]["logs"]["environment"] == "segment-logs"
    for name in ("counts", "logs"):
        assert set(pipeline[name]["variables"]) <= set(job(pipeline[name]["extends"])["variables"])
    assert job(".faillog-otel-logs")["start_in"] == "9 hours"
