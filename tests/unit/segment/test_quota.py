"""The allowed requests: our count of 24 hours, the server's rate limit, and the reserve."""

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
    """Requests left without and with the reserve."""
    return quota.left(now_ns, with_reserve=False), quota.left(now_ns, with_reserve=True)


def test_four_of_120_requests_a_day_are_reserved() -> None:
    assert left(Quota()) == (116, 120)
    assert left(Quota(debits=debits(116))) == (0, 4)
    assert left(Quota(debits=debits(130))) == (0, 0)


def test_a_request_counts_for_24_hours_and_a_margin() -> None:
    quota = Quota(debits=debits(120))
    back = NOW - HOUR_NS + REQUEST_COUNTS_NS
    assert left(quota, back - 1) == (0, 0)
    assert quota.next_ns(NOW) == back
    assert left(quota, back) == (116, 120)


def test_used_requests_of_the_reserve_are_not_reserved_again() -> None:
    assert left(Quota(debits=debits(3, why="wanted"))) == (116, 117)
    assert left(Quota(debits=debits(10, why="leaving"))) == (110, 110)


def test_the_servers_rate_limit_overrides_our_count() -> None:
    assert left(Quota(rate_limit=RateLimit(NOW - 1, 10))) == (6, 10)
    assert left(Quota(debits=debits(100), rate_limit=RateLimit(NOW - 1, 110))) == (106, 110)
    assert Quota(rate_limit=RateLimit(NOW, 200, NOW + HOUR_NS, 240)).size == 240
    assert Quota(rate_limit=RateLimit(NOW, 20, NOW + HOUR_NS, 30)).size == 30


def test_requests_after_a_rate_limit_reduce_its_remaining_ones() -> None:
    said = RateLimit(NOW - SECOND_NS, 10)
    assert Quota(debits=debits(3, ago_ns=0), rate_limit=said).left(NOW, with_reserve=True) == 7


def test_our_requests_become_available_again_during_a_rate_limit_without_reset() -> None:
    """Otherwise, with a full quota, each hour's first answer, `0 remaining`, would block the hour."""
    quota = Quota(
        debits=[*debits(5, REQUEST_COUNTS_NS), *debits(115)], rate_limit=RateLimit(NOW - 20 * SECOND_NS, 0)
    )
    assert quota.left(NOW, with_reserve=True) == 5


def test_a_rate_limit_and_the_requests_of_others_count_until_its_reset() -> None:
    quota = Quota(debits=debits(3), rate_limit=RateLimit(NOW, 0, NOW + 1500))
    assert left(quota, NOW + 1499) == (0, 0)
    assert quota.used_by_others(NOW) == 117
    assert quota.next_ns(NOW) == NOW + 1500
    assert left(quota, NOW + 1500) == (113, 117)
    assert quota.used_by_others(NOW + 1500) == 0


def test_a_rate_limit_without_a_reset_is_valid_for_an_hour() -> None:
    quota = Quota(rate_limit=RateLimit(NOW, 0))
    assert left(quota, NOW + HOUR_NS - 1) == (0, 0)
    assert left(quota, NOW + HOUR_NS) == (116, 120)


def test_after_the_reset_one_probe_is_allowed_although_our_count_is_full() -> None:
    """The window was shorter than the day that we count."""
    quota = Quota(debits=debits(120), rate_limit=RateLimit(NOW, 0, NOW + 1500))
    assert left(quota, NOW + 1499) == (0, 0)
    assert left(quota, NOW + 1500) == (1, 1)
    granted = [*quota.debits, RequestRecord(NOW + 1500, "c", "fresh", "granted")]
    assert left(replace(quota, debits=granted), NOW + 1501) == (0, 0), "its answer had no rate limit"
    refused = [*quota.debits, RequestRecord(NOW + 1500, "c", "fresh", "refused")]
    assert left(replace(quota, debits=refused), NOW + 1501) == (1, 1), "its 429 only asks for a pause"


def test_a_failed_request_does_not_use_up_the_probe() -> None:
    """After a 500, a reset or an HTML page the next request follows a minute later, not an hour."""
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


def test_two_headers_show_a_window_of_a_minute() -> None:
    first = RateLimit(NOW, 0, NOW + MINUTE_NS, 1)
    ask_ns = NOW + MINUTE_NS + SECOND_NS
    quota = Quota(debits=[RequestRecord(ask_ns, "c", "fresh", "granted")], rate_limit=first)
    found = replace(quota, rate_limit=quota.with_window(RateLimit(ask_ns, 0, ask_ns + MINUTE_NS, 1)))
    assert found.rate_limit is not None
    assert found.rate_limit.window_ns == MINUTE_NS
    assert found.size == 1440
    assert left(found, ask_ns + MINUTE_NS - 1) == (0, 0)
    assert left(found, ask_ns + MINUTE_NS) == (1, 1)


def test_the_bodies_of_two_429s_show_a_window_of_a_minute() -> None:
    """Successful answers have no rate limit: then our own count covers the last minute."""
    first = RateLimit(NOW, 0, NOW + MINUTE_NS, 1, is_refusal=True)
    ask_ns = NOW + MINUTE_NS + SECOND_NS
    asked = [
        RequestRecord(ask_ns, "c", "fresh", "granted"),
        RequestRecord(ask_ns + 1, "c", "fresh", "refused"),
    ]
    quota = Quota(debits=asked, rate_limit=first)
    assert Quota(rate_limit=first).size == 120, "one 429 does not tell the size of the quota"
    found = replace(
        quota, rate_limit=quota.with_window(RateLimit(ask_ns + 1, 0, ask_ns + MINUTE_NS, 1, is_refusal=True))
    )
    assert found.size == 1440
    again_ns = ask_ns + MINUTE_NS
    later = replace(found, debits=[*asked, RequestRecord(again_ns, "c", "fresh", "granted")])
    assert left(later, again_ns + MINUTE_NS - 1) == (0, 0)
    assert left(later, again_ns + MINUTE_NS + SECOND_NS) == (1, 1)


def test_a_quota_that_refills_hour_by_hour_has_no_shorter_window() -> None:
    quota = Quota(
        debits=[RequestRecord(NOW + HOUR_NS, "c", "fresh")], rate_limit=RateLimit(NOW, 30, NOW + HOUR_NS, 120)
    )
    found = quota.with_window(RateLimit(NOW + HOUR_NS, 34, NOW + 2 * HOUR_NS, 120))
    assert found.window_ns is None


def test_while_a_server_sends_headers_the_body_of_a_429_is_only_a_pause() -> None:
    said = RateLimit(NOW, 90, NOW + HOUR_NS, 120)
    assert Quota(rate_limit=said).with_window(RateLimit(NOW + 1, 0, NOW + 1500, 20, is_refusal=True)) is said


def test_a_wait_has_a_reason_and_an_end() -> None:
    assert Quota().wait(NOW) is None
    assert Quota(not_before_ns=NOW + 7, not_before_why="w").wait(NOW) == Wait(NOW + 7, "w")
    said = Quota(rate_limit=RateLimit(NOW, 0, NOW + 1500)).wait(NOW)
    assert said == Wait(NOW + 1500, "Segment reports no remaining requests")
    own = Quota(debits=debits(120)).wait(NOW)
    assert own is not None
    assert own.until_ns == NOW - HOUR_NS + REQUEST_COUNTS_NS
    assert own.why.startswith("120 of 120 requests are used")


def test_no_request_is_allowed_before_a_pause_ends() -> None:
    quota = Quota(not_before_ns=NOW + 7)
    assert left(quota) == (0, 0)
    assert quota.next_ns(NOW) == NOW + 7
    assert left(quota, NOW + 7) == (116, 120)


def test_spare_requests_are_those_that_coming_hours_do_not_need() -> None:
    needed = [NOW + hours * HOUR_NS for hours in range(1, 24) for _ in range(4)]
    assert Quota().spare(NOW, needed, max_delay_ns=0) == 116 - 92
    assert Quota(debits=debits(20, HOUR_NS // 2)).spare(NOW, needed, max_delay_ns=0) == 4, (
        "available again too late"
    )
    assert Quota(debits=debits(96, REQUEST_COUNTS_NS - HOUR_NS)).spare(NOW, needed, max_delay_ns=0) == 20, (
        "back in time"
    )


def test_after_a_clock_was_set_back_no_debit_is_in_the_future() -> None:
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
def test_windows_without_a_rate_limit_do_not_lengthen_the_window(silent: int) -> None:
    """Two requests a minute; the 429s of `silent` windows name a pause, but no quota."""
    ends_ns = NOW + MINUTE_NS
    said = RateLimit(NOW, 0, ends_ns, 2, is_refusal=True)
    starts = [ends_ns + number * MINUTE_NS for number in range(silent + 1)]
    debits = [
        RequestRecord(at_ns, "c", "fresh", "granted") for start in starts for at_ns in (start, start + 1)
    ]
    word = RateLimit(starts[-1] + 2, 0, starts[-1] + MINUTE_NS, 2, is_refusal=True)
    assert Quota(debits=debits, rate_limit=said).with_window(word).window_ns == MINUTE_NS
