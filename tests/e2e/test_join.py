"""Failures in the application's own trace, from a messageId on: `ids --new`, then `run`."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.events import attempt, error, exchange, lines
from support.program import run_program

from faillog_otel.sandbox.collector import Receiver

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


def new_id(folder: Path, *args: str, traceparent: str = "") -> str:
    done = run_program("ids", "--new", *args, cwd=folder, TRACEPARENT=traceparent)
    assert (done.code, done.stderr) == (0, "")
    text = done.stdout.decode()
    assert text.endswith("\n")
    return text.removesuffix("\n")


def said_of(message: str, folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(run_program("ids", message, cwd=folder).stdout)
    return said


def arrived(events: bytes, folder: Path, *args: str, join: str = "") -> Receiver:
    folder.joinpath("events").write_bytes(events)
    with Receiver() as receiver:
        endpoint = ("--endpoint", receiver.http_endpoint)
        done = run_program("run", "events", *endpoint, *args, cwd=folder, FAILLOG_JOIN=join)
        assert done.code == 0, done.stderr
        return receiver


def attempts(receiver: Receiver) -> list[Span]:
    return [span for span in receiver.spans() if span.name.startswith("deliver")]


def linked(span: Span) -> set[tuple[str, str]]:
    return {(link.trace_id.hex(), link.span_id.hex()) for link in span.links}


def test_an_id_made_under_traceparent_lands_in_that_trace(tmp_path: Path) -> None:
    message = new_id(tmp_path, traceparent=TRACEPARENT)
    receiver = arrived(lines(error(messageId=message), attempt(messageId=message), exchange()), tmp_path)
    (span,) = attempts(receiver)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert (TRACE, SPAN) in linked(span)
    assert {log.trace_id.hex() for log in receiver.logs() if log.event_name != "segment.exchange"} == {TRACE}


def test_a_compact_id_lands_in_the_trace_without_a_parent(tmp_path: Path) -> None:
    message = new_id(tmp_path, "--compact", "--traceparent", TRACEPARENT)
    assert re.fullmatch(r"[0-9A-Za-z-]{36}", message)
    (span,) = attempts(arrived(lines(attempt(messageId=message)), tmp_path))
    assert (span.trace_id.hex(), span.parent_span_id) == (TRACE, b"")


@pytest.mark.parametrize("args", [(), ("--compact",)])
def test_the_ids_command_shows_the_trace_of_a_fresh_id(tmp_path: Path, args: tuple[str, ...]) -> None:
    message = new_id(tmp_path, *args, traceparent=TRACEPARENT)
    said = said_of(message, tmp_path)
    parent = None if args else SPAN
    origin = "message_id_compact" if args else "message_id"
    assert said == {"trace_id": TRACE, "origin": origin, "parent_span_id": parent}
    (span,) = attempts(arrived(lines(attempt(messageId=message)), tmp_path))
    assert span.trace_id.hex() == said["trace_id"]
    assert span.parent_span_id.hex() == (parent or "")


def test_the_given_traceparent_beats_the_environments(tmp_path: Path) -> None:
    other = f"00-{'1' * 32}-{'2' * 16}-01"
    message = new_id(tmp_path, "--traceparent", other, traceparent=TRACEPARENT)
    assert message.startswith(f"{other}-")


def test_without_a_context_each_id_has_a_trace_of_its_own(tmp_path: Path) -> None:
    traces = set()
    for _ in range(2):
        said = said_of(new_id(tmp_path), tmp_path)
        assert said["parent_span_id"] is None
        traces.add(said["trace_id"])
    assert len(traces) == 2


def test_a_traceparent_in_the_environment_that_is_not_valid_starts_a_new_trace(tmp_path: Path) -> None:
    done = run_program("ids", "--new", cwd=tmp_path, TRACEPARENT="nonsense")
    assert done.code == 0
    assert "TRACEPARENT" in done.stderr
    assert said_of(done.stdout.decode().strip(), tmp_path)["parent_span_id"] is None


@pytest.mark.parametrize(
    "args",
    [(), ("m", "--new"), ("m", "--compact"), ("m", "--traceparent", "x"), ("--new", "--traceparent", "x")],
)
def test_wrong_usage_of_ids(tmp_path: Path, args: tuple[str, ...]) -> None:
    done = run_program("ids", *args, cwd=tmp_path)
    assert (done.code, done.stdout) == (2, b"")


@pytest.mark.parametrize("way", ["flag", "environment", "file"])
def test_join_can_be_set_everywhere(tmp_path: Path, way: str) -> None:
    events = lines(attempt(messageId=f"{TRACEPARENT}-x"))
    if way == "file":
        tmp_path.joinpath("faillog-otel.toml").write_text('[mapping]\njoin = "link"\n')
    args = ("--join", "link") if way == "flag" else ()
    join = "link" if way == "environment" else ""
    (span,) = attempts(arrived(events, tmp_path, *args, join=join))
    assert span.trace_id.hex() != TRACE
    assert (TRACE, SPAN) in linked(span)


@pytest.mark.parametrize(("args", "join"), [(("--join", "child"), ""), ((), "child")])
def test_another_join_is_wrong_usage(tmp_path: Path, args: tuple[str, ...], join: str) -> None:
    tmp_path.joinpath("events").write_bytes(lines(attempt()))
    done = run_program("run", "events", *args, cwd=tmp_path, FAILLOG_JOIN=join)
    assert done.code == 2
    assert "join" in done.stderr.lower()


# -- a context beside the message, in the exchange's request -------------------------------------------


def passed_through(*messages: str, **others: Any) -> dict[str, Any]:
    events = [
        {"type": "track", "messageId": message, "context": {"traceparent": f"00-{TRACE}-{number:016x}-01"}}
        for number, message in enumerate(messages, 1)
    ]
    return {"body": json.dumps({"batch": events, **others})}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_request_that_passes_the_event_through_links_the_app(tmp_path: Path, *, is_first: bool) -> None:
    """Wherever the exchange stands in the file."""
    ones = [attempt(), attempt(messageId="n"), attempt(messageId="other")]
    both = exchange(requestToDestination=passed_through("m", "n"))
    receiver = arrived(lines(*([both, *ones] if is_first else [*ones, both])), tmp_path)
    spans = attempts(receiver)
    assert [(TRACE, f"{1:016x}") in linked(span) for span in spans] == [True, False, False]
    assert [(TRACE, f"{2:016x}") in linked(span) for span in spans] == [False, True, False]
    assert {span.parent_span_id for span in spans} == {b""}
    assert TRACE not in {span.trace_id.hex() for span in spans}


def test_another_exchanges_request_says_nothing_of_an_attempt(tmp_path: Path) -> None:
    other = exchange(destinationExchangeId="y", requestToDestination=passed_through("m"))
    (span,) = attempts(arrived(lines(attempt(), other), tmp_path))
    assert len(span.links) == 1


def test_a_records_context_is_kept_for_later_tries(tmp_path: Path) -> None:
    """By every later try: the exchange is in another file then."""
    events = lines(attempt(), exchange(requestToDestination=passed_through("m")))
    whole = [span.SerializeToString() for span in arrived(events, tmp_path).spans()]
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert run_program("run", "events", "--endpoint", endpoint, "--wait", "0s", cwd=tmp_path).code == 4
    with Receiver() as receiver:
        pending = "faillog-pending.jsonl"
        assert run_program("replay", pending, "--endpoint", receiver.http_endpoint, cwd=tmp_path).code == 0
        assert [span.SerializeToString() for span in receiver.spans()] == whole


def test_trees_show_the_apps_span_and_keep_messages_apart(tmp_path: Path) -> None:
    """Two messages of one trace, and one that only links."""
    joined = [attempt(messageId=f"{TRACEPARENT}-{name}") for name in "ab"]
    beside = exchange(requestToDestination=passed_through("m"))
    tmp_path.joinpath("events").write_bytes(lines(*joined, attempt(), beside))
    shown = run_program("run", "events", "--protocol", "console", "--all", cwd=tmp_path).stdout.decode()
    for name in "ab":
        assert f"message {TRACEPARENT}-{name}  trace {TRACE}  under the application's span {SPAN}" in shown
    assert f"↳ link: the application's span {1:016x}  trace {TRACE}" in shown


@pytest.mark.parametrize("message", ["m", f"{TRACEPARENT}-x", "other"])
def test_redact_shows_where_the_trace_comes_from_as_run_does(tmp_path: Path, message: str) -> None:
    events = lines(attempt(messageId=message), exchange(requestToDestination=passed_through("m")))
    receiver = arrived(events, tmp_path)
    (log,) = (log for log in receiver.logs() if log.event_name == "segment.attempt")
    (sent,) = (pair.value.string_value for pair in log.attributes if pair.key == "segment.trace.origin")
    shown = run_program("redact", "events", cwd=tmp_path).stdout.decode()
    assert f'"segment.trace.origin":"{sent}"' in shown.splitlines()[0].replace('": "', '":"')
