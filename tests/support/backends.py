"""Backends that keep what faillog-otel sends, each in one process on loopback, with their query APIs."""

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from support.collector import ROOT
from support.program import Done, run_program
from support.server import Server

Found = TypeVar("Found")
"""What a query answers."""

TEMPO_CONFIG = ROOT / "collector-config" / "tempo.yaml"
LOKI_CONFIG = ROOT / "collector-config" / "loki.yaml"
JAEGER_CONFIG = ROOT / "tests" / "backends" / "jaeger.yaml"


def free_ports(count: int) -> list[str]:
    """Ports that nobody listens on, for programs that do not say which one the system gave them."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(server.getsockname()[1]) for server in servers]
    for server in servers:
        server.close()
    return ports


def eventually(ask: Callable[[], Found], *, within_seconds: float = 60) -> Found:
    """What `ask` answers as soon as that is something, or at the end: backends index in their own time."""
    end = time.monotonic() + within_seconds
    while not (found := ask()) and time.monotonic() < end:
        time.sleep(0.2)  # no backend tells when it has indexed
    return found


def spans_in(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """The spans of OTLP JSON's TracesData."""
    return [
        span
        for resource in trace.get("resourceSpans", ())
        for scope in resource["scopeSpans"]
        for span in scope.get("spans", ())  # Jaeger: none where all were doubles
    ]


def forward(content: bytes, endpoint: str, signals: str, folder: Path, *options: str, code: int = 0) -> Done:
    """Sends a failure log with `faillog-otel run`, straight to a backend."""
    (folder / "events.ndjson").write_bytes(content)
    sent = ("--endpoint", endpoint, "--signals", signals, "--summary", "json")
    done = run_program("run", "events.ndjson", *sent, *options, cwd=folder)
    assert done.code == code, done.stderr
    return done


class Tempo(Server):
    """A running Tempo, with the configuration that users get if no other is given.

    It looks for new blocks every second, that tests need not wait.
    """

    def __init__(self, program: Path, folder: Path, config: Path = TEMPO_CONFIG) -> None:
        http, grpc, otlp_http, otlp_grpc = free_ports(4)
        self.otlp_endpoint = f"http://127.0.0.1:{otlp_http}"
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{http}", trust_env=False, timeout=30)
        super().__init__(
            [program, "-config.file", config, "-config.expand-env=true", "-storage.trace.blocklist_poll=1s"],
            "Tempo started",
            FAILLOG_TEMPO_FOLDER=str(folder / "tempo"),
            FAILLOG_TEMPO_PORT=http,
            FAILLOG_TEMPO_GRPC_PORT=grpc,
            FAILLOG_TEMPO_OTLP_HTTP_PORT=otlp_http,
            FAILLOG_TEMPO_OTLP_GRPC_PORT=otlp_grpc,
        )

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self.kill()  # once asked something, Tempo 2.8 waits on SIGTERM for its own querier for ever

    def spans(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace, as OTLP JSON with ids in base64; none while there is no such trace."""
        answer = self._client.get(f"/api/v2/traces/{trace_id}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return []
        return spans_in(answer.raise_for_status().json().get("trace", {}))

    def search(self, query: str, *, start: int, end: int) -> set[str]:
        """The trace ids that TraceQL finds between two times, in seconds since 1970."""
        asked: dict[str, str | int] = {"q": query, "start": start, "end": end}
        answer = self._client.get("/api/search", params=asked).raise_for_status().json()
        # Tempo leaves out leading zeros.
        return {found["traceID"].rjust(32, "0") for found in answer.get("traces", ())}

    def flush(self) -> None:
        """Has it write what it holds to a block now, which it does by itself within minutes."""
        before = self._metric("tempo_ingester_blocks_flushed_total")
        self._client.post("/flush").raise_for_status()
        assert eventually(lambda: self._metric("tempo_ingester_blocks_flushed_total") > before)

    def blocks(self) -> int:
        """How many blocks a search looks into."""
        return self._metric("tempodb_blocklist_length")

    def _metric(self, name: str) -> int:
        metrics = self._client.get("/metrics").raise_for_status().text
        return sum(int(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\d+)$", metrics, re.MULTILINE))


class Jaeger(Server):
    """A running Jaeger v2 that keeps traces in memory."""

    def __init__(self, program: Path) -> None:
        super().__init__([program, "--config", JAEGER_CONFIG], "Everything is ready")

    @property
    def otlp_endpoint(self) -> str:
        """Its base URL for OTLP/HTTP."""
        return f"http://{self._said('endpoint')}"

    def spans(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace, as OTLP JSON; none while there is no such trace."""
        url = f"http://{self._said('http_addr')}/api/v3/traces/{trace_id}"
        answer = httpx.get(url, trust_env=False, timeout=30)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return []
        return spans_in(answer.raise_for_status().json()["result"])

    def _said(self, key: str) -> str:
        (found,) = re.findall(rf'"{key}": "([^"]+)"', "".join(self.said))
        return str(found)


class Loki(Server):
    """A running Loki, with the configuration that users get if no other is given."""

    def __init__(self, program: Path, folder: Path, config: Path = LOKI_CONFIG) -> None:
        http, grpc = free_ports(2)
        self._url = f"http://127.0.0.1:{http}"
        self.otlp_endpoint = f"{self._url}/otlp"
        super().__init__(
            [program, "-config.file", config, "-config.expand-env=true"],
            "Loki started",
            FAILLOG_LOKI_FOLDER=str(folder / "loki"),
            FAILLOG_LOKI_PORT=http,
            FAILLOG_LOKI_GRPC_PORT=grpc,
        )

    def lines(self, query: str, *, start_ns: int, end_ns: int) -> list[tuple[int, str, dict[str, str]]]:
        """What LogQL finds between two times: time, line, and labels with structured metadata."""
        asked: dict[str, str | int] = {"query": query, "start": start_ns, "end": end_ns, "limit": 5000}
        answer = httpx.get(
            f"{self._url}/loki/api/v1/query_range", params=asked, trust_env=False, timeout=30
        ).raise_for_status()
        return [
            (int(when), line, stream["stream"])
            for stream in answer.json()["data"]["result"]
            for when, line, *_ in stream["values"]
        ]


class DesktopViewer(Server):
    """A running otel-desktop-viewer, which keeps in memory what it is sent and shows it as web pages."""

    def __init__(self, program: Path) -> None:
        otlp_http, otlp_grpc, pages = free_ports(3)
        self.otlp_endpoint = f"http://127.0.0.1:{otlp_http}"
        self._pages = f"http://127.0.0.1:{pages}"
        super().__init__(
            [
                *(program, "--open-browser=false", "--host", "127.0.0.1"),
                *("--http", otlp_http, "--grpc", otlp_grpc, "--browser-port", pages),
            ],
            "Everything is ready",
        )

    def page(self, trace_id: str, span_id: str = "") -> str:
        """The address where a person sees a trace, with one of its spans in full."""
        return f"{self._pages}/traces/{trace_id}?span={span_id}"

    def spans(self) -> int:
        """How many spans it has, of all traces."""
        asked = {"jsonrpc": "2.0", "id": 1, "method": "getStats"}
        answer = httpx.post(f"{self._pages}/rpc", json=asked, trust_env=False, timeout=30)
        return int(answer.raise_for_status().json()["result"]["traces"]["spanCount"])
