"""The counting sink of sink/main.go, in a process of its own: built, started, asked, blasted.

It is asked once, when all was sent; or before, and answers when nothing has come for a while.
"""

import http.client
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import msgspec
from msgspec import Struct
from support.building import Workshop, build
from support.server import Server

from faillog_otel.otlp.grpc import GRPC_METHODS

SOURCE = Path(__file__).with_name("sink")
_READY = "listening on "
_MAX_SECONDS = 3600
"""Long enough for any contestant."""


class Counts(Struct, frozen=True):
    """What came: requests, records, bytes of bodies as they came; and what that cost the sink.

    `last`: when the last request was acknowledged, seconds since 1970; nothing of use where there was none.
    """

    requests: int
    logs: int
    spans: int
    bytes: int
    cpu_seconds: float
    last: float

    @property
    def records(self) -> int:
        """Log records and spans."""
        return self.logs + self.spans


def build_sink() -> Path:
    """The path of the built program; builds it first where needed (seconds). Raises CannotBuild."""
    parts = (SOURCE / "go.mod", *sorted(SOURCE.glob("*.go")))
    return build("sink", b"".join(part.read_bytes() for part in parts), _make)


def _make(workshop: Workshop) -> Path:
    program = workshop.bench / "program"
    workshop.go("build", "-buildvcs=false", "-o", program, ".", cwd=SOURCE)
    return program


class Sink(Server):
    """A running sink on a port that the system picks; it has counted nothing yet."""

    def __init__(self, program: Path) -> None:
        super().__init__([program], _READY)

    @property
    def endpoint(self) -> str:
        """Its base URL, for OTLP/HTTP and OTLP/gRPC alike."""
        (address,) = (line.removeprefix(_READY) for line in self.said if line.startswith(_READY))
        return f"http://{address.strip()}"

    def counts(self, quiet_seconds: float = 0, logs: int = 0) -> Counts:
        """Returns what came so far. Raises OSError if the sink has ended.

        With `quiet_seconds`, first waits until nothing has come for so long, or until so many log records
        have come that are not compressed.
        """
        connection = http.client.HTTPConnection(urlsplit(self.endpoint).netloc, timeout=_MAX_SECONDS)
        try:
            connection.request(
                "GET", f"/counts?quiet={quiet_seconds}&logs={logs}" if quiet_seconds else "/counts"
            )
            return msgspec.json.decode(connection.getresponse().read(), type=Counts)
        finally:
            connection.close()


class Limit(Struct, frozen=True):
    """What the sink takes when it is blasted with requests that are ready."""

    records_per_second: float
    bytes_per_second: float
    cpu_us_per_record: float


def limit_of(program: Path, protocol: str, request: bytes, records: int, requests: int) -> Limit:
    """Sends one request of so many log records again and again, over two connections at once."""
    with Sink(program) as sink:
        address = urlsplit(sink.endpoint).netloc
        blast = _blast_grpc if protocol == "grpc" else _blast_http
        blast(address, request, 1)  # the first one opens connections, and finds no buffers
        before = sink.counts()
        started = time.monotonic()
        _at_once(2, lambda: blast(address, request, requests // 2))
        seconds = time.monotonic() - started
        after = sink.counts()
    came = after.logs - before.logs
    if came != requests // 2 * 2 * records:
        raise AssertionError(f"the sink counted {came} of {requests * records} records")
    cpu = after.cpu_seconds - before.cpu_seconds
    return Limit(came / seconds, (after.bytes - before.bytes) / seconds, cpu / came * 1e6)


def _blast_http(address: str, request: bytes, times: int) -> None:
    connection = http.client.HTTPConnection(address)
    for _ in range(times):
        connection.request("POST", "/v1/logs", request, {"content-type": "application/x-protobuf"})
        connection.getresponse().read()
    connection.close()


def _blast_grpc(address: str, request: bytes, times: int) -> None:
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call: Any = channel.unary_unary(GRPC_METHODS["logs"])  # no serialisers: bytes go as they are
        for _ in range(times):
            call(request)


def _at_once(number: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
