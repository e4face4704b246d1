"""Segment's time, from the Dates of its answers, whatever the machine's clock shows."""

from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import AGREES_NS, DAY_NS, HOUR_NS, MIN_TIME_NS, SECOND_NS, SegmentClock

NOW = 490_000 * HOUR_NS


class Machine:
    """A machine's clock and Segment's: the monotonic clock missed `lost_ns`."""

    def __init__(self, ahead_ns: int = 0) -> None:
        self.true_ns = NOW
        self.ahead_ns = ahead_ns
        self.lost_ns = 0

    def now_ns(self) -> int:
        return self.true_ns + self.ahead_ns

    def monotonic(self) -> float:
        return (self.true_ns - NOW - self.lost_ns) / SECOND_NS

    def wait(self, seconds: float) -> bool:
        self.true_ns += round(seconds * SECOND_NS)
        return False

    def ask(self, clock: SegmentClock, there: float = 0.0, back: float = 0.0) -> int | None:
        """A request and its answer, and how many seconds each was under way."""
        sent_ns = clock.now_ns()
        self.wait(there)
        date_ns = self.true_ns // SECOND_NS * SECOND_NS
        self.wait(back)
        return clock.take_date(date_ns, sent_ns)


AHEAD = st.integers(-100 * DAY_NS, 100 * DAY_NS)
UNDER_WAY = st.floats(0, 60)


@given(
    AHEAD, st.lists(st.tuples(AHEAD, st.integers(0, DAY_NS), UNDER_WAY, UNDER_WAY), min_size=1, max_size=5)
)
def test_after_an_answer_the_time_is_right_to_a_second_and_the_duration_of_the_exchange(
    ahead_ns: int, steps: list[tuple[int, int, float, float]]
) -> None:
    machine = Machine(ahead_ns)
    clock = SegmentClock(machine)
    for machine.ahead_ns, lost_ns, there, back in steps:
        machine.true_ns += lost_ns
        machine.lost_ns += lost_ns
        assert machine.ask(clock, there, back) is not None
        error_ns = clock.now_ns() - machine.true_ns
        assert abs(error_ns) <= SECOND_NS + round((there + back) * SECOND_NS)


def test_a_clock_that_agrees_is_not_changed() -> None:
    machine = Machine()
    clock = SegmentClock(machine)
    assert machine.ask(clock, 2.5, 0.7) == 0
    assert clock.now_ns() == machine.true_ns
    assert clock.is_agreed


def test_setting_the_machines_clock_changes_nothing() -> None:
    machine = Machine()
    clock = SegmentClock(machine)
    machine.ask(clock)
    machine.ahead_ns = 40 * DAY_NS
    machine.wait(60)
    assert clock.now_ns() == machine.true_ns
    assert clock.ahead_ns == 40 * DAY_NS
    assert not clock.is_agreed


def test_the_certain_time_is_the_earlier_of_both_clocks() -> None:
    for ahead_ns, certain_ns in ((40 * DAY_NS, NOW), (-40 * DAY_NS, NOW - 40 * DAY_NS)):
        machine = Machine(ahead_ns)
        clock = SegmentClock(machine)
        machine.ask(clock)
        assert abs(clock.certain_ns() - certain_ns) <= SECOND_NS


def test_an_implausible_date_is_ignored() -> None:
    assert SegmentClock(Machine()).take_date(MIN_TIME_NS - SECOND_NS, NOW) is None
    late = SegmentClock(Machine(40 * DAY_NS), agreed_ns=NOW)
    assert late.take_date(NOW - AGREES_NS - SECOND_NS, NOW) is None, "time does not go back"
    assert not late.is_checked
    assert late.take_date(NOW, NOW) is not None


def test_an_earlier_agreement_that_both_clocks_contradict_is_dropped() -> None:
    machine = Machine()
    clock = SegmentClock(machine, agreed_ns=NOW + 40 * DAY_NS)
    assert not clock.is_plausible
    assert machine.ask(clock) == 0
    assert clock.is_plausible
