"""The program's own metrics, with OpenTelemetry's SDK and OTLP exporter, which sends from its own thread.

A run does not depend on them: a dead endpoint causes one warning, and the end of a run waits for them at most
`FLUSH_SECONDS`. The SDK gets every setting as an argument: `OTEL_*` variables concern the forwarded data, and
`cli` removes them from the environment. A proxy is used if the setting names one; redirects are not followed.
"""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource

from faillog_otel.config import Target, TelemetryConfig
from faillog_otel.segment.answers import Change
from faillog_otel.telemetry import (
    MAX_VALUE,
    EventsCounted,
    FailureChanges,
    Gauge,
    NewGroupLog,
    OutcomeKey,
    one_line,
    shown,
)
from faillog_otel.telemetry.exporters import (
    ExplainFailure,
    Exports,
    SdkMessages,
    grpc_arguments,
    http_arguments,
    timeout_of,
)
from faillog_otel.telemetry.logs import LogEvents

FLUSH_SECONDS = 2.0
"""Of the ten seconds that a run may take to end after a signal."""
OUTCOMES = ("exported", "rejected", "quarantined", "duplicate")
"""Outcomes of records."""
STATES = ("lost", "recovered")
"""States that a message enters for good, as far as is known."""
MAX_VALUES = 50
"""Distinct values of an attribute from outside; all others are `other`."""
LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class OtelTelemetry:
    """Counts, and exports every `interval_seconds`. `names`: destination id → name to show."""

    def __init__(
        self,
        config: TelemetryConfig,
        target: Target,
        names: Mapping[str, str],
        version: str,
        explain: ExplainFailure,
    ) -> None:
        """`explain` is called once, after the first failed export."""
        messages = SdkMessages(explain)
        self._exports = Exports("metrics", target, messages)
        reader = PeriodicExportingMetricReader(
            _Exporter(target, self._exports),
            export_interval_millis=config.interval_seconds * 1000,
            export_timeout_millis=timeout_of(target) * 1000,
        )
        instance = {"service.instance.id": str(uuid.uuid4())}
        service = {"service.name": "faillog-otel", "service.version": version}
        resource = Resource({**service, **instance, **dict(config.resource)})
        self._provider = MeterProvider(
            [reader],
            resource=resource,
            exemplar_filter=AlwaysOffExemplarFilter(),
            shutdown_on_exit=False,
        )
        self._new_group_log = NewGroupLog(names)
        self._events = None
        if config.logs_target is not None:
            self._events = LogEvents(config.logs_target, messages, resource, names, version)
        self._values = _AttributeValues(names)
        self._meter = meter = self._provider.get_meter("faillog-otel", version)
        self._records = meter.create_counter("faillog.records", "{record}", "Records by outcome")
        self._exported = meter.create_counter(
            "faillog.exported", "{record}", "Records acknowledged by the collector in all signals"
        )
        self._quarantined = meter.create_counter(
            "faillog.quarantined", "{record}", "Quarantined records by reason"
        )
        self._shifted = meter.create_counter(
            "faillog.time_shifted", "{record}", "Exported records with a time that the time policy changed"
        )
        self._messages = meter.create_counter(
            "faillog.messages", "{message}", "Messages that a destination lost, or got by a later attempt"
        )
        self._failures = meter.create_counter(
            "faillog.failures", "{attempt}", "Failed attempts by code and class of the reason"
        )
        self._new_groups = meter.create_counter(
            "faillog.failure_groups.new", "{group}", "Failure groups that were seen for the first time"
        )
        self._segment_events = meter.create_counter(
            "faillog.segment.events",
            "{event}",
            "Events by result, as Segment counts them, minutes after they arrive",
        )
        self._segment_discards = meter.create_counter(
            "faillog.segment.discards",
            "{event}",
            "Events that Segment discarded, as it counts them, by class of the reason",
        )
        self._latency = meter.create_histogram(
            "faillog.export.duration",
            "s",
            "Duration of requests with forwarded data",
            explicit_bucket_boundaries_advisory=LATENCY_SECONDS,
        )
        # Known series start with 0, so that the first export has all of them.
        for outcome in OUTCOMES:
            self._records.add(0, {"outcome": outcome})
        for state in STATES:
            self._messages.add(0, {"state": state})
        self._exported.add(0)
        self._shifted.add(0)

    def record_outcomes(
        self, outcomes: Mapping[OutcomeKey, int], reasons: Mapping[str, int], shifted: int
    ) -> None:
        """Counts committed records."""
        for (event, outcome, destination), count in outcomes.items():
            attributes = self._values.of(destination=destination)
            if event:
                attributes["event"] = event
            self._records.add(count, {"outcome": outcome, **attributes})
            if outcome == "exported":
                self._exported.add(count)
        for reason, count in reasons.items():
            self._quarantined.add(count, self._values.of(reason=reason))
        if shifted:
            self._shifted.add(shifted)

    def record_request(self, signal: str, outcome: str, seconds: float) -> None:
        """Records the duration of a request."""
        self._latency.record(seconds, {"signal": signal, "outcome": outcome})

    def record_failures(self, failures: FailureChanges) -> None:
        """Counts failed attempts and changes of messages; logs new groups and sends an event for each."""
        for (destination, code, reason_class), count in failures.attempts.items():
            attributes = self._values.of(destination=destination, reason_class=reason_class)
            for state in STATES:  # the series is 0 before the first message is lost: an alert sees it grow
                self._messages.add(0, {"state": state, **attributes})
            self._failures.add(count, {**attributes, **self._values.of(code=code)})
        for (destination, state, reason_class), count in failures.messages.items():
            attributes = self._values.of(destination=destination, reason_class=reason_class)
            self._messages.add(count, {"state": state, **attributes})
        for group in failures.new_groups:
            attributes = self._values.of(destination=group.destination, reason_class=group.reason_class)
            self._new_groups.add(1, attributes)
        named = self._new_group_log.write(failures.new_groups)
        if self._events is not None:
            self._events.send_groups(named)

    def record_events(self, counted: EventsCounted) -> None:
        """Counts what Segment counted."""
        for (source, destination, result), count in counted.events.items():
            attributes = self._values.of(source=source, destination=destination)
            if destination:  # the series is 0 before the first failure: an alert sees it grow
                self._segment_events.add(0, {**attributes, "result": "failed"})
            self._segment_events.add(count, {**attributes, "result": result})
        for (destination, reason_class), count in counted.discards.items():
            attributes = self._values.of(destination=destination, reason_class=reason_class)
            self._segment_discards.add(count, attributes)

    def record_changes(self, changes: Sequence[Change]) -> None:
        """Sends a log event for each change of the workspace."""
        if self._events is not None:
            self._events.send_changes(changes)

    def observe(self, gauge: Gauge) -> None:
        """Reads the gauge for each export."""

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            sums: dict[tuple[tuple[str, str], ...], float] = defaultdict(float)
            for values, number in gauge.read().items():
                attributes = self._values.of(**dict(zip(gauge.attributes, values, strict=True)))
                sums[tuple(attributes.items())] += number
            return [Observation(number, dict(attributes)) for attributes, number in sums.items()]

        create = (
            self._meter.create_observable_counter if gauge.is_counter else self._meter.create_observable_gauge
        )
        create(gauge.name, [observe], gauge.unit, gauge.description)

    def close(self) -> None:
        """Exports once more; gives up after `FLUSH_SECONDS`."""
        late = f"no answer within {FLUSH_SECONDS:g} s"
        end = time.monotonic() + FLUSH_SECONDS
        wait_for_events = None if self._events is None else self._events.end()
        try:
            self._provider.shutdown(timeout_millis=FLUSH_SECONDS * 1000)
        except Exception as error:  # noqa: BLE001  # the SDK raises Exception itself; a run must not end by it
            self._exports.warn(str(error))
        self._exports.close(late)
        if wait_for_events is not None:
            wait_for_events(max(0.0, end - time.monotonic()), late)


class _AttributeValues:
    """Bounds number and length of attribute values from outside. Safe for use from several threads."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """`names`: destination id → name."""
        self._names = names
        self._known: dict[str, dict[str, str]] = defaultdict(dict)  # attribute → value → as shown
        self._lock = threading.Lock()

    def of(self, **values: str) -> dict[str, str]:
        """Returns attribute → value to show, without empty ones. Ids become names."""
        return {name: self._shown(name, value) for name, value in values.items() if value}

    def _shown(self, attribute: str, value: str) -> str:
        if attribute in ("destination", "source"):
            value = self._names.get(value, value)
        with self._lock:
            known = self._known[attribute]
            if value not in known:
                if len(known) >= MAX_VALUES:
                    return "other"
                known[value] = one_line(value, MAX_VALUE) if attribute == "code" else shown(value)
            return known[value]


class _Exporter(MetricExporter):
    """The SDK's exporter with our own warning."""

    def __init__(self, target: Target, exports: Exports) -> None:
        super().__init__()
        self._exports = exports
        self._inner: MetricExporter = (
            GrpcExporter(**grpc_arguments(target))
            if target.protocol == "grpc"
            else HttpExporter(**http_arguments(target))
        )

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        self._exports.begin()
        result = self._inner.export(metrics_data, timeout_millis, **kwargs)
        self._exports.end(is_delivered=result is MetricExportResult.SUCCESS)
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._inner.shutdown(timeout_millis, **kwargs)
