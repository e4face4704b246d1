"""`doctor`: what is well, what is not, and what to do; it costs nothing and tells no secrets."""

import json
import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.polled_folder import AWAY, COLLECTION, to_version_2
from support.program import PROGRAM, environment, run_program
from support.tiers import slow_case

from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver, Reply

NOBODY = 65534


@pytest.fixture
def segment() -> Iterator[Simulator]:
    with Simulator() as segment:
        yield segment


def settings(folder: Path, segment: Simulator, endpoint: str, **more: str) -> dict[str, Any]:
    return {
        "SEGMENT_TOKEN": segment.token,
        "FAILLOG_SEGMENT_URL": segment.url,
        "FAILLOG_COLLECTIONS": COLLECTION,
        "FAILLOG_STATE_DIR": str(folder / "state"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        **more,
    }


def examined(
    folder: Path, *args: str, **env: Any
) -> tuple[int, dict[str, list[dict[str, str]]], dict[str, Any]]:
    """The exit code, the findings by what was checked, and all of it."""
    done = run_program("doctor", "--json", *args, cwd=folder, **env)
    found = json.loads(done.stdout)
    by_check: dict[str, list[dict[str, str]]] = {}
    for each in found["findings"]:
        by_check.setdefault(each["check"], []).append(each)
    return done.code, by_check, found


def states(findings: dict[str, list[dict[str, str]]]) -> dict[str, set[str]]:
    return {check: {each["state"] for each in several} for check, several in findings.items()}


def test_doctor_passes_before_and_after_the_first_run(
    tmp_path: Path, segment: Simulator, receiver: Receiver
) -> None:
    env = settings(tmp_path, segment, receiver.http_endpoint)
    code, findings, found = examined(tmp_path, **env)
    assert (code, found["well"]) == (0, True)
    assert not tmp_path.joinpath("state").exists()
    assert {"config", "state folder", "disk", "collections", "token", "clock", "collector"} <= findings.keys()
    with StateFolder(str(tmp_path / "state")) as folder:
        SqliteLedger(folder).close()
        code, findings, found = examined(tmp_path, **env)
        says = findings["lock"][0]["says"]
        assert (code, says.startswith(f"process {os.getpid()} holds it (on host ")) == (0, True)
    code, findings, found = examined(tmp_path, **env)
    assert (code, findings["lock"][0]["says"]) == (0, "not in use")
    assert findings["ledger"][0]["says"] == "version 6"
    assert "journal" in findings["sqlite"][0]["says"]
    assert findings["state folder"][0]["says"] == f"{tmp_path / 'state'}: writable, private"
    assert findings["own metrics"][0]["says"] == findings["health check"][0]["says"] == "not in use"
    assert {state for each in states(findings).values() for state in each} == {"ok"}
    assert all(bool(each["do"]) == (each["state"] != "ok") for each in found["findings"])


def test_doctor_costs_no_request_and_sends_no_record(
    tmp_path: Path, segment: Simulator, receiver: Receiver
) -> None:
    examined(tmp_path, **settings(tmp_path, segment, receiver.http_endpoint))
    assert [each.counted for each in segment.requests()] == [False]
    assert {each.signal for each in receiver.received} == {"logs", "traces"}
    assert receiver.logs() + receiver.spans() == []


def test_it_says_where_each_setting_comes_from(
    tmp_path: Path, segment: Simulator, receiver: Receiver
) -> None:
    tmp_path.joinpath("faillog-otel.toml").write_text(
        f"[otlp]\nendpoint = 'http://elsewhere'\nheaders = {{ api-key = 'canary-header' }}\n"
        f"[segment]\nurl = '{segment.url}'\ntoken = 'canary-token'\ncollections = ['c']\n"
    )
    env: dict[str, Any] = {"FAILLOG_COLLECTIONS": COLLECTION, "FAILLOG_STATE_DIR": "state"}
    args = ("--endpoint", receiver.http_endpoint)
    code, findings, found = examined(tmp_path, *args, **env)
    assert found["settings"] == {
        "otlp.endpoint": "flag",
        "otlp.headers": "faillog-otel.toml",
        "run.state_dir": "FAILLOG_STATE_DIR",
        "segment.collections": "FAILLOG_COLLECTIONS",
        "segment.token": "faillog-otel.toml",
        "segment.url": "faillog-otel.toml",
    }
    assert (code, states(findings)["token"]) == (1, {"fail"})
    done = run_program("doctor", *args, cwd=tmp_path, **env)
    for told in (done.stdout.decode(), done.stderr, json.dumps(found)):
        assert "canary" not in told
    assert "otlp.headers (faillog-otel.toml)" in done.stdout.decode()


def test_a_wrong_or_missing_token_fails(tmp_path: Path, segment: Simulator, receiver: Receiver) -> None:
    env = settings(tmp_path, segment, receiver.http_endpoint)
    code, findings, _ = examined(tmp_path, **env | {"SEGMENT_TOKEN": "wrong-token"})
    [token] = findings["token"]
    assert (code, token["state"], "401" in token["says"]) == (1, "fail", True)
    assert "wrong-token" not in json.dumps(findings)
    code, findings, _ = examined(tmp_path, **env | {"SEGMENT_TOKEN": ""})
    assert (code, states(findings)["token"]) == (1, {"fail"})
    code, findings, _ = examined(tmp_path, **env | {"SEGMENT_TOKEN": "", "FAILLOG_COLLECTIONS": ""})
    assert (code, states(findings)["token"], states(findings)["collections"]) == (0, {"warn"}, {"warn"})


def test_an_unreachable_segment_fails(tmp_path: Path, segment: Simulator, receiver: Receiver) -> None:
    env = settings(tmp_path, segment, receiver.http_endpoint, FAILLOG_SEGMENT_URL=AWAY)
    code, findings, _ = examined(tmp_path, **env)
    assert (code, states(findings)["token"], states(findings)["clock"]) == (1, {"fail"}, {"warn"})


@pytest.mark.parametrize(
    ("moved", "says"),
    [(3600, "3600 s behind"), (-86400, "86400 s ahead"), (20, "within a minute")],
)
def test_a_wrong_clock_is_reported(
    tmp_path: Path, segment: Simulator, receiver: Receiver, moved: int, says: str
) -> None:
    """It is this machine's that is wrong: Segment's is moved here."""
    segment.clock.forward(moved)
    code, findings, _ = examined(tmp_path, **settings(tmp_path, segment, receiver.http_endpoint))
    [clock] = findings["clock"]
    number = abs(moved)
    near = {says.replace(str(number), str(number + off)) for off in range(-3, 4)}
    assert any(each in clock["says"] for each in near)
    assert (code, clock["state"]) == (0, "ok" if moved == 20 else "warn")


def test_a_collector_that_is_away_or_refuses(tmp_path: Path, segment: Simulator) -> None:
    code, findings, _ = examined(tmp_path, **settings(tmp_path, segment, AWAY))
    assert (code, states(findings)["collector"]) == (1, {"fail"})
    script = {"logs": Reply(401), "traces": None}
    with Receiver(lambda signal, _body: script[signal]) as receiver:
        for protocol, endpoint in (("http/json", receiver.http_endpoint), ("grpc", receiver.grpc_endpoint)):
            args = ("--protocol", protocol)
            script["logs"] = Reply(401) if protocol == "http/json" else Reply(code="UNAUTHENTICATED")
            code, findings, _ = examined(tmp_path, *args, **settings(tmp_path, segment, endpoint))
            [logs, traces] = findings["collector"]
            assert (code, logs["state"], traces["state"]) == (1, "fail", "ok")
            assert "--header" in logs["do"]


def test_records_that_are_written_need_no_collector(tmp_path: Path, segment: Simulator) -> None:
    env = settings(tmp_path, segment, AWAY)
    code, findings, _ = examined(tmp_path, "--protocol", "file", "--output", "out", **env)
    assert (code, states(findings)["collector"]) == (0, {"ok"})
    assert not tmp_path.joinpath("out").exists()


def test_an_older_ledger_that_run_brings_up_to_date_is_well(
    tmp_path: Path, segment: Simulator, receiver: Receiver
) -> None:
    env = settings(tmp_path, segment, receiver.http_endpoint)
    with StateFolder(str(tmp_path / "state")) as folder:
        SqliteLedger(folder).close()
        to_version_2(folder.ledger)
    code, findings, _ = examined(tmp_path, **env)
    [ledger] = findings["ledger"]
    assert (code, ledger["state"]) == (0, "ok")
    assert ledger["says"] == "version 2; `run` upgrades it to version 6"
    hosts = ("--download-host", segment.download_host)
    done = run_program("run", "--once", "--since", "-3h", *hosts, cwd=tmp_path, **env)
    assert done.code == 0, done.stderr


def test_another_programs_database_fails_as_run_does(
    tmp_path: Path, segment: Simulator, receiver: Receiver
) -> None:
    env = settings(tmp_path, segment, receiver.http_endpoint)
    with StateFolder(str(tmp_path / "state")) as folder, closing(sqlite3.connect(folder.ledger)) as other:
        other.execute("CREATE TABLE of_others (x)")
    code, findings, _ = examined(tmp_path, **env)
    assert (code, states(findings)["ledger"]) == (1, {"fail"})
    done = run_program("run", "--once", "--since", "-3h", cwd=tmp_path, **env)
    assert (done.code, findings["ledger"][0]["says"] in done.stderr) == (5, True)


def test_a_collection_that_segment_refused_fails_until_it_was_read(
    tmp_path: Path, segment: Simulator, receiver: Receiver
) -> None:
    """What an earlier run learned; it costs no request to know."""
    wrong, hosts = "shop-mixpnael", ("--download-host", segment.download_host)
    env = settings(tmp_path, segment, receiver.http_endpoint)
    misspelt = env | {"FAILLOG_COLLECTIONS": f"{COLLECTION},{wrong}"}
    assert run_program("run", "--once", "--since", "-12h", *hosts, cwd=tmp_path, **misspelt).code == 6
    asked = sum(each.counted for each in segment.requests())
    code, findings, _ = examined(tmp_path, **misspelt)
    [failed] = [each for each in findings["collections"] if each["state"] == "fail"]
    assert (code, wrong in failed["says"], "HTTP 404" in failed["says"]) == (1, True, True)
    assert "Delivery Overview" in failed["do"]
    code, findings, _ = examined(tmp_path, **env)
    assert (code, states(findings)["collections"]) == (0, {"ok"})
    assert sum(each.counted for each in segment.requests()) == asked


@pytest.mark.parametrize(
    ("more", "check"),
    [
        ({"FAILLOG_COLLECTIONS": "YOUR_COLLECTION_ID"}, "config"),
        slow_case({"FAILLOG_COLLECTIONS": "shop-mixpanel,shop-mixpanel"}, "config"),
        slow_case({"FAILLOG_COLLECTIONS": "shop mixpanel"}, "config"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "api-key"}, "config"),
        ({"FAILLOG_SINCE": "-1h", "FAILLOG_UNTIL": "-2h"}, "window"),
        ({"SEGMENT_TOKEN": "", "SEGMENT_TOKEN_FILE": "."}, "token"),
        slow_case({"FAILLOG_PROTOCOL": "file", "FAILLOG_OUTPUT": "."}, "collector"),
        ({"FAILLOG_PROTOCOL": "file", "FAILLOG_OUTPUT": "missing/out"}, "collector"),
        slow_case(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://h", "OTEL_EXPORTER_OTLP_CERTIFICATE": "."}, "collector"
        ),
        slow_case(
            {"FAILLOG_SELF_OTLP_ENDPOINT": "https://h", "FAILLOG_SELF_OTLP_CERTIFICATE": "."},
            "own metrics",
        ),
        slow_case({"FAILLOG_HEALTH_FILE": "."}, "health check"),
        ({"FAILLOG_HEALTH_ADDR": "192.0.2.1:80"}, "health check"),
    ],
)
def test_doctor_fails_exactly_where_run_would_end_at_its_start(
    tmp_path: Path, segment: Simulator, receiver: Receiver, more: dict[str, str], check: str
) -> None:
    given = settings(tmp_path, segment, receiver.http_endpoint) | more
    env = {name: value for name, value in given.items() if value}
    code, findings, _ = examined(tmp_path, **env)
    failed = {name for name, several in findings.items() if any(each["state"] == "fail" for each in several)}
    assert (code, failed) == (1, {check})
    done = run_program("run", "--once", "--wait", "0s", "--since", "-3h", cwd=tmp_path, **env)
    if "FAILLOG_SINCE" in more:
        done = run_program("run", "--once", cwd=tmp_path, **env)
    assert done.code == 2, done.stderr


def test_it_takes_the_options_of_run_and_says_what_they_need(
    tmp_path: Path, segment: Simulator, receiver: Receiver
) -> None:
    env = settings(tmp_path, segment, receiver.http_endpoint)
    args = ("--once", "--health-addr", "127.0.0.1:0", "--health-file", "alive", "--since", "-40d")
    code, findings, _ = examined(tmp_path, *args, **env)
    assert (code, states(findings)["health check"], states(findings)["window"]) == (0, {"ok"}, {"warn"})
    assert not tmp_path.joinpath("alive").exists()


def test_a_collection_of_another_kind_than_segments_is_warned_about(tmp_path: Path) -> None:
    for given, expected in (("shop-mixpanel", {"ok", "warn"}), ("2wXq0cJ5Zr8vT1nLmKfYb3GdHaE", {"ok"})):
        env = {"FAILLOG_COLLECTIONS": given, "OTEL_EXPORTER_OTLP_ENDPOINT": AWAY, "FAILLOG_STATE_DIR": "s"}
        _, findings, _ = examined(tmp_path, **env)
        assert states(findings)["collections"] == expected


def test_a_state_folder_that_others_can_read(tmp_path: Path, segment: Simulator, receiver: Receiver) -> None:
    env = settings(tmp_path, segment, receiver.http_endpoint)
    state = tmp_path / "state"
    with StateFolder(str(state)) as folder:
        SqliteLedger(folder).close()
    state.joinpath("ledger.sqlite3").chmod(0o644)
    code, findings, _ = examined(tmp_path, **env)
    [found] = findings["state folder"]
    assert (code, found["state"], found["do"]) == (0, "warn", f"chmod -R go= {state}")
    assert stat.S_IMODE(state.joinpath("ledger.sqlite3").stat().st_mode) == 0o644


def test_a_damaged_ledger_fails(tmp_path: Path, segment: Simulator, receiver: Receiver) -> None:
    env = settings(tmp_path, segment, receiver.http_endpoint)
    with StateFolder(str(tmp_path / "state")) as folder:
        SqliteLedger(folder).close()
        folder.ledger.write_bytes(b"spoilt" * 1000)
    code, findings, _ = examined(tmp_path, **env)
    assert (code, states(findings)["ledger"]) == (1, {"fail"})
    shutil.rmtree(tmp_path / "state")
    tmp_path.joinpath("state").write_text("a file")
    code, findings, _ = examined(tmp_path, **env)
    assert (code, states(findings)["state folder"]) == (1, {"fail"})


@pytest.mark.parametrize("is_there", [True, False])
def test_a_state_folder_of_another_user(
    tmp_path: Path, segment: Simulator, receiver: Receiver, *, is_there: bool
) -> None:
    state = tmp_path / "of-another" / "state"
    state.parent.mkdir()
    if is_there:
        with StateFolder(str(state)) as folder:
            SqliteLedger(folder).close()
    command = [PROGRAM, "doctor", "--json", "--state-dir", str(state)]
    if (
        os.geteuid() == 0
    ):  # root writes everywhere: the folder is another's, and root's privilege is laid down
        for each in (state.parent, *state.parent.rglob("*")):
            os.chown(each, NOBODY, NOBODY)
        privileges = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={privileges}", f"--inh-caps={privileges}", *command]
    else:
        state.chmod(0o500) if is_there else state.parent.chmod(0o500)
    env = environment(**settings(tmp_path, segment, receiver.http_endpoint))
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False)
    failed = [each for each in json.loads(done.stdout)["findings"] if each["state"] == "fail"]
    assert (done.returncode, [each["check"] for each in failed]) == (1, ["state folder"]), done.stderr
    assert "--state-dir" in failed[0]["do"]


@pytest.mark.parametrize(
    "text", ["[otlp]\nendpont = 'x'\n", "[otlp", "[otlp]\nendpoint = 'localhost:4318'\n"]
)
def test_a_wrong_configuration_fails_and_wrong_usage_is_exit_2(tmp_path: Path, text: str) -> None:
    tmp_path.joinpath("faillog-otel.toml").write_text(text)
    code, findings, _ = examined(tmp_path)
    assert (code, states(findings)) == (1, {"config": {"fail"}})
    done = run_program("doctor", "--nothing", cwd=tmp_path)
    assert (done.code, done.stdout) == (2, b"")


def test_escape_sequences_are_never_printed_raw(
    tmp_path: Path, segment: Simulator, receiver: Receiver
) -> None:
    env = settings(tmp_path, segment, receiver.http_endpoint, FAILLOG_STATE_DIR="\x1b[31mred")
    for args in ([], ["--json"]):
        done = run_program("doctor", *args, cwd=tmp_path, **env)
        assert (done.code, b"\x1b" in done.stdout, b"[31mred" in done.stdout) == (0, False, True)
