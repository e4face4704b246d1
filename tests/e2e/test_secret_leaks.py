"""Secrets and people's data: none leaves, and none is in anything that the program says."""

import gzip
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.canaries import CANARIES
from support.events import attempt, error, exchange, lines
from support.polled_folder import PolledFolder
from support.program import run_program
from support.sidecar import segment_simulator, sidecar, sidecar_options
from support.tiers import slow, swept

from faillog_otel.sandbox import Simulator
from faillog_otel.sandbox.collector import Receiver, Reply
from faillog_otel.sandbox.config import CATALOGUE, SimulatedClock, SimulatorConfig, WorldConfig
from faillog_otel.sandbox.free_requests import CREDENTIALS


def planted(text: str) -> bytes:
    """Events with this text wherever a text may be that somebody else wrote, but in ids."""
    response: dict[str, Any] = {
        "status": 400,
        "headers": {"Server": text, "X-Request-Id": [text], "X-Other": text},
        "body": text,
        "more": text,
    }
    request = {"url": f"https://api.example.com/{text}", "headers": {"X": text}, "body": text, "method": text}
    return lines(
        exchange(requestToDestination=request, responseFromDestination=response),
        exchange(requestToDestination=text, responseFromDestination={"status": 400, "body": {"a": [text]}}),
        attempt(outcome=text, reason=text, errorCode=text, responseFromDestination=response),
        error(discardReason=text, nested={"deep": [{"x": text}], text: "name"}, plain=text),
        error(error={"message": text, "code": text}).replace(b"Error Logged", b"Retry Logged"),
        error(occurredAt=text),
        b'{"broken": ' + json.dumps(text).encode(),
    )


def test_no_canary_is_exported_or_printed(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"".join(planted(text) for text, _ in CANARIES.values()))

    with Receiver() as receiver:
        flags = ("--endpoint", receiver.http_endpoint, "-vv")
        shown = []
        for command in (
            ("run", "events", *flags),
            ("run", "events", *flags, "--bodies", "all", "--log-format", "json"),
            ("run", "events", "--protocol", "file", "-vv", "--bodies", "keys"),
            ("run", "events", "--protocol", "console", "-vv", "--bodies", "all"),
            ("redact", "events"),
            ("redact", "--explain", "--bodies", "all", "events"),
            ("replay", "faillog-quarantine.jsonl", *flags),
        ):
            done = run_program(*command, cwd=tmp_path)
            assert done.code == 3, (command, done.stderr)
            shown.append(done.stdout.decode() + done.stderr)
        assert len(receiver.logs()) >= 10 * len(CANARIES)
        sent = b"".join(each.body for each in receiver.received)
    for kind, (_, canary) in CANARIES.items():
        assert canary.encode() not in sent, kind
        assert not any(canary in each for each in shown), kind
    kept = [json.loads(line) for line in (tmp_path / "faillog-quarantine.jsonl").read_bytes().splitlines()]
    assert len(kept) == 2 * len(CANARIES)  # two records of each kind: the same ones are kept once
    for kind, (_, canary) in CANARIES.items():
        assert all(canary not in entry["detail"] for entry in kept)
        assert any(canary in entry["raw"] for entry in kept), kind  # they are kept as they came


def test_what_a_collector_quotes_is_not_repeated(tmp_path: Path) -> None:
    text, canary = CANARIES["email"]
    (tmp_path / "events").write_bytes(error())
    reply = Reply(503, text.encode(), {"content-type": "text/plain"})
    with Receiver(lambda _name, _body: reply) as receiver:
        flags = ("--endpoint", receiver.http_endpoint, "--wait", "0", "-vv")
        done = run_program("run", "events", *flags, cwd=tmp_path)
    assert done.code == 4
    assert "[redacted:email] was refused" in done.stderr
    assert canary not in done.stderr


def test_with_a_key_equal_values_are_comparable_and_nobody_else_can_guess_them(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(
        lines(
            error(reason="jane@shop.example"),
            error(reason="to jane@shop.example"),
            error(reason="joe@shop.example"),
        )
    )
    marks = []
    for key in ("a key of sixteen characters", "another key of sixteen"):
        with Receiver() as receiver:
            endpoint = receiver.http_endpoint
            done = run_program(
                "run", "events", "--endpoint", endpoint, cwd=tmp_path, FAILLOG_REDACTION_KEY=key
            )
            assert (done.code, "key" in done.stderr) == (0, False)
            found = [
                {pair.key: pair.value.string_value for pair in log.attributes} for log in receiver.logs()
            ]
        first, second, third = (each["segment.reason"] for each in found)
        assert second == f"to {first}"
        assert third != first
        assert first.startswith("[redacted:email:")
        marks.append(first)
    assert marks[0] != marks[1]


def test_a_short_redaction_key_is_warned_about_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(error())
    done = run_program(
        "run", "events", "--protocol", "file", "-vv", cwd=tmp_path, FAILLOG_REDACTION_KEY="c4n4ry"
    )
    assert "redaction key" in done.stderr
    assert "c4n4ry" not in done.stderr


def test_ids_are_never_touched(tmp_path: Path) -> None:
    id_ = "jane@shop.example 203.0.113.7 +14155552671"
    routed = {"to": [{"type": "destination", "id": id_}], "from": [{"type": "source", "id": id_}]}
    content = lines(attempt(messageId=id_, destinationExchangeId=id_, routed=routed))
    (tmp_path / "events").write_bytes(gzip.compress(content))
    with Receiver() as receiver:
        run_program("run", "events", "--endpoint", receiver.http_endpoint, cwd=tmp_path)
        (log,) = receiver.logs()
    found = {pair.key: pair.value.string_value for pair in log.attributes}
    for name in (
        "messaging.message.id",
        "segment.destination_exchange.id",
        "segment.source.id",
        "segment.destination.id",
        "messaging.destination.name",
    ):
        assert found[name] == id_
    assert id_ in log.body.string_value


def everything_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Each file below a folder, with what a compressed one holds."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            yield path.name, content
            if content.startswith(b"\x1f\x8b"):
                yield path.name, gzip.decompress(content)


@pytest.mark.parametrize(
    "fault",
    swept(
        [None, *(name for name in CATALOGUE if name.startswith("names:"))],
        {None, "names:500", "names:truncated"},
    ),
)
def test_no_credential_of_segments_answers_is_kept_or_shown(tmp_path: Path, fault: str | None) -> None:
    """Segment answers a request for names with the API keys of all destinations, and with write keys."""
    world = WorldConfig(messages=2.0)
    config = SimulatorConfig(world=world, faults={fault: 0.5} if fault else {}, slow_seconds=0.1)
    said: list[bytes] = []
    with Simulator(config, SimulatedClock(standing=True)) as segment, Receiver() as receiver:
        polled = PolledFolder(segment, tmp_path, ("--since", "-24h"))
        own: dict[str, Any] = {
            "SEGMENT_TOKEN": segment.token,
            "FAILLOG_SELF_OTLP_ENDPOINT": receiver.http_endpoint,
        }
        state = ("--state-dir", str(polled.state))
        for command in (
            ("run", "--once", *polled.options, "-vv", "--protocol", "console"),
            ("run", "--once", *polled.options, "-vv", "--endpoint", receiver.http_endpoint),
            ("run", "--once", *polled.options, "-vv", "--log-format", "json", "--summary", "json"),
            ("status", "--json", *state),
            ("status", *state),
            ("audit", "--json", *state),
            ("doctor", *state),
        ):
            done = run_program(*command, cwd=tmp_path, **own)
            said += [done.stdout, done.stderr.encode()]
        got = [each.body for each in receiver.received]
        asked = [each for each in segment.requests() if each.path == "/destinations"]
    assert asked
    assert len(got) > 2
    kept = list(everything_in(polled.state))
    assert {name for name, _ in kept} >= {"ledger.sqlite3"}
    if fault is None:
        assert any(b"Mixpanel (prod)" in content for _, content in kept)
        assert any(b"Mixpanel (prod)" in content for content in got)
    for credential in CREDENTIALS:
        assert not any(credential.encode() in each for each in (*said, *got))
        assert [name for name, content in kept if credential.encode() in content] == []


@slow
def test_no_credential_is_in_the_ledger_while_it_is_written(tmp_path: Path) -> None:
    """Killed while it runs: a write-ahead log or a journal is there still."""
    with segment_simulator("shop") as segment, Receiver(lambda _name, _body: Reply(503)) as receiver:
        with sidecar(sidecar_options(segment, receiver), tmp_path) as found:
            found.wait_for("names: read")
            found.process.send_signal(signal.SIGKILL)
            found.process.wait()
        said = "".join(found.said)
    kept = list(everything_in(tmp_path / "state"))
    for credential in CREDENTIALS:
        assert credential not in said
        assert [name for name, content in kept if credential.encode() in content] == []
