"""Thirty days with Segment's counts: failures are collected where the quota is too small for all hours."""

import pytest
from support.scouted_days import Result, World, scouted_days
from support.tiers import slow, swept

from faillog_otel.clock import DAY_NS

pytestmark = pytest.mark.timeout(900)
"""Thirty days take minutes on a busy machine."""


def over(world: World, *, counts: bool = True) -> Result:
    found = scouted_days(world, counts=counts)
    print(world, counts, found)  # seen with -s
    assert found.max_in_24_hours <= 120
    assert found.refused == 0
    assert found.records > 100
    return found


@slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_twenty_collections_lose_no_failures_in_thirty_days(seed: int) -> None:
    found = over(World(20, seed))
    assert found.collected >= 0.99
    assert found.within_a_day >= 0.95


@pytest.mark.parametrize("seed", swept([1, 2], [1]))
def test_twenty_collections_lose_no_failures_in_three_days(seed: int) -> None:
    found = over(World(20, seed, incidents_a_week=2, days=3))
    assert found.collected >= 0.99
    assert found.within_a_day >= 0.95


@slow
@pytest.mark.parametrize("seed", [1, 2])
def test_the_plain_plan_of_five_collections_is_never_better(seed: int) -> None:
    plain, scouted = (over(World(5, seed), counts=counts) for counts in (False, True))
    assert scouted.collected >= plain.collected
    assert scouted.within_a_day >= plain.within_a_day - 0.001
    assert scouted.collected >= 0.99


@slow
@pytest.mark.parametrize("seed", [1, 2])
def test_counts_that_lie_are_found_within_two_days(seed: int) -> None:
    """All failures of one destination are counted as zero; it fails in every hour."""
    lying = "collection-03"
    found = over(World(20, seed, lying=lying, always_failing=lying, days=8))
    assert set(found.mistrusted_ns) == {lying}
    assert found.mistrusted_ns[lying] < found.long_failure_ns[lying] + 2 * DAY_NS


@slow
@pytest.mark.parametrize("seed", [1, 2])
def test_incidents_that_are_not_counted_are_found(seed: int) -> None:
    """All failures of one destination are counted as zero; most of its hours are empty.

    Hours counted as zero are listed about five hours apart, so that no long incident is overlooked.
    """
    lying = "collection-03"
    found = over(World(20, seed, lying=lying, days=10))
    assert set(found.mistrusted_ns) == {lying}
    assert found.mistrusted_ns[lying] < found.long_failure_ns[lying] + 2 * DAY_NS
    assert all(share >= 0.99 for name, share in found.by_collection.items() if name != lying)
