"""The report of failures: which rows it has, their order, and what each says."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.failure_sums import HOUR, NOW_NS, group, message, sums

from faillog_otel.clock import DAY_NS, HOUR_NS, hour_text
from faillog_otel.config import LinksConfig
from faillog_otel.events.failure import FailureSums, GroupSums
from faillog_otel.propagation import message_id_for
from faillog_otel.reasons import classify
from faillog_otel.reports.failures import (
    NO_MEANING,
    Failures,
    Filter,
    Group,
    Message,
    Names,
    View,
    Window,
    failures_report,
    messages_report,
)

WINDOW = Window(since_ns=NOW_NS - 7 * DAY_NS, until_ns=NOW_NS, now_ns=NOW_NS, new_within_ns=DAY_NS)


def report(*groups: GroupSums, view: View | None = None, limit: int | None = None) -> Failures:
    return failures_report(FailureSums([*groups]), view or View(), WINDOW, limit)


def ids(found: Failures) -> list[str]:
    return [each.group.rstrip("0") for each in found.groups]


def only(found: Failures) -> Group:
    [row] = found.groups
    return row


def test_the_worst_group_is_the_first() -> None:
    """Lost messages count most, then pending, recovered, attempts, and the last failure."""
    rising = [
        {},
        {"last_ns": NOW_NS},
        {"attempts": 9},
        {"recovered": 1},
        {"pending": 1, "last_ns": NOW_NS - 5 * HOUR_NS},
        {"lost": 2},
    ]
    groups = [
        sums(group(f"{number + 1:x}", destination=f"d{number}"), **counts)
        for number, counts in enumerate(rising)
    ]
    for seed in range(5):
        random.Random(seed).shuffle(groups)
        assert ids(report(*groups)) == ["6", "5", "4", "3", "2", "1"]


def test_equal_groups_keep_one_order() -> None:
    groups = [sums(group(f"{number:x}", destination=f"d{number}")) for number in range(1, 9)]
    assert ids(report(*groups)) == ids(report(*reversed(groups)))


def test_totals_are_those_of_all_groups_also_if_some_are_left_out() -> None:
    groups = [
        sums(group(f"{number:x}", destination=f"d{number}"), lost=number, pending=2) for number in range(1, 6)
    ]
    found = report(*groups, limit=2)
    assert ids(found) == ["5", "4"]
    assert (found.left_out, found.totals.messages.lost, found.totals.messages.pending) == (3, 15, 10)
    assert (found.totals.attempts, found.totals.requests) == (40, 40)


def test_evicted_messages_are_said() -> None:
    assert failures_report(FailureSums([], forgotten=7), View(), WINDOW).forgotten == 7


# -- what a row says ---------------------------------------------------------------------------------------


def test_a_row_says_where_what_and_when() -> None:
    names = Names({"mixpanel": "Mixpanel (prod)", "sub": "Order Completed"})
    row = only(report(sums(group("a", subscription="sub")), view=View(names=names)))
    assert (row.destination.id, row.destination.name) == ("mixpanel", "Mixpanel (prod)")
    assert (row.subscription, row.subscription_name) == ("sub", "Order Completed")
    assert (row.code, row.status, row.reason) == ("503", 503, "Service Unavailable")
    assert (row.first_seen, row.last_seen) == ("2025-05-07T04:17:00Z", "2025-05-07T10:17:00Z")
    assert row.by_hour == {"2025-05-07T04:00:00Z": 1}


def test_meaning_and_remedy_are_those_of_the_table() -> None:
    row = only(report(sums(group("a"))))
    known = classify("503", 503, None, None).row
    assert known
    assert (row.meaning, row.remedy) == (known.meaning, known.remedy)


def test_a_failure_without_a_row_in_the_table_says_where_to_look() -> None:
    row = only(
        report(sums(group("a", code=None, status=None, reason="?", reason_class="unknown", retryable=None)))
    )
    assert (row.meaning, row.reason_class, row.retryable) == (NO_MEANING, "unknown", None)
    assert "trace" in row.remedy


@pytest.mark.parametrize(
    ("seen_ns", "is_new"), [(NOW_NS, True), (NOW_NS - DAY_NS, True), (NOW_NS - DAY_NS - 1, False)]
)
def test_a_group_is_new_if_it_was_first_seen_lately(seen_ns: int, *, is_new: bool) -> None:
    assert only(report(sums(group("a"), seen_ns=seen_ns))).new is is_new


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_sample_has_the_trace_of_its_message() -> None:
    row = sums(group("a"), sample=message(message_id_for(TRACEPARENT), "a"))
    links = LinksConfig(trace="https://t.example/{trace_id}", segment="https://s.example/{destination_id}")
    joined = only(report(row, view=View(links=links)))
    assert joined.sample.trace_id == TRACEPARENT.split("-")[1]
    assert joined.sample.link == f"https://t.example/{joined.sample.trace_id}"
    assert joined.destination.link == "https://s.example/mixpanel"
    apart = only(report(row, view=View(links=links, join="link"))).sample.trace_id
    assert apart != joined.sample.trace_id


# -- filters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), ["a", "b"]),
        (Filter(destinations=["mixpanel"]), ["a"]),
        (Filter(destinations=["BRAZE (EU)"]), ["b"]),
        (Filter(destinations=["mixpanel", "braze"]), ["a", "b"]),
        (Filter(destinations=["amplitude"]), []),
        (Filter(classes=["rate_limit"]), ["b"]),
        (Filter(destinations=["mixpanel"], classes=["rate_limit"]), []),
    ],
)
def test_groups_are_chosen_by_destination_and_class(wanted: Filter, found: list[str]) -> None:
    braze = group("b", destination="braze", code="429", status=429, reason_class="rate_limit")
    groups = [sums(group("a"), lost=2), sums(braze)]
    names = Names({"braze": "Braze (EU)"})
    shown = report(*groups, view=View(names=names, filter=wanted))
    assert ids(shown) == found
    assert shown.totals.messages.lost == sum(each.messages.lost for each in shown.groups)


# -- groups of one failure ---------------------------------------------------------------------------------

ERROR = group(
    "e", code="INVALID_SETTINGS", status=None, reason=None, reason_class="settings", retryable=False
)
ANSWER = group(
    "f", code=None, status=401, reason="Invalid API key", reason_class="credentials", retryable=False
)


def test_an_error_with_a_code_and_an_answer_with_a_status_are_one_row() -> None:
    error = sums(
        ERROR, lost=0, attempts=0, requests=0, by_hour={HOUR - 12: 5}, first_ns=NOW_NS - 12 * HOUR_NS
    )
    answer = sums(ANSWER, code="INVALID_SETTINGS", lost=3, by_hour={HOUR - 10: 3})
    row = only(report(error, answer))
    assert (row.group.rstrip("0"), row.code, row.status) == ("f", "INVALID_SETTINGS", 401)
    assert row.reason == "Invalid API key"
    assert (row.messages.lost, row.attempts, row.requests) == (3, 8, 8)
    assert row.first_seen == "2025-05-07T02:17:00Z"
    assert row.by_hour == {hour_text(HOUR - 10): 3}, "only messages: an error without one counts requests"


@pytest.mark.parametrize(
    "other",
    [
        {"destination": "braze"},
        {"subscription": "sub"},
        {"code": "NO_ACCESS"},
        {"status": 403},
        {"reason": "another one"},
    ],
)
def test_groups_of_different_failures_stay_apart(other: dict[str, Any]) -> None:
    facts = {"subscription": "map", "code": "INVALID_SETTINGS", "status": 401, "reason": "Invalid API key"}
    first, second = sums(group("a", **facts)), sums(group("b", **(facts | other)))
    assert sorted(ids(report(first, second))) == ["a", "b"]


def test_a_group_that_two_others_may_explain_is_a_row_of_its_own() -> None:
    first = sums(group("a", reason="one"))
    second = sums(group("b", reason="two"))
    bare = sums(group("c", reason=None))
    assert sorted(ids(report(first, second, bare))) == ["a", "b", "c"]
    assert sorted(ids(report(first, bare))) == ["a"]


def test_a_group_whose_messages_count_for_other_groups_is_no_row() -> None:
    first, second = sums(group("a", reason="one")), sums(group("b", reason="two"))
    errors = sums(group("c", reason=None), lost=0, attempts=0, requests=0, by_hour={})
    assert sorted(ids(report(first, second, errors))) == ["a", "b"]


def test_the_sample_of_a_row_is_a_lost_message_if_one_of_its_groups_has_one() -> None:
    answer = sums(ANSWER, code="INVALID_SETTINGS", sample=message("pending", "f", state="pending"))
    error = sums(ERROR, sample=message("lost", "e"))
    assert only(report(answer, error)).sample.message_id == "lost"


FACTS = st.builds(
    lambda id_, destination, code, status, reason: group(
        f"{id_:04x}", destination=destination, code=code, status=status, reason=reason
    ),
    st.integers(1, 0xFFFF),
    st.sampled_from(["mixpanel", "braze"]),
    st.sampled_from([None, "503", "INVALID_SETTINGS"]),
    st.sampled_from([None, 401, 503]),
    st.sampled_from([None, "Invalid API key", "Timeout after 1 s", "Timeout after 2 s"]),
)
SUMS = st.builds(
    lambda of, code, lost, pending, recovered, attempts: sums(
        of,
        code=code,
        lost=lost,
        pending=pending,
        recovered=recovered,
        attempts=attempts,
        sample=message("m", of.id) if lost else None,
    ),
    FACTS,
    st.sampled_from([None, "INVALID_SETTINGS"]),
    *(st.integers(0, 3) for _ in range(4)),
)
GROUPS = st.lists(SUMS, max_size=12, unique_by=lambda each: each.group.id)


@given(GROUPS, st.randoms(use_true_random=False))
def test_rows_add_up_and_do_not_depend_on_the_order_of_the_groups(
    groups: list[GroupSums], shuffler: random.Random
) -> None:
    found = report(*groups)
    messages = found.totals.messages
    assert messages.lost == sum(each.lost for each in groups)
    assert messages.pending == sum(each.pending for each in groups)
    assert messages.recovered == sum(each.recovered for each in groups)
    assert found.totals.attempts == sum(each.attempts for each in groups)
    shuffler.shuffle(groups)
    assert report(*groups) == found


@given(GROUPS)
def test_every_message_is_shown_with_the_row_of_its_group(groups: list[GroupSums]) -> None:
    groups = [replace(each, lost=each.lost + 1) for each in groups]
    rows = {each.group: each for each in report(*groups).groups}
    failed = [message(f"m{number}", each.group.id) for number, each in enumerate(groups)]
    lines = [*messages_report(failed, FailureSums(groups), View())]
    assert [each.message_id for each in lines] == [each.message_id for each in failed]
    for line in lines:
        row = rows[line.group]
        assert (line.destination, line.status, line.code) == (row.destination, row.status, row.code)


# -- messages ----------------------------------------------------------------------------------------------


def test_a_message_says_what_failed_and_where_its_trace_is() -> None:
    links = LinksConfig(trace="https://t.example/{trace_id}?m={message_id}")
    failed = message("a b", "a", code="TIMEOUT", state="pending")
    [line] = messages_report([failed], FailureSums([sums(group("a"))]), View(links=links))
    assert line == Message(
        message_id="a b",
        destination=line.destination,
        state="pending",
        attempts=8,
        code="TIMEOUT",
        status=503,
        group=group("a").id,
        first_seen="2025-05-07T04:17:00Z",
        last_seen="2025-05-07T08:17:00Z",
        trace_id=line.trace_id,
        link=f"https://t.example/{line.trace_id}?m=a%20b",
    )


def test_messages_are_filtered_as_groups_are() -> None:
    groups = FailureSums([sums(group("a")), sums(group("b", destination="braze"))])
    failed = [message("1", "a"), message("2", "b")]
    view = View(filter=Filter(destinations=["braze"]))
    assert [each.message_id for each in messages_report(failed, groups, view)] == ["2"]
