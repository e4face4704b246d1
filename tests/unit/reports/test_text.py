"""What `doctor` prints for people; its exit code is tested with the program."""

import pytest

from faillog_otel.reports.doctor import Finding, Health
from faillog_otel.reports.text import doctor_text


def finding(state: Health) -> Finding:
    return Finding("collector", state, "logs", "" if state == "ok" else "start it")


@pytest.mark.parametrize(
    ("states", "last"),
    [
        (["ok", "ok"], "all checks passed"),
        (["ok", "warn"], "all checks passed, 1 warning"),
        (["fail", "ok"], "1 check failed"),
        (["fail", "warn", "warn", "fail"], "2 checks failed, 2 warnings"),
    ],
)
def test_the_last_line_of_doctor_counts_failed_checks_and_warnings(states: list[Health], last: str) -> None:
    assert list(doctor_text(map(finding, states)))[-1] == last


def test_doctor_says_what_to_do_below_each_finding_that_is_not_ok() -> None:
    lines = list(doctor_text([finding("ok"), finding("fail")]))
    assert [line.strip() for line in lines if "→" in line] == ["→ start it"]
