"""Which change of the workspace a group's first failure followed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.failure_sums import NOW_NS, group, sums

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, parse_rfc3339, time_text
from faillog_otel.events.failure import FailureSums, GroupSums
from faillog_otel.reports.changes import MAX_SECONDS, AfterChange, ChangeIndex
from faillog_otel.reports.failures import Group, Names, View, Window, failures_report
from faillog_otel.reports.failures_text import change_text
from faillog_otel.segment.answers import Change

FIRST_NS = NOW_NS - 10 * HOUR_NS
WINDOW = Window(since_ns=NOW_NS - DAY_NS, until_ns=NOW_NS, now_ns=NOW_NS, new_within_ns=DAY_NS)
NAMES = Names({"mixpanel": "Mixpanel (prod)", "shop": "Shop (web)"}, {"mixpanel": "shop"})


def change(seconds_before: float, resource: str = "mixpanel", **facts: Any) -> Change:
    """A change so long before the first failure."""
    at_ns = FIRST_NS - int(seconds_before * SECOND_NS)
    usual: dict[str, Any] = {
        "id": f"{resource} {seconds_before}",
        "at_ns": at_ns,
        "kind": "Destination Modified",
        "resource_id": resource,
        "resource_type": "DESTINATION",
        "resource_name": "Mixpanel (prod)",
        "actor": "",
        "actor_email": "",
    }
    return Change(**(usual | facts))


def row(*changes: Change, of: GroupSums | None = None) -> Group:
    """The row of a group with its first failure at `FIRST_NS`."""
    view = View(names=NAMES, changes=changes)
    found = failures_report(FailureSums([of or sums(group("a"), first_ns=FIRST_NS)]), view, WINDOW)
    [only] = found.groups
    return only


def test_the_change_before_the_first_failure_is_named() -> None:
    found = row(change(247))
    assert found.after_change == AfterChange(
        kind="Destination Modified",
        at=time_text(FIRST_NS - 247 * SECOND_NS),
        seconds_before=247,
        resource_name="Mixpanel (prod)",
        by=None,
    )
    assert change_text(found) == "failures began 4 minutes after 'Destination Modified'"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 seconds"), (1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (1800, "30 minutes")],
)
def test_the_time_between_is_said_in_words(seconds: int, text: str) -> None:
    assert change_text(row(change(seconds))) == f"failures began {text} after 'Destination Modified'"


@pytest.mark.parametrize("resource", ["mixpanel", "shop", "orders"])
def test_destination_source_and_mapping_count(resource: str) -> None:
    failed = sums(group("a", subscription="orders"), first_ns=FIRST_NS)
    assert row(change(60, resource), of=failed).after_change


def test_what_is_not_the_destination_is_named() -> None:
    found = row(change(60, "shop", kind="Source Modified", resource_name="Shop (web)"))
    assert change_text(found) == "failures began 1 minute after 'Source Modified' (Shop (web))"


def test_a_person_is_named_if_the_change_has_one() -> None:
    found = row(change(60, actor="u1", actor_email="jane@shop.example"))
    assert change_text(found).endswith("after 'Destination Modified' by jane@shop.example")
    assert "by u1" in change_text(row(change(60, actor="u1")))


@pytest.mark.parametrize("other", [change(60, "braze"), change(60, ""), change(-1), change(MAX_SECONDS + 1)])
def test_other_changes_are_not_named(other: Change) -> None:
    found = row(other)
    assert found.after_change is None
    assert change_text(found) == ""


def test_a_group_that_failed_before_the_window_began_then() -> None:
    """Its first failure in the window follows nothing."""
    old = sums(group("a"), first_ns=FIRST_NS, began_ns=FIRST_NS - 2 * HOUR_NS)
    assert row(change(60), of=old).after_change is None
    assert row(change(60 + 2 * 3600), of=old).after_change


def test_a_failure_in_the_second_of_the_change_follows_it() -> None:
    """Failures are known by whole seconds."""
    found = row(change(-0.7))
    assert found.after_change is not None
    assert found.after_change.seconds_before == 0


CHANGES = st.lists(
    st.builds(
        change,
        st.integers(-4000, 4000) | st.floats(-5, 5),
        st.sampled_from(["mixpanel", "shop", "braze", ""]),
    ),
    max_size=12,
)


@given(CHANGES, st.permutations(["mixpanel", "shop"]))
def test_only_the_nearest_change_counts(changes: list[Change], resources: list[str]) -> None:
    """Never one after the first failure, or too long before it, or of another resource."""
    found = ChangeIndex(changes).nearest(resources, FIRST_NS)
    first = FIRST_NS // SECOND_NS
    fitting = [
        first - each.at_ns // SECOND_NS
        for each in changes
        if each.resource_id in resources and 0 <= first - each.at_ns // SECOND_NS <= MAX_SECONDS
    ]
    assert (found.seconds_before if found else None) == min(fitting, default=None)
    if found:
        assert (parse_rfc3339(found.at) or 0) // SECOND_NS <= first


@given(CHANGES, st.randoms())
def test_the_order_of_changes_means_nothing(changes: list[Change], random: Any) -> None:
    shuffled = changes.copy()
    random.shuffle(shuffled)
    resources = ["mixpanel", "shop"]
    assert ChangeIndex(changes).nearest(resources, FIRST_NS) == ChangeIndex(shuffled).nearest(
        resources, FIRST_NS
    )
