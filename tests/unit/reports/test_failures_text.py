"""The report of failures as text, as CSV, and as parts of other reports."""

import csv
import io
import re
from datetime import UTC
from itertools import starmap
from typing import Any
from zoneinfo import ZoneInfo

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.failure_sums import HOUR, NOW_NS, group, message, sums

from faillog_otel.clock import DAY_NS, SECOND_NS
from faillog_otel.config import LinksConfig
from faillog_otel.events.failure import FailureSums, GroupSums
from faillog_otel.reports.failures import (
    Failures,
    Names,
    View,
    Window,
    failures_report,
    messages_report,
)
from faillog_otel.reports.failures_text import (
    ASCII_BARS,
    BARS,
    GROUP_COLUMNS,
    MESSAGE_COLUMNS,
    Style,
    bars,
    csv_lines,
    failures_text,
    messages_text,
    summary_groups,
    summary_lines,
    worst_groups,
)
from faillog_otel.reports.replay import replay_notes, replay_request
from faillog_otel.reports.text import line

NAMES = Names(
    {"mixpanel": "Mixpanel (prod)", "sub": "Order Completed", "web": "Website"}, {"mixpanel": "web"}
)
LINKS = LinksConfig(trace="https://t.example/{trace_id}")
REASON = (
    "The key was revoked by the owner of the workspace; create another one, and store it in Segment. " * 2
)
DOWN = sums(
    group("aaaaaaaa1", subscription="sub"), lost=1204, recovered=120, sample=message("m1", "aaaaaaaa1")
)
KEY = sums(
    group(
        "bbbbbbbb1",
        destination="braze",
        code="INVALID_SETTINGS",
        status=401,
        reason=REASON.strip(),
        reason_class="settings",
        retryable=False,
    ),
    lost=3,
    pending=1,
    seen_ns=NOW_NS - 2 * DAY_NS,
    by_hour={HOUR - 100: 1, HOUR - 10: 3},
)
COVERS = "Read 3 of 4 collection-hours in this time; `status` shows which."


def report(
    *groups: GroupSums, limit: int | None = None, links: LinksConfig = LINKS, **window: Any
) -> Failures:
    times = {"since_ns": NOW_NS - 7 * DAY_NS, "until_ns": NOW_NS, "now_ns": NOW_NS, "new_within_ns": DAY_NS}
    view = View(names=NAMES, links=links)
    return failures_report(FailureSums([*groups]), view, Window(**times | window), limit)


def text(found: Failures, width: int | None = None, **style: Any) -> str:
    lines = failures_text(found, COVERS, Style(width=width, **{"zone": UTC} | style))
    return click.unstyle("\n".join(lines))


# -- the table ---------------------------------------------------------------------------------------------


def test_a_group_says_where_what_how_many_since_when_and_what_to_do() -> None:
    found = report(DOWN, KEY)
    shown = text(found)
    header, row = re.findall(r"^(?:GROUP|aaaaaaaa) .*", shown, re.MULTILINE)
    names = ["GROUP", "LOST", "PENDING", "RECOVERED", "ATTEMPTS", "REQUESTS"]
    assert dict(zip(names, row.split(), strict=False)) == {
        "GROUP": "aaaaaaaa",
        "LOST": "1204",
        "PENDING": "0",
        "RECOVERED": "120",
        "ATTEMPTS": "8",
        "REQUESTS": "8",
    }
    assert row[header.index("FIRST SEEN") :].startswith("05-07 04:17")
    assert row[header.index("LAST SEEN") :].startswith("05-07 10:17")
    assert "Mixpanel (prod), Order Completed: HTTP 503 (destination down)  new\n" in shown
    assert "braze: HTTP 401 INVALID_SETTINGS (settings)\n" in shown
    for each in found.groups:
        assert f"  → {each.remedy}\n" in shown
        assert f"  {each.reason}\n" in shown, "piped, no text is cut or wrapped"
    assert shown.startswith("Failures from 2025-04-30 14:17 to 2025-05-07 14:17 (UTC)\n")
    assert "1207 messages lost, 1 pending, 120 recovered; 16 failed attempts, 16 failing requests\n" in shown
    assert COVERS in shown


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_on_a_terminal_texts_are_wrapped_and_none_is_cut(width: int) -> None:
    found = report(DOWN, KEY, links=LinksConfig())
    shown = text(found, width)
    assert max(map(len, shown.splitlines())) <= width
    joined = re.sub(r"\s+", " ", shown)
    for each in found.groups:
        assert f"→ {each.remedy} " in joined
        assert f" {each.reason} " in joined
    assert "Mixpanel (prod), Order Completed: HTTP 503 (destination down) new" in joined


def test_a_terminal_too_narrow_for_the_table_gets_the_numbers_as_text() -> None:
    joined = re.sub(r"\s+", " ", text(report(DOWN), 60))
    assert "group aaaaaaaa, lost 1204, pending 0, recovered 120, attempts 8, requests 8, " in joined
    assert ", first seen 05-07 04:17, last seen 05-07 10:17 Mixpanel" in joined
    assert "GROUP" not in joined


@pytest.mark.parametrize("width", [80, 200, None])
def test_every_group_has_its_bars(width: int | None) -> None:
    shown = text(report(DOWN, KEY), width)
    assert sum(BARS[-1] in each for each in shown.splitlines()) == 2


def test_without_unicode_the_bars_are_ascii() -> None:
    shown = text(report(DOWN, KEY), is_ascii=True)
    assert not set(shown) & set(BARS)
    assert sum(each.endswith(ASCII_BARS[-1]) for each in shown.splitlines()) == 2


def test_times_are_local_and_the_zone_is_named_once() -> None:
    shown = text(report(DOWN), zone=ZoneInfo("Europe/Berlin"))
    assert "to 2025-05-07 16:17 (CEST)" in shown
    assert "05-07 06:17" in shown
    assert shown.count("CEST") == 1


def test_a_change_of_the_clocks_is_named() -> None:
    before_ns = 1_743_200_000 * SECOND_NS
    shown = text(report(DOWN, since_ns=before_ns), zone=ZoneInfo("Europe/Berlin"))
    assert "(CET, CEST)" in shown


def test_times_a_year_apart_have_the_year() -> None:
    assert "2024-05-07 14:17" in text(report(sums(group("a"), first_ns=NOW_NS - 365 * DAY_NS)))


def test_groups_that_are_left_out_and_evicted_messages_are_said() -> None:
    shown = text(report(DOWN, KEY, limit=1))
    assert "1 more group; --all shows all" in shown
    evicted = failures_report(FailureSums([DOWN], forgotten=7), View(), WINDOW)
    assert "7 messages forgotten, because more failed than are kept: the numbers have them" in text(evicted)


WINDOW = Window(since_ns=NOW_NS - DAY_NS, until_ns=NOW_NS, now_ns=NOW_NS, new_within_ns=DAY_NS)


def test_nothing_failed() -> None:
    assert text(report()) == f"No failures from 2025-04-30 14:17 to 2025-05-07 14:17 (UTC)\n{COVERS}"


def test_only_a_terminal_gets_hyperlinks() -> None:
    url = "https://t.example/2aa86c7fade72ba63b4651bd3c56bc39"
    assert f"  {url}\n" in text(report(DOWN))
    linked = text(report(DOWN), width=80, hyperlinks=True)
    assert f"\x1b]8;;{url}\x1b\\trace 2aa86c7fade72ba63b4651bd3c56bc39\x1b]8;;\x1b\\" in linked


HOSTILE = "\x1b]0;owned\x07\n\u202egnp.exe"


def test_control_characters_of_outside_texts_are_escaped() -> None:
    facts = {"destination": HOSTILE, "subscription": HOSTILE, "code": HOSTILE, "reason": HOSTILE}
    hostile = sums(group("a", **facts), sample=message(HOSTILE, "a"))
    found, mail = report(hostile), report(hostile, links=LinksConfig())
    lines = [
        *failures_text(found, COVERS, Style()),
        *messages_text(messages_report([message(HOSTILE, "a")], FailureSums([hostile]), View()), Style()),
        *summary_lines(found),
        *starmap(line, worst_groups(found.groups, found.left_out)),
        *replay_request(mail, Names(), HOSTILE),
        *replay_notes(mail),
    ]
    assert [each for each in lines if not click.unstyle(each).isprintable()] == []
    in_csv = "".join(csv_lines(found.groups, GROUP_COLUMNS)).splitlines()
    assert len(in_csv) == 2
    assert all(each.isprintable() for each in in_csv)


# -- bars --------------------------------------------------------------------------------------------------


@given(
    by_hour=st.dictionaries(st.integers(1000, 1700), st.integers(1, 10**6), max_size=50),
    columns=st.integers(1, 60),
    is_ascii=st.booleans(),
)
def test_bars_show_every_hour_with_a_failure_and_no_other(
    by_hour: dict[int, int], columns: int, *, is_ascii: bool
) -> None:
    hours = range(1000, 1701)
    drawn = bars(by_hour, hours, columns, is_ascii=is_ascii)
    signs = ASCII_BARS if is_ascii else BARS
    assert len(drawn) <= columns
    each = -(-len(hours) // columns)
    assert [number for number, sign in enumerate(drawn) if sign != " "] == sorted(
        {(hour - 1000) // each for hour in by_hour}
    )
    assert not by_hour or signs[-1] in drawn


def test_a_bar_is_as_high_as_its_share_of_the_worst() -> None:
    assert bars({0: 1, 1: 4, 2: 8, 4: 2}, range(5), 5) == "▁▄█ ▂"
    assert bars({0: 1, 1: 3, 2: 8}, range(3), 2) == "▄█"


# -- CSV ---------------------------------------------------------------------------------------------------


def rows(lines: str) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(lines, newline=""), strict=True)]


def test_csv_has_a_row_for_each_group() -> None:
    lines = "".join(csv_lines(report(DOWN, KEY).groups, GROUP_COLUMNS))
    assert lines.count("\r\n") == lines.count("\n") == 3
    first, second = rows(lines)
    assert (first["destination_name"], first["messages_lost"], first["retryable"]) == (
        "Mixpanel (prod)",
        "1204",
        "true",
    )
    assert (second["status"], second["class"], second["new"]) == ("401", "settings", "false")
    assert (second["destination_name"], second["sample_link"]) == ("", "")
    assert second["reason"] == REASON.strip()


def test_csv_of_messages() -> None:
    found = messages_report([message("m,1", "aaaaaaaa1")], FailureSums([DOWN]), View(names=NAMES))
    [row] = rows("".join(csv_lines(found, MESSAGE_COLUMNS)))
    assert (row["message_id"], row["destination_id"], row["state"]) == ("m,1", "mixpanel", "lost")
    assert rows("".join(csv_lines([], MESSAGE_COLUMNS))) == []


@given(st.text(max_size=20))
def test_no_cell_is_a_formula(reason: str) -> None:
    [row] = rows("".join(csv_lines(report(sums(group("a", reason=reason))).groups, GROUP_COLUMNS)))
    assert not row["reason"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert row["reason"].isprintable()
    if reason.isprintable() and not reason.startswith(("=", "+", "-", "@")):
        assert row["reason"] == reason


# -- messages ----------------------------------------------------------------------------------------------


def test_messages_are_listed_one_by_one() -> None:
    failed = [message(f"m{number}", "aaaaaaaa1", state="pending") for number in range(3)]
    found = messages_report(failed, FailureSums([DOWN]), View(names=NAMES, links=LINKS))
    header, *lines = [click.unstyle(each) for each in messages_text(found, Style())]
    assert header.split()[:2] == ["STATE", "ATTEMPTS"]
    for number, each in enumerate(lines):
        assert re.fullmatch(
            rf"pending +8  2025-05-07T08:17:00Z  HTTP 503 +Mixpanel \(prod\)  m{number}  https://t\.example/\w{{32}}",
            each,
        )


def test_without_a_message_the_list_says_so() -> None:
    assert [*messages_text([], Style())] == ["No message failed in this time"]


# -- parts of other reports --------------------------------------------------------------------------------


def test_the_summary_of_a_run_names_the_worst_groups_with_remedy_and_a_trace() -> None:
    others = [sums(group(f"{number}", destination=f"d{number}"), lost=0, pending=1) for number in range(1, 4)]
    found = report(DOWN, KEY, *others)
    lines = summary_lines(found)
    assert lines[0] == (
        "Mixpanel (prod), Order Completed: HTTP 503 (destination down): 1204 lost, 120 recovered;"
        " Service Unavailable"
    )
    assert lines[1] == f"  → {found.groups[0].remedy}"
    assert lines[2].startswith("braze: HTTP 401 INVALID_SETTINGS (settings): 3 lost, 1 pending; The key")
    assert lines[-2:] == [
        "2 more failure groups; `faillog-otel failures` shows them",
        f"a lost message: {found.groups[0].sample.link}",
    ]
    assert len(lines) == 8
    assert "2 more failure groups; `faillog-otel failures PATH...` shows them" in summary_lines(
        found, is_of_paths=True
    )
    assert summary_lines(report()) == []


def test_the_summary_as_json_has_the_worst_groups() -> None:
    assert [each["group"] for each in summary_groups(report(DOWN, KEY), limit=1)] == ["aaaaaaaa10000000"]


def test_a_failing_request_without_a_message_is_no_lost_message() -> None:
    [first, *_] = summary_lines(report(sums(group("a"), lost=0, requests=2)))
    assert first.endswith(": 2 failing requests, no message known; Service Unavailable")


def test_status_shows_the_worst_groups() -> None:
    found = report(DOWN, KEY, limit=1)
    first, more = [f"{label} {text}" for label, text, _ in worst_groups(found.groups[:3], 1)]
    assert first.startswith("failures 24 h Mixpanel (prod), Order Completed: HTTP 503")
    assert more.strip() == "1 more group; `failures` shows them with remedies"
    assert [*worst_groups([], 0)] == []


# -- replay ------------------------------------------------------------------------------------------------


def test_the_mail_names_workspace_source_destination_and_times() -> None:
    filtered = group("cc", destination="d", code="FILTERED", status=None, reason_class="filtered")
    later = sums(group("dd", code="429", status=429, reason=None), last_ns=NOW_NS, lost=6)
    found = report(DOWN, KEY, later, sums(filtered), sums(group("ee", destination="e"), lost=0, pending=1))
    mail = "\n".join(replay_request(found, NAMES, "shop"))
    assert "Workspace: shop\n" in mail
    first, second = mail.split("\n\n")[2:]
    assert first == (
        "1. Destination: Mixpanel (prod), id mixpanel\n"
        "   Source: Website, id web\n"
        "   Time range (UTC): 2025-05-07T04:17:00Z to 2025-05-07T14:17:00Z\n"
        "   Events lost: 1210\n"
        "   Cause: HTTP 503, HTTP 429"
    )
    assert second.startswith("2. Destination: id braze\n   Source: (write its name)\n")
    notes = "\n".join(replay_notes(found))
    assert "also those that were delivered" in notes
    assert "Repair first: braze: HTTP 401 INVALID_SETTINGS (settings) → " in notes
    assert "Repair first: Mixpanel" not in notes


def test_the_mail_has_a_gap_for_what_is_unknown() -> None:
    assert "(write the name or slug of your workspace)" in "\n".join(
        replay_request(report(DOWN), Names(), None)
    )


def test_without_a_lost_message_there_is_no_mail() -> None:
    found = report(sums(group("a"), lost=0, pending=1))
    assert [*replay_notes(found)] == []
    assert [*replay_request(found, NAMES, "shop")] == [
        "No message was lost in this time: there is nothing to replay."
    ]
