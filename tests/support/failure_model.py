"""What failures add up to, counted naively from all notes at once: shares nothing with the program but types.

By the definitions of `events.failure`: see there for what a group and a state are.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

from hypothesis import strategies as st
from msgspec import Struct

from faillog_otel.events.failure import FailedMessage, FailureGroup, FailureSums, group_id, group_number
from faillog_otel.events.failure_counts import (
    DISCARDED,
    ERROR,
    FAILED,
    REQUEST,
    SUCCEEDED,
    Note,
    message_key,
)

HOUR_S = 3600
PENDING_S = 6 * HOUR_S


def group(number: int, destination: str = "d", **facts: object) -> FailureGroup:
    """A group with this number; without other facts, one that says nothing."""
    nothing = {"subscription": None, "code": None, "status": None, "reason": None}
    values: dict[str, object] = nothing | {"reason_class": "unknown", "retryable": None} | facts
    return FailureGroup(id=group_id(number), destination=destination, **values)  # type: ignore[arg-type]


def says(found: FailureGroup) -> int:
    """How much a group says: a status before a code before a reason."""
    return 4 * (found.status is not None) + 2 * (found.code is not None) + (found.reason is not None)


class Counted(Struct):
    """The sums of one group."""

    lost: int = 0
    pending: int = 0
    recovered: int = 0
    attempts: int = 0
    requests: int = 0
    by_hour: dict[int, int] = {}


def messages(notes: Iterable[Note], groups: dict[int, FailureGroup], now_s: int) -> dict[int, FailedMessage]:
    """The messages that failed, by key."""
    of_key: defaultdict[int, list[Note]] = defaultdict(list)
    answers: dict[int, int] = {}
    for note in notes:
        if note[2] == REQUEST:
            answers[note[0]] = note[1]
        else:
            of_key[note[0]].append(note)
    found = {key: message(each, answers, groups, now_s) for key, each in of_key.items()}
    return {key: each for key, each in found.items() if each is not None}


def message(
    notes: list[Note], answers: dict[int, int], groups: dict[int, FailureGroup], now_s: int
) -> FailedMessage | None:
    """The message with these notes; None if it did not fail."""
    failures = [note for note in notes if note[2] != SUCCEEDED]
    if not failures:
        return None
    said = [(says(groups[note[1]]), note[2] == FAILED, note[4], note[1]) for note in failures]
    said += [
        (says(groups[answers[note[6]]]), True, note[4], answers[note[6]])
        for note in failures
        if note[6] in answers and groups[note[1]].status is None
    ]
    most = max(said)[3]
    codes = [
        (rank, is_attempt, number)
        for rank, is_attempt, _, number in said
        if (code := groups[number].code) is not None and not code.isdigit()
    ]
    last = max(note[4] for note in failures)
    success = max((note[4] for note in notes if note[2] == SUCCEEDED), default=-1)
    is_over = any(note[2] == DISCARDED for note in failures) or last < now_s - PENDING_S
    return FailedMessage(
        message_id=notes[0][5],
        group=group_id(most),
        code=groups[max(codes)[2] if codes else most].code,
        state="recovered" if success >= last else "lost" if is_over else "pending",
        attempts=max((note[3] for note in failures if note[2] == FAILED), default=0),
        first_ns=min(note[4] for note in failures) * 10**9,
        last_ns=last * 10**9,
    )


def sums(notes: list[Note], groups: dict[int, FailureGroup], now_s: int) -> dict[str, Counted]:
    """The sums by group."""
    found: defaultdict[str, Counted] = defaultdict(Counted)
    hours: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for each in messages(notes, groups, now_s).values():
        of_group = found[each.group]
        setattr(of_group, each.state, getattr(of_group, each.state) + 1)
        of_group.attempts += each.attempts
        hours[each.group][each.first_ns // 10**9 // HOUR_S] += 1
    requests: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for note in notes:
        if note[2] == REQUEST:
            found[group_id(note[1])].requests += 1
            requests[group_id(note[1])][note[4] // HOUR_S] += 1
    for name, of_group in found.items():
        of_group.by_hour = dict(hours[name] or requests[name])
    return dict(found)


def counted(found: FailureSums) -> dict[str, Counted]:
    """The same of what the program says."""
    return {
        each.group.id: Counted(
            each.lost, each.pending, each.recovered, each.attempts, each.requests, each.by_hour
        )
        for each in found.groups
    }


def numbered(groups: Iterable[FailureGroup]) -> dict[int, FailureGroup]:
    """Number → group."""
    return {group_number(each.id): each for each in groups}


# -- notes ---

DAY = 20_000
START_S = DAY * 24 * HOUR_S

GROUPS = numbered(
    [
        group(1),
        group(-2, reason="timed out"),
        group(3, code="timeout", reason="timed out"),
        group(4, code="INVALID_SETTINGS"),
        group(-5, code="503", status=503),
        group(6, code="503", status=503, reason="unavailable"),
        group(7, code="PAYLOAD_TOO_LARGE", status=413),
    ]
)


def failed(
    message: str, second: int, of_group: int = -5, attempt: int = 1, exchange: int = 0, what: int = FAILED
) -> Note:
    key = message_key("d", message)
    return key, of_group, what, attempt, START_S + second, message, exchange


def succeeded(message: str, second: int) -> Note:
    return message_key("d", message), 0, SUCCEEDED, 0, START_S + second, message, 0


def request(exchange: int, second: int, of_group: int) -> Note:
    return exchange, of_group, REQUEST, 0, START_S + second, "", 0


@st.composite
def histories(draw: st.DrawFn) -> list[Note]:
    """Notes about some messages, in any order; an exchange comes after the attempts that wait for it."""
    notes: list[Note] = []
    exchanges = st.sampled_from([0, 0, 101, 102, 103])
    for number in range(draw(st.integers(1, 8))):
        began = draw(st.integers(0, 20 * HOUR_S))
        for _ in range(draw(st.integers(1, 5))):
            second = began + draw(st.integers(0, 4 * HOUR_S))
            what = draw(st.sampled_from([FAILED, FAILED, FAILED, ERROR, DISCARDED, SUCCEEDED]))
            if what == SUCCEEDED:
                notes.append(succeeded(f"m{number}", second))
                continue
            of_group = draw(st.sampled_from(list(GROUPS)))
            is_attempt = what == FAILED
            attempt, exchange = (draw(st.integers(1, 9)), draw(exchanges)) if is_attempt else (0, 0)
            notes.append(failed(f"m{number}", second, of_group, attempt, exchange, what))
    notes = draw(st.permutations(notes))
    waited_for = sorted({note[6] for note in notes} - {0})
    answers = [request(each, 5, draw(st.sampled_from(list(GROUPS)))) for each in waited_for]
    return [*notes, *draw(st.permutations(answers))]
