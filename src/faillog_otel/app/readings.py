"""Composition of what a polling run reads from Segment besides listings."""

from collections.abc import Callable

from faillog_otel.clock import Clock
from faillog_otel.config import RunConfig
from faillog_otel.ledger import Ledger
from faillog_otel.ledger.facts import wanted_since_ns
from faillog_otel.ledger.scouting import Scouting
from faillog_otel.pipeline.changes import ChangesRefresh
from faillog_otel.pipeline.counts import CountsRefresh, events_counted
from faillog_otel.pipeline.names import NameRefresh, UnknownIds
from faillog_otel.pipeline.readings import READ_SECONDS, Reading, Readings
from faillog_otel.segment.api import SegmentApi
from faillog_otel.segment.http_client import timeout_within
from faillog_otel.telemetry import Telemetry


def readings_of(
    config: RunConfig,
    *,
    ledger: Ledger,
    segment: SegmentApi,
    clock: Clock,
    unknown: UnknownIds,
    is_stopping: Callable[[], bool],
    telemetry: Telemetry,
) -> Readings:
    """Returns what the settings ask for. A run that only shows records sends no change, so it reads none."""
    read_seconds = timeout_within(config.delivery.wait_seconds, READ_SECONDS)
    key = config.mapping.redaction_key
    readings: list[Reading] = []
    if config.segment.names:
        names = NameRefresh(
            ledger=ledger,
            segment=segment,
            clock=clock,
            unknown=unknown,
            is_stopping=is_stopping,
            redaction_key=key,
            read_seconds=read_seconds,
        )
        readings.append(names)
    if config.segment.counts:
        counts = CountsRefresh(
            ledger=ledger,
            segment=segment,
            clock=clock,
            is_stopping=is_stopping,
            take=lambda grown: telemetry.record_events(events_counted(grown)),
            since_ns=lambda now_ns: wanted_since_ns(ledger, config.segment.since.ns(now_ns)),
            redaction_key=key,
            read_seconds=read_seconds,
        )
        readings.append(counts)
    if config.segment.audit and config.delivery.writes is None:
        changes = ChangesRefresh(
            ledger=ledger,
            segment=segment,
            clock=clock,
            is_stopping=is_stopping,
            take=telemetry.record_changes,
            since_ns=config.segment.since.ns,
            keeps_actors=config.segment.audit_actors,
            redaction_key=key,
            read_seconds=read_seconds,
        )
        readings.append(changes)
    return Readings(readings, Scouting(ledger, config.segment).scout)
