"""Builds the parts of a polling run, runs them, and says how it ended."""

import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from faillog_otel.app.answers import Answers
from faillog_otel.app.fetcher import Fetcher
from faillog_otel.app.forwarder import Forwarder
from faillog_otel.app.hourly import HourlyReport
from faillog_otel.app.ledger_view import SINCE, note_polled, wanted_since_ns
from faillog_otel.app.segment_time import AGREED
from faillog_otel.app.sidecar import Sidecar
from faillog_otel.app.standing import Standing
from faillog_otel.cli.delivering import USER_AGENT, delivering, sending_client, writing
from faillog_otel.cli.observing import pulse_of, serve_health, telemetry_of, watch_delivery
from faillog_otel.cli.progress import progress_line
from faillog_otel.cli.report import Ending, exit_code, records, say_what_was_shifted, summary
from faillog_otel.cli.shutdown import Shutdown
from faillog_otel.cli.working import descriptors
from faillog_otel.clock import Clock, SegmentClock
from faillog_otel.config import RunConfig, Secret, SegmentConfig, token_problem
from faillog_otel.errors import ConfigError
from faillog_otel.events.printable import printable
from faillog_otel.files import read_small_text
from faillog_otel.ledger.folder import StateFolder
from faillog_otel.ledger.ledger import Ledger
from faillog_otel.ledger.objects import clean_digests
from faillog_otel.ledger.spool import Spool
from faillog_otel.ledger.upkeep import recover
from faillog_otel.ledger.views import fact_ns, pending_records
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.segment.api import TIMEOUT_SECONDS, SegmentApi
from faillog_otel.segment.download import Downloader, Limits
from faillog_otel.segment.network import network_of, timeout_within
from faillog_otel.segment.schedule import ScheduleConfig
from faillog_otel.segment.window import check_window
from faillog_otel.telemetry.logs import announce

_log = logging.getLogger(__name__)

MIN_DESCRIPTORS = 64
"""Polling takes up to 30 by itself, and the health server up to a quarter of what is allowed."""


def poll(
    config: RunConfig, *, once: bool, clock: Clock | None = None, only_wanted: bool = False
) -> dict[str, Any]:
    """Polls Segment and forwards; returns the summary. Raises ConfigError, LedgerBroken.

    `clock` is the machine's, which Segment's Date corrects; to wait for a collector is always the system's
    business. `only_wanted`: nothing but the hours that a person asked for.
    """
    started = time.monotonic()
    if not config.segment.collections:
        raise ConfigError("name a PATH, or a collection to poll: --collection ID or FAILLOG_COLLECTIONS")
    token = token_source(config.segment)
    token()
    network = network_of(config.segment, os.environ)
    _say_what_is_ignored(config)
    with ExitStack() as stack:
        shutdown = stack.enter_context(Shutdown())
        client = None if config.delivery.writes else sending_client(config)
        folder = stack.enter_context(StateFolder(config.state_dir))
        ledger = Ledger(folder)
        stack.callback(ledger.close)
        spool = Spool(folder.spool)
        segment_clock = SegmentClock(clock or shutdown, fact_ns(ledger.database, AGREED) or 0)
        if not only_wanted:
            noted_ns = fact_ns(ledger.database, SINCE)
            for warning in check_window(config.segment, segment_clock.now_ns(), noted_ns):
                _log.warning("%s", warning)
            note_polled(ledger, config.segment)
        recover(ledger)
        spool.clean(ledger.in_spool())
        clean_digests(folder.digests, ledger.open_hours())
        telemetry = telemetry_of(config, stack)
        pulse = pulse_of(config.health, shutdown.monotonic)
        wait_seconds = config.delivery.wait_seconds
        segment = SegmentApi(
            config.segment.url,
            token,
            USER_AGENT,
            timeout_seconds=timeout_within(wait_seconds, TIMEOUT_SECONDS),
            network=network,
        )
        limits = Limits(stall_seconds=timeout_within(wait_seconds, Limits().stall_seconds))
        downloader = Downloader(config.segment.download_hosts, USER_AGENT, limits, network)
        line = progress_line(config, shutdown.monotonic, stack)
        fetcher = Fetcher(
            ledger=ledger,
            spool=spool,
            segment=segment,
            downloader=downloader,
            schedule=partial(schedule_at, ledger, config.segment, once=once, only_wanted=only_wanted),
            clock=segment_clock,
            is_stopping=pulse.asking("fetching", shutdown.is_requested),
            most_content_bytes=config.most_content_bytes,
            to_download=line.to_download,
            wait_seconds=wait_seconds if once else math.inf,
        )
        standing = Standing(ledger.database, lambda: fetcher.schedule, segment_clock)
        answers = Answers(client or writing(config, stack, adds=True), telemetry, shutdown)
        delivery = delivering(answers, config, shutdown, stack, pulse=pulse)
        watch_delivery(telemetry, delivery)
        for gauge in standing.gauges():
            telemetry.watch(gauge)
        serve_health(config.health, pulse, answers, standing, stack)
        forwarder = Forwarder(
            encoder=WireEncoder(config.mapping),
            delivery=delivery,
            config=config.delivery,
            is_stopping=pulse.asking("forwarding", shutdown.is_requested),
            most_content_bytes=config.most_content_bytes,
            telemetry=telemetry,
        )
        hourly = HourlyReport(
            database=ledger.database,
            counts=forwarder.counts,
            sent=lambda: delivery.sent,
            schedule=lambda: fetcher.schedule,
            clock=segment_clock,
            say=partial(announce, _log),
        )
        sidecar = Sidecar(
            ledger=ledger,
            spool=spool,
            fetcher=fetcher,
            forwarder=forwarder,
            clock=segment_clock,
            interruptible=shutdown.interruptible,
            is_stopping=shutdown.is_requested,
            is_over=lambda: bool(delivery.over),
            end_sending=delivery.end,
            once=once,
            progress=line.forwarding,
            hourly=hourly,
            pulse=pulse,
        )
        polled = records(len(config.segment.collections), "collection")
        _log.info("polling %s; state folder %s", polled, folder.path)
        if not once and config.verbosity == 0:
            line.write(printable(f"polling {polled}; state folder {folder.path}; SIGINT ends it") + "\n")
        sidecar.run()
        hourly.say()
        counts, refused = forwarder.counts, ""
        if sidecar.broken is None:
            counts.pending = pending_records(ledger.database)
            counts.records += counts.pending
            refused = _refusal(fetcher) if once or fetcher.is_denied else ""
        _say_how_it_ended(
            forwarder,
            str(sidecar.broken or ""),
            "" if fetcher.troubles else refused,
            delivery.over,
            config,
        )
        ending = Ending(
            counts=counts,
            fail_on=config.fail_on,
            ledger_broken=sidecar.broken is not None or sidecar.has_unaccounted,
            segment_refused=bool(refused),
            signal=shutdown.requested,
        )
    return summary(counts, delivery.sent, time.monotonic() - started, exit_code(ending))


def _say_what_is_ignored(config: RunConfig) -> None:
    if config.workers is not None and config.workers > 1:
        _log.warning("--workers %d: is for PATHs; polling uses one process", config.workers)
    if (limit := descriptors()) < MIN_DESCRIPTORS:
        do = f"raise the limit to {MIN_DESCRIPTORS} or more (ulimit -n)"
        _log.warning(
            "only %d files and connections may be open at a time, which may be too few; %s", limit, do
        )


def _say_how_it_ended(forwarder: Forwarder, broken: str, refused: str, over: str, config: RunConfig) -> None:
    counts, folder = forwarder.counts, config.state_dir
    for problem in filter(None, (broken, refused)):
        _log.error("%s", problem)
    if counts.pending:
        why = f" ({over})" if over else ""
        _log.error("%s not delivered%s: in %s", records(counts.pending), why, folder)
    if kept := counts.quarantined + counts.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in forwarder.reasons.most_common())
        _log.warning("%s not understood or not taken (%s): in %s", records(kept), reasons, folder)
    say_what_was_shifted(counts, config)


def token_source(config: SegmentConfig) -> Callable[[], Secret]:
    """Gives the token for each request; a file is read anew. Raises ConfigError where there is none."""

    def read() -> Secret:
        if config.token is not None:
            return config.token
        if config.token_file is None:
            raise ConfigError("no token: set SEGMENT_TOKEN or SEGMENT_TOKEN_FILE")
        try:
            text = read_small_text(config.token_file).strip()
        except ConfigError as error:
            raise ConfigError(f"SEGMENT_TOKEN_FILE: {error}") from None
        if not text:
            raise ConfigError(f"SEGMENT_TOKEN_FILE: {config.token_file}: is empty; write the token into it")
        if problem := token_problem(text):
            raise ConfigError(f"SEGMENT_TOKEN_FILE: {config.token_file}: the token {problem}")
        return Secret(text)

    return read


def schedule_at(
    ledger: Ledger, config: SegmentConfig, now_ns: int, *, once: bool, only_wanted: bool = False
) -> ScheduleConfig:
    """What is asked for. What an earlier run wanted stays wanted: a restart must not lose hours."""
    if only_wanted:
        return ScheduleConfig(config.collections, since_ns=now_ns, once=True)
    since_ns = wanted_since_ns(ledger.database, config.since.ns(now_ns))
    return ScheduleConfig(
        collections=config.collections,
        since_ns=since_ns,
        until_ns=config.until.ns(now_ns) if config.until else None,
        once=once,
    )


def _refusal(fetcher: Fetcher) -> str:
    """Why hours that were due were not read; empty where all were."""
    if fetcher.troubles:
        return "; ".join(fetcher.troubles.values())
    if why := fetcher.why_unasked:
        if fetcher.plan is None:
            return f"no hour could be listed: {why}"
        due = len(fetcher.plan.asks) + sum(fetcher.plan.waiting.values())
        return f"{records(due, 'hour')} due could not be listed: {why}; run again later" if due else ""
    if failed := fetcher.unread:
        why = f": {fetcher.last_failure}" if fetcher.last_failure else ""
        return f"{records(failed, 'hour')} due could not be read{why}; run again later"
    if fetcher.plan and (waiting := sum(fetcher.plan.waiting.values())):
        left = records(fetcher.plan.left, "request")
        kept = " (kept for people, and for what others use of the quota)" if fetcher.plan.left else ""
        return f"{records(waiting, 'hour')} due, and {left} left{kept}: run again later"
    return ""
