"""The rows of a report of failures: groups with the records of one failure are one row."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from msgspec.structs import replace

from faillog_otel.events.failure import GroupFacts, GroupSums, group_facts


def code_of(sums: GroupSums) -> str | None:
    """Returns the most specific code that is known of a group."""
    return sums.code or sums.group.code


def merged(groups: Sequence[GroupSums]) -> list[GroupSums]:
    """Returns the rows to show: one for all groups with the records of one failure.

    An error with a code, and an exchange with a status and a reason, are two groups of one failure: same
    destination and code, and one of them says less. If several groups say more than another one
    and differ from each other, nobody knows whose messages these are, and it is a row of its own.
    """
    return [row for row, _ in merge(groups)]


def merge(groups: Sequence[GroupSums]) -> Iterator[tuple[GroupSums, list[str]]]:
    """Yields the rows, each with the ids of its groups."""
    failures: dict[tuple[str, str | None], dict[GroupFacts, list[GroupSums]]] = {}
    codes = _codes_of_answers(groups)
    for each in sorted(groups, key=lambda each: each.group.id):
        group = each.group
        answered = codes.get((group.destination, group.code), set())
        [code] = answered if len(answered) == 1 else [group.code]
        failure = failures.setdefault((group.destination, code), {})
        failure.setdefault(group_facts(group), []).append(each)
    for same in failures.values():
        numbers = {facts: sum(map(_number, each)) for facts, each in same.items()}
        for into, added in _plan(numbers).items():
            parts = [each for facts in (into, *added) for each in same[facts]]
            yield _sum(max(same[into], key=_certainty), parts), [each.group.id for each in parts]


def _codes_of_answers(groups: Iterable[GroupSums]) -> dict[tuple[str, str | None], set[str | None]]:
    """Returns destination and code that errors say → the codes of the answers to the same messages."""
    found: dict[tuple[str, str | None], set[str | None]] = {}
    for each in groups:
        if each.group.status is not None and each.code is not None:
            found.setdefault((each.group.destination, each.code), set()).add(each.group.code)
    return found


def _plan(known: Mapping[GroupFacts, int]) -> dict[GroupFacts, list[GroupFacts]]:
    """Returns the facts of each row → the facts that say less, and can be of this row.

    `known`: facts → messages. Requests without messages that can be of several rows are counted with the row
    of most messages.
    """
    plan: dict[GroupFacts, list[GroupFacts]] = {}
    rows_of: dict[GroupFacts, list[GroupFacts]] = {}
    for facts in sorted(known, key=lambda each: each.count(None)):
        rows = rows_of.get(facts, [])
        if len(rows) == 1 or (rows and not known[facts]):
            plan[max(rows, key=lambda row: known[row])].append(facts)
            continue
        plan[facts] = []
        for part in _parts(facts):
            rows_of.setdefault(part, []).append(facts)
    return plan


def _parts(facts: GroupFacts) -> set[GroupFacts]:
    """Returns all facts that say less."""
    some = product({facts.subscription, None}, {facts.status, None}, {facts.reason, None})
    return {GroupFacts(*each) for each in some} - {facts}


def _certainty(sums: GroupSums) -> tuple[bool, int]:
    return sums.group.code is not None, _number(sums)


def is_counted(row: GroupSums) -> bool:
    """Returns whether a row has anything to show: errors alone count as messages, perhaps of another row."""
    return bool(_number(row) or row.attempts or row.requests)


def _number(sums: GroupSums) -> int:
    """Returns how many messages are known of a group."""
    return sums.lost + sums.pending + sums.recovered


def _own_code(main: GroupSums, parts: Sequence[GroupSums]) -> str | None:
    """Returns the code that errors say, if it says more than the status; of several, the most frequent."""
    own = Counter({code: 0 for each in parts if (code := code_of(each)) and code != main.group.code})
    for each in parts:
        if code_of(each) in own:
            own[code_of(each) or ""] += max(_number(each), 1)
    return own.most_common(1)[0][0] if own else code_of(main)


def _sum(main: GroupSums, parts: Sequence[GroupSums]) -> GroupSums:
    if len(parts) == 1:
        return main
    counted = [each for each in parts if _number(each)] or parts  # others count requests in `by_hour`
    by_hour: dict[int, int] = {}
    for each in counted:
        for hour, number in each.by_hour.items():
            by_hour[hour] = by_hour.get(hour, 0) + number
    samples = [each.sample for each in (main, *parts) if each.sample]
    lost = [each for each in samples if each.state == "lost"]
    return replace(
        main,
        code=_own_code(main, parts),
        reason=main.reason or next((each.reason for each in parts if each.reason), None),
        lost=sum(each.lost for each in parts),
        pending=sum(each.pending for each in parts),
        recovered=sum(each.recovered for each in parts),
        attempts=sum(each.attempts for each in parts),
        requests=sum(each.requests for each in parts),
        first_ns=min(each.first_ns for each in parts),
        last_ns=max(each.last_ns for each in parts),
        seen_ns=min(each.seen_ns for each in parts),
        by_hour=by_hour,
        began_ns=min(each.began_ns or each.first_ns for each in parts),
        sample=next(iter(lost or samples), None),
    )
