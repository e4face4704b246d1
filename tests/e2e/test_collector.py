"""Through a real OpenTelemetry Collector, with the configuration that the documentation gives people."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.collector import ROOT, Arrived, Collector, attributes_of
from support.events import attempt, error, event, exchange, lines
from support.program import environment, run_program

from faillog_otel.propagation import digest
from faillog_otel.sandbox.generator import failure_events

SEGMENT_PAGE = lines(error(), attempt(), exchange())
MESSAGE_TRACE = hashlib.sha256(b'["segment.message","m"]').hexdigest()[:32]
EXCHANGE = hashlib.sha256(b'["segment.exchange","x"]').hexdigest()
ATTEMPT_SPAN = hashlib.sha256(b'["segment.attempt","m","abc","ghi",4,"2025-03-23T20:00:00Z"]').hexdigest()[
    :16
]
"""Configurations of backends, not of the collector: tests/backends start those."""
TIME = "1742760000000000000"
COMMON = {
    "messaging.system": "segment",
    "messaging.operation.name": "deliver",
    "messaging.operation.type": "process",
    "messaging.destination.name": "abc",
    "segment.source.id": "ghi",
    "segment.destination.id": "abc",
    "segment.occurred_at": "2025-03-23T20:00:00Z",
    "segment.logged_at": "2025-03-23T20:00:00Z",
    "segment.report_lag_ms": "0",
}
OF_MESSAGE = {"messaging.message.id": "m", "segment.trace.origin": "derived"}
OF_EXCHANGE = {
    "http.response.status_code": "418",
    "error.type": "418",
    "segment.reason.class": "unknown",
    "segment.reason.retryable": False,
    "segment.failure.group": "52e69c89d25b589e",
    "segment.destination_exchange.id": "x",
}
OF_ATTEMPT = {
    "segment.event": "segment.attempt",
    "segment.delivery.attempt": "4",
    "segment.delivery.outcome": "failure",
}


def uid(name: str, raw: bytes) -> dict[str, str]:
    return {"log.record.uid": hashlib.sha256(name.encode() + b"\n" + raw).hexdigest()[:32]}


def forward(collector: Collector, content: bytes, folder: Path, *args: str) -> dict[str, Any]:
    (folder / "events.ndjson").write_bytes(content)
    done = run_program(
        *("run", "events.ndjson", "--endpoint", collector.http_endpoint, "--summary", "json", *args),
        cwd=folder,
    )
    assert done.code == 0, done.stderr
    return done.summary


def group(code: str | None, status: int | None) -> str:
    """The failure group of these events, by the formula of docs/concepts/ids.md."""
    return digest("segment.failure", "abc", None, code, status, None)[:8].hex()


def without_attributes(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "attributes"}


def test_every_field_of_the_three_events_of_segments_page(collector: Collector, tmp_path: Path) -> None:
    forward(collector, SEGMENT_PAGE, tmp_path)
    arrived = collector.stop()
    error_log, attempt_log, exchange_log = arrived.logs
    attempt_span, exchange_span = arrived.spans

    assert without_attributes(error_log) == {
        "timeUnixNano": TIME,
        "observedTimeUnixNano": TIME,
        "severityNumber": 17,
        "severityText": "ERROR",
        "eventName": "segment.error",
        "body": {"stringValue": "Error in delivery to abc, message discarded (message m)"},
        "flags": 1,
        "traceId": MESSAGE_TRACE,
    }
    assert attributes_of(error_log) == {
        **COMMON,
        **OF_MESSAGE,
        **uid("segment.error", error()),
        "segment.event": "segment.error",
        "segment.discarded": True,
        "error.type": "_OTHER",
        "segment.reason.class": "unknown",
        "segment.failure.group": group(None, None),
    }
    assert without_attributes(attempt_log) == {
        "timeUnixNano": TIME,
        "observedTimeUnixNano": TIME,
        "severityNumber": 13,
        "severityText": "WARN",
        "eventName": "segment.attempt",
        "body": {"stringValue": "Delivery to abc failed: HTTP 418 (message m, attempt 4)"},
        "flags": 1,
        "traceId": MESSAGE_TRACE,
        "spanId": ATTEMPT_SPAN,
    }
    of_failure = {
        "segment.reason.class": "unknown",
        "segment.reason.retryable": False,
        "segment.failure.group": group("418", 418),
    }
    of_attempt = {**COMMON, **OF_MESSAGE, **OF_EXCHANGE, **OF_ATTEMPT, **of_failure}
    assert attributes_of(attempt_log) == {**of_attempt, **uid("segment.attempt", attempt())}
    assert without_attributes(exchange_log) == {
        "timeUnixNano": TIME,
        "observedTimeUnixNano": TIME,
        "severityNumber": 17,
        "severityText": "ERROR",
        "eventName": "segment.exchange",
        "body": {"stringValue": "Request to abc: HTTP 418 (exchange x)"},
        "flags": 1,
        "traceId": EXCHANGE[:32],
        "spanId": EXCHANGE[32:48],
    }
    of_exchange = {
        **COMMON,
        **OF_EXCHANGE,
        **of_failure,
        "segment.event": "segment.exchange",
        "http.request.method": "_OTHER",
        "messaging.batch.message_count": "1",
    }
    assert attributes_of(exchange_log) == {
        **of_exchange,
        **uid("segment.exchange", exchange()),
        "segment.response.body": '{"key": "value"}',
    }

    (link,) = attempt_span.pop("links")
    assert without_attributes(link) == {"traceId": EXCHANGE[:32], "spanId": EXCHANGE[32:48], "flags": 257}
    assert attributes_of(link) == {"segment.link.type": "exchange", "segment.destination_exchange.id": "x"}
    assert without_attributes(attempt_span) == {
        "traceId": MESSAGE_TRACE,
        "spanId": ATTEMPT_SPAN,
        "flags": 257,
        "name": "deliver abc",
        "kind": 5,
        "startTimeUnixNano": TIME,
        "endTimeUnixNano": TIME,
        "status": {"code": 2, "message": "HTTP 418"},
    }
    assert attributes_of(attempt_span) == of_attempt
    assert without_attributes(exchange_span) == {
        "traceId": EXCHANGE[:32],
        "spanId": EXCHANGE[32:48],
        "flags": 257,
        "name": "HTTP abc",
        "kind": 3,
        "startTimeUnixNano": TIME,
        "endTimeUnixNano": TIME,
        "status": {"code": 2, "message": "HTTP 418"},
    }
    assert attributes_of(exchange_span) == of_exchange

    schema = "https://opentelemetry.io/schemas/1.44.0"
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "segment"}}]}
    scope = {"scope": {"name": "faillog-otel"}, "schemaUrl": schema}
    assert sorted(arrived.envelopes, key=repr) == [
        {"resource": resource, "scopeLogs": [scope], "schemaUrl": schema},
        {"resource": resource, "scopeSpans": [scope], "schemaUrl": schema},
    ]


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
def test_the_fields_of_the_pages_first_draft(collector: Collector, tmp_path: Path, protocol: str) -> None:
    """A numeric version, a subscription, the attempt of an error, prose, the feature."""
    to = [{"type": "destination", "id": "abc"}, {"type": "subscription", "id": "def"}]
    own: dict[str, Any] = {"routed": {"to": to, "from": [{"type": "source", "id": "ghi"}]}}
    feature = {"featureName": "destinationInsertFunction"}
    found = lines(
        error(**own, **feature, attempt=2, reason="failed insert function"),
        attempt(**own, **feature, reason="some description for why"),
        exchange(**own),
    ).replace(b'"v1"', b"1")
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
    forward(collector, found, tmp_path, "--protocol", protocol, "--endpoint", endpoint)
    arrived = collector.stop()
    error_log, attempt_log, exchange_log = arrived.logs
    attempt_span, exchange_span = arrived.spans
    for record in (error_log, attempt_log, exchange_log, attempt_span, exchange_span):
        attributes = attributes_of(record)
        assert attributes["segment.subscription.id"] == "def"
        assert attributes["segment.destination.id"] == "abc"
        assert "segment.destination.ids" not in attributes
        assert not any(name.startswith("segment.extra") for name in attributes)
    assert (error_log["severityText"], error_log["eventName"]) == ("ERROR", "segment.error")
    of_error = attributes_of(error_log)
    assert (of_error["segment.delivery.attempt"], of_error["segment.discarded"]) == ("2", True)
    assert (of_error["segment.reason"], of_error["error.type"]) == (
        "failed insert function",
        "failed_insert_function",
    )
    assert of_error["segment.reason.class"] == "function"
    for record in (attempt_log, attempt_span):
        assert attributes_of(record)["segment.reason"] == "some description for why"
        assert attributes_of(record)["error.type"] == "418"
    for record in (error_log, attempt_log, attempt_span):
        assert attributes_of(record)["segment.feature"] == "destinationInsertFunction"
    assert (attempt_span["spanId"], attempt_span["traceId"]) == (ATTEMPT_SPAN, MESSAGE_TRACE)
    assert attempt_span["status"] == {"code": 2, "message": "some description for why"}


def test_what_the_page_does_not_show(collector: Collector, tmp_path: Path) -> None:
    """Headers, URL, several destinations, extras, another event, a shifted time: at the other end, too."""
    answered = exchange(
        requestToDestination={"method": "POST", "url": "https://api.example:8443/track"},
        responseFromDestination={
            "status": 429,
            "headers": {"Retry-After": "30", "Set-Cookie": "s"},
            "body": "x" * 3000,
        },
        routed={"to": [{"type": "destination", "id": "a"}, {"type": "destination", "id": "b"}]},
        reason="slow down, jane@shop.example",
        shard={"n": 2**63, "hot": True, "load": 0.5},
        **{f"k{n:02}": n for n in range(70)},
    )
    other = event("Retry Logged", messageId="m", occurredAt="2025-03-23T20:00:00Z")
    forward(collector, lines(answered, other), tmp_path, "--time-policy", "clamp:1h")
    exchange_log, other_log = collector.stop().logs
    found = attributes_of(exchange_log)
    assert found["http.request.method"] == "POST"
    assert found["url.full"] == "https://api.example:8443/track"
    assert (found["server.address"], found["server.port"]) == ("api.example", "8443")
    assert found["http.response.header.retry-after"] == ["30"]
    assert "http.response.header.set-cookie" not in found
    assert found["segment.response.body"] == "x" * 2048
    assert found["segment.body_truncated"] is True
    assert found["segment.destination.ids"] == ["a", "b"]
    assert found["segment.reason"] == "slow down, [redacted:email]"
    assert found["segment.extra.shard.n"] == str(2**63)
    assert (found["segment.extra.shard.hot"], found["segment.extra.shard.load"]) == (True, 0.5)
    assert sum(key.startswith("segment.extra.") for key in found) == 64
    assert exchange_log["droppedAttributesCount"] == 9
    assert found["segment.time_shifted"] is True
    assert found["segment.occurred_at"] == "2025-03-23T20:00:00Z"
    assert int(exchange_log["timeUnixNano"]) > int(TIME)
    assert (other_log["eventName"], other_log["severityNumber"]) == ("segment.other", 9)
    assert other_log["traceId"] == MESSAGE_TRACE
    assert attributes_of(other_log)["segment.extra.event"] == "Retry Logged"


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
def test_a_realistic_file_arrives_whole_and_every_link_resolves(
    collector: Collector, tmp_path: Path, protocol: str
) -> None:
    events = list(failure_events(seed=3, messages=600))
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
    summary = forward(collector, lines(*events), tmp_path, "--protocol", protocol, "--endpoint", endpoint)
    arrived = collector.stop()
    assert summary["records"] == summary["exported"] == len(arrived.logs) == len(events)
    assert summary["sent"] == {"logs": len(arrived.logs), "spans": len(arrived.spans)}
    uids = [attributes_of(log)["log.record.uid"] for log in arrived.logs]
    assert len(set(uids)) == len(events)
    exchanges = {
        (span["traceId"], span["spanId"]): attributes_of(span) for span in arrived.spans if span["kind"] == 3
    }
    attempts = [span for span in arrived.spans if span["kind"] == 5]
    assert (len(exchanges), len(attempts)) == (summary["events"]["exchange"], summary["events"]["attempt"])
    for span in attempts:
        (link,) = span["links"]
        target = exchanges[link["traceId"], link["spanId"]]
        found = attributes_of(span)
        assert target["segment.destination_exchange.id"] == found["segment.destination_exchange.id"]
        assert found.get("http.response.status_code") == target.get("http.response.status_code")


def test_a_second_run_arrives_the_same(collector_program: Path, tmp_path: Path) -> None:
    twice: list[Arrived] = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        with Collector(collector_program, tmp_path / name) as collector:
            forward(collector, SEGMENT_PAGE, tmp_path)
            twice.append(collector.stop())
    assert (twice[0].logs, twice[0].spans) == (twice[1].logs, twice[1].spans)


def test_the_manifest_has_the_components_that_were_asked_for(collector_program: Path) -> None:
    done = subprocess.run(
        [collector_program, "components"], env=environment(), capture_output=True, check=True
    )
    names = "otlp file_log file otlp_http file_storage debug batch memory_limiter transform"
    for name in names.split():
        assert f"name: {name}\n".encode() in done.stdout, name


def test_every_id_that_left_can_be_computed_by_the_ids_command(tmp_path: Path) -> None:
    done = run_program("ids", "m", cwd=tmp_path)
    assert json.loads(done.stdout) == {"trace_id": MESSAGE_TRACE, "origin": "derived", "parent_span_id": None}
    assert ROOT.joinpath("tests", "golden", "ids.json").exists()
