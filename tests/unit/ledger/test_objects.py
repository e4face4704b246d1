"""An object that cannot be downloaded delays neither the other objects of its hour nor the hour."""

import sqlite3
from contextlib import closing

import pytest

from faillog_otel.clock import DAY_NS, HOUR_NS, SECOND_NS, hour_of
from faillog_otel.events.model import JSON_LINES, Survey
from faillog_otel.ledger import Content, Hour, Listed
from faillog_otel.ledger.ledger import SqliteLedger
from faillog_otel.ledger.objects import MAX_TRIES, RELIST_AFTER_NS, URL_LIFE_NS
from faillog_otel.segment.hours import HourView, ObjectVersion, ScheduleConfig
from faillog_otel.segment.quota import Quota, RequestRecord
from faillog_otel.segment.schedule import plan

NOW_NS = 20_000 * DAY_NS
HOUR = hour_of(NOW_NS) - 10
CONTENT = Content(5, 0, 5, "", Survey(JSON_LINES, None))


def list_hour(ledger: SqliteLedger, now_ns: int, *names: str) -> None:
    request = ledger.debit("c", HOUR, "fresh", now_ns)
    ledger.listed(request, "c", HOUR, [f"https://h/{name}?sig={now_ns}" for name in names], now_ns)


def next_listed(ledger: SqliteLedger, now_ns: int) -> Listed:
    listed = ledger.next_listed(now_ns)
    assert listed is not None
    return listed


def take(ledger: SqliteLedger, now_ns: int) -> None:
    ledger.spooled(next_listed(ledger, now_ns), ObjectVersion("e", None, 9), CONTENT, now_ns)


def view(ledger: SqliteLedger) -> Hour:
    return ledger.hours()["c"][HOUR]


def test_a_failed_object_does_not_keep_its_listing_from_counting(ledger: SqliteLedger) -> None:
    list_hour(ledger, NOW_NS, "dead", "x", "y")
    ledger.download_failed(next_listed(ledger, NOW_NS), "HTTP 404", NOW_NS, "url")
    assert view(ledger).listed_ns is None, "two were not tried yet"
    take(ledger, NOW_NS)
    take(ledger, NOW_NS)
    found = view(ledger)
    assert (found.listed_ns, found.missing, found.failures) == (NOW_NS, 1, 0)
    assert not found.is_settled
    assert ledger.next_listed(NOW_NS) is None
    assert ledger.unfinished_objects().to_forward == 2


def test_a_url_is_retried_without_a_request_before_a_new_one_is_needed(ledger: SqliteLedger) -> None:
    list_hour(ledger, NOW_NS, "dead")
    now_ns = NOW_NS
    for seconds in (1, 10):
        ledger.download_failed(next_listed(ledger, now_ns), "HTTP 404", now_ns, "url")
        assert ledger.next_listed(now_ns + seconds * SECOND_NS - 1) is None
        now_ns += seconds * SECOND_NS
        assert view(ledger).missing_due_ns is None
    ledger.download_failed(next_listed(ledger, now_ns), "HTTP 404", now_ns, "url")
    assert view(ledger).missing_due_ns == now_ns + RELIST_AFTER_NS[0]
    assert ledger.next_listed(now_ns + DAY_NS) is None
    [missing] = ledger.missing_objects()
    assert (missing.path, missing.why, missing.since_ns) == ("/dead", "HTTP 404", NOW_NS)
    assert ledger.rows("SELECT url FROM objects")[0]["url"] is None, "a signature is a secret"


def test_an_interrupted_download_is_retried_until_its_url_expires(ledger: SqliteLedger) -> None:
    list_hour(ledger, NOW_NS, "slow")
    now_ns, tries = NOW_NS, 0
    while now_ns < NOW_NS + URL_LIFE_NS:
        if listed := ledger.next_listed(now_ns):
            ledger.download_failed(listed, "it broke off", now_ns)
            tries += 1
        now_ns += SECOND_NS
    assert MAX_TRIES < tries < 12
    ledger.wipe_urls(now_ns)
    assert view(ledger).missing_due_ns == now_ns + RELIST_AFTER_NS[0]


def test_wiping_urls_takes_no_lock_while_none_has_expired(ledger: SqliteLedger) -> None:
    """The fetcher checks before every step, while another connection may be writing."""
    list_hour(ledger, NOW_NS, "a", "b")
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ledger.wipe_urls(NOW_NS + URL_LIFE_NS - 1)
        other.execute("ROLLBACK")
    assert next_listed(ledger, NOW_NS + URL_LIFE_NS - 1)
    ledger.wipe_urls(NOW_NS + URL_LIFE_NS)
    assert ledger.next_listed(NOW_NS + URL_LIFE_NS) is None


def test_the_url_of_the_next_listing_completes_the_hour(ledger: SqliteLedger) -> None:
    list_hour(ledger, NOW_NS, "dead", "x")
    for _ in range(MAX_TRIES):
        ledger.download_failed(next_listed(ledger, NOW_NS + HOUR_NS), "HTTP 404", NOW_NS, "url")
        if ledger.next_listed(NOW_NS):
            take(ledger, NOW_NS)
    later_ns = NOW_NS + 5 * HOUR_NS
    list_hour(ledger, later_ns, "dead", "x")
    ledger.unchanged(next_listed(ledger, later_ns)) if next_listed(ledger, later_ns).known else take(
        ledger, later_ns
    )
    take(ledger, later_ns)
    assert (view(ledger).listed_ns, view(ledger).missing) == (later_ns, 0)
    assert ledger.missing_objects() == []


def test_an_hour_with_a_permanently_missing_object_is_listed_at_growing_intervals(
    ledger: SqliteLedger,
) -> None:
    """In 28 days it costs only a few requests besides the usual listings."""
    now_ns, times = NOW_NS, []
    while now_ns < NOW_NS + 27 * DAY_NS:
        list_hour(ledger, now_ns, "dead")
        for _ in range(MAX_TRIES):
            ledger.download_failed(next_listed(ledger, now_ns + HOUR_NS), "HTTP 404", now_ns, "url")
        due_ns = view(ledger).missing_due_ns
        assert due_ns is not None
        times.append(due_ns - now_ns)
        now_ns = due_ns
    assert times == sorted(times)
    assert len(times) <= 11
    [missing] = ledger.missing_objects()
    assert (missing.since_ns, missing.urls_failed) == (NOW_NS, len(times))


def test_a_failed_listing_does_not_drop_an_object_that_is_being_retried(ledger: SqliteLedger) -> None:
    list_hour(ledger, NOW_NS, "slow")
    ledger.download_failed(next_listed(ledger, NOW_NS), "it broke off", NOW_NS)
    ledger.listing_failed("c", HOUR, "HTTP 500", NOW_NS)
    take(ledger, NOW_NS + SECOND_NS)
    assert view(ledger).missing == 0


def test_an_occupied_name_in_the_spool_costs_no_listing(ledger: SqliteLedger) -> None:
    """The object gets another id at once: its URL is still good."""
    list_hour(ledger, NOW_NS, "x")
    first = next_listed(ledger, NOW_NS)
    ledger.download_failed(first, "another entry has its name", NOW_NS, "name")
    again = next_listed(ledger, NOW_NS + SECOND_NS)
    assert again.id > first.id
    assert again.url == first.url


def test_an_untried_object_with_an_expired_url_is_listed_again_at_once(
    ledger: SqliteLedger,
) -> None:
    """As after a pause of the process."""
    list_hour(ledger, NOW_NS, "dead", "x")
    ledger.download_failed(next_listed(ledger, NOW_NS), "HTTP 500", NOW_NS)
    later_ns = NOW_NS + URL_LIFE_NS
    ledger.wipe_urls(later_ns)
    found = view(ledger)
    assert (found.listed_ns, found.failures, found.missing) == (None, 1, 1)


def test_an_object_that_segment_deleted_is_reported_once_and_counted(ledger: SqliteLedger) -> None:
    list_hour(ledger, NOW_NS, "dead", "x")
    ledger.download_failed(next_listed(ledger, NOW_NS), "HTTP 404", NOW_NS, "url")
    take(ledger, NOW_NS)
    spooled = ledger.next_spooled()
    assert spooled
    gone_ns = (HOUR + 1) * HOUR_NS + 28 * DAY_NS
    assert ledger.lose(gone_ns - HOUR_NS) == []
    [lost] = ledger.lose(gone_ns)
    assert (lost.collection, lost.hour, lost.path, lost.why) == ("c", HOUR, "/dead", "HTTP 404")
    assert ledger.lose(gone_ns) == []
    assert view(ledger).lost == 1
    ledger.prune(gone_ns)
    assert ledger.next_spooled() == spooled, "it is not forwarded yet"
    assert ledger.unfinished_objects().to_forward == 1


@pytest.mark.parametrize(("used", "asked"), [(0, 1), (11, 1), (12, 0)])
def test_missing_objects_use_only_a_share_of_the_quota(used: int, asked: int) -> None:
    """Each try costs a listing, and a dead object may stay dead for 28 days."""
    missing = HourView(listed_ns=NOW_NS, missing=1, missing_due_ns=NOW_NS)
    hours = {"c": dict.fromkeys(range(HOUR - 680, HOUR + 11), HourView(listed_ns=NOW_NS + DAY_NS))}
    hours["c"][HOUR - 100] = missing
    debits = [RequestRecord(NOW_NS - 2 * HOUR_NS, "c", "missing")] * used
    found = plan(NOW_NS, hours, Quota(debits=debits), ScheduleConfig(("c",)))
    assert [(ask.hour, ask.why) for ask in found.requests] == [(HOUR - 100, "missing")] * asked
    nothing = ScheduleConfig(("c",), since_ns=NOW_NS)
    assert plan(NOW_NS, hours, Quota(), nothing).requests == (), "a replay asks for what a person named"
    del hours["c"][HOUR + 10 - 3]
    first = plan(NOW_NS, hours, Quota(debits=debits), ScheduleConfig(("c",))).requests[0]
    assert (first.hour, first.why) == (HOUR + 7, "fresh")


def test_a_wanted_hour_is_sent_again_once_even_if_it_is_listed_at_the_same_time(ledger: SqliteLedger) -> None:
    for _ in range(2):
        list_hour(ledger, NOW_NS, "x")
        take(ledger, NOW_NS)
        ledger.want("c", [HOUR])
    list_hour(ledger, NOW_NS, "x")
    take(ledger, NOW_NS)
    assert not view(ledger).wanted


def test_an_object_of_an_older_listing_does_not_satisfy_a_request_for_the_hour(ledger: SqliteLedger) -> None:
    """`replay` asks for a new listing; an older download that ends meanwhile is not its answer."""
    list_hour(ledger, NOW_NS, "slow")
    ledger.download_failed(next_listed(ledger, NOW_NS), "it broke off", NOW_NS)
    ledger.want("c", [HOUR])
    take(ledger, NOW_NS + SECOND_NS)
    assert view(ledger).wanted
