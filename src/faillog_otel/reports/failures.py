"""What fails, since when, how many messages, why, and what to do. `failures --json` prints a `Failures`.

Pure: the sums come from the ledger, or from the files of a run over PATHs. Times are RFC 3339 (UTC).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct, field

from faillog_otel.clock import hour_text, time_text
from faillog_otel.config import Join, LinksConfig
from faillog_otel.events.failure import FailedMessage, FailureSums, GroupSums, MessageState
from faillog_otel.links import destination_link, trace_link
from faillog_otel.propagation import derived_trace_id, trace_id_of
from faillog_otel.reasons import ReasonClass, classify
from faillog_otel.reports.changes import AfterChange, ChangeIndex
from faillog_otel.reports.completeness import NOT_COUNTED, ByDestination, Completeness, together
from faillog_otel.reports.failure_rows import code_of, is_counted, merge, merged
from faillog_otel.segment.answers import Change

NO_MEANING = "The table of reasons has no row for this failure."
NO_REMEDY = "Read the reason, and the destination's answer in the trace of a message."


class MessageCounts(Struct, frozen=True):
    """How many messages are in each state."""

    lost: int
    pending: int
    recovered: int


class Totals(Struct, frozen=True):
    """Sums over all groups."""

    messages: MessageCounts
    attempts: int
    requests: int


class Named(Struct, frozen=True):
    """A destination, and its name if it is known."""

    id: str
    name: str | None
    link: str | None = None
    """Its page in Segment, of `[links] segment`."""


class Sample(Struct, frozen=True):
    """One message of a group; null for what is not known."""

    message_id: str | None
    trace_id: str | None
    link: str | None
    """Its trace in the backend of `[links] trace`."""


class Group(Struct, frozen=True, rename={"reason_class": "class"}):
    """One failure group."""

    group: str
    destination: Named
    subscription: str | None
    subscription_name: str | None
    code: str | None
    status: int | None
    reason_class: ReasonClass
    retryable: bool | None
    reason: str | None
    messages: MessageCounts
    attempts: int
    requests: int
    first_seen: str
    last_seen: str
    new: bool
    """Whether it was first seen within `--new-within`."""
    by_hour: dict[str, int]
    """Hour → messages that began to fail in it; requests if no message is known."""
    meaning: str
    remedy: str
    sample: Sample
    after_change: AfterChange | None = None
    """The change of the workspace that its first failure followed within 30 minutes."""


class Failures(Struct, frozen=True):
    """The report of `failures`, worst group first."""

    since: str
    until: str
    generated_at: str
    totals: Totals
    groups: list[Group]
    left_out: int
    """Groups that are not listed."""
    forgotten: int
    """Messages that `--messages` no longer lists: more failed than are kept. The numbers have them."""
    completeness: Completeness | None = None
    """How many of the discards that Segment counted were read; null without its counts."""


class Message(Struct, frozen=True):
    """A line of `failures --messages --json`."""

    message_id: str
    destination: Named
    state: MessageState
    attempts: int
    code: str | None
    status: int | None
    group: str
    first_seen: str
    last_seen: str
    trace_id: str
    link: str | None


class Names(Struct, frozen=True):
    """What ids are called."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Id of a destination, source or subscription → its name."""
    source_of: Mapping[str, str] = field(default_factory=dict)
    """Id of a destination → the id of its source."""

    def named(self, destination: str, links: LinksConfig) -> Named:
        """Returns a destination with its name and link."""
        return Named(destination, self.names.get(destination), destination_link(links, destination))


class Filter(Struct, frozen=True):
    """Which groups and messages are wanted; an empty field wants all."""

    destinations: Collection[str] = ()
    """Ids, or names in any case."""
    classes: Collection[ReasonClass] = ()


class View(Struct, frozen=True, kw_only=True):
    """How sums are shown."""

    names: Names = Names()
    links: LinksConfig = LinksConfig()
    join: Join = "parent"
    """By it, the trace of a message is the application's or one of its own."""
    filter: Filter = Filter()
    changes: Sequence[Change] = ()
    """Changes of the workspace, also before the window."""
    completeness: ByDestination = NOT_COUNTED

    def wants_destination(self, id_: str) -> bool:
        """Returns whether the filter lets a destination through."""
        own = {id_.casefold(), self.names.names.get(id_, id_).casefold()}
        return not self.filter.destinations or any(
            each.casefold() in own for each in self.filter.destinations
        )

    def complete(self) -> Completeness | None:
        """Returns the completeness of the destinations that are wanted."""
        found = self.completeness.settled
        return together([each for name, each in found.items() if self.wants_destination(name)])

    def unread(self) -> dict[str, Completeness]:
        """Returns destination → completeness of all hours, of those that lack discards."""
        found = self.completeness.unread
        return {name: each for name, each in found.items() if each.short and self.wants_destination(name)}

    def wants(self, row: GroupSums) -> bool:
        """Returns whether the filter lets a row through."""
        if self.filter.classes and _meaning(row).reason_class not in self.filter.classes:
            return False
        return self.wants_destination(row.group.destination)

    def trace(self, message: FailedMessage, destination: str) -> Sample:
        """Returns the trace of a message."""
        name = message.message_id
        trace_id = trace_id_of(name) if self.join == "parent" else derived_trace_id(name).hex()
        times = message.first_ns, message.last_ns
        return Sample(name, trace_id, trace_link(self.links, name, trace_id, destination, times))


class Window(Struct, frozen=True, kw_only=True):
    """The times of a report, in nanoseconds since 1970."""

    since_ns: int
    until_ns: int
    now_ns: int
    new_within_ns: int
    """A group that was first seen within this time before now is new."""


def failures_report(sums: FailureSums, view: View, window: Window, limit: int | None = None) -> Failures:
    """Returns the report of the sums in this window; with `limit`, only the worst groups are listed."""
    rows = [row for row in merged(sums.groups) if is_counted(row) and view.wants(row)]
    rows.sort(key=lambda row: row.group.id)
    rows.sort(key=_badness, reverse=True)
    shown = rows if limit is None else rows[:limit]
    changes = ChangeIndex(view.changes)
    return Failures(
        since=time_text(window.since_ns),
        until=time_text(window.until_ns),
        generated_at=time_text(window.now_ns),
        totals=Totals(_messages(rows), sum(row.attempts for row in rows), sum(row.requests for row in rows)),
        groups=[_group(row, view, window, changes) for row in shown],
        left_out=len(rows) - len(shown),
        forgotten=sums.forgotten,
        completeness=view.complete(),
    )


def messages_report(messages: Iterable[FailedMessage], sums: FailureSums, view: View) -> Iterator[Message]:
    """Yields the messages, each with the facts of the row that its group is shown in.

    Sums and messages are of the same window.
    """
    shown: dict[str, tuple[GroupSums, Named, bool]] = {}
    for row, ids in merge(sums.groups):
        destination = view.names.named(row.group.destination, view.links)
        shown |= dict.fromkeys(ids, (row, destination, view.wants(row)))
    for message in messages:
        if message.group not in shown:
            continue  # a program that polls has stored it since the sums were read
        row, destination, is_wanted = shown[message.group]
        if not is_wanted:
            continue
        trace = view.trace(message, destination.id)
        yield Message(
            message_id=message.message_id,
            destination=destination,
            state=message.state,
            attempts=message.attempts,
            code=message.code or code_of(row),
            status=row.group.status,
            group=row.group.id,
            first_seen=time_text(message.first_ns),
            last_seen=time_text(message.last_ns),
            trace_id=trace.trace_id or "",
            link=trace.link,
        )


class _Meaning(NamedTuple):
    reason_class: ReasonClass
    retryable: bool | None
    meaning: str
    remedy: str


def _meaning(sums: GroupSums) -> _Meaning:
    """Returns what the table says of a row.

    A code that errors say is more specific than a 400, but less than a 401 or 503: Segment calls many things
    `INVALID_SETTINGS`.
    """
    group = sums.group
    code = code_of(sums) if group.reason_class in ("payload", "unknown") else group.code
    row = classify(code, group.status, None, None).row
    if row is None:
        return _Meaning(group.reason_class, group.retryable, NO_MEANING, NO_REMEDY)
    if code == group.code and group.reason_class != "unknown":
        return _Meaning(group.reason_class, group.retryable, row.meaning, row.remedy)
    return _Meaning(row.reason_class, row.retryable, row.meaning, row.remedy)


def _group(sums: GroupSums, view: View, window: Window, changes: ChangeIndex) -> Group:
    group, means = sums.group, _meaning(sums)
    resources = group.destination, group.subscription, view.names.source_of.get(group.destination)
    return Group(
        group=group.id,
        destination=view.names.named(group.destination, view.links),
        subscription=group.subscription,
        subscription_name=view.names.names.get(group.subscription or ""),
        code=code_of(sums),
        status=group.status,
        reason_class=means.reason_class,
        retryable=means.retryable,
        reason=sums.reason or group.reason,
        messages=_messages([sums]),
        attempts=sums.attempts,
        requests=sums.requests,
        first_seen=time_text(sums.first_ns),
        last_seen=time_text(sums.last_ns),
        new=sums.seen_ns >= window.now_ns - window.new_within_ns,
        by_hour={hour_text(hour): number for hour, number in sorted(sums.by_hour.items())},
        after_change=changes.nearest([*filter(None, resources)], sums.began_ns or sums.first_ns),
        meaning=means.meaning,
        remedy=means.remedy,
        sample=view.trace(sums.sample, group.destination) if sums.sample else Sample(None, None, None),
    )


def _badness(row: GroupSums) -> tuple[int, ...]:
    """Returns the key by which the worst row is the greatest."""
    return row.lost, row.pending, row.recovered, row.attempts, row.last_ns


def _messages(rows: Iterable[GroupSums]) -> MessageCounts:
    counts = [(row.lost, row.pending, row.recovered) for row in rows]
    return MessageCounts(*map(sum, zip((0, 0, 0), *counts, strict=True)))
