"""What a polling run has read and sent: the hours, the quota, waiting and missing objects, and the lag.

Only reads. `status --json` prints a `Status` as it is.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, RETENTION_NS, SECOND_NS, hour_of, hour_text, time_text
from faillog_otel.config import RunConfig
from faillog_otel.errors import ConfigError
from faillog_otel.files import PART
from faillog_otel.ledger import HOURS_KEPT_NS, Hour, LedgerReader, MissingObject, Totals
from faillog_otel.ledger.facts import as_last_run, asked_since_ns, refused_until_ns, wanted_since_ns
from faillog_otel.ledger.scouting import scout_of
from faillog_otel.ledger.spool import INDEX
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.reports.completeness import Completeness, CountsSeen, by_collection, counts_seen
from faillog_otel.reports.names import Names, names_report
from faillog_otel.reports.recent import RecentFailures, recent_failures
from faillog_otel.reports.scout import ScoutSeen, scout_seen
from faillog_otel.segment.hours import LAST_CALL_NS, ScheduleConfig, collection_created_ns
from faillog_otel.segment.quota import Quota
from faillog_otel.segment.schedule import plan

State = Literal["waiting", "partial", "read", "settled", "closed", "empty", "failed", "expired", "short"]
"""The state of an hour. If several apply, the first of: partial, expired, failed, waiting, short, empty,
closed, settled, read."""

MARKS: dict[State, str] = {
    "waiting": ".",
    "partial": "~",
    "read": "+",
    "settled": "#",
    "closed": "=",
    "empty": "o",
    "failed": "!",
    "expired": "x",
    "short": "%",
}
"""Each state's character in the calendar; a blank is an hour that is not wanted, or one to come."""

_COMPLETE: tuple[State, ...] = ("read", "settled", "closed", "empty")
_LASTING: tuple[State, ...] = ("partial", "failed", "expired")
"""States that are shown for longer than Segment keeps an hour."""


class FailedHour(Struct, frozen=True):
    """An hour whose last reading failed."""

    hour: str
    why: str
    times: int
    """In a row."""
    at: str


class Coverage(Struct, frozen=True):
    """One collection's hours."""

    polled: bool
    """Whether the collection is configured."""
    hours: dict[State, int]
    """How many hours are in each state."""
    days: dict[str, str]
    """`2025-05-07` → 24 characters, one for each hour (UTC)."""
    failed: list[FailedHour]
    completeness: Completeness | None = None
    """How many of the discards that Segment counted were read, in hours of occurrence."""


def coverage(
    seen: Mapping[int, Hour],
    not_empty: Collection[int],
    *,
    now_ns: int,
    since_ns: int,
    until_ns: int | None,
    polled: bool,
    completeness: Completeness | None = None,
) -> Coverage:
    """Returns the calendar of one collection, from `since_ns` to `until_ns`.

    `not_empty`: the hours that have objects.
    """
    states = dict(_states(seen, not_empty, now_ns, since_ns, until_ns, polled=polled))
    short = {each.hour for each in completeness.short} if completeness else ()
    for hour, state in states.items():
        if state in _COMPLETE and hour_text(hour) in short:
            states[hour] = "short"
    counts: dict[State, int] = dict.fromkeys(MARKS, 0)
    days: dict[str, list[str]] = {}
    for hour, state in sorted(states.items()):
        counts[state] += 1
        date, at = divmod(hour, 24)
        days.setdefault(hour_text(date * 24)[:10], [" "] * 24)[at] = MARKS[state]
    return Coverage(
        polled=polled,
        hours=counts,
        days={day: "".join(marks) for day, marks in days.items()},
        failed=[
            FailedHour(
                hour_text(hour), seen[hour].failed_why, seen[hour].failures, time_text(seen[hour].failed_ns)
            )
            for hour, state in sorted(states.items())
            if state == "failed"
        ],
        completeness=completeness,
    )


def _states(
    seen: Mapping[int, Hour],
    not_empty: Collection[int],
    now_ns: int,
    since_ns: int,
    until_ns: int | None,
    *,
    polled: bool,
) -> Iterable[tuple[int, State]]:
    kept = range(hour_of(now_ns - RETENTION_NS) + 1, hour_of(now_ns))
    wanted = range(
        max(hour_of(since_ns), _first_obtainable(seen, kept.start), hour_of(now_ns - HOURS_KEPT_NS)),
        min(kept.stop, kept.stop if until_ns is None else -(-until_ns // HOUR_NS)),
    )
    for hour in {*(wanted if polled else ()), *seen}:
        state = _state(hour, seen.get(hour), is_gone=hour < kept.start, is_empty=hour not in not_empty)
        if hour in kept or state in _LASTING:
            yield hour, state


def _first_obtainable(seen: Mapping[int, Hour], first_kept: int) -> int:
    """Returns the first hour that Segment still had when the collection was polled first, if known."""
    times = [at for each in seen.values() if (at := each.first_listed_ns or each.failed_ns)]
    return min(first_kept, hour_of(min(times) - RETENTION_NS) + 1) if times else first_kept


def _state(hour: int, seen: Hour | None, *, is_gone: bool, is_empty: bool) -> State:
    if seen is not None and seen.unfinished:
        return "partial"
    if (is_gone and (seen is None or seen.listed_ns is None)) or (seen is not None and seen.lost):
        return "expired"
    if seen is not None and seen.failures:
        return "failed"
    if seen is None or seen.listed_ns is None:
        return "waiting"
    return "empty" if is_empty else _state_of_read(hour, seen, seen.listed_ns)


def _state_of_read(hour: int, seen: Hour, listed_ns: int) -> State:
    if listed_ns >= hour * HOUR_NS + LAST_CALL_NS:
        return "closed"
    return "settled" if seen.is_settled else "read"


class RateLimitReport(Struct, frozen=True):
    """Segment's last report of its quota; null for what it did not report."""

    at: str
    remaining: int
    reset: str | None


class Waits(Struct, frozen=True):
    """Until when no request may be made, and why."""

    until: str
    why: str


class QuotaSeen(Struct, frozen=True):
    """The requests of the last 24 hours, and how many are left now."""

    per_day: int
    """As Segment reports, or else as the setting says."""
    used: int
    left: int
    not_before: str | None
    """Segment accepts no request before, or a run paused after failures."""
    said: RateLimitReport | None
    waits: Waits | None
    """Null if a request may be made now."""


class Missing(Struct, frozen=True):
    """An object that could not be downloaded yet."""

    collection: str
    hour: str
    object: str
    why: str
    since: str
    """When its download failed first; `failed`: last."""
    failed: str
    next: str
    """When it is retried; if `needs_listing`, with a new URL, which costs one request."""
    needs_listing: bool
    leaves: str
    """When Segment deletes its hour."""


class Newest(Struct, frozen=True):
    """An hour, and how many seconds ago it ended."""

    hour: str
    seconds: int


class Objects(Struct, frozen=True):
    """Objects that are not done."""

    to_download: int
    to_forward: int


class Lag(Struct, frozen=True):
    """The newest hour that was read, and the newest hour of which a record was exported."""

    read: Newest | None
    sent: Newest | None


class Sizes(Struct, frozen=True):
    """Bytes on the disk."""

    ledger: int
    spool: int
    indexes: int
    """Of exchanges; they are files of the spool, and not counted in `spool`."""
    digests: int


class Status(Struct, frozen=True):
    """The report of `status`. Times are RFC 3339."""

    state_dir: str
    now: str
    since: str
    """The first hour that is wanted."""
    held_by: int | None
    """The id of the process that uses the state folder."""
    held_on: str
    """The name of its machine or pod; empty if unknown."""
    held_since: str
    collections: dict[str, Coverage]
    marks: dict[State, str]
    """The characters of the calendars."""
    quota: QuotaSeen
    refused: dict[str, str]
    """Collection that Segment refused → time of the next request."""
    lag: Lag
    records: Totals
    time_shifted: int
    """Records that were exported with another time."""
    quarantine: dict[str, int]
    """Reason → kept records."""
    objects: Objects
    missing: list[Missing]
    """Objects that could not be downloaded yet."""
    lost: int
    """Objects that Segment deleted before they could be downloaded, of the last 60 days."""
    bytes: Sizes
    names: Names
    counts: CountsSeen
    failures: RecentFailures
    missed_per_day: dict[str, float]
    """Collection → hours that will be missed each day, where the quota is too small for all."""
    scout: dict[str, ScoutSeen]
    """Collection → what Segment's counts say of its hours; without those that are not counted."""


def status(
    folder: StateFolder, ledger: LedgerReader, settings: RunConfig, only: Sequence[str], now_ns: int
) -> Status:
    """Returns the status now, of the collections in `only`; empty: of all. Raises LedgerBroken, ConfigError.

    If no collections are set, they are those of the last run. Its `--until` does not apply, so that hours
    that are no longer read show as waiting.
    """
    config, holder = settings.segment, folder.holder()
    with ledger.at_one_moment():
        collections = as_last_run(ledger, config).collections
        since_ns = wanted_since_ns(ledger, now_ns)
        asked_ns = asked_since_ns(ledger, None)
        seen, not_empty = ledger.hours(), ledger.hours_with_objects()
        quota = ledger.quota(config.requests_per_day)
        records, time_shifted = ledger.totals(), ledger.time_shifted()
        quarantine = ledger.kept_by_reason()
        under_way, missing = ledger.unfinished_objects(), ledger.missing_objects()
        refused = {name: refused_until_ns(ledger, name, now_ns) for name in (*config.collections, *seen)}
        sent = ledger.newest_sent_hour()
        named = names_report(ledger, now_ns, are_read=config.names)
        failures = recent_failures(ledger, settings, now_ns)
        counts = counts_seen(ledger, are_read=config.counts)
        scout = scout_of(ledger, config, now_ns)
        complete = by_collection(ledger, replace(config, collections=collections), since_ns, now_ns, now_ns)
    read = [hour for known in seen.values() for hour, each in known.items() if each.listed_ns is not None]
    gone = hour_of(now_ns - RETENTION_NS)
    kept = {name: {hour: each for hour, each in known.items() if hour > gone} for name, known in seen.items()}
    if strangers := [name for name in only if name not in {*seen, *collections}]:
        known = ", ".join(dict.fromkeys((*collections, *seen))) or "none"
        raise ConfigError(f"{', '.join(strangers)}: not in this ledger, which knows {known}")
    until_ns = config.until.ns(now_ns) if config.until else None
    born = {name: collection_created_ns(name, now_ns) or 0 for name in collections}
    schedule = ScheduleConfig(collections, since_ns, until_ns, born, asked_ns)
    names = only or list(dict.fromkeys((*collections, *seen)))
    spooled = {path.name: _size(path) for path in folder.spool_path.glob("*")}
    indexes = sum(size for name, size in spooled.items() if name.removesuffix(PART).endswith(INDEX))
    return Status(
        state_dir=str(folder.path),
        now=time_text(now_ns),
        since=time_text(since_ns),
        held_by=int(holder.process) if holder and holder.process.isdigit() else None,
        held_on=holder.host if holder else "",
        held_since=holder.since if holder else "",
        collections={
            name: coverage(
                seen.get(name, {}),
                {hour for collection, hour in not_empty if collection == name},
                now_ns=now_ns,
                since_ns=schedule.since_of(name),
                until_ns=until_ns,
                polled=name in collections,
                completeness=complete.get(name) if counts.read else None,
            )
            for name in names
        },
        marks=MARKS,
        quota=quota_seen(quota, now_ns),
        refused={name: time_text(at_ns) for name, at_ns in refused.items() if at_ns is not None},
        lag=Lag(_newest(max(read, default=None), now_ns), _newest(sent, now_ns)),
        records=records,
        time_shifted=time_shifted,
        quarantine=quarantine,
        objects=Objects(to_download=under_way.to_download, to_forward=under_way.to_forward),
        missing=[_missing(each) for each in missing],
        lost=sum(each.lost for known in seen.values() for each in known.values()),
        bytes=Sizes(
            ledger=sum(map(_size, folder.path.glob(f"{folder.ledger.name}*"))),
            spool=sum(spooled.values()) - indexes,
            indexes=indexes,
            digests=sum(map(_size, folder.digests_path.glob("*"))),
        ),
        names=named,
        counts=counts,
        failures=failures,
        missed_per_day=plan(now_ns, kept, quota, schedule, scout).missed_per_day,
        scout=scout_seen(scout, seen, names, now_ns),
    )


def quota_seen(quota: Quota, now_ns: int) -> QuotaSeen:
    """Returns the state of the quota."""
    quota = quota.mended(now_ns)
    said, wait = quota.rate_limit, quota.wait(now_ns)
    return QuotaSeen(
        per_day=quota.size,
        used=len(quota.last_day(now_ns)),
        left=quota.left(now_ns, with_reserve=True),
        not_before=time_text(quota.not_before_ns) if quota.not_before_ns > now_ns else None,
        said=None
        if said is None
        else RateLimitReport(
            at=time_text(said.at_ns),
            remaining=said.remaining,
            reset=None if said.reset_ns is None else time_text(said.reset_ns),
        ),
        waits=None if wait is None else Waits(time_text(wait.until_ns), wait.why),
    )


def _missing(each: MissingObject) -> Missing:
    return Missing(
        collection=each.collection,
        hour=hour_text(each.hour),
        object=each.path,
        why=each.why,
        since=time_text(each.since_ns),
        failed=time_text(each.failed_ns),
        next=time_text(each.next_ns),
        needs_listing=each.needs_listing,
        leaves=time_text(each.hour * HOUR_NS + RETENTION_NS),
    )


def _newest(hour: int | None, now_ns: int) -> Newest | None:
    if hour is None:
        return None
    return Newest(hour_text(hour), (now_ns - (hour + 1) * HOUR_NS) // SECOND_NS)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a run just removed it
        return 0
