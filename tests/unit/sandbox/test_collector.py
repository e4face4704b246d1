"""The OTLP receiver refuses what OTLP/HTTP does not allow, and keeps none of it."""

import gzip
import http.client
from urllib.parse import urlsplit

import pytest

from faillog_otel.sandbox.collector import Receiver

PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}
GZIP = {**PROTOBUF, "Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/v1/logs", {}, b"", 405),
        ("POST", "/v1/metrics", PROTOBUF, b"", 404),
        ("POST", "/v1/logs", {"Content-Type": "text/plain"}, b"", 415),
        ("POST", "/v1/logs", PROTOBUF, b"\xff", 400),
        ("POST", "/v1/logs", JSON, b"{", 400),
        ("POST", "/v1/traces", GZIP, b"not gzip", 400),
        ("POST", "/v1/traces", GZIP, gzip.compress(b"", mtime=0)[:-4], 400),
    ],
)
def test_a_request_that_is_not_otlp_is_refused(
    method: str, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    with Receiver() as receiver:
        connection = http.client.HTTPConnection(urlsplit(receiver.http_endpoint).netloc, timeout=60)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        connection.close()
    assert (response.status, receiver.received) == (status, [])
