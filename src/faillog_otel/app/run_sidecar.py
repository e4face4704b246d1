"""Polling runs: once, or as a sidecar until a signal ends it."""

import logging
import signal
import time
from collections.abc import Mapping, Sequence
from copy import copy

from msgspec import Struct

from faillog_otel.app.build import Runtime, descriptors
from faillog_otel.app.build_polling import Polling, build_polling
from faillog_otel.app.progress import NoProgressLine
from faillog_otel.app.summary import RunResult, log_result, records
from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, Clock, hour_of, hour_text, time_text
from faillog_otel.config import RunConfig, SegmentConfig
from faillog_otel.errors import ConfigError, LedgerBroken, NoRoom
from faillog_otel.ledger.results import Counts
from faillog_otel.ledger.state_dir import with_remedy
from faillog_otel.pipeline.fetcher import Fetcher
from faillog_otel.reports.hours import Judged
from faillog_otel.segment.api import token_source
from faillog_otel.text import printable

_log = logging.getLogger(__name__)

MINUTE_NS = 60 * SECOND_NS
MIN_DESCRIPTORS = 64
"""Polling takes up to 30 by itself, and the health server up to a quarter of what is allowed."""


def poll(
    config: RunConfig, *, once: bool, clock: Clock | None = None, only_wanted: bool = False
) -> RunResult:
    """Polls Segment and forwards. Raises ConfigError, LedgerBroken.

    `clock` is the machine's, which Segment's Date corrects; to wait for a collector is always the system's
    business. `only_wanted`: nothing but the hours that a replay asked for.
    """
    started = time.monotonic()
    if not config.segment.collections:
        raise ConfigError("name a PATH, or a collection to poll: --collection ID or FAILLOG_COLLECTIONS")
    token_source(config.segment)()  # a token that cannot be used ends the run before anything is opened
    _log_ignored(config)
    with Runtime(config) as runtime:
        runtime.prepare_client()
        polling = build_polling(runtime, once=once, clock=clock, only_wanted=only_wanted)
        _log_start(config, runtime.progress, once=once)
        polling.sidecar.run()
        polling.hourly.say()
        ended = _ended(polling, once=once, asked=config.segment if only_wanted else None)
        _log_ending(ended, polling, runtime)
    forwarder = polling.forwarder
    result = RunResult(
        counts=forwarder.counts if polling.sidecar.shows_only else ended.counts,
        reported=ended.counts,
        sent=polling.delivery.sent,
        seconds=time.monotonic() - started,
        hours=ended.hours,
        fail_on=config.fail_on,
        first_met=forwarder.first_met,
        ledger_broken=bool(ended.broken) or polling.sidecar.has_unaccounted,
        segment_refused=bool(ended.refused),
        signal=runtime.stop.requested,
    )
    log_result(result, config)
    return result


def _log_start(config: RunConfig, line: NoProgressLine, *, once: bool) -> None:
    polled = records(len(config.segment.collections), "collection")
    _log.info("polling %s; state folder %s", polled, config.state_dir)
    if not once and config.verbosity == 0:
        line.write(printable(f"polling {polled}; state folder {config.state_dir}; SIGINT ends it") + "\n")


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


def _ended(polling: Polling, *, once: bool, asked: SegmentConfig | None) -> _Ended:
    """Reads from the ledger how the run ended; a ledger that cannot be read is named.

    `asked`: the window that the run is about; None: all that is due.
    """
    sidecar, fetcher, now_ns = polling.sidecar, polling.fetcher, polling.clock.now_ns()
    broken = str(sidecar.broken or "")
    if not broken and sidecar.unfetched is not None:
        broken = with_remedy(sidecar.unfetched)
    counts, hours, left, refused = copy(polling.forwarder.counts), None, "", ""
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
            refused = _refusal(fetcher, now_ns, asked) if once or fetcher.is_denied else ""
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


def _log_ending(ended: _Ended, polling: Polling, runtime: Runtime) -> None:
    config, stop, forwarder, over = (
        runtime.config,
        runtime.stop,
        polling.forwarder,
        polling.delivery.gave_up_because,
    )
    counts, folder = forwarder.counts, config.state_dir
    if stop.requested == signal.SIGPIPE:
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
    if ended.left and (stop.is_requested() or ended.broken):
        _log.warning("the run ended early: hours that are due and were not read: %s", ended.left)
    if kept := counts.quarantined + counts.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in forwarder.reasons.most_common())
        what = f"{records(kept)} not understood or not taken ({reasons})"
        _log.warning("%s: %s", what, "only shown" if config.delivery.writes else f"in {folder}")


def _refusal(fetcher: Fetcher, now_ns: int, asked: SegmentConfig | None) -> str:
    """What was due and was not read, why, and when to run again; empty where all was."""
    if refusals := fetcher.refusals:
        return "; ".join(refusals)
    if why := fetcher.why_time_unknown:
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
        why, hours = wait.why[:1].upper() + wait.why[1:], records(fetcher.hours_due, "hour")
        problems.append(f"{why}; rerun{_after_text(wait.until_ns, now_ns)} ({hours} due)")
    return "; ".join(problems)


def _after_text(until_ns: int, now_ns: int) -> str:
    """Returns ` after 08:00 UTC`, the minute rounded up; with the date if it is a day away."""
    if until_ns <= now_ns:
        return ""
    text = time_text(-(-until_ns // MINUTE_NS) * MINUTE_NS)
    return f" after {text}" if until_ns - now_ns >= DAY_NS else f" after {text[11:16]} UTC"


def _covers(config: SegmentConfig, hour: int, now_ns: int) -> bool:
    """Whether an hour is between `--since` and `--until`."""
    until_ns = config.until.ns(now_ns) if config.until else now_ns
    return hour_of(config.since.ns(now_ns)) <= hour < -(-until_ns // HOUR_NS)
