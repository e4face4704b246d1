"""The simulated clock: it runs or stands, it can be moved, and `stop` ends every wait."""

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from faillog_otel.clock import HOUR_NS, SECOND_NS, Clock
from faillog_otel.sandbox.config import SimulatedClock


@given(st.floats(5e-324, 1e6))
def test_the_shortest_wait_moves_a_standing_clock(seconds: float) -> None:
    """A loop that waits for the rest of a time would not end otherwise."""
    clock = SimulatedClock(5 * HOUR_NS, standing=True)
    clock.wait(seconds)
    moved_ns = clock.now_ns() - 5 * HOUR_NS
    assert moved_ns >= max(1, seconds * 1e9)
    assert moved_ns - 1 <= seconds * 1e9


def test_waiting_moves_a_standing_clock() -> None:
    clock: Clock = SimulatedClock(5 * HOUR_NS, standing=True)
    before = clock.monotonic()
    assert clock.wait(3600.0) is False
    assert (clock.now_ns(), clock.monotonic() - before) == (6 * HOUR_NS, 3600.0)
    assert clock.wait(-1.0) is False
    assert clock.now_ns() == 6 * HOUR_NS


def test_a_running_clock_goes_on_from_the_time_that_was_set() -> None:
    clock = SimulatedClock()
    real_ns = time.time_ns()
    assert clock.now_ns() <= time.time_ns()
    clock.move_to(real_ns + HOUR_NS)
    assert clock.now_ns() >= real_ns + HOUR_NS
    clock.forward(60.0)
    assert clock.now_ns() >= real_ns + HOUR_NS + 60 * SECOND_NS


def test_monotonic_never_runs_backwards() -> None:
    clock = SimulatedClock(5 * HOUR_NS, standing=True)
    clock.forward(10.0)
    clock.move_to(HOUR_NS)
    clock.forward(5.0)
    assert clock.now_ns() == HOUR_NS + 5 * SECOND_NS
    assert clock.monotonic() == 15.0


def test_stop_ends_a_wait_and_every_later_one() -> None:
    clock, ended = SimulatedClock(), list[bool]()
    waiting = threading.Thread(target=lambda: ended.append(clock.wait(3600.0)))
    waiting.start()
    clock.stop()
    waiting.join()
    assert (ended, clock.wait(3600.0)) == ([True], True)


def test_waiting_does_not_move_a_stopped_clock() -> None:
    clock = SimulatedClock(5 * HOUR_NS, standing=True)
    clock.stop()
    assert clock.wait(3600.0) is True
    assert clock.now_ns() == 5 * HOUR_NS
