"""What the notes about a message add up to: its state, its group and code; in any order the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.failure_model import GROUPS, HOUR_S, START_S, failed, histories, message, succeeded

from faillog_otel.events.failure import PENDING_SECONDS, group_id
from faillog_otel.events.failure_counts import (
    DISCARDED,
    ERROR,
    LOST,
    PENDING,
    RECOVERED,
    REQUEST,
    UNKNOWN,
    MessageFacts,
    Note,
    ranks_of,
)

RANKS = ranks_of(GROUPS.values())
NOW_S = START_S + PENDING_SECONDS


def facts_of(notes: list[Note]) -> MessageFacts:
    facts = MessageFacts(notes[0][5])
    for _, group, what, attempt, second, _, _ in notes:
        facts.add(group, what, attempt, second, RANKS)
    return facts


@pytest.mark.parametrize(
    ("notes", "state"),
    [
        ([failed("m", 0)], PENDING),
        ([failed("m", -1)], LOST),
        ([failed("m", -9), failed("m", 0, attempt=2)], PENDING),
        ([failed("m", 0, what=DISCARDED)], LOST),
        ([failed("m", 0, what=ERROR)], PENDING),
        ([failed("m", 0), succeeded("m", 0)], RECOVERED),
        ([failed("m", -HOUR_S), succeeded("m", -HOUR_S + 1)], RECOVERED),
        ([failed("m", 1), succeeded("m", 0)], PENDING),
        ([failed("m", 0, what=DISCARDED), succeeded("m", 1)], RECOVERED),
        ([succeeded("m", 0)], UNKNOWN),
    ],
)
def test_the_state_of_a_message(notes: list[Note], state: int) -> None:
    """Six hours after the time from which the seconds count."""
    assert facts_of(notes).state(NOW_S) == state
    assert facts_of(notes[::-1]).state(NOW_S) == state


@pytest.mark.parametrize(
    ("groups", "group", "code"),
    [
        ([-5, 6], 6, "503"),  # a reason besides the status
        ([6, 7], 6, "PAYLOAD_TOO_LARGE"),  # the code is another group's
        ([4, -5], -5, "INVALID_SETTINGS"),  # a status says more than a code
        ([-2, 1], -2, None),
        ([1, 3], 3, "timeout"),
    ],
)
def test_group_and_code_are_the_most_specific_that_the_records_say(
    groups: list[int], group: int, code: str | None
) -> None:
    notes = [failed("m", 0, each) for each in groups]
    for each in (notes, notes[::-1]):
        found = facts_of(each).message("m", LOST, GROUPS)
        assert (found.group, found.code) == (group_id(group), code)


def test_of_groups_that_say_as_much_the_last_attempt_decides() -> None:
    """An error says no more than an attempt before it."""
    assert facts_of([failed("m", 9, 3), failed("m", 5, 3), failed("m", 20, 3, what=ERROR)]).group == 3
    notes = [failed("m", 1, -5), failed("m", 2, 7), failed("m", 3, -5, what=ERROR)]
    assert facts_of(notes).group == 7


@given(histories(), st.integers(0, 30 * HOUR_S))
def test_any_order_gives_what_the_definitions_say(notes: list[Note], after: int) -> None:
    for key in {note[0] for note in notes if note[2] != REQUEST}:
        of_message = [(*note[:6], 0) for note in notes if note[0] == key]
        expected = message(of_message, {}, GROUPS, START_S + after)
        for each in (of_message, of_message[::-1], sorted(of_message)):
            facts = facts_of(each)
            state = facts.state(START_S + after)
            found = facts.message(facts.message_id, state, GROUPS) if state else None
            assert found == expected
