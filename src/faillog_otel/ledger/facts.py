"""Facts that a ledger stores by name: the window of hours that runs asked for, and what Segment refused.

These are functions over a `LedgerReader`, without SQL.
"""

from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, MIN_TIME_NS, RETENTION_NS, duration_text, time_text
from faillog_otel.config import DEFAULT_SINCE, Moment, SegmentConfig
from faillog_otel.errors import ConfigError
from faillog_otel.ledger import Ledger, LedgerReader
from faillog_otel.segment.hours import ScheduleConfig, collection_created_ns

SINCE = "since"
"""Name of a fact: the start of the window, in nanoseconds since 1970."""
UNCHECKED_SINCE = "unchecked since"
"""Name of a fact: the start of the window by a machine's clock that Segment's time has not confirmed yet.

Two numbers of nanoseconds since 1970: the start, and the time of that clock then. Empty once confirmed.
"""
ASKED_SINCE = "since a person named"
"""Name of a fact: the start that a person named, or `NOBODY`."""
NOBODY = "nobody"
POLLED = "polled"
"""Name of a fact: what the last polling run asked for, as JSON."""
REFUSED = "refused until "
"""Prefix of facts, before a collection's id: the time until which its hours are not listed."""
REFUSED_NS = 6 * HOUR_NS
"""The pause after Segment refused a collection: each attempt costs a request."""
NEWEST = "newest "
"""Prefix of facts, before a collection's id: the time when Segment logged its newest exported record."""
COUNTS = "counts"
"""Name of a fact: when Segment's own counts were read, and when they are read next, as JSON."""
NAMES = "names"
"""Name of a fact: when names were read, and when they are read next, as JSON."""


CHANGES = "changes"
"""Name of a fact: up to when changes were read, and when they are read next, as JSON."""

COUNTED_ONLY = "counted only"
"""Name of a fact: `check` made this ledger, so its records were counted, and never sent."""


State = TypeVar("State", bound=Struct)


class NamesState(Struct, frozen=True):
    """The last reading of names from Segment. Times are nanoseconds since 1970."""

    read_ns: int = 0
    """The last complete reading; 0 if there was none."""
    next_ns: int = 0
    """When they are read again."""
    problem: str = ""
    """Why the last reading failed, and what to do; empty if it did not."""


class CountsState(Struct, frozen=True):
    """The last reading of Segment's own counts. Times are nanoseconds since 1970."""

    read_ns: int = 0
    """The last complete reading; 0 if there was none."""
    next_ns: int = 0
    """When they are read again."""
    connections_ns: int = 0
    """When the connections of sources and destinations were read."""
    problem: str = ""
    """Why the last reading failed, and what to do; empty if it did not."""


class ChangesState(Struct, frozen=True):
    """The last reading of changes of the workspace. Times are nanoseconds since 1970."""

    read_to_ns: int = 0
    """The changes before this time were read; 0: none were."""
    next_ns: int = 0
    """When they are read again."""
    problem: str = ""
    """Why the last reading failed, and what to do; empty if it did not."""


class Polled(Struct, frozen=True):
    """What a polling run asks for."""

    collections: tuple[str, ...]
    since: Moment = DEFAULT_SINCE
    until: Moment | None = None


def note_polled(ledger: Ledger, config: SegmentConfig) -> None:
    """Stores what a run asks for. Raises NoRoom, LedgerBroken."""
    polled = Polled(config.collections, config.since, config.until)
    ledger.note(POLLED, msgspec.json.encode(polled).decode())


def claim(ledger: Ledger, *, counts_only: bool) -> None:
    """Marks a new ledger as `check`'s with `counts_only`. Raises ConfigError if it has another owner."""
    is_counted = ledger.fact(COUNTED_ONLY) is not None
    if is_counted and not counts_only:
        raise ConfigError(
            "the state folder belongs to `check`, which only counts records: a run would never send "
            "those that it read; name another --state-dir"
        )
    if counts_only and not is_counted:
        if ledger.fact(POLLED) is not None:
            raise ConfigError("the state folder belongs to `run`; name another --state-dir")
        ledger.note(COUNTED_ONLY, "yes")


def as_last_run(ledger: LedgerReader, config: SegmentConfig) -> SegmentConfig:
    """Returns the settings, completed by those of the last run. Raises LedgerBroken."""
    last = _last_polled(ledger)
    return replace(
        config,
        collections=config.collections or last.collections,
        since=config.since if config.is_since_given else last.since,
        until=config.until or last.until,
    )


def _last_polled(ledger: LedgerReader) -> Polled:
    text = ledger.fact(POLLED)
    if text is None:  # a ledger of version 0.1.0
        noted_ns = ledger.fact_ns(SINCE)
        since = DEFAULT_SINCE if noted_ns is None else Moment(at_ns=noted_ns)
        return Polled(tuple(ledger.hours()), since)
    try:
        return msgspec.json.decode(text, type=Polled)
    except msgspec.DecodeError:
        raise ledger.damaged(f"the fact {POLLED!r} is {text[:40]!r}") from None


def names_state(ledger: LedgerReader) -> NamesState:
    """Returns the last reading of names. Raises LedgerBroken."""
    return _state(ledger, NAMES, NamesState)


def note_names_state(ledger: Ledger, state: NamesState) -> None:
    """Stores the last reading of names. Raises NoRoom, LedgerBroken."""
    ledger.note(NAMES, msgspec.json.encode(state).decode())


def counts_state(ledger: LedgerReader) -> CountsState:
    """Returns the last reading of Segment's counts. Raises LedgerBroken."""
    return _state(ledger, COUNTS, CountsState)


def note_counts_state(ledger: Ledger, state: CountsState) -> None:
    """Stores the last reading of Segment's counts. Raises NoRoom, LedgerBroken."""
    ledger.note(COUNTS, msgspec.json.encode(state).decode())


def _state(ledger: LedgerReader, name: str, kind: type[State]) -> State:
    text = ledger.fact(name) or "{}"
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        raise ledger.damaged(f"the fact {name!r} is {text[:40]!r}") from None


def changes_state(ledger: LedgerReader) -> ChangesState:
    """Returns the last reading of changes. Raises LedgerBroken."""
    return _state(ledger, CHANGES, ChangesState)


def note_changes_state(ledger: Ledger, state: ChangesState) -> None:
    """Stores the last reading of changes. Raises NoRoom, LedgerBroken."""
    ledger.note(CHANGES, msgspec.json.encode(state).decode())


def unchecked_since_ns(ledger: LedgerReader, machine_ns: int) -> int | None:
    """Returns the start of the window by a machine's clock that shows `machine_ns`; None if it is confirmed.

    If the clock was set since then, the age of the fact is unknown: it counts as stored now.
    """
    noted = ledger.fact(UNCHECKED_SINCE)
    if not noted:
        return None
    since_ns, at_ns = map(int, noted.split())
    is_same_clock = at_ns <= machine_ns and (at_ns < MIN_TIME_NS) == (machine_ns < MIN_TIME_NS)
    return since_ns if is_same_clock else machine_ns - (at_ns - since_ns)


def wanted_since_ns(ledger: LedgerReader, since_ns: int) -> int:
    """Returns the start of the window: what an earlier run wanted stays wanted."""
    noted = ledger.fact_ns(SINCE)
    return since_ns if noted is None else min(since_ns, noted)


def asked_since_ns(ledger: LedgerReader | None, named_ns: int | None) -> int | None:
    """Returns the start that a person named in this run (`named_ns`) or an earlier one; None if nobody did.

    Version 0.1.0 did not store who named the time: it counts as named by a person.
    """
    asked = [] if named_ns is None else [named_ns]
    noted = None if ledger is None else ledger.fact(ASKED_SINCE)
    if ledger is not None and noted != NOBODY:
        asked_ns = ledger.fact_ns(SINCE if noted is None else ASKED_SINCE)
        asked += [] if asked_ns is None else [asked_ns]
    return min(asked, default=None)


def schedule_of(
    ledger: LedgerReader | None, config: SegmentConfig, now_ns: int, *, once: bool = False
) -> ScheduleConfig:
    """Returns the collections and the window. What an earlier run wanted stays wanted: no hour is lost."""
    since_ns = config.since.ns(now_ns)
    born = {each: collection_created_ns(each, now_ns) for each in config.collections}
    return ScheduleConfig(
        collections=config.collections,
        since_ns=since_ns if ledger is None else wanted_since_ns(ledger, since_ns),
        until_ns=config.until.ns(now_ns) if config.until else None,
        created_ns={name: at_ns for name, at_ns in born.items() if at_ns is not None},
        asked_since_ns=asked_since_ns(ledger, since_ns if config.is_since_given else None),
        once=once,
    )


class Refusal(Struct, frozen=True):
    """Segment's last answer for a collection, a refusal."""

    why: str
    until_ns: int
    """`run` does not list the collection's hours before this time."""


def refused_collections(ledger: LedgerReader) -> dict[str, Refusal]:
    """Returns collection → refusal, without collections that were listed since. Raises LedgerBroken."""
    found = {}
    for name, until_ns in ledger.facts_ns(REFUSED).items():
        last = ledger.last_listing(name)
        if last is not None and last.listed_ns <= until_ns - REFUSED_NS:
            found[name] = Refusal(last.failed_why, until_ns)
    return found


def refused_until_ns(ledger: LedgerReader, collection: str, now_ns: int) -> int | None:
    """Returns until when a refused collection is not listed; None if it may be listed.

    A time that is too late to be true comes from a clock that was ahead, and does not count.
    """
    until_ns = ledger.fact_ns(REFUSED + collection) or 0
    return until_ns if now_ns < until_ns <= now_ns + REFUSED_NS else None


def newest_logged(ledger: LedgerReader) -> dict[str, int]:
    """Returns collection → when Segment logged its newest exported record, nanoseconds since 1970."""
    return ledger.facts_ns(NEWEST)


def check_window(config: SegmentConfig, now_ns: int, noted_since_ns: int | None = None) -> list[str]:
    """Returns warnings about the hours between `--since` and `--until`. Raises ConfigError if there are none.

    `noted_since_ns` is the start that an earlier run wanted: an absolute `--until` can by now be before a
    relative `--since`. Comparing a relative with an absolute time needs the machine's clock, which can be
    wrong, so it only gives a warning. So does a default `--since`.
    """
    since, until, warnings = config.since, config.until, []
    since_ns = since.ns(now_ns)
    if until is not None and since_ns >= (until_ns := until.ns(now_ns)):
        problem = f"--since ({time_text(since_ns)}) is not before --until ({time_text(until_ns)})"
        is_certain = (since.at_ns is None) == (until.at_ns is None)
        was_wanted = noted_since_ns is not None and noted_since_ns < until_ns
        if config.is_since_given and is_certain:
            raise ConfigError(f"{problem}, so no hour is between them; swap them, or set other times")
        if not was_wanted:
            warnings.append(
                f"{problem} by this machine's clock, so no hour is between them; set another --since"
            )
    if now_ns < MIN_TIME_NS or not config.is_since_given:
        return warnings
    if since_ns > now_ns:
        ahead = duration_text((since_ns - now_ns) / 1e9)
        warnings.append(
            f"--since {time_text(since_ns)} is {ahead} in the future by this machine's clock; until then,"
            " only hours that an earlier run wanted are requested"
        )
    elif since_ns < now_ns - RETENTION_NS:
        warnings.append(
            f"--since {time_text(since_ns)} is more than 28 days ago, and Segment deletes older hours; the"
            f" first that can be read begins after {time_text(now_ns - RETENTION_NS)}"
        )
    return warnings
