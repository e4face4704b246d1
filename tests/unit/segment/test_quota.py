"""What may be spent: our own count of 24 hours, the server's word, and what is kept for whom."""

import pytest
from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, SECOND_NS
from faillog_otel.segment.quota import (
    PROBE_AGAIN_NS,
    REQUEST_COUNTS_NS,
    Quota,
    RateLimit,
    RequestRecord,
    Wait,
    Why,
)

NOW = 490_000 * HOUR_NS


def debits(count: int, ago_ns: int = HOUR_NS, why: Why = "fresh") -> list[RequestRecord]:
    return [RequestRecord(NOW - ago_ns, "c", why) for _ in range(count)]


def left(quota: Quota, now_ns: int = NOW) -> tuple[int, int]:
    """For everyone, and for those whom the reserve is for."""
    return quota.left(now_ns, with_reserve=False), quota.left(now_ns, with_reserve=True)


def test_a_day_has_120_requests_and_four_of_them_are_kept() -> None:
    assert left(Quota()) == (116, 120)
    assert left(Quota(debits=debits(116))) == (0, 4)
    assert left(Quota(debits=debits(130))) == (0, 0)


def test_a_request_comes_back_after_24_hours_and_some_seconds_and_not_before() -> None:
    quota = Quota(debits=debits(120))
    back = NOW - HOUR_NS + REQUEST_COUNTS_NS
    assert left(quota, back - 1) == (0, 0)
    assert quota.next_ns(NOW) == back
    assert left(quota, back) == (116, 120)


def test_what_people_used_of_the_reserve_is_not_kept_once_more() -> None:
    assert left(Quota(debits=debits(3, why="wanted"))) == (116, 117)
    assert left(Quota(debits=debits(10, why="leaving"))) == (110, 110)


def test_the_server_is_believed_when_it_says_less_and_when_it_says_more() -> None:
    assert left(Quota(rate_limit=RateLimit(NOW - 1, 10))) == (6, 10)
    assert left(Quota(debits=debits(100), rate_limit=RateLimit(NOW - 1, 110))) == (106, 110)
    assert Quota(rate_limit=RateLimit(NOW, 200, NOW + HOUR_NS, 240)).size == 240
    assert Quota(rate_limit=RateLimit(NOW, 20, NOW + HOUR_NS, 30)).size == 30


def test_requests_since_its_word_are_taken_off() -> None:
    said = RateLimit(NOW - SECOND_NS, 10)
    assert Quota(debits=debits(3, ago_ns=0), rate_limit=said).left(NOW, with_reserve=True) == 7


def test_our_own_requests_come_back_while_its_word_holds() -> None:
    """Else with a full quota, each hour's first answer, `0 remain`, would hold up the hour."""
    quota = Quota(
        debits=[*debits(5, REQUEST_COUNTS_NS), *debits(115)], rate_limit=RateLimit(NOW - 20 * SECOND_NS, 0)
    )
    assert quota.left(NOW, with_reserve=True) == 5


def test_a_word_holds_until_its_reset_and_what_others_used_ends_with_it() -> None:
    quota = Quota(debits=debits(3), rate_limit=RateLimit(NOW, 0, NOW + 1500))
    assert left(quota, NOW + 1499) == (0, 0)
    assert quota.used_by_others(NOW) == 117
    assert quota.next_ns(NOW) == NOW + 1500
    assert left(quota, NOW + 1500) == (113, 117)
    assert quota.used_by_others(NOW + 1500) == 0


def test_a_word_without_a_reset_holds_for_an_hour() -> None:
    quota = Quota(rate_limit=RateLimit(NOW, 0))
    assert left(quota, NOW + HOUR_NS - 1) == (0, 0)
    assert left(quota, NOW + HOUR_NS) == (116, 120)


def test_after_the_reset_one_request_may_ask_though_our_own_count_is_full() -> None:
    """The window was shorter than the day that we count."""
    quota = Quota(debits=debits(120), rate_limit=RateLimit(NOW, 0, NOW + 1500))
    assert left(quota, NOW + 1499) == (0, 0)
    assert left(quota, NOW + 1500) == (1, 1)
    granted = [*quota.debits, RequestRecord(NOW + 1500, "c", "fresh", "granted")]
    assert left(replace(quota, debits=granted), NOW + 1501) == (0, 0), "its answer brought no new word"
    refused = [*quota.debits, RequestRecord(NOW + 1500, "c", "fresh", "refused")]
    assert left(replace(quota, debits=refused), NOW + 1501) == (1, 1), "a pause is what its 429 asked for"


def test_a_request_that_failed_does_not_use_up_what_the_server_said() -> None:
    """A 500, a reset, an HTML page: the next one comes a minute later, not an hour."""
    quota = Quota(debits=debits(120), rate_limit=RateLimit(NOW, 0, NOW))
    failed = replace(quota, debits=[*quota.debits, RequestRecord(NOW, "c", "fresh")])
    assert left(failed, NOW + PROBE_AGAIN_NS - 1) == (0, 0)
    assert failed.next_ns(NOW) == NOW + PROBE_AGAIN_NS
    assert left(failed, NOW + PROBE_AGAIN_NS) == (1, 1)


def test_a_refused_request_counts_nowhere() -> None:
    refused = [replace(each, answer="refused") for each in debits(50)]
    assert left(Quota(debits=refused)) == (116, 120)
    said = RateLimit(NOW - 2 * HOUR_NS, 10, NOW + HOUR_NS)
    assert Quota(debits=refused, rate_limit=said).left(NOW, with_reserve=True) == 10


MINUTE_NS = 60 * SECOND_NS


def test_windows_of_a_minute_are_learned_from_two_headers() -> None:
    first = RateLimit(NOW, 0, NOW + MINUTE_NS, 1)
    ask_ns = NOW + MINUTE_NS + SECOND_NS
    quota = Quota(debits=[RequestRecord(ask_ns, "c", "fresh", "granted")], rate_limit=first)
    found = replace(quota, rate_limit=quota.with_window(RateLimit(ask_ns, 0, ask_ns + MINUTE_NS, 1)))
    assert found.rate_limit is not None
    assert found.rate_limit.window_ns == MINUTE_NS
    assert found.size == 1440
    assert left(found, ask_ns + MINUTE_NS - 1) == (0, 0)
    assert left(found, ask_ns + MINUTE_NS) == (1, 1)


def test_windows_of_a_minute_are_learned_from_the_bodies_of_two_429s() -> None:
    """Successful answers say nothing: then our own count is one of the last minute."""
    first = RateLimit(NOW, 0, NOW + MINUTE_NS, 1, is_refusal=True)
    ask_ns = NOW + MINUTE_NS + SECOND_NS
    asked = [
        RequestRecord(ask_ns, "c", "fresh", "granted"),
        RequestRecord(ask_ns + 1, "c", "fresh", "refused"),
    ]
    quota = Quota(debits=asked, rate_limit=first)
    assert Quota(rate_limit=first).size == 120, "one 429 says nothing about the day"
    found = replace(
        quota, rate_limit=quota.with_window(RateLimit(ask_ns + 1, 0, ask_ns + MINUTE_NS, 1, is_refusal=True))
    )
    assert found.size == 1440
    again_ns = ask_ns + MINUTE_NS
    later = replace(found, debits=[*asked, RequestRecord(again_ns, "c", "fresh", "granted")])
    assert left(later, again_ns + MINUTE_NS - 1) == (0, 0)
    assert left(later, again_ns + MINUTE_NS + SECOND_NS) == (1, 1)


def test_a_quota_that_comes_back_hour_by_hour_is_no_shorter_window() -> None:
    quota = Quota(
        debits=[RequestRecord(NOW + HOUR_NS, "c", "fresh")], rate_limit=RateLimit(NOW, 30, NOW + HOUR_NS, 120)
    )
    found = quota.with_window(RateLimit(NOW + HOUR_NS, 34, NOW + 2 * HOUR_NS, 120))
    assert found.window_ns is None


def test_while_a_server_speaks_in_headers_the_body_of_a_429_is_a_pause_and_nothing_more() -> None:
    said = RateLimit(NOW, 90, NOW + HOUR_NS, 120)
    assert Quota(rate_limit=said).with_window(RateLimit(NOW + 1, 0, NOW + 1500, 20, is_refusal=True)) is said


def test_it_says_for_what_it_waits_and_until_when() -> None:
    assert Quota().wait(NOW) is None
    assert Quota(not_before_ns=NOW + 7, not_before_why="w").wait(NOW) == Wait(NOW + 7, "w")
    said = Quota(rate_limit=RateLimit(NOW, 0, NOW + 1500)).wait(NOW)
    assert said == Wait(NOW + 1500, "Segment reports no remaining requests")
    own = Quota(debits=debits(120)).wait(NOW)
    assert own is not None
    assert own.until_ns == NOW - HOUR_NS + REQUEST_COUNTS_NS
    assert own.why.startswith("120 of 120 requests are used")


def test_nothing_is_asked_before_a_pause_ends() -> None:
    quota = Quota(not_before_ns=NOW + 7)
    assert left(quota) == (0, 0)
    assert quota.next_ns(NOW) == NOW + 7
    assert left(quota, NOW + 7) == (116, 120)


def test_spare_is_what_the_coming_hours_do_not_need() -> None:
    needed = [NOW + hours * HOUR_NS for hours in range(1, 24) for _ in range(4)]
    assert Quota().spare(NOW, needed, max_delay_ns=0) == 116 - 92
    assert Quota(debits=debits(20, HOUR_NS // 2)).spare(NOW, needed, max_delay_ns=0) == 4, "back too late"
    assert Quota(debits=debits(96, REQUEST_COUNTS_NS - HOUR_NS)).spare(NOW, needed, max_delay_ns=0) == 20, (
        "back in time"
    )


def test_a_clock_set_back_leaves_no_debits_in_the_future() -> None:
    """Such a request would count against the quota until the clock gets there."""
    quota = Quota(
        debits=[*debits(2), *debits(3, ago_ns=-30 * REQUEST_COUNTS_NS)],
        rate_limit=RateLimit(NOW + REQUEST_COUNTS_NS, 50),
    )
    mended = quota.mended(NOW)
    assert [each.at_ns for each in mended.debits] == [NOW - HOUR_NS] * 2 + [NOW] * 3
    assert mended.rate_limit == RateLimit(NOW, 50)
    assert left(replace(mended, rate_limit=None), NOW + REQUEST_COUNTS_NS) == (116, 120)
    assert mended.mended(NOW) is mended


@pytest.mark.parametrize("silent", range(5))
def test_windows_that_went_by_without_a_word_make_none_longer(silent: int) -> None:
    """Two requests a minute; the 429s of `silent` windows say when to ask again, and nothing of the quota."""
    ends_ns = NOW + MINUTE_NS
    said = RateLimit(NOW, 0, ends_ns, 2, is_refusal=True)
    starts = [ends_ns + number * MINUTE_NS for number in range(silent + 1)]
    debits = [
        RequestRecord(at_ns, "c", "fresh", "granted") for start in starts for at_ns in (start, start + 1)
    ]
    word = RateLimit(starts[-1] + 2, 0, starts[-1] + MINUTE_NS, 2, is_refusal=True)
    assert Quota(debits=debits, rate_limit=said).with_window(word).window_ns == MINUTE_NS
