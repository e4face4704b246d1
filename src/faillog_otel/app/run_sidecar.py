"""Builds the parts of a polling run, runs them, and says how it ended."""

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from functools import partial
from typing import Any

from msgspec import Struct

from faillog_otel.app.build import (
    USER_AGENT,
    delivering,
    descriptors,
    heartbeat_of,
    sending_client,
    serve_health,
    telemetry_of,
    token_source,
    watch_delivery,
    writing,
)
from faillog_otel.app.progress import NoProgressLine, progress_line
from faillog_otel.app.readiness import InstrumentedClient, Readiness
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
from faillog_otel.clock import HOUR_NS, Clock, SegmentClock, hour_of, hour_text, time_text
from faillog_otel.config import RunConfig, Secret, SegmentConfig
from faillog_otel.errors import ConfigError, LedgerBroken, NoRoom
from faillog_otel.ledger.ledger import Ledger
from faillog_otel.ledger.maintenance import recover
from faillog_otel.ledger.planner_state import SINCE, note_polled, schedule_of
from faillog_otel.ledger.queries import fact_ns, pending_lines, pending_records
from faillog_otel.ledger.results import Counts
from faillog_otel.ledger.sinks import clean_digests
from faillog_otel.ledger.spool import Spool
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.pipeline.fetcher import Fetcher
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.pipeline.segment_time import AGREED
from faillog_otel.pipeline.sidecar import RoomWait, Sidecar, what_to_do
from faillog_otel.reports.hours import HourlyReport, Judged, Judging
from faillog_otel.segment.api import TIMEOUT_SECONDS, SegmentApi
from faillog_otel.segment.download import Downloader, Limits
from faillog_otel.segment.http_client import Network, network_of, timeout_within
from faillog_otel.segment.schedule import ScheduleConfig
from faillog_otel.setting_values import check_window
from faillog_otel.telemetry.api import NO_TELEMETRY
from faillog_otel.telemetry.output import announce
from faillog_otel.text import printable

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
    shows_only = config.delivery.writes is not None
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
        wait_seconds = config.delivery.wait_seconds if once else math.inf
        room = RoomWait(wait_seconds, shutdown.monotonic)
        ledger = room.retry(lambda: Ledger(folder), shutdown.wait)
        stack.callback(ledger.close)
        spool = Spool(folder.spool)
        segment_clock = SegmentClock(clock or shutdown, fact_ns(ledger.database, AGREED) or 0)
        if not only_wanted:
            room.retry(lambda: _check_window(config, ledger, segment_clock), shutdown.wait)
        room.retry(lambda: recover(ledger), shutdown.wait)
        judging = room.retry(lambda: Judging(ledger.database, config.segment, segment_clock), shutdown.wait)
        spool.clean(ledger.in_spool())
        clean_digests(folder.digests, ledger.open_hours())
        telemetry = telemetry_of(config, stack)
        heartbeat = heartbeat_of(config.health, shutdown.monotonic)
        segment, downloader = _segment_clients(config, token, network)
        line = progress_line(config, shutdown.monotonic, stack)
        fetcher = Fetcher(
            ledger=ledger,
            spool=spool,
            segment=segment,
            downloader=downloader,
            schedule=partial(schedule_at, ledger, config.segment, once=once, only_wanted=only_wanted),
            clock=segment_clock,
            is_stopping=heartbeat.asking("fetching", shutdown.is_requested),
            max_content_bytes=config.max_content_bytes,
            requests_per_day=config.segment.requests_per_day,
            max_requests=config.segment.max_requests,
            to_download=line.to_download,
            wait_seconds=wait_seconds,
        )
        standing = Readiness(
            ledger.database, lambda: fetcher.schedule, segment_clock, config.segment.requests_per_day
        )
        answers = InstrumentedClient(client or writing(config, shutdown, stack), telemetry, shutdown)
        delivery = delivering(answers, config, shutdown, stack, heartbeat=heartbeat)
        watch_delivery(telemetry, delivery)
        for gauge in standing.gauges():
            telemetry.watch(gauge)
        serve_health(config.health, heartbeat, answers, standing, stack)
        forwarder = Forwarder(
            encoder=WireEncoder(config.mapping),
            delivery=delivery,
            config=config.delivery,
            is_stopping=heartbeat.asking("forwarding", shutdown.is_requested),
            max_content_bytes=config.max_content_bytes,
            telemetry=NO_TELEMETRY if shows_only else telemetry,
        )
        hourly = HourlyReport(
            database=ledger.database,
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
            interruptible=shutdown.interruptible,
            is_stopping=shutdown.is_requested,
            is_over=lambda: bool(delivery.over),
            end_sending=delivery.end,
            once=once,
            progress=line.forwarding,
            hourly=hourly,
            heartbeat=heartbeat,
            shows_only=shows_only,
            wait_seconds=wait_seconds,
            monotonic=shutdown.monotonic,
        )
        _say_that_it_polls(config, line, once=once)
        sidecar.run()
        hourly.say()
        now_ns = segment_clock.now_ns()
        asked = config.segment if only_wanted else None
        ended = _ended(sidecar, fetcher, forwarder, judging, standing, now_ns=now_ns, once=once, asked=asked)
        _say_how_it_ended(ended, forwarder, delivery.over, shutdown, config)
        ending = RunResult(
            counts=forwarder.counts if shows_only else ended.counts,
            fail_on=config.fail_on,
            ledger_broken=bool(ended.broken) or sidecar.has_unaccounted,
            segment_refused=bool(ended.refused),
            judged_hours=ended.hours.judged if ended.hours else None,
            signal=shutdown.requested,
        )
        say_what_was_met(ending, forwarder.first_met, config)
        code = exit_code(ending)
    return summary(ended.counts, delivery.sent, time.monotonic() - started, code, hours=ended.hours)


def _check_window(config: RunConfig, ledger: Ledger, clock: Clock) -> None:
    """Says what is odd about the window, and remembers what is asked for, unless the run only shows.

    Raises ConfigError, NoRoom, LedgerBroken.
    """
    for warning in check_window(config.segment, clock.now_ns(), fact_ns(ledger.database, SINCE)):
        _log.warning("%s", warning)
    if config.delivery.writes is None:
        note_polled(ledger, config.segment)


def _say_that_it_polls(config: RunConfig, line: NoProgressLine, *, once: bool) -> None:
    polled = records(len(config.segment.collections), "collection")
    _log.info("polling %s; state folder %s", polled, config.state_dir)
    if not once and config.verbosity == 0:
        line.write(printable(f"polling {polled}; state folder {config.state_dir}; SIGINT ends it") + "\n")


def _segment_clients(
    config: RunConfig, token: Callable[[], Secret], network: Network
) -> tuple[SegmentApi, Downloader]:
    """The clients of Segment's API and of its downloads. One exchange lasts no longer than `--wait`."""
    wait_seconds = config.delivery.wait_seconds
    api = SegmentApi(
        config.segment.url,
        token,
        USER_AGENT,
        timeout_seconds=timeout_within(wait_seconds, TIMEOUT_SECONDS),
        network=network,
    )
    limits = Limits(stall_seconds=timeout_within(wait_seconds, Limits().stall_seconds))
    return api, Downloader(config.segment.download_hosts, USER_AGENT, limits, network)


class _Ended(Struct, frozen=True, kw_only=True):
    """What a polling run came to, besides the counts of its forwarder."""

    counts: Counts
    """With what lies in the spool as pending."""
    hours: Judged | None
    """None if the ledger cannot be read."""
    left: str
    """The hours that are due and were not read, for people; empty if there are none."""
    refused: str
    """Why hours that were due were not read; empty where all were."""
    is_refusal_said: bool
    broken: str


def _ended(
    sidecar: Sidecar,
    fetcher: Fetcher,
    forwarder: Forwarder,
    judging: Judging,
    standing: Readiness,
    *,
    now_ns: int,
    once: bool,
    asked: SegmentConfig | None,
) -> _Ended:
    """Reads from the ledger how the run ended; if the ledger cannot be read, that is said.

    `asked`: the window that the run is about; None: all that is due.
    """
    broken = str(sidecar.broken or "")
    if not broken and sidecar.unfetched is not None:
        broken = what_to_do(sidecar.unfetched)
    counts, hours, left, refused = copy(forwarder.counts), None, "", ""
    if sidecar.shows_only:
        counts = Counts(
            events=counts.events,
            bytes_in=counts.bytes_in,
            discarded=counts.discarded,
            failures=counts.failures,
            unknown_version=counts.unknown_version,
        )
    try:
        pending = pending_records(judging.database)
        counts.records += pending - counts.pending
        counts.pending = pending
        counts.lines += pending_lines(judging.database)
        hours = judging.judge(sidecar.shown)
        left = _hours_text(standing.unread())
        if not sidecar.broken:
            refused = _refusal(fetcher, now_ns, asked) if once or fetcher.is_denied else ""
    except NoRoom as error:
        broken = broken or what_to_do(error)
    except LedgerBroken as error:
        broken = broken or str(error)
    return _Ended(
        counts=counts,
        hours=hours,
        left=left,
        refused=refused,
        is_refusal_said=bool(fetcher.troubles),
        broken=broken,
    )


def _hours_text(hours: Mapping[str, Sequence[int]]) -> str:
    """`shop: 3 (2025-05-07T20:00:00Z to 2025-05-07T22:00:00Z)`; empty if there are no hours."""
    return ", ".join(
        f"{name}: {len(each)} ({hour_text(each[0])} to {hour_text(each[-1])})"
        for name, each in hours.items()
        if each
    )


def _say_what_is_ignored(config: RunConfig) -> None:
    if config.workers is not None and config.workers > 1:
        _log.warning("--workers %d: is for PATHs; polling uses one process", config.workers)
    if (limit := descriptors()) < MIN_DESCRIPTORS:
        do = f"raise the limit to {MIN_DESCRIPTORS} or more (ulimit -n)"
        _log.warning(
            "only %d files and connections may be open at a time, which may be too few; %s", limit, do
        )
    if config.delivery.writes:
        _log.warning(
            "--protocol %s only shows what was not forwarded yet: it stays in %s for a run to a collector",
            config.delivery.writes,
            config.state_dir,
        )


def _say_how_it_ended(
    ended: _Ended, forwarder: Forwarder, over: str, shutdown: Shutdown, config: RunConfig
) -> None:
    counts, folder = forwarder.counts, config.state_dir
    if shutdown.requested == signal.SIGPIPE:
        return
    for problem in filter(None, (ended.broken, "" if ended.is_refusal_said else ended.refused)):
        _log.error("%s", problem)
    if config.delivery.writes:
        if over:
            _log.error("not all was shown: %s", over)
        if number := ended.counts.pending:
            wait = f"{records(number)} in {folder} {'waits' if number == 1 else 'wait'}"
            _log.warning("nothing was forwarded: %s for a run to a collector", wait)
    elif ended.counts.pending:
        why = f" ({over})" if over else ""
        _log.error("%s not delivered%s: in %s", records(ended.counts.pending), why, folder)
    if ended.hours is None:
        _log.error("%s: how many records are pending is not known", folder)
    if ended.left and (shutdown.is_requested() or ended.broken):
        _log.warning("the run ended early: hours that are due and were not read: %s", ended.left)
    if kept := counts.quarantined + counts.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in forwarder.reasons.most_common())
        what = f"{records(kept)} not understood or not taken ({reasons})"
        _log.warning("%s: %s", what, "only shown" if config.delivery.writes else f"in {folder}")
    warn_time_shifted(counts, config)
    warn_not_judged(counts, config)


def schedule_at(
    ledger: Ledger, config: SegmentConfig, now_ns: int, *, once: bool, only_wanted: bool = False
) -> ScheduleConfig:
    """What is asked for. What an earlier run wanted stays wanted: a restart must not lose hours."""
    if only_wanted:
        return ScheduleConfig(config.collections, since_ns=now_ns, once=True)
    return schedule_of(ledger.database, config, now_ns, once=once)


def _refusal(fetcher: Fetcher, now_ns: int, asked: SegmentConfig | None) -> str:
    """What was due and was not read, why, and when to run again; empty where all was."""
    if refusals := fetcher.refusals:
        return "; ".join(refusals)
    if why := fetcher.why_unasked:
        if fetcher.plan is None:
            return f"no hour could be listed: {why}"
        if due := fetcher.hours_due:
            return f"{records(due, 'hour')} due could not be listed: {why}; run again later"
    problems = []
    if fetcher.lost:
        problems.append(f"{records(fetcher.lost, 'object')} left Segment's 28 days, never downloaded")
    if failed := fetcher.unread:
        why = f": {fetcher.last_failure}" if fetcher.last_failure else ""
        problems.append(f"{records(failed, 'hour')} due could not be read{why}; run again later")
    if missing := [each for each in fetcher.missing() if not asked or _covers(asked, each.hour, now_ns)]:
        first = min(missing, key=lambda each: each.next_ns)
        why = first.why if len(missing) == 1 else f"see `status`; the one that is tried next: {first.why}"
        again = time_text(max(first.next_ns, now_ns))
        problems.append(
            f"{records(len(missing), 'object')} could not be downloaded: {why}; run again at {again}"
        )
    if wait := fetcher.wait(now_ns):
        again = f"run again at {time_text(wait.until_ns)}" if wait.until_ns > now_ns else "run again"
        problems.append(f"{records(fetcher.hours_due, 'hour')} due are left: {wait.why}; {again}")
    return "; ".join(problems)


def _covers(config: SegmentConfig, hour: int, now_ns: int) -> bool:
    """Whether an hour is between `--since` and `--until`."""
    until_ns = config.until.ns(now_ns) if config.until else now_ns
    return hour_of(config.since.ns(now_ns)) <= hour < -(-until_ns // HOUR_NS)
