"""Backends that keep what faillog-otel sends, each in one process on loopback, with their query APIs."""

import json
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


class Jaeger(Server):
    """A running Jaeger v2 that keeps traces in memory."""

    def __init__(self, program: Path) -> None:
        super().__init__([program, "--config", JAEGER_CONFIG], "Everything is ready")

    @property
    def otlp_endpoint(self) -> str:
        """Its base URL for OTLP/HTTP."""
        return f"http://{self._said('endpoint')}"

    def spans(self, trace_id: str, *, raw: bool = False) -> list[dict[str, Any]]:
        """The spans of a trace, as OTLP JSON; none while there is no such trace.

        `raw`: as they are stored, with those that came more than once.
        """
        url = f"http://{self._said('http_addr')}/api/v3/traces/{trace_id}"
        asked = {"raw_traces": "true"} if raw else {}
        answer = httpx.get(url, params=asked, trust_env=False, timeout=30)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return []
        return spans_in(answer.raise_for_status().json()["result"])

    def _said(self, key: str) -> str:
        (found,) = re.findall(rf'"{key}": "([^"]+)"', "".join(self.said))
        return str(found)


class VictoriaLogs(Server):
    """A running VictoriaLogs that keeps logs for as long as Segment does."""

    def __init__(self, program: Path, folder: Path) -> None:
        (port,) = free_ports(1)
        self._url = f"http://127.0.0.1:{port}"
        self.otlp_endpoint = f"{self._url}/insert/opentelemetry"
        super().__init__(
            [
                *(program, f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=29d"),
                *("-storageDataPath", folder / "victorialogs"),
            ],
            "started server at",
        )

    def records(self, query: str) -> list[dict[str, str]]:
        """Returns what LogsQL finds, each log record as its fields."""
        # It makes new records visible to queries within a second, unless told to at once.
        httpx.get(f"{self._url}/internal/force_flush", trust_env=False, timeout=30).raise_for_status()
        answer = httpx.post(
            f"{self._url}/select/logsql/query", data={"query": query}, trust_env=False, timeout=30
        )
        assert answer.status_code == httpx.codes.OK, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]


class Prometheus(Server):
    """A running Prometheus that scrapes nothing, and takes OTLP as docker/compose.yaml has it."""

    def __init__(self, program: Path, folder: Path) -> None:
        (port,) = free_ports(1)
        self._url = f"http://127.0.0.1:{port}"
        self.otlp_endpoint = f"{self._url}/api/v1/otlp"
        config = folder / "prometheus.yml"
        config.touch()
        super().__init__(
            [
                *(program, "--config.file", config, "--storage.tsdb.path", folder / "prometheus"),
                *("--web.enable-otlp-receiver", f"--web.listen-address=127.0.0.1:{port}"),
            ],
            "Server is ready to receive web requests",
        )

    def numbers(self, query: str, at_seconds: float | None = None) -> dict[tuple[str, ...], float]:
        """What PromQL says of one moment, of now if no other is given: the labels' values → the number."""
        asked: dict[str, str | float] = {"query": query}
        if at_seconds is not None:
            asked["time"] = at_seconds
        answer = httpx.get(f"{self._url}/api/v1/query", params=asked, trust_env=False, timeout=30)
        assert answer.status_code == httpx.codes.OK, answer.text
        found = answer.json()["data"]["result"]
        return {tuple(series["metric"].values()): float(series["value"][1]) for series in found}


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
