"""What is to be set for the usual backends, by the host of an endpoint.

Read in their sources and documentation in 2026 (specification 5); our data is an hour old at best and 28 days
at worst.
"""

import math

from msgspec import Struct

from faillog_otel.config import TimePolicy


class Backend(Struct, frozen=True):
    """A backend that is known by its hosts."""

    name: str
    hosts: tuple[str, ...]
    """These, and all below them."""
    hint: str
    oldest_hours: float = math.inf
    """Older records are dropped."""

    def drops(self, policy: TimePolicy) -> bool:
        """Whether records of this time policy may be too old."""
        if policy.kind == "clamp":
            return policy.age_seconds > self.oldest_hours * 3600
        return policy.kind == "occurred" and math.isfinite(self.oldest_hours)


BACKENDS = (
    Backend(
        "Honeycomb",
        ("honeycomb.io",),
        "takes old data; does not recognise re-sends: count COUNT_DISTINCT(messaging.message.id)",
    ),
    Backend(
        "Datadog",
        ("datadoghq.com", "datadoghq.eu", "ddog-gov.com"),
        "takes spans and logs of the last 18 hours",
        oldest_hours=18,
    ),
    Backend(
        "Grafana",
        ("grafana.net", "grafana.com"),
        "Loki refuses a line that is an hour older than the newest of its stream: set "
        "shard_streams.time_sharding_enabled; Tempo's search needs ingestion_time_range_slack: 48h",
    ),
    Backend("New Relic", ("newrelic.com", "nr-data.net"), "takes data of the last 24 hours", oldest_hours=24),
    Backend(
        "Dynatrace",
        ("dynatrace.com",),
        "takes logs of the last 24 hours, and spans of the last hour",
        oldest_hours=1,
    ),
    Backend(
        "a collector on this machine",
        ("localhost", "127.0.0.1", "::1"),
        "a receiver and pipelines of their own, without tail_sampling and spanmetrics; exporters with "
        "sending_queue.storage and retry_on_failure.max_elapsed_time: 0, for what it took is queued, no more",
    ),
)


def backend_of(host: str) -> Backend | None:
    """The backend that a host belongs to."""
    host = host.lower().rstrip(".")
    for backend in BACKENDS:
        if any(host == each or host.endswith(f".{each}") for each in backend.hosts):
            return backend
    return None
