"""What may be spent: our own count of 24 hours, the server's word, and what is kept for whom."""

from msgspec.structs import replace

from faillog_otel.clock import HOUR_NS, SECOND_NS
from faillog_otel.segment.quota import COMES_BACK_NS, Debit, Quota, Said, Why

NOW = 490_000 * HOUR_NS


def debits(count: int, ago_ns: int = HOUR_NS, why: Why = "fresh") -> list[Debit]:
    return [Debit(NOW - ago_ns, "c", why) for _ in range(count)]


def left(quota: Quota, now_ns: int = NOW) -> tuple[int, int]:
    """For everyone, and for those whom the reserve is for."""
    return quota.left(now_ns, with_reserve=False), quota.left(now_ns, with_reserve=True)


def test_a_day_has_120_requests_and_four_of_them_are_kept() -> None:
    assert left(Quota()) == (116, 120)
    assert left(Quota(debits=debits(116))) == (0, 4)
    assert left(Quota(debits=debits(130))) == (0, 0)


def test_a_request_comes_back_after_24_hours_and_some_seconds_and_not_before() -> None:
    quota = Quota(debits=debits(120))
    back = NOW - HOUR_NS + COMES_BACK_NS
    assert left(quota, back - 1) == (0, 0)
    assert quota.next_ns(NOW) == back
    assert left(quota, back) == (116, 120)


def test_what_people_used_of_the_reserve_is_not_kept_once_more() -> None:
    assert left(Quota(debits=debits(3, why="wanted"))) == (116, 117)
    assert left(Quota(debits=debits(10, why="leaving"))) == (110, 110)


def test_the_server_is_believed_when_it_says_less_and_not_when_it_says_more() -> None:
    assert left(Quota(said=Said(NOW - 1, 10))) == (6, 10)
    assert left(Quota(debits=debits(100), said=Said(NOW - 1, 110))) == (16, 20)


def test_requests_since_its_word_are_taken_off() -> None:
    said = Said(NOW - SECOND_NS, 10)
    assert Quota(debits=debits(3, ago_ns=0), said=said).left(NOW, with_reserve=True) == 7


def test_our_own_requests_come_back_while_its_word_holds() -> None:
    """Else with a full quota, each hour's first answer, `0 remain`, would hold up the hour."""
    quota = Quota(debits=[*debits(5, COMES_BACK_NS), *debits(115)], said=Said(NOW - SECOND_NS, 0))
    assert quota.left(NOW, with_reserve=True) == 5


def test_an_old_word_may_be_asked_anew_by_one_request() -> None:
    quota = Quota(said=Said(NOW, 0))
    assert left(quota, NOW + HOUR_NS - 1) == (0, 0)
    assert quota.next_ns(NOW) == NOW + HOUR_NS
    assert left(quota, NOW + HOUR_NS) == (1, 1)
    asked = Quota(debits=[Debit(NOW + HOUR_NS, "c", "fresh")], said=Said(NOW, 0))
    assert left(asked, NOW + HOUR_NS + 1) == (0, 0)
    assert left(asked, NOW + 2 * HOUR_NS) == (1, 1), "though it brought no answer"


def test_a_word_is_old_at_its_reset_but_not_at_once() -> None:
    quota = Quota(said=Said(NOW, 0, NOW + 600 * SECOND_NS))
    assert left(quota, NOW + 599 * SECOND_NS) == (0, 0)
    assert left(quota, NOW + 600 * SECOND_NS) == (1, 1)
    past = Quota(said=Said(NOW, 0, NOW - COMES_BACK_NS))
    assert left(past, NOW + 59 * SECOND_NS) == (0, 0)
    assert left(past, NOW + 60 * SECOND_NS) == (1, 1)


def test_nothing_is_asked_before_a_pause_ends() -> None:
    quota = Quota(not_before_ns=NOW + 7)
    assert left(quota) == (0, 0)
    assert quota.next_ns(NOW) == NOW + 7
    assert left(quota, NOW + 7) == (116, 120)


def test_spare_is_what_the_coming_hours_do_not_need() -> None:
    needed = [NOW + hours * HOUR_NS for hours in range(1, 24) for _ in range(4)]
    assert Quota().spare(NOW, needed, patience_ns=0) == 116 - 92
    assert Quota(debits=debits(20, HOUR_NS // 2)).spare(NOW, needed, patience_ns=0) == 4, "back too late"
    assert Quota(debits=debits(96, COMES_BACK_NS - HOUR_NS)).spare(NOW, needed, patience_ns=0) == 20, (
        "back in time"
    )


def test_a_clock_set_back_leaves_no_debits_in_the_future() -> None:
    quota = Quota(
        debits=[*debits(2), *debits(3, ago_ns=-30 * COMES_BACK_NS)], said=Said(NOW + COMES_BACK_NS, 50)
    )
    mended = quota.mended(NOW)
    assert [each.at_ns for each in mended.debits] == [NOW - HOUR_NS] * 2 + [NOW] * 3
    assert mended.said == Said(NOW, 50)
    assert left(replace(mended, said=None), NOW + COMES_BACK_NS) == (116, 120)
    assert mended.mended(NOW) is mended
