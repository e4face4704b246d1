"""`--protocol console`: what failed, the worst group first, one tree for each message of the whole run."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from support.events import attempt, error, event, exchange, lines
from support.program import PROGRAM, environment, run_program, start_program
from support.sidecar import segment_simulator, sidecar, sidecar_options
from support.tiers import slow
from wcwidth import wcswidth

from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.generator import failure_events

MESSAGES = 1442
TITLE = re.compile(r"^message (\S+)  trace [0-9a-f]{32}$", re.MULTILINE)
HEADLINE = re.compile(
    r"^— .*?(?P<messages>\d+) messages?(?:, (?P<discarded>\d+) discarded)?, (?P<attempts>\d+) failed attempt"
)


class Shown(Struct):
    """What was printed: for each headline its numbers, and the ids of the messages below it."""

    text: str
    counts: list[tuple[int, int, int]] = []
    """Discarded messages, messages, failed attempts."""
    messages: list[list[str]] = []
    rest: list[str] = []
    """The ids below the headings of what did not fail."""


def read(text: str) -> Shown:
    shown = Shown(text, [], [], [])
    below = shown.rest
    for line in text.splitlines():
        if found := HEADLINE.match(line):
            number = {name: int(value or 0) for name, value in found.groupdict().items()}
            shown.counts.append((number["discarded"], number["messages"], number["attempts"]))
            shown.messages.append(below := [])
        elif line.startswith("— "):
            below = shown.rest
        elif title := TITLE.match(line):
            below.append(title[1])
    return shown


def console(*args: str | Path, cwd: Path, **env: Any) -> Shown:
    done = run_program("run", *args, "--protocol", "console", cwd=cwd, **env)
    assert done.code == 0, done.stderr
    return read(done.stdout.decode())


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    return [json.loads(raw) for raw in failure_events(1, MESSAGES)]


@pytest.fixture(scope="module")
def scattered(events: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of each message in several files, and in many batches."""
    folder = tmp_path_factory.mktemp("scattered")
    for number in range(4):
        own = [json.dumps(each).encode() for each in events[number::4]]
        folder.joinpath(f"part-{number}").write_bytes(lines(*own))
    return folder


@pytest.fixture(scope="module")
def everything(scattered: Path) -> Shown:
    return console(scattered, "--all", cwd=scattered.parent)


def ids(events: list[dict[str, Any]], **wanted: object) -> set[str]:
    return {
        each["properties"]["messageId"]
        for each in events
        if "messageId" in each["properties"]
        and all(each["properties"].get(name) == value for name, value in wanted.items())
    }


def test_all_shows_every_message_once_with_all_of_its_records(
    events: list[dict[str, Any]], everything: Shown
) -> None:
    titles = TITLE.findall(everything.text)
    assert len(titles) == len(set(titles)) == MESSAGES
    assert set(titles) == ids(events)
    assert set(everything.rest) == ids(events) - ids(events, outcome="failure") - ids(events, discarded=True)
    attempts = [each for each in events if each["event"] == "Delivery Attempt Logged"]
    assert len(re.findall("^[├└].*  attempt ", everything.text, re.MULTILINE)) == len(attempts)
    assert everything.text.count("↳ link: POST ") == len(attempts)  # each exchange is in the files
    assert everything.text.count("  log ") == sum(each["event"] == "Error Logged" for each in events)
    assert "not shown" not in everything.text


def test_headlines_add_up(events: list[dict[str, Any]], everything: Shown) -> None:
    discarded, messages, attempts = map(sum, zip(*everything.counts, strict=True))
    assert discarded == len(ids(events, discarded=True))
    assert messages == MESSAGES - len(everything.rest)
    assert attempts == sum(each["properties"].get("outcome") == "failure" for each in events)
    assert [len(group) for group in everything.messages] == [count[1] for count in everything.counts]
    assert f"— {len(everything.rest)} messages without failures\n" in everything.text


def test_the_worst_group_comes_first_and_messages_are_in_order_of_time(everything: Shown) -> None:
    assert everything.counts == sorted(everything.counts, reverse=True)
    for group in re.split("^— ", everything.text, flags=re.MULTILINE)[1:]:
        times = re.findall(r"^message .*\n[├└]─ ([0-9-]+ [0-9:]+)", group, re.MULTILINE)
        assert times == sorted(times)


def test_by_default_one_message_of_each_group_is_shown(scattered: Path, everything: Shown) -> None:
    shown = console(scattered, cwd=scattered.parent)
    assert shown.counts == everything.counts
    assert [len(group) for group in shown.messages] == [1] * len(shown.counts)
    for (sample,), group in zip(shown.messages, everything.messages, strict=True):
        assert sample in group
    failing, groups = sum(map(len, everything.messages)), len(everything.counts)
    assert shown.text.endswith(
        f"\nshowed {groups} of {groups} groups, one message of each: {groups} of {failing} failing messages\n"
        f"not shown: {len(everything.rest)} messages without failures\n"
        "--all shows everything\n\n"
    )
    assert shown.text.count("\n") < 300


@pytest.mark.parametrize("signal_", ["logs", "traces"])
def test_one_signal_alone_has_the_same_groups(scattered: Path, everything: Shown, signal_: str) -> None:
    shown = console(scattered, "--all", "--signals", signal_, cwd=scattered.parent)
    assert {frozenset(group) for group in shown.messages} == {frozenset(g) for g in everything.messages}
    assert Counter(count[1:] for count in shown.counts) == Counter(c[1:] for c in everything.counts)


def to(destination: int, **properties: Any) -> dict[str, Any]:
    routed = {
        "to": [{"type": "destination", "id": f"d{destination}"}],
        "from": [{"type": "source", "id": "s"}],
    }
    return {"routed": routed, **properties}


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    failing = [
        error(**to(destination, messageId=f"m{destination}-{number}"))
        for destination in range(31)
        for number in range(destination + 1)
    ]
    succeeded = [attempt(messageId=f"good-{number}", outcome="success") for number in range(2)]
    alone = exchange(destinationExchangeId="alone")
    unknown = event("Retry Logged", occurredAt="2025-03-23T20:00:00Z", loggedAt="2025-03-23T20:00:00Z")
    (tmp_path / "events").write_bytes(lines(*failing, *succeeded, alone, alone, unknown))
    shown = console("events", cwd=tmp_path)
    assert [count[1] for count in shown.counts] == list(range(31, 11, -1))
    assert shown.text.endswith(
        "\nshowed 20 of 31 groups, one message of each: 20 of 496 failing messages\n"
        "not shown: 2 messages without failures, 1 exchange that no attempt links to,"
        " 1 record without a message\n"
        "--all shows everything\n\n"
    )
    whole = console("events", "--all", cwd=tmp_path)
    assert len(whole.counts) == 31
    assert whole.rest == ["good-0", "good-1"]
    assert whole.text.count("HTTP abc  HTTP 418") == 1
    assert "— 1 exchange that no attempt links to\n" in whole.text
    assert "— 1 record without a message\n" in whole.text
    assert "log INFO  Unknown event" in whole.text


def test_a_message_belongs_to_the_group_of_its_most_specific_record(tmp_path: Path) -> None:
    """An error that comes later, and has a code only, is not the cause."""
    (tmp_path / "events").write_bytes(
        lines(
            error(reason="INVALID_SETTINGS", occurredAt="2025-03-23T21:00:00Z"),
            attempt(),
            exchange(responseFromDestination={"status": 401, "body": '{"message":"Invalid API key"}\n'}),
            attempt(messageId="m2", destinationExchangeId="y", attempt=1),
            attempt(messageId="m2", destinationExchangeId="z", attempt=2, occurredAt="2025-03-23T20:00:01Z"),
            exchange(destinationExchangeId="y", responseFromDestination={"status": 503}),
            exchange(destinationExchangeId="z", responseFromDestination={"status": 400, "body": "a\nb"}),
        )
    )
    shown = console("events", cwd=tmp_path)
    assert [count[1:] for count in shown.counts] == [(1, 1), (1, 2)]
    first, second = re.findall("^— (.*)", shown.text, re.MULTILINE)
    assert first.startswith("abc  HTTP 401  credentials  1 message, 1 discarded, 1 failed attempt")
    assert second.startswith("abc  HTTP 400  payload  1 message, 2 failed attempts")
    assert 'answer: {"message":"Invalid API key"}\n' in shown.text
    assert "answer: [withheld]" not in shown.text
    assert "       answer: a\n" in shown.text  # its first line
    assert "answer:" not in console("events", "--bodies", "none", cwd=tmp_path).text


@pytest.mark.parametrize(
    ("zone", "name", "time"), [("UTC", "UTC", "20:00:00"), ("XYZ-3:30", "XYZ", "23:30:00")]
)
def test_times_are_local_and_the_zone_is_named(tmp_path: Path, zone: str, name: str, time: str) -> None:
    (tmp_path / "events").write_bytes(lines(error()))
    shown = console("events", cwd=tmp_path, TZ=zone).text
    assert shown.startswith(f"times in {name}\n")
    assert f"└─ 2025-03-23 {time}  log ERROR" in shown


# -- terminals -------------------------------------------------------------------------------------------


def on_a_terminal(folder: Path, columns: int, **env: str) -> str:
    """What `run events` prints on a terminal of so many columns."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    command = [PROGRAM, "run", "events", "--protocol", "console", "--all"]
    pipe = subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=folder, env=environment(**env), stdin=pipe, stdout=writer, stderr=pipe
    ):
        os.close(writer)
        shown = b""
        with suppress(OSError):  # so Linux says that the other end is closed
            while piece := os.read(reader, 1 << 16):
                shown += piece
    os.close(reader)
    return shown.decode().replace("\r\n", "\n")


def test_long_lines_are_cut_on_a_terminal_only(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(
        lines(
            error(reason="配信エラー" * 15),
            attempt(),
            exchange(responseFromDestination={"status": 500, "body": json.dumps({"error": "e" * 300})}),
        )
    )
    shown = on_a_terminal(tmp_path, 70, NO_COLOR="1", TERM="xterm").splitlines()
    long = [line for line in shown if wcswidth(line) > 70]
    assert [line.startswith("message ") for line in long] in ([], [True])  # its ids can be copied
    cut = [line for line in shown if line.endswith("…")]
    assert len(cut) >= 3
    assert {wcswidth(line) for line in cut} <= {69, 70}
    piped = console("events", "--all", cwd=tmp_path).text
    assert "配信エラー" * 15 in piped
    assert "…" not in piped


@pytest.mark.parametrize(("env", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_there_are_colours_on_a_terminal_unless_it_forbids_them(
    tmp_path: Path, env: dict[str, str], *, is_coloured: bool
) -> None:
    (tmp_path / "events").write_bytes(lines(error(), attempt(outcome="success", messageId="good")))
    shown = on_a_terminal(tmp_path, 200, TERM="xterm", **env)
    assert ("\x1b[31m└─" in shown) == is_coloured  # the failure is red
    assert ("\x1b[32m└─" in shown) == is_coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == console("events", "--all", cwd=tmp_path).text
    assert "\x1b" not in console("events", "--all", cwd=tmp_path, TERM="xterm", FORCE_COLOR="1").text


def test_control_characters_of_records_do_not_reach_a_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m\rx"
    (tmp_path / "events").write_bytes(
        lines(
            error(messageId=evil, reason=evil),
            attempt(messageId=evil),
            exchange(responseFromDestination={"status": 500, "body": f'{{"message":"{evil}"}}'}),
        )
    )
    shown = on_a_terminal(tmp_path, 0, TERM="xterm")
    without = re.sub(r"\x1b\[[0-9;]+m", "", shown)
    assert [c for c in without if not c.isprintable() and c != "\n"] == []
    assert r"message \x1b]0;owned" in without
    assert without.count("owned") >= 4


# -- ends ------------------------------------------------------------------------------------------------


def test_an_interrupted_run_shows_what_it_read(tmp_path: Path) -> None:
    """The line that is no JSON says how far it is."""
    many = [error(messageId=f"message-{number}") for number in range(60_000)]
    (tmp_path / "events").write_bytes(lines(*many[:3000], b"{", *many[3000:]))
    process = start_program("run", "events", "--protocol", "console", cwd=tmp_path)
    assert process.stderr
    assert b"line 3001: invalid_json" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    shown = read(stdout.decode())
    ((_, messages, _),) = shown.counts
    assert 2000 < messages < 60_000
    assert f"1 of {messages} failing messages\n" in shown.text
    assert f"{messages} shown" in stderr.decode()


@slow
def test_a_signal_ends_a_run_whose_output_nobody_reads(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(lines(*(error(messageId=f"m-{number}") for number in range(5000))))
    process = start_program("run", "events", "--protocol", "console", "--all", cwd=tmp_path)
    assert process.stdout
    assert process.stdout.readline().startswith(b"times in ")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


def test_records_that_cannot_be_kept_are_not_shown_records(tmp_path: Path) -> None:
    many = [error(messageId=f"message-{number}") for number in range(5000)]
    (tmp_path / "events").write_bytes(lines(*many))
    script = f"ulimit -f 1024; exec {PROGRAM} run events --protocol console"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 4, done.stderr
    said = done.stderr.decode()
    assert "a temporary file" in said
    assert "TMPDIR" in said
    ((_, messages, _),) = read(done.stdout.decode()).counts
    assert 0 < messages < 5000
    not_kept = re.search(r"(\d+) shown, (\d+) not delivered and not kept", said)
    assert not_kept
    assert int(not_kept[1]) == messages


def test_polling_shows_what_is_new_whenever_nothing_is_left_to_read(tmp_path: Path) -> None:
    with segment_simulator("shop") as segment, Receiver() as receiver:
        args = [*sidecar_options(segment, receiver), "--protocol", "console", "--all"]
        at = args.index("--endpoint")
        del args[at : at + 2]
        with sidecar(args, tmp_path) as polling:
            assert polling.process.stdout
            first = polling.process.stdout.readline() + polling.process.stdout.readline()
            headline = polling.process.stdout.readline().decode()
            assert polling.process.poll() is None
            polling.process.send_signal(signal.SIGINT)
            rest = polling.process.stdout.read().decode()
            assert polling.process.wait(20) == 130
    assert first.startswith(b"times in ")
    titles = TITLE.findall(rest)
    assert headline.startswith("— ")
    assert len(titles) == len(set(titles)) > 0


@pytest.mark.parametrize(
    "command", [("run", "events"), ("run", "--once", "--collection", "c"), ("replay",), ("replay", "events")]
)
def test_all_is_for_the_console_only(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "events").write_bytes(lines(b"{"))
    run_program("run", "events", "--quarantine", "kept", "--endpoint", "http://127.0.0.1:9", cwd=tmp_path)
    command = tuple("kept" if each == "events" else each for each in command)
    for protocol in ((), ("--protocol", "file")):
        done = run_program(*command, "--all", *protocol, cwd=tmp_path)
        assert done.code == 2
        assert "--all needs --protocol console" in done.stderr
    assert run_program("doctor", "--all", cwd=tmp_path).code == 2


@slow
def test_messages_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    with (tmp_path / "events").open("wb") as file:
        file.writelines(error(messageId=f"message-{number}") + b"\n" for number in range(200_010))
    shown = console("events", cwd=tmp_path)
    assert shown.counts[0][1] == 200_000
    assert "never shown: 10 records of messages after the first 200000;" in shown.text
