"""The program's own metrics, with OpenTelemetry's SDK and OTLP exporter, which sends from its own thread.

A run does not depend on them: a dead endpoint causes one warning, and the end of a run waits for them at most
`FLUSH_SECONDS`. The SDK gets every setting as an argument: `OTEL_*` variables concern the forwarded data, and
`cli` removes them from the environment. A proxy is used if the setting names one; redirects are not followed.
"""

import logging
import math
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPException
from typing import Any

import grpc
import requests
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
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
from requests.adapters import BaseAdapter

from faillog_otel.config import Target, TelemetryConfig
from faillog_otel.connections import Connections
from faillog_otel.network import channel_address, channel_options, proxy_to
from faillog_otel.redact import redact_text
from faillog_otel.telemetry import Gauge, OutcomeKey
from faillog_otel.text import MAX_SEARCHED_BYTES, peer_text, printable, truncate
from faillog_otel.tls import channel_credentials, client_context

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
"""Of the ten seconds that a run may take to end after a signal."""
PORT_CHECK_SECONDS = 0.25
"""For each of the four probes of the endpoint's port, before the one warning."""
SETTINGS = "FAILLOG_SELF_OTLP_ENDPOINT={url} FAILLOG_SELF_OTLP_PROTOCOL={protocol}"
MAX_TIMEOUT_SECONDS = 60.0
OUTCOMES = ("exported", "rejected", "quarantined", "duplicate")
"""Outcomes of records."""
MAX_VALUES = 50
"""Distinct destinations, and distinct reasons; all others are `other`."""
MAX_VALUE = 100
LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_FRAME = re.compile(
    r"^Transient error |^Failed to export metrics (batch |to [^ ]*, )| encountered while exporting .*",
    re.DOTALL,
)

ExplainFailure = Callable[[Target, float, str], str | None]
"""Returns what a target's port speaks and what to set instead; None if unknown.

Its arguments are the target, the seconds for each probe, and the format of the remedy.
"""


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
        sdk_message = _LastSdkMessage(target.masked)
        self._exporter = _Exporter(_exporter_to(target), target, sdk_message, explain)
        reader = PeriodicExportingMetricReader(
            self._exporter,
            export_interval_millis=config.interval_seconds * 1000,
            export_timeout_millis=_timeout(target) * 1000,
        )
        instance = {"service.instance.id": str(uuid.uuid4())}
        service = {"service.name": "faillog-otel", "service.version": version}
        self._provider = MeterProvider(
            [reader],
            resource=Resource({**service, **instance, **dict(config.resource)}),
            exemplar_filter=AlwaysOffExemplarFilter(),
            shutdown_on_exit=False,
        )
        self._names = names
        self._destinations, self._reasons = _Bounded(), _Bounded()
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
        self._latency = meter.create_histogram(
            "faillog.export.duration",
            "s",
            "Duration of requests with forwarded data",
            explicit_bucket_boundaries_advisory=LATENCY_SECONDS,
        )
        # Known series start with 0, so that the first export has all of them.
        for outcome in OUTCOMES:
            self._records.add(0, {"outcome": outcome})
        self._exported.add(0)
        self._shifted.add(0)

    def record_outcomes(
        self, outcomes: Mapping[OutcomeKey, int], reasons: Mapping[str, int], shifted: int
    ) -> None:
        """Counts committed records."""
        for (event, outcome, destination), count in outcomes.items():
            attributes = {"outcome": outcome}
            if event:
                attributes["event"] = event
            if destination:
                attributes["destination"] = self._destinations.bound(
                    self._names.get(destination, destination)
                )
            self._records.add(count, attributes)
            if outcome == "exported":
                self._exported.add(count)
        for reason, count in reasons.items():
            self._quarantined.add(count, {"reason": self._reasons.bound(reason)})
        if shifted:
            self._shifted.add(shifted)

    def record_request(self, signal: str, outcome: str, seconds: float) -> None:
        """Records the duration of a request."""
        self._latency.record(seconds, {"signal": signal, "outcome": outcome})

    def observe(self, gauge: Gauge) -> None:
        """Reads the gauge for each export."""

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            for value, number in gauge.read().items():
                yield Observation(number, {gauge.attribute: value} if gauge.attribute else {})

        create = (
            self._meter.create_observable_counter if gauge.is_counter else self._meter.create_observable_gauge
        )
        create(gauge.name, [observe], gauge.unit, gauge.description)

    def close(self) -> None:
        """Exports once more; gives up after `FLUSH_SECONDS`."""
        try:
            self._provider.shutdown(timeout_millis=FLUSH_SECONDS * 1000)
        except Exception as error:  # noqa: BLE001  # the SDK raises Exception itself; a run must not end by it
            self._exporter.warn(str(error))
        if not self._exporter.is_delivered:
            self._exporter.warn(self._exporter.why() or f"no answer within {FLUSH_SECONDS:g} s")


class _Bounded:
    """Bounds the number and the length of attribute values from outside."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def bound(self, text: str) -> str:
        text = printable(text[:MAX_VALUE])
        if text not in self._known:
            if len(self._known) >= MAX_VALUES:
                return "other"
            self._known.add(text)
        return text


class _LastSdkMessage(logging.Handler):
    """Keeps the SDK's log messages out of our log: they can quote a header, and repeat every minute."""

    def __init__(self, mask: Callable[[str], str]) -> None:
        """`mask` replaces our header values."""
        super().__init__()
        self._mask = mask
        self.first = ""
        """The first message of the last export: it says why, later ones how often."""
        logger = logging.getLogger("opentelemetry")
        logger.handlers = [self]
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or truncate(self._mask(record.getMessage()), MAX_SEARCHED_BYTES)


class _Exporter(MetricExporter):
    """The SDK's exporter with our own warning, logged once."""

    def __init__(
        self, inner: MetricExporter, target: Target, sdk_message: _LastSdkMessage, explain: ExplainFailure
    ) -> None:
        super().__init__()
        self._explain = explain
        self.is_delivered = True
        """Whether the last export succeeded; False during an export."""
        self._inner = inner
        self._target = target
        self._sdk_message = sdk_message
        self._lock = threading.Lock()
        self._has_warned = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        self.is_delivered = False
        self._sdk_message.first = ""
        result = self._inner.export(metrics_data, timeout_millis, **kwargs)
        self.is_delivered = result is MetricExportResult.SUCCESS
        if not self.is_delivered:
            self.warn(self.why() or "no reason given")
        return result

    def why(self) -> str:
        """Returns the SDK's message about the last export, redacted, without its prefix."""
        return peer_text(_FRAME.sub("", self._sdk_message.first), redact_text)

    def warn(self, why: str) -> None:
        with self._lock:  # held while logging: the end of the run must not precede the first warning
            has_warned, self._has_warned = self._has_warned, True
            if not has_warned and not self._target.proxy:  # a proxy's port is not probed
                why = self._explain(self._target, PORT_CHECK_SECONDS, SETTINGS) or why
            level = logging.DEBUG if has_warned else logging.WARNING
            _log.log(
                level,
                "cannot send our own metrics to %s: %s; the run goes on without them",
                *(self._target.shown_url, why),
            )

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._inner.shutdown(timeout_millis, **kwargs)


def _timeout(target: Target) -> float:
    seconds = target.timeout_seconds
    return min(seconds, MAX_TIMEOUT_SECONDS) if math.isfinite(seconds) else MAX_TIMEOUT_SECONDS


def _exporter_to(target: Target) -> MetricExporter:
    """Returns the SDK's exporter with every argument: it reads missing ones from the environment."""
    headers = {name: value.reveal() for name, value in target.headers}
    if target.protocol == "grpc":
        return _grpc_exporter(target, headers)
    session = requests.Session()
    session.trust_env = False
    session.mount(target.url, _Adapter(target))
    return HttpExporter(
        target.url,
        headers=headers,
        timeout=_timeout(target),
        compression=Compression.Gzip if target.compression == "gzip" else Compression.NoCompression,
        session=session,
    )


class _Adapter(BaseAdapter):
    """Sends the exporter's requests over our connections: one deadline for each, and bounded answers."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        files = (target.certificate, target.client_certificate, target.client_key)
        self._connections = Connections(
            target.url,
            timeout_seconds=_timeout(target),
            context=lambda: client_context(*files),  # read each time: files can change
            proxy=proxy_to(target.url, target.proxy, os.environ),
            proxy_context=lambda: client_context(target.certificate),
        )

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        body = request.body if isinstance(request.body, bytes) else b""
        headers = {name: value for name, value in request.headers.items() if isinstance(value, str)}
        try:
            answer = self._connections.post(body, headers)
        except (OSError, HTTPException, ValueError) as error:
            raise requests.ConnectionError(str(error) or type(error).__name__) from None
        if 300 <= answer.status < 400:  # a success to the exporter
            raise requests.RequestException(f"HTTP {answer.status}: redirects are not followed")
        response = requests.Response()
        response.status_code = answer.status
        response.headers.update(answer.headers)
        response._content = answer.body or b""  # noqa: SLF001  # as other adapters without urllib3 do
        response.url, response.request = request.url or "", request
        return response

    def close(self) -> None:
        self._connections.close()


def _grpc_exporter(target: Target, headers: dict[str, str]) -> MetricExporter:
    is_tls = target.url.startswith("https:")
    options: Any = channel_options(target)
    return GrpcExporter(
        f"{'https' if is_tls else 'http'}://{channel_address(target.url)}",
        insecure=not is_tls,
        credentials=channel_credentials(target),
        headers=headers,
        timeout=_timeout(target),
        compression=grpc.Compression.Gzip if target.compression == "gzip" else grpc.Compression.NoCompression,
        channel_options=options,
    )
