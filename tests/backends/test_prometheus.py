"""What the dashboard and docs/guides/monitor.md ask about our own metrics, and what Prometheus answers."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, NumberDataPoint
from support.backends import Prometheus
from support.collector import CONFIGS, ROOT
from support.events import error, lines
from support.own_failures import report_failures
from support.program import run_program

from faillog_otel.clock import SECOND_NS
from faillog_otel.sandbox.collector import Receiver

DASHBOARD = json.loads((CONFIGS / "grafana" / "dashboards" / "faillog-otel.json").read_text("utf-8"))
PANELS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    .replace("$__rate_interval", "4m")
    .replace("$destination", ".*")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
    if target["datasource"]["uid"] == "${prometheus}"
}
"""Title and letter of each of the dashboard's queries → PromQL, its variables filled in as Grafana does."""
(QUARANTINED,) = (query for title, query in PANELS.items() if title.startswith("Quarantined"))
(ALERT,) = re.findall(
    r"^sum by \(reason\).* > 0$", (ROOT / "docs" / "guides" / "monitor.md").read_text("utf-8"), re.MULTILINE
)
(LOST_ALERT,) = re.findall(
    r"^sum by \(destination, reason_class\).* > 0$",
    (ROOT / "docs" / "guides" / "monitor.md").read_text("utf-8"),
    re.MULTILINE,
)
BEFORE_NOW = 1800
"""Seconds. Samples may be so old, and none is newer than now."""
FAILURE_PANELS = {"Lost messages", "Pending messages", "Failed attempts by reason", "New failure groups"}


@pytest.fixture
def prometheus(prometheus_program: Path, tmp_path: Path) -> Iterator[Prometheus]:
    """A running Prometheus, with nothing in it."""
    with Prometheus(prometheus_program, tmp_path) as prometheus:
        yield prometheus


def run(prometheus: Prometheus, folder: Path) -> None:
    """Three records and one that is broken, in a run of a second: its metrics are sent once."""
    (folder / "events").write_bytes(lines(error(), error(messageId="b"), error(messageId="c"), b"{broken"))
    with Receiver() as receiver:
        done = run_program(
            *("run", "events", "--endpoint", receiver.http_endpoint),
            cwd=folder,
            FAILLOG_SELF_OTLP_ENDPOINT=prometheus.otlp_endpoint,
        )
    assert (done.code, "metrics" in done.stderr) == (3, False), done.stderr


def count(prometheus: Prometheus, value: int, at_seconds: int) -> None:
    """What a run sends at that time that has quarantined so many records."""
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add()
    metric.name, metric.unit = "faillog.quarantined", "{record}"
    metric.sum.is_monotonic = True
    metric.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    reason = KeyValue(key="reason", value=AnyValue(string_value="bad_time"))
    metric.sum.data_points.append(
        NumberDataPoint(attributes=[reason], as_int=value, time_unix_nano=at_seconds * SECOND_NS)
    )
    httpx.post(
        f"{prometheus.otlp_endpoint}/v1/metrics",
        content=request.SerializeToString(),
        headers={"content-type": "application/x-protobuf"},
        trust_env=False,
    ).raise_for_status()


def test_what_each_run_counts_first_is_shown_and_alerted_on(prometheus: Prometheus, tmp_path: Path) -> None:
    for runs in (1, 2):
        run(prometheus, tmp_path)
        assert prometheus.numbers(QUARANTINED) == {("invalid_json",): runs}
        assert prometheus.numbers(ALERT) == {("invalid_json",): runs}
        (by_outcome,) = (
            query for title, query in PANELS.items() if title.startswith("Records, by outcome A")
        )
        found = {"exported": 3 * runs, "rejected": 0, "quarantined": runs, "duplicate": 0}
        assert prometheus.numbers(by_outcome) == {(outcome,): number for outcome, number in found.items()}


def test_what_is_counted_later_is_shown_when_it_is_and_then_no_more(prometheus: Prometheus) -> None:
    start = int(time.time()) - BEFORE_NOW
    for minute in range(20):
        count(prometheus, 2 if minute < 8 else 5, start + 60 * minute)
    for minute, least, most in ((1, 2, 2), (7, 0, 0), (9, 3, 4), (19, 0, 0)):  # increase() extrapolates
        at_seconds = start + 60 * minute + 1
        (number,) = prometheus.numbers(QUARANTINED, at_seconds).values()
        assert least <= number <= most, minute
        assert bool(prometheus.numbers(ALERT, at_seconds)) == (minute < 19)


def test_an_alert_on_lost_messages_is_one_line(prometheus: Prometheus) -> None:
    assert prometheus.numbers(LOST_ALERT) == {}
    for runs in (1, 2):
        report_failures(prometheus.otlp_endpoint)
        assert prometheus.numbers(LOST_ALERT) == {("Mixpanel", "credentials"): 3 * runs}
    panels = {
        title: prometheus.numbers(query)
        for title, query in PANELS.items()
        if title.partition(" A")[0] in FAILURE_PANELS
    }
    assert panels == {
        "Lost messages A": {("Mixpanel", "credentials"): 6, ("Mixpanel", "destination_down"): 0},
        "Pending messages A": {("Mixpanel", "destination_down"): 2},
        "Failed attempts by reason A": {
            ("INVALID_API_KEY", "credentials"): 54,
            ("503", "destination_down"): 10,
        },
        "New failure groups A": {("Mixpanel", "credentials"): 2},
    }


@pytest.mark.parametrize("panel", PANELS)
def test_prometheus_understands_every_panel(prometheus: Prometheus, panel: str) -> None:
    prometheus.numbers(PANELS[panel])
