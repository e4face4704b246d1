"""Replays of what a polling run remembers: its quarantine, or whole hours."""

import logging
import os
import signal
import time
from contextlib import closing
from copy import copy

from faillog_otel.app.build import Runtime
from faillog_otel.app.run_sidecar import poll, segment_api
from faillog_otel.app.summary import RunResult, log_result
from faillog_otel.clock import HOUR_NS, RETENTION_NS, Clock, SegmentClock, hour_of, time_text
from faillog_otel.config import Moment, RunConfig
from faillog_otel.errors import ConfigError, LedgerBroken
from faillog_otel.inputs.exchange_index import ExchangeIndex
from faillog_otel.inputs.files import ByteRange
from faillog_otel.ledger.facts import check_window
from faillog_otel.ledger.ledger import open_ledger
from faillog_otel.ledger.sinks import QuarantineSink, ShownQuarantineSink
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.pipeline.segment_time import follow_segment
from faillog_otel.segment.http_client import network_of
from faillog_otel.text import counted

_log = logging.getLogger(__name__)


def replay_quarantine(config: RunConfig, *, sends_rejected: bool) -> RunResult:
    """Sends the records in the state folder's quarantine again. Raises ConfigError, LedgerBroken."""
    started = time.monotonic()
    shows_only = config.delivery.writes is not None
    with Runtime(config) as runtime:
        runtime.prepare_client()
        folder = runtime.stack.enter_context(_existing(config.state_dir))
        ledger = open_ledger(folder)
        runtime.stack.callback(ledger.close)
        if shows_only:
            _log.warning("the quarantine is only shown and not changed; replay it to a collector")
        kind = ShownQuarantineSink if shows_only else QuarantineSink
        sink = kind(ledger, folder.spool, runtime.stop.now_ns(), config.segment.collections)
        entries = runtime.stack.enter_context(sink.file)
        _log.info("%s in quarantine", counted(len(sink), "record"))
        delivery = runtime.deliver()
        forwarder = runtime.forwarder(delivery, sends_rejected=sends_rejected)
        broken: LedgerBroken | None = None
        try:
            size = os.fstat(entries.fileno()).st_size
            whole = ByteRange(entries.fileno(), "quarantine", 0, size)
            forwarder.forward(whole, sink, ExchangeIndex())  # entries hold what was learned
            forwarder.finish()
            forwarder.show()
        except LedgerBroken as error:
            broken = error
        broken = broken or forwarder.broken
        if broken:
            _log.error("%s", broken)
        if runtime.stop.requested == signal.SIGPIPE:
            pass
        elif left := sum(ledger.kept_by_reason().values()):
            _log.warning("%s still in the quarantine of %s", counted(left, "record"), folder.path)
    reported = copy(forwarder.counts)
    if shows_only:  # it is in the quarantine still
        reported.quarantined += reported.exported
        reported.exported = 0
    result = RunResult(
        counts=forwarder.counts,
        reported=reported,
        sent=delivery.sent,
        seconds=time.monotonic() - started,
        fail_on=config.fail_on,
        first_met=forwarder.first_met,
        ledger_broken=broken is not None,
        signal=runtime.stop.requested,
    )
    log_result(result, config)
    return result


def _existing(path: str) -> StateFolder:
    """Returns the state folder of a polling run. Raises ConfigError if the folder holds no ledger."""
    folder = StateFolder(path)
    if not folder.ledger.exists():
        raise ConfigError(f"{path}: holds no ledger; poll with `run` first, or name another --state-dir")
    return folder


def replay_hours(config: RunConfig, since: Moment, until: Moment | None, clock: Clock | None) -> RunResult:
    """Reads whole hours of the collections again, and sends all their records with the same ids.

    Each hour costs one request. Hours that Segment has deleted cannot be read. Raises ConfigError.
    """
    if config.delivery.writes:
        raise ConfigError(
            f"--protocol {config.delivery.writes} only shows records, but a replay of hours sends them; to"
            " show hours: run --once --since ... --until ... with an empty --state-dir"
        )
    if not config.segment.collections:
        raise ConfigError("no collection is named; add --collection ID")
    for warning in check_window(config.segment, clock.now_ns() if clock else time.time_ns()):
        _log.warning("%s", warning)
    with Runtime(config) as runtime:
        segment_clock = SegmentClock(clock or runtime.stop)
        with (
            closing(segment_api(config, network_of(config.segment, os.environ))) as segment,
            runtime.stop.interruptible(),
        ):
            follow_segment(segment_clock, segment)
        now_ns = segment_clock.now_ns()
        if not segment_clock.is_plausible:
            shown = f"this machine's clock shows {time_text(now_ns)}"
            raise ConfigError(f"Segment did not report the time, and {shown}; set the clock")
        over_ns = hour_of(now_ns) * HOUR_NS
        until_ns = min(over_ns, until.ns(now_ns)) if until else over_ns
        since_ns = since.ns(now_ns)
        first = max(hour_of(since_ns), hour_of(now_ns - RETENTION_NS) + 1)
        hours = range(first, -(-until_ns // HOUR_NS))
        if not hours:
            raise ConfigError("Segment has no complete hour between --since and --until; change them")
        folder = runtime.stack.enter_context(StateFolder(config.state_dir))
        ledger = open_ledger(folder)
        runtime.stack.callback(ledger.close)
        wanted = len(hours) * len(config.segment.collections)
        left = ledger.quota(config.segment.requests_per_day).mended(now_ns).left(now_ns, with_reserve=True)
        if wanted > left:
            needed = f"{counted(wanted, 'hour')} need one request each, but the quota has {left} left"
            raise ConfigError(f"{needed}; shorten the window with --since and --until")
        for collection in config.segment.collections:
            ledger.want(collection, hours)
    _log.info("reading %s again, with one request each", counted(wanted, "hour"))
    return poll(config, once=True, clock=clock, only_wanted=True)
