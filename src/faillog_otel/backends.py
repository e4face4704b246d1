"""The table of backends: what each accepts, what its operator must set, and what `--backend` sets.

From their sources and documentation in 2026. Records are between an hour and 28 days old, so a time policy
keeps them younger than the backend's limit, with a margin for the hours that a record can wait after its time
was fixed. `doctor` prints `needs`; docs/guides/backends has a page for each.
"""

import math

from msgspec import Struct

from faillog_otel.config import BackendName, Limits, TimePolicy

_HOUR = 3600.0
_DAY = 24 * _HOUR


class Backend(Struct, frozen=True, kw_only=True):
    """A backend, and the settings of its profile."""

    name: str
    profile: BackendName | None = None
    """The value of `--backend`; None without one."""
    needs: str = ""
    """What its operator must know and set, as text."""
    hosts: tuple[str, ...] = ()
    """Its host names; subdomains belong to it, too."""
    oldest_seconds: float = math.inf
    """The backend drops records of this age, or never finds them."""
    raised_by: str = ""
    """The backend's setting that raises this age, if raising it later makes old records appear."""
    time_policy: TimePolicy = TimePolicy()
    limits: Limits = Limits()

    def drops(self, policy: TimePolicy) -> bool:
        """Returns whether records can be too old under this time policy."""
        if policy.kind == "clamp":
            return policy.age_seconds >= self.oldest_seconds
        return policy.kind == "occurred" and math.isfinite(self.oldest_seconds)


NO_BACKEND = Backend(name="any")
"""An unknown backend: nothing is set."""

_TEMPO = Backend(
    name="Grafana Tempo",
    profile="tempo",
    needs="set storage.trace.wal.ingestion_time_range_slack: 48h, or a search finds no span older than 2 "
    "minutes (by id, all are found); truncates attributes to 2,048 bytes; accepts no logs",
)
_LOKI = Backend(
    name="Grafana Loki",
    profile="loki",
    needs="set limits_config.shard_streams.time_sharding_enabled: true, or it refuses lines more than an "
    "hour older than the newest of their stream; refuses lines older than reject_old_samples_max_age, a "
    "week; accepts no spans",
    oldest_seconds=7 * _DAY,
    time_policy=TimePolicy("clamp", 6 * _DAY),
    # The resource, the ids, the severity and the scope use some of the 128 entries and 64 KiB of structured
    # metadata. With one entry or byte too many, Loki refuses the whole record.
    limits=Limits(body_bytes=8192, attributes=100, attribute_bytes=48 * 1024),
)
_JAEGER = Backend(
    name="Jaeger",
    profile="jaeger",
    needs="with Elasticsearch, spans are found (also by id) up to the age max_span_age, 72 hours; to see "
    "true times, raise it to a month and set --time-policy occurred; accepts no logs",
    # The age counts when somebody looks: under clamp:71h an old span would be gone after an hour, and this
    # leaves 48.
    oldest_seconds=72 * _HOUR,
    raised_by="max_span_age",
    time_policy=TimePolicy("clamp", _DAY),
)
_HONEYCOMB = Backend(
    name="Honeycomb",
    profile="honeycomb",
    needs="accepts old data; does not deduplicate: use COUNT_DISTINCT(messaging.message.id)",
    hosts=("honeycomb.io",),
    # 2,000 fields and 64 KB.
    limits=Limits(body_bytes=16384, extra_bytes=8192, attributes=2000, attribute_bytes=64_000),
)
_DATADOG = Backend(
    name="Datadog",
    profile="datadog",
    needs="accepts spans and logs of the last 18 hours; do not send these spans to datadog/connector, which "
    "would count them in current APM statistics",
    hosts=("datadoghq.com", "datadoghq.eu", "ddog-gov.com"),
    oldest_seconds=18 * _HOUR,
    time_policy=TimePolicy("clamp", 17 * _HOUR),
    # A value of 5,000 characters; a log of 256 attributes and 1 MB.
    limits=Limits(body_bytes=5000, extra_bytes=5000, attributes=250),
)
_NEW_RELIC = Backend(
    name="New Relic",
    profile="newrelic",
    needs="accepts data of the last 24 hours",
    hosts=("newrelic.com", "nr-data.net"),
    oldest_seconds=_DAY,
    time_policy=TimePolicy("clamp", 23 * _HOUR),
    # A value of 4,094 characters can be searched; a log has 255 attributes, some of them New Relic's own.
    limits=Limits(body_bytes=4094, extra_bytes=4094, attributes=240),
)
_DYNATRACE = Backend(
    name="Dynatrace",
    profile="dynatrace",
    needs="accepts logs of the last 24 hours and spans of the last hour: nearly all records get another time",
    hosts=("dynatrace.com",),
    oldest_seconds=_HOUR,
    # No record is younger than an hour; this policy leaves records a whole hour to arrive.
    time_policy=TimePolicy("arrival"),
    # A value of 32 kB, of which 4,096 bytes are extracted; a log of 500 attributes.
    limits=Limits(body_bytes=16384, extra_bytes=4096, attributes=500),
)

BACKENDS: dict[BackendName, Backend] = {
    each.profile: each
    for each in (_TEMPO, _LOKI, _JAEGER, _HONEYCOMB, _DATADOG, _NEW_RELIC, _DYNATRACE)
    if each.profile
}

_GRAFANA_CLOUD = Backend(
    name="Grafana Cloud",
    profile="loki",  # stricter than Tempo
    needs="its Loki refuses lines older than a week and, without time sharding, lines more than an hour "
    "older than the newest of their stream; its Tempo finds old spans by id, and by search only within "
    "ingestion_time_range_slack",
    hosts=("grafana.net", "grafana.com"),
    oldest_seconds=_LOKI.oldest_seconds,
)
_COLLECTOR = Backend(
    name="a collector on this machine",
    needs="give failure logs their own receiver and pipelines, without tail_sampling and spanmetrics; set "
    "sending_queue.storage and retry_on_failure.max_elapsed_time: 0 in its exporters, because it "
    "acknowledges what is only queued",
    hosts=("localhost", "127.0.0.1", "::1"),
)


def backend_of(host: str) -> Backend | None:
    """Returns the backend that a host belongs to; None if it is unknown."""
    host = host.lower().rstrip(".")
    for backend in (*BACKENDS.values(), _GRAFANA_CLOUD, _COLLECTOR):
        if any(host == each or host.endswith(f".{each}") for each in backend.hosts):
            return backend
    return None
