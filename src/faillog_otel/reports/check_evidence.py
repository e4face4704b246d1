"""What `check` is asked, and the evidence that it judges: Segment's counts, and failure logs.

Pure. Times are nanoseconds since 1970.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Literal

import msgspec
from msgspec import Struct, field

from faillog_otel.clock import HOUR_NS, SECOND_NS, time_text
from faillog_otel.events.failure import PENDING_SECONDS
from faillog_otel.reasons import classify, find_rows
from faillog_otel.reports.failures import Group, Message

Verdict = Literal["passed", "failed", "unknown"]
Source = Literal["counts", "logs"]

FINAL_AFTER_NS = PENDING_SECONDS * SECOND_NS
"""This time after an event, Segment no longer retries it: what was not discarded by then was delivered."""
RECEIVED_AFTER_NS = HOUR_NS
"""An event that Segment has not received this time after the window was not sent in it."""
COUNTED_AFTER_NS = 60 * SECOND_NS
"""Counts are about 30 seconds old. After this time they have all events that were received."""


# -- what is asked ---


class Allowance(Struct, frozen=True):
    """How many discards of a destination are tolerated: a number, or a share of what was received."""

    count: int = 0
    percent: Fraction | None = None
    """Overrides `count`."""

    def of(self, received: int | None) -> int | None:
        """Returns the number; None if it is a share and nobody knows of how many."""
        if self.percent is None:
            return self.count
        return None if received is None else int(self.percent * received / 100)

    @property
    def text(self) -> str:
        """As the option is given: `3`, `0.5%`."""
        return str(self.count) if self.percent is None else f"{float(self.percent):g}%"


class _Reason(Struct):
    destination: str
    code: str


class _Baseline(Struct):
    groups: list[str]
    reasons: list[_Reason]


class Known(Struct, frozen=True):
    """The failures of earlier runs, for `--only-new`."""

    groups: frozenset[str] = frozenset()
    """Ids of failure groups."""
    reasons: frozenset[tuple[str, str]] = frozenset()
    """Destination id and canonical code. Counts know no groups."""

    def and_groups(self, groups: Iterable[Group]) -> "Known":
        """Returns what is known, and these groups."""
        found = [*groups]
        reasons = {(each.destination.id, code) for each in found for code in codes_of(each.code, each.status)}
        return Known(self.groups | {each.group for each in found}, self.reasons | reasons)

    def and_counts(self, pairs: "Iterable[PairCounts]") -> "Known":
        """Returns what is known, and the reasons of what these counts discarded."""
        reasons = {
            (each.destination.id, code)
            for each in pairs
            for reason in each.failed
            for code in codes_of(reason)
        }
        return Known(self.groups, self.reasons | reasons)

    def and_known(self, other: "Known") -> "Known":
        """Returns what is known of both."""
        return Known(self.groups | other.groups, self.reasons | other.reasons)

    def to_json(self) -> bytes:
        """Returns the content of a baseline file."""
        reasons = [{"destination": id_, "code": code} for id_, code in sorted(self.reasons)]
        return msgspec.json.format(msgspec.json.encode({"groups": sorted(self.groups), "reasons": reasons}))

    @classmethod
    def from_json(cls, text: str) -> "Known":
        """Returns what such a file says. Raises ValueError."""
        read = msgspec.json.decode(text, type=_Baseline)
        return cls(frozenset(read.groups), frozenset((each.destination, each.code) for each in read.reasons))


class Rules(Struct, frozen=True, kw_only=True):
    """What the options ask for."""

    since_ns: int
    until_ns: int
    is_open: bool = False
    """Nobody set the end of the window: it is now, and everything after its start counts."""
    now_ns: int
    max_failed: Allowance | None = None
    allowed: frozenset[str] = frozenset()
    """As `codes_of` returns them."""
    no_filtered: bool = False
    expect_received: int | None = None
    messages: tuple[str, ...] = ()
    """Ids that must not be lost. With them, other discards are only judged if `max_failed` is set."""
    known: Known | None = None

    @property
    def judges_discards(self) -> bool:
        """Whether every discard is judged, not only the messages."""
        return not self.messages or self.max_failed is not None

    def is_tolerated(self, destination: str, code: str | None, status: int | None, group: str = "") -> str:
        """Returns why a failure of this kind does not count; empty if it does."""
        if self.allowed & codes_of(code, status):
            return "allowed"
        if self.known is None:
            return ""
        is_known = group in self.known.groups
        if not group or not self.known.groups:  # counts have no groups
            is_known = any((destination, each) in self.known.reasons for each in codes_of(code, status))
        return "not new" if is_known else ""


def codes_of(code: str | None, status: int | None = None) -> frozenset[str]:
    """Returns the canonical names of a code and a status; an unknown code is its own, upper case."""
    found = {str(status)} if status else set()
    if code:
        rows = [row.code for row in find_rows(code)]
        found |= {each.upper() for each in rows} or {code.strip().upper()}
        if canonical := classify(code, None, None, None).code:
            found.add(canonical.upper())
    return frozenset(found)


# -- evidence ---


class Destination(Struct, frozen=True):
    """A destination, as reports show it."""

    id: str
    name: str
    """The id if it has none."""
    link: str | None = None


class PairCounts(Struct, frozen=True, kw_only=True):
    """What Segment counted of a source and a destination."""

    source: str
    """Its name."""
    destination: Destination
    received: int
    """Without those that were filtered at the source."""
    delivered: int = 0
    filtered: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    """Reason → discards of the events of the window."""
    is_balanced: bool = False
    """Whether at some time at or after the end of the window each event that was received had a result."""


class SourceCounts(Struct, frozen=True, kw_only=True):
    """What Segment counted of a source."""

    source: str
    received: int
    failed: Mapping[str, int] = field(default_factory=dict)
    """Reason → events that Segment received and dropped: failed on ingest."""
    filtered: int = 0


class CountsEvidence(Struct, frozen=True):
    """What Segment counted in the window."""

    sources: Sequence[SourceCounts]
    pairs: Sequence[PairCounts]

    @property
    def received(self) -> int:
        """The events that all sources received."""
        return sum(each.received for each in self.sources)


class LogsEvidence(Struct, frozen=True, kw_only=True):
    """What the failure logs say of the window."""

    groups: Sequence[Group]
    """Also those of `Report`. `lost` has only messages for which no later success can be added."""
    messages: Sequence[Message] = ()
    """Those of `Rules.messages` that failed."""
    is_settled: bool = True
    """Whether all hours of the window were read when nothing could be added to them."""
    settled_ns: int | None = None
    """When that can be so; None: nobody knows."""
    why_unsettled: str = ""
    """What is missing, and until when; a sentence without its end."""
    covers: str = ""
    """What was read."""


class Missing(Struct, frozen=True):
    """Evidence that was asked for and could not be had."""

    why: str
    do: str = ""
    again_ns: int | None = None
    """When it can be had; None if nobody knows."""


# -- checks ---


class Check(Struct, frozen=True, kw_only=True):
    """One check: what was expected, and what was found."""

    name: str
    verdict: Verdict
    says: str
    do: str = ""
    expected: str = ""
    found: str = ""
    source: Source | None = None
    """What it follows from; null: from both."""
    destination: str | None = None
    """The name of the destination, or its id; null if the check is not about one."""
    link: str | None = None
    events: int = 0
    """How many events or messages it is about; of the checks that failed, the worst one has the most."""
    final_at: str | None = None
    """When an unknown check can be known; null: nobody knows, or it is known."""


def missing_check(name: str, evidence: Missing, source: Source) -> Check:
    """Returns the check of evidence that could not be had: not known yet."""
    again_ns = evidence.again_ns
    return Check(
        name=name,
        verdict="unknown",
        says=evidence.why,
        do=evidence.do,
        expected="read",
        found="not read",
        source=source,
        final_at=None if again_ns is None else time_text(again_ns),
    )


def final_text(verdict: Verdict, final_ns: int | None) -> str | None:
    """Returns when an unknown verdict can be known; None for the others."""
    return time_text(final_ns) if verdict == "unknown" and final_ns is not None else None


def allowance_of(rules: Rules) -> Allowance:
    """Returns how many discards are tolerated: none by default."""
    return rules.max_failed or Allowance()


def is_closed(rules: Rules, after_ns: int) -> bool:
    """Returns whether this time has passed since the end of a window that has one."""
    return not rules.is_open and rules.now_ns >= rules.until_ns + after_ns
