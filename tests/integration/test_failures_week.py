"""A week with five incidents: `failures --json` alone names all five as they were, and no sixth."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.failures_week import DAY, MONDAY_NS, WEEK, differences, polled_week
from support.tiers import slow_case

from faillog_otel.clock import DAY_NS
from faillog_otel.sandbox.generator import Dialect
from faillog_otel.sandbox.incidents import Incident


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("incidents", "days", "per_hour", "dialect"),
    [
        (WEEK, 7, 20, "page"),
        slow_case(WEEK, 7, 20, "draft"),
        slow_case(DAY, 2, 20_000, "page"),  # a week of these would be seven million records
    ],
    ids=["page", "draft", "20,000 an hour"],
)
def test_failures_names_each_incident_as_it_was_and_no_other(
    tmp_path: Path, incidents: Sequence[Incident], days: int, per_hour: float, dialect: Dialect
) -> None:
    with polled_week(tmp_path, incidents, per_hour, dialect) as week:
        week.poll_until(MONDAY_NS + days * DAY_NS)
        truth = week.segment.failures().listed
        assert {sums.incident for sums in truth} == {str(each) for each in incidents}
        assert differences(week.failures(), truth) == []
