"""Our own telemetry about failures: that of a real run, and changes to report."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from faillog_otel.app.build import Runtime
from faillog_otel.app.readiness import failure_gauges
from faillog_otel.clock import SECOND_NS
from faillog_otel.config import (
    DeliveryConfig,
    MappingConfig,
    NetworkProtocol,
    RunConfig,
    Target,
    TelemetryConfig,
)
from faillog_otel.segment.answers import Change
from faillog_otel.telemetry import EventsCounted, FailureChanges, NewGroup, Telemetry

FIRST_NS = 1_790_000_000 * SECOND_NS
GROUP = NewGroup(
    id="3fe2a81c0d4b5e6f",
    destination="5f7dd6d21ad74f3842b1fc47",
    code="INVALID_API_KEY",
    status=401,
    reason_class="credentials",
    reason="Key <id> is not valid",
    first_ns=FIRST_NS,
)
CHANGES = FailureChanges(
    messages={
        (GROUP.destination, "lost", "credentials"): 3,
        (GROUP.destination, "recovered", "destination_down"): 2,
    },
    attempts={
        (GROUP.destination, "INVALID_API_KEY", "credentials"): 27,
        (GROUP.destination, "503", "destination_down"): 5,
    },
    new_groups=[GROUP],
)
CHANGE = Change(
    id="change-1",
    at_ns=FIRST_NS - 240 * SECOND_NS,
    kind="Destination Modified",
    resource_id=GROUP.destination,
    resource_type="DESTINATION",
    resource_name="Mixpanel (prod)",
    actor="[redacted:secret]",
    actor_email="[redacted:email]",
)


@contextmanager
def own_telemetry(
    endpoint: str,
    protocol: NetworkProtocol = "http/protobuf",
    names: dict[str, str] | None = None,
    **more: Any,
) -> Iterator[Telemetry]:
    """The telemetry of a run that sends its own to this endpoint; `more` are fields of its targets.

    `names`: destination id → name. It is sent at the end.
    """
    paths = ("", "") if protocol == "grpc" else ("/v1/metrics", "/v1/logs")
    metrics, logs = (Target(url=f"{endpoint}{path}", protocol=protocol, **more) for path in paths)
    config = RunConfig(
        telemetry=TelemetryConfig(target=metrics, logs_target=logs),
        mapping=MappingConfig(destination_names=names or {}),
        delivery=DeliveryConfig(),
        state_dir="",
    )
    with Runtime(config, signals=()) as runtime:
        runtime.start_telemetry()
        yield runtime.telemetry


COUNTED = EventsCounted(
    {("s", "", "received"): 9, ("s", GROUP.destination, "failed"): 2},
    {(GROUP.destination, "destination_down"): 2},
)


def report_failures(endpoint: str) -> None:
    """Sends `CHANGES`, `COUNTED`, a pending message, and a change of the workspace."""
    with own_telemetry(endpoint, names={GROUP.destination: "Mixpanel"}) as telemetry:
        for gauge in failure_gauges(lambda: {(GROUP.destination, "destination_down"): 1}):
            telemetry.observe(gauge)
        telemetry.record_failures(CHANGES)
        telemetry.record_events(COUNTED)
        telemetry.record_changes([CHANGE])
