"""Grafana's dashboard and data sources ask for what a real run of the program emits, and for nothing else.

The names are those that arrive: log records and spans at a receiver, our own metrics at a collector that
spells them as Prometheus does.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from msgspec import Struct, field
from support.collector import ANY_PORTS, CONFIGS, READY, ROOT, endpoint_in
from support.events import attempt, error, exchange, lines
from support.node import run_node
from support.own_failures import report_failures
from support.polled_folder import COLLECTION
from support.program import run_program
from support.server import Server, unused_port
from support.sidecar import TOKEN, segment_simulator

from faillog_otel.sandbox.collector import Receiver
from faillog_otel.sandbox.generator import failure_events

GRAFANA = CONFIGS / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "faillog-otel.json").read_text("utf-8"))
SOURCES = yaml.safe_load((GRAFANA / "datasources.yaml").read_text("utf-8"))["datasources"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [target for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"] for variable in DASHBOARD["templating"]["list"]}

WORDS = {
    "loki": "sum by topk count_over_time quantile_over_time unwrap __error__",
    "prometheus": "sum min max by increase rate histogram_quantile le or unless offset",
    "tempo": "kind consumer client status error resource span",
}
"""What the query languages themselves say."""
COMPARED = re.compile(r'([\w.]+)\s*(?:=|!=|=~)\s*"([^"]*)"')


class Emitted(Struct):
    """Attribute or metric → its values, spelt as a data source spells them."""

    loki: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    tempo: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    prometheus: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def of(self, source: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = getattr(self, source)
        return found


def pairs(attributes: Any) -> Iterator[tuple[str, str]]:
    for pair in attributes:
        value = getattr(pair.value, pair.value.WhichOneof("value"))
        yield pair.key, str(value).lower() if isinstance(value, bool) else str(value)


@pytest.fixture(scope="module")
def emitted(collector_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Emitted:
    """What comes of a file of failures whose times are shifted, and of polling a simulated Segment."""
    folder, found = tmp_path_factory.mktemp("emitted"), Emitted()
    note_records(forwarded(folder), found)
    note_metrics(scraped(collector_program, folder), found)
    return found


def forwarded(folder: Path) -> Receiver:
    """A receiver that got what a run over a file sends."""
    reason = {"reason": "FILTERED_BY_RULES"}
    rare = lines(error(**reason), attempt(**reason), exchange(**reason))
    (folder / "events").write_bytes(rare + lines(*failure_events(seed=2, messages=200)))
    with Receiver() as receiver:
        flags = ("--endpoint", receiver.http_endpoint, "--time-policy", "clamp:1h")
        assert run_program("run", "events", *flags, cwd=folder).code == 0
    return receiver


def note_records(receiver: Receiver, found: Emitted) -> None:
    for received in receiver.received:
        request: Any = received.request()
        for each in request.resource_logs if received.signal == "logs" else request.resource_spans:
            for name, value in pairs(each.resource.attributes):
                found.loki[loki_name(name)].add(value)
                found.tempo[f"resource.{name}"].add(value)
    for log in receiver.logs():
        for name, value in pairs(log.attributes):
            found.loki[loki_name(name)].add(value)
    for span in receiver.spans():
        for name, value in pairs(span.attributes):
            found.tempo[f"span.{name}"].add(value)


def note_metrics(text: str, found: Emitted) -> None:
    for metric, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        found.prometheus[metric].add("")
        for name, value in re.findall(r'(\w+)="([^"]*)"', labels):
            found.prometheus[name].add(value)


def loki_name(name: str) -> str:
    """Loki's rule for structured metadata and labels: letters, digits and underscores."""
    return re.sub(r"\W", "_", name)


def scraped(program: Path, folder: Path) -> str:
    """What Prometheus would read after a run that polled."""
    address = f"127.0.0.1:{unused_port()}"
    config = ROOT / "tests" / "collector" / "prometheus.yaml"
    command: list[str | Path] = [program, "--config", config]
    server = Server(command, READY, **ANY_PORTS, FAILLOG_COLLECTOR_SCRAPED=address)
    with server, segment_simulator(COLLECTION, damage=0.2) as segment, Receiver() as receiver:
        done = run_program(
            *("run", "--once", "--since", "-10h", "--collection", COLLECTION, "--state-dir", "state"),
            *("--segment-url", segment.url, "--download-host", segment.download_host),
            *("--endpoint", receiver.http_endpoint),
            cwd=folder,
            SEGMENT_TOKEN=TOKEN,
            FAILLOG_SELF_OTLP_ENDPOINT=endpoint_in(server.said, "HTTP"),
        )
        assert done.code == 3, done.stderr  # some lines are damaged
        report_failures(endpoint_in(server.said, "HTTP"))
        return httpx.get(f"http://{address}/metrics").text


def source_of(target: dict[str, Any]) -> str:
    return str(target["datasource"]["uid"]).strip("${}")


def query_of(target: dict[str, Any]) -> str:
    return str(target.get("expr") or target["query"])


def filled_in(query: str) -> str:
    """The query with values in the place of Grafana's variables."""
    for variable in ("$__auto", "$__range", "$__rate_interval"):
        query = query.replace(variable, "2d")
    return re.sub(r"\$\$\{[\w.]+\}|\$\w+", "value", query)


def names_in(query: str) -> set[str]:
    """Its words, but for texts, variables and durations."""
    bare = re.sub(r'"[^"]*"|`[^`]*`|\$\w+|\[[^\]]*\]', " ", query)
    return set(re.findall(r"[A-Za-z_][\w.]*", bare))


def test_every_panel_has_an_id_and_a_place_of_its_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


@pytest.mark.parametrize("target", TARGETS, ids=query_of)
def test_a_panel_asks_for_what_is_emitted(target: dict[str, Any], emitted: Emitted) -> None:
    source = source_of(target)
    known = emitted.of(source)
    assert names_in(query_of(target)) <= known.keys() | set(WORDS[source].split())
    assert set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))) <= known.keys()
    for name, text in COMPARED.findall(query_of(target)):
        if name != "__error__" and text and not text.startswith("$"):
            assert set(text.split("|")) <= known[name], name


def test_every_logql_and_traceql_query_is_right_by_the_grammar_of_grafanas_editor(node_modules: Path) -> None:
    """Its meaning is not proven here: Loki and Tempo are not part of these tests."""
    by_type = {source["type"]: source["jsonData"] for source in SOURCES}
    links = [
        ("loki", by_type["tempo"]["tracesToLogsV2"]["query"]),
        ("tempo", by_type["loki"]["derivedFields"][1]["url"]),
    ]
    panels = [(source_of(target), query_of(target)) for target in TARGETS]
    asked = [(source, filled_in(query)) for source, query in links + panels if source in {"loki", "tempo"}]
    assert {source for source, _ in asked} == {"loki", "tempo"}
    found = json.loads(run_node("syntax.cjs", node_modules=node_modules, text=json.dumps(asked)))
    assert [(query, fault) for (_, query), fault in zip(asked, found, strict=True) if fault] == []


@pytest.mark.parametrize(
    ("language", "query"),
    [
        ("loki", '{a="b"} | c="d'),
        ("loki", "sum by (a) (rate({b=c}[5m]))"),
        ("tempo", '{ span.a = && b = "c" }'),
    ],
)
def test_a_wrong_query_is_found(node_modules: Path, language: str, query: str) -> None:
    asked = json.dumps([(language, query)])
    assert all(json.loads(run_node("syntax.cjs", node_modules=node_modules, text=asked)))


@pytest.mark.parametrize("target", TARGETS, ids=query_of)
def test_a_panel_uses_only_defined_variables(target: dict[str, Any]) -> None:
    used = re.findall(r"\$\{?(\w+)", query_of(target))
    assert set(used) <= VARIABLES | {"__auto", "__range", "__rate_interval"}


def test_the_list_of_destinations_is_made_of_one_of_our_labels(emitted: Emitted) -> None:
    (listed,) = (each for each in DASHBOARD["templating"]["list"] if each["name"] == "destination")
    assert listed["query"]["query"] == "label_values(faillog_records_total, destination)"
    assert emitted.prometheus.keys() >= {"faillog_records_total", "destination"}


def test_every_metric_of_ours_is_shown(emitted: Emitted) -> None:
    ours = {re.sub("_(bucket|sum|count)$", "", name) for name in emitted.prometheus if "faillog_" in name}
    shown = " ".join(query_of(target) for target in TARGETS)
    assert {name for name in ours if name not in shown} == set()


def test_traces_lead_to_logs_and_logs_to_traces(emitted: Emitted) -> None:
    by_type = {source["type"]: source for source in SOURCES}
    assert {source["uid"] for source in SOURCES} == {"tempo", "loki", "prometheus"} == by_type.keys()
    to_logs = by_type["tempo"]["jsonData"]["tracesToLogsV2"]
    assert to_logs["datasourceUid"] == "loki"
    assert to_logs["query"] == '{service_name="segment"} | trace_id="$${__trace.traceId}"'
    assert emitted.loki["service_name"] == {"segment"}
    to_trace, to_exchange = by_type["loki"]["jsonData"]["derivedFields"]
    assert {to_trace["datasourceUid"], to_exchange["datasourceUid"]} == {"tempo"}
    assert (to_trace["matcherType"], to_trace["matcherRegex"]) == ("label", "trace_id")
    assert to_exchange["matcherRegex"] in emitted.loki
    assert names_in(to_exchange["url"]) <= emitted.tempo.keys() | set(WORDS["tempo"].split())
