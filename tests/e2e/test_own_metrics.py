"""Our own metrics and log events, as an operator's backend gets them from the real program."""

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from support.canaries import CANARY
from support.events import attempt, error, exchange, lines
from support.metrics import MetricsReceiver
from support.program import environment, run_program
from support.sidecar import TOKEN, segment_simulator, sidecar, sidecar_options
from support.tiers import slow_case

from faillog_otel.sandbox.collector import Receiver, Reply

EVENTS = lines(exchange(), attempt(), attempt(attempt=5), error(), b"{broken")
PROTOCOLS = pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])


def own(metrics: MetricsReceiver, protocol: str = "http/protobuf", **more: str) -> dict[str, Any]:
    """The variables that turn our own metrics on."""
    endpoint = metrics.grpc_endpoint if protocol == "grpc" else metrics.http_endpoint
    found = {"ENDPOINT": endpoint, "PROTOCOL": protocol, **more}
    return {f"FAILLOG_SELF_OTLP_{name}": value for name, value in found.items()}


def by(numbers: dict[frozenset[tuple[str, str]], float], *names: str) -> dict[tuple[str, ...], float]:
    """Summed up by these attributes, empty where they are missing."""
    found: Counter[tuple[str, ...]] = Counter()
    for attributes, number in numbers.items():
        found[tuple(dict(attributes).get(name, "") for name in names)] += int(number)
    return dict(found)


@PROTOCOLS
def test_a_run_over_paths_sends_the_outcomes_of_its_records_when_it_ends(
    tmp_path: Path, receiver: Receiver, protocol: str
) -> None:
    (tmp_path / "events").write_bytes(EVENTS)
    before = time.time_ns()
    with MetricsReceiver() as metrics:
        env = own(
            metrics, protocol, HEADERS="x-key=a%20b", RESOURCE_ATTRIBUTES="k8s.pod.name=p,service.name=s"
        )
        done = run_program("run", "events", "--endpoint", receiver.http_endpoint, cwd=tmp_path, **env)
        assert (done.code, "metrics" in done.stderr) == (3, False)
        assert metrics.sent[-1].headers["x-key"] == "a b"
        found = metrics.metrics()
        assert {name: metric.unit for name, metric in found.items()} == {
            "faillog.records": "{record}",
            "faillog.exported": "{record}",
            "faillog.quarantined": "{record}",
            "faillog.time_shifted": "{record}",
            "faillog.messages": "{message}",
            "faillog.failures": "{attempt}",
            "faillog.pending": "{record}",
            "faillog.export.duration": "s",
            "faillog.export.retries": "{request}",
        }
        assert by(metrics.numbers("faillog.records"), "event", "outcome", "destination") == {
            ("exchange", "exported", "abc"): 1,
            ("attempt", "exported", "abc"): 2,
            ("error", "exported", "abc"): 1,
            ("", "quarantined", ""): 1,
            ("", "exported", ""): 0,
            ("", "rejected", ""): 0,
            ("", "duplicate", ""): 0,
        }
        assert by(metrics.numbers("faillog.time_shifted")) == {(): 0}, "nothing is a 0, not a gap"
        assert by(metrics.numbers("faillog.messages"), "state") == {("lost",): 1, ("recovered",): 0}
        assert by(metrics.numbers("faillog.exported")) == {(): 4}
        assert by(metrics.numbers("faillog.quarantined"), "reason") == {("invalid_json",): 1}
        assert by(metrics.numbers("faillog.pending")) == {(): 0}
        assert by(metrics.numbers("faillog.export.duration"), "signal", "outcome") == {
            ("logs", "acknowledged"): 1,
            ("traces", "acknowledged"): 1,
        }
        (point, *_) = found["faillog.exported"].sum.data_points
        assert before < point.time_unix_nano < time.time_ns(), "stamped at arrival"
        resource = metrics.resource()
        assert resource.pop("service.instance.id")
        assert resource.pop("service.version")
        assert resource == {"service.name": "s", "k8s.pod.name": "p"}


def test_metrics_of_workers_are_those_of_one_process(tmp_path: Path, receiver: Receiver) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(EVENTS + b" " * 2**20)
    with MetricsReceiver() as metrics:
        flags = ("--endpoint", receiver.http_endpoint, "--workers", "2", "--summary", "json")
        done = run_program("run", "a", "b", *flags, cwd=tmp_path, **own(metrics))
        assert (done.code, done.summary["requests"]) == (3, 4)
        assert by(metrics.numbers("faillog.exported")) == {(): 8}
        assert by(metrics.numbers("faillog.quarantined"), "reason") == {("invalid_json",): 2}
        assert by(metrics.numbers("faillog.export.duration"), "signal", "outcome") == {
            ("logs", "acknowledged"): 2,
            ("traces", "acknowledged"): 2,
        }


def test_what_was_not_delivered_is_pending_and_the_tries_again_are_counted(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(EVENTS)
    with MetricsReceiver() as metrics, Receiver(lambda _signal, _body: Reply(503)) as receiver:
        flags = ("--endpoint", receiver.http_endpoint, "--wait", "1s")
        done = run_program("run", "events", *flags, "--summary", "json", cwd=tmp_path, **own(metrics))
        assert by(metrics.numbers("faillog.pending")) == {(): 4}
        assert by(metrics.numbers("faillog.records"), "outcome") == {
            ("exported",): 0,
            ("rejected",): 0,
            ("quarantined",): 1,
            ("duplicate",): 0,
        }
        retries = by(metrics.numbers("faillog.export.retries"))[()]
        assert retries == done.summary["retries"] > 0
        assert ("retry_later",) in by(metrics.numbers("faillog.export.duration"), "outcome")


def test_destinations_have_their_names_and_there_is_a_bound_to_them(
    tmp_path: Path, receiver: Receiver
) -> None:
    def to(destination: str) -> bytes:
        return error(routed={"to": [{"type": "destination", "id": destination}]})

    many = [to("known"), *(to(f"d{number}") for number in range(80)), to("\x1b" + "x" * 5000)]
    (tmp_path / "events").write_bytes(lines(*many))
    (tmp_path / "faillog-otel.toml").write_text('[mapping]\ndestination_names = { known = "Mixpanel" }\n')
    with MetricsReceiver() as metrics:
        run_program("run", "events", "--endpoint", receiver.http_endpoint, cwd=tmp_path, **own(metrics))
        found = by(metrics.numbers("faillog.records"), "destination")
    assert found[("Mixpanel",)] == 1
    assert found.pop(("",)) == 0
    assert (len(found), sum(found.values())) == (51, 82)
    assert found[("other",)] == 32


@PROTOCOLS
def test_otel_variables_do_not_affect_our_own_metrics(tmp_path: Path, protocol: str) -> None:
    """They are about the forwarded data. The SDK would read every one of these by itself."""
    (tmp_path / "events").write_bytes(EVENTS)
    with MetricsReceiver() as metrics, MetricsReceiver() as elsewhere, Receiver() as receiver:
        theirs: dict[str, Any] = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={CANARY}",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{elsewhere.http_endpoint}/v1/metrics",
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS": f"metrics-key={CANARY}",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
            "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE": "/nowhere",
            "OTEL_EXPORTER_OTLP_METRICS_INSECURE": "false",
            "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "deflate",
            "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "nonsense",
            "OTEL_RESOURCE_ATTRIBUTES": f"deployment.environment.name=prod,secret={CANARY}",
            "OTEL_SERVICE_NAME": "segment-prod",
            "OTEL_SDK_DISABLED": "true",
            "OTEL_METRIC_EXPORT_INTERVAL": "nonsense",
            "OTEL_METRIC_EXPORT_TIMEOUT": "1",
            "OTEL_METRICS_EXEMPLAR_FILTER": "always_on",
            "OTEL_PYTHON_CONTEXT": "nowhere",
            "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
            "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "nowhere",
            "HTTP_PROXY": elsewhere.http_endpoint,
            "http_proxy": elsewhere.http_endpoint,
            "grpc_proxy": elsewhere.http_endpoint,
        }
        done = run_program("run", "events", cwd=tmp_path, **theirs, **own(metrics, protocol))
        assert (done.code, "metrics" in done.stderr) == (3, False), done.stderr
        assert elsewhere.sent == []
        (sent,) = metrics.sent
        assert CANARY not in str(sent.headers)
        assert CANARY.encode() not in sent.body
        assert metrics.resource()["service.name"] == "faillog-otel"
        assert "deployment.environment.name" not in metrics.resource()
        assert metrics.metrics().keys() >= {"faillog.records", "faillog.exported"}
        assert not any(name.startswith("otel.") for name in metrics.metrics())
        temporality = metrics.metrics()["faillog.records"].sum.aggregation_temporality
        assert temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        if protocol != "grpc":
            assert sent.headers["content-encoding"] == "gzip"
        assert len(receiver.logs()) == 4, "and the forwarded data went where they say"
        assert {each.headers["api-key"] for each in receiver.received} == {CANARY}


def test_our_own_variables_do_not_affect_forwarded_data(tmp_path: Path, receiver: Receiver) -> None:
    (tmp_path / "events").write_bytes(EVENTS)
    with MetricsReceiver() as metrics:
        env = own(metrics, HEADERS=f"api-key={CANARY}", RESOURCE_ATTRIBUTES=f"a={CANARY}")
        run_program("run", "events", "--endpoint", receiver.http_endpoint, cwd=tmp_path, **env)
    assert len(receiver.logs()) == 4
    for each in receiver.received:
        assert CANARY not in str(each.headers)
        assert CANARY.encode() not in each.body


def test_without_an_endpoint_nothing_of_the_sdk_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(EVENTS)
    program = (
        "import sys; from faillog_otel.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith("
        "('opentelemetry.sdk', 'opentelemetry.exporter', 'requests', 'http.server'))])"
    )
    for args in (["--help"], ["run", "events", "--protocol", "file", "--output", "out", "-q"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *args],
            cwd=tmp_path,
            env=environment(OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://127.0.0.1:1/v1/metrics"),
            capture_output=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == b"[]", args


@PROTOCOLS
def test_a_dead_metrics_endpoint_gives_one_warning_and_changes_nothing(
    tmp_path: Path, receiver: Receiver, protocol: str
) -> None:
    (tmp_path / "events").write_bytes(EVENTS)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        env: dict[str, Any] = {
            "FAILLOG_SELF_OTLP_ENDPOINT": f"http://127.0.0.1:{nobody.getsockname()[1]}",
            "FAILLOG_SELF_OTLP_PROTOCOL": protocol,
        }
        flags = ("--endpoint", receiver.http_endpoint, "--summary", "json")
        done = run_program("run", "events", *flags, cwd=tmp_path, **env)
    assert (done.code, done.summary["exported"], done.summary["quarantined"]) == (3, 4, 1)
    assert done.stderr.count("cannot send our own metrics to http://127.0.0.1:") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("status", [302, 401])
def test_a_refusing_metrics_endpoint_gives_one_warning_without_our_key(
    tmp_path: Path, receiver: Receiver, status: int
) -> None:
    with MetricsReceiver(status) as metrics, segment_simulator("mine") as segment:
        metrics.headers = {"reason": f"no {CANARY} here", "location": f"{metrics.http_endpoint}/login"}
        env = own(metrics, HEADERS=f"authorization=Bearer {CANARY}", INTERVAL="100ms")
        with sidecar([*sidecar_options(segment, receiver), "-v"], tmp_path, **env) as running:
            metrics.wait_for(requests=4)
            assert running.end() == 143
    said = "".join(running.said)
    assert said.count("warning: cannot send our own metrics to") == 1
    assert (f"code: {status}" in said) or (f"HTTP {status}: redirects are not followed" in said)
    assert CANARY not in said


def test_a_silent_metrics_endpoint_does_not_delay_the_end(tmp_path: Path, receiver: Receiver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, segment_simulator("mine") as segment:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env: dict[str, Any] = {"FAILLOG_SELF_OTLP_ENDPOINT": endpoint, "FAILLOG_SELF_OTLP_INTERVAL": "100ms"}
        with sidecar(sidecar_options(segment, receiver), tmp_path, **env) as running:
            silent.settimeout(60)
            connection, _ = silent.accept()
            with connection:
                assert running.end() == 143
    assert "".join(running.said).count("cannot send our own metrics to") == 1


def test_metrics_of_polling_include_gaps_and_lag(tmp_path: Path, receiver: Receiver) -> None:
    with MetricsReceiver() as metrics, segment_simulator("a", "b", damage=0.05, duplicates=0.2) as segment:
        args = sidecar_options(segment, receiver)
        env = own(metrics, HEADERS=f"api-key={CANARY}", INTERVAL="300ms")
        done = run_program(*args, "--once", "--summary", "json", cwd=tmp_path, SEGMENT_TOKEN=TOKEN, **env)
        records = by(metrics.numbers("faillog.records"), "outcome")
        outcomes = ("exported", "rejected", "quarantined", "duplicate")
        assert {name: records.get((name,), 0) for name in outcomes} == {
            name: done.summary[name] for name in outcomes
        }
        assert min(records[("exported",)], records[("quarantined",)], records[("duplicate",)]) > 0
        events = by(metrics.numbers("faillog.records"), "event")
        assert {kind for (kind,) in events} == {"", "error", "attempt", "exchange"}
        asked = sum(each.path == "/customer-insights/download" for each in segment.requests())
        assert by(metrics.numbers("faillog.budget.remaining")) == {(): 120 - asked}
        assert by(metrics.numbers("faillog.coverage.gap.hours"), "collection") == {("a",): 0, ("b",): 0}
        assert by(metrics.numbers("faillog.pending")) == {(): 0}
        newest = by(metrics.numbers("faillog.last_logged_at"), "collection")
        logged = max(log.observed_time_unix_nano for log in receiver.logs()) // 10**9
        assert max(newest.values()) == logged
        lag = by(metrics.numbers("faillog.lag.seconds"), "collection")
        for name in (("a",), ("b",)):
            assert abs(newest[name] + lag[name] - time.time()) < 60
        whole = b"".join(each.body for each in metrics.sent)
    for secret in (TOKEN, CANARY, "X-Amz", "Signature"):
        assert secret.encode() not in whole
        assert secret not in done.stderr
    assert "metrics" not in done.stderr


@pytest.mark.parametrize("protocol", ["http/protobuf", slow_case("grpc")])
def test_failures_are_counted_as_the_command_shows_them_and_groups_are_new_once(
    tmp_path: Path, receiver: Receiver, protocol: str
) -> None:
    with MetricsReceiver() as metrics, segment_simulator("a", "b") as segment:
        args = [*sidecar_options(segment, receiver, since="-20h"), "--until", "-3h", "--once"]
        done = run_program(*args, cwd=tmp_path, SEGMENT_TOKEN=TOKEN, **own(metrics, protocol))
        shown = json.loads(run_program("failures", "--json", "--state-dir", "state", cwd=tmp_path).stdout)
        messages, groups = shown["totals"]["messages"], {group["group"] for group in shown["groups"]}
        assert by(metrics.numbers("faillog.messages"), "state") == {
            ("lost",): messages["lost"],
            ("recovered",): messages["recovered"],
        }
        assert min(messages["lost"], messages["recovered"]) > 0
        pending = metrics.numbers("faillog.messages.pending") if messages["pending"] else {}
        assert sum(pending.values()) == messages["pending"]
        assert by(metrics.numbers("faillog.failures")) == {(): shown["totals"]["attempts"]}
        [new] = by(metrics.numbers("faillog.failure_groups.new")).values()
        assert len(groups) <= new < 2 * len(groups), "one event for each row, not for each group of a row"
        classes = {group["class"] for group in shown["groups"]}
        for name in ("faillog.messages", "faillog.failures", "faillog.failure_groups.new"):
            assert {each for (each,) in by(metrics.numbers(name), "reason_class")} >= classes, name
        assert len(metrics.events()) == done.stderr.count("new failure group ") == new
        again = run_program(*args, cwd=tmp_path, SEGMENT_TOKEN=TOKEN, **own(metrics, protocol))
        assert again.stderr.count("new failure group ") == 0, "a restart makes no group new"
        assert len(metrics.events()) == new


def test_hours_that_were_not_read_are_a_gap(tmp_path: Path, receiver: Receiver) -> None:
    with MetricsReceiver() as metrics, segment_simulator("mine") as segment:
        args = sidecar_options(segment, receiver, since="-200h")
        args[args.index("--segment-url") + 1] = "http://127.0.0.1:1"
        with sidecar(args, tmp_path, **own(metrics, INTERVAL="100ms")) as running:
            running.wait_for("warning: Segment's time is unknown")
            metrics.wait_for(requests=len(metrics.sent) + 2)
            assert running.end() == 143
        (gap,) = by(metrics.numbers("faillog.coverage.gap.hours"), "collection").values()
        assert gap > 150
        assert by(metrics.numbers("faillog.budget.remaining"))[()] == 120
        assert "faillog.lag.seconds" not in metrics.metrics(), "nothing is known of it"


def test_the_newest_record_is_remembered_over_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    with MetricsReceiver() as metrics, segment_simulator("mine") as segment:
        args = [*sidecar_options(segment, receiver), "--once"]
        found = []
        for _ in range(2):
            run_program(*args, cwd=tmp_path, SEGMENT_TOKEN=TOKEN, **own(metrics))
            found.append(by(metrics.numbers("faillog.last_logged_at"), "collection"))
    assert found[0] == found[1] != {}


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"PROTOCOL": "http/json"}, "FAILLOG_SELF_OTLP_PROTOCOL"),
        ({"ENDPOINT": "localhost"}, "FAILLOG_SELF_OTLP_"),
        ({"INTERVAL": "0"}, "INTERVAL"),
        ({"INTERVAL": "forever"}, "INTERVAL"),
        ({"HEADERS": f"no {CANARY}"}, "FAILLOG_SELF_OTLP_HEADERS"),
        ({"ENDPOINT": "https://localhost", "CERTIFICATE": "nowhere.pem"}, "certificates"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, env: dict[str, Any], words: str) -> None:
    (tmp_path / "events").write_bytes(EVENTS)
    found = {"ENDPOINT": "http://127.0.0.1:1", **env}
    done = run_program(
        *("run", "events", "--protocol", "file"),
        cwd=tmp_path,
        **{f"FAILLOG_SELF_OTLP_{name}": value for name, value in found.items()},
    )
    assert (done.code, done.stdout) == (2, b"")
    assert words in done.stderr
    assert CANARY not in done.stderr


def test_settings_without_an_endpoint_are_warned_about(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(error() + b"\n")
    (tmp_path / "faillog-otel.toml").write_text('[self]\ninterval = "10s"\n')
    done = run_program("run", "events", "--protocol", "file", "--output", "out", cwd=tmp_path)
    assert done.code == 0
    assert "[self] sets interval, but no endpoint" in done.stderr
    assert json.loads((tmp_path / "out").read_bytes())
