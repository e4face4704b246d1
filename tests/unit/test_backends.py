"""The needs of common backends, and the settings of `--backend`."""

import re
from typing import get_args

import click
import pytest
from support.collector import ROOT

from faillog_otel.backends import BACKENDS, backend_of
from faillog_otel.cli import cli
from faillog_otel.config import BackendName, Limits, MappingConfig, TimePolicy
from faillog_otel.setting_values import parse_time_policy
from faillog_otel.sources import read_environment, read_file, resolve


def mapping_of(*texts: str) -> MappingConfig:
    """The mapping of these config files, the first one first."""
    return resolve([read_file(f"[mapping]\n{text}\n", "f.toml") for text in texts]).mapping


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.honeycomb.io", "Honeycomb"),
        ("API.EU1.HONEYCOMB.IO.", "Honeycomb"),
        ("otlp.datadoghq.eu", "Datadog"),
        ("otlp-gateway-prod-eu-west-0.grafana.net", "Grafana Cloud"),
        ("otlp.eu01.nr-data.net", "New Relic"),
        ("abc.live.dynatrace.com", "Dynatrace"),
        ("localhost", "a collector on this machine"),
        ("nothoneycomb.io", None),
        ("collector.example", None),
        ("", None),
    ],
)
def test_a_backend_is_known_by_its_host(host: str, name: str | None) -> None:
    found = backend_of(host)
    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("policy", "drops"),
    [
        (TimePolicy(), True),
        (TimePolicy("arrival"), False),
        (TimePolicy("clamp", 17 * 3600), False),
        (TimePolicy("clamp", 18 * 3600), True),
        (TimePolicy("clamp", 19 * 3600), True),
    ],
)
def test_old_records_need_a_time_policy_where_they_are_dropped(policy: TimePolicy, *, drops: bool) -> None:
    assert (BACKENDS["datadog"].drops(policy), BACKENDS["honeycomb"].drops(policy)) == (drops, False)


def test_each_name_has_its_profile_in_the_settings_and_on_the_command_line() -> None:
    (option,) = [each for each in cli.commands["run"].params if each.name == "backend"]
    assert isinstance(option.type, click.Choice)
    assert set(get_args(BackendName)) == set(BACKENDS) == set(option.type.choices)


@pytest.mark.parametrize("name", BACKENDS)
def test_under_its_own_profile_no_backend_loses_old_records(name: BackendName) -> None:
    backend = BACKENDS[name]
    assert (backend.profile, backend.drops(backend.time_policy)) == (name, False)
    assert parse_time_policy(str(backend.time_policy)) == backend.time_policy


@pytest.mark.parametrize(
    ("name", "policy", "body_bytes"),
    [
        ("tempo", "occurred", 2048),
        ("loki", "clamp:6d", 8192),
        ("jaeger", "clamp:1d", 2048),
        ("honeycomb", "occurred", 16384),
        ("datadog", "clamp:17h", 5000),
        ("newrelic", "clamp:23h", 4094),
        ("dynatrace", "arrival", 16384),
    ],
)
def test_a_profile_sets_time_policy_and_limits(name: str, policy: str, body_bytes: int) -> None:
    layer, _ = read_environment({"FAILLOG_BACKEND": name})
    config = resolve([layer])
    assert (config.backend, config.mapping.limits.body_bytes) == (name, body_bytes)
    assert config.mapping.time_policy == parse_time_policy(policy)


@pytest.mark.parametrize("name", BACKENDS)
def test_the_guide_has_what_a_profile_sets(name: BackendName) -> None:
    """A row: name, time policy, bytes of bodies and of extras."""
    backend = BACKENDS[name]
    guide = ROOT.joinpath("docs", "guides", "backends", "index.md").read_text("utf-8")
    (row,) = re.findall(rf"^\| `{name}` \| `(.+?)`.*? \| ([\d,]+), ([\d,]+)", guide, re.MULTILINE)
    limits = [f"{size:,}" for size in (backend.limits.body_bytes, backend.limits.extra_bytes)]
    assert list(row) == [str(backend.time_policy), *limits]


def test_without_a_profile_times_are_true_and_limits_are_as_the_mapping_says() -> None:
    config = resolve([])
    assert (config.backend, config.mapping.time_policy) == (None, TimePolicy())
    assert config.mapping.limits == Limits(body_bytes=2048, extra_bytes=2048)


def test_an_explicit_time_policy_overrides_the_profiles_wherever_it_is_set() -> None:
    said, backend = 'time_policy = "clamp:2h"', 'backend = "datadog"'
    for layers in ((said, backend), (backend, said), (f"{said}\n{backend}",)):
        config = mapping_of(*layers)
        assert config.time_policy == TimePolicy("clamp", 7200)
        assert config.limits == BACKENDS["datadog"].limits
    assert mapping_of(backend, 'time_policy = "occurred"').time_policy == TimePolicy("occurred")
