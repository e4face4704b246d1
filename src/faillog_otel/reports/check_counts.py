"""The checks of `check` that follow from Segment's counts. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from faillog_otel.clock import HOUR_NS, time_text
from faillog_otel.reasons import classify
from faillog_otel.reports.check_evidence import (
    COUNTED_AFTER_NS,
    FINAL_AFTER_NS,
    RECEIVED_AFTER_NS,
    Check,
    CountsEvidence,
    Destination,
    Missing,
    PairCounts,
    Rules,
    Verdict,
    allowance_of,
    final_text,
    is_closed,
    missing_check,
)
from faillog_otel.reports.failures import NO_REMEDY
from faillog_otel.segment.overview import CountRow, Stage
from faillog_otel.text import counted

RECEIVED = "events received"


def counts_checks(rules: Rules, counts: CountsEvidence | Missing | None) -> Iterator[Check]:
    """Yields the checks of what was received, discarded and delivered. None: counts are not asked for."""
    if counts is None:
        return
    if isinstance(counts, Missing):
        yield missing_check("counts", counts, "counts")
        return
    yield _received(rules, counts)
    if not counts.pairs:
        yield Check(
            name="destinations",
            verdict="unknown",
            says="no destination is connected to the sources that were checked",
            do="check --source and --destination",
            expected="at least 1",
            found="0",
            source="counts",
        )
    for source in counts.sources:
        allowance = allowance_of(rules).of(source.received + sum(source.failed.values()))
        failed = {reason: (number, "") for reason, number in source.failed.items()}
        name = f"{source.source}: failed on ingest"
        yield from _discards(rules, name, failed, allowance or 0, None)
        if rules.no_filtered:
            yield _filtered(f"{source.source}: filtered at the source", source.filtered, None)
    for pair in counts.pairs:
        where, id_ = pair.destination.name, pair.destination.id
        tolerated = {
            reason: (number, rules.is_tolerated(id_, reason, None)) for reason, number in pair.failed.items()
        }
        allowance = allowance_of(rules).of(pair.received)
        yield from _discards(rules, f"{where}: discarded", tolerated, allowance or 0, pair.destination)
        if rules.no_filtered:
            yield _filtered(f"{where}: filtered", pair.filtered, pair.destination)
        yield _delivered(rules, pair)


def _received(rules: Rules, counts: CountsEvidence) -> Check:
    number, wanted = counts.received, rules.expect_received
    says = f"{counted(number, 'event')} received"
    do, final_ns = "", None
    verdict: Verdict = "passed"
    if wanted is not None and number < wanted:
        says += f", {wanted} expected"
        do = "check that the application sends with the write key of this source, and in the window"
        verdict = "failed" if is_closed(rules, RECEIVED_AFTER_NS) else "unknown"
        final_ns = rules.until_ns + RECEIVED_AFTER_NS
    elif wanted is None and not number:
        says = f"nothing was received until {time_text(rules.until_ns)}: nothing could fail"
        do = "check --source, --event and the window; or say how many were sent with --expect-received"
        verdict = "unknown"
        final_ns = None if is_closed(rules, RECEIVED_AFTER_NS) else rules.until_ns + RECEIVED_AFTER_NS
    elif wanted is None and rules.now_ns < rules.until_ns + COUNTED_AFTER_NS and not rules.is_open:
        says += " so far"
        verdict, final_ns = "unknown", rules.until_ns + COUNTED_AFTER_NS
    return Check(
        name=RECEIVED,
        verdict=verdict,
        says=says,
        do=do,
        expected=f"at least {wanted if wanted is not None else 1}",
        found=str(number),
        source="counts",
        events=max(0, (wanted or 0) - number),
        final_at=final_text(verdict, final_ns),
    )


def _discards(
    rules: Rules,
    name: str,
    failed: Mapping[str, tuple[int, str]],
    allowance: int,
    destination: Destination | None,
) -> Iterator[Check]:
    """Yields a check for each reason. `failed`: reason → discards, and why they are tolerated."""
    total = sum(number for number, why in failed.values() if not why)
    for reason, (number, why) in failed.items():
        row = classify(reason, None, None, None).row
        found = f"{counted(number, 'event')} discarded: {reason or 'no reason'}"
        verdict: Verdict = "passed"
        if why:
            found += f" ({why})"
        elif total <= allowance:
            found += f" ({allowance_of(rules).text} allowed)"
        elif rules.judges_discards:
            verdict = "failed"
        else:
            continue
        yield Check(
            name=f"{name}: {reason or 'no reason'}",
            verdict=verdict,
            says=f"{found}. {row.meaning}" if row else found,
            do=(row.remedy if row else NO_REMEDY) if verdict == "failed" else "",
            expected=f"at most {allowance}",
            found=str(number),
            source="counts",
            destination=destination.name if destination else None,
            link=destination.link if destination else None,
            events=number,
        )


def _filtered(name: str, number: int, destination: Destination | None) -> Check:
    return Check(
        name=name,
        verdict="failed" if number else "passed",
        says=f"{counted(number, 'event')} filtered",
        do="see which filter, mapping or consent setting drops them, or check without --no-filtered"
        if number
        else "",
        expected="0",
        found=str(number),
        source="counts",
        destination=destination.name if destination else None,
        link=destination.link if destination else None,
        events=number,
    )


def _delivered(rules: Rules, pair: PairCounts) -> Check:
    """Returns whether nothing is outstanding. A message that waits for a retry is in none of the counts."""
    failed = sum(pair.failed.values())
    done = pair.delivered + pair.filtered + failed
    says = f"{pair.delivered} delivered, {pair.filtered} filtered, {failed} discarded of {pair.received}"
    verdict: Verdict = "passed"
    left = pair.received - done
    if pair.is_balanced and left > 0:
        says += f"; {left} ended after the window"
    elif not pair.is_balanced and not is_closed(rules, FINAL_AFTER_NS):
        verdict = "unknown"
        says += f"; {left} may still be retried" if left > 0 else "; more results than events"
    return Check(
        name=f"{pair.destination.name}: delivered ({pair.source})",
        verdict=verdict,
        says=says,
        expected=f"a result for each of {pair.received}",
        found=str(done),
        source="counts",
        destination=pair.destination.name,
        link=pair.destination.link,
        final_at=final_text(verdict, rules.until_ns + FINAL_AFTER_NS),
    )


def is_clear(counts: CountsEvidence | Missing | None, checks: Iterable[Check]) -> bool:
    """Returns whether the counts prove that no event failed, nor can fail."""
    if not isinstance(counts, CountsEvidence) or not counts.pairs:
        return False
    discards = [*(each.failed for each in counts.pairs), *(each.failed for each in counts.sources)]
    return not any(sum(each.values()) for each in discards) and all(
        each.verdict == "passed" for each in checks
    )


# -- sums of Segment's series ---

LEAD_NS = 4 * HOUR_NS
"""Segment retries for about four hours: what it received earlier has a result by now."""


class Cuts(Struct, frozen=True, kw_only=True):
    """The times that counts are added up between, nanoseconds since 1970."""

    since_ns: int
    until_ns: int
    tail_ns: int
    """The end of what was read: at or after `until_ns`."""
    unit_ns: int
    """The length of a unit of the series."""
    is_open: bool = False
    """Whether discards after `until_ns` count, too."""

    @property
    def lead_ns(self) -> int:
        """The start of what has to be read: an event that is still retried then is not of the window."""
        return self.since_ns - LEAD_NS


def total(rows: Iterable[CountRow], start_ns: int, end_ns: int) -> int:
    """Returns the events in the units that begin between these times."""
    return sum(each.count for row in rows for each in row.series if start_ns <= each.at_ns < end_ns)


def by_reason(rows: Iterable[CountRow], start_ns: int, end_ns: int) -> Counter[str]:
    """Returns reason → events in the units that begin between these times."""
    found: Counter[str] = Counter()
    for row in rows:
        found[row.reason or ""] += total([row], start_ns, end_ns)
    return +found


def pair_counts(
    source: str, destination: Destination, rows: Mapping[Stage, Sequence[CountRow]], cuts: Cuts
) -> PairCounts:
    """Returns the evidence of a source and a destination.

    A discard after the window may be of an event in it, unless by then all of these had a result: as many
    count as lacked one.
    """
    start_ns = cuts.since_ns // cuts.unit_ns * cuts.unit_ns
    end_ns = -(-cuts.until_ns // cuts.unit_ns) * cuts.unit_ns
    tail_ns = -(-cuts.tail_ns // cuts.unit_ns) * cuts.unit_ns
    failed = by_reason(rows["failed"], start_ns, end_ns)
    received = _arrived(rows, start_ns, end_ns)
    delivered = total(rows["delivered"], start_ns, end_ns)
    filtered = total(rows["filtered"], start_ns, end_ns)
    late = by_reason(rows["failed"], end_ns, tail_ns)
    left = late.total() if cuts.is_open else received - delivered - filtered - failed.total()
    for reason, number in late.most_common():
        taken = max(0, min(number, left))
        failed[reason] += taken
        left -= taken
    return PairCounts(
        source=source,
        destination=destination,
        received=received,
        delivered=delivered,
        filtered=filtered,
        failed=dict(+failed),
        is_balanced=_is_balanced(rows, cuts.lead_ns, [start_ns])
        and _is_balanced(rows, start_ns, range(end_ns, max(end_ns, tail_ns) + 1, cuts.unit_ns)),
    )


def _arrived(rows: Mapping[Stage, Sequence[CountRow]], start_ns: int, end_ns: int) -> int:
    """Returns how many events a source received and did not filter: those that a destination gets."""
    return total(rows["received"], start_ns, end_ns) - total(rows["filtered_at_source"], start_ns, end_ns)


def _is_balanced(rows: Mapping[Stage, Sequence[CountRow]], start_ns: int, cuts: Iterable[int]) -> bool:
    """Returns whether from the start to one of these times, each event that arrived had a result.

    More results than events, as with several mappings, prove nothing.
    """
    changes: Counter[int] = Counter()
    for stage, sign in _SIGNS.items():
        for row in rows[stage]:
            for each in row.series:
                changes[each.at_ns] += sign * each.count
    return any(sum(n for at_ns, n in changes.items() if start_ns <= at_ns < cut) == 0 for cut in cuts)


_SIGNS: dict[Stage, int] = {
    "received": 1,
    "filtered_at_source": -1,
    "filtered": -1,
    "failed": -1,
    "delivered": -1,
}
