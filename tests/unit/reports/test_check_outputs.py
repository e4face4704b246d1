"""What `check` writes for CI is valid and bounded, and shows any text as it is."""

import html
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from faillog_otel.reports import check_outputs as outputs
from faillog_otel.reports.check import Report
from faillog_otel.reports.check_evidence import Check, Verdict

JUNIT = xmlschema.XMLSchema10(Path(__file__).with_name("junit.xsd"))
VERDICTS: tuple[Verdict, ...] = ("failed", "unknown", "passed")


def report(*checks: Check, verdict: Verdict = "failed") -> Report:
    return Report(
        verdict=verdict,
        final_at="2025-05-07T20:00:00Z" if verdict == "unknown" else None,
        since="2025-05-07T13:00:00Z",
        until="2025-05-07T13:10:00Z",
        checks=[*checks],
        groups=[],
    )


def check(name: str = "Mixpanel: 401", verdict: Verdict = "failed", **more: str | None) -> Check:
    given = {"says": "3 events discarded", "do": "correct the key", "source": "counts", **more}
    return Check(name=name, verdict=verdict, **given)  # type: ignore[arg-type]


TEXTS = st.one_of(
    st.text(max_size=60), st.sampled_from(["a\nb", "50%,a:b", "x\x00\x1b[0m", "|`<b>&", "\ud800"])
)
CHECKS = st.builds(
    lambda name, says, do, destination, verdict: check(
        name, verdict, says=says, do=do, destination=destination, link="https://example.com/t"
    ),
    TEXTS,
    TEXTS,
    TEXTS,
    st.one_of(st.none(), TEXTS),
    st.sampled_from(VERDICTS),
)
REPORTS = st.builds(
    lambda checks, verdict: report(*checks, verdict=verdict),
    st.lists(CHECKS, max_size=15),
    st.sampled_from(VERDICTS),
)


@given(REPORTS, st.booleans())
def test_junit_is_valid_and_counts_its_cases(found: Report, of_messages: bool) -> None:
    text = outputs.junit(found, of_messages=of_messages).decode()
    JUNIT.validate(text)
    root = ET.fromstring(text)  # noqa: S314  # our own
    suite = root[0]
    assert int(suite.get("tests", "")) == len(suite)
    assert int(suite.get("failures", "")) == len(root.findall(".//failure"))
    assert int(suite.get("skipped", "")) == len(root.findall(".//skipped"))
    if not of_messages:
        assert len(suite) == len(found.checks)


def test_junit_of_messages_has_them_and_what_else_failed() -> None:
    some = [check("m-1", "passed", source=None), check("logs", "passed"), check("received", "failed")]
    root = ET.fromstring(outputs.junit(report(*some), of_messages=True))  # noqa: S314  # our own
    assert [each.get("name") for each in root.iter("testcase")] == ["m-1", "received"]


def test_annotations_are_escaped_as_githubs_toolkit_does() -> None:
    [line] = outputs.github(report(check("a:b, 50%", says="50% of a:b", do="c")))
    assert line == "::error title=a%3Ab%2C 50%25::50%25 of a:b%0AWhat to do: c"


@given(REPORTS)
def test_annotations_are_bounded_lines_without_other_commands(found: Report) -> None:
    lines = [*outputs.github(found)]
    assert len(lines) <= outputs.MAX_ANNOTATIONS
    for line in lines:
        assert re.fullmatch(r"::(error|warning) title=[^:,\r\n]*::[^\r\n]*", line)
        assert not re.search("%(?!25|0D|0A|3A|2C)", line)
    if found.verdict == "passed" and all(each.verdict != "failed" for each in found.checks):
        assert not lines


def test_the_worst_annotations_come_first_and_the_last_one_counts_the_others() -> None:
    lines = [*outputs.github(report(*[check(f"check {number}") for number in range(12)]))]
    assert len(lines) == outputs.MAX_ANNOTATIONS
    assert lines[0].startswith("::error title=check 0::")
    assert lines[-1].endswith("::3 more checks failed")


def test_what_is_not_known_yet_is_a_warning() -> None:
    [line] = outputs.github(report(check(verdict="unknown"), verdict="unknown"))
    assert line.startswith("::warning ")


def test_gitlabs_annotations_are_links() -> None:
    linked = check(link="https://example.com/trace/1")
    found = json.loads(outputs.gitlab(report(linked, check(), check(link="javascript:alert(1)"))))
    link = {"label": "failed: Mixpanel: 401", "url": "https://example.com/trace/1"}
    assert found == {outputs.SUITE: [{"external_link": link}]}


@given(REPORTS)
def test_markdown_has_one_row_for_each_check(found: Report) -> None:
    rows = [line for line in outputs.markdown(found).splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(found.checks)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)


def test_markdown_shows_text_and_not_markup() -> None:
    text = outputs.markdown(report(check("<img src=x onerror=1> [a](b) `c` *d*")))
    assert "<img" not in text
    assert html.unescape(text).replace("\\", "").count("<img src=x onerror=1> [a](b) `c` *d*") == 1


def test_markdown_is_cut_and_says_how_many_checks_are_left_out() -> None:
    many = [check(f"check {number}", says="ä" * 900) for number in range(2000)]
    text = outputs.markdown(report(*many))
    assert len(text.encode()) <= outputs.MAX_MARKDOWN_BYTES
    left_out = int(re.findall(r"(\d+) more checks left out", text)[0])
    assert text.count("check ") >= len(many) - left_out


@pytest.mark.parametrize(
    ("final_at", "says"),
    [
        (
            "2025-05-07T20:00:00Z",
            "The verdict can be final at 2025-05-07T20:00:00Z. Ask again then: --since ",
        ),
        (None, "When the verdict can be final is not known. Ask again: --since "),
    ],
)
def test_the_text_says_when_to_ask_again(final_at: str | None, says: str) -> None:
    found = report(check(verdict="unknown"), verdict="unknown")
    lines = [*outputs.check_text(replace(found, final_at=final_at))]
    assert lines[-1] == f"{says}2025-05-07T13:00:00Z --until 2025-05-07T13:10:00Z"
