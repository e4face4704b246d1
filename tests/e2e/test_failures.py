"""`failures`, as people and scripts call it: on files, on a state folder, on a terminal, and wrongly."""

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.events import attempt, error, exchange, lines
from support.polled_folder import AWAY, PolledFolder, polled_folder
from support.program import PROGRAM, Done, environment, run_program

from faillog_otel.propagation import trace_id_of
from faillog_otel.sandbox.collector import Receiver

# -- wrong input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["events", "--state-dir", "state"], "PATHs and --state-dir exclude each other; remove one of them"),
        (["--json", "--csv"], "--json, --csv and --replay-request exclude each other; choose one"),
        (
            ["--messages", "--replay-request"],
            "--messages and --replay-request exclude each other; choose one",
        ),
        (["--since", "yesterday"], "--since: 'yesterday' is not a time; write RFC 3339"),
        (["--until", "36h"], "--until: '36h' is not a time; write -36h for a time before now"),
        (["--since", "-1h", "--until", "-2h"], "--since is not before --until"),
        (["--new-within", "soon"], "--new-within: 'soon' is not a duration"),
        (["--class", "credential"], "--class"),
    ],
)
def test_wrong_usage_says_what_to_do(tmp_path: Path, args: list[str], says: str) -> None:
    done = run_program("failures", *args, cwd=tmp_path)
    assert (done.code, done.stdout) == (2, b"")
    assert says in done.stderr


def test_without_a_ledger_the_exit_code_is_5(tmp_path: Path) -> None:
    done = run_program("failures", "--state-dir", "state", cwd=tmp_path)
    assert (done.code, done.stdout) == (5, b"")
    assert "poll with `run` first, or name another --state-dir" in done.stderr


def test_a_wrong_link_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "faillog-otel.toml").write_text('[links]\ntrace = "https://t.example"\n')
    done = run_program("failures", "--state-dir", "state", cwd=tmp_path)
    assert (done.code, done.stdout) == (2, b"")
    assert "[links] trace" in done.stderr
    assert "{trace_id}" in done.stderr


# -- a polled folder without failures ----------------------------------------------------------------------


def test_an_empty_report_says_that_nothing_was_read(tmp_path: Path) -> None:
    with polled_folder(tmp_path) as polled, Receiver() as receiver:
        polled.run(receiver.http_endpoint)
        early = ("--since", "2020-01-01T00:00:00Z", "--until", "2020-01-02T00:00:00Z")
        done = run_program("failures", "--state-dir", polled.state, *early, cwd=tmp_path, TZ="UTC")
    assert done.code == 0
    assert done.stdout.decode().splitlines() == [
        "No failures from 2020-01-01 00:00 to 2020-01-02 00:00 (UTC)",
        "No hour of this time was polled.",
    ]


# -- files -------------------------------------------------------------------------------------------------

MESSAGE = "756be882-ea9a-4d36-b7dd-35c14aeefb9b"
KEY = {"to": [{"type": "destination", "id": "braze"}], "from": [{"type": "source", "id": "ghi"}]}
REFUSED = {
    "responseFromDestination": {"status": 401, "headers": {}, "body": '{"message": "Invalid API key"}'}
}
UNAVAILABLE = {"responseFromDestination": {"status": 503, "headers": {}, "body": "Service Unavailable"}}


def write_events(folder: Path) -> None:
    """Two messages to a destination that is down, one of them discarded; three with a wrong key."""
    down = [
        attempt(messageId=name, attempt=number, destinationExchangeId=f"{name}{number}")
        for name in (MESSAGE, "recovers")
        for number in (1, 2)
    ]
    answers = [
        exchange(destinationExchangeId=f"{name}{number}", **UNAVAILABLE)
        for name in (MESSAGE, "recovers")
        for number in (1, 2)
    ]
    later = {"occurredAt": "2025-03-23T20:10:00Z", "loggedAt": "2025-03-23T20:10:00Z"}
    recovered = attempt(messageId="recovers", attempt=3, outcome="success", **later)
    discarded = error(messageId=MESSAGE, attempt=2, **later)
    key = [attempt(messageId=f"k{number}", routed=KEY, destinationExchangeId="k") for number in range(3)]
    refused = exchange(routed=KEY, destinationExchangeId="k", **REFUSED)
    discards = [error(messageId=f"k{number}", routed=KEY, reason="INVALID_SETTINGS") for number in range(3)]
    (folder / "events").write_bytes(lines(*down, *answers, recovered, discarded, *key, refused, *discards))
    (folder / "faillog-otel.toml").write_text(
        '[links]\ntrace = "jaeger"\nurl = "http://jaeger.example"\n'
        '[mapping]\ndestination_names = { braze = "Braze (prod)" }\n'
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("failures")
    write_events(found)
    return found


def failures(folder: Path, *args: str, **env: Any) -> Done:
    done = run_program("failures", "events", *args, cwd=folder, TZ="UTC", **env)
    assert done.code == 0, done.stderr
    return done


def test_two_causes_are_two_groups(folder: Path) -> None:
    """A discard with a code and an answer with a status are one."""
    found = json.loads(failures(folder, "--json").stdout)
    key, down = found["groups"]
    assert (key["destination"]["name"], key["code"], key["status"]) == (
        "Braze (prod)",
        "INVALID_SETTINGS",
        401,
    )
    assert key["messages"] == {"lost": 3, "pending": 0, "recovered": 0}
    assert (key["attempts"], key["requests"]) == (12, 1), "each message failed in its fourth attempt"
    assert (down["destination"]["id"], down["status"], down["class"]) == ("abc", 503, "destination_down")
    assert down["messages"] == {"lost": 1, "pending": 0, "recovered": 1}
    assert (down["attempts"], down["requests"]) == (4, 4)
    assert down["by_hour"] == {"2025-03-23T20:00:00Z": 2}
    assert down["sample"]["message_id"] == MESSAGE
    assert down["sample"]["link"] == f"http://jaeger.example/trace/{trace_id_of(MESSAGE)}"
    assert found["totals"]["messages"] == {"lost": 4, "pending": 0, "recovered": 1}


def test_the_table_says_the_same(folder: Path) -> None:
    shown = failures(folder).stdout.decode()
    found = json.loads(failures(folder, "--json").stdout)
    for each in found["groups"]:
        assert re.search(rf"^{each['group'][:8]} +{each['messages']['lost']} ", shown, re.MULTILINE)
        assert f"→ {each['remedy']}\n" in shown
        assert f"{each['sample']['link']}\n" in shown
    assert "\x1b" not in shown


def test_filters_choose_groups_and_messages(folder: Path) -> None:
    for args in (["--destination", "braze (PROD)"], ["--class", "settings", "--class", "credentials"]):
        [only] = json.loads(failures(folder, "--json", *args).stdout)["groups"]
        assert only["destination"]["id"] == "braze"
        messages = failures(folder, "--messages", "--json", *args).stdout.splitlines()
        assert {json.loads(each)["message_id"] for each in messages} == {"k0", "k1", "k2"}


def test_an_unknown_destination_is_a_warning(folder: Path) -> None:
    done = failures(folder, "--destination", "brase")
    assert "--destination brase: no destination with this id or name is known" in done.stderr
    assert done.stdout.startswith(b"No failures")


def test_csv_has_the_same_numbers(folder: Path) -> None:
    first, second = csv.DictReader(io.StringIO(failures(folder, "--csv").stdout.decode(), newline=""))
    assert (first["destination_name"], first["messages_lost"]) == ("Braze (prod)", "3")
    assert (second["destination_id"], second["messages_recovered"]) == ("abc", "1")


def test_messages_say_what_to_send_again(folder: Path) -> None:
    found = [json.loads(each) for each in failures(folder, "--messages", "--json").stdout.splitlines()]
    states = {each["message_id"]: each["state"] for each in found}
    assert states == {MESSAGE: "lost", "recovers": "recovered", "k0": "lost", "k1": "lost", "k2": "lost"}
    listed = failures(folder, "--messages").stdout.decode()
    assert all(each["message_id"] in listed and each["link"] in listed for each in found)


def test_the_mail_is_on_standard_output_and_the_notes_are_not(folder: Path) -> None:
    done = failures(folder, "--replay-request")
    assert done.stdout.decode().startswith("Subject: Request for a replay\n")
    assert "Destination: Braze (prod), id braze" in done.stdout.decode()
    assert "Repair first: Braze (prod)" in done.stderr


def test_a_path_that_cannot_be_read_is_exit_code_2(folder: Path) -> None:
    done = run_program("failures", "events", "missing", "--json", cwd=folder)
    assert done.code == 2
    assert "missing: no such file" in done.stderr
    assert len(json.loads(done.stdout)["groups"]) == 2


def test_without_a_file_nothing_is_said_of_failures(tmp_path: Path) -> None:
    done = run_program("failures", "missing", cwd=tmp_path)
    assert (done.code, done.stdout) == (2, b"No failures were read\nRead 0 records in 0 files.\n")


def test_what_is_no_event_is_a_warning(folder: Path) -> None:
    """A file that is not of the failure logs must not look like one without failures."""
    (folder / "other").write_text("GET / 200\n")
    done = run_program("failures", "other", "--json", cwd=folder)
    assert (done.code, json.loads(done.stdout)["groups"]) == (0, [])
    assert "warning: 1 record not counted: not an event of the failure logs" in done.stderr


def test_a_terminal_gets_hyperlinks_and_a_table_of_its_width(folder: Path) -> None:
    shown = on_terminal(["failures", "events"], folder, COLUMNS="80", TERM="xterm-256color")
    link = f"http://jaeger.example/trace/{trace_id_of(MESSAGE)}"
    assert f"\x1b]8;;{link}\x1b\\trace {trace_id_of(MESSAGE)}\x1b]8;;\x1b\\" in shown
    plain = re.sub(r"\x1b\]8;;[^\x1b]*\x1b\\|\x1b\[[0-9;]*m", "", shown)
    assert max(map(len, plain.splitlines())) <= 80
    without = on_terminal(["failures", "events"], folder, COLUMNS="80", TERM="xterm", NO_COLOR="1")
    assert "\x1b" not in without
    assert link in without


def on_terminal(args: list[str], folder: Path, **env: str) -> str:
    """What the program writes to a terminal on standard output."""
    reader, writer = pty.openpty()
    process = subprocess.Popen([PROGRAM, *args], cwd=folder, env=environment(**env), stdout=writer)
    os.close(writer)
    shown = b""
    try:
        while piece := os.read(reader, 65536):
            shown += piece
    except OSError:  # so Linux says that the other end is closed
        pass
    finally:
        os.close(reader)
        process.wait(60)
    return shown.decode().replace("\r\n", "\n")


def test_a_reader_that_closes_the_pipe_ends_the_list(folder: Path) -> None:
    events = [error(messageId=f"m{number}") for number in range(20_000)]
    (folder / "many").write_bytes(lines(*events))
    command = [PROGRAM, "failures", "many", "--messages", "--json"]
    with subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["state"] == "lost"
        process.stdout.close()
        assert process.wait(60) == 128 + signal.SIGPIPE


# -- a polled folder ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def polled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolledFolder]:
    with polled_folder(tmp_path_factory.mktemp("polled")) as found, Receiver() as receiver:
        found.run(receiver.http_endpoint)
        yield found


def test_the_ledger_knows_what_failed(polled: PolledFolder) -> None:
    """Its messages and its groups have the same numbers, and none of them needs the network."""
    since = ("--since", "2020-01-01T00:00:00Z")
    report = polled.report("failures", "--all", *since)[1]
    args = ("failures", "--state-dir", polled.state, "--messages", "--json", *since)
    messages = [json.loads(each) for each in run_program(*args, cwd=polled.folder).stdout.splitlines()]
    for group in report["groups"]:
        states = [each["state"] for each in messages if each["group"] == group["group"]]
        assert {state: states.count(state) for state in group["messages"]} == group["messages"]
    assert len(messages) == sum(report["totals"]["messages"].values()) > 0
    assert report["left_out"] == report["forgotten"] == 0


def test_the_summary_of_a_polling_run_has_the_groups_of_its_window(polled: PolledFolder) -> None:
    """Also of what earlier runs forwarded."""
    known = polled.report("failures", "--all", "--since", "2020-01-01T00:00:00Z")[1]["groups"]
    found = json.loads(polled.run(AWAY).stdout)
    assert found["records"] == 0
    ids = [each["group"] for each in found["groups"]]
    assert 0 < len(ids) <= 20
    assert {*ids} <= {each["group"] for each in known}


def test_the_closing_text_of_a_run_names_the_worst_groups_with_remedy_and_a_trace(folder: Path) -> None:
    found = json.loads(failures(folder, "--json").stdout)["groups"]
    done = run_program("run", "events", "--protocol", "file", "--output", "out", cwd=folder)
    assert done.code == 0, done.stderr
    for each in found:
        assert f"  → {each['remedy']}\n" in done.stderr
    assert "Braze (prod): HTTP 401 INVALID_SETTINGS (credentials): 3 lost\n" in done.stderr
    messages = map(json.loads, failures(folder, "--messages", "--json").stdout.splitlines())
    lost = [each["link"] for each in messages if each["state"] == "lost"]
    assert done.stderr.splitlines()[-1].removeprefix("a lost message: ") in lost
    quiet = run_program("run", "events", "-q", "--protocol", "file", "--output", "out", cwd=folder)
    assert "→" not in quiet.stderr
