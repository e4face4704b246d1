"""The report of failures as JSON: valid by the published schemas, with every key."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from support.failure_sums import NOW_NS, group, message, sums
from support.json_schemas import all_keys, keys_in, problems

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS
from faillog_otel.config import LinksConfig
from faillog_otel.events.failure import FailureSums
from faillog_otel.reports.completeness import ByDestination, Completeness, ShortHour
from faillog_otel.reports.failures import Names, View, Window, failures_report, messages_report
from faillog_otel.segment.answers import Change

GROUP = sums(group("a", subscription="sub"), sample=message("m", "a"))
CHANGE = Change(
    id="c",
    at_ns=GROUP.first_ns - 60 * SECOND_NS,
    kind="Destination Modified",
    resource_id="mixpanel",
    resource_type="DESTINATION",
    resource_name="Mixpanel (prod)",
    actor="u",
    actor_email="",
)
VIEW = View(
    names=Names({"mixpanel": "Mixpanel (prod)", "sub": "Order Completed"}),
    links=LinksConfig(trace="https://t.example/{trace_id}", segment="https://s.example/{destination_id}"),
    changes=[CHANGE],
    completeness=ByDestination(
        {
            "mixpanel": Completeness(
                ("mixpanel",), 24, 2, 9, 8, 8 / 9, [ShortHour("2026-11-01T10:00:00Z", 3, 2)]
            )
        },
        {},
    ),
)
WINDOW = Window(since_ns=NOW_NS - DAY_NS, until_ns=NOW_NS, now_ns=NOW_NS, new_within_ns=DAY_NS)


def as_json(value: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def test_a_report_has_every_key_of_the_schema() -> None:
    found = as_json(failures_report(FailureSums([GROUP], forgotten=1), VIEW, WINDOW))
    assert problems("failures", found) == []
    named = {key.location for key in keys_in("failures", found) if not key.is_null}
    assert all_keys("failures") - named == set()


def test_a_message_has_every_key_of_the_schema() -> None:
    [line] = map(as_json, messages_report([message("m", "a")], FailureSums([GROUP]), VIEW))
    assert problems("failures-message", line) == []
    named = {key.location for key in keys_in("failures-message", line) if not key.is_null}
    assert all_keys("failures-message") - named == set()


@settings(max_examples=30)  # validating takes long
@given(
    destination=st.text(),
    subscription=st.none() | st.text(),
    code=st.none() | st.text(),
    status=st.none() | st.integers(0, 999),
    reason=st.none() | st.text(max_size=200),
    is_known=st.booleans(),
)
def test_a_report_of_any_group_is_valid(*, is_known: bool, **facts: Any) -> None:
    first_ns = NOW_NS - 50 * HOUR_NS
    failed = [message("m", "a", code=facts["code"])] * is_known
    group_sums = sums(group("a", **facts), first_ns=first_ns, sample=failed[0] if is_known else None)
    found = FailureSums([group_sums])
    view = View(links=VIEW.links)
    assert problems("failures", as_json(failures_report(found, view, WINDOW))) == []
    for line in messages_report(failed, found, view):
        assert problems("failures-message", as_json(line)) == []
