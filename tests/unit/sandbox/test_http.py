"""The HTTP server of the sandbox over real sockets: valid responses, and those that go wrong on purpose."""

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from faillog_otel.errors import ConfigError
from faillog_otel.sandbox.http import HttpServer, Request, Response

BODY = b"0123456789"


@contextmanager
def connected(
    answer: Callable[[Request], Response], max_body_bytes: int = 100
) -> Iterator[http.client.HTTPConnection]:
    with HttpServer(answer, max_body_bytes=max_body_bytes) as server:
        connection = http.client.HTTPConnection(server.host, timeout=60)
        try:
            yield connection
        finally:
            connection.close()


def test_a_request_arrives_decoded_and_the_connection_stays_open() -> None:
    requests = []

    def answer(request: Request) -> Response:
        requests.append(request)
        return Response(200, BODY)

    with connected(answer) as connection:
        ports = set()
        for _ in range(2):
            connection.request("POST", "/a%20b?c=%C3%A9&d=", b"body", {"X-Name": "value"})
            assert connection.getresponse().read() == BODY
            ports.add(connection.sock.getsockname()[1])
    assert len(ports) == 1
    for request in requests:
        assert (request.method, request.path, request.query) == ("POST", "/a b", {"c": "é", "d": ""})
        assert (request.headers["x-name"], request.body) == ("value", b"body")


@pytest.mark.parametrize(
    ("breaks_off", "error"),
    [("close", http.client.RemoteDisconnected), ("reset", ConnectionResetError)],
)
def test_a_connection_can_end_before_the_status_line(breaks_off: str, error: type[Exception]) -> None:
    response = Response(200, BODY, breaks_off=breaks_off)  # type: ignore[arg-type]  # a Literal, parametrized
    with connected(lambda _: response) as connection:
        connection.request("GET", "/")
        with pytest.raises(error) as raised:
            connection.getresponse()
    assert raised.type is error


def test_a_body_can_break_off() -> None:
    with connected(lambda _: Response(200, BODY, breaks_off="close", sent_bytes=4)) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        with pytest.raises(http.client.IncompleteRead) as raised:
            response.read()
    assert (response.getheader("Content-Length"), raised.value.partial) == ("10", BODY[:4])


def test_a_length_can_be_wrong() -> None:
    wrong = Response(200, BODY, content_length=4, breaks_off="close", sent_bytes=4)
    with connected(lambda _: wrong) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().read() == BODY[:4]


def test_closing_the_server_ends_the_delays_of_a_slow_body() -> None:
    with HttpServer(lambda _: Response(200, BODY, slow_seconds=86_400.0)) as server:
        connection = http.client.HTTPConnection(server.host, timeout=60)
        connection.request("GET", "/")
        response = connection.getresponse()
    assert response.read() == BODY
    connection.close()


@pytest.mark.parametrize(("length", "status"), [("101", 413), ("-1", 400), ("many", 400)])
def test_a_body_that_is_too_long_or_has_no_valid_length_is_refused(length: str, status: int) -> None:
    with connected(lambda _: Response()) as connection:
        connection.putrequest("POST", "/")
        connection.putheader("Content-Length", length)
        connection.endheaders()
        response = connection.getresponse()
        response.read()
    assert response.status == status


def test_an_empty_header_is_not_sent() -> None:
    """So a script can leave out ETag and Date, which are there by default."""
    with connected(lambda _: Response(headers={"Date": "", "X-Other": "value"})) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
    assert (response.getheader("Date"), response.getheader("X-Other")) == (None, "value")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is not available"):
            HttpServer(lambda _: Response(), port)
