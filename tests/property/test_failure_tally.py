"""The counts of a run over PATHs equal those of a naive model, at the precision of hours, over any spills."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import failure_model as model
from support.failure_model import GROUPS, HOUR_S, START_S, counted, failed, group, histories, numbered

from faillog_otel.clock import SECOND_NS
from faillog_otel.events.failure_counts import FAILED, REQUEST, BatchFailures, Note, other_group
from faillog_otel.otlp.failure_notes import NOTE
from faillog_otel.pipeline import failure_tally
from faillog_otel.pipeline.failure_tally import FailureTally


def by_hour(notes: list[Note]) -> list[Note]:
    """The notes as a tally keeps them: it takes the attempts of an hour in the order of their numbers."""
    return [
        (key, group, what, attempt, second // HOUR_S * HOUR_S + attempt, message, 0)
        for key, group, what, attempt, second, message, _ in notes
    ]


def packed(notes: list[Note]) -> list[bytes]:
    return [NOTE.pack(note[0], *note[1:4], note[4] // HOUR_S) for note in notes]


def batches(notes: list[Note], data: st.DataObject) -> Iterator[BatchFailures]:
    """As a process makes them, or a worker: its notes are one text."""
    while notes:
        size = data.draw(st.integers(1, 6))
        batch, notes = packed(notes[:size]), notes[size:]
        is_of_worker = data.draw(st.booleans())
        yield BatchFailures(packed=[b"".join(batch)] if is_of_worker else batch, groups=GROUPS)


@settings(max_examples=60, deadline=None)
@given(notes=histories(), data=st.data())
def test_any_notes_in_any_batches_add_up_to_the_same(notes: list[Note], data: st.DataObject) -> None:
    """`MAX_HELD_NOTES` and `MAX_HISTORIES` bound the memory: made small here."""
    with pytest.MonkeyPatch.context() as patch, closing(FailureTally()) as tally:
        patch.setattr(failure_tally, "MAX_HELD_NOTES", data.draw(st.sampled_from([1, 4, 1000])))
        patch.setattr(failure_tally, "MAX_HISTORIES", data.draw(st.sampled_from([0, 2, 1000])))
        for each in batches(notes, data):
            tally.add(each)
        samples = {note[0]: note[5] for note in notes if note[2] != REQUEST}
        tally.add(BatchFailures(samples=samples))
        for hours in (0, 12, 72):
            now_s = START_S + hours * HOUR_S
            found = tally.sums(now_s * SECOND_NS)
            assert counted(found) == model.sums(by_hour(notes), GROUPS, now_s)
            expected = model.messages(by_hour(notes), GROUPS, now_s).values()
            for sums in found.groups:
                of_group = [message for message in expected if message.group == sums.group.id]
                assert sums.sample in of_group if of_group else sums.sample is None


def test_records_without_a_message_id_are_one_message() -> None:
    """They are one message, whose history does not grow with each record."""
    notes = packed([failed("", 0, attempt=number % 9) for number in range(1000)]) * 200
    with closing(FailureTally()) as tally:
        tally.add(BatchFailures(packed=[b"".join(notes)], groups=GROUPS))
        [found] = tally.sums(START_S * SECOND_NS).groups
    assert (found.pending, found.attempts) == (1, 8)


def test_groups_beyond_the_maximum_are_counted_as_one() -> None:
    many = numbered(group(number, code=f"code_{number}") for number in range(100, 700))
    notes = packed([failed(f"m{number}", 0, number, what=FAILED) for number in many])
    with closing(FailureTally()) as tally:
        tally.add(BatchFailures(packed=notes, groups=many))
        found = counted(tally.sums((START_S + 24 * HOUR_S) * SECOND_NS))
    assert len(found) == 501
    assert found[other_group("d").id].lost == 100
