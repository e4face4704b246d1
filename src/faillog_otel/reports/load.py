"""What the reports of failures are made of: the sums of the state folder's ledger, or of files."""

import sys
from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, SECOND_NS, hour_of
from faillog_otel.config import RunConfig
from faillog_otel.errors import InputError
from faillog_otel.events.failure import KEPT_SECONDS, FailedMessage, FailureSums
from faillog_otel.events.failure_counts import BatchFailures
from faillog_otel.events.model import Event
from faillog_otel.inputs.files import FoundPaths
from faillog_otel.ledger import LedgerReader
from faillog_otel.ledger.counted_files import CountedFiles
from faillog_otel.ledger.database import open_reader
from faillog_otel.ledger.facts import SINCE
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.otlp.encoder import WireEncoder
from faillog_otel.otlp.failure_notes import MessageNotes
from faillog_otel.reports.changes import changes_of
from faillog_otel.reports.completeness import NOT_COUNTED, ByDestination, by_destination
from faillog_otel.reports.failures import Names
from faillog_otel.reports.names import names_of
from faillog_otel.reports.records import read_events
from faillog_otel.segment.answers import Change
from faillog_otel.text import counted

KEPT_NS = KEPT_SECONDS * SECOND_NS
"""The ledger keeps failures for this time after they occurred."""


class Loaded(Struct, frozen=True):
    """What failed in a window of time, and what was read to know it."""

    sums: FailureSums
    messages: Iterator[FailedMessage]
    """Read while they are iterated; raises LedgerBroken and Busy."""
    names: Names
    since_ns: int
    """The start of the window: the given one, or the first time that is known."""
    covers: str
    """A sentence on what was read."""
    changes: Sequence[Change]
    """Changes of the workspace before the end of the window; none for files."""
    attempts_until_success: dict[int, int]
    """The attempt that succeeded → messages that failed before it."""
    completeness: ByDestination = NOT_COUNTED
    problems: Sequence[str] = ()
    """Files that could not be read, and why."""
    warnings: Sequence[str] = ()
    """What of the files is in no count."""


def load(config: RunConfig, paths: Sequence[str], since_ns: int | None, until_ns: int, now_ns: int) -> Loaded:
    """Returns what failed by the ledger, or in files. Without `since_ns`: all that is kept.

    Raises LedgerBroken and Busy.
    """
    if paths:
        return _from_files(config, paths, since_ns, until_ns, now_ns)
    start_ns = now_ns - KEPT_NS if since_ns is None else since_ns
    ledger = open_reader(StateFolder(config.state_dir))
    try:
        with ledger.at_one_moment():
            return Loaded(
                sums=ledger.failure_sums(start_ns, until_ns, now_ns),
                messages=_messages(config, start_ns, until_ns, now_ns),
                names=names_of(ledger, config),
                changes=changes_of(ledger, config, until_ns),
                since_ns=start_ns,
                covers=_coverage(ledger, start_ns, min(until_ns, now_ns)),
                attempts_until_success=ledger.attempts_until_success(start_ns, until_ns),
                completeness=by_destination(ledger, config.segment, start_ns, until_ns, now_ns),
            )
    finally:
        ledger.close()


def _messages(config: RunConfig, since_ns: int, until_ns: int, now_ns: int) -> Iterator[FailedMessage]:
    ledger = open_reader(StateFolder(config.state_dir))
    try:
        yield from ledger.failed_messages(since_ns, until_ns, now_ns)
    finally:
        ledger.close()


def _coverage(ledger: LedgerReader, since_ns: int, until_ns: int) -> str:
    """Returns how many of the hours in the window were read completely."""
    collections = ledger.hours(hour_of(since_ns) - 1)
    first = hour_of(max(since_ns, ledger.fact_ns(SINCE) or 0))
    window = range(first, max(first, until_ns // HOUR_NS))
    read = sum(
        hour in window and state.listed_ns is not None and not state.missing and not state.unfinished
        for hours in collections.values()
        for hour, state in hours.items()
    )
    total = len(window) * len(collections)
    if not total:
        return "No hour of this time was polled."
    text = f"Read {read} of {counted(total, 'collection-hour')} in this time"
    return f"{text}; `status` shows which." if read < total else f"{text}."


def _from_files(
    config: RunConfig, paths: Sequence[str], since_ns: int | None, until_ns: int, now_ns: int
) -> Loaded:
    found = FoundPaths(paths, ())
    files, encoder = CountedFiles(), WireEncoder(config.mapping)
    notes, failures = MessageNotes(config.mapping), BatchFailures()
    records = damaged = 0
    problems = [*found.problems]
    for each in read_events(found.files, sys.stdin.buffer, now_ns, config.max_content_bytes):
        if isinstance(each, InputError):
            problems.append(str(each))
        elif isinstance(each.event, Event):
            records += 1
            group = encoder.encode(each.event, each.context).group
            notes.note(failures, each.event, each.event.kind, each.context, group)
            if len(failures.notes) >= _NOTES_AT_ONCE:
                files.add(failures, now_ns)
                failures = BatchFailures()
        else:
            damaged += 1
    files.add(failures, now_ns)
    files.finish()
    start_ns = since_ns or 0
    sums = files.failure_sums(start_ns, until_ns, now_ns)
    # No earlier run has seen these groups: they are as new as their first failure.
    groups = [replace(each, seen_ns=each.first_ns) for each in sums.groups]
    first_ns = min((each.first_ns for each in groups), default=until_ns)
    return Loaded(
        sums=replace(sums, groups=groups),
        messages=files.failed_messages(start_ns, until_ns, now_ns),
        names=Names(config.mapping.destination_names),
        changes=(),
        since_ns=first_ns if since_ns is None else since_ns,
        covers=f"Read {counted(records, 'record')} in {counted(len(found.files), 'file')}.",
        attempts_until_success=files.attempts_until_success(start_ns, until_ns),
        problems=[*problems, *found.warnings],
        warnings=[f"{counted(damaged, 'record')} not counted: not an event of the failure logs"]
        if damaged
        else (),
    )


_NOTES_AT_ONCE = 512
