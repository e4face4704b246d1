"""Replays of what a polling run remembers: its quarantine, or whole hours."""

import logging
import os
import signal
import time
from contextlib import ExitStack, closing
from copy import copy
from typing import Any

from faillog_otel.app.build import USER_AGENT, delivering, sending_client, token_source, writing
from faillog_otel.app.run_sidecar import poll
from faillog_otel.app.signals import Shutdown
from faillog_otel.app.summary import (
    RunResult,
    exit_code,
    records,
    say_what_was_met,
    summary,
    warn_not_judged,
    warn_time_shifted,
)
from faillog_otel.clock import HOUR_NS, RETENTION_NS, Clock, SegmentClock, hour_of, time_text
from faillog_otel.config import Moment, RunConfig
from faillog_otel.errors import ConfigError, LedgerBroken
from faillog_otel.inputs.files import ByteRange
from faillog_otel.ledger.ledger import Ledger
from faillog_otel.ledger.planner_state import quota_of
from faillog_otel.ledger.queries import kept_by_reason
from faillog_otel.ledger.sinks import QuarantineBook, ShownQuarantine, forget_digests
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.pipeline.segment_time import follow_segment
from faillog_otel.segment.api import TIMEOUT_SECONDS, SegmentApi
from faillog_otel.segment.http_client import network_of, timeout_within
from faillog_otel.setting_values import check_window

_log = logging.getLogger(__name__)


def replay_quarantine(config: RunConfig, *, sends_rejected: bool) -> dict[str, Any]:
    """Sends the records in the state folder's quarantine again; returns the summary."""
    started = time.monotonic()
    with ExitStack() as stack:
        shutdown = stack.enter_context(Shutdown())
        client = None if config.delivery.writes else sending_client(config)
        folder = stack.enter_context(_existing(config.state_dir))
        ledger = Ledger(folder)
        stack.callback(ledger.close)
        shows_only = config.delivery.writes is not None
        if shows_only:
            _log.warning("the quarantine is only shown, and stays as it is; replay it to a collector")
        kind = ShownQuarantine if shows_only else QuarantineBook
        book = kind(ledger, shutdown.now_ns(), config.segment.collections)
        entries = stack.enter_context(book.file)
        _log.info("%s in quarantine", records(len(book)))
        delivery = delivering(client or writing(config, shutdown, stack), config, shutdown, stack)
        forwarder = Forwarder(
            encoder=WireEncoder(config.mapping),
            delivery=delivery,
            config=config.delivery,
            is_stopping=shutdown.is_requested,
            sends_rejected=sends_rejected,
        )
        broken: LedgerBroken | None = None
        try:
            size = os.fstat(entries.fileno()).st_size
            whole = ByteRange(entries.fileno(), "quarantine", 0, size)
            forwarder.forward(whole, book, lambda _: None)
            forwarder.finish()
        except LedgerBroken as error:
            broken = error
        broken = broken or forwarder.broken
        if broken:
            _log.error("%s", broken)
        if shutdown.requested == signal.SIGPIPE:
            pass
        elif left := sum(kept_by_reason(ledger.database).values()):
            _log.warning("%s in quarantine still: in %s", records(left), folder.path)
        warn_time_shifted(forwarder.counts, config)
        warn_not_judged(forwarder.counts, config)
        ending = RunResult(
            counts=forwarder.counts,
            fail_on=config.fail_on,
            ledger_broken=broken is not None,
            signal=shutdown.requested,
        )
        say_what_was_met(ending, forwarder.first_met, config)
        code = exit_code(ending)
        counts = copy(forwarder.counts)
        if shows_only:  # it is in the quarantine still
            counts.quarantined += counts.exported
            counts.exported = 0
    return summary(counts, delivery.sent, time.monotonic() - started, code)


def _existing(path: str) -> StateFolder:
    """The folder of a ledger. Raises ConfigError where there is none: nothing was kept there."""
    folder = StateFolder(path)
    if not folder.ledger.exists():
        raise ConfigError(f"{path}: holds no ledger: has `run` polled with this --state-dir?")
    return folder


def replay_hours(
    config: RunConfig, since: Moment, until: Moment | None, clock: Clock | None
) -> dict[str, Any]:
    """Reads whole hours of the collections again, and sends all of their records: the same ids.

    Each costs one request. Hours that Segment has no more cannot be read. Raises ConfigError.
    """
    if config.delivery.writes:
        raise ConfigError(
            f"--protocol {config.delivery.writes} only shows records, and hours are read again to be sent;"
            " to look at hours: run --once --since ... --until ... with an empty --state-dir"
        )
    if not config.segment.collections:
        raise ConfigError("name the collection whose hours are meant: --collection ID")
    for warning in check_window(config.segment, clock.now_ns() if clock else time.time_ns()):
        _log.warning("%s", warning)
    with ExitStack() as stack:
        shutdown = stack.enter_context(Shutdown())
        segment_clock = SegmentClock(clock or shutdown)
        token = token_source(config.segment)
        token()
        network = network_of(config.segment, os.environ)
        timeout_seconds = timeout_within(config.delivery.wait_seconds, TIMEOUT_SECONDS)
        segment = SegmentApi(
            config.segment.url, token, USER_AGENT, timeout_seconds=timeout_seconds, network=network
        )
        with closing(segment), shutdown.interruptible():
            follow_segment(segment_clock, segment)
        now_ns = segment_clock.now_ns()
        if not segment_clock.is_plausible:
            shown = f"this machine's clock shows {time_text(now_ns)}"
            raise ConfigError(f"Segment did not say the time, and {shown}; set the clock")
        over_ns = hour_of(now_ns) * HOUR_NS
        until_ns = min(over_ns, until.ns(now_ns)) if until else over_ns
        since_ns = since.ns(now_ns)
        first = max(hour_of(since_ns), hour_of(now_ns - RETENTION_NS) + 1)
        hours = range(first, -(-until_ns // HOUR_NS))
        if not hours:
            raise ConfigError("--since and --until leave no hour that Segment still has")
        folder = stack.enter_context(StateFolder(config.state_dir))
        ledger = Ledger(folder)
        stack.callback(ledger.close)
        wanted = len(hours) * len(config.segment.collections)
        left = (
            quota_of(ledger.database, config.segment.requests_per_day)
            .mended(now_ns)
            .left(now_ns, with_reserve=True)
        )
        if wanted > left:
            raise ConfigError(f"asks for {records(wanted, 'hour')}, and {left} of today's requests are left")
        for collection in config.segment.collections:
            ledger.want(collection, hours)
            for hour in hours:
                forget_digests(folder.digests, collection, hour)
    _log.info("%s: as many requests of the day's quota", records(wanted, "hour"))
    return poll(config, once=True, clock=clock, only_wanted=True)
