"""The verdict of `check`: never passed too early, never failed for what recovered."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, time_text
from faillog_otel.events.failure import MessageState
from faillog_otel.reports.check import Report, judge
from faillog_otel.reports.check_counts import LEAD_NS, Cuts, pair_counts
from faillog_otel.reports.check_evidence import (
    FINAL_AFTER_NS,
    Allowance,
    CountsEvidence,
    Destination,
    Known,
    LogsEvidence,
    Missing,
    PairCounts,
    Rules,
    SourceCounts,
    codes_of,
)
from faillog_otel.reports.failures import Group, Message, MessageCounts, Named, Sample
from faillog_otel.segment.overview import Counted, CountRow, Stage

MINUTE_NS = 60 * 10**9
START_NS = 1_790_000_000 * 10**9 // HOUR_NS * HOUR_NS
END_NS = START_NS + HOUR_NS
MIXPANEL = Destination("mixpanel-id", "Mixpanel (prod)")
RULES = Rules(since_ns=START_NS, until_ns=END_NS, now_ns=END_NS + 2 * MINUTE_NS)
LATER = replace(RULES, now_ns=END_NS + 8 * HOUR_NS)
NOT_READ = Missing("the logs were not read", again_ns=END_NS + 8 * HOUR_NS)


def counted(
    received: int = 10,
    delivered: int = 10,
    failed: dict[str, int] | None = None,
    *,
    filtered: int = 0,
    is_balanced: bool = True,
) -> CountsEvidence:
    """The counts of one source and one destination."""
    pair = PairCounts(
        source="web",
        destination=MIXPANEL,
        received=received,
        delivered=delivered,
        filtered=filtered,
        failed=failed or {},
        is_balanced=is_balanced,
    )
    return CountsEvidence([SourceCounts(source="web", received=received)], [pair])


def group(
    lost: int = 0,
    pending: int = 0,
    recovered: int = 0,
    code: str = "INVALID_SETTINGS",
    id_: str = "0123456789abcdef",
) -> Group:
    """A failure group; its last failure is at the end of the window."""
    return Group(
        group=id_,
        destination=Named(MIXPANEL.id, MIXPANEL.name),
        subscription=None,
        subscription_name=None,
        code=code,
        status=401,
        reason_class="credentials",
        retryable=False,
        reason="bad key",
        messages=MessageCounts(lost, pending, recovered),
        attempts=1,
        requests=1,
        first_seen=time_text(START_NS),
        last_seen=time_text(END_NS),
        new=True,
        by_hour={},
        meaning="The key is wrong.",
        remedy="Correct the key.",
        sample=Sample(None, None, None),
    )


def logged(*groups: Group, is_settled: bool = True, messages: Sequence[Message] = ()) -> LogsEvidence:
    """What the logs say."""
    return LogsEvidence(
        groups=groups,
        messages=messages,
        is_settled=is_settled,
        settled_ns=None if is_settled else END_NS + 8 * HOUR_NS,
        why_unsettled="not all hours are read",
    )


def message(id_: str, state: MessageState) -> Message:
    """A message of the only group."""
    failing = group()
    return Message(
        message_id=id_,
        destination=failing.destination,
        state=state,
        attempts=1,
        code=failing.code,
        status=failing.status,
        group=failing.group,
        first_seen=failing.first_seen,
        last_seen=failing.last_seen,
        trace_id="",
        link=None,
    )


def verdict_of(report: Report, name: str) -> str:
    """The verdict of the check with this name."""
    return next(each.verdict for each in report.checks if each.name == name)


def test_all_that_was_received_was_delivered() -> None:
    assert judge(RULES, counted(), NOT_READ).verdict == "passed"


def test_a_discard_fails_at_once_although_logs_are_not_read() -> None:
    report = judge(RULES, counted(delivered=9, failed={"INVALID_SETTINGS": 1}), NOT_READ)
    assert report.verdict == "failed"
    assert report.checks[0].says.startswith("1 event discarded: INVALID_SETTINGS. ")
    assert report.checks[0].do


def test_outstanding_messages_are_not_known_until_segment_no_longer_retries() -> None:
    report = judge(RULES, counted(delivered=9, is_balanced=False), None)
    assert (report.verdict, report.final_at) == ("unknown", time_text(END_NS + FINAL_AFTER_NS))
    assert judge(LATER, counted(delivered=9, is_balanced=False), None).verdict == "passed"


def test_nothing_received_is_never_passed() -> None:
    nothing = counted(0, 0)
    assert judge(RULES, nothing, None).verdict == "unknown"
    assert judge(LATER, nothing, logged()).verdict == "unknown"


def test_too_few_received_fail_an_hour_after_the_window() -> None:
    few = counted(2, 2)
    assert judge(replace(RULES, expect_received=3), few, None).verdict == "unknown"
    assert judge(replace(LATER, expect_received=3), few, None).verdict == "failed"
    assert judge(replace(LATER, expect_received=3, is_open=True), few, None).verdict == "unknown"


def test_counts_are_not_trusted_in_the_minute_in_which_they_appear() -> None:
    early = replace(RULES, now_ns=END_NS)
    assert judge(early, counted(), None).verdict == "unknown"
    assert judge(replace(early, expect_received=10), counted(), None).verdict == "passed"


def test_filtered_events_fail_only_if_asked() -> None:
    some = counted(delivered=8, filtered=2)
    assert judge(RULES, some, None).verdict == "passed"
    assert judge(replace(RULES, no_filtered=True), some, None).verdict == "failed"


def test_events_that_failed_on_ingest_fail() -> None:
    source = SourceCounts(source="web", received=10, failed={"payload_too_large": 1})
    assert judge(RULES, replace(counted(), sources=[source]), None).verdict == "failed"


@pytest.mark.parametrize(
    ("allowance", "failed", "verdict"),
    [
        (Allowance(1), 1, "passed"),
        (Allowance(1), 2, "failed"),
        (Allowance(percent=Fraction(20)), 2, "passed"),
        (Allowance(percent=Fraction(19)), 2, "failed"),
        (Allowance(percent=Fraction(1, 10)), 1, "failed"),
    ],
)
def test_so_many_discards_are_allowed(allowance: Allowance, failed: int, verdict: str) -> None:
    rules = replace(RULES, max_failed=allowance)
    assert judge(rules, counted(delivered=10 - failed, failed={"400": failed}), None).verdict == verdict


@pytest.mark.parametrize("code", ["errors.discarded.invalid_settings", "Invalid_Settings"])
def test_allowed_codes_do_not_count(code: str) -> None:
    rules = replace(LATER, allowed=codes_of(code))
    some = counted(delivered=9, failed={"INVALID_SETTINGS": 1})
    assert judge(rules, some, logged(group(lost=1))).verdict == "passed"
    assert judge(rules, counted(delivered=9, failed={"ETIMEDOUT": 1}), None).verdict == "failed"


def test_a_status_allows_its_code() -> None:
    assert codes_of("401") & codes_of(None, 401)


def test_only_new_failures_count() -> None:
    known = Known(frozenset([group().group]), frozenset([(MIXPANEL.id, "INVALID_SETTINGS")]))
    rules = replace(LATER, known=known)
    some = counted(delivered=9, failed={"INVALID_SETTINGS": 1})
    assert judge(rules, some, logged(group(lost=1))).verdict == "passed"
    assert judge(rules, None, logged(group(lost=1, id_="f" * 16))).verdict == "failed"


def test_logs_without_a_failure_pass_once_they_are_settled() -> None:
    assert judge(LATER, None, logged()).verdict == "passed"
    report = judge(RULES, None, logged(is_settled=False))
    assert (report.verdict, report.final_at) == ("unknown", time_text(END_NS + 8 * HOUR_NS))


def test_lost_messages_fail_and_recovered_ones_do_not() -> None:
    assert judge(LATER, None, logged(group(lost=1))).verdict == "failed"
    assert judge(LATER, None, logged(group(recovered=3))).verdict == "passed"


def test_pending_messages_are_not_known_until_six_hours_after_their_last_failure() -> None:
    report = judge(RULES, None, logged(group(pending=1), is_settled=False))
    assert (report.verdict, report.final_at) == ("unknown", time_text(END_NS + 8 * HOUR_NS))
    assert judge(RULES, None, logged(group(pending=1))).final_at == time_text(END_NS + FINAL_AFTER_NS)


def test_counts_that_have_a_result_for_each_event_decide_for_pending_messages() -> None:
    assert judge(RULES, counted(), logged(group(pending=1), is_settled=False)).verdict == "passed"


def test_a_share_of_an_unknown_number_is_not_known() -> None:
    rules = replace(LATER, max_failed=Allowance(percent=Fraction(1)))
    assert judge(rules, None, logged(group(lost=1))).verdict == "unknown"


@pytest.mark.parametrize(
    ("states", "is_settled", "verdict"),
    [
        (["lost"], False, "failed"),
        (["recovered", "lost"], True, "failed"),
        (["pending"], False, "unknown"),
        (["recovered"], True, "passed"),
        ([], True, "passed"),
        ([], False, "unknown"),
    ],
)
def test_each_message_has_a_verdict(states: list[MessageState], is_settled: bool, verdict: str) -> None:
    rules = replace(RULES, messages=("m-1", "m-2"))
    logs = logged(group(lost=5), is_settled=is_settled, messages=[message("m-1", state) for state in states])
    report = judge(rules, None, logs)
    assert verdict_of(report, "m-1") == verdict
    assert verdict_of(report, "m-2") == ("passed" if is_settled else "unknown")


def test_counts_without_a_discard_clear_all_messages() -> None:
    rules = replace(RULES, messages=("m-1",))
    assert judge(rules, counted(), NOT_READ).verdict == "passed"


def test_discards_of_other_messages_do_not_fail() -> None:
    rules = replace(RULES, messages=("m-1",))
    some = counted(delivered=9, failed={"INVALID_SETTINGS": 1})
    assert judge(rules, some, NOT_READ).verdict == "unknown"
    assert judge(rules, some, logged(group(lost=1))).verdict == "passed"
    assert judge(replace(rules, max_failed=Allowance(0)), some, logged()).verdict == "failed"


def test_the_worst_check_is_the_first() -> None:
    report = judge(RULES, counted(delivered=4, failed={"400": 1, "401": 5}), NOT_READ)
    assert [each.found for each in report.checks[:2]] == ["5", "1"]
    assert {each.verdict for each in report.checks[2:]} == {"unknown", "passed"}


# -- rules for all inputs ---

NUMBERS = st.integers(0, 20)
GROUPS = st.builds(group, NUMBERS, NUMBERS, NUMBERS)
LOGS = st.builds(
    lambda groups, is_settled: logged(*groups, is_settled=is_settled),
    st.lists(GROUPS, max_size=3),
    st.booleans(),
)
COUNTS = st.builds(
    lambda received, delivered, failed, is_balanced: counted(
        received, delivered, failed, is_balanced=is_balanced
    ),
    NUMBERS,
    NUMBERS,
    st.dictionaries(st.sampled_from(["400", "401", "ETIMEDOUT", "x"]), st.integers(1, 5), max_size=3),
    st.booleans(),
)
ALLOWANCES = st.one_of(
    st.none(),
    st.builds(Allowance, st.integers(0, 3)),
    st.builds(lambda percent: Allowance(percent=Fraction(percent)), st.integers(0, 100)),
)
ALL_RULES = st.builds(
    lambda hours, max_failed, expect, is_open: Rules(
        since_ns=START_NS,
        until_ns=END_NS,
        is_open=is_open,
        now_ns=END_NS + hours * HOUR_NS,
        max_failed=max_failed,
        expect_received=expect,
    ),
    st.integers(0, 10),
    ALLOWANCES,
    st.one_of(st.none(), NUMBERS),
    st.booleans(),
)


@given(ALL_RULES, COUNTS, st.one_of(LOGS, st.just(NOT_READ), st.none()))
def test_more_discards_never_make_it_pass(
    rules: Rules, counts: CountsEvidence, logs: LogsEvidence | Missing | None
) -> None:
    before = judge(rules, counts, logs).verdict
    pair = counts.pairs[0]
    more = replace(pair, failed={**pair.failed, "401": pair.failed.get("401", 0) + 1})
    after = judge(rules, replace(counts, pairs=[more]), logs).verdict
    assert before == "passed" or after != "passed"
    assert before != "failed" or after == "failed"


@given(ALL_RULES, st.one_of(COUNTS, st.none()), LOGS)
def test_more_lost_messages_never_make_it_pass(
    rules: Rules, counts: CountsEvidence | None, logs: LogsEvidence
) -> None:
    before = judge(rules, counts, logs).verdict
    more = replace(logs, groups=[*logs.groups, group(lost=1)])
    after = judge(rules, counts, more).verdict
    assert before == "passed" or after != "passed"
    assert before != "failed" or after == "failed"


@given(ALL_RULES, LOGS, COUNTS)
def test_it_never_passes_without_a_proof(rules: Rules, logs: LogsEvidence, counts: CountsEvidence) -> None:
    report = judge(rules, counts, logs)
    if report.verdict != "passed":
        return
    is_final = not rules.is_open and rules.now_ns >= rules.until_ns + FINAL_AFTER_NS
    assert counts.pairs[0].is_balanced or is_final or logs.is_settled
    assert counts.received >= (1 if rules.expect_received is None else rules.expect_received)


# -- sums of Segment's series ---

CUTS = Cuts(since_ns=START_NS, until_ns=END_NS, tail_ns=END_NS + HOUR_NS, unit_ns=MINUTE_NS)
STAGES: tuple[Stage, ...] = ("received", "filtered_at_source", "filtered", "failed", "delivered")


def series(**minutes: dict[int, int]) -> dict[Stage, list[CountRow]]:
    """Stage → minute of the window → events."""
    return {
        stage: [
            CountRow(
                tuple(Counted(START_NS + at * MINUTE_NS, n) for at, n in minutes.get(stage, {}).items()),
                reason="401" if stage == "failed" else None,
            )
        ]
        for stage in STAGES
    }


def test_events_have_results_in_later_minutes() -> None:
    found = pair_counts("web", MIXPANEL, series(received={59: 3}, delivered={59: 1, 60: 2}), CUTS)
    assert found.is_balanced
    assert (found.received, found.delivered) == (3, 1)


def test_later_discards_count_as_far_as_events_of_the_window_lacked_a_result() -> None:
    rows = series(received={5: 3, 61: 9}, delivered={5: 2}, failed={70: 5})
    assert pair_counts("web", MIXPANEL, rows, CUTS).failed == {"401": 1}
    assert pair_counts("web", MIXPANEL, rows, replace(CUTS, is_open=True)).failed == {"401": 5}


def test_an_event_of_before_the_window_proves_nothing() -> None:
    before = -LEAD_NS // MINUTE_NS + 1
    rows = series(received={before: 1, 5: 3}, delivered={5: 1, 6: 2})
    assert not pair_counts("web", MIXPANEL, rows, CUTS).is_balanced


def test_more_results_than_events_prove_nothing() -> None:
    assert not pair_counts("web", MIXPANEL, series(received={5: 3}, delivered={5: 6}), CUTS).is_balanced


def test_events_that_were_filtered_at_the_source_need_no_result() -> None:
    rows = series(received={5: 3}, filtered_at_source={5: 1}, delivered={5: 2})
    found = pair_counts("web", MIXPANEL, rows, CUTS)
    assert (found.is_balanced, found.received) == (True, 2)


@given(
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59), st.booleans()), min_size=1, max_size=30),
    st.integers(0, 29),
)
def test_an_outstanding_event_is_never_balanced(
    events: list[tuple[int, int, bool]], outstanding: int
) -> None:
    """`events`: minute of arrival, minutes until the result, whether it was delivered."""
    rows: dict[str, dict[int, int]] = {"received": {}, "delivered": {}, "failed": {}}
    for number, (at, takes, is_delivered) in enumerate(events):
        rows["received"][at] = rows["received"].get(at, 0) + 1
        if number != outstanding % len(events):
            stage = rows["delivered" if is_delivered else "failed"]
            stage[at + takes] = stage.get(at + takes, 0) + 1
    assert not pair_counts("web", MIXPANEL, series(**rows), CUTS).is_balanced
