"""`faillog-otel run`, as users start it."""

import gzip
import json
import os
import re
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.events import ABSENT, TIMES, attempt, error, event, exchange, lines
from support.program import PROGRAM, environment, run_program, start_program

from faillog_otel.config import Signal
from faillog_otel.propagation import trace_id_of
from faillog_otel.sandbox.collector import Receiver, Reply

THREE = lines(error(), attempt(), exchange())
PARTIAL = bytes.fromhex("0a02") + bytes.fromhex("0801")  # ExportLogsServiceResponse: 1 record rejected


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.ndjson"
    path.write_bytes(THREE)
    return path


def of_version(version: bytes, raw: bytes) -> bytes:
    return raw.replace(b'"v1"', version)


def entries_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def unused_endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_three_events_become_three_logs_and_two_spans_with_a_link(
    receiver: Receiver, events: Path, tmp_path: Path
) -> None:
    done = run_program("run", events, "--endpoint", receiver.http_endpoint, "--summary", "json", cwd=tmp_path)
    assert done.code == 0
    summary = done.summary
    assert summary.pop("seconds") >= 0
    assert [(each["code"], each["messages"]["lost"]) for each in summary.pop("groups")] == [("418", 1)]
    assert summary == {
        "lines": 3,
        "blank": 0,
        "records": 3,
        "events": {"error": 1, "attempt": 1, "exchange": 1, "other": 0},
        "failed_attempts": 1,
        "discarded": 1,
        "exported": 3,
        "rejected": 0,
        "quarantined": 0,
        "pending": 0,
        "duplicate": 0,
        "not_kept": {"quarantined": 0, "pending": 0},
        "files": {"found": 1, "read": 1},
        "hours": None,
        "sent": {"logs": 3, "spans": 2},
        "requests": 2,
        "retries": 0,
        "bytes_in": len(THREE),
        "unknown_version": 0,
        "exit": 0,
    }
    assert [log.event_name for log in receiver.logs()] == [
        "segment.error",
        "segment.attempt",
        "segment.exchange",
    ]
    attempt_span, exchange_span = receiver.spans()
    (link,) = attempt_span.links
    assert (link.trace_id, link.span_id) == (exchange_span.trace_id, exchange_span.span_id)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.ndjson"]


def test_a_second_run_sends_the_same_bytes(events: Path, tmp_path: Path) -> None:
    bodies = []
    for _ in range(2):
        with Receiver() as receiver:
            assert run_program("run", events, "--endpoint", receiver.http_endpoint, cwd=tmp_path).code == 0
            bodies.append(sorted((each.signal, each.body) for each in receiver.received))
    assert bodies[0] == bodies[1]


def test_an_exchange_anywhere_in_the_file_answers_its_attempts(receiver: Receiver, tmp_path: Path) -> None:
    for name, content in (("before", lines(exchange(), attempt())), ("after", lines(attempt(), exchange()))):
        (tmp_path / name).write_bytes(content)
        run_program("run", name, "--endpoint", receiver.http_endpoint, cwd=tmp_path)
    messages = [span.status.message for span in receiver.spans() if span.name == "deliver abc"]
    assert messages == ["HTTP 418", "HTTP 418"]


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("order", [("attempts", "-", "array"), ("-", "array", "attempts")])
def test_an_exchange_in_any_file_of_the_run_answers_its_attempts(
    receiver: Receiver, tmp_path: Path, workers: str, order: tuple[str, ...]
) -> None:
    """In plain and compressed files, arrays and standard input; and it says how many attempts it had."""
    ours = (
        attempt(messageId="a", destinationExchangeId="x"),
        attempt(messageId="b", destinationExchangeId="y"),
    )
    (tmp_path / "attempts").write_bytes(lines(*ours))
    array = b"[%b,%b]" % (
        attempt(messageId="c", destinationExchangeId="x"),
        exchange(destinationExchangeId="y"),
    )
    (tmp_path / "array").write_bytes(gzip.compress(array))
    done = run_program(
        *("run", *order, "--workers", workers, "--endpoint", receiver.http_endpoint),
        cwd=tmp_path,
        stdin=lines(exchange(destinationExchangeId="x")),
    )
    assert done.code == 0, done.stderr
    of_attempts = [span for span in receiver.spans() if span.name == "deliver abc"]
    assert [span.status.message for span in of_attempts] == ["HTTP 418"] * 3
    records: list[LogRecord | Span] = [*receiver.logs(), *receiver.spans()]
    counts = {
        value_of(record, "segment.destination_exchange.id"): value_of(record, "messaging.batch.message_count")
        for record in records
        if value_of(record, "segment.event") == "segment.exchange"
    }
    assert counts == {"x": 2, "y": 1}


def value_of(record: LogRecord | Span, key: str) -> object:
    [value] = [pair.value for pair in record.attributes if pair.key == key]
    return getattr(value, value.WhichOneof("value") or "")


def test_a_file_that_is_replaced_after_it_was_indexed_is_not_read(tmp_path: Path) -> None:
    """Its index would be of other content. The other files are forwarded."""
    (tmp_path / "first").write_bytes(lines(*[error(messageId=f"m{n}") for n in range(20_000)]))
    (tmp_path / "second").write_bytes(error(messageId="old"))

    def replace(_signal: Signal, _body: bytes) -> None:
        if not (tmp_path / "gone").exists():
            (tmp_path / "second").rename(tmp_path / "gone")
            (tmp_path / "second").write_bytes(error(messageId="new"))

    with Receiver(replace) as receiver:
        done = run_program("run", "first", "second", "--endpoint", receiver.http_endpoint, cwd=tmp_path)
        assert len(receiver.logs()) == 20_000
    assert (done.code, "second: was replaced while it was read; run it again" in done.stderr) == (2, True)


def test_files_folders_globs_and_standard_input_plain_and_gzip(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_bytes(lines(error(messageId="file")))
    (tmp_path / "folder" / "deeper").mkdir(parents=True)
    (tmp_path / "folder" / "deeper" / "two").write_bytes(gzip.compress(lines(error(messageId="folder"))))
    (tmp_path / "three.log").write_bytes(error(messageId="glob"))
    done = run_program(
        *(
            "run",
            "one.jsonl",
            "folder",
            "*.log",
            "-",
            "--endpoint",
            receiver.http_endpoint,
            "--summary",
            "json",
        ),
        cwd=tmp_path,
        stdin=gzip.compress(b"\xef\xbb\xbf" + error(messageId="stdin") + b"\r\n\r\n"),
    )
    assert (done.code, done.summary["records"], done.summary["blank"]) == (0, 4, 1)
    traces = [log.trace_id.hex() for log in receiver.logs()]
    assert traces == [trace_id_of(name) for name in ("file", "folder", "glob", "stdin")]


def test_what_is_not_understood_is_kept_and_the_rest_goes_on(receiver: Receiver, tmp_path: Path) -> None:
    bad = [b'{"broken":', error(messageId=ABSENT), b"\xff\xfe", b"x" * (17 * 1024 * 1024)]
    (tmp_path / "events").write_bytes(lines(error(), *bad, attempt()))
    done = run_program(
        "run", "events", "--endpoint", receiver.http_endpoint, "--summary", "json", cwd=tmp_path
    )
    assert done.code == 3
    assert "4 records" in done.stderr
    assert "faillog-quarantine.jsonl" in done.stderr
    assert (done.summary["records"], done.summary["exported"], done.summary["quarantined"]) == (6, 2, 4)
    assert len(receiver.logs()) == 2
    path = tmp_path / "faillog-quarantine.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    entries = entries_of(path)
    assert [entry["reason"] for entry in entries] == [
        "invalid_json",
        "missing_field",
        "invalid_utf8",
        "too_long",
    ]
    assert [(entry["file"], entry["line"]) for entry in entries] == [("events", n) for n in (2, 3, 4, 5)]
    assert entries[0]["offset"] == len(error()) + 1
    assert entries[0]["raw"] == '{"broken":'
    assert entries[2]["raw_base64"] == "//4="
    assert (len(entries[3]["raw"]), entries[3]["replayable"]) == (64 * 1024, False)
    assert "replayable" not in entries[0]


def test_a_second_run_adds_to_the_quarantine_and_never_reads_it(receiver: Receiver, tmp_path: Path) -> None:
    for count in (1, 2):
        (tmp_path / "events").write_bytes(lines(error(), b"{" * count))
        done = run_program(
            "run", ".", "--endpoint", receiver.http_endpoint, "--summary", "json", cwd=tmp_path
        )
        assert (done.code, done.summary["records"]) == (3, 2)
        kept = (tmp_path / "faillog-quarantine.jsonl").read_bytes().splitlines()
        assert len(kept) == count


def test_a_quarantine_that_cannot_be_written_is_exit_5(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(lines(b"{"))
    done = run_program(
        *("run", "events", "--endpoint", receiver.http_endpoint, "--quarantine", "no/such/folder/q"),
        *("--summary", "json"),
        cwd=tmp_path,
    )
    assert (done.code, done.summary["exit"]) == (5, 5)
    assert "no/such/folder/q" in done.stderr


@pytest.mark.parametrize("option", ["--quarantine", "--pending"])
@pytest.mark.parametrize("flaw", ["group can write", "others can write", "two names"])
def test_a_file_that_others_can_change_keeps_no_records(
    receiver: Receiver, events: Path, tmp_path: Path, option: str, flaw: str
) -> None:
    """It is refused before anything is sent."""
    kept = tmp_path / "kept.jsonl"
    kept.write_text("")
    if flaw == "two names":
        kept.chmod(0o600)
        kept.with_name("other").hardlink_to(kept)
    else:
        kept.chmod(0o620 if flaw == "group can write" else 0o602)
    done = run_program("run", events, "--endpoint", receiver.http_endpoint, option, kept, cwd=tmp_path)
    why = "it has 2 names" if flaw == "two names" else "chmod go-w"
    assert (done.code, f"{kept}: cannot be written: " in done.stderr, why in done.stderr) == (5, True, True)
    assert (kept.read_text(), receiver.logs()) == ("", [])


def test_a_collector_that_is_away_leaves_everything_pending_and_kept(events: Path, tmp_path: Path) -> None:
    endpoint = unused_endpoint()
    done = run_program(
        "run", events, "--endpoint", endpoint, "--wait", "1s", "--summary", "json", cwd=tmp_path
    )
    assert (done.code, done.summary["pending"], done.summary["exported"]) == (4, 3, 0)
    assert done.summary["retries"] >= 1
    assert endpoint.removeprefix("http://") in done.stderr
    quiet = run_program("run", events, "--endpoint", endpoint, "--wait", "0", "-q", cwd=tmp_path)
    (line,) = quiet.stderr.splitlines()
    assert line.startswith("error: 3 records not delivered")
    (tmp_path / "faillog-pending.jsonl").unlink()
    run_program("run", events, "--endpoint", endpoint, "--wait", "0", cwd=tmp_path)
    entries = entries_of(tmp_path / "faillog-pending.jsonl")
    assert [entry["raw"] for entry in entries] == THREE.decode().splitlines()
    assert [entry["context"]["signals"] for entry in entries] == [
        ["logs"],
        ["logs", "traces"],
        ["logs", "traces"],
    ]
    assert entries[1]["context"]["answer"] == {"status": 418, "reason": None}


def test_a_span_that_was_not_taken_is_pending_alone(events: Path, tmp_path: Path) -> None:
    with Receiver(lambda name, _body: Reply(403) if name == "traces" else None) as receiver:
        done = run_program(
            *("run", events, "--endpoint", receiver.http_endpoint, "--wait", "1s", "--summary", "json"),
            cwd=tmp_path,
        )
    assert done.code == 4
    assert (done.summary["exported"], done.summary["pending"]) == (1, 2)
    assert done.summary["sent"] == {"logs": 3, "spans": 0}
    entries = entries_of(tmp_path / "faillog-pending.jsonl")
    assert [entry["context"]["signals"] for entry in entries] == [["traces"], ["traces"]]


def test_partly_rejected_records_count_as_rejected_and_are_kept(events: Path, tmp_path: Path) -> None:
    with Receiver(lambda name, _body: Reply(200, PARTIAL) if name == "logs" else None) as receiver:
        done = run_program(
            "run", events, "--endpoint", receiver.http_endpoint, "--summary", "json", cwd=tmp_path
        )
    assert (done.code, done.summary["rejected"], done.summary["exported"]) == (3, 3, 0)
    assert done.summary["sent"] == {"logs": 2, "spans": 2}
    entries = entries_of(tmp_path / "faillog-quarantine.jsonl")
    assert {entry["reason"] for entry in entries} == {"rejected"}
    assert entries[0]["context"]["rejections"] == [
        {"signal": "logs", "rejected": 1, "records": 3, "message": ""}
    ]


@pytest.mark.parametrize(
    ("conditions", "content", "code"),
    [
        (["discarded"], error(), 1),
        (["discarded"], error(discarded=False), 0),
        (["failure"], attempt(), 1),
        (["failure"], attempt(outcome="success"), 0),
        (["failure", "discarded"], error(), 1),
        (["quarantined"], b"{", 1),
        (["discarded"], b"{", 3),
        (["never"], error(), 0),
        ([], error(), 0),
        (["discarded"], of_version(b"1", error()), 1),
        (["failure"], of_version(b"1", attempt()), 1),
        (["discarded"], of_version(b'"v1.4"', error(discarded=False)), 0),
        (["discarded"], of_version(b'"v2"', attempt()), 1),  # nobody knows what it is
        (["failure"], of_version(b"2", error()), 1),
        (["quarantined"], of_version(b"2", error()), 0),
        (["never"], of_version(b"2", error()), 0),
        ([], of_version(b"2", error()), 0),
        (["discarded", "failure"], event("Retry Logged", **TIMES), 0),
    ],
)
def test_fail_on(
    receiver: Receiver, tmp_path: Path, conditions: list[str], content: bytes, code: int
) -> None:
    (tmp_path / "events").write_bytes(content)
    flags = [word for condition in conditions for word in ("--fail-on", condition)]
    done = run_program("run", "events", "--endpoint", receiver.http_endpoint, *flags, cwd=tmp_path)
    assert done.code == code


@pytest.mark.parametrize("workers", ["1", "2"])
def test_events_of_an_unknown_version_are_counted_and_said(
    receiver: Receiver, tmp_path: Path, workers: str
) -> None:
    unknown = of_version(b'"v2"', error())
    (tmp_path / "events").write_bytes(lines(error(), unknown, event("Retry Logged", **TIMES), unknown))
    command = ["run", "events", "--endpoint", receiver.http_endpoint, "--workers", workers]
    done = run_program(*command, "--fail-on", "failure", cwd=tmp_path)
    assert done.code == 1
    assert "events, line 2: event of an unknown version" in done.stderr
    assert "2 events of an unknown version not judged; --fail-on failure is undecided" in done.stderr
    assert "4 records: 4 exported, 2 of an unknown version, not judged\n" in done.stderr
    quiet = run_program(*command, "--fail-on", "discarded", "-q", cwd=tmp_path)
    assert "--fail-on discarded is undecided" in quiet.stderr
    found = run_program(*command, "--summary", "json", cwd=tmp_path).summary
    assert (found["unknown_version"], found["events"]["other"], found["exit"]) == (2, 3, 0)


def test_the_first_draft_of_segments_page_is_shown_as_trees(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(
        lines(
            of_version(b"1", error(attempt=2, reason="failed insert function", featureName="delivery")),
            of_version(b"1", attempt(reason="some description for why", featureName="delivery")),
            of_version(b"1", exchange()),
        )
    )
    done = run_program("run", "events", "--protocol", "console", cwd=tmp_path)
    assert done.code == 0
    shown = done.stdout.decode()
    assert "deliver abc  attempt 4  failure  HTTP 418  some description for why" in shown
    assert "↳ link: HTTP abc  HTTP 418" in shown
    assert (
        "log ERROR  Error in delivery to abc, message discarded: failed insert function (message m" in shown
    )


def test_a_missing_path_is_exit_2_and_the_rest_is_delivered(
    receiver: Receiver, events: Path, tmp_path: Path
) -> None:
    done = run_program(
        *("run", "missing", events, "--endpoint", receiver.http_endpoint, "--summary", "json"), cwd=tmp_path
    )
    assert (done.code, done.summary["exported"]) == (2, 3)
    assert "missing: no such file" in done.stderr


def test_an_unreadable_path_is_exit_2(receiver: Receiver, events: Path, tmp_path: Path) -> None:
    (tmp_path / "readable").write_bytes(lines(error()))
    events.chmod(0o600 if os.geteuid() == 0 else 0)
    command = [
        PROGRAM,
        "run",
        str(events),
        "readable",
        "--endpoint",
        receiver.http_endpoint,
        "--summary",
        "json",
    ]
    if os.geteuid() == 0:  # root reads everything: the file is another's, and root's privilege is laid down
        os.chown(events, 65534, 65534)
        privileges = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={privileges}", f"--inh-caps={privileges}", *command]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["exported"] == 1
    assert b"Permission denied" in done.stderr


def test_a_folder_without_files_is_done_with_a_warning(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run_program("run", "empty", "--endpoint", receiver.http_endpoint, cwd=tmp_path)
    assert done.code == 0
    assert "empty: holds no files" in done.stderr


def test_an_empty_file_is_done(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"")
    done = run_program(
        "run", "events", "--endpoint", receiver.http_endpoint, "--summary", "json", cwd=tmp_path
    )
    assert (done.code, done.summary["lines"], receiver.received) == (0, 0, [])


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize(
    ("args", "named"),
    [
        ([], "PATH"),
        (["events.ndjson", "--endpoint", "localhost:4318"], "localhost:4318"),
        (["events.ndjson", "--signals", "metrics"], "metrics"),
        (["events.ndjson", "--bodies", "some"], "bodies"),
        (["events.ndjson", "--header", "novalue"], "header"),
        (["events.ndjson", "--wait", "soon"], "soon"),
        (["events.ndjson", "--config", "missing.toml"], "missing.toml"),
        (["events.ndjson", "--output", "x"], "--output"),
        (["events.ndjson", "--protocol", "file", "--summary", "json"], "--summary"),
        (["events.ndjson", "--unknown"], "--unknown"),
    ],
)
def test_wrong_usage_is_exit_2_names_what_is_wrong_and_prints_no_summary(
    tmp_path: Path, args: list[str], named: str
) -> None:
    done = run_program("run", *args, cwd=tmp_path)
    assert (done.code, done.stdout) == (2, b"")
    assert named in done.stderr


def test_headers_arrive_and_their_values_are_never_shown(
    receiver: Receiver, events: Path, tmp_path: Path
) -> None:
    done = run_program(
        *("run", events, "--endpoint", receiver.http_endpoint, "--header", "Api-Key=c4n4ry", "-vv"),
        cwd=tmp_path,
    )
    assert done.code == 0
    assert {each.headers["api-key"] for each in receiver.received} == {"c4n4ry"}
    assert {each.headers["content-encoding"] for each in receiver.received} == {"gzip"}
    assert "c4n4ry" not in done.stderr


@pytest.mark.parametrize(
    ("signals", "logs", "spans"), [("logs", 3, 0), ("traces", 0, 2), ("traces,logs", 3, 2)]
)
def test_signals(
    receiver: Receiver, events: Path, tmp_path: Path, signals: str, logs: int, spans: int
) -> None:
    done = run_program(
        *("run", events, "--endpoint", receiver.http_endpoint, "--signals", signals, "--summary", "json"),
        cwd=tmp_path,
    )
    assert (done.code, done.summary["exported"]) == (0, 3)
    assert (len(receiver.logs()), len(receiver.spans())) == (logs, spans)


def test_the_config_file_of_the_folder_is_read_and_a_flag_beats_it(
    receiver: Receiver, events: Path, tmp_path: Path
) -> None:
    settings = f'[otlp]\nendpoint = "{receiver.http_endpoint}"\n[mapping]\nbodies = "none"\n'
    (tmp_path / "faillog-otel.toml").write_text(settings + '[run]\nfail_on = ["discarded"]\n')
    assert run_program("run", events, cwd=tmp_path).code == 1
    assert run_program("run", events, "--fail-on", "never", cwd=tmp_path).code == 0
    assert not any(pair.key == "segment.response.body" for log in receiver.logs() for pair in log.attributes)


def test_the_environment_is_read(receiver: Receiver, events: Path, tmp_path: Path) -> None:
    done = run_program(
        *("run", events),
        cwd=tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint,
        OTEL_EXPORTER_OTLP_TIMEOUT="soon",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=prod",
        FAILLOG_SIGNALS="logs",
        FAILLOG_SUMMARY="json",
    )
    assert (done.code, done.summary["sent"]) == (0, {"logs": 3, "spans": 0})
    assert "OTEL_EXPORTER_OTLP_TIMEOUT" in done.stderr
    request = receiver.received[0].request()
    resource = {pair.key: pair.value.string_value for pair in request.resource_logs[0].resource.attributes}  # type: ignore[union-attr]  # of logs
    assert resource == {
        "service.name": "segment",
        "deployment.environment.name": "prod",
        "deployment.environment": "prod",
    }


def test_protocol_file_writes_otlp_json_lines(events: Path, tmp_path: Path) -> None:
    to_stdout = run_program("run", events, "--protocol", "file", cwd=tmp_path)
    assert to_stdout.code == 0
    done = run_program(
        "run", events, "--protocol", "file", "--output", "out", "--summary", "json", cwd=tmp_path
    )
    assert (done.code, (tmp_path / "out").read_bytes()) == (0, to_stdout.stdout)
    logs, spans = [json.loads(line) for line in to_stdout.stdout.splitlines()]
    record = logs["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    assert (record["traceId"], record["severityNumber"]) == (trace_id_of("m"), 17)
    assert record["timeUnixNano"] == "1742760000000000000"
    link = spans["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["links"][0]
    assert re.fullmatch("[0-9a-f]{16}", link["spanId"])


def test_protocol_console_shows_trees(events: Path, tmp_path: Path) -> None:
    done = run_program("run", events, "--protocol", "console", cwd=tmp_path)
    assert done.code == 0
    shown = done.stdout.decode()
    assert f"message m  trace {trace_id_of('m')}" in shown
    assert "deliver abc  attempt 4  failure  HTTP 418" in shown
    assert "↳ link: HTTP abc  HTTP 418" in shown
    assert "log ERROR  Error in delivery to abc, message discarded (message m)" in shown
    only_logs = run_program("run", events, "--protocol", "console", "--signals", "logs", cwd=tmp_path)
    assert only_logs.stdout.count(b"log ") == 3


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
def test_every_protocol_delivers_the_same(
    receiver: Receiver, events: Path, tmp_path: Path, protocol: str
) -> None:
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    assert run_program("run", events, "--endpoint", endpoint, "--protocol", protocol, cwd=tmp_path).code == 0
    with Receiver() as plain:
        assert run_program("run", events, "--endpoint", plain.http_endpoint, cwd=tmp_path).code == 0
        assert (receiver.logs(), receiver.spans()) == (plain.logs(), plain.spans())


def test_while_the_collector_is_away_no_more_than_a_few_batches_are_read(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(lines(*(error(messageId=str(n)) for n in range(20_000))))
    process = start_program(
        *("run", "events", "--endpoint", unused_endpoint(), "--wait", "forever", "--summary", "json"),
        cwd=tmp_path,
    )
    assert process.stderr
    assert b"retrying in" in process.stderr.readline()
    process.terminate()
    stdout, _ = process.communicate(timeout=10)
    summary = json.loads(stdout.splitlines()[-1])
    assert process.returncode == 143
    assert 0 < summary["pending"] == summary["records"] < 5_000


def test_the_output_may_not_be_an_input(events: Path, tmp_path: Path) -> None:
    args = ("--protocol", "file", "--output", "events.ndjson")
    for path in ("events.ndjson", ".", "./events.ndjson", "-"):
        with events.open("rb") as stdin:
            command = [PROGRAM, "run", path, *args]
            done = subprocess.run(
                command, cwd=tmp_path, env=environment(), stdin=stdin, capture_output=True, check=False
            )
        assert done.returncode == 2
        assert b"one of the files to read" in done.stderr
        assert events.read_bytes() == THREE


def test_the_config_file_is_no_input(receiver: Receiver, events: Path, tmp_path: Path) -> None:
    (tmp_path / "faillog-otel.toml").write_text(f'[otlp]\nendpoint = "{receiver.http_endpoint}"\n')
    done = run_program("run", ".", "--summary", "json", cwd=tmp_path)
    assert (done.code, done.summary["records"]) == (0, 3)
    assert events.exists()


@pytest.mark.parametrize("option", ["--quarantine", "--pending"])
def test_the_counts_add_up_when_nothing_can_be_kept(tmp_path: Path, option: str) -> None:
    (tmp_path / "events").write_bytes(lines(error(), attempt(), b"{", exchange(), b"{"))
    done = run_program(
        *("run", "events", "--endpoint", unused_endpoint(), "--wait", "0", option, "/dev/full"),
        *("--summary", "json"),
        cwd=tmp_path,
    )
    found = done.summary
    assert done.code == 5
    assert found["records"] == found["exported"] + found["quarantined"] + found["pending"]
    assert "/dev/full" in done.stderr
    assert "see /dev/full" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_no_harm(
    receiver: Receiver, events: Path, tmp_path: Path, closed: str
) -> None:
    command = f"{PROGRAM} run {events} --endpoint {receiver.http_endpoint} {closed}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(receiver.logs()) == 3


def test_a_summary_that_cannot_be_written_changes_no_exit_code(
    receiver: Receiver, events: Path, tmp_path: Path
) -> None:
    command = f"{PROGRAM} run {events} --endpoint {receiver.http_endpoint} --summary json >/dev/full"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0
    assert b"standard output cannot be written: No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr


def test_names_that_are_not_utf8(receiver: Receiver, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/bad\xff.ndjson"
    with open(path, "wb") as file:  # noqa: PTH123  # a name that is bytes
        file.write(lines(b"{", error()))
    command: list[str | bytes] = [PROGRAM, "run", path, "--endpoint", receiver.http_endpoint]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=False)
    assert done.returncode == 3, done.stderr
    assert entries_of(tmp_path / "faillog-quarantine.jsonl")[0]["file"].endswith("bad\ufffd.ndjson")


def test_a_pipe_that_nobody_writes_to_can_be_interrupted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    process = start_program("run", "pipe", "-v", "--summary", "json", cwd=tmp_path)
    assert process.stderr
    assert b"reading pipe" in process.stderr.readline()
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 143


def test_quiet_says_nothing_and_json_logs_are_json(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(lines(error(), b"{"))
    args = ("run", "events", "--endpoint", receiver.http_endpoint)
    assert run_program(*args, "-q", cwd=tmp_path).stderr == ""
    done = run_program(*args, "--log-format", "json", "--summary", "json", cwd=tmp_path)
    first, entry = [json.loads(line) for line in done.stderr.splitlines()]
    assert first["message"].startswith("events, line 2: invalid_json: ")
    assert (entry["level"], "faillog-quarantine.jsonl" in entry["message"]) == ("warning", True)


def test_control_characters_never_reach_the_terminal(tmp_path: Path, receiver: Receiver) -> None:
    name = "a\x1b[31m\u202eb"
    (tmp_path / name).write_bytes(b"{")
    done = run_program("run", name, "gone\x1b[31m", "--endpoint", receiver.http_endpoint, "-vv", cwd=tmp_path)
    assert done.code == 2
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_it_waits_for_input_ends_it(tmp_path: Path, number: int, code: int) -> None:
    process = start_program(
        "run", "-", "--endpoint", "http://127.0.0.1:1", "-v", "--summary", "json", cwd=tmp_path
    )
    assert process.stderr
    assert b"reading -" in process.stderr.readline()
    process.send_signal(number)
    stdout, _ = process.communicate(timeout=10)
    assert process.returncode == code
    assert json.loads(stdout.splitlines()[-1])["exit"] == code


def test_a_signal_while_it_waits_for_the_collector_keeps_the_records_as_pending(
    events: Path, tmp_path: Path
) -> None:
    process = start_program(
        *("run", events, "--endpoint", unused_endpoint(), "--wait", "forever", "--summary", "json"),
        cwd=tmp_path,
    )
    assert process.stderr
    assert b"retrying in" in process.stderr.readline()
    process.terminate()
    stdout, _ = process.communicate(timeout=10)
    assert process.returncode == 143
    assert json.loads(stdout.splitlines()[-1])["pending"] == 3
    assert len((tmp_path / "faillog-pending.jsonl").read_bytes().splitlines()) == 3


def test_a_request_in_flight_that_hangs_is_abandoned(events: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = start_program(
            *(
                "run",
                events,
                "--endpoint",
                f"http://127.0.0.1:{server.getsockname()[1]}",
                "--summary",
                "json",
            ),
            cwd=tmp_path,
            OTEL_EXPORTER_OTLP_TIMEOUT="60000",
        )
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1)
            process.terminate()
            stdout, _ = process.communicate(timeout=10)
    assert process.returncode == 143
    assert json.loads(stdout.splitlines()[-1])["pending"] == 3
