"""What was kept, sent again: the same bytes, and only what is still owed."""

import json
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from support.events import attempt, error, exchange, lines
from support.program import Done, run_program, start_program

from faillog_otel.sandbox.collector import Receiver, Reply

THREE = lines(error(), attempt(), exchange())
PARTIAL = bytes.fromhex("0a020801")  # ExportLogsServiceResponse: 1 record rejected
PENDING, QUARANTINE = "faillog-pending.jsonl", "faillog-quarantine.jsonl"


def go(command: str, path: str, endpoint: str, folder: Path, *args: str) -> Done:
    return run_program(command, path, "--endpoint", endpoint, "--summary", "json", *args, cwd=folder)


def away() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def records(receiver: Receiver) -> tuple[list[bytes], list[bytes]]:
    logs, spans = receiver.logs(), receiver.spans()
    return [log.SerializeToString() for log in logs], [span.SerializeToString() for span in spans]


def entries(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.joinpath(name).read_text("utf-8").splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def expected(folder: Path, *args: str) -> tuple[list[bytes], list[bytes]]:
    """What a run arrives as when nothing goes wrong."""
    with Receiver() as receiver:
        assert go("run", "events", receiver.http_endpoint, folder, *args).code == 0
        return records(receiver)


def test_pending_records_are_the_same_bytes_when_they_are_sent_again(tmp_path: Path) -> None:
    """Also the attempt's, whose exchange stands in the first file and is what it learned from."""
    tmp_path.joinpath("events").write_bytes(THREE)
    whole = expected(tmp_path)
    for command in ("run", "replay"):
        assert go("run", "events", away(), tmp_path, "--wait", "100ms").code == 4
        with Receiver() as receiver:
            done = go(command, PENDING, receiver.http_endpoint, tmp_path)
            assert (done.code, done.summary["exported"], done.summary["pending"]) == (0, 3, 0)
            assert records(receiver) == whole
        assert names(tmp_path) == ["events"]


def test_the_time_of_a_time_policy_is_the_first_runs(tmp_path: Path) -> None:
    tmp_path.joinpath("events").write_bytes(THREE)
    assert go("run", "events", away(), tmp_path, "--wait", "100ms", "--time-policy", "arrival").code == 4
    reference = entries(tmp_path, PENDING)[0]["context"]["reference_ns"]
    with Receiver() as receiver:
        go("replay", PENDING, receiver.http_endpoint, tmp_path, "--time-policy", "arrival")
        assert {log.time_unix_nano for log in receiver.logs()} == {reference}


@pytest.mark.parametrize("reference", [-5, 10**20])
def test_an_entry_with_a_time_that_cannot_be_stays_and_those_behind_it_are_sent(
    tmp_path: Path, reference: int
) -> None:
    tmp_path.joinpath("events").write_bytes(THREE)
    assert go("run", "events", away(), tmp_path, "--wait", "100ms", "--time-policy", "arrival").code == 4
    kept = entries(tmp_path, PENDING)
    kept[0]["context"]["reference_ns"] = reference
    tmp_path.joinpath(PENDING).write_text("".join(json.dumps(each) + "\n" for each in kept))
    with Receiver() as receiver:
        done = go("replay", PENDING, receiver.http_endpoint, tmp_path, "--time-policy", "arrival")
        assert (done.code, done.summary["exported"], done.summary["quarantined"]) == (3, 2, 1)
        assert "reference_ns" in done.stderr


def test_only_the_span_is_sent_again_when_only_the_span_was_not_taken(tmp_path: Path) -> None:
    tmp_path.joinpath("events").write_bytes(THREE)
    logs, spans = expected(tmp_path)
    with Receiver(lambda signal, _body: Reply(503) if signal == "traces" else None) as receiver:
        done = go("run", "events", receiver.http_endpoint, tmp_path, "--wait", "100ms")
        assert (done.code, done.summary["pending"], done.summary["exported"]) == (4, 2, 1)
        assert records(receiver) == (logs, [])
    with Receiver() as receiver:
        done = go("replay", PENDING, receiver.http_endpoint, tmp_path)
        assert (done.code, done.summary["sent"]) == (0, {"logs": 0, "spans": 2})
        assert records(receiver) == ([], spans)


def test_what_is_owed_and_not_sent_by_this_run_stays(tmp_path: Path) -> None:
    tmp_path.joinpath("events").write_bytes(THREE)
    assert go("run", "events", away(), tmp_path, "--wait", "100ms").code == 4
    with Receiver() as receiver:
        done = go("replay", PENDING, receiver.http_endpoint, tmp_path, "--signals", "logs")
        assert (done.code, done.summary["pending"], done.summary["exported"]) == (4, 2, 1)
    assert [entry["context"]["signals"] for entry in entries(tmp_path, PENDING)] == [["traces"], ["traces"]]


def test_what_fails_again_stays_with_all_that_it_learned(tmp_path: Path) -> None:
    tmp_path.joinpath("events").write_bytes(THREE)
    assert go("run", "events", away(), tmp_path, "--wait", "100ms").code == 4
    before = entries(tmp_path, PENDING)
    assert go("replay", PENDING, away(), tmp_path, "--wait", "100ms").code == 4
    after = entries(tmp_path, PENDING)
    assert [entry | {"detail": ""} for entry in after] == [entry | {"detail": ""} for entry in before]
    assert names(tmp_path) == ["events", PENDING]
    assert stat.S_IMODE(tmp_path.joinpath(PENDING).stat().st_mode) == 0o600


def test_a_replay_that_broke_off_is_gone_on_with(tmp_path: Path) -> None:
    """A killed replay leaves the set-aside file; later failures may have made a new one beside it."""
    tmp_path.joinpath("events").write_bytes(THREE)
    assert go("run", "events", away(), tmp_path, "--wait", "100ms").code == 4
    tmp_path.joinpath(PENDING).rename(tmp_path / f"{PENDING}.replaying")
    tmp_path.joinpath("events").write_bytes(lines(error(messageId="later")))
    assert go("run", "events", away(), tmp_path, "--wait", "100ms").code == 4
    with Receiver() as receiver:
        done = go("replay", PENDING, receiver.http_endpoint, tmp_path)
        assert (done.code, done.summary["exported"]) == (0, 4)
    assert names(tmp_path) == ["events"]


def test_a_mended_line_is_understood_and_knows_what_its_exchange_said(tmp_path: Path) -> None:
    broken = attempt(attempt="four")
    tmp_path.joinpath("events").write_bytes(lines(broken, exchange(), b"{"))
    with Receiver() as receiver:
        assert go("run", "events", receiver.http_endpoint, tmp_path).code == 3
        path = tmp_path / QUARANTINE
        mended = path.read_text("utf-8").replace('\\"attempt\\":\\"four\\"', '\\"attempt\\":4')
        path.write_text(mended, "utf-8")
        done = go("replay", QUARANTINE, receiver.http_endpoint, tmp_path)
        assert (done.code, done.summary["exported"], done.summary["quarantined"]) == (3, 1, 1)
        assert receiver.spans()[-1].status.message == "HTTP 418"
    (left,) = entries(tmp_path, QUARANTINE)
    assert (left["reason"], left["line"], left["file"]) == ("invalid_json", 3, "events")


def test_rejected_records_are_sent_again_only_when_asked(tmp_path: Path) -> None:
    tmp_path.joinpath("events").write_bytes(THREE)
    logs, _ = expected(tmp_path)
    with Receiver(lambda signal, _body: Reply(200, PARTIAL) if signal == "logs" else None) as receiver:
        assert go("run", "events", receiver.http_endpoint, tmp_path).summary["rejected"] == 3
    with Receiver() as receiver:
        for command in ("run", "replay"):
            done = go(command, QUARANTINE, receiver.http_endpoint, tmp_path)
            assert (done.code, done.summary["rejected"], receiver.received) == (3, 3, [])
        done = go("replay", QUARANTINE, receiver.http_endpoint, tmp_path, "--rejected")
        assert (done.code, done.summary["exported"]) == (0, 3)
        assert records(receiver) == (logs, [])
    assert names(tmp_path) == ["events"]


def test_a_record_that_the_collector_refuses_is_kept_with_its_words(tmp_path: Path) -> None:
    tmp_path.joinpath("events").write_bytes(lines(*(error(messageId=f"m{n}") for n in range(9)), error()))

    def script(_signal: str, body: bytes) -> Reply | None:
        if b"m5)" in body:
            return Reply(400, b"no m5", {"content-type": "text/plain"})
        return None

    with Receiver(script) as receiver:
        done = go("run", "events", receiver.http_endpoint, tmp_path)
        assert (done.code, done.summary["quarantined"], done.summary["exported"]) == (3, 1, 9)
    (entry,) = entries(tmp_path, QUARANTINE)
    assert (entry["reason"], entry["detail"], entry["line"]) == ("refused", "logs: HTTP 400: no m5", 6)
    with Receiver() as receiver:
        assert go("replay", QUARANTINE, receiver.http_endpoint, tmp_path).code == 0
        assert len(receiver.logs()) == 1


def test_what_was_too_long_to_keep_stays_and_is_never_sent(tmp_path: Path) -> None:
    tmp_path.joinpath("events").write_bytes(b"x" * (17 * 1024 * 1024))
    with Receiver() as receiver:
        assert go("run", "events", receiver.http_endpoint, tmp_path).code == 3
        done = go("replay", QUARANTINE, receiver.http_endpoint, tmp_path)
        assert (done.code, done.summary["quarantined"], receiver.received) == (3, 1, [])
    assert entries(tmp_path, QUARANTINE)[0]["replayable"] is False


def test_nothing_to_replay_is_exit_2(tmp_path: Path) -> None:
    done = run_program("replay", "missing.jsonl", cwd=tmp_path)
    assert done.code == 2
    assert "missing.jsonl" in done.stderr
    assert names(tmp_path) == []


def test_an_interrupted_replay_leaves_each_record_once(tmp_path: Path) -> None:
    messages = [error(messageId=f"m{n}") for n in range(3_000)]
    tmp_path.joinpath("events").write_bytes(lines(*messages))
    assert go("run", "events", away(), tmp_path, "--wait", "100ms").code == 4
    for _ in range(2):
        process = start_program(
            *("replay", PENDING, "--endpoint", away(), "--wait", "forever", "--summary", "json"), cwd=tmp_path
        )
        assert process.stderr
        assert b"retrying in" in process.stderr.readline()
        process.terminate()
        process.communicate(timeout=10)
        assert process.returncode == 143
        assert names(tmp_path) == ["events", PENDING]
        assert sorted(entry["raw"].encode() for entry in entries(tmp_path, PENDING)) == sorted(messages)
    with Receiver() as receiver:
        done = go("replay", PENDING, receiver.http_endpoint, tmp_path)
        assert (done.code, done.summary["exported"], len(receiver.logs())) == (0, 3_000, 3_000)


def test_what_is_no_kept_file_is_never_touched(tmp_path: Path) -> None:
    tmp_path.joinpath("events").write_bytes(THREE)
    tmp_path.joinpath("pretty").write_text('{\n "reason": "x",\n "raw": "{}"\n}\n')
    tmp_path.joinpath("folder").mkdir()
    for path in ("events", "pretty", "folder", "-", "missing"):
        assert run_program("replay", path, cwd=tmp_path).code == 2
    assert run_program("run", "events", "--pending", "events", cwd=tmp_path).code == 2
    assert tmp_path.joinpath("events").read_bytes() == THREE
    assert names(tmp_path) == ["events", "folder", "pretty"]


def test_a_kept_file_by_any_name_is_read_once_and_gone_afterwards(tmp_path: Path) -> None:
    tmp_path.joinpath("events").write_bytes(THREE)
    link = tmp_path / "link"
    for paths in ([PENDING, f"./{PENDING}"], ["link"], [".", PENDING]):
        assert go("run", "events", away(), tmp_path, "--wait", "100ms").code == 4
        link.unlink(missing_ok=True)
        link.symlink_to(PENDING)
        tmp_path.joinpath("events").rename(tmp_path / ".events")
        with Receiver() as receiver:
            done = run_program("run", *paths, "--endpoint", receiver.http_endpoint, cwd=tmp_path)
            assert (done.code, len(receiver.logs())) == (0, 3), done.stderr
        tmp_path.joinpath(".events").rename(tmp_path / "events")
        assert names(tmp_path) == ["events", "link"]


def test_a_file_that_another_run_writes_is_not_replayed(tmp_path: Path) -> None:
    """The run is stopped as soon as it has begun the file, and goes on after the replay."""
    tmp_path.joinpath("events").write_bytes(THREE * 20_000)
    process = start_program("run", "events", "--endpoint", away(), "--wait", "0", cwd=tmp_path)
    while not tmp_path.joinpath(PENDING).exists() or not tmp_path.joinpath(PENDING).stat().st_size:
        assert process.poll() is None
    process.send_signal(signal.SIGSTOP)
    with Receiver() as receiver:
        done = go("replay", PENDING, receiver.http_endpoint, tmp_path)
        assert (done.code, receiver.received) == (2, [])
        assert "another run" in done.stderr
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
        assert go("replay", PENDING, receiver.http_endpoint, tmp_path).summary["exported"] == 60_000


def test_a_line_without_its_end_swallows_nothing(tmp_path: Path) -> None:
    tmp_path.joinpath("events").write_bytes(THREE)
    assert go("run", "events", away(), tmp_path, "--wait", "0").code == 4
    path = tmp_path / PENDING
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    tmp_path.joinpath("others").write_bytes(THREE)
    assert go("run", "others", away(), tmp_path, "--wait", "0").code == 4
    assert len(entries(tmp_path, PENDING)) == 6


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda entry: dict(sorted(entry.items())), 0),
        (lambda entry: {"raw": entry["raw"]}, 0),
        (lambda entry: entry | {"context": entry["context"] | {"signals": []}}, 0),
        (
            lambda entry: (
                entry | {"raw": error().decode(), "context": {"reference_ns": 1, "signals": ["traces"]}}
            ),
            0,
        ),
        (lambda entry: entry | {"line": "two"}, 1),
        (lambda entry: entry | {"raw": {}}, 1),
        (lambda entry: {key: entry[key] for key in ("reason", "context")} | {"raw_base64": "?"}, 1),
    ],
)
def test_entries_that_people_edited(tmp_path: Path, change: Any, left: int) -> None:
    tmp_path.joinpath("events").write_bytes(lines(error()))
    assert go("run", "events", away(), tmp_path, "--wait", "0").code == 4
    (entry,) = entries(tmp_path, PENDING)
    edited = json.dumps(change(entry))
    tmp_path.joinpath(PENDING).write_text(edited + "\n")
    with Receiver() as receiver:
        done = go("replay", PENDING, receiver.http_endpoint, tmp_path)
        assert (len(receiver.logs()), done.summary["quarantined"]) == (1 - left, left)
    if left:
        assert tmp_path.joinpath(PENDING).read_text() == edited + "\n"
        assert "not sent again" in done.stderr


def test_a_record_whose_entry_is_longer_than_a_line_may_be_comes_back(tmp_path: Path) -> None:
    tmp_path.joinpath("events").write_bytes(lines(error(big='"' * 7_500_000)))
    assert go("run", "events", away(), tmp_path, "--wait", "0").code == 4
    with Receiver() as receiver:
        done = go("replay", PENDING, receiver.http_endpoint, tmp_path)
        assert (done.code, done.summary["exported"]) == (0, 1)


def test_one_refused_record_stops_neither_reading_nor_the_others(tmp_path: Path) -> None:
    """The only span of the first batches is refused; the proof that others are taken lies far behind."""
    content = [attempt(messageId="poison"), *(error(messageId=f"m{n}") for n in range(6_000)), attempt()]
    tmp_path.joinpath("events").write_bytes(lines(*content))

    def script(signal: str, body: bytes) -> Reply | None:
        return Reply(400) if signal == "traces" and b"poison" in body else None

    with Receiver(script) as receiver:
        done = go("run", "events", receiver.http_endpoint, tmp_path, "--wait", "20s")
        assert (done.code, done.summary["quarantined"], done.summary["exported"]) == (3, 1, 6_001)
