"""A Segment and a collector for very much: objects are made as they are asked for, records only counted.

Of what arrives, a sum over the `log.record.uid`s is kept; as each of them is a hash, nothing can be missing,
doubled or changed without another sum.
"""

import gzip
import hashlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from crashes.checker import EVENT_NAMES
from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.program import PROGRAM, environment

from campaign.parts import Case

COLLECTION = "bulk"
UID = re.compile(rb"log\.record\.uid\x12\x22\x0a\x20([0-9a-f]{32})")
"""An attribute of a log record, as protobuf writes it."""
RECORDS_IN_A_STORY = 14
ROUTED = (
    '"routed":{"to":[{"type":"destination","id":"5f7dd6d21ad74f3842b1fc47"}],'
    '"from":[{"type":"source","id":"qL9vTgNcd3xW2b5Yp8RkZm"}]}'
)
DRAFT_ROUTED = ROUTED.replace(
    '"}],"from"', '"},{"type":"subscription","id":"gMkWhSqGUyqGTV7BSZXHUu"}],"from"'
)
TIMES = '"occurredAt":"2026-01-07T23:14:47.000Z","loggedAt":"2026-01-07T23:14:49.000Z"'
ANSWER = '"{\\"error\\":\\"rate limit exceeded\\",\\"request\\":\\"%d\\"}"'


class Expected:
    """What is to arrive: how many log records and spans, and the sum of the uids."""

    def __init__(self) -> None:
        self.logs = self.spans = self.sum = 0

    def add(self, name: bytes, raw: bytes, *, has_span: bool = True) -> None:
        """Adds a record by its event name and bytes."""
        self.logs += 1
        self.spans += has_span
        self.sum += int.from_bytes(hashlib.sha256(name + b"\n" + raw).digest()[:16], "big")


def story(number: int, expected: Expected) -> bytes:
    """The lines of one batch: an exchange, ten attempts in it, three messages that are discarded."""
    exchange, answer = f"exchange-{number}", ANSWER % number
    version, routed = ("1", DRAFT_ROUTED) if number % 2 else ('"v1"', ROUTED)  # both dialects of the page
    head = f'"version":{version},"properties":{{{routed},'
    response = f'"responseFromDestination":{{"status":429,"headers":{{"Retry-After":"30"}},"body":{answer}}}'
    lines = [
        (
            "Destination Exchange Logged",
            f'"destinationExchangeId":"{exchange}","requestToDestination":{{"body":"..."}},{response}',
        )
    ]
    for each in range(10):
        outcome = f'"attempt":1,"outcome":"failure","destinationExchangeId":"{exchange}"'
        lines.append(("Delivery Attempt Logged", f'"messageId":"m-{number}-{each}",{outcome}'))
    for each in range(3):
        outcome = '"discarded":true,"reason":"INVALID_SETTINGS"'
        lines.append(("Error Logged", f'"messageId":"m-{number}-{each}",{outcome}'))
    raws = []
    for event, properties in lines:
        raw = f'{{"type":"observability","event":"{event}",{head}{properties},{TIMES}}}}}'.encode()
        expected.add(EVENT_NAMES[event].encode(), raw, has_span=event != "Error Logged")
        raws.append(raw)
    return b"".join(raw + b"\n" for raw in raws)


class Measured(Struct, frozen=True):
    """A process at one moment."""

    memory_bytes: int
    peak_bytes: int
    descriptors: int
    threads: int


def measure(process: int) -> Measured | None:
    """What /proc says of a process; None after its end."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        descriptors = len(list(Path(f"/proc/{process}/fd").iterdir()))
        words = dict(line.split(":", 1) for line in status.splitlines())
        return Measured(
            int(words["VmRSS"].split()[0]) * 1024,
            int(words["VmHWM"].split()[0]) * 1024,
            descriptors,
            int(words["Threads"]),
        )
    except (OSError, KeyError):
        return None


class Bulk:
    """A context manager: Segment's API, its downloads and a collector, in one server.

    `urls` gives the names of an hour's objects, `content` the bytes of one.
    """

    def __init__(
        self,
        urls: Callable[[str], list[str]],
        content: Callable[[str], Iterator[bytes]],
        length: Callable[[str], int],
    ) -> None:
        self.logs = self.spans = self.sum = self.downloads = self.listings = 0
        self._urls = urls
        self.content = content
        self.length = length
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Handler", (_Handler,), {"bulk": self}))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def listing(self, hour: str) -> bytes:
        """What the API answers for an hour."""
        self.listings += 1
        urls = [f"http://127.0.0.1:{self.port}/objects/{name}" for name in self._urls(hour)]
        return json.dumps({"data": {"download": {"urls": urls}}}).encode()

    def take(self, path: str, body: bytes) -> None:
        """A request of the collector."""
        if path == "/v1/logs":
            uids = UID.findall(body)
            sum_ = sum(int(uid, 16) for uid in uids)
            with self._lock:
                self.logs += len(uids)
                self.sum += sum_
            return
        request = ExportTraceServiceRequest.FromString(body)
        spans = sum(len(scope.spans) for each in request.resource_spans for scope in each.scope_spans)
        with self._lock:
            self.spans += spans

    def start(self, folder: Path, since: str, *more: str) -> "subprocess.Popen[bytes]":
        """Starts `run --once` on it; its words go to `said.txt` of the folder."""
        with (folder / "said.txt").open("wb") as said:
            return subprocess.Popen(
                [
                    *(PROGRAM, "run", "--once", "--since", since, "--collection", COLLECTION),
                    *("--segment-url", f"http://127.0.0.1:{self.port}"),
                    *("--download-host", f"127.0.0.1:{self.port}"),
                    *(
                        "--endpoint",
                        f"http://127.0.0.1:{self.port}",
                        "--state-dir",
                        str(folder / "state"),
                        *more,
                    ),
                ],
                cwd=folder,
                env=environment(SEGMENT_TOKEN="t0ken-of-the-bulk"),  # noqa: S106  # any will do
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def watch(self, process: "subprocess.Popen[bytes]", seconds: float) -> list[Measured]:
        """Measures the process now and then until its end."""
        found = []
        while process.poll() is None:
            if measured := measure(process.pid):
                found.append(measured)
            time.sleep(seconds)
        return found

    def judge(self, case: Case, expected: Expected, process: "subprocess.Popen[bytes]", folder: Path) -> None:
        """Compares what arrived with what had to; asks `audit`."""
        said = (folder / "said.txt").read_text(errors="replace")[-1500:]
        if process.returncode != 0:
            case.wrong.append(f"exit code {process.returncode}: {said}")
        for name, got, wanted in (
            ("log records", self.logs, expected.logs),
            ("spans", self.spans, expected.spans),
        ):
            if got != wanted:
                case.wrong.append(f"{'lost' if got < wanted else 'invented'}: {got} {name} of {wanted}")
        if self.logs == expected.logs and self.sum != expected.sum:
            case.wrong.append("changed: the sum of the uids is another one")
        audit = subprocess.run(
            [PROGRAM, "audit", "--json", "--state-dir", str(folder / "state")],
            env=environment(),
            capture_output=True,
            check=False,
        )
        if audit.returncode != 0:
            case.wrong.append(f"audit ended with {audit.returncode}: {audit.stdout.decode()[-1000:]}")
        elif (records := json.loads(audit.stdout)["sums"]["records"]) != expected.logs:
            case.wrong.append(f"audit: {records} records of {expected.logs}")


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bulk: Bulk

    def do_GET(self) -> None:
        """An object, or the check of the token."""
        if not self.path.startswith("/objects/"):
            self._send(b"{}", "application/json")
            return
        name = self.path.removeprefix("/objects/")
        self._head(self.bulk.length(name), "binary/octet-stream", f'"{name}"')
        self.bulk.downloads += 1
        for piece in self.bulk.content(name):
            self.wfile.write(piece)

    def do_POST(self) -> None:
        """A listing, or records."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.startswith("/v1/"):
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            self.bulk.take(self.path, body)
            self._send(b"", "application/x-protobuf")
            return
        self._send(self.bulk.listing(json.loads(body)["hour"]), "application/json")

    def _send(self, content: bytes, kind: str) -> None:
        self._head(len(content), kind)
        self.wfile.write(content)

    def _head(self, length: int, kind: str, etag: str = "") -> None:
        self.send_response_only(200)
        self.send_header("Date", formatdate(usegmt=True))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Says nothing."""
