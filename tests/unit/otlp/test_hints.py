"""What the usual backends need."""

import pytest

from faillog_otel.config import TimePolicy
from faillog_otel.otlp.hints import backend_of


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.honeycomb.io", "Honeycomb"),
        ("API.EU1.HONEYCOMB.IO.", "Honeycomb"),
        ("otlp.datadoghq.eu", "Datadog"),
        ("otlp-gateway-prod-eu-west-0.grafana.net", "Grafana"),
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
        (TimePolicy("clamp", 19 * 3600), True),
    ],
)
def test_old_records_need_a_time_policy_where_they_are_dropped(policy: TimePolicy, *, drops: bool) -> None:
    datadog, honeycomb = backend_of("datadoghq.com"), backend_of("honeycomb.io")
    assert datadog
    assert honeycomb
    assert (datadog.drops(policy), honeycomb.drops(policy)) == (drops, False)
