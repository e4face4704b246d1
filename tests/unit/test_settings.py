"""The sources of settings, and their precedence."""

import math
import tomllib
from collections import Counter

import pytest

from faillog_otel.cli import cli
from faillog_otel.config import RunConfig, Signal, TimePolicy
from faillog_otel.errors import ConfigError
from faillog_otel.setting_values import parse_duration, parse_pairs, parse_size, parse_time_policy
from faillog_otel.settings import SETTINGS, Setting
from faillog_otel.sources import Layer, read_environment, read_file, resolve


def from_environment(**environ: str) -> RunConfig:
    layer, warnings = read_environment(environ)
    return resolve([layer], warnings=warnings)


def url(config: RunConfig, signal: Signal) -> str:
    return config.delivery.targets[signal].url


def test_the_defaults() -> None:
    config = resolve([])
    assert url(config, "logs") == "http://localhost:4318/v1/logs"
    assert url(config, "traces") == "http://localhost:4318/v1/traces"
    assert config.delivery.wait_seconds == 30
    assert config.mapping.bodies == "response"
    assert config.mapping.resource == (("service.name", "segment"),)
    target = config.delivery.targets["logs"]
    assert (target.compression, target.timeout_seconds, target.headers) == ("gzip", 10.0, ())


def test_flags_beat_environment_beats_file() -> None:
    file = read_file('[mapping]\nbodies = "none"\n[run]\nwait = "1m"\nsummary = "json"\n', "f.toml")
    environment, _ = read_environment({"FAILLOG_WAIT": "2m", "FAILLOG_SUMMARY": "text"})
    flags = read_file('[run]\nwait = "3m"\n', "flags")
    config = resolve([flags, environment, file])
    assert (config.delivery.wait_seconds, config.summary, config.mapping.bodies) == (180, "text", "none")


def test_a_base_endpoint_gets_the_signal_behind_it_and_a_signals_own_is_used_as_it_is() -> None:
    config = from_environment(
        OTEL_EXPORTER_OTLP_ENDPOINT="https://otlp.example/base/",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="https://traces.example/",
    )
    assert url(config, "logs") == "https://otlp.example/base/v1/logs"
    assert url(config, "traces") == "https://traces.example/"


def test_the_endpoint_flag_beats_a_signals_own_endpoint_in_the_environment() -> None:
    environment, _ = read_environment({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://env:1/logs"})
    flags = read_file('[otlp]\nendpoint = "http://flag:1"\n', "flags")
    assert url(resolve([flags, environment]), "logs") == "http://flag:1/v1/logs"


def test_headers_are_percent_decoded_and_a_signals_own_win() -> None:
    config = from_environment(
        OTEL_EXPORTER_OTLP_HEADERS="api-key=a%20b%2Cc, X-Scope=1",
        OTEL_EXPORTER_OTLP_LOGS_HEADERS="api-key=logs",
    )
    revealed = {
        signal: {name: value.reveal() for name, value in target.headers}
        for signal, target in config.delivery.targets.items()
    }
    assert revealed == {"traces": {"api-key": "a b,c", "x-scope": "1"}, "logs": {"api-key": "logs"}}
    assert "a b,c" not in repr(config)


@pytest.mark.parametrize("prefix", ["", "LOGS_"])
def test_the_other_variables_of_the_exporter_general_and_for_a_signal(prefix: str) -> None:
    config = from_environment(
        **{
            f"OTEL_EXPORTER_OTLP_{prefix}TIMEOUT": "2500",
            f"OTEL_EXPORTER_OTLP_{prefix}COMPRESSION": "none",
            f"OTEL_EXPORTER_OTLP_{prefix}CERTIFICATE": "ca.pem",
            f"OTEL_EXPORTER_OTLP_{prefix}CLIENT_CERTIFICATE": "client.pem",
            f"OTEL_EXPORTER_OTLP_{prefix}CLIENT_KEY": "client.key",
        }
    )
    logs = config.delivery.targets["logs"]
    assert (logs.timeout_seconds, logs.compression) == (2.5, "none")
    assert (logs.certificate, logs.client_certificate, logs.client_key) == (
        "ca.pem",
        "client.pem",
        "client.key",
    )
    assert (config.delivery.targets["traces"].timeout_seconds == 2.5) == (prefix == "")


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_PROTOCOL", "FAILLOG_PROTOCOL"])
@pytest.mark.parametrize(
    ("protocol", "endpoint"),
    [
        ("http/protobuf", "http://localhost:4318/v1/logs"),
        ("http/json", "http://localhost:4318/v1/logs"),
        ("grpc", "http://localhost:4317"),
    ],
)
def test_each_protocol_has_its_default_endpoint(name: str, protocol: str, endpoint: str) -> None:
    target = from_environment(**{name: protocol}).delivery.targets["logs"]
    assert (target.protocol, target.url) == (protocol, endpoint)


def test_signals_may_travel_by_different_protocols() -> None:
    targets = from_environment(
        OTEL_EXPORTER_OTLP_LOGS_PROTOCOL="grpc", OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/json"
    ).delivery.targets
    assert {signal: target.protocol for signal, target in targets.items()} == {
        "logs": "grpc",
        "traces": "http/json",
    }


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"])
@pytest.mark.parametrize(
    ("endpoint", "insecure", "used"),
    [
        ("collector:4317", "", "https://collector:4317"),
        ("collector:4317", "true", "http://collector:4317"),
        ("collector:4317", "TRUE", "http://collector:4317"),
        ("collector:4317", "yes", "https://collector:4317"),
        ("http://collector:4317", "false", "http://collector:4317"),
        ("https://collector:4317", "true", "https://collector:4317"),
    ],
)
def test_insecure_decides_for_grpc_where_the_endpoint_has_no_scheme(
    name: str, endpoint: str, insecure: str, used: str
) -> None:
    config = from_environment(
        **{name: endpoint},
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_EXPORTER_OTLP_INSECURE=insecure,
        FAILLOG_SIGNALS="logs",
    )
    assert url(config, "logs") == used


def test_a_signals_own_insecure_wins() -> None:
    config = from_environment(
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_EXPORTER_OTLP_ENDPOINT="collector:4317",
        OTEL_EXPORTER_OTLP_TRACES_INSECURE="true",
    )
    assert (url(config, "logs"), url(config, "traces")) == ("https://collector:4317", "http://collector:4317")


@pytest.mark.parametrize(
    ("endpoint", "warns"),
    [
        ("http://collector.example:4318", True),
        ("http://10.0.0.1:4318", True),
        ("https://collector.example:4318", False),
        ("http://localhost:4318", False),
        ("http://127.0.0.2:4318", False),
        ("http://[::1]:4318", False),
    ],
)
def test_unencrypted_endpoints_are_warned_about(endpoint: str, warns: bool) -> None:
    config = from_environment(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert any("without encryption" in warning for warning in config.warnings) == warns


@pytest.mark.parametrize(("milliseconds", "warns"), [("10", True), ("99", True), ("100", False)])
def test_a_timeout_that_was_meant_in_seconds_is_warned_about(milliseconds: str, warns: bool) -> None:
    config = from_environment(OTEL_EXPORTER_OTLP_LOGS_TIMEOUT=milliseconds)
    assert any("milliseconds" in warning for warning in config.warnings) == warns
    assert config.delivery.targets["logs"].timeout_seconds == int(milliseconds) / 1000


def test_protocols_that_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude"):
        from_environment(FAILLOG_PROTOCOL="file", OTEL_EXPORTER_OTLP_LOGS_PROTOCOL="grpc")


def test_an_empty_variable_is_unset_and_an_unusable_otel_one_is_ignored_with_a_warning() -> None:
    config = from_environment(
        OTEL_EXPORTER_OTLP_ENDPOINT="",
        OTEL_EXPORTER_OTLP_TIMEOUT="soon",
        OTEL_EXPORTER_OTLP_COMPRESSION="zip",
        OTEL_EXPORTER_OTLP_PROTOCOL="carrier-pigeon",
        OTEL_EXPORTER_OTLP_INSECURE="1",
        OTEL_EXPORTER_OTLP_LOGS_TIMEOUT="9" * 30,
    )
    assert url(config, "logs") == "http://localhost:4318/v1/logs"
    assert (config.delivery.targets["logs"].timeout_seconds) == 10.0
    assert {warning.split(":")[0] for warning in config.warnings} == {
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_INSECURE",
        "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
    }


def test_words_of_otel_may_be_written_in_any_case() -> None:
    config = from_environment(OTEL_EXPORTER_OTLP_PROTOCOL="GRPC", OTEL_EXPORTER_OTLP_COMPRESSION="NONE")
    target = config.delivery.targets["logs"]
    assert (target.protocol, target.compression) == ("grpc", "none")


@pytest.mark.parametrize(("protocol", "name"), [("grpc", "x-bin"), ("http/json", "Content-Length")])
def test_some_headers_cannot_be_set(protocol: str, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        from_environment(OTEL_EXPORTER_OTLP_PROTOCOL=protocol, OTEL_EXPORTER_OTLP_HEADERS=f"{name}=5")


def test_the_resource_is_otels_without_what_changes_at_every_start() -> None:
    config = from_environment(
        OTEL_SERVICE_NAME="segment-eu",
        OTEL_RESOURCE_ATTRIBUTES="service.name=x,deployment.environment.name=prod,host.name=h,process.pid=7,"
        "service.instance.id=i,container.id=c,k8s.pod.name=p,k8s.namespace.name=n,team=a%20b",
    )
    assert config.mapping.resource == (
        ("service.name", "segment-eu"),
        ("deployment.environment.name", "prod"),
        ("k8s.namespace.name", "n"),
        ("team", "a b"),
        ("deployment.environment", "prod"),
    )


def test_faillog_resource_attributes_replace_otels() -> None:
    config = from_environment(
        FAILLOG_RESOURCE_ATTRIBUTES="team=data,host.name=kept",
        OTEL_SERVICE_NAME="ignored",
        OTEL_RESOURCE_ATTRIBUTES="a=b",
    )
    assert config.mapping.resource == (("service.name", "segment"), ("team", "data"), ("host.name", "kept"))


def test_a_whole_config_file() -> None:
    config = resolve(
        [
            read_file(
                """
                [otlp]
                endpoint = "https://otlp.example"
                headers = { api-key = "k" }
                timeout = "5s"
                signals = ["logs"]
                [otlp.logs]
                compression = "none"
                [mapping]
                bodies = "all"
                time_policy = "clamp:17h"
                response_headers = ["cf-*"]
                destination_names = { abc = "Mixpanel" }
                resource_attributes = { team = "data" }
                [run]
                fail_on = ["discarded", "never"]
                quarantine = "q.jsonl"
                """,
                "f.toml",
            )
        ]
    )
    assert config.delivery.signals == ("logs",)
    assert config.delivery.targets["logs"].compression == "none"
    assert config.delivery.targets["logs"].timeout_seconds == 5
    assert config.mapping.time_policy == TimePolicy("clamp", 17 * 3600)
    assert config.mapping.response_headers[-1] == "cf-*"
    assert config.mapping.destination_names == {"abc": "Mixpanel"}
    assert (config.fail_on, config.quarantine) == (("discarded",), "q.jsonl")


def test_our_own_metrics_have_settings_of_their_own() -> None:
    assert from_environment(OTEL_EXPORTER_OTLP_ENDPOINT="http://theirs").telemetry.target is None
    config = from_environment(
        FAILLOG_SELF_OTLP_ENDPOINT="https://ours/base/",
        FAILLOG_SELF_OTLP_HEADERS="api-key=a%20b",
        FAILLOG_SELF_OTLP_TIMEOUT="2500",
        FAILLOG_SELF_OTLP_INTERVAL="5s",
        FAILLOG_SELF_OTLP_RESOURCE_ATTRIBUTES="service.instance.id=x",
    )
    target = config.telemetry.target
    assert target
    assert (target.url, target.timeout_seconds) == ("https://ours/base/v1/metrics", 2.5)
    assert [(name, value.reveal()) for name, value in target.headers] == [("api-key", "a b")]
    assert (config.telemetry.interval_seconds, config.telemetry.resource) == (
        5,
        (("service.instance.id", "x"),),
    )
    assert "a b" not in repr(config)
    assert url(config, "logs") == "http://localhost:4318/v1/logs"
    file = read_file('[self]\nendpoint = "ours:4317"\nprotocol = "grpc"\ninsecure = true\n', "f.toml")
    found = resolve([file]).telemetry.target
    assert (found and found.url, found and found.protocol) == ("http://ours:4317", "grpc")
    assert resolve([read_file('[self]\nendpoint = "http://ours"\n', "f")]).warnings


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),  # noqa: S104  # parsed, not bound
        ("[::1]:80", ("::1", 80)),
        ("pod.example:1", ("pod.example", 1)),
    ],
)
def test_health_is_for_this_machine_unless_a_host_is_named(text: str, address: tuple[str, int]) -> None:
    assert from_environment(FAILLOG_HEALTH_ADDR=text).health.address == address


def test_workers_are_a_number_from_one_on() -> None:
    assert resolve([]).workers is None
    assert from_environment(FAILLOG_WORKERS="3").workers == 3
    assert resolve([read_file("[run]\nworkers = 2\n", "f")]).workers == 2
    for text in ("0", "-1", "two", "1.5", "257", "9" * 30):
        with pytest.raises(ConfigError, match="FAILLOG_WORKERS"):
            from_environment(FAILLOG_WORKERS=text)


@pytest.mark.parametrize("bodies", ["none", "keys", "response", "all"])
def test_bodies_come_from_the_environment_and_the_file(bodies: str) -> None:
    assert resolve([read_file(f"[mapping]\nbodies = '{bodies}'", "f.toml")]).mapping.bodies == bodies
    assert from_environment(FAILLOG_BODIES=bodies).mapping.bodies == bodies


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[mapping]\nbodys = 'all'", "bodys"),
        ("[mappings]", "mappings"),
        ("[mapping]\nbodies = 'some'", "some"),
        ("[otlp]\nendpoint = 7", "endpoint"),
        ("[otlp", "f.toml"),
    ],
)
def test_a_wrong_config_file_is_an_error_that_names_what_is_wrong(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as raised:
        read_file(text, "f.toml")
    assert "f.toml" in str(raised.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"FAILLOG_BODIES": "some"},
        {"FAILLOG_SIGNALS": "logs,metrics"},
        {"FAILLOG_FAIL_ON": "sometimes"},
        {"FAILLOG_RESOURCE_ATTRIBUTES": "a"},
        {"FAILLOG_WAIT": "soon"},
        {"FAILLOG_TIME_POLICY": "clamp"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a..b:4318"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{'a' * 80}:4318"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://ä ö"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h/a\tb"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h/?x=y"},
        {"FAILLOG_TIME_POLICY": f"clamp:{'9' * 302}"},
        {"FAILLOG_RESOURCE_ATTRIBUTES": "a=\udcff"},
    ],
)
def test_a_wrong_setting_in_the_environment_is_an_error(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        from_environment(**environ)


def test_no_error_shows_a_secret() -> None:
    for endpoint in (
        "ftp://user:secret@h/",
        "user:secret@host:4318",
        "http://user:x/secret@host:bad",
        "htp://host/?api_key=secret",
        "http://host/?api_key=secret",
    ):
        with pytest.raises(ConfigError) as raised:
            from_environment(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        assert "secret" not in str(raised.value)
    with pytest.raises(ConfigError) as raised:
        from_environment(OTEL_EXPORTER_OTLP_HEADERS="Authorization: Basic secret=")
    assert "secret" not in str(raised.value)
    with pytest.raises(ConfigError) as raised:
        from_environment(OTEL_EXPORTER_OTLP_HEADERS="api-key=secret%0a")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "[otlp]\noutput = 'f'",
        "[otlp]\nprotocol = 'file'\n[run]\nsummary = 'json'",
        "[otlp]\nsignals = []",
    ],
)
def test_settings_that_exclude_each_other(text: str) -> None:
    with pytest.raises(ConfigError):
        resolve([read_file(text, "f.toml")])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("17h", 61200),
        ("2d", 172800),
        ("7", 7),
        ("forever", math.inf),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1w", "1 h", "nan", "1e3"])
def test_invalid_durations(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "clamp:", "clamp:forever", "occured", "arrival:1h"])
def test_invalid_time_policies(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_time_policy(text)


def test_a_header_is_name_and_value_and_the_value_may_hold_an_equals_sign() -> None:
    assert parse_pairs(["api-key = a=b"]) == {"api-key": "a=b"}
    for wrong in ("api-key", "=value"):
        with pytest.raises(ConfigError):
            parse_pairs([wrong])


@pytest.mark.parametrize(
    ("text", "size"),
    [("5", 5), ("64KiB", 65536), ("500MiB", 500 << 20), ("16GiB", 16 << 30), ("1TiB", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5GiB", "5 apples", "GiB", "5GB"])
def test_invalid_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="not a size"):
        parse_size(text)


def test_our_own_metrics_use_the_proxy_of_forwarded_data_where_they_have_none_of_their_own() -> None:
    def proxies(**environ: str) -> list[str | None]:
        config = from_environment(FAILLOG_SELF_OTLP_ENDPOINT="https://ours.example", **environ)
        targets = (config.delivery.targets["logs"], config.telemetry.target)
        return [target.proxy.reveal() if target and target.proxy else None for target in targets]

    assert proxies() == [None, None]
    assert proxies(FAILLOG_OTLP_PROXY="environment") == ["environment", "environment"]
    assert proxies(FAILLOG_SELF_OTLP_PROXY="http://p:1") == [None, "http://p:1"]
    assert from_environment(FAILLOG_OTLP_PROXY="http://p:1").warnings == ()
    assert not resolve([]).delivery.targets["logs"].proxy


def test_a_signal_may_have_a_proxy_of_its_own() -> None:
    targets = resolve(
        [read_file('[otlp]\nproxy = "http://p:1"\n[otlp.logs]\nproxy = "http://q:2"\n', "f")]
    ).delivery.targets
    found = {signal: target.proxy.reveal() for signal, target in targets.items() if target.proxy}
    assert found == {"logs": "http://q:2", "traces": "http://p:1"}


ROWS = [row for row in SETTINGS if row.path]
IDS = [row.path for row in ROWS]


def other_value(row: Setting) -> object:
    """A value of a setting that is not its default."""
    if row.example:
        return row.kind.convert(tomllib.loads(f"value = {row.example}")["value"])
    if row.kind.form == "boolean":
        return not row.default
    words = (*row.kind.choices, "http://127.0.0.1:1", "7s", "-7h", "7KiB", "a-token-or-a-file")
    for candidate in (row.kind.low + 7, *words, ["logs"]):
        try:
            value = row.kind.convert(candidate)
        except ConfigError:
            continue
        if value != row.default and value not in ("file", "console"):
            return value
    raise AssertionError(row.path)


HONEYCOMB = {"links.trace": "honeycomb", "links.team": "t", "links.environment": "e"}
GRAFANA = {"links.trace": "grafana", "links.url": "https://g.example", "links.datasource": "d"}
OF_LINKS = {
    "links.segment": {"links.workspace": "w"},
    **dict.fromkeys(("links.team", "links.environment", "links.dataset"), HONEYCOMB),
    "links.site": {"links.trace": "datadog"},
    **dict.fromkeys(("links.url", "links.datasource"), GRAFANA),
}
"""Setting of a preset → what the preset needs besides."""


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_every_setting_has_an_effect(row: Setting) -> None:
    around: dict[str, object] = {"otlp.endpoint": "http://c:1", "self.endpoint": "http://m:1"}
    around |= OF_LINKS.get(row.path, {})
    if row.key == "insecure":  # it decides for gRPC if the endpoint has no scheme
        table = row.table.partition(".")[0]
        around |= {f"{table}.endpoint": "c:1", f"{table}.protocol": "grpc"}
    if row.key == "output":
        around["otlp.protocol"] = "file"
    layer = Layer("around", around)
    assert resolve([Layer("flag", {row.path: other_value(row)}), layer]) != resolve([layer])


def test_every_option_of_the_table_is_one_of_run() -> None:
    parameters = {parameter.name: parameter for parameter in cli.commands["run"].params}
    rows = {row.parameter: row for row in SETTINGS if row.option}
    assert rows.keys() <= parameters.keys()
    others = {"paths", "once", "verbose", "quiet", "show_all"}
    assert parameters.keys() - rows.keys() == others


def test_no_two_settings_share_a_path_an_option_or_a_variable() -> None:
    for names in (
        [row.path for row in SETTINGS],
        [row.option for row in SETTINGS if row.option],
        [name for row in SETTINGS for name in row.variables],
    ):
        assert max(Counter(names).values()) == 1
