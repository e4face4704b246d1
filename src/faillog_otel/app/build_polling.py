"""Composition of a polling run: the state folder, Segment's clients, the two loops."""

import logging
import math
import os
from functools import partial

from msgspec import Struct

from faillog_otel.app.build import USER_AGENT, Runtime, descriptors
from faillog_otel.app.readiness import Readiness, collector, loops
from faillog_otel.clock import Clock, SegmentClock
from faillog_otel.config import RunConfig, SegmentConfig
from faillog_otel.ledger import Ledger
from faillog_otel.ledger.facts import SINCE, check_window, note_polled, schedule_of
from faillog_otel.ledger.ledger import open_ledger
from faillog_otel.ledger.spool import Spool
from faillog_otel.ledger.state_dir import RoomWait, StateFolder
from faillog_otel.otlp.delivery import Delivery
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.pipeline.fetcher import Fetcher
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.pipeline.segment_time import AGREED
from faillog_otel.pipeline.sidecar import Sidecar
from faillog_otel.reports.hours import HourlyReport, Judging
from faillog_otel.segment.api import TIMEOUT_SECONDS, SegmentApi, token_source
from faillog_otel.segment.download import Downloader, Limits
from faillog_otel.segment.http_client import Network, network_of, timeout_within
from faillog_otel.segment.schedule import ScheduleConfig
from faillog_otel.telemetry.api import NO_TELEMETRY
from faillog_otel.telemetry.output import announce

_log = logging.getLogger(__name__)


class Polling(Struct, frozen=True):
    """The parts of a polling run."""

    ledger: Ledger
    clock: SegmentClock
    fetcher: Fetcher
    forwarder: Forwarder
    delivery: Delivery
    readiness: Readiness
    hourly: HourlyReport
    judging: Judging
    sidecar: Sidecar


def build_polling(
    runtime: Runtime, *, once: bool, clock: Clock | None = None, only_wanted: bool = False
) -> Polling:
    """Opens the state folder and builds the parts. Raises ConfigError, NoRoom, LedgerBroken.

    `clock` is the machine's, which Segment's Date corrects. `only_wanted`: only the hours that a replay
    asked for.
    """
    config, stop = runtime.config, runtime.stop
    shows_only = config.delivery.writes is not None
    folder = runtime.stack.enter_context(StateFolder(config.state_dir))
    wait_seconds = config.delivery.wait_seconds if once else math.inf
    room = RoomWait(wait_seconds, stop.monotonic)
    ledger = room.retry(lambda: open_ledger(folder), stop.wait)
    runtime.stack.callback(ledger.close)
    spool = Spool(folder.spool)
    segment_clock = SegmentClock(clock or stop, ledger.fact_ns(AGREED) or 0)
    if not only_wanted:
        room.retry(lambda: _check_window(config, ledger, segment_clock), stop.wait)
    room.retry(ledger.recover, stop.wait)
    judging = room.retry(lambda: Judging(ledger, config.segment, segment_clock), stop.wait)
    ledger.sweep()
    runtime.start_telemetry()
    runtime.start_heartbeat()
    segment, downloader = _segment_clients(config)
    runtime.start_progress()
    fetcher = Fetcher(
        ledger=ledger,
        spool=spool,
        segment=segment,
        downloader=downloader,
        schedule=partial(_schedule_at, ledger, config.segment, once=once, only_wanted=only_wanted),
        clock=segment_clock,
        is_stopping=runtime.heartbeat.beat_on_call("fetching", stop.is_requested),
        max_content_bytes=config.max_content_bytes,
        requests_per_day=config.segment.requests_per_day,
        max_requests=config.segment.max_requests,
        to_download=runtime.progress.to_download,
        wait_seconds=wait_seconds,
    )
    readiness = Readiness(ledger, lambda: fetcher.schedule, segment_clock, config.segment.requests_per_day)
    delivery = runtime.deliver()
    for gauge in readiness.gauges():
        runtime.telemetry.observe(gauge)
    _serve_health(runtime, readiness)
    forwarder = Forwarder(
        encoder=WireEncoder(config.mapping),
        delivery=delivery,
        config=config.delivery,
        is_stopping=runtime.heartbeat.beat_on_call("forwarding", stop.is_requested),
        max_content_bytes=config.max_content_bytes,
        telemetry=NO_TELEMETRY if shows_only else runtime.telemetry,
    )
    hourly = HourlyReport(
        ledger=ledger,
        counts=forwarder.counts,
        sent=lambda: delivery.sent,
        schedule=lambda: fetcher.schedule,
        clock=segment_clock,
        requests_per_day=config.segment.requests_per_day,
        say=partial(announce, _log),
        shows_only=shows_only,
    )
    sidecar = Sidecar(
        ledger=ledger,
        spool=spool,
        fetcher=fetcher,
        forwarder=forwarder,
        clock=segment_clock,
        interruptible=stop.interruptible,
        is_stopping=stop.is_requested,
        is_over=lambda: bool(delivery.gave_up_because),
        end_sending=delivery.end,
        once=once,
        progress=runtime.progress.forwarding,
        hourly=hourly,
        heartbeat=runtime.heartbeat,
        shows_only=shows_only,
        wait_seconds=wait_seconds,
        monotonic=stop.monotonic,
    )
    return Polling(ledger, segment_clock, fetcher, forwarder, delivery, readiness, hourly, judging, sidecar)


def segment_api(config: RunConfig, network: Network) -> SegmentApi:
    """The client of Segment's API. One exchange lasts no longer than `--wait`. Raises ConfigError."""
    token = token_source(config.segment)
    token()
    return SegmentApi(
        config.segment.url,
        token,
        USER_AGENT,
        timeout_seconds=timeout_within(config.delivery.wait_seconds, TIMEOUT_SECONDS),
        network=network,
    )


def _segment_clients(config: RunConfig) -> tuple[SegmentApi, Downloader]:
    limits = Limits(stall_seconds=timeout_within(config.delivery.wait_seconds, Limits().stall_seconds))
    network = network_of(config.segment, os.environ)
    return segment_api(config, network), Downloader(
        config.segment.download_hosts, USER_AGENT, limits, network
    )


def _check_window(config: RunConfig, ledger: Ledger, clock: Clock) -> None:
    """Warns of an odd window, and remembers what is asked for, unless the run only shows.

    Raises ConfigError, NoRoom, LedgerBroken.
    """
    for warning in check_window(config.segment, clock.now_ns(), ledger.fact_ns(SINCE)):
        _log.warning("%s", warning)
    if config.delivery.writes is None:
        note_polled(ledger, config.segment)


def _schedule_at(
    ledger: Ledger, config: SegmentConfig, now_ns: int, *, once: bool, only_wanted: bool
) -> ScheduleConfig:
    """What is asked for. What an earlier run wanted stays wanted: a restart must not lose hours."""
    if only_wanted:
        return ScheduleConfig(config.collections, since_ns=now_ns, once=True)
    return schedule_of(ledger, config, now_ns, once=once)


def _serve_health(runtime: Runtime, readiness: Readiness) -> None:
    """Answers `/healthz` and `/readyz` until the run ends, if an address is set. Raises ConfigError."""
    if runtime.config.health.address is None:
        return
    from faillog_otel.telemetry.health import MAX_CONNECTIONS, HealthServer

    host, port = runtime.config.health.address
    server = runtime.stack.enter_context(
        HealthServer(
            host,
            port,
            alive=lambda: {"loops": loops(runtime.heartbeat)},
            ready=lambda: {
                "loops": loops(runtime.heartbeat),
                "ledger": readiness.ledger(),
                "collector": collector(runtime.collector),
                "hours": readiness.hours(),
            },
            max_connections=max(1, min(MAX_CONNECTIONS, descriptors() // 4)),
        )
    )
    shown = f"[{host}]" if ":" in host else host
    _log.info("health: http://%s:%d/healthz and /readyz", shown, server.port)
