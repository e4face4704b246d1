"""`status` and `plan`, as people call them: after a run, during one, and before the first."""

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.polled_folder import AWAY, COLLECTION, PolledFolder, polled_folder
from support.program import PROGRAM, environment, run_program, start_program

from faillog_otel.clock import HOUR_NS, SECOND_NS, hour_of, hour_text, time_text
from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.config import SimulatedClock, SimulatorConfig

ESCAPE = "\x1b[31mred"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolledFolder]:
    with polled_folder(tmp_path_factory.mktemp("polled")) as polled, Receiver() as receiver:
        done = polled.run(receiver.http_endpoint)
        assert done.code == 3, done.stderr
        polled.folder.joinpath("summary").write_text(json.dumps(done.summary))
        yield polled


@pytest.fixture
def polled(original: PolledFolder, tmp_path: Path) -> PolledFolder:
    """A copy, to be changed."""
    return original.copied_to(tmp_path)


def test_status_says_what_the_run_did(original: PolledFolder) -> None:
    done, found = original.report("status")
    summary = json.loads(original.folder.joinpath("summary").read_text())
    assert done.code == 0
    assert found["records"] == {name: summary[name] for name in found["records"]}
    assert sum(found["quarantine"].values()) == summary["quarantined"] > 0
    assert found["quota"]["used"] == len(original.segment.requests()) - len(
        [each for each in original.segment.requests() if not each.counted]
    )
    assert found["quota"]["used"] + found["quota"]["left"] == found["quota"]["per_day"] == 120
    assert found["quota"]["said"]["remaining"] == 120 - found["quota"]["used"]
    covered = found["collections"][COLLECTION]
    assert covered["polled"]
    assert covered["hours"]["read"] + covered["hours"]["empty"] == found["quota"]["used"]
    cells = "".join(covered["days"].values())
    assert {mark: cells.count(mark) for mark in found["marks"].values()} == {
        found["marks"][state]: number for state, number in covered["hours"].items()
    }
    assert all(len(cells) == 24 for cells in covered["days"].values())
    assert 2 * 3600 <= found["lag"]["read"]["seconds"] < 4 * 3600
    assert found["objects"] == {"to_download": 0, "to_forward": 0}
    assert (found["bytes"]["spool"], found["held_by"], found["missed_per_day"]) == (0, None, {})
    assert found["bytes"]["digests"] == 8 * (summary["exported"] + summary["quarantined"])


def test_status_for_people_says_the_same(original: PolledFolder) -> None:
    found = original.report("status")[1]
    done = run_program("status", "--state-dir", original.state, cwd=original.folder)
    text = done.stdout.decode()
    assert done.code == 0
    for day, cells in found["collections"][COLLECTION]["days"].items():
        assert f"  {day}  {cells}\n" in text
    assert f"{found['records']['exported']} exported" in text
    assert "invalid_json" in text
    assert re.search(r"^lag +[23] h \d\d min behind; newest hour read: ", text, re.MULTILINE)
    assert "\x1b" not in text


def test_what_the_collector_did_not_take_is_in_the_spool(tmp_path: Path) -> None:
    with polled_folder(tmp_path) as polled:
        done = polled.run(AWAY, "--wait", "0s")
        assert done.code == 4
        found = polled.report("status")[1]
        assert found["records"]["pending"] == done.summary["pending"] == found["records"]["records"] > 0
        assert found["objects"]["to_forward"] == len(list(polled.state.joinpath("spool").glob("*[0-9]"))) > 0
        assert found["collections"][COLLECTION]["hours"]["partial"] > 0
        assert found["bytes"]["spool"] > 0
        assert polled.report("audit")[1]["sums"]["pending"] == done.summary["pending"]


def test_plan_after_a_run_asks_for_nothing_that_was_read(original: PolledFolder) -> None:
    options = ("--collection", COLLECTION, "--since", "-10h")
    read = original.sql("SELECT hour FROM hours")
    done, found = original.report("plan", *options)
    assert (done.code, found["to_download"], found["failed"]) == (0, 0, 0)
    assert {hour_text(hour) for [hour] in read}.isdisjoint(each["hour"] for each in found["requests"])
    assert found["next_request"] >= found["now"]
    assert (found["reads_per_hour"], found["reads_after_hours"]) == (4, [2, 6, 26])
    assert (found["collections_covered"], found["missed_per_day"]) == (5, {})
    done = run_program("plan", *options, "--state-dir", original.state, cwd=original.folder)
    assert (done.code, b"4 of each hour: 2 h, 6 h, 26 h after its end, and before" in done.stdout) == (
        0,
        True,
    )


def test_plan_and_status_are_of_what_the_last_run_used_where_nothing_is_set(
    polled: PolledFolder, receiver: Receiver
) -> None:
    given = ("--collection", COLLECTION, "--since", "-10h", "--until", "-3h")
    assert polled.run(receiver.http_endpoint, "--until", "-3h").code in (0, 3)
    _, as_given = polled.report("plan", *given)
    done, found = polled.report("plan")
    assert done.code == 0, done.stderr
    for name in ("collections", "requests", "waiting", "next_request"):
        assert found[name] == as_given[name], name
    assert found["since"] < found["until"]
    assert as_given["until"] <= found["until"]  # both are three hours ago, and this one was asked later
    text = run_program("plan", "--state-dir", polled.state, cwd=polled.folder).stdout.decode()
    shown = re.search(rf"since (\S+) until (\S+), of {COLLECTION}", text)
    assert shown is not None, text
    assert shown[1] >= found["since"]  # the same window, asked later
    assert shown[2] >= found["until"]
    assert polled.report("plan", "--collection", "other")[1]["collections"] == ["other"]
    assert polled.report("status")[1]["collections"][COLLECTION]["polled"]


def test_plan_knows_the_collections_of_an_older_ledger(polled: PolledFolder) -> None:
    polled.sql("DELETE FROM facts WHERE name = 'polled'")
    done, found = polled.report("plan")
    assert (done.code, found["collections"]) == (0, [COLLECTION])


def test_plan_without_a_ledger_is_what_the_first_run_asks(tmp_path: Path) -> None:
    """In the same order, and nothing is sent or made for it."""
    with polled_folder(tmp_path, standing=True) as polled, Receiver() as receiver:
        options = ("--collection", COLLECTION, "--since", "-10h", "--once")
        found = polled.run_at_segment_time("plan", "--json", *options)
        assert (polled.segment.requests(), polled.state.exists()) == ([], False)
        assert found["next_request"] == found["now"]
        assert {each["why"] for each in found["requests"]} == {"fresh"}
        polled.run_at_segment_time("run", *polled.once_options(receiver.http_endpoint))
        asked = [each.hour for each in polled.segment.requests() if each.counted]
        assert [each["hour"] for each in found["requests"]] == asked


def test_hours_settle_close_and_expire(tmp_path: Path) -> None:
    """Some hours are read for 28 days, all later ones by nobody."""
    with polled_folder(tmp_path, standing=True) as polled, Receiver() as receiver:
        until = time_text(polled.segment.clock.now_ns())
        run = ("run", *polled.once_options(receiver.http_endpoint), "--until", until)
        polled.run_at_segment_time(*run)
        states = [polled.run_at_segment_time("status", "--json")["collections"][COLLECTION]["hours"]]
        for hours in (25, 630, 10 * 24):
            polled.segment.clock.forward(hours * 3600)
            polled.run_at_segment_time(*run)
            states.append(polled.run_at_segment_time("status", "--json")["collections"][COLLECTION]["hours"])
            assert polled.run_at_segment_time("audit", "--json")["holds"]
        first, second, third, last = states
        assert first["read"] > 0 == first["settled"] + first["closed"] + first["expired"]
        assert second["settled"] > 0 == second["closed"] + second["expired"]
        assert third["closed"] > 0 == third["expired"]
        assert last["expired"] > 9 * 24 > 0 == last["closed"]


def test_plan_says_what_will_be_missed(tmp_path: Path) -> None:
    ids = [f"c{number}" for number in range(20)]
    more = [word for each in ids for word in ("--collection", each)]
    done = run_program("plan", "--json", *more, cwd=tmp_path, XDG_STATE_HOME=str(tmp_path))
    found = json.loads(done.stdout)
    assert found["missed_per_day"] == dict.fromkeys(ids, 18.0)
    assert len(found["requests"]) == 120 - sum(found["waiting"].values()) or found["waiting"]
    done = run_program("plan", *more, cwd=tmp_path, XDG_STATE_HOME=str(tmp_path))
    assert b"each misses 18.0 of 24 hours a day" in done.stdout


def test_a_failed_hour_is_named_with_why(polled: PolledFolder) -> None:
    [[hour]] = polled.sql("SELECT max(hour) FROM hours WHERE last_listed_ns IS NOT NULL")
    polled.sql(
        "UPDATE hours SET failures = 2, failed_why = ?, failed_ns = last_listed_ns WHERE hour = ?",
        f"HTTP 503 {ESCAPE}",
        hour,
    )
    [failed] = polled.report("status")[1]["collections"][COLLECTION]["failed"]
    assert (failed["times"], failed["why"]) == (2, f"HTTP 503 {ESCAPE}")
    assert polled.report("plan", "--collection", COLLECTION)[1]["failed"] == 1
    text = run_program("status", "--state-dir", polled.state, cwd=polled.folder).stdout
    assert b"!     1 failed" in text
    assert b"HTTP 503 \\x1b[31mred (2 attempts, the last at" in text


def test_status_and_plan_work_while_the_sidecar_runs(tmp_path: Path) -> None:
    with polled_folder(tmp_path) as polled, Receiver() as receiver:
        endpoint = ("--endpoint", receiver.http_endpoint)
        process = start_program(
            "run", *endpoint, *polled.options, cwd=tmp_path, SEGMENT_TOKEN=polled.segment.token
        )
        try:
            found: dict[str, object] = {}
            while process.poll() is None and not (found.get("held_by") and receiver.received):
                found = polled.report("status")[1]
            assert found["held_by"] == process.pid
            assert polled.report("plan", "--collection", COLLECTION)[0].code == 0
            audited = polled.report("audit")
            assert (audited[0].code, audited[1]["problems"]) == (0, [])
            done = run_program(
                "doctor", *endpoint, *polled.options, cwd=tmp_path, SEGMENT_TOKEN=polled.segment.token
            )
            assert (done.code, f"process {process.pid} holds it" in done.stdout.decode()) == (0, True)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()
        assert process.returncode == 143
        assert polled.report("status")[1]["held_by"] is None
        assert polled.report("audit")[0].code == 0


def test_status_and_plan_change_nothing(polled: PolledFolder) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in polled.state.rglob("*") if path.is_file()}

    before = contents()
    for command in ("status", "plan", "audit"):
        more = ("--collection", COLLECTION) if command == "plan" else ()
        assert polled.report(command, *more)[0].code == 0
    assert contents() == before


def test_colours_are_for_terminals_and_escapes_for_nobody(polled: PolledFolder) -> None:
    polled.sql("INSERT INTO hours (collection, hour, failures) VALUES (?, 490000, 1)", ESCAPE)
    reader, writer = pty.openpty()
    command = [PROGRAM, "status", "--state-dir", str(polled.state)]
    subprocess.run(command, cwd=polled.folder, env=environment(), stdout=writer, check=True)
    os.close(writer)
    shown = b""
    try:
        while piece := os.read(reader, 1 << 16):
            shown += piece
    except OSError:  # so Linux says that the other end is closed
        pass
    os.close(reader)
    assert b"\x1b[33m+" in shown
    assert ESCAPE.encode() not in shown
    assert b"\\x1b[31mred" in shown
    for args in (["status"], ["plan"], ["status", "--json"], ["audit"]):
        done = run_program(*args, "--state-dir", polled.state, cwd=polled.folder)
        assert (done.code, b"\x1b" in done.stdout) == (0, False), args


@pytest.mark.parametrize("command", ["status", "audit"])
def test_without_a_ledger_it_is_exit_5_and_nothing_is_created(tmp_path: Path, command: str) -> None:
    done = run_program(command, "--state-dir", "missing", cwd=tmp_path)
    assert (done.code, done.stdout) == (5, b"")
    assert "holds no ledger" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["plan", "--state-dir", "state"], "--collection"),
        (["plan", "--collection", "c", "--since", "soon"], "soon"),
        (["status", "--config", "missing.toml"], "missing.toml"),
        (["audit", "--nothing"], "--nothing"),
    ],
)
def test_wrong_usage_is_exit_2(tmp_path: Path, args: list[str], says: str) -> None:
    done = run_program(*args, cwd=tmp_path)
    assert (done.code, done.stdout, says in done.stderr) == (2, b"", True)


@pytest.mark.parametrize("command", ["status", "plan", "audit"])
def test_a_ledger_that_is_invalid_or_newer_is_exit_5_with_the_remedy(
    tmp_path: Path, polled: PolledFolder, command: str
) -> None:
    more = ("--collection", COLLECTION) if command == "plan" else ()
    polled.sql("PRAGMA user_version = 99")
    done, _ = polled.report(command, *more)
    assert (done.code, "newer faillog-otel" in done.stderr) == (5, True)
    polled.sql("PRAGMA user_version = 0")
    done, _ = polled.report(command, *more)
    assert (done.code, "older" in done.stderr) == (5, True)
    tmp_path.joinpath("state", "ledger.sqlite3").write_bytes(b"no ledger at all" * 1000)
    done, _ = polled.report(command, *more)
    assert (done.code, "; move " in done.stderr) == (5, True)


def test_no_request_counts_beside_the_word_that_knows_of_it(tmp_path: Path, receiver: Receiver) -> None:
    """The machine's clock is a little ahead: Segment's time, which polling goes by, steps back each time."""
    end_of_a_second = SimulatedClock(HOUR_NS * hour_of(time.time_ns()) + SECOND_NS - 1, standing=True)
    with Simulator(SimulatorConfig(), end_of_a_second) as segment:
        polled = PolledFolder(segment, tmp_path)
        assert polled.run(receiver.http_endpoint).code == 0
        segment.clock.move_to(segment.clock.now_ns() + 60 * SECOND_NS)
        quota = polled.run_at_segment_time("status", "--json")["quota"]
    assert quota["said"]["remaining"] == 120 - quota["used"] < 120
    assert quota["left"] == quota["said"]["remaining"]
