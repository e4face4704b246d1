"""Real collectors with the configurations that are shipped for each destination."""

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from support.collector import CONFIGS, endpoint_in, shipped
from support.metrics import MetricsReceiver
from support.program import Done, environment, run_program
from support.server import Server

from faillog_otel.config import Signal
from faillog_otel.sandbox.collector import REQUESTS, Receiver, Reply, records_of
from faillog_otel.sandbox.generator import failure_events

NAMES = ("local", "tempo-loki", "honeycomb", "datadog", "jaeger")
SECRETS = {"honeycomb": "HONEYCOMB_API_KEY", "datadog": "DD_API_KEY"}
KEY = "made-up"


class Backend:
    """A receiver's script: notes what came, and takes it only while it is not away."""

    def __init__(self, *, is_away: bool = False) -> None:
        self.is_away = is_away
        self.ids: dict[Signal, set[bytes]] = {"logs": set(), "traces": set()}
        self.refused: set[Signal] = set()
        self.news = threading.Condition()

    def __call__(self, signal: Signal, body: bytes) -> Reply | None:
        with self.news:
            self.news.notify_all()
            if self.is_away:
                self.refused.add(signal)
                return Reply(503)
            for record in records_of(REQUESTS[signal].FromString(body)):
                uid = record.span_id if signal == "traces" else _uid(record)
                self.ids[signal].add(uid)
        return None

    def wait_for(self, sent: dict[str, int]) -> None:
        """Until so many different records and spans have come."""
        with self.news:
            wanted = {"logs": sent["logs"], "traces": sent["spans"]}
            assert self.news.wait_for(
                lambda: {each: len(ids) for each, ids in self.ids.items()} == wanted, 60
            )

    def wait_until_it_refused(self) -> None:
        with self.news:
            assert self.news.wait_for(lambda: self.refused == {"logs", "traces"}, 60)


def _uid(record: Any) -> bytes:
    values = {pair.key: str(pair.value.string_value) for pair in record.attributes}
    return values["log.record.uid"].encode()


def validate(program: Path, name: str, **env: str) -> "subprocess.CompletedProcess[str]":
    command: list[str | Path] = [program, "validate", "--config", CONFIGS / f"{name}.yaml"]
    return subprocess.run(command, env=environment(**env), capture_output=True, text=True, check=False)


def forward(server: Server, folder: Path) -> Done:
    """Some hundred events and our own metrics, as docs/guides/backends/index.md says."""
    (folder / "events").write_bytes(b"\n".join(failure_events(seed=5, messages=60)))
    endpoint = endpoint_in(server.said, "HTTP")
    done = run_program(
        *("run", "events", "--endpoint", endpoint, "--summary", "json"),
        cwd=folder,
        FAILLOG_SELF_OTLP_ENDPOINT=endpoint,
    )
    assert done.code == 0, done.stderr
    assert done.summary["exported"] == done.summary["records"] > 100
    return done


def requests_in(file: Path) -> list[dict[str, Any]]:
    """What an exporter wrote: OTLP JSON Lines."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def logs_in(file: Path) -> list[Any]:
    return [
        record
        for request in requests_in(file)
        for resource in request.get("resourceLogs", ())
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]


@pytest.mark.parametrize("name", NAMES)
def test_each_configuration_is_valid(collector_program: Path, name: str) -> None:
    env = {SECRETS[name]: KEY} if name in SECRETS else {}
    done = validate(collector_program, name, **env)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SECRETS)
def test_without_its_key_a_collector_does_not_start(collector_program: Path, name: str) -> None:
    """It would take everything over from us, and the backend would refuse it."""
    done = validate(collector_program, name)
    assert done.returncode != 0
    assert f"bearertokenauth/{name}: no bearer token provided" in done.stderr


def test_tempo_loki_gives_each_its_own(collector_program: Path, tmp_path: Path) -> None:
    loki, tempo = Backend(), Backend()
    with Receiver(loki) as loki_receiver, Receiver(tempo) as tempo_receiver, MetricsReceiver() as prometheus:
        server = shipped(
            collector_program,
            "tempo-loki",
            tmp_path,
            LOKI_ENDPOINT=loki_receiver.http_endpoint,
            TEMPO_ENDPOINT=tempo_receiver.http_endpoint,
            PROMETHEUS_ENDPOINT=f"{prometheus.http_endpoint}/api/v1/otlp",
        )
        with server:
            sent = forward(server, tmp_path).summary["sent"]
            loki.wait_for({"logs": sent["logs"], "spans": 0})
            tempo.wait_for({"logs": 0, "spans": sent["spans"]})
            prometheus.wait_for(1)
        assert prometheus.sent[-1].headers["path"] == "/api/v1/otlp/v1/metrics"
        (exported,) = prometheus.numbers("faillog.exported").values()
        assert exported == sent["logs"]


def test_what_a_collector_took_over_survives_its_end_while_the_backend_is_away(
    collector_program: Path, tmp_path: Path
) -> None:
    backend = Backend(is_away=True)
    with Receiver(backend) as receiver, MetricsReceiver() as metrics:
        server = shipped(
            collector_program,
            "tempo-loki",
            tmp_path,
            LOKI_ENDPOINT=receiver.http_endpoint,
            TEMPO_ENDPOINT=receiver.http_endpoint,
            PROMETHEUS_ENDPOINT=metrics.http_endpoint,
        )
        with server:
            sent = forward(server, tmp_path).summary["sent"]
            backend.wait_until_it_refused()
            server.kill()
        assert backend.ids == {"logs": set(), "traces": set()}
        backend.is_away = False
        with server:
            backend.wait_for(sent)


def test_local_keeps_in_its_file_what_it_acknowledged_however_it_ends_and_starts(
    collector_program: Path, tmp_path: Path
) -> None:
    sent = 0
    for _ in range(2):
        with shipped(collector_program, "local", tmp_path) as server:
            sent += forward(server, tmp_path).summary["sent"]["logs"]
            server.kill()
        assert len(logs_in(tmp_path / "output.jsonl")) == sent


def test_honeycomb_gets_the_key_and_a_dataset_for_metrics_only(
    collector_program: Path, tmp_path: Path
) -> None:
    backend = Backend()
    with Receiver(backend) as receiver, MetricsReceiver() as metrics:
        server = shipped(
            collector_program,
            "honeycomb",
            tmp_path,
            f"yaml:exporters::otlp_http/honeycomb-metrics::endpoint: {metrics.http_endpoint}",
            HONEYCOMB_ENDPOINT=receiver.http_endpoint,
            HONEYCOMB_API_KEY=KEY,
        )
        with server:
            backend.wait_for(forward(server, tmp_path).summary["sent"])
            metrics.wait_for(1)
        assert {each.headers["x-honeycomb-team"] for each in receiver.received} == {KEY}
        assert not any("x-honeycomb-dataset" in each.headers for each in receiver.received)
        headers = metrics.sent[-1].headers
        assert (headers["x-honeycomb-team"], headers["x-honeycomb-dataset"]) == (KEY, "faillog-otel-metrics")


def test_datadog_gets_the_key_and_differences(collector_program: Path, tmp_path: Path) -> None:
    backend, datadog = Backend(), "exporters::otlp_http/datadog"
    with Receiver(backend) as receiver, MetricsReceiver() as metrics:
        server = shipped(
            collector_program,
            "datadog",
            tmp_path,
            f"yaml:{datadog}::endpoint: {receiver.http_endpoint}",
            f"yaml:{datadog}::metrics_endpoint: {metrics.http_endpoint}/api/v2/otlpmetrics",
            DD_API_KEY=KEY,
        )
        with server:
            backend.wait_for(forward(server, tmp_path).summary["sent"])
            metrics.wait_for(1)
        assert {each.headers["dd-api-key"] for each in receiver.received} == {KEY}
        headers = metrics.sent[-1].headers
        assert (headers["dd-api-key"], headers["path"]) == (KEY, "/api/v2/otlpmetrics")
        exported = metrics.metrics()["faillog.exported"].sum
        assert exported.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
        assert sum(metrics.numbers("faillog.exported").values()) == len(backend.ids["logs"])


def test_jaeger_gets_spans_and_a_file_the_rest(collector_program: Path, tmp_path: Path) -> None:
    backend = Backend()
    with Receiver(backend) as receiver:
        server = shipped(collector_program, "jaeger", tmp_path, JAEGER_ENDPOINT=receiver.http_endpoint)
        with server:
            sent = forward(server, tmp_path).summary["sent"]
            backend.wait_for({"logs": 0, "spans": sent["spans"]})
    assert len(logs_in(tmp_path / "output.jsonl")) == sent["logs"]
    assert sum("resourceMetrics" in request for request in requests_in(tmp_path / "output.jsonl")) == 1
