"""Whatever notes come, in whatever batches and order: the ledger's counts equal those of a naive model."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import failure_model as model
from support.failure_model import (
    DAY,
    GROUPS,
    HOUR_S,
    START_S,
    counted,
    failed,
    group,
    histories,
    numbered,
    request,
    succeeded,
)
from support.tiers import slow

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, hour_of
from faillog_otel.errors import LedgerBroken
from faillog_otel.events.failure import KEPT_SECONDS, FailureGroup
from faillog_otel.events.failure_counts import (
    BatchFailures,
    Note,
    other_group,
)
from faillog_otel.events.model import JSON_LINES, Survey
from faillog_otel.ledger import Content, Spooled, failure_store
from faillog_otel.ledger.audit import audit
from faillog_otel.ledger.failures import Changes
from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.ledger.results import BatchResult
from faillog_otel.ledger.state_dir import StateFolder
from faillog_otel.segment.hours import ObjectVersion

NOW_NS = (DAY + 3) * DAY_NS
"""When all notes are old."""
HOUR = hour_of(NOW_NS) - 10


class Ledger:
    """A ledger whose objects are read in batches of notes."""

    def __init__(self, folder: StateFolder) -> None:
        self.folder = folder
        self.ledger = SqliteLedger(folder)
        self.objects: dict[int, tuple[Spooled, int]] = {}
        """Which of those that are read at once → the object and its position."""
        self._paths = 0

    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = SqliteLedger(self.folder)

    def read(self, which: int, notes: Sequence[Note], groups: dict[int, FailureGroup] = GROUPS) -> Changes:
        """T3 of one of the objects that are read at once."""
        spooled, position = self.objects.get(which) or (self._spool(), 0)
        result = BatchResult()
        result.counts.records = result.counts.duplicate = len(notes)
        facts = {note[1]: groups[note[1]] for note in notes if note[1]}
        result.failures = BatchFailures(notes=list(notes), groups=facts)
        self.objects[which] = spooled, position
        changes = self.ledger.advance(spooled, position, result, NOW_NS)
        self.objects[which] = spooled, position + len(notes)
        return changes

    def finish(self, which: int) -> None:
        """T4."""
        if found := self.objects.pop(which, None):
            with closing(self.ledger.seen_records(found[0])) as seen:
                self.ledger.done(*found, seen)

    def finish_all(self) -> None:
        for which in list(self.objects):
            self.finish(which)

    def _spool(self) -> Spooled:
        self._paths += 1
        request = self.ledger.debit("c", HOUR, "fresh", NOW_NS)
        self.ledger.listed(request, "c", HOUR, [f"https://h/{self._paths}"], NOW_NS)
        listed = self.ledger.next_listed(NOW_NS)
        assert listed
        content = Content(0, 0, 0, "", Survey(JSON_LINES, None))
        self.ledger.spooled(listed, ObjectVersion(f"e{self._paths}", None, 9), content, NOW_NS)
        spooled = self.ledger.spooled_object(listed.id)
        assert spooled
        return spooled

    def sums(self, now_ns: int = NOW_NS) -> dict[str, model.Counted]:
        return counted(self.ledger.failure_sums(0, NOW_NS, now_ns))

    def sql(self, statement: str) -> None:
        """Does what the program would not do."""
        with closing(sqlite3.connect(self.folder.ledger)) as database, database:
            database.execute(statement)

    def problems(self) -> list[str]:
        return [f"{each.check}: {each.where}: {each.what}" for each in audit(self.folder).problems]


@contextmanager
def new_ledger(folder: Path) -> Iterator[Ledger]:
    with StateFolder(str(folder / "state")) as state:
        ledger = Ledger(state)
        yield ledger
        ledger.ledger.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path) as ledger:
        yield ledger


STEPS = ["read"] * 3 + ["finish", "reopen", "undo", "expire", "prune"]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(notes=histories(), data=st.data())
def test_any_notes_in_any_batches_add_up_to_the_same(notes: list[Note], data: st.DataObject) -> None:
    add_up_to_the_same(notes, data)


@slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(notes=histories(), data=st.data())
def test_many_notes_in_any_batches_add_up_to_the_same(notes: list[Note], data: st.DataObject) -> None:
    add_up_to_the_same(notes, data)


def add_up_to_the_same(notes: list[Note], data: st.DataObject) -> None:
    """Over merges, undone transactions, restarts and pruning. `finish` merges the notes."""
    with TemporaryDirectory() as folder, new_ledger(Path(folder)) as ledger:
        left, expired = list(notes), False
        while left:
            step, which = data.draw(st.sampled_from(STEPS)), data.draw(st.integers(0, 1))
            batch = left[: data.draw(st.integers(1, 6))]
            if step == "read":
                ledger.read(which, batch)
                del left[: len(batch)]
            elif step == "finish":
                ledger.finish(which)
            elif step == "reopen":
                ledger.reopen()
            elif step == "undo":
                ledger.sql(_REFUSES_NOTES)
                with pytest.raises(LedgerBroken):
                    ledger.read(which, batch)
                ledger.sql("DROP TRIGGER refuses")
            elif step == "expire":
                ledger.ledger.expire_messages(NOW_NS)
                expired = True
            else:
                ledger.ledger.prune(NOW_NS)
        ledger.finish_all()
        for now_s in (NOW_NS // SECOND_NS, *(() if expired else (START_S + 12 * HOUR_S,))):
            check(ledger, notes, now_s)
        assert ledger.problems() == []


_REFUSES_NOTES = """
CREATE TRIGGER refuses BEFORE INSERT ON message_notes BEGIN SELECT raise(ABORT, 'refused'); END
"""


def check(ledger: Ledger, notes: list[Note], now_s: int) -> None:
    """Whether sums, messages and samples are those of the model."""
    now_ns = now_s * SECOND_NS
    assert ledger.sums(now_ns) == model.sums(notes, GROUPS, now_s)
    expected = model.messages(notes, GROUPS, now_s).values()
    found = list(ledger.ledger.failed_messages(0, NOW_NS, now_ns))
    assert sorted(found, key=lambda each: each.message_id) == sorted(
        expected, key=lambda each: each.message_id
    )
    for each in ledger.ledger.failure_sums(0, NOW_NS, now_ns).groups:
        of_group = [message for message in expected if message.group == each.group.id]
        if of_group:
            assert each.sample in of_group
            assert each.sample
            assert each.sample.state == "lost" or not any(message.state == "lost" for message in of_group)
            assert each.first_ns // HOUR_NS == min(message.first_ns for message in of_group) // HOUR_NS
            assert each.last_ns >= max(message.last_ns for message in of_group)
    pending = sum(each.state == "pending" for each in expected)
    assert sum(ledger.ledger.pending_messages(now_ns).values()) == pending


class FullDisk(StateFolder):
    """A state folder whose ledger cannot grow until the ballast is given up."""

    ledger_of: Ledger | None = None

    def limit_pages(self, pages: int) -> None:
        assert self.ledger_of
        self.ledger_of.ledger.transact(lambda db: db.execute(f"PRAGMA max_page_count = {pages}"))

    def give_up_ballast(self) -> bool:
        self.limit_pages(1 << 20)
        return True


def test_a_batch_that_fits_only_after_the_ballast_is_given_up_is_counted_once(tmp_path: Path) -> None:
    """The first try leaves nothing: neither groups that are known but not stored, nor notes."""
    many = numbered(group(number, code=f"code_{number}", reason="r" * 200) for number in range(100, 300))
    notes = [failed(f"m{number}", number, number) for number in many]
    with FullDisk(str(tmp_path / "state")) as folder:
        ledger = folder.ledger_of = Ledger(folder)
        ledger.read(0, notes[:1], many)
        folder.limit_pages(1)  # as many as there are
        ledger.read(0, notes[1:], many)
        ledger.finish_all()
        assert ledger.sums() == model.sums(notes, many, NOW_NS // SECOND_NS)
        assert ledger.problems() == []
        ledger.ledger.close()


def test_a_message_in_two_slots_is_one(ledger: Ledger) -> None:
    """Its attempts are read from the last to the first, over a border of the ledger's slots of six hours."""
    notes = [failed("m", 8 * HOUR_S - each * HOUR_S, attempt=9 - each) for each in range(5)]
    for each in notes:
        ledger.read(0, [each])
        ledger.finish(0)
    [found] = ledger.ledger.failed_messages(0, NOW_NS, NOW_NS)
    assert (found.attempts, found.first_ns) == (9, (START_S + 4 * HOUR_S) * SECOND_NS)
    assert ledger.problems() == []


def test_an_exchange_gives_its_group_to_the_attempts_that_were_read_before(ledger: Ledger) -> None:
    """Also if a later attempt waits for another exchange."""
    ledger.read(0, [failed("m", 0, 1, attempt=1, exchange=11)])
    ledger.finish(0)
    ledger.read(0, [failed("m", 9, 1, attempt=2, exchange=12)])
    ledger.finish(0)
    ledger.read(0, [request(11, 0, 6)])
    ledger.finish(0)
    assert {name: each.lost for name, each in ledger.sums().items()} == {GROUPS[6].id: 1}
    ledger.read(0, [request(12, 9, 7)])
    ledger.finish(0)
    # 503 with a reason says more than 413 without one.
    assert {name: each.lost for name, each in ledger.sums().items()} == {GROUPS[6].id: 1, GROUPS[7].id: 0}
    assert ledger.problems() == []


def test_groups_beyond_the_maximum_of_a_day_are_counted_as_one(ledger: Ledger) -> None:
    """Of a destination; the ledger is opened anew in between."""
    many = numbered(group(number, code=f"code_{number}") for number in range(100, 700))
    notes = [failed(f"m{number}", number, number) for number in many]
    for at in range(0, 600, 50):
        ledger.read(0, notes[at : at + 50], many)
        ledger.reopen()
    ledger.read(0, [failed("n", 0, 699)], many)  # it was `other` before
    ledger.finish_all()
    found = ledger.sums()
    assert len(found) == 501
    assert found[other_group("d").id].lost == 101
    assert sum(each.lost for each in found.values()) == 601
    assert ledger.problems() == []
    tomorrow = [failed("t", 24 * HOUR_S, 698)]
    ledger.read(0, tomorrow, many)
    ledger.finish_all()
    assert ledger.sums()[many[698].id].lost == 1
    assert ledger.problems() == []


def test_only_a_group_that_no_known_failure_explains_is_new(ledger: Ledger) -> None:
    """An error says less than the exchange of the same failure; the ledger is opened anew in between."""
    groups = numbered(
        [
            group(1, code="401"),
            group(2, code="401", status=401, reason="Invalid API key"),
            group(3, code="401", status=401),
            group(4, code="401", status=401, subscription="s", reason="Invalid API key"),
            group(5, code="401", status=401, reason="The account is closed"),
            group(6, code="401", reason="The account is closed"),
            group(7, code="503", status=503),
            group(8, "e", code="401"),
        ]
    )
    new = []
    for number in groups:
        new += ledger.read(0, [failed(f"m{number}", 0, number)], groups).new_groups
        ledger.finish(0)
        ledger.reopen()
    assert [facts.id for facts, _ in new] == [groups[number].id for number in (1, 5, 7, 8)]


def test_messages_beyond_the_maximum_are_forgotten_but_stay_counted(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maximum is a bound for memory: made small here."""
    monkeypatch.setattr(failure_store, "MAX_MESSAGES", 20)
    for slot in range(4):
        ledger.read(0, [failed(f"m{slot}-{number}", slot * 6 * HOUR_S) for number in range(10)])
        ledger.finish(0)
    [found] = ledger.ledger.failure_sums(0, NOW_NS, NOW_NS).groups
    assert (found.lost, found.pending) == (40, 0)  # also those that were pending when they were forgotten
    sizes = ledger.ledger.failure_sizes()
    assert (sizes.messages, sizes.evicted) == (20, 20)
    assert len(list(ledger.ledger.failed_messages(0, NOW_NS, NOW_NS))) == 20
    assert ledger.problems() == []
    ledger.ledger.expire_messages(NOW_NS)
    assert ledger.sums()[GROUPS[-5].id].lost == 40
    assert ledger.problems() == []


def test_after_35_days_all_is_forgotten_and_a_group_that_comes_again_is_new(ledger: Ledger) -> None:
    ledger.read(0, [failed("m", 0, 1, exchange=11), request(12, 0, 6)])
    ledger.finish(0)
    ledger.ledger.prune((START_S + KEPT_SECONDS) * SECOND_NS)
    assert ledger.sums()
    gone_ns = (START_S + KEPT_SECONDS) * SECOND_NS + DAY_NS
    ledger.ledger.prune(gone_ns)
    assert ledger.sums() == {}
    for table in ("failure_groups", "messages", "message_sums", "failure_counts", "unanswered_attempts"):
        assert ledger.ledger.rows(f"SELECT * FROM {table}") == []  # noqa: S608  # our own words
    assert ledger.ledger.failure_sizes().messages == 0
    ledger.read(0, [failed("m", KEPT_SECONDS, 1)])
    ledger.finish(0)
    [found] = ledger.ledger.failure_sums(0, gone_ns + DAY_NS, gone_ns + DAY_NS).groups
    assert (found.group.id, found.lost) == (GROUPS[1].id, 1)
    assert ledger.problems() == []


def test_an_hour_that_is_read_again_does_not_count_twice(ledger: Ledger) -> None:
    notes = [failed("a", 0), failed("b", 60, 6), succeeded("b", 90), request(7, 0, 6)]
    ledger.read(0, notes)
    ledger.finish(0)
    before = ledger.sums()
    for _ in range(2):
        ledger.ledger.want("c", [HOUR])
        assert ledger.problems() == []
        ledger.read(0, notes[2:])
        ledger.read(0, notes[:2])
        ledger.finish(0)
    assert ledger.sums() == before
    assert ledger.problems() == []


def test_a_message_is_pending_then_lost_and_recovered_by_a_success_that_is_read_later(
    ledger: Ledger,
) -> None:
    ledger.read(0, [failed("m", 0), failed("m", 3600, attempt=2)])
    ledger.finish(0)

    def states(hours: float) -> tuple[int, int, int]:
        now_ns = int((START_S + hours * HOUR_S) * SECOND_NS)
        changes = ledger.ledger.expire_messages(now_ns)
        entered.update(changes.messages)
        [found] = ledger.ledger.failure_sums(0, NOW_NS, now_ns).groups
        return found.lost, found.pending, found.recovered

    entered: dict[tuple[str, str, str], int] = {}
    assert states(7) == (0, 1, 0)
    assert not entered
    assert states(7.1) == (1, 0, 0)
    assert entered == {("d", "lost", "unknown"): 1}
    ledger.read(0, [succeeded("m", 4 * HOUR_S)])
    ledger.finish(0)
    assert states(8) == (0, 0, 1)
    assert ledger.ledger.attempts_until_success(0, NOW_NS) == {3: 1}
    assert ledger.problems() == []
