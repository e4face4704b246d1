"""The page as text: what it says of a window, and what it never contains. tests/e2e/test_page.py opens it."""

import re
from html import unescape

import pytest
from msgspec.structs import replace
from support.failures_page import HOSTILE, failures, group, hostile, incidents, many, realistic, status

from faillog_otel.clock import hour_text
from faillog_otel.reports.changes import AfterChange
from faillog_otel.reports.charts import buckets, sparkline, stacked_bars
from faillog_otel.reports.page import MAX_BYTES, MAX_GROUPS, PageData, page, safe_link


def page_of(*groups: object, **how: object) -> str:
    return page(PageData(failures=failures(*groups), version="1.0", **how))  # type: ignore[arg-type]


def words(html: str) -> str:
    """The text that a person reads, on one line."""
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL)).split())


def test_the_worst_groups_are_answers_in_sentences() -> None:
    found = words(page(realistic()))
    for sentence in (
        "Mixpanel (prod) HTTP 401 INVALID_API_KEY credentials",
        "The destination does not accept the key in its settings.",
        "Since 2026-11-25 09:04; last seen 2026-11-28 09:53 (6 min ago).",
        "2,445 messages lost. 2,445 attempts failed, in 657 requests.",
        "Invalid API key . Segment does not retry.",
        "31 messages lost, 118 pending, 1,691 recovered. 5,520",
        "Enter a valid key in the destination's settings, then ask Segment for a replay.",
    ):
        assert sentence in found


def test_a_window_without_failures_says_so_and_which_hours_are_unread() -> None:
    found = words(page_of(status=status()))
    assert "Nothing failed in this window No failure was found in what was read." in found
    assert "18 hours of the collections are not read completely, and may hold more failures." in found
    assert "All groups" not in found


def test_files_without_failures_have_no_unread_hours() -> None:
    found = words(page_of())
    assert "Nothing failed in this window" in found
    assert "not read completely" not in found
    assert "What was read" not in found


@pytest.mark.parametrize(
    ("lost", "pending", "recovered", "says"),
    [
        (1, 0, 0, "1 message lost"),
        (0, 1200, 0, "No message lost, 1,200 messages pending"),
        (0, 0, 7, "No message lost"),
    ],
)
def test_the_headline_names_the_worst_state(lost: int, pending: int, recovered: int, says: str) -> None:
    html = page_of(group(("a", None), lost=lost, pending=pending, recovered=recovered))
    assert f"<h1>{says}</h1>" in html


def test_a_group_without_messages_counts_requests() -> None:
    found = words(page_of(group(("a", None), attempts=0, requests=12)))
    assert "No message is known: only requests. 0 attempts failed, in 12 requests." in found


def test_a_change_is_named_by_its_group_and_marked_in_the_chart() -> None:
    change = AfterChange("Source Modified", "2026-11-28T04:59:00Z", 247, "Shop <web>", None)
    html = page_of(group(("a", "Mixpanel"), by_hour={5: 3, 4: 1}, lost=4, after_change=change))
    found = words(html)
    said = "failures began 4 minutes after 'Source Modified' (Shop <web>)"
    assert found.count(said) == 2
    assert "The failures began" in found
    assert "that failures followed: 2026-11-28 04:59 Source Modified, Shop <web>" in found
    assert html.count('class="mark"') == 1


def test_without_a_change_nothing_is_marked() -> None:
    html = page_of(group(("a", "Mixpanel"), lost=1))
    assert 'class="mark"' not in html
    assert "Dashed lines" not in html


def test_message_ids_are_shown_only_if_asked_for() -> None:
    data = realistic()
    message_id = data.failures.groups[0].sample.message_id
    assert message_id is not None
    assert message_id in page(data)
    assert message_id not in page(replace(data, shows_messages=False))


def test_the_same_data_gives_the_same_page() -> None:
    assert page(realistic()) == page(realistic())


def test_nothing_from_outside_becomes_markup() -> None:
    html = page_of(*hostile(), shows_messages=True)
    assert not re.search(r"<(script|img|iframe|object|b)\b", html)
    assert not re.search(r"\son\w+\s*=\s*[\"']?\w+\.", re.sub(r">[^<]*<", "><", html))
    assert "javascript:" not in html
    assert "style=" not in html
    assert not [c for c in html if c in "\u202e\u2066\u200b\x07\x00"]


def test_texts_are_shown_as_they_are_and_control_characters_as_escapes() -> None:
    found = words(page_of(*hostile()))
    for text in (HOSTILE[0], HOSTILE[3], HOSTILE[5], HOSTILE[6], HOSTILE[8]):
        assert text in found
    assert r"\u202egnp.exe\u2066 \u200bzero\x07bell\nline" in found


def test_two_destinations_with_one_name_are_told_apart() -> None:
    found = words(page_of(group(("a1", "Mixpanel")), group(("b2", "Mixpanel")), group(("", None))))
    assert "Mixpanel (a1)" in found
    assert "Mixpanel (b2)" in found
    assert "unknown destination" in found


@pytest.mark.parametrize(
    ("url", "opens"),
    [
        ("https://traces.example/t?q=1", True),
        ("http://jaeger:16686/trace/1", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("//traces.example/", False),
        ("https:///path", False),
        ("https://[::1", False),
        ("https://traces.example/\u202e", False),
        (f"https://traces.example/{'x' * 2000}", False),
        (None, False),
    ],
)
def test_only_web_addresses_are_links(url: str | None, *, opens: bool) -> None:
    assert (safe_link(url) == url and url is not None) is opens


def test_a_destination_links_to_its_page_at_segment() -> None:
    link = "https://app.segment.com/acme/destinations/a1"
    html = page_of(
        group(("a1", "Mixpanel"), destination_link=link),
        group(("b2", "HubSpot"), destination_link="javascript:alert(1)"),
    )
    assert f'<a href="{link}" rel="noreferrer"><bdi>Mixpanel</bdi></a>' in html
    assert "javascript:" not in html


def test_a_page_stays_below_a_mebibyte_and_counts_what_it_leaves_out() -> None:
    found = page(PageData(failures=many(MAX_GROUPS + 7), version="1", status=status(), shows_messages=True))
    assert len(found.encode()) <= MAX_BYTES
    assert found.count('<tr id="g') == MAX_GROUPS
    assert "7 more groups not shown; `faillog-otel failures` lists them." in words(found)


def test_groups_that_the_report_left_out_and_messages_that_were_evicted_are_counted() -> None:
    report = failures(group(("a", None)), left_out=3, forgotten=1200)
    found = words(page(PageData(failures=report, version="1")))
    assert "3 more groups not shown" in found
    assert "1,200 messages forgotten, because more failed than are kept." in found


def test_files_that_could_not_be_read_are_named() -> None:
    found = words(page_of(covers="Read 7 records in 1 file.", problems=["b.gz: truncated <at> 3"]))
    assert "Read 7 records in 1 file." in found
    assert "Not read: b.gz: truncated <at> 3" in found


def test_groups_with_long_texts_are_left_out_of_a_page_that_would_be_too_long() -> None:
    long = [group((f"{each:0400}", None), reason='"' * 400, remedy="'" * 400) for each in range(MAX_GROUPS)]
    found = page_of(*long)
    assert len(found.encode()) <= MAX_BYTES
    rows = found.count('<tr id="g')
    assert 50 < rows < MAX_GROUPS
    assert f"{MAX_GROUPS - rows} more groups not shown" in words(found)


def test_the_page_names_no_place_of_the_machine() -> None:
    data = realistic()
    assert data.status is not None
    found = page(replace(data, status=replace(data.status, state_dir="/srv/secret", held_on="pod-7")))
    assert "/srv/secret" not in found
    assert "pod-7" not in found


def test_bars_count_every_failure_once_and_name_six_destinations() -> None:
    by_destination = [(f"d{each}", {"2026-11-01T10:00:00Z": each + 1}) for each in range(9)]
    bars = stacked_bars(by_destination, "2026-11-01T00:00:00Z", "2026-11-29T00:00:00Z")
    assert bars is not None
    assert [each.name for each in bars.series] == ["d8", "d7", "d6", "d5", "d4", "d3", "other destinations"]
    assert sum(each.total for each in bars.series) == bars.highest == sum(range(10))
    assert [(begin, sum(counts)) for begin, counts in bars.rows] == [("2026-11-01 00:00", 45)]


@pytest.mark.parametrize(
    ("hours", "each"), [(1, 1), (24, 1), (84, 1), (7 * 24, 2), (28 * 24, 12), (9000, 120)]
)
def test_a_chart_has_few_bars_of_whole_hours(hours: int, each: int) -> None:
    midnight = 20_000 * 24
    found = buckets(hour_text(midnight), hour_text(midnight + hours), 84)
    assert found.hours == each
    assert found.number <= 84


def test_a_sparkline_says_when_most_failed() -> None:
    within = buckets("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", 48)
    found = sparkline({"2026-11-01T03:00:00Z": 1, "2026-11-01T07:00:00Z": 1200}, within)
    assert found.label == "most from 2026-11-01 07:00: 1,200"
    assert found.path.endswith("V20z")


def test_incidents_are_listed_worst_first_with_their_rows() -> None:
    found = page(PageData(failures=incidents(), version="1"))
    rows = re.findall(r'<tr id="g([0-9a-f]{16})">', found)
    assert rows == [each.group for each in incidents().groups]
