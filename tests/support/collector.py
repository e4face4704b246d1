"""The OpenTelemetry Collector of tests/collector/manifest.yaml, run with the configurations that we ship."""

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

from msgspec import Struct

from support.server import Server

ROOT = Path(__file__).parents[2]
READY = "Everything is ready"
CONFIGS = ROOT / "collector-config"
ANY_PORTS = {"FAILLOG_COLLECTOR_HTTP": "127.0.0.1:0", "FAILLOG_COLLECTOR_GRPC": "127.0.0.1:0"}


def endpoint_in(said: list[str], protocol: str) -> str:
    """Where a collector says that it listens."""
    (found,) = re.findall(rf'Starting {protocol} server.*"endpoint": "([^"]+)"', "".join(said))
    return f"http://{found}"


class Arrived(Struct, frozen=True):
    """What came out at the collector's other end, as OTLP JSON."""

    logs: list[dict[str, Any]]
    spans: list[dict[str, Any]]
    envelopes: list[dict[str, Any]]
    """ResourceLogs and ResourceSpans without their records."""


def shipped(program: Path, name: str, folder: Path, *more: str, **env: str) -> Server:
    """A collector with one of the configurations that users get, on ports that the system picks.

    It keeps what it keeps in the folder; `more` are configurations that are laid over it.
    """
    configs = [str(CONFIGS / f"{name}.yaml"), *more]
    return Server(
        [program, *(f"--config={config}" for config in configs)],
        READY,
        **ANY_PORTS,
        FAILLOG_COLLECTOR_STORAGE=str(folder / "storage"),
        FAILLOG_COLLECTOR_OUTPUT=str(folder / "output.jsonl"),
        **env,
    )


class Collector(Server):
    """A running collector on ports that the system picks, with the configuration that users get."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._output = folder / "collector-output.jsonl"
        super().__init__(
            [program, "--config", CONFIGS / "local.yaml"],
            READY,
            **ANY_PORTS,
            FAILLOG_COLLECTOR_OUTPUT=str(self._output),
        )

    @property
    def http_endpoint(self) -> str:
        """Its base URL for OTLP/HTTP."""
        return endpoint_in(self.said, "HTTP")

    @property
    def grpc_endpoint(self) -> str:
        """Its URL for OTLP/gRPC."""
        return endpoint_in(self.said, "GRPC")

    def stop(self) -> Arrived:
        """Ends the collector, which writes out what it holds, and reads that."""
        self.__exit__()
        arrived = Arrived([], [], [])
        written = sorted(self._output.parent.glob(f"{self._output.stem}*"))  # it begins a new file at 100 MB
        for line in chain.from_iterable(each.read_text("utf-8").splitlines() for each in written):
            request = json.loads(line)
            for whole, scopes, records, found in (
                ("resourceLogs", "scopeLogs", "logRecords", arrived.logs),
                ("resourceSpans", "scopeSpans", "spans", arrived.spans),
            ):
                for envelope in request.get(whole, ()):
                    for scope in envelope[scopes]:
                        found.extend(scope.pop(records))
                    arrived.envelopes.append(envelope)
        return arrived


def attributes_of(record: dict[str, Any]) -> dict[str, Any]:
    """An OTLP JSON record's attributes as plain values; integers stay the texts that JSON makes of them."""
    return {pair["key"]: plain(pair["value"]) for pair in record.get("attributes", ())}


def plain(value: dict[str, Any]) -> Any:
    """An OTLP JSON AnyValue as a plain value."""
    if "arrayValue" in value:
        return [plain(each) for each in value["arrayValue"].get("values", ())]
    return next(iter(value.values()), None)
