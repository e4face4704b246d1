"""Log events for new failure groups and for changes of the workspace, with OpenTelemetry's SDK.

They are sent from a thread of their own, and from a bounded queue. The same rules hold as for metrics: a run
does not depend on the events. An endpoint for metrics alone gets none of them.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk._logs import LoggerProvider, LogRecordLimits, ReadableLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource

from faillog_otel.config import Target
from faillog_otel.segment.answers import Change
from faillog_otel.telemetry import NewGroup, one_line, shown
from faillog_otel.telemetry.exporters import Exports, SdkMessages, grpc_arguments, http_arguments, timeout_of

_log = logging.getLogger(__name__)

NEW_GROUP = "faillog.failure_group.new"
CHANGE = "faillog.workspace.change"
MAX_SENT = 100
"""Events in one request."""
MAX_QUEUED = 2000
"""Events; a full queue loses the oldest ones."""
DELAY_SECONDS = 1.0
"""How long an event waits for others."""

_TAKES_NO_LOGS = re.compile(
    r"Failed to export logs (?:batch code: (?:404|405|501),|to \S+ error code: StatusCode\.UNIMPLEMENTED,)"
)


class LogEvents:
    """Sends an event for each new group, and for each change."""

    def __init__(
        self,
        target: Target,
        messages: SdkMessages,
        resource: Resource,
        names: Mapping[str, str],
        version: str,
    ) -> None:
        """`names`: destination id → name."""
        self._exports = Exports("log events", target, messages)
        self._names = names
        nothing = NoOpMeterProvider()
        self._provider = LoggerProvider(
            resource,
            shutdown_on_exit=False,
            meter_provider=nothing,
            log_record_limits=LogRecordLimits(*[LogRecordLimits.UNSET] * 4),
        )
        self._exporter = _Exporter(target, self._exports)
        self._provider.add_log_record_processor(
            BatchLogRecordProcessor(
                self._exporter,
                schedule_delay_millis=DELAY_SECONDS * 1000,
                max_export_batch_size=MAX_SENT,
                export_timeout_millis=timeout_of(target) * 1000,
                max_queue_size=MAX_QUEUED,
                meter_provider=nothing,
            )
        )
        self._logger = self._provider.get_logger("faillog-otel", version)

    def send_groups(self, groups: Sequence[NewGroup]) -> None:
        """Queues an event for each group, with the current time: it is an event of this program."""
        for group in groups:
            now_ns = time.time_ns()
            self._logger.emit(
                timestamp=now_ns,
                observed_timestamp=now_ns,
                severity_number=SeverityNumber.WARN,
                severity_text="WARN",
                event_name=NEW_GROUP,
                body=group.sentence(self._names),
                attributes=dict(_group_attributes(group, self._names)),
            )

    def send_changes(self, changes: Sequence[Change]) -> None:
        """Queues an event for each change, with the time of the change."""
        for change in changes:
            self._logger.emit(
                timestamp=change.at_ns,
                observed_timestamp=time.time_ns(),
                severity_number=SeverityNumber.INFO,
                severity_text="INFO",
                event_name=CHANGE,
                body=one_line(f"{change.kind}: {change.resource_name or change.resource_id}"),
                attributes={name: value for name, value in _change_attributes(change) if value},
            )

    def end(self) -> Callable[[float, str], None]:
        """Begins to send what is queued. Returns a function that waits so many seconds for it to be sent.

        Its other argument is why it may be late. (The SDK itself would wait for 30 s.)
        """
        thread = threading.Thread(target=self._provider.shutdown, name="last log events", daemon=True)
        thread.start()

        def wait(seconds: float, late: str) -> None:
            thread.join(seconds)
            if thread.is_alive():
                self._exporter.shutdown()
            self._exports.close(late)

        return wait


def _group_attributes(group: NewGroup, names: Mapping[str, str]) -> Iterator[tuple[str, str | int]]:
    """Yields what is known of a group, by the names that its records have."""
    yield "segment.failure.group", shown(group.id)
    yield "segment.reason.class", shown(group.reason_class)
    if group.destination:
        yield "segment.destination.id", shown(group.destination)
        yield "messaging.destination.name", shown(names.get(group.destination, group.destination))
    if group.code is not None:
        yield "error.type", one_line(group.code)
    if group.status is not None:
        yield "http.response.status_code", group.status
    if group.reason is not None:
        yield "segment.reason", one_line(group.reason)


def _change_attributes(change: Change) -> Iterator[tuple[str, str]]:
    """Yields what is known of a change. Its texts were redacted before they were stored."""
    yield "log.record.uid", change.id
    yield "segment.change.kind", shown(change.kind)
    yield "segment.resource.id", shown(change.resource_id)
    yield "segment.resource.type", shown(change.resource_type)
    yield "segment.resource.name", shown(change.resource_name)
    yield "user.id", shown(change.actor)
    yield "user.email", shown(change.actor_email)


class _Exporter(LogRecordExporter):
    """The SDK's exporter with our own warning. Ends for good if the endpoint takes no logs."""

    def __init__(self, target: Target, exports: Exports) -> None:
        self._target = target
        self._exports = exports
        self._takes_logs = True
        self._inner: LogRecordExporter = (
            GrpcExporter(**grpc_arguments(target))
            if target.protocol == "grpc"
            else HttpExporter(**http_arguments(target))
        )

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        if not self._takes_logs:
            return LogRecordExportResult.FAILURE
        self._exports.begin()
        result = self._inner.export(batch)
        is_delivered = result is LogRecordExportResult.SUCCESS
        if not is_delivered and _TAKES_NO_LOGS.match(self._exports.message):
            self._takes_logs, is_delivered = False, True
            _log.info(
                "%s takes no logs, only metrics: new failure groups and changes are not sent as log events",
                self._target.shown_url,
            )
        self._exports.end(is_delivered=is_delivered)
        return result

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)

    def shutdown(self) -> None:
        self._inner.shutdown()  # type: ignore[no-untyped-call]  # the SDK's has no annotations
