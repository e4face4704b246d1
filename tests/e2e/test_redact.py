"""`faillog-otel redact`: what would leave, and what would not."""

import json
from pathlib import Path

import pytest
from support.events import attempt, error, exchange, lines
from support.file_formats import FORMATS
from support.program import run_program

from faillog_otel.sandbox.collector import Receiver

EXCHANGE = exchange(
    requestToDestination={
        "method": "POST",
        "url": "https://api.example.com/v1?token=abc",
        "headers": {"Authorization": "Bearer x"},
        "body": "{}",
    },
    responseFromDestination={
        "status": 400,
        "headers": {"Set-Cookie": "a=b", "Server": "nginx"},
        "body": '{"user":"jane@shop.example","password":"x"}',
    },
)
EVENTS = [error(reason="no mailbox jane@shop.example", nested={"apiKey": ["k-1", 2]}), attempt(), EXCHANGE]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "events").write_bytes(lines(*EVENTS, b"{"))
    return tmp_path


def test_each_record_says_what_leaves_what_is_redacted_and_what_stays(folder: Path) -> None:
    done = run_program("redact", "events", cwd=folder)
    first, second, third, bad = map(json.loads, done.stdout.splitlines())
    assert done.code == 3
    assert (first["file"], first["line"], first["offset"]) == ("events", 1, 0)
    assert first["attributes"]["segment.reason"] == "no mailbox [redacted:email]"
    assert first["redacted"] == {
        "segment.reason": ["email address"],
        "segment.extra.nested.apiKey": ["the name apiKey"],
    }
    assert second["attributes"]["http.response.status_code"] == 400  # what its exchange said
    assert third["redacted"] == {
        "url.full": ["the name token"],
        "segment.response.body": ["email address", "the name password"],
    }
    assert third["stays"] == {
        "requestToDestination.body": "--bodies is response",
        "requestToDestination.headers.Authorization": "request headers are not sent",
        "responseFromDestination.headers.Set-Cookie": "not in the list response_headers",
    }
    assert (bad["line"], bad["reason"]) == (4, "invalid_json")
    assert "1 not understood" in done.stderr


def test_unknown_fields_of_a_request_are_named_among_what_stays(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(exchange(requestToDestination={"path": "/a?b=c", "body": "x"}))
    for bodies, stays in (
        (
            "response",
            {
                "requestToDestination.body": "--bodies is response",
                "requestToDestination.path": "part of the body; --bodies is response",
            },
        ),
        ("all", {}),
    ):
        shown = json.loads(run_program("redact", "--bodies", bodies, "events", cwd=tmp_path).stdout)
        assert {field: why for field, why in shown["stays"].items() if "request" in field} == stays


def test_bodies_keys_shows_the_structure_of_responses_and_what_keys_of_errors_say(tmp_path: Path) -> None:
    body = {"error": {"code": "bad", "message": "no jane@shop.example"}, "user": {"name": "Jane"}}
    response = {"status": 400, "body": json.dumps(body), "more": {"reason": "odd", "owner": "Jane"}}
    (tmp_path / "events").write_bytes(
        lines(
            exchange(
                requestToDestination={"body": "Jane", "path": "/Jane"}, responseFromDestination=response
            ),
            exchange(responseFromDestination={"status": 400, "body": "sorry, Jane"}),
        )
    )
    done = run_program("redact", "--bodies", "keys", "events", cwd=tmp_path)
    first, second = map(json.loads, done.stdout.splitlines())
    assert b"Jane" not in done.stdout
    assert json.loads(first["attributes"]["segment.response.body"]) == {
        "error": {"code": "bad", "message": "no [redacted:email]"},
        "user": {"name": "[withheld]"},
    }
    assert first["attributes"]["segment.extra.responseFromDestination.more.reason"] == "odd"
    assert first["attributes"]["segment.extra.responseFromDestination.more.owner"] == "[withheld]"
    assert first["redacted"] == {"segment.response.body": ["email address"]}
    assert first["stays"] == {
        "requestToDestination.body": "--bodies is keys",
        "requestToDestination.path": "part of the body; --bodies is keys",
        "responseFromDestination.body": "its values, except those of some keys; --bodies is keys",
        "responseFromDestination.more.owner": "its values, except those of some keys; --bodies is keys",
    }
    assert second["attributes"]["segment.response.body"] == "[withheld]"


def test_explain_prints_the_same_as_text(folder: Path) -> None:
    done = run_program("redact", "--explain", "--bodies", "none", "events", cwd=folder)
    shown = done.stdout.decode()
    assert "events, line 3: segment.exchange" in shown
    assert "  redacted  segment.reason = no mailbox [redacted:email]  (email address)" in shown
    assert "  sent      http.response.header.server = nginx" in shown
    assert "  withheld  responseFromDestination.body: --bodies is none" in shown
    assert "events, line 4: not sent (invalid_json)" in shown


@pytest.mark.parametrize("form", FORMATS)
def test_redact_shows_what_run_sends(form: str, tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(FORMATS[form](EVENTS))
    shown = [json.loads(line) for line in run_program("redact", "events", cwd=tmp_path).stdout.splitlines()]
    with Receiver() as receiver:
        run_program("run", "events", "--endpoint", receiver.http_endpoint, cwd=tmp_path)
        logs = receiver.logs()
    assert [each["body"] for each in shown] == [log.body.string_value for log in logs]
    assert [list(each["attributes"]) for each in shown] == [
        [pair.key for pair in log.attributes] for log in logs
    ]


def test_it_reads_standard_input_the_config_file_and_kept_files(tmp_path: Path) -> None:
    (tmp_path / "faillog-otel.toml").write_text('[mapping]\nresponse_headers = ["set-cookie"]\n')
    done = run_program("redact", "-", cwd=tmp_path, stdin=EXCHANGE)
    record = json.loads(done.stdout)
    assert record["attributes"]["http.response.header.set-cookie"] == ["[redacted:secret]"]
    (tmp_path / "events").write_bytes(EXCHANGE)
    flags = ("--endpoint", "http://127.0.0.1:9", "--wait", "0")
    assert run_program("run", "events", *flags, cwd=tmp_path).code == 4
    kept = json.loads(run_program("redact", "faillog-pending.jsonl", cwd=tmp_path).stdout)
    assert kept["attributes"] == record["attributes"]


def test_wrong_usage(tmp_path: Path) -> None:
    assert run_program("redact", cwd=tmp_path).code == 2
    done = run_program("redact", "missing", cwd=tmp_path)
    assert (done.code, done.stdout) == (2, b"")
    assert "missing: no such file" in done.stderr
    (tmp_path / "empty").write_bytes(b"")
    done = run_program("redact", "empty", cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "no records\n")
