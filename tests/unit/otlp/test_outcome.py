"""What an answer means."""

from email.utils import formatdate

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from support.canaries import CANARIES

from faillog_otel.clock import retry_after
from faillog_otel.otlp.outcome import (
    Acknowledged,
    Doubtful,
    Outcome,
    PartlyRejected,
    Refused,
    RetryLater,
    TooLarge,
    is_about_size,
    read_http_answer,
)

PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json; charset=utf-8"}
LOGS = ExportLogsServiceResponse(
    partial_success=ExportLogsPartialSuccess(rejected_log_records=3, error_message="no")
).SerializeToString()
SPANS = ExportTraceServiceResponse(
    partial_success=ExportTracePartialSuccess(rejected_spans=2, error_message="no")
).SerializeToString()
WARNING = ExportLogsServiceResponse(
    partial_success=ExportLogsPartialSuccess(error_message="deprecated")
).SerializeToString()


@pytest.mark.parametrize(
    ("status", "headers", "body", "outcome"),
    [
        (200, PROTOBUF, b"", Acknowledged()),
        (200, {}, b"", Acknowledged()),
        (202, PROTOBUF, b"", Acknowledged()),
        (204, {}, b"", Acknowledged()),
        (200, PROTOBUF, LOGS, PartlyRejected(3, "no")),
        (200, PROTOBUF, WARNING, Acknowledged("deprecated")),
        (200, JSON, b"{}", Acknowledged()),
        (200, JSON, b'{"partialSuccess":{}}', Acknowledged()),
        (
            200,
            JSON,
            b'{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"no"}}',
            PartlyRejected(3, "no"),
        ),
        (200, JSON, b'{"partialSuccess":null}', Acknowledged()),
        (
            200,
            JSON,
            b'{"partialSuccess":{"rejectedLogRecords":null,"errorMessage":null}}',
            Acknowledged(),
        ),
        (
            200,
            JSON,
            rb'{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"cut: \ud83d"}}',
            PartlyRejected(3, "cut: \ufffd"),
        ),
        (429, {}, b"", RetryLater("HTTP 429")),
        (429, {"retry-after": "120"}, b"", RetryLater("HTTP 429", 120.0)),
        (502, {}, b"", RetryLater("HTTP 502", may_be_size=True)),
        (502, {"retry-after": "3"}, b"", RetryLater("HTTP 502", 3.0)),
        (503, PROTOBUF, Status(message="full").SerializeToString(), RetryLater("HTTP 503: full")),
        (504, {}, b"", RetryLater("HTTP 504")),
        (400, JSON, b'{"message": "bad"}', Doubtful("HTTP 400: bad")),
        (400, JSON, b'{"message": null}', Doubtful("HTTP 400")),
        (400, JSON, rb'{"message": "cut: \ud83d"}', Doubtful("HTTP 400: cut: \ufffd")),
        (413, {}, b"", TooLarge("HTTP 413")),
        (401, {"content-type": "text/plain"}, b"who are you\n", Refused("HTTP 401: who are you")),
        (404, {"content-type": "text/html"}, b"<html>", Refused("HTTP 404")),
        (500, {}, b"", Doubtful("HTTP 500")),
    ],
)
def test_an_http_answer_has_an_outcome(
    status: int, headers: dict[str, str], body: bytes, outcome: Outcome
) -> None:
    assert read_http_answer("logs", status, headers, body, 0.0) == outcome


def test_a_partial_success_of_spans() -> None:
    assert read_http_answer("traces", 200, PROTOBUF, SPANS, 0.0) == PartlyRejected(2, "no")


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {"content-type": "text/html"}, b"<html>Please log in</html>"),
        (200, {}, b"OK"),
        (200, PROTOBUF, b"<html>"),
        (200, JSON, b"<html>"),
        (200, JSON, b'{"partialSuccess":{"rejectedLogRecords":"many"}}'),
        (302, {"location": "https://login.example"}, b""),
    ],
)
def test_what_is_no_otlp_answer_acknowledges_nothing(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    """A proxy's login page is 200 as well."""
    assert isinstance(read_http_answer("logs", status, headers, body, 0.0), Refused)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (formatdate(1_000_060, usegmt=True), 60.0),
        (formatdate(999_000, usegmt=True), 0.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, 1_000_000.0) == seconds


@pytest.mark.parametrize("kind", CANARIES)
def test_what_a_collector_quotes_is_redacted(kind: str) -> None:
    text, canary = CANARIES[kind]
    for status in (400, 401, 413, 503):
        for content_type, body in (
            ("text/plain", text.encode()),
            ("application/x-protobuf", Status(message=text).SerializeToString()),
        ):
            outcome = read_http_answer("logs", status, {"content-type": content_type}, body, 0)
            assert canary not in repr(outcome)
    partial = ExportLogsPartialSuccess(rejected_log_records=1, error_message=text)
    body = ExportLogsServiceResponse(partial_success=partial).SerializeToString()
    assert canary not in repr(read_http_answer("logs", 200, PROTOBUF, body, 0))


@pytest.mark.parametrize(
    "said",
    [
        "grpc: received message larger than max (5000000 vs. 4194304)",
        "grpc: received message after decompression larger than max 4194304",
        "SERVER: Received message larger than max (5000000 vs. 4194304)",
        "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes",
        "gRPC message exceeds maximum size 4194304: 5000000",
        "Decompressed gRPC message exceeds maximum size 4194304",
        "Received message exceeds the maximum configured message size.",
        "http: request body too large",
        "Payload Too Large",
        "Request Entity Too Large",
        "Request body size 5000000 exceeds the limit of 4194304",
    ],
)
def test_messages_about_the_size(said: str) -> None:
    """A request that is too large and a server that is overloaded have one code in gRPC."""
    assert is_about_size(said)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "no",
        "out of range",
        "rate limit exceeded",
        "ingestion rate limit exceeded for user fake (limit: 4194304 bytes/sec) while adding 1000 bytes",
        "Request Header Or Cookie Too Large",
        "data refused due to high memory usage",
        "monthly quota exceeded: message size does not matter",
        "per second quota: request body exceeds the size",
        "sending queue is full",
    ],
)
def test_messages_about_something_else(said: str) -> None:
    """A record that is taken for too large is quarantined, so a guess must not go too far."""
    assert not is_about_size(said)


def test_a_retry_after_date_is_measured_by_the_answers_own_date() -> None:
    """Our clock may be a day off: then two seconds would be 86,402."""
    headers = {"retry-after": "Mon, 12 Jan 1970 13:46:42 GMT", "date": "Mon, 12 Jan 1970 13:46:40 GMT"}
    found = read_http_answer("logs", 503, headers, b"", 1_000_000.0 - 86_400)
    assert found == RetryLater("HTTP 503", 2.0)
