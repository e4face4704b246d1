"""Polling runs, once or as a sidecar: their composition, and what they report at their end."""

import logging
import math
import os
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial

from msgspec import Struct

from faillog_otel.app.build import USER_AGENT, Runtime, descriptors
from faillog_otel.app.progress import NoProgressLine
from faillog_otel.app.readiness import Readiness, failure_gauges
from faillog_otel.app.readings import readings_of
from faillog_otel.app.summary import RunResult, log_result, reasons_text
from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, Clock, SegmentClock, hour_of, hour_text, time_text
from faillog_otel.config import RunConfig, SegmentConfig
from faillog_otel.errors import ConfigError, LedgerBroken, NoRoom
from faillog_otel.ledger import Ledger
from faillog_otel.ledger.facts import SINCE, check_window, claim, note_polled, schedule_of
from faillog_otel.ledger.ledger import open_ledger
from faillog_otel.ledger.results import Counts
from faillog_otel.ledger.spool import Spool
from faillog_otel.ledger.state_dir import RoomWait, StateFolder, with_remedy
from faillog_otel.otlp.delivery import Delivery
from faillog_otel.otlp.failure_notes import NO_NOTES, MessageNotes
from faillog_otel.pipeline.fetcher import Fetcher
from faillog_otel.pipeline.forwarder import Forwarder
from faillog_otel.pipeline.names import ObjectNames, UnknownIds
from faillog_otel.pipeline.segment_time import AGREED
from faillog_otel.pipeline.sidecar import Sidecar
from faillog_otel.reports.failures import Failures
from faillog_otel.reports.hours import HourlyReport, Judged, Judging
from faillog_otel.reports.recent import failures_of_run
from faillog_otel.segment.api import TIMEOUT_SECONDS, SegmentApi, token_source
from faillog_otel.segment.download import Downloader, Limits
from faillog_otel.segment.hours import ScheduleConfig
from faillog_otel.segment.http_client import Network, network_of, timeout_within
from faillog_otel.telemetry import NO_TELEMETRY
from faillog_otel.telemetry.output import announce
from faillog_otel.text import counted, printable

_log = logging.getLogger(__name__)

MINUTE_NS = 60 * SECOND_NS
MIN_DESCRIPTORS = 64
"""Polling needs up to 30, and the health server up to a quarter of the limit."""


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


def poll(
    config: RunConfig, *, once: bool, clock: Clock | None = None, only_wanted: bool = False
) -> RunResult:
    """Polls Segment and forwards. Raises ConfigError, LedgerBroken.

    `clock` is this machine's clock, which Segment's Date header corrects; waits for the collector always use
    the system's. `only_wanted`: poll only the hours that a replay asked for.
    """
    started = time.monotonic()
    if not config.segment.collections:
        raise ConfigError(
            "nothing to do; name a PATH, or a collection with --collection ID or FAILLOG_COLLECTIONS"
        )
    token_source(config.segment)()  # a token that cannot be used ends the run before anything is opened
    _log_ignored(config)
    with Runtime(config) as runtime:
        runtime.prepare_client()
        polling = _build(runtime, once=once, clock=clock, only_wanted=only_wanted)
        _log_start(config, runtime.progress, once=once)
        polling.sidecar.run()
        polling.hourly.say()
        ended = _ended(polling, config, once=once, only_wanted=only_wanted)
        _log_ending(ended, polling, runtime)
    forwarder = polling.forwarder
    result = RunResult(
        counts=forwarder.counts if polling.sidecar.shows_only else ended.counts,
        reported=ended.counts,
        sent=polling.delivery.sent,
        seconds=time.monotonic() - started,
        hours=ended.hours,
        fail_on=config.fail_on,
        limits=config.failure_limits,
        first_met=forwarder.first_met,
        failures=ended.failures,
        ledger_broken=bool(ended.broken) or polling.sidecar.has_unaccounted,
        segment_refused=bool(ended.refused),
        signal=runtime.stop.requested,
    )
    log_result(result, config)
    return result


def _build(runtime: Runtime, *, once: bool, clock: Clock | None, only_wanted: bool) -> Polling:
    """Opens the state folder and builds the parts. Raises ConfigError, NoRoom, LedgerBroken."""
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
    read_names = {number: each.shown for number, each in ledger.names().items() if each.shown}
    runtime.start_telemetry(read_names)
    runtime.start_heartbeat()
    segment, downloader = _segment_clients(config)
    runtime.start_progress()
    unknown = UnknownIds()
    is_stopping = runtime.heartbeat.beat_on_call("fetching", stop.is_requested)
    readings = readings_of(
        config,
        ledger=ledger,
        segment=segment,
        clock=segment_clock,
        unknown=unknown,
        is_stopping=is_stopping,
        telemetry=runtime.telemetry,
    )
    fetcher = Fetcher(
        ledger=ledger,
        spool=spool,
        segment=segment,
        downloader=downloader,
        schedule=partial(_schedule_at, ledger, config.segment, once=once, only_wanted=only_wanted),
        clock=segment_clock,
        is_stopping=is_stopping,
        max_content_bytes=config.max_content_bytes,
        requests_per_day=config.segment.requests_per_day,
        max_requests=config.segment.max_requests,
        to_download=runtime.progress.to_download,
        wait_seconds=wait_seconds,
        readings=readings,
    )
    readiness = Readiness(ledger, lambda: fetcher.schedule, segment_clock, config.segment.requests_per_day)
    delivery = runtime.deliver()
    pending = failure_gauges(lambda: ledger.pending_messages(segment_clock.now_ns()))
    for gauge in (*readiness.gauges(config.segment), *pending):
        runtime.telemetry.observe(gauge)
    runtime.serve_health(readiness, segment_clock.now_ns)
    forwarder = runtime.forwarder(
        delivery,
        NO_TELEMETRY if shows_only else runtime.telemetry,
        notes=NO_NOTES if shows_only else MessageNotes(config.mapping),
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
        telemetry=runtime.telemetry,
        shows_only=shows_only,
        wait_seconds=wait_seconds,
        monotonic=stop.monotonic,
        names=ObjectNames(ledger, unknown, read_names) if config.segment.names else None,
    )
    return Polling(ledger, segment_clock, fetcher, forwarder, delivery, readiness, hourly, judging, sidecar)


def segment_api(config: RunConfig, network: Network) -> SegmentApi:
    """Returns the client of Segment's API; `--wait` bounds each request. Raises ConfigError."""
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
    downloader = Downloader(config.segment.download_hosts, USER_AGENT, limits, network)
    return segment_api(config, network), downloader


def _check_window(config: RunConfig, ledger: Ledger, clock: Clock) -> None:
    """Warns of an odd window; records it unless the run only shows records. Raises ConfigError, NoRoom."""
    for warning in check_window(config.segment, clock.now_ns(), ledger.fact_ns(SINCE)):
        _log.warning("%s", warning)
    claim(ledger, counts_only=config.delivery.counts_only)
    if config.delivery.writes is None:
        note_polled(ledger, config.segment)


def _schedule_at(
    ledger: Ledger, config: SegmentConfig, now_ns: int, *, once: bool, only_wanted: bool
) -> ScheduleConfig:
    """Returns the hours to read. Hours of an earlier run stay wanted: a restart must not lose them."""
    if only_wanted:
        return ScheduleConfig(config.collections, since_ns=now_ns, once=True)
    return schedule_of(ledger, config, now_ns, once=once)


def _log_start(config: RunConfig, line: NoProgressLine, *, once: bool) -> None:
    polled = counted(len(config.segment.collections), "collection")
    _log.info("polling %s; state folder %s", polled, config.state_dir)
    if not once and config.verbosity == 0:
        line.write(printable(f"polling {polled}; state folder {config.state_dir}; Ctrl-C stops it") + "\n")


class _Ended(Struct, frozen=True, kw_only=True):
    """The outcome of a polling run, besides the counts of its forwarder."""

    counts: Counts
    """Includes the records in the spool, as pending."""
    hours: Judged | None
    """None if the ledger cannot be read."""
    left: str
    """Text: the hours that are due and were not read; empty if there are none."""
    refused: str
    """Text: why hours that were due were not read; empty if all were."""
    is_refusal_said: bool
    broken: str
    failures: Failures | None
    """None if the ledger cannot be read, or the run only shows records."""


def _ended(polling: Polling, config: RunConfig, *, once: bool, only_wanted: bool) -> _Ended:
    """Returns the outcome of the run, from the ledger. Names a ledger that cannot be read."""
    sidecar, fetcher, now_ns = polling.sidecar, polling.fetcher, polling.clock.now_ns()
    broken = str(sidecar.broken or "")
    if not broken and sidecar.unfetched is not None:
        broken = with_remedy(sidecar.unfetched)
    counts, hours, left, refused, failures = copy(polling.forwarder.counts), None, "", "", None
    if sidecar.shows_only:
        counts = Counts(
            events=counts.events,
            bytes_in=counts.bytes_in,
            discarded=counts.discarded,
            failures=counts.failures,
            unknown_version=counts.unknown_version,
        )
    try:
        pending = polling.ledger.totals().pending
        counts.records += pending - counts.pending
        counts.pending = pending
        counts.lines += polling.ledger.pending_lines()
        hours = polling.judging.judge(sidecar.shown)
        left = _hours_text(polling.readiness.unread())
        if not sidecar.broken:
            asked = config.segment if only_wanted else None
            refused = _refusal(fetcher, now_ns, asked) if once or fetcher.is_denied else ""
        failures = None if sidecar.shows_only else failures_of_run(polling.ledger, config, now_ns)
    except NoRoom as error:
        broken = broken or with_remedy(error)
    except LedgerBroken as error:
        broken = broken or str(error)
    return _Ended(
        counts=counts,
        hours=hours,
        left=left,
        refused=refused,
        is_refusal_said=bool(fetcher.troubles),
        broken=broken,
        failures=failures,
    )


def _hours_text(hours: Mapping[str, Sequence[int]]) -> str:
    """`shop: 3 (2025-05-07T20:00:00Z to 2025-05-07T22:00:00Z)`; empty if there are no hours."""
    return ", ".join(
        f"{name}: {len(each)} ({hour_text(each[0])} to {hour_text(each[-1])})"
        for name, each in hours.items()
        if each
    )


def _log_ignored(config: RunConfig) -> None:
    if config.workers is not None and config.workers > 1:
        _log.warning("--workers %d is ignored: polling uses one process", config.workers)
    if (limit := descriptors()) < MIN_DESCRIPTORS:
        do = f"raise the limit to {MIN_DESCRIPTORS} or more (ulimit -n)"
        _log.warning(
            "only %d files and connections may be open at a time, which may be too few; %s", limit, do
        )
    if config.delivery.writes:
        _log.warning(
            "--protocol %s only shows records; they stay in %s until a run sends them to a collector",
            config.delivery.writes,
            config.state_dir,
        )


def _log_ending(ended: _Ended, polling: Polling, runtime: Runtime) -> None:
    config, stop, over = runtime.config, runtime.stop, polling.delivery.gave_up_because
    forwarder, counts, folder = polling.forwarder, polling.forwarder.counts, config.state_dir
    if stop.requested == signal.SIGPIPE:
        return
    for problem in filter(None, (ended.broken, "" if ended.is_refusal_said else ended.refused)):
        _log.error("%s", problem)
    if config.delivery.writes:
        if over:
            _log.error("some records were not shown: %s", over)
        if number := ended.counts.pending:
            stay = f"{counted(number, 'record')} {'stays' if number == 1 else 'stay'} in {folder}"
            _log.warning("nothing was sent: %s until a run sends to a collector", stay)
    elif ended.counts.pending:
        why = f" ({over})" if over else ""
        _log.error("%s not delivered%s; kept in %s", counted(ended.counts.pending, "record"), why, folder)
    if ended.hours is None:
        _log.error("%s: the number of pending records is unknown", folder)
    if ended.left and (stop.is_requested() or ended.broken):
        _log.warning("the run ended early; hours that are due and were not read: %s", ended.left)
    if kept := counts.quarantined + counts.rejected:
        replay = f"kept in {folder}; send again: faillog-otel replay --state-dir {shlex.quote(folder)}"
        where = "only shown" if config.delivery.writes else replay
        reasons = reasons_text(forwarder.reasons)
        _log.warning("%s quarantined (%s); %s", counted(kept, "record"), reasons, where)


def _refusal(fetcher: Fetcher, now_ns: int, asked: SegmentConfig | None) -> str:
    """Returns what was due and was not read, why, and when to run again; empty if all was read.

    `asked`: the window of a replay; None: all that is due.
    """
    if refusals := fetcher.refusals:
        return "; ".join(refusals)
    if why := fetcher.why_time_unknown:
        if fetcher.plan is None:
            return f"no hour could be listed: {why}"
        if due := fetcher.hours_due:
            return f"{counted(due, 'hour')} due could not be listed: {why}; run again later"
    problems = []
    if fetcher.lost:
        problems.append(f"{counted(fetcher.lost, 'object')} deleted by Segment, never downloaded")
    if failed := fetcher.unread:
        why = f": {fetcher.last_failure}" if fetcher.last_failure else ""
        problems.append(f"{counted(failed, 'hour')} due could not be read{why}; run again later")
    if missing := [each for each in fetcher.missing() if not asked or _covers(asked, each.hour, now_ns)]:
        first = min(missing, key=lambda each: each.next_ns)
        why = first.why if len(missing) == 1 else f"`status` lists them; the next one: {first.why}"
        again = time_text(max(first.next_ns, now_ns))
        problems.append(
            f"{counted(len(missing), 'object')} could not be downloaded: {why}; run again at {again}"
        )
    if wait := fetcher.wait(now_ns):
        why, hours = wait.why[:1].upper() + wait.why[1:], counted(fetcher.hours_due, "hour")
        problems.append(f"{why}; rerun{_after_text(wait.until_ns, now_ns)} ({hours} due)")
    return "; ".join(problems)


def _after_text(until_ns: int, now_ns: int) -> str:
    """Returns ` after 08:00 UTC`, the minute rounded up; with the date if it is a day away."""
    if until_ns <= now_ns:
        return ""
    text = time_text(-(-until_ns // MINUTE_NS) * MINUTE_NS)
    return f" after {text}" if until_ns - now_ns >= DAY_NS else f" after {text[11:16]} UTC"


def _covers(config: SegmentConfig, hour: int, now_ns: int) -> bool:
    """Returns whether an hour is between `--since` and `--until`."""
    until_ns = config.until.ns(now_ns) if config.until else now_ns
    return hour_of(config.since.ns(now_ns)) <= hour < -(-until_ns // HOUR_NS)
